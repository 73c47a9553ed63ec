"""What students of images share: the advice where even the smallest of them is too large."""

from __future__ import annotations

_MULTIPLE = 8  # of pixels of a side, and the fewest that planning accepts


def smaller_images(side: int) -> str:
    """The option for about half the side; empty where that is too small to plan with.

    >>> smaller_images(224), smaller_images(28), smaller_images(15)
    ('give smaller images (--image-size 112)', 'give smaller images (--image-size 8)', '')
    """
    half = side // 2 // _MULTIPLE * _MULTIPLE
    return f"give smaller images (--image-size {half})" if half else ""
