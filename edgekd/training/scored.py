"""What a model says of rows as metrics and losses take it: of each row, or, of texts with tags, of each word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.predictions import WORDS, by_word, main_output, metric_input, unstacked
from edgekd.core.protocols import REGRESSION, LabelledTask, PositionTask
from edgekd.core.tensors import NO_LABEL
from edgekd.data.splits import Example
from edgekd.training import engine, models

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


@dataclass(frozen=True)
class Scale:
    """How numbers are scaled while a model learns them: to mean 0 and spread 1; nothing is where outputs are logits."""

    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @classmethod
    def of(cls, task: Any, values: Any) -> Scale:
        """Return the scale of targets, (rows, targets), NaN where unknown; of another task's labels none."""
        import numpy as np

        if task.problem_type != REGRESSION:
            return cls()
        known = values[~np.isnan(values).any(axis=1)].astype(float)
        spread = known.std(axis=0)
        return cls(tuple(known.mean(axis=0)), tuple(np.where(spread > 0, spread, 1.0)))

    def scaled(self, values: Tensor) -> Tensor:
        """Return labels, or a teacher's outputs, as the model learns them."""
        if not self.mean:
            return values
        return (values - values.new_tensor(self.mean)) / values.new_tensor(self.spread)

    def unscaled(self, own: Scored) -> Scored:
        """Return what a model that is learning says, in the targets' own unit."""
        if not self.mean:
            return own
        import numpy as np

        name = main_output(own.task.keep)
        mean, spread = np.array(self.mean, np.float32), np.array(self.spread, np.float32)
        return Scored(own.task, [{name: row[name] * spread + mean} for row in own.rows])

    def fold(self, model: Any, *, undo: bool = False) -> None:
        """Make a model's outputs numbers in their own unit; or `undo` that, before it learns on."""
        if self.mean:
            models.fold_scaling(model, self.mean, self.spread, undo=undo)
            model.config.problem_type = REGRESSION  # clients then take neither a softmax nor a sigmoid


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

    if not isinstance(task, LabelledTask):
        return lambda numbers: torch.full((len(numbers),), NO_LABEL)
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
