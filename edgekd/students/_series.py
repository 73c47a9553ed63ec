"""What students of time series share: the standardisation that stands inside their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

_LEAST = 1e-6  # a channel that never changes is left at its size: nothing is divided by zero


class Standardise(torch.nn.Module):
    """`(x - mean) / deviation` for each channel of (batch, steps, channels); 0 and 1 until it is fitted.

    A device then feeds what its sensor says, in the sensor's own unit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Same shape in and out."""
        return (values - self.mean) / self.deviation

    def fit_inputs(self, samples: Sequence[Sample]) -> None:
        """Take mean and deviation from these inputs, `past_values` (1, steps, channels) each."""
        import numpy as np

        rows = np.concatenate([sample["past_values"][0] for sample in samples]).astype(np.float64)
        deviation = rows.std(axis=0)
        self.mean.copy_(torch.from_numpy(rows.mean(axis=0)))
        self.deviation.copy_(torch.from_numpy(np.where(deviation < _LEAST, 1.0, deviation)))


class Transpose(torch.nn.Module):
    """(batch, steps, channels), as series are kept, to (batch, channels, steps), as convolutions read them."""

    def forward(self, values: Tensor) -> Tensor:
        """Steps and channels change places."""
        return values.transpose(1, 2)


def start_inputs(student: torch.nn.Module, teacher: torch.nn.Module, samples: Sequence[Sample]) -> None:
    """The student's standardisation as the teacher's; from the samples where the teacher has none."""
    own = [module for module in student.modules() if isinstance(module, Standardise)]
    theirs = [module for module in teacher.modules() if isinstance(module, Standardise)]
    for module in own:
        if theirs:
            module.load_state_dict(theirs[0].state_dict())
        else:
            module.fit_inputs(samples)
