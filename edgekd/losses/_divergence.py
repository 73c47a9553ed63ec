"""Divergence from a teacher's distribution, of all classes or of its largest ones and the mass of the rest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekd.core.tensors import Outputs, TopLogits

if TYPE_CHECKING:
    from torch import Tensor


def divergence(student: Tensor, teacher: Outputs, temperature: float) -> Tensor:
    """Return KL(teacher || student) at a temperature, the mean over what is scored.

    `student` is logits (scored, classes). Of a teacher with `top` nothing is spread over its classes: the others share
    the mass of the rest evenly, as if it were.
    """
    from torch.nn.functional import kl_div, log_softmax

    own = log_softmax(student / temperature, dim=-1)
    if teacher.top is not None:
        return _sparse(own, teacher.top, temperature).sum() / max(1, len(student))
    said = log_softmax(teacher.logits.to(student) / temperature, dim=-1)
    return kl_div(own, said, reduction="batchmean", log_target=True)


def binary_divergence(student: Tensor, teacher: Outputs, temperature: float) -> Tensor:
    """Return the sum over labels of KL(teacher || student) of each label's probability, the mean over what is scored.

    Both logits are (scored, labels); a sigmoid of each, softened by the temperature, is the probability that it is
    there. The sum is the divergence of all labels together, which are independent.
    """
    from torch.nn.functional import logsigmoid

    own, said = student / temperature, teacher.logits.to(student) / temperature
    there = said.sigmoid() * (logsigmoid(said) - logsigmoid(own))
    absent = (-said).sigmoid() * (logsigmoid(-said) - logsigmoid(-own))
    return (there + absent).sum() / max(1, len(student))


def _sparse(own: Tensor, top: TopLogits, temperature: float) -> Tensor:
    """Return the divergence of each row, of log probabilities (scored, classes): (scored,)."""
    import torch

    values, rest = top.values.to(own) / temperature, top.rest.to(own) / temperature
    others = top.count - values.shape[-1]
    whole = torch.logaddexp(values.logsumexp(dim=-1), rest + math.log(others))
    largest, each = values - whole[:, None], rest - whole  # log probabilities
    picked = own.gather(-1, top.classes)
    kept = (largest.exp() * (largest - picked)).sum(dim=-1)
    return kept + each.exp() * (others * each - (own.sum(dim=-1) - picked.sum(dim=-1)))
