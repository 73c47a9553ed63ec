"""Similarity-preserving distillation: rows that are alike to the teacher are alike to the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import embeddings, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Similarity:
    """Squared distance of each row's products with all rows of the batch, scaled to length 1: 0 to 4.

    Tung & Mori 2019, arXiv 1907.09682, times the batch's size: the mean over rows, not over pairs.
    """

    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    kind: ClassVar[str] = "relation"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Embeddings (batch, width) of both, of any widths, to a scalar; zero for a batch of one row."""
        own, said = (unit_vectors(each @ each.T) for each in embeddings(student, targets))
        return (own - said).square().sum(dim=-1).mean()
