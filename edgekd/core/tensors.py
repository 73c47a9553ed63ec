"""What losses see. The only file of the core that knows torch, and only by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NO_LABEL = -100  # PyTorch's ignore_index


@dataclass(frozen=True)
class Outputs:
    """What a model gave for a batch: logits (batch, classes)."""

    logits: Tensor


@dataclass(frozen=True)
class Targets:
    """What a batch is trained towards: the teacher's cached outputs, and labels (batch,), NO_LABEL where unknown."""

    teacher: Outputs | None
    labels: Tensor
