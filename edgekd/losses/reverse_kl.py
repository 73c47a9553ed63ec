"""Reverse KL: the student holds likely only what the teacher does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import teacher_of
from edgekd.losses._tail import buckets, divergence

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ReverseKl:
    """KL(student || teacher) of the teacher's largest classes and one bucket of all others.

    A student too small for all that its teacher holds likely keeps the likeliest. MiniLLM, Gu et al. 2023,
    arXiv 2306.08543, here on the corpus's own texts.
    """

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    kind: ClassVar[str] = "response"
    one_of_classes: ClassVar[bool] = True

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return a scalar, of logits (scored, classes); the teacher's may be its largest ones alone."""
        own, said = buckets(student.logits, teacher_of(targets))
        return divergence(own, said)
