"""What several losses are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.core.tensors import Outputs, Targets

if TYPE_CHECKING:
    from torch import Tensor


def teacher_of(targets: Targets) -> Outputs:
    """The teacher's outputs, which are there: a plan whose loss needs what the teacher cannot give is refused."""
    assert targets.teacher is not None, "the plan refuses a loss that needs what the teacher cannot give"
    return targets.teacher


def matched(own: tuple[Tensor, ...], said: tuple[Tensor, ...], *, of: str) -> list[tuple[Tensor, Tensor]]:
    """Pairs of student and teacher, the teacher's (float16 from the cache) in the student's type; positions agree."""
    pairs = [(mine, theirs.to(mine)) for mine, theirs in zip(own, said, strict=True)]
    assert pairs, f"the engine asks models for the {of} that a loss needs"
    for mine, theirs in pairs:
        assert mine.shape[:-1] == theirs.shape[:-1], f"{of} of {tuple(mine.shape)} and {tuple(theirs.shape)}"
    return pairs


def real_positions(student: Outputs, teacher: Outputs, like: Tensor) -> Tensor:
    """Where neither of them is padding: (batch, positions), True or False, for values (batch, positions, width)."""
    real = like.new_ones(like.shape[:2]).bool()
    for mask in (student.mask, teacher.mask):
        if mask is not None:
            real = real & mask.to(real)
    return real


def mean(values: Tensor) -> Tensor:
    """The mean; zero where there is nothing, as in a batch whose rows are all masked out."""
    return values.sum() / max(1, values.numel())


def unit_vectors(values: Tensor, *, shortest: float | Tensor = 1e-12) -> Tensor:
    """Vectors (..., width) divided by their lengths; zero, and of no gradient, where they are no longer than that."""
    import torch

    lengths = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    # a vector that is almost zero has no direction, and would get a gradient of one over its length
    units: Tensor = values / lengths.clamp(min=shortest) * (lengths > shortest)
    return units


def embeddings(student: Outputs, targets: Targets) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's, (batch, width) each."""
    own, said = student.embedding, teacher_of(targets).embedding
    assert own is not None, "the engine asks the student for what a loss needs"
    assert said is not None, "the teacher's outputs are kept with what a loss needs"
    return own, said.to(own)
