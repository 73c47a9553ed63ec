"""Response distillation: the student learns the teacher's softened distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Response:
    """KL divergence to the teacher's logits at a temperature. Hinton et al. 2015, arXiv 1503.02531."""

    temperature: float = 2.0

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Logits (batch, classes) of both to a scalar."""
        from torch.nn.functional import kl_div, log_softmax

        assert targets.teacher is not None, "the plan refuses a loss that needs what the teacher cannot give"
        kl = kl_div(
            log_softmax(student.logits / self.temperature, dim=-1),
            log_softmax(targets.teacher.logits / self.temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return kl * self.temperature**2  # keeps the gradient's size as temperature grows
