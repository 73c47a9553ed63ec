"""Relational distillation: rows lie to each other as they do for the teacher, in distance and angle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import embeddings, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

_ANGLE_ROWS = 32  # of a batch: there are as many angles as the cube of that
_SCALE = 25  # the paper's weight of distances beside cross-entropy; of angles it is twice that


@dataclass(frozen=True)
class Relational:
    """Huber loss of pairwise distances over their mean, and of the angles of triplets: whatever scale and rotation.

    RKD, Park et al. 2019, arXiv 1904.05068. Angles are of the batch's first 32 rows: memory grows with their cube.
    """

    distance_weight: float = 1.0
    angle_weight: float = 2.0

    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    kind: ClassVar[str] = "relation"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Embeddings (batch, width) of both, of any widths, to a scalar; zero for a batch of one row."""
        from torch.nn.functional import smooth_l1_loss

        own, said = embeddings(student, targets)
        if len(own) < 2:
            return own.sum() * 0
        pairs = zip(_distances_and_angles(own), _distances_and_angles(said), strict=True)
        distance, angle = (smooth_l1_loss(mine, theirs) for mine, theirs in pairs)
        return _SCALE * (self.distance_weight * distance + self.angle_weight * angle)


def _distances_and_angles(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, width) to each pair's distance over the mean (pairs,), and cosines at each row (rows, rows, rows)."""
    from torch.nn.functional import pdist

    distances = pdist(embedding)  # its gradient at a distance of zero is zero
    mean = distances.mean().clamp(min=1e-6)
    few = embedding[:_ANGLE_ROWS]
    towards = unit_vectors(few - few[:, None], shortest=1e-3 * mean.detach())
    return distances / mean, towards @ towards.transpose(1, 2)
