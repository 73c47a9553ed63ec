"""Whether a teacher's classes stand in another order than the labels': found by what it says about labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError

if TYPE_CHECKING:
    import numpy as np

_LEAST_ROWS = 30
_LEAST_AGREEMENT = 0.6  # of the re-ordering, before we say so
_MOST_KEPT = 0.5  # of the re-ordering's agreement, as given
_SHOWN, _NAMED = 3, 60


def class_order_doubt(
    said: np.ndarray[Any, Any] | Sequence[int], labels: np.ndarray[Any, Any] | Sequence[int], classes: Sequence[str]
) -> dict[str, Any] | None:
    """What speaks for another order of a ready teacher's classes; None where nothing does.

    `said` and `labels` are class numbers (rows,); rows with a negative label have none. The re-ordering that agrees
    best (the assignment problem, Kuhn 1955) is found on every second row and judged on the others, both ways round:
    with many classes and few rows some re-ordering fits whatever a bad teacher says. There is doubt where it reaches
    60%, more than the most frequent label alone would, and the order as given less than half of that.

    Gives `rows`, `accuracy` (as given), `reordered` (the accuracy reached), `order` (the names of the teacher's
    outputs, in order) and `swapped` (number of an output, its name, what it means; those first that are said most).
    """
    import numpy as np

    known = np.asarray(labels) >= 0
    ours, theirs = np.asarray(labels)[known], np.asarray(said)[known]
    if len(ours) < _LEAST_ROWS:
        return None
    accuracy = float((ours == theirs).mean())
    halves = [np.arange(len(ours)) % 2 == part for part in (0, 1)]
    hits = sum(
        int((_best_order(theirs[~half], ours[~half], len(classes))[theirs[half]] == ours[half]).sum())
        for half in halves
    )
    reordered, most_frequent = hits / len(ours), float(np.bincount(ours).max() / len(ours))
    if reordered < _LEAST_AGREEMENT or reordered <= most_frequent or accuracy >= _MOST_KEPT * reordered:
        return None
    order = _best_order(theirs, ours, len(classes))
    frequent = np.argsort(-np.bincount(theirs, minlength=len(classes)), kind="stable")
    return {
        "rows": len(ours),
        "accuracy": accuracy,
        "reordered": reordered,
        "order": [classes[number] for number in order],
        "swapped": [(int(n), classes[n], classes[order[n]]) for n in frequent if order[n] != n][:_SHOWN],
    }


def class_order_error(teacher: str, doubt: dict[str, Any]) -> TeacherError:
    """The doubt as an error that a user can act on; `teacher` is its name or folder."""
    swapped = "; ".join(
        f"output {number} is named {given!r} and means {meant!r}" for number, given, meant in doubt["swapped"]
    )
    order = doubt["order"]
    listed = ", ".join(map(repr, order[:_NAMED])) + (f" and {len(order) - _NAMED} more" if len(order) > _NAMED else "")
    return TeacherError(
        f"the classes of the teacher {teacher} stand in another order than the labels': on {doubt['rows']} labelled "
        f"rows it is right {doubt['accuracy']:.1%} of the time, re-ordered {doubt['reordered']:.1%} ({swapped})",
        fix=f"if the labels are class numbers, give names instead; else set id2label and label2id in the teacher's "
        f"config.json to this order: {listed}",
    )


def _best_order(said: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    """For each class number that is said the label that it means, so that most rows agree: (classes,)."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (said, labels), 1)
    # where the rows leave it open, a class stays in its place: a row always weighs more than all of these together
    order: np.ndarray[Any, Any] = linear_sum_assignment(counts * (classes + 1) + np.eye(classes), maximize=True)[1]
    return order
