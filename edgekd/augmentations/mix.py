"""Mix: an image or a series with another shining through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Mix:
    """A weighted mean with another input, whose weight is drawn up to `share`.

    mixup, Zhang et al. 2018, arXiv 1710.09412; for distillation Beyer et al. 2022, arXiv 2106.05237.
    """

    share: float = 0.5

    modalities: ClassVar[tuple[str, ...]] = ("image", "series")
    borrows: ClassVar[bool] = True

    def __call__(
        self, value: np.ndarray[Any, Any], others: Sequence[np.ndarray[Any, Any]], random: Random
    ) -> np.ndarray[Any, Any]:
        """uint8 (height, width, channels), the other resized to it; or float32 (steps, channels)."""
        import numpy as np

        other = random.choice(others)
        weight = np.float32(self.share * random.uniform(0.2, 1))  # less would hardly be another input
        if value.dtype == np.uint8:
            other = _resized(other, *value.shape[:2])
        mixed: np.ndarray[Any, Any] = value * (1 - weight) + other * weight
        return mixed.round().astype(np.uint8) if value.dtype == np.uint8 else mixed


def _resized(image: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """(any, any, channels) to (height, width, channels)."""
    import numpy as np
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(plane.resize((width, height))) for plane in planes], axis=2)
