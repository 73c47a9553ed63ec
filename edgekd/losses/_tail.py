"""Two distributions in buckets: each of a teacher's largest classes, and all others together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekd.core.tensors import Outputs

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = -30.0  # the logarithm of a mass that counts as none: its own logarithm would be infinite
_ALL = -1e-6  # of the largest classes' mass, at most: float32 then still knows that there are others


def buckets(student: Tensor, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Return log probabilities of student and teacher: (scored, k + 1), or (scored, classes) of a dense teacher.

    The student's logits are (scored, classes). Of a teacher with `top` the last bucket is the mass of all other
    classes: which of them has it is unknown, so nothing is said of that (as plain top-k would, arXiv 2503.16870).
    """
    import torch

    own = student
    if teacher.top is None:
        return own.log_softmax(dim=-1), teacher.logits.to(own).log_softmax(dim=-1).clamp(min=_LEAST)
    values, rest = teacher.top.values.to(own), teacher.top.rest.to(own)
    tail = rest + math.log(max(1, teacher.top.count - values.shape[-1]))
    said = torch.cat([values, tail[:, None]], dim=-1).log_softmax(dim=-1).clamp(min=_LEAST)
    picked = own.gather(-1, teacher.top.classes) - own.logsumexp(dim=-1, keepdim=True)
    inside = picked.logsumexp(dim=-1, keepdim=True).clamp(max=_ALL)
    return torch.cat([picked, torch.log(-torch.expm1(inside))], dim=-1).clamp(min=_LEAST), said


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) of log probabilities (scored, buckets), the mean over what is scored."""
    return (first.exp() * (first - second)).sum() / max(1, len(first))
