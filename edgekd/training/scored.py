"""What a model says of rows as metrics and losses take it: of each row, or, of texts with tags, of each word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.predictions import WORDS, by_word, main_output, metric_input, unstacked
from edgekd.core.protocols import LabelledTask, PositionTask
from edgekd.core.tensors import NO_LABEL
from edgekd.data.splits import Example
from edgekd.training import engine

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from edgekd.core.predictions import Predictions
    from edgekd.core.protocols import Sample
    from edgekd.training.teacher_outputs import TeacherOutputs

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Scored:
    """A model's predictions of rows for a task, one array a row: (classes,), or (words, classes)."""

    task: Any
    rows: Predictions

    @property
    def metric_input(self) -> Any:
        """What the task's `statistics` and `agrees` take."""
        return metric_input(self.task, self.rows)

    def logits(self, truth: Any) -> tuple[Tensor, Tensor]:
        """Return logits (scored, classes) and `truth`, as the task has it, of the same rows or words."""
        import torch

        name = main_output(self.task.keep)
        if not isinstance(self.task, PositionTask):
            return torch.from_numpy(self.metric_input), torch.from_numpy(truth)
        both = by_word(self.rows, truth, name)
        known = (both[1] != NO_LABEL) if both[1].ndim == 1 else slice(None)
        own, wanted = (torch.from_numpy(values[known]) for values in both)
        return own, wanted

    def beside(self, reference: Scored) -> tuple[Tensor, Tensor]:
        """Return logits (scored, classes) of both models, of the same rows or words."""
        name = main_output(self.task.keep)
        given = [row[name] for row in reference.rows]
        by_position = isinstance(self.task, PositionTask)
        return self.logits(given if by_position else reference.metric_input)


def said(model: Any, samples: Sequence[Sample], task: Any) -> Scored:
    """Return what a torch model in evaluation mode says of these samples."""
    name = main_output(task.keep)
    if not isinstance(task, PositionTask):
        return Scored(task, unstacked(name, engine.logits(model, samples).numpy()))
    return Scored(task, unstacked(name, map(_at_words, engine.by_position(model, samples), samples)))


def of_teacher(outputs: TeacherOutputs, samples: Sequence[Sample], task: Any) -> Scored:
    """Return what the teacher said of the rows of one role; `samples` are its own of them."""
    name = main_output(task.keep)
    if not isinstance(task, PositionTask):
        return Scored(task, unstacked(name, outputs.logits().numpy()))
    return Scored(task, unstacked(name, map(_at_words, outputs.by_position(), samples)))


def label_rows(
    task: Any, rows: Sequence[Example], classes: Sequence[str], samples: Sequence[Sample]
) -> Callable[[Sequence[int]], Tensor]:
    """Return what gives a batch's labels by the numbers of its rows: what they are trained towards.

    That is (batch,) of a classifier; (batch, labels) of several labels a row; of texts with tags (batch, positions),
    as long as the batch's longest sample. NO_LABEL where unknown.
    """
    import torch

    assert isinstance(task, LabelledTask), "a task with students has labels"
    truth = task.truth(rows, classes)
    if not isinstance(task, PositionTask):
        whole = torch.from_numpy(truth)
        return lambda numbers: whole[list(numbers)]
    each = [torch.from_numpy(row) for row in task.targets(truth, samples)]

    def padded(numbers: Sequence[int]) -> Tensor:
        own = [each[number] for number in numbers]
        return torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=NO_LABEL)

    return padded


def _at_words(values: Array, sample: Sample) -> Array:
    """What a model says at each word: (positions, classes) to (words, classes)."""
    from edgekd.onboard.programs import first_positions

    found: Array = values[first_positions(sample[WORDS][0])]
    return found
