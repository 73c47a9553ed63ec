"""Intervals beside claims: bootstrap over samples, paired where two models saw the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


def hits(outputs: np.ndarray[Any, Any], labels: Sequence[int]) -> np.ndarray[Any, Any]:
    """Per row 1.0 where the largest logit is the label, else 0.0: (rows, classes) to (rows,)."""
    import numpy as np

    found: np.ndarray[Any, Any] = (outputs.argmax(axis=1) == np.asarray(labels)).astype(float)
    return found


def same_class(outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Per row 1.0 where the largest logit is the reference's, else 0.0: (rows, classes) twice to (rows,)."""
    return hits(outputs, reference.argmax(axis=1))


def cosines(outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Per row the cosine of two vectors, 0 where it is less or one has no length: (rows, width) twice to (rows,).

    >>> import numpy as np
    >>> cosines(np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[6.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]))
    array([1., 0., 0.])
    """
    import numpy as np

    first, second = np.asarray(outputs, dtype=float), np.asarray(reference, dtype=float)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    found: np.ndarray[Any, Any] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return found.clip(0.0, 1.0)


def interval(
    values: Sequence[float] | np.ndarray[Any, Any], statistic: Callable[..., Any] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval of a statistic (the mean unless named) over independent samples (n,).

    `statistic` takes (resamples, n) and `axis=1`. Efron and Tibshirani 1993.
    """
    import numpy as np

    values = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    estimates = (statistic or np.mean)(values[picks], axis=1)
    low, high = np.percentile(estimates, (2.5, 97.5))
    return float(low), float(high)


def share_interval(hits: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95% interval of the mean of 0/1 values (n,) by Wilson 1927, which holds for few rows too; of others bootstrap.

    >>> import numpy as np
    >>> tuple(round(end, 3) for end in share_interval(np.ones(12)))
    (0.758, 1.0)
    """
    import numpy as np

    if not np.isin(hits, (0, 1)).all():
        return interval(hits)
    n, share, z = len(hits), float(np.mean(hits)), 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5
    return middle - half, min(1.0, middle + half)


def paired_ratio(
    numerator: np.ndarray[Any, Any], denominator: np.ndarray[Any, Any], *, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of medians and its 95% bootstrap interval; both (n,), sample by sample of the same inputs."""
    import numpy as np

    picks = np.random.default_rng(seed).integers(0, len(numerator), (RESAMPLES, len(numerator)))
    ratios = np.median(numerator[picks], axis=1) / np.median(denominator[picks], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(np.median(numerator) / np.median(denominator)), float(low), float(high)


def paired_difference(
    first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `second - first` and its paired 95% bootstrap interval; both 0/1 per sample (n,)."""
    import numpy as np

    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low, high = interval(difference, seed=seed)
    return float(difference.mean()), low, high


def seeded_difference(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean of `second - first` and its 95% interval, over seeds and samples: both (seeds, samples), paired in both.

    Seeds and samples are two crossed random effects: the variance of the mean is at most the sum of what each gives
    alone; the t distribution has Welch and Satterthwaite's degrees of freedom. With one seed the samples speak alone.

    >>> import numpy as np
    >>> seeded_difference(np.zeros((3, 50)), np.ones((3, 50)))
    (1.0, 1.0, 1.0)
    """
    from scipy.stats import t

    difference = second - first
    mean = float(difference.mean())
    variances, freedom = 0.0, 0.0
    for axis in (0, 1):
        means = difference.mean(axis=1 - axis)  # one a seed, or one a sample
        if len(means) > 1:
            own = float(means.var(ddof=1)) / len(means)
            variances, freedom = variances + own, freedom + own**2 / (len(means) - 1)
    if variances == 0:
        return mean, mean, mean
    half = float(t.ppf(0.975, variances**2 / freedom)) * variances**0.5
    return mean, mean - half, mean + half
