"""Predictions: what a model says of each input, as named arrays of their own shapes, and what metrics take of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import CompletedTask, RaggedTask

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Task

    Array = np.ndarray[Any, Any]
    Prediction = Mapping[str, Array]  # one input's outputs, without a batch axis
    Predictions = Sequence[Prediction]

WORDS = "words"  # of a sample: the word that each position is of; for the output rule of that name, no graph takes it


def main_output(keep: Mapping[str, str]) -> str:
    """Return the name of the output that stands for all where one is asked for: the first.

    >>> main_output({"logits": "as_is", "hidden": "mean"})
    'logits'
    """
    return next(iter(keep))


def network_outputs(task: Task | type[Task]) -> Mapping[str, str]:
    """Return the output rule of the exported network alone: what torch and the ecosystem's loaders give of a model."""
    return task.network if isinstance(task, CompletedTask) else task.keep


def stacked(predictions: Predictions, name: str) -> Array:
    """Return one output of all rows, which has the same shape in each: (rows, ...). Raises EdgeKDError where not.

    >>> import numpy as np
    >>> stacked([{"logits": np.zeros(3)}, {"logits": np.ones(3)}], "logits").shape
    (2, 3)
    """
    import numpy as np

    shapes = {row[name].shape for row in predictions}
    if len(shapes) > 1:
        told = " and ".join(map(str, sorted(shapes)[:2]))
        raise EdgeKDError(
            f"the output {name} has other shapes from input to input, such as {told}",
            fix="a task of ragged outputs says `ragged = True` and takes them as they are",
        )
    return np.stack([row[name] for row in predictions])


def unstacked(name: str, values: Iterable[Array]) -> list[Prediction]:
    """Return one output's rows as predictions."""
    return [{name: row} for row in values]


def is_ragged(task: Task) -> bool:
    """Return whether the task's metrics take predictions as they are."""
    return isinstance(task, RaggedTask) and task.ragged


def metric_input(task: Task, predictions: Predictions) -> Any:
    """Return what the task's `agrees` and `statistics` take: its main output, (rows, ...), or all as they are."""
    if is_ragged(task):
        return predictions
    return stacked(predictions, main_output(task.keep))


def by_word(predictions: Predictions, truth: Sequence[Array], name: str) -> tuple[Array, Array]:
    """Return one output of all words end to end, (words, classes), and what they are held against, (words,).

    `truth` has each row's words; those that the model did not see, in a text that was cut, are in neither.
    """
    import numpy as np

    pairs = list(zip((row[name] for row in predictions), truth, strict=True))
    return np.concatenate([own[: len(wanted)] for own, wanted in pairs]), np.concatenate(
        [wanted[: len(own)] for own, wanted in pairs]
    )


def agreement(task: Task, predictions: Predictions, reference: Predictions) -> Any:
    """Return per row how far two models' outputs say the same, from 0 to 1: (rows,)."""
    return task.agrees(metric_input(task, predictions), metric_input(task, reference))


def statistics(task: Any, predictions: Predictions, truth: Any) -> Any:
    """Return what the task's metric reduces: (rows,) or (rows, k)."""
    return task.statistics(metric_input(task, predictions), truth)


def largest_difference(first: Predictions, second: Predictions) -> float:
    """Return the largest difference of two models' values over all rows.

    It is infinite where names or shapes differ, or a value is no number.
    """
    return max((_apart(own, other) for own, other in zip(first, second, strict=True)), default=0.0)


def _apart(own: Prediction, other: Prediction) -> float:
    if own.keys() != other.keys():
        return float("inf")
    return max((array_difference(values, other[name]) for name, values in own.items()), default=0.0)


def array_difference(own: Array, other: Array) -> float:
    """Return the largest difference of two arrays' values; infinite where shapes differ, or a value is no number.

    Whole numbers are names, as token ids are: of them it is the share that differs.

    >>> import numpy as np
    >>> array_difference(np.array([1.0, 2.0]), np.array([1.0, 2.5])), array_difference(np.zeros(2), np.zeros(3))
    (0.5, inf)
    >>> array_difference(np.array([7, 8, 9, 10]), np.array([7, 8, 9, 4000]))
    0.25
    """
    import numpy as np

    if own.shape != other.shape:
        return float("inf")
    if not own.size:
        return 0.0
    if own.dtype.kind in "biu" and other.dtype.kind in "biu":
        return float((own != other).mean())
    if own.dtype.kind in "biu" or other.dtype.kind in "biu":
        own, other = own.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(own - other).max())
    return float("inf") if np.isnan(largest) else largest


def largest_value(predictions: Predictions) -> float:
    """Return the largest absolute value of all outputs."""
    import numpy as np

    every = (values for row in predictions for values in row.values() if values.size)
    return max((float(np.abs(values).max()) for values in every), default=0.0)


def by_model(rows: Predictions, models: Iterable[str]) -> dict[str, list[Prediction]]:
    """Return the rows that an `answers` job of the runner packed, under MODEL/OUTPUT, as each model's predictions."""
    found: dict[str, list[Prediction]] = {}
    for model in models:
        names = [name for name in rows[0] if name.startswith(f"{model}/")]
        found[model] = [{name.removeprefix(f"{model}/"): row[name] for name in names} for row in rows]
    return found
