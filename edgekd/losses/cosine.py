"""Cosine: the student's embedding points where its teacher's does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import embeddings, unit_vectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Cosine:
    """One less the cosine of both embeddings: 0 to 2. Of unit vectors it is half the squared distance.

    Reimers and Gurevych 2020, arXiv 2004.09813, make a student's embeddings those of its teacher by squared distance.
    """

    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    kind: ClassVar[str] = "feature"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Embeddings (batch, width) of both to a scalar. Widths must agree."""
        own, said = embeddings(student, targets)
        assert own.shape == said.shape, "embeddings of unlike widths are compared through `learned` alone"
        return (1 - (unit_vectors(own) * unit_vectors(said)).sum(dim=-1)).mean()

    def learned(self, student: Outputs, targets: Targets) -> torch.nn.Module:
        """The loss behind a linear projection from the student's width to the teacher's; none where they agree."""
        import torch

        own, said = embeddings(student, targets)
        loss = self
        project: torch.nn.Module = torch.nn.Identity()
        if own.shape[-1] != said.shape[-1]:
            project = torch.nn.Linear(own.shape[-1], said.shape[-1], device=own.device, dtype=own.dtype)

        class Projected(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.project = project

            def forward(self, student: Outputs, targets: Targets) -> Tensor:
                return loss(replace(student, embedding=self.project(student.embedding)), targets)

        return Projected()
