"""What is trained as one module: the student, the losses' own weights, and the heads of its early exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from edgekd.core.registry import make
from edgekd.core.tensors import Outputs, RequestedOutputs, Targets, TopLogits
from edgekd.plan.plan import LossTerm
from edgekd.training.feature_extractor import FeatureExtractor


class Learner(torch.nn.Module):
    """`learner(batch, rows)` is the weighted sum of the losses of a batch; `targets(rows)` is what they compare to."""

    def __init__(
        self,
        model: Any,
        terms: Sequence[LossTerm],
        targets: Callable[[list[int]], Targets],
        wanted: RequestedOutputs = RequestedOutputs(),  # noqa: B008 (frozen)
        exits: Mapping[int, torch.nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.targets = model, targets
        self.exits = torch.nn.ModuleDict({str(layer): head for layer, head in (exits or {}).items()})
        self.taps = FeatureExtractor(model, wanted, {int(layer): head for layer, head in self.exits.items()})
        self.weights = [term.weight for term in terms]
        self.losses = [make("losses", term.name, **term.options) for term in terms]
        self.learned = torch.nn.ModuleDict()

    def begin(self, batch: dict[str, Tensor], rows: list[int]) -> None:
        """Make the losses' own weights, sized by a first batch: before training, so that they are trained too."""
        with torch.no_grad():
            outputs, targets = self._both(batch, rows)
        for number, loss in enumerate(self.losses):
            if hasattr(loss, "learned"):
                self.learned[str(number)] = loss.learned(outputs, targets)

    def forward(self, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
        """The objective, a scalar."""
        outputs, targets = self._both(batch, rows)
        total = torch.zeros((), device=outputs.logits.device)
        for number, (loss, weight) in enumerate(zip(self.losses, self.weights, strict=True)):
            own = str(number) in self.learned
            total = total + weight * (self.learned[str(number)] if own else loss)(outputs, targets)
        return total

    def _both(self, batch: dict[str, Tensor], rows: list[int]) -> tuple[Outputs, Targets]:
        outputs, targets = self.taps(batch), self.targets(rows)
        device = outputs.logits.device
        teacher = None if targets.teacher is None else aligned(_moved(targets.teacher, device), outputs.mask)
        return scored(outputs, Targets(teacher, targets.labels.to(device)))


def scored(outputs: Outputs, targets: Targets) -> tuple[Outputs, Targets]:
    """Return both with logits and labels of what is scored, end to end: (scored, classes) and (scored,).

    A classifier's are that already. Of a model that says something at each position, (batch, positions, classes), those
    positions count that are padding for neither the student nor its teacher; `labels` are (batch, positions) then.
    """
    if outputs.logits.dim() == 2:
        return outputs, targets
    counts = outputs.logits.new_ones(outputs.logits.shape[:2]).bool() if outputs.mask is None else outputs.mask
    teacher = targets.teacher
    if teacher is not None:
        counts = counts if teacher.mask is None else counts & teacher.mask
        top = teacher.top
        if top is not None:
            top = TopLogits(top.values[counts], top.classes[counts], top.rest[counts], top.count)
        teacher = replace(teacher, logits=teacher.logits if top is not None else teacher.logits[counts], top=top)
    student = replace(outputs, logits=outputs.logits[counts], exits=tuple(early[counts] for early in outputs.exits))
    return student, Targets(teacher, targets.labels[counts])


def aligned(teacher: Outputs, mask: Tensor | None) -> Outputs:
    """Return the teacher's outputs at the positions of the student's, whose `mask` is (batch, positions).

    A trimmed vocabulary may cut a text into other tokens: rows whose numbers of tokens differ are masked out.
    """
    if mask is None or teacher.mask is None:
        return teacher
    alike = teacher.mask.sum(dim=1) == mask.sum(dim=1)
    room = max(0, mask.shape[1] - teacher.mask.shape[1])

    def fitted(values: Tensor) -> Tensor:
        trailing = (0, 0) * (values.dim() - 2)
        return torch.nn.functional.pad(values, (*trailing, 0, room))[:, : mask.shape[1]]

    top = teacher.top
    if top is not None and top.values.dim() == 3:
        top = TopLogits(fitted(top.values), fitted(top.classes), fitted(top.rest), top.count)
    return replace(
        teacher,
        logits=fitted(teacher.logits) if teacher.logits.dim() == 3 else teacher.logits,
        features=tuple(map(fitted, teacher.features)),
        attention=tuple(map(fitted, teacher.attention)),
        mask=mask & alike[:, None],
        top=top,
    )


def _moved(outputs: Outputs, device: torch.device) -> Outputs:
    """Return the same on another device."""

    def move(value: Any) -> Any:
        if isinstance(value, TopLogits):
            return TopLogits(value.values.to(device), value.classes.to(device), value.rest.to(device), value.count)
        return tuple(map(move, value)) if isinstance(value, tuple) else None if value is None else value.to(device)

    return Outputs(**{one.name: move(getattr(outputs, one.name)) for one in fields(outputs)})
