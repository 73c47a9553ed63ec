"""Skewed KL: forward KL to a mixture of both, so that no difference weighs without bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import teacher_of
from edgekd.losses._tail import buckets, divergence

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SkewedKl:
    """KL(teacher || skew x teacher + (1 - skew) x student), in buckets. DistiLLM, Ko et al. 2024, 2402.03898."""

    skew: float = 0.1

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"skew": (0.001, 0.99)}
    kind: ClassVar[str] = "response"
    one_of_classes: ClassVar[bool] = True

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return a scalar, of logits (scored, classes); the teacher's may be its largest ones alone."""
        import torch

        own, said = buckets(student.logits, teacher_of(targets))
        return divergence(said, torch.logaddexp(said + math.log(self.skew), own + math.log1p(-self.skew)))
