"""Attention relations: tokens relate in the student's attention as they do in the teacher's, whatever the widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.errors import UsageError
from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import matched, mean, real_positions, teacher_of

if TYPE_CHECKING:
    from torch import Tensor

_MOST_HEADS = 12


@dataclass(frozen=True)
class AttentionRelations:
    """KL divergence of how queries relate to queries, keys to keys and values to values, in one layer.

    MiniLM, Wang et al. 2020, arXiv 2002.10957; all three, split into relation heads of their own, as in MiniLMv2, Wang
    et al. 2021, arXiv 2012.15828. `heads` must divide both widths, else UsageError; None: the most up to 12 that do.
    """

    heads: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("attention",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"heads": (1, 1024)}
    kind: ClassVar[str] = "feature"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Queries, keys, values (batch, positions, width) of both to a scalar: the mean over the three and tokens."""
        import torch
        from torch.nn.functional import kl_div

        teacher = teacher_of(targets)
        values = []
        for own, said in matched(student.attention, teacher.attention, of="queries, keys and values"):
            heads = self._heads(own.shape[-1], said.shape[-1])
            real = real_positions(student, teacher, own)
            mine, theirs = (_relations(vectors, heads, real) for vectors in (own, said))
            kl = kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=-1)
            values.append(mean(kl.transpose(1, 2)[real]))
        return torch.stack(values).mean()

    def _heads(self, *widths: int) -> int:
        candidates = range(_MOST_HEADS, 0, -1) if self.heads is None else (self.heads,)
        for heads in candidates:
            if heads > 0 and not any(width % heads for width in widths):
                return heads
        raise UsageError(
            f"{self.heads} relation heads do not divide the widths of student and teacher, {widths[0]} and {widths[1]}",
            fix="leave the option heads out: then as many as fit are taken, up to 12",
        )


def _relations(vectors: Tensor, heads: int, real: Tensor) -> Tensor:
    """(batch, positions, width) to log probabilities over real tokens: (batch, heads, positions, positions)."""
    import torch

    split = vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    # the least number, not infinity: a divergence would have infinity less infinity there
    return scores.masked_fill(~real[:, None, None], torch.finfo(scores.dtype).min).log_softmax(dim=-1)
