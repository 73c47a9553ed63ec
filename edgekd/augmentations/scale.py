"""Scale: a series of another amplitude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Scale:
    """Multiplies what stands above and below each channel's mean by one factor. Um et al. 2017, arXiv 1706.00527.

    The factor is up to `share` from 1, and at least a quarter of that away from it.
    """

    share: float = 0.2

    modalities: ClassVar[tuple[str, ...]] = ("series",)

    def __call__(self, value: np.ndarray[Any, Any], others: Sequence[Any], random: Random) -> np.ndarray[Any, Any]:
        """float32 (steps, channels)."""
        import numpy as np

        factor = 1 + random.choice((-1, 1)) * self.share * random.uniform(0.25, 1)
        mean = value.mean(axis=0)
        scaled: np.ndarray[Any, Any] = mean + (value - mean) * np.float32(factor)
        return scaled
