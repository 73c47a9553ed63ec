"""Attention transfer: the student looks where its teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import matched, mean, real_positions, teacher_of, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AttentionTransfer:
    """Squared distance of maps of activation: 0 where they agree in all but scale, at most 2.

    A map has the mean square over the width at each position. Zagoruyko & Komodakis 2017, arXiv 1612.03928.
    """

    needs: ClassVar[tuple[str, ...]] = ("features",)
    kind: ClassVar[str] = "feature"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Features (batch, positions, width) of both, of any widths, to a scalar: the mean over rows and layers."""
        import torch

        teacher = teacher_of(targets)
        values = []
        for own, said in matched(student.features, teacher.features, of="features"):
            real = real_positions(student, teacher, own)
            mine, theirs = (
                unit_vectors(features.square().mean(dim=-1).masked_fill(~real, 0)) for features in (own, said)
            )
            values.append(mean((mine - theirs).square().sum(dim=-1)[real.any(dim=-1)]))
        return torch.stack(values).mean()
