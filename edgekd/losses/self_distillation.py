"""Self-distillation: the last layer teaches the early exits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses.hard_labels import HardLabels
from edgekd.losses.response import Response

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SelfDistillation:
    """Each exit learns what the whole student says, and the labels where they are known. It asks nothing of a teacher.

    Be Your Own Teacher, Zhang et al. 2019, arXiv 1905.08094. The last layer learns nothing from its exits: give it a
    loss of its own.
    """

    temperature: float = 2.0
    final_weight: float = 0.9
    label_weight: float = 0.1

    needs: ClassVar[tuple[str, ...]] = ("exits",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"temperature": (0.05, 100.0)}
    kind: ClassVar[str] = "self"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return the mean over exits, of logits (scored, classes): the last layer's and each exit's."""
        import torch

        assert student.exits, "the engine gives a student exits where a loss needs them"
        final = Targets(Outputs(student.logits.detach()), targets.labels)
        soft, hard = Response(self.temperature), HardLabels()
        values = [
            self.final_weight * soft(early, final) + self.label_weight * hard(early, final)
            for early in map(Outputs, student.exits)
        ]
        return torch.stack(values).mean()
