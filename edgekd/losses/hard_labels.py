"""The labels themselves, for the rows that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import NO_LABEL, Outputs, Targets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HardLabels:
    """Cross-entropy to the labels; rows without a label do not count."""

    label_smoothing: float = 0.0

    needs: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[dict[str, tuple[float, float]]] = {"label_smoothing": (0.0, 1.0)}
    kind: ClassVar[str] = "labels"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return a scalar, of logits (scored, classes) and labels (scored,); zero where there is no label."""
        from torch.nn.functional import cross_entropy

        total = cross_entropy(
            student.logits,
            targets.labels,
            ignore_index=NO_LABEL,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / (targets.labels != NO_LABEL).sum().clamp(min=1)
