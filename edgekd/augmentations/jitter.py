"""Jitter: a series with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Jitter:
    """Adds normal noise of a share of each channel's own deviation. Um et al. 2017, arXiv 1706.00527."""

    share: float = 0.1

    modalities: ClassVar[tuple[str, ...]] = ("series",)

    def __call__(self, value: np.ndarray[Any, Any], others: Sequence[Any], random: Random) -> np.ndarray[Any, Any]:
        """float32 (steps, channels); a channel that never changes gets none."""
        import numpy as np

        noise = np.random.default_rng(random.getrandbits(64)).standard_normal(value.shape, dtype=np.float32)
        noisy: np.ndarray[Any, Any] = value + noise * value.std(axis=0) * np.float32(self.share)
        return noisy
