"""Memory that the allocator holds back."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Return freed memory to the system, between the parts of a long stage.

    glibc keeps the holes between small blocks: over many parts they add up to more than the parts. Does nothing
    where the C library has no malloc_trim.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], int]:
    found: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
    return found
