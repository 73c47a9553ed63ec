"""Training: the teacher made ready, the student distilled, the loop that both share."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module


def trainer(name: str) -> Callable[..., None]:
    """Return what teaches the students of a family that writes: `teach` of the package of that name here."""
    teach: Callable[..., None] = import_module(f"edgekd.training.{name}.distil").teach
    return teach
