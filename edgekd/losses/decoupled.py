"""Decoupled response distillation: how sure the teacher is, and how it ranks the other classes, weighed apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import NO_LABEL, Outputs, Targets
from edgekd.losses._parts import teacher_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Decoupled:
    """KL divergence in two parts. Zhao et al. 2022, arXiv 2203.08679.

    `alpha` weighs the target class against all others together, `beta` the others among themselves: in `response`
    the latter weigh one less the teacher's probability of the target, nothing where it is sure. The paper takes a
    `beta` of up to 8, after a warm-up. The target is the label or, where that is unknown, the teacher's first choice.
    """

    temperature: float = 2.0
    alpha: float = 1.0
    beta: float = 1.0

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"temperature": (0.05, 100.0)}
    kind: ClassVar[str] = "response"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Logits (batch, classes) of both and labels (batch,) to a scalar."""
        from torch.nn.functional import kl_div

        said = teacher_of(targets).logits.to(student.logits)
        target = targets.labels.where(targets.labels != NO_LABEL, said.argmax(dim=-1))
        parts = zip(self._parts(student.logits, target), self._parts(said, target), strict=True)
        sure, others = (kl_div(own, theirs, reduction="batchmean", log_target=True) for own, theirs in parts)
        return (self.alpha * sure + self.beta * others) * self.temperature**2

    def _parts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities: of the target and of all the rest (batch, 2); of each other class (batch, classes - 1)."""
        import torch

        logits = logits / self.temperature
        rest = torch.ones_like(logits, dtype=torch.bool).scatter(1, target[:, None], False)
        others = logits[rest].view(len(logits), -1)
        sides = torch.stack([logits.gather(1, target[:, None])[:, 0], others.logsumexp(dim=-1)], dim=-1)
        return sides.log_softmax(dim=-1), others.log_softmax(dim=-1)
