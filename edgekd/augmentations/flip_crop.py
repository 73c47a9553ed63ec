"""Flip and crop: an image, moved and perhaps mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.augmentations._moves import drawn, moved

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class FlipCrop:
    """Mirrors every other image left to right, and moves all by up to a share of their sides. He et al. 2016, 4.2.

    The edge's values fill the gap. For images that mean the same when mirrored: not for digits, nor for writing, which
    `shift` moves alone. arXiv 1512.03385.
    """

    share: float = 0.1

    modalities: ClassVar[tuple[str, ...]] = ("image",)

    def __call__(self, value: np.ndarray[Any, Any], others: Sequence[Any], random: Random) -> np.ndarray[Any, Any]:
        """uint8 (height, width, channels)."""
        down = right = 0
        mirrored = False
        while not (down or right or mirrored):
            down, right = (drawn(side, self.share, random) for side in value.shape[:2])
            mirrored = random.random() < 0.5
        value = moved(moved(value, down, 0), right, 1)
        return value[:, ::-1].copy() if mirrored else value
