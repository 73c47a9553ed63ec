"""The labels themselves, for the rows that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import NO_LABEL, Outputs, Targets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HardLabels:
    """Cross-entropy to the labels; rows without a label do not count.

    Of several labels a row it is the binary one of each label, summed over labels; of numbers the squared error.
    """

    label_smoothing: float = 0.0

    needs: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[dict[str, tuple[float, float]]] = {"label_smoothing": (0.0, 1.0)}
    kind: ClassVar[str] = "labels"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Return a scalar, of logits (scored, classes) and labels (scored,); zero where there is no label.

        Several labels a row are 0 or 1 each: (scored, classes).
        """
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        if targets.numeric:
            given = ~targets.labels.isnan()
            apart = (student.logits - targets.labels.nan_to_num().to(student.logits)).square()
            return (apart * given).sum() / given.sum().clamp(min=1)
        if targets.independent:
            known = targets.labels != NO_LABEL
            wanted = targets.labels.clamp(min=0).to(student.logits)
            wanted = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = binary_cross_entropy_with_logits(student.logits, wanted, reduction="none")
            return (each * known).sum() / known.any(dim=1).sum().clamp(min=1)
        total = cross_entropy(
            student.logits,
            targets.labels,
            ignore_index=NO_LABEL,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / (targets.labels != NO_LABEL).sum().clamp(min=1)
