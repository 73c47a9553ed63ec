"""What tasks share whose rows have one or several numbers: errors, spreads, and the linear model to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.data.splits import Example

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def truth(rows: Sequence[Example], count: int) -> Array:
    """Return the targets of rows, float32 (rows, targets), NaN where unknown; `count` where no row has any."""
    import numpy as np

    width = next((len(row.label) for row in rows if row.label is not None), count or 1)
    return np.array([row.label if row.label is not None else [np.nan] * width for row in rows], dtype=np.float32)


def errors(outputs: Array, wanted: Array) -> Array:
    """Return per row the absolute error and that of answering the mean, over each target's mean spread: (rows, 2).

    Both are means over targets, so that targets of other units weigh the same. The ratio of their sums is the mean
    absolute error as a share of the mean's.
    """
    import numpy as np

    outputs, wanted = np.asarray(outputs, dtype=float), np.asarray(wanted, dtype=float)
    away = np.abs(wanted - wanted.mean(axis=0))
    spread = _positive(away.mean(axis=0))
    found: Array = np.stack([(np.abs(outputs - wanted) / spread).mean(axis=1), (away / spread).mean(axis=1)], axis=1)
    return found


def differences(outputs: Array, reference: Array) -> Array:
    """Return per row the squared difference and the squared distance from the mean, over each one's variance."""
    import numpy as np

    outputs, reference = np.asarray(outputs, dtype=float), np.asarray(reference, dtype=float)
    away = (reference - reference.mean(axis=0)) ** 2
    variance = _positive(away.mean(axis=0))
    both = [((outputs - reference) ** 2 / variance).mean(axis=1), (away / variance).mean(axis=1)]
    return np.stack(both, axis=1)


def explained(rows: Array) -> Array:
    """Reduce (..., rows, 2) to R2, the share of the second column's sum that the first does not take; at least 0."""
    import numpy as np

    apart, whole = np.moveaxis(rows.sum(axis=-2), -1, 0)
    share: Array = np.where(whole > 0, 1 - apart / np.maximum(whole, 1e-300), apart <= 0).clip(0.0, 1.0)
    return share


def figures(outputs: Array, wanted: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return of each target its name, `mae` in its unit, `r2`, and `spearman`; None where all outputs are equal."""
    import numpy as np
    from scipy.stats import rankdata

    found = []
    for name, own, right in zip(names, np.asarray(outputs, float).T, np.asarray(wanted, float).T, strict=True):
        variance = float(((right - right.mean()) ** 2).mean())
        ranks = rankdata(own), rankdata(right)
        tells = np.ptp(ranks[0]) > 0 and np.ptp(ranks[1]) > 0
        found.append(
            {
                "name": name,
                "mae": float(np.abs(own - right).mean()),
                "r2": 1 - float(((own - right) ** 2).mean()) / variance if variance else None,
                "spearman": float(np.corrcoef(*ranks)[0, 1]) if tells else None,
            }
        )
    return found


def baseline(train: Sequence[Example], test: Sequence[Example], vectorizer: Callable[[Sequence[str]], Any]) -> Array:
    """Return `errors` of a ridge regression on TF-IDF, its strength chosen on the training rows: (rows, 2)."""
    import numpy as np
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_predict

    texts = [row.input for row in train]
    encode = vectorizer(texts)
    features, wanted = encode.fit_transform(texts), truth(train, 1)
    folds = min(3, len(texts))

    def error(alpha: float) -> float:
        held_out = cross_val_predict(Ridge(alpha=alpha), features, wanted, cv=folds)
        return float(np.abs(held_out.reshape(wanted.shape) - wanted).mean())

    best = min(_STRENGTHS, key=error)
    said = Ridge(alpha=best).fit(features, wanted).predict(encode.transform([row.input for row in test]))
    return errors(np.asarray(said).reshape(len(test), -1), truth(test, 1))


_STRENGTHS = (0.1, 1.0, 10.0)


def _positive(values: Array) -> Array:
    import numpy as np

    found: Array = np.where(values > 0, values, 1.0)
    return found
