"""Decoupled response distillation: how sure the teacher is, and how it ranks the other classes, weighed apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import NO_LABEL, Outputs, Targets, TopLogits
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
    one_of_classes: ClassVar[bool] = True  # it weighs a target against all others: of several labels there is none

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return a scalar, of logits (scored, classes) of both and labels (scored,)."""
        from torch.nn.functional import kl_div

        teacher = teacher_of(targets)
        if teacher.top is not None:
            sure, others = self._sparse(student.logits, teacher.top, targets.labels)
        else:
            said = teacher.logits.to(student.logits)
            target = targets.labels.where(targets.labels != NO_LABEL, said.argmax(dim=-1))
            parts = zip(self._parts(student.logits, target), self._parts(said, target), strict=True)
            sure, others = (kl_div(own, theirs, reduction="batchmean", log_target=True) for own, theirs in parts)
        return (self.alpha * sure + self.beta * others) * self.temperature**2

    def _parts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities: of target and all the rest (scored, 2); of each other class (scored, classes - 1)."""
        import torch

        logits = logits / self.temperature
        rest = torch.ones_like(logits, dtype=torch.bool).scatter(1, target[:, None], False)
        others = logits[rest].view(len(logits), -1)
        sides = torch.stack([logits.gather(1, target[:, None])[:, 0], others.logsumexp(dim=-1)], dim=-1)
        return sides.log_softmax(dim=-1), others.log_softmax(dim=-1)

    def _sparse(self, logits: Tensor, top: TopLogits, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both divergences, means over what is scored, where of the teacher the largest logits alone are known."""
        import torch
        from torch.nn.functional import kl_div

        target = labels.where(labels != NO_LABEL, top.argmax())[:, None]
        own = logits / self.temperature
        values, rest = top.values.to(own) / self.temperature, top.rest.to(own) / self.temperature
        is_target = top.classes == target
        known = is_target.any(dim=-1)
        count = top.count - values.shape[-1] - (~known).to(own)  # of the classes that share the rest, but the target
        of_target = torch.where(known, values.masked_fill(~is_target, 0).sum(dim=-1), rest)
        values = values.masked_fill(is_target, -torch.inf)
        of_others = torch.logaddexp(values.logsumexp(dim=-1), rest + count.log())
        own_target = own.gather(-1, target)[:, 0]
        own_others = own.scatter(-1, target, -torch.inf).logsumexp(dim=-1)
        mine, theirs = (
            torch.stack(sides, dim=-1).log_softmax(dim=-1)
            for sides in ((own_target, own_others), (of_target, of_others))
        )
        sure = kl_div(mine, theirs, reduction="batchmean", log_target=True)
        # among the others: the largest one by one, then those that share the rest
        largest = (values - of_others[:, None]).masked_fill(is_target, 0)
        picked = own.gather(-1, top.classes).masked_fill(is_target, 0)
        kept = (largest.exp() * (largest - picked + own_others[:, None])).masked_fill(is_target, 0).sum(dim=-1)
        each = rest - of_others
        left = own.sum(dim=-1) - own_target - picked.sum(dim=-1) - count * own_others
        others = kept + each.exp() * (count * each - left)
        return sure, others.sum() / max(1, len(own))
