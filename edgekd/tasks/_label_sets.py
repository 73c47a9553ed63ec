"""What tasks share whose rows have several labels: each label is there or not by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.statistics import decision_counts
from edgekd.core.tensors import NO_LABEL
from edgekd.core.thresholds import FEWEST_POSITIVES, best_thresholds
from edgekd.data.splits import Example

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_FOLDS = 2


def truth(rows: Sequence[Example], classes: Sequence[str]) -> Array:
    """Return 0 or 1 for each label of each row, (rows, classes), NO_LABEL in a row whose labels are unknown.

    Raises KeyError for a name of no class.
    """
    import numpy as np

    numbers = {name: number for number, name in enumerate(classes)}
    made = np.zeros((len(rows), len(classes)), dtype=np.int64)
    for place, row in enumerate(rows):
        if row.label is None:
            made[place] = NO_LABEL
        made[place, [numbers[name] for name in row.names]] = 1
    return made


def agrees(outputs: Array, reference: Array) -> Array:
    """Per row the decisions that are the reference's too, others, and those it has alone: (rows, labels) to (rows, 3).

    A label is decided where its logit is above 0. Rows where both decide nothing say nothing for or against.
    """
    import numpy as np

    return decision_counts(outputs, np.asarray(reference) > 0)


def baseline(
    train: Sequence[Example], test: Sequence[Example], encode: Callable[[Sequence[Any], Sequence[Any]], Any]
) -> Array:
    """Return the same counts, of a logistic regression for each label, decided at thresholds of most micro F1.

    `encode` gives features of training and test inputs. Thresholds are chosen on training rows that each model did not
    see, by the rule that the student's are. A label that all training rows have, or none, is decided as they have it.
    """
    import numpy as np

    classes = sorted({name for row in (*train, *test) for name in row.names})
    known, wanted = truth(train, classes), truth(test, classes)
    features, others = encode([row.input for row in train], [row.input for row in test])
    held_out, scores = np.zeros(known.shape), np.zeros(wanted.shape)
    for label in range(len(classes)):
        held_out[:, label], scores[:, label] = _logits(features, known[:, label], others)
    positives = known.sum(axis=0)
    able = np.minimum(positives, len(known) - positives) >= FEWEST_POSITIVES
    return decision_counts(scores - best_thresholds(held_out, known, able), wanted)


def _logits(features: Any, known: Array, others: Any) -> tuple[Array, Array]:
    """One label's logits of training rows, each by a model that did not see it, and of the test rows."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    positives = int(known.sum())
    if positives in (0, len(known)):
        always = np.float64(1.0 if positives else -1.0)
        return np.full(len(known), always), np.full(others.shape[0], always)
    rows, columns = features.shape  # of texts there are far more columns: the dual problem is then the smaller one
    model = LogisticRegression(C=10.0, solver="liblinear", dual=columns > rows, max_iter=1000, random_state=0)
    if min(positives, len(known) - positives) < FEWEST_POSITIVES:
        held_out = np.zeros(len(known))  # it keeps one half
    else:
        held_out = cross_val_predict(model, features, known, cv=_FOLDS, method="decision_function")
    return held_out, model.fit(features, known).decision_function(others)
