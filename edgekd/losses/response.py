"""Response distillation: the student learns the teacher's softened distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._divergence import binary_divergence, divergence
from edgekd.losses._parts import teacher_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Response:
    """KL divergence to the teacher's logits at a temperature. Hinton et al. 2015, arXiv 1503.02531.

    Of several labels a row each is a decision of its own: the divergences of their sigmoids, summed over labels (Yang
    et al. 2023, arXiv 2308.06453, whose sigmoids are not softened). Of numbers it is the squared difference.
    """

    temperature: float = 2.0

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"temperature": (0.05, 100.0)}
    kind: ClassVar[str] = "response"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return a scalar, of logits (scored, classes) of both; the teacher's may be its largest ones alone."""
        if targets.numeric:
            said = teacher_of(targets).logits.to(student.logits)
            return (student.logits - said).square().mean()
        kl = (binary_divergence if targets.independent else divergence)(
            student.logits, teacher_of(targets), self.temperature
        )
        return kl * self.temperature**2  # keeps the gradient's size as temperature grows
