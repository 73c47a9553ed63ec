"""Intervals beside claims: of shares, means, differences and ratios, paired where two models saw the same rows.

Every accuracy, agreement, `retained` and speed that is printed takes its interval here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
RULE_OF_THREE = 3.0  # over n: the 95% bound on the rate of what n rows did not show (Hanley, Lippman-Hand 1983)


def hits(outputs: np.ndarray[Any, Any], labels: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Per row 1.0 where the largest logit is the label, else 0.0: (rows, classes) to (rows,)."""
    import numpy as np

    found: np.ndarray[Any, Any] = (outputs.argmax(axis=1) == np.asarray(labels)).astype(float)
    return found


def same_class(outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Per row 1.0 where the largest logit is the reference's, else 0.0: (rows, classes) twice to (rows,)."""
    return hits(outputs, reference.argmax(axis=1))


def decision_counts(outputs: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Per row the labels rightly decided, wrongly decided, and missed: (rows, labels) twice to (rows, 3).

    A label is decided where its logit is above 0; `truth` is 0 or 1. What F1 is made of.

    >>> import numpy as np
    >>> decision_counts(np.array([[2.0, 1.0, -1.0]]), np.array([[1, 0, 1]]))
    array([[1., 1., 1.]])
    """
    import numpy as np

    decided, there = np.asarray(outputs) > 0, np.asarray(truth) == 1
    counts = [decided & there, decided & ~there, ~decided & there]
    return np.stack([one.sum(axis=1) for one in counts], axis=1).astype(float)


def next_token_statistics(predictions: Sequence[Mapping[str, Any]], truth: np.ndarray[Any, Any]) -> Any:
    """Return per text the bits of its tokens, its bytes, the tokens foreseen, all tokens, its document: (rows, 5).

    A prediction holds of each token but the first `nll`, the negative logarithm of its probability; `top`, the most
    likely token in its place; and `next`, the token that came. `truth` is bytes and document's number, (rows, 2).

    >>> import numpy as np
    >>> said = {"nll": np.log([2.0, 8.0]), "top": np.array([5, 6]), "next": np.array([5, 7])}
    >>> next_token_statistics([said], np.array([[6, 0]])).tolist()
    [[4.0, 6.0, 1.0, 2.0, 0.0]]
    """
    import numpy as np

    rows = [
        (
            float(np.asarray(one["nll"], dtype=np.float64).sum()) / np.log(2),
            bytes_of_text,
            float((np.asarray(one["top"]) == np.asarray(one["next"])).sum()),
            len(one["next"]),
            document,
        )
        for one, (bytes_of_text, document) in zip(predictions, truth, strict=True)
    ]
    return np.array(rows, dtype=float).reshape(len(rows), 5)


def next_token_agreement(
    predictions: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> np.ndarray[Any, Any]:
    """Return per text the tokens for which two models say the same, and all of them: (rows, 2).

    Of models that cut a text into other tokens no token is the same.
    """
    import numpy as np

    def same(own: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, int]:
        alike = np.array_equal(own["next"], other["next"])
        return float((own["top"] == other["top"]).sum()) if alike else 0.0, len(other["next"])

    return np.array([same(*both) for both in zip(predictions, reference, strict=True)], dtype=float).reshape(-1, 2)


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
    """95% interval of the mean of scores from 0 to 1, (n,).

    Of hits (0 or 1) Wilson's of 1927, which holds for few rows and for shares near 0 or 1; of other scores the
    bootstrap's, and where all rows have the same score the rule of three's.

    >>> import numpy as np
    >>> tuple(round(end, 3) for end in share_interval(np.ones(12)))
    (0.758, 1.0)
    """
    import numpy as np

    hits = np.asarray(hits, dtype=float)
    if not np.isin(hits, (0, 1)).all():
        if np.ptp(hits) > 0:
            return interval(hits)
        unseen = RULE_OF_THREE / len(hits)
        return max(0.0, float(hits[0]) - unseen), min(1.0, float(hits[0]) + unseen)
    n, share, z = len(hits), float(np.mean(hits)), 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


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
    """Mean of `second - first` and its paired 95% interval; both scores from 0 to 1 per row (n,)."""
    import numpy as np

    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low, high = change_interval(difference, seed=seed)
    return float(difference.mean()), low, high


def change_interval(changes: np.ndarray[Any, Any], *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean of paired differences (n,): bootstrap over the rows, honest where few rows differ.

    Differences of hits are resampled with two rows more, one that only the first gets right and one that only the
    second does (Bonett and Price 2012): rows that all agree show that others are rare, not that there are none. Where
    other scores do not differ at all, the interval is the rule of three's.

    >>> import numpy as np
    >>> tuple(round(end, 3) for end in change_interval(np.zeros(100)))
    (-0.03, 0.03)
    """
    import numpy as np

    changes = np.asarray(changes, dtype=float)
    if not changes.any():
        unseen = min(1.0, RULE_OF_THREE / len(changes))
        return -unseen, unseen
    if not (changes == changes.round()).all():
        return interval(changes, seed=seed)
    mean = float(changes.mean())
    low, high = interval(np.append(changes, [-1.0, 1.0]), seed=seed)
    return min(low, mean), max(high, mean)


class Retained(NamedTuple):
    """What a model keeps of another's metric: the ratio of both means, and its 95% interval."""

    value: float
    low: float
    high: float


def retained(scores: np.ndarray[Any, Any], teacher: np.ndarray[Any, Any], *, seed: int = 0) -> Retained:
    """How much of the teacher's metric a model keeps: paired bootstrap over rows of two scores from 0 to 1, (n,).

    A teacher that scores 0 leaves nothing to keep: all three are 0. Never narrower than the paired difference's
    interval over the teacher's metric, which holds where few or no rows differ.
    """
    import numpy as np

    scores, teacher = np.asarray(scores, dtype=float), np.asarray(teacher, dtype=float)
    whole = float(teacher.mean())
    if whole == 0:
        return Retained(0.0, 0.0, 0.0)
    value = float(scores.mean()) / whole
    picks = np.random.default_rng(seed).integers(0, len(scores), (RESAMPLES, len(scores)))
    means = teacher[picks].mean(axis=1)
    ratios = scores[picks].mean(axis=1)[means > 0] / means[means > 0]
    low, high = np.percentile(ratios, (2.5, 97.5))
    least, most = change_interval(scores - teacher, seed=seed)
    return Retained(
        value,
        float(max(0.0, min(low, value, (whole + least) / whole))),
        float(max(high, value, min(1.0, whole + most) / whole)),
    )


def process_ratio(ratios: Sequence[float]) -> tuple[float, float, float]:
    """A ratio of medians and its 95% interval over fresh processes, from one ratio a process (at least 2).

    Rows of one process share its memory layout, which moves a model's speed by percents; so processes count, not
    rows: Student's t on the logarithms.

    >>> tuple(round(value, 3) for value in process_ratio([2.0, 2.0, 2.0]))
    (2.0, 2.0, 2.0)
    """
    import numpy as np
    from scipy.stats import t

    logs = np.log(np.asarray(ratios, dtype=float))
    middle = float(logs.mean())
    half = float(t.ppf(0.975, len(logs) - 1)) * float(logs.std(ddof=1)) / len(logs) ** 0.5
    return float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half))


def seeded_difference(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean of `second - first` and its 95% interval, over seeds and samples: both (seeds, samples), paired in both.

    Seeds and samples are two crossed random effects: the variance of the mean is at most the sum of what each gives
    alone; the t distribution has Welch and Satterthwaite's degrees of freedom. With one seed the samples speak alone.

    >>> import numpy as np
    >>> tuple(round(value, 3) for value in seeded_difference(np.zeros((3, 50)), np.zeros((3, 50))))
    (0.0, -0.06, 0.06)
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
    if variances == 0:  # nothing differs from row to row: what other rows would show is not known to be nothing
        return mean, *change_interval(difference.mean(axis=0))
    half = float(t.ppf(0.975, variances**2 / freedom)) * variances**0.5
    return mean, mean - half, mean + half
