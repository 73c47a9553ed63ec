"""Whether a teacher's classes stand in another order than the labels': found by what it says about labelled rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError, counted
from edgekd.core.protocols import NamedTask
from edgekd.core.recall import constant_f1
from edgekd.core.thresholds import decided_f1

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


def label_order_doubt(
    decided: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], classes: Sequence[str]
) -> dict[str, Any] | None:
    """The same of several labels a row: both 0 or 1 (rows, labels); rows with a negative value have no labels.

    `accuracy` and `reordered` are micro F1 then, and the most frequent answer is the labels that most rows have.
    """
    import numpy as np

    known = (truth >= 0).all(axis=1)
    ours, theirs = truth[known], np.asarray(decided)[known].astype(bool)
    if len(ours) < _LEAST_ROWS:
        return None
    moved = np.zeros_like(theirs)
    for half in (np.arange(len(ours)) % 2 == part for part in (0, 1)):
        order = _best_label_order(theirs[~half], ours[~half])
        moved[np.ix_(half, order)] = theirs[half]
    accuracy, reordered = decided_f1(theirs, ours), decided_f1(moved, ours)
    constant = constant_f1(ours.sum(axis=0), len(ours))[0]
    if reordered < _LEAST_AGREEMENT or reordered <= constant or accuracy >= _MOST_KEPT * reordered:
        return None
    order = _best_label_order(theirs, ours)
    frequent = np.argsort(-theirs.sum(axis=0), kind="stable")
    return {
        "several": True,
        "rows": len(ours),
        "accuracy": accuracy,
        "reordered": reordered,
        "order": [classes[number] for number in order],
        "swapped": [(int(n), classes[n], classes[order[n]]) for n in frequent if order[n] != n][:_SHOWN],
    }


def check_finds(teacher: str, task: Any, outputs: Any) -> None:
    """Raise TeacherError where a teacher finds nothing in any row: what is kept of it is unknown.

    `outputs` are as the task's metrics take them: of several labels logits (rows, labels), of tags predictions.
    """
    if not isinstance(task, NamedTask):
        check_decides(teacher, outputs)
    elif task.label_names() and not task.finds(outputs):
        raise TeacherError(
            f"the teacher {teacher} finds no span in any of {len(outputs)} selection rows: how far a smaller model "
            "finds the same cannot be told",
            fix="give rows that have what it finds; a teacher that is trained here needs more labelled rows",
        )


def check_numbers(teacher: str, said: Sequence[Mapping[str, Any]]) -> None:
    """Raise TeacherError where a teacher gives NaN for a row: nothing can be held against that."""
    import numpy as np

    bad = [row for row in said if any(values.dtype.kind == "f" and np.isnan(values).any() for values in row.values())]
    if bad:
        raise TeacherError(
            f"the teacher {teacher} gives NaN for {len(bad)} of {counted(len(said), 'selection row')}",
            fix="leave out rows that it does not answer with numbers; where it answers none, give an undamaged model",
        )


def check_varies(teacher: str, outputs: np.ndarray[Any, Any]) -> None:
    """Raise TeacherError where a teacher of numbers says the same of all rows, (rows, targets)."""
    if len(outputs) and (outputs.max(axis=0) <= outputs.min(axis=0)).any():
        raise TeacherError(
            f"the teacher {teacher} gives one and the same number for all {len(outputs)} selection rows: how far a "
            "smaller model gives the same cannot be told",
            fix="give rows that it tells apart; a teacher that is trained here needs more labelled rows",
        )


def check_decides(teacher: str, logits: np.ndarray[Any, Any]) -> None:
    """Raise TeacherError where a teacher of several labels decides none in any row: what is kept of it is unknown."""
    if not (logits > 0).any():
        raise TeacherError(
            f"the teacher {teacher} decides no label, at a probability of one half, in any of {len(logits)} selection "
            "rows: how far a smaller model decides alike cannot be told",
            fix="give rows that have its labels; a teacher that is trained here needs more labelled rows",
        )


def order_doubt(
    logits: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], classes: Sequence[str]
) -> dict[str, Any] | None:
    """What speaks for another order, of a teacher's logits (rows, classes): of classes, or of several labels a row."""
    if truth.ndim == 2:
        return label_order_doubt(logits > 0, truth, classes)
    return class_order_doubt(logits.argmax(axis=1), truth, classes)


def class_order_error(teacher: str, doubt: dict[str, Any]) -> TeacherError:
    """The doubt as an error that a user can act on; `teacher` is its name or folder."""
    swapped = "; ".join(
        f"output {number} is named {given!r} and means {meant!r}" for number, given, meant in doubt["swapped"]
    )
    order = doubt["order"]
    right = (
        f"its micro F1 is {doubt['accuracy']:.1%}"
        if "several" in doubt
        else (f"it is right {doubt['accuracy']:.1%} of the time")
    )
    listed = ", ".join(map(repr, order[:_NAMED])) + (f" and {len(order) - _NAMED} more" if len(order) > _NAMED else "")
    return TeacherError(
        f"the classes of the teacher {teacher} stand in another order than the labels': on {doubt['rows']} labelled "
        f"rows {right}, re-ordered {doubt['reordered']:.1%} ({swapped})",
        fix=f"if the labels are class numbers, give names instead; else set id2label and label2id in the teacher's "
        f"config.json to this order: {listed}",
    )


def _best_label_order(decided: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each output the label that it means, so that the F1 of all together is largest: (labels,)."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    both = decided.astype(float).T @ (truth == 1)
    sizes = decided.sum(axis=0)[:, None] + (truth == 1).sum(axis=0)[None]
    f1 = 2 * both / np.maximum(sizes, 1)
    # where the rows leave it open, a label stays in its place
    order: np.ndarray[Any, Any] = linear_sum_assignment(f1 + 1e-6 * np.eye(len(f1)), maximize=True)[1]
    return order


def _best_order(said: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    """For each class number that is said the label that it means, so that most rows agree: (classes,)."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (said, labels), 1)
    # where the rows leave it open, a class stays in its place: a row always weighs more than all of these together
    order: np.ndarray[Any, Any] = linear_sum_assignment(counts * (classes + 1) + np.eye(classes), maximize=True)[1]
    return order
