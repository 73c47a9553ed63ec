"""Moving an array along an axis."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def drawn(size: int, share: float, random: Random) -> int:
    """A distance of up to that share of `size`, and of up to 1 where the share is less; either way, or 0."""
    reach = max(1, round(size * share))
    return random.randint(-reach, reach)


def moved(value: np.ndarray[Any, Any], distance: int, axis: int) -> np.ndarray[Any, Any]:
    """The same shape, moved by `distance`; what stands at the edge fills the gap."""
    import numpy as np

    size = value.shape[axis]
    return value.take((np.arange(size) - distance).clip(0, size - 1), axis=axis)
