"""Brightness: an image, lighter or darker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Brightness:
    """Multiplies all values by one factor, up to `share` from 1 and at least a quarter of that away from it."""

    share: float = 0.4

    modalities: ClassVar[tuple[str, ...]] = ("image",)

    def __call__(self, value: np.ndarray[Any, Any], others: Sequence[Any], random: Random) -> np.ndarray[Any, Any]:
        """uint8 (height, width, channels); what is lighter than 255 is 255."""
        import numpy as np

        factor = 1 + random.choice((-1, 1)) * self.share * random.uniform(0.25, 1)
        return (value * np.float32(factor)).round().clip(0, 255).astype(np.uint8)
