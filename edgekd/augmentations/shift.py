"""Shift: an image or a series, moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.augmentations._moves import drawn, moved

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Shift:
    """Moves an image both ways, or a series in time, by up to a share of its size; the edge's values fill the gap."""

    share: float = 0.1

    modalities: ClassVar[tuple[str, ...]] = ("image", "series")

    def __call__(self, value: np.ndarray[Any, Any], others: Sequence[Any], random: Random) -> np.ndarray[Any, Any]:
        """uint8 (height, width, channels) or float32 (steps, channels), by one pixel or step at least."""
        sizes = value.shape[:-1]
        distances = [0]
        while not any(distances):
            distances = [drawn(size, self.share, random) for size in sizes]
        for axis, distance in enumerate(distances):
            value = moved(value, distance, axis)
        return value
