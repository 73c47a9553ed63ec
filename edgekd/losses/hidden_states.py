"""Hidden states: the student's layers say what the teacher's say, through a learned projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import matched, mean, real_positions, teacher_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class HiddenStates:
    """Squared error to the teacher's features, over their mean square: 0 where equal, 1 for a student of zeros.

    FitNets, Romero et al. 2015, arXiv 1412.6550; layer by layer as in TinyBERT, Jiao et al. 2020, arXiv 1909.10351.
    """

    needs: ClassVar[tuple[str, ...]] = ("features",)
    kind: ClassVar[str] = "feature"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Features (batch, positions, width) of both to a scalar: the mean over layers. Widths must agree."""
        import torch

        teacher = teacher_of(targets)
        values = []
        for own, said in matched(student.features, teacher.features, of="features"):
            assert own.shape == said.shape, "features of unlike widths are compared through `learned` alone"
            real = real_positions(student, teacher, own)
            error, scale = mean((own - said)[real].square()), mean(said[real].square())
            values.append(error / scale.clamp(min=1e-4))
        return torch.stack(values).mean()

    def learned(self, student: Outputs, targets: Targets) -> torch.nn.Module:
        """The loss behind a linear projection a layer, from the student's width to the teacher's.

        It starts as the identity where widths agree, elsewhere from torch's random numbers.
        """
        import torch

        loss = self
        layers = zip(student.features, teacher_of(targets).features, strict=True)

        class Projected(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.projections = torch.nn.ModuleList(_projection(own, said.shape[-1]) for own, said in layers)

            def forward(self, student: Outputs, targets: Targets) -> Tensor:
                pairs = zip(self.projections, student.features, strict=True)
                return loss(replace(student, features=tuple(project(own) for project, own in pairs)), targets)

        return Projected()


def _projection(own: Tensor, width: int) -> torch.nn.Linear:
    import torch

    layer = torch.nn.Linear(own.shape[-1], width, device=own.device, dtype=own.dtype)
    if own.shape[-1] == width:
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return layer
