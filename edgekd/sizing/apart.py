"""What sizing runs in a process of its own: models of strangers and random ones, with limits on memory and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.core.cpus import usable_cpus, usable_memory
from edgekd.core.errors import TeacherError
from edgekd.security import child

_SECONDS = 1800
_BASE_MIB = 8192  # torch, transformers, optimum and a student that is exported and quantized
_FACTOR = 12  # memory over the teacher's files: loaded, traced, exported, checked


def call(
    function: str, arguments: dict[str, Any], folder: str, *, said: Callable[[str], None] = lambda line: None
) -> Any:
    """Return what the function says of the teacher in `folder`, in a limited child.

    Raises the function's own EdgeKDError; TeacherError where the child meets its limits of memory, CPU or time.
    """
    limits = child.Limits(
        memory_mib=min(usable_memory() >> 20, _BASE_MIB + _FACTOR * size_mib(folder)), cpu_s=_SECONDS * usable_cpus()
    )
    try:
        return child.call(function, arguments, timeout_s=_SECONDS, said=said, limits=limits)
    except child.ChildError as error:
        if error.limit not in ("memory", "cpu", "time"):
            raise
        compare = "; if the teacher is small, compare the sizes in its config.json with its weights" if folder else ""
        raise TeacherError(
            f"what the teacher {folder or 'labels'} and its students cost cannot be measured: {error.why}",
            fix="give a smaller --teacher, or run the same command on a machine with more memory and time to spare"
            + compare,
        ) from error


def size_mib(folder: str) -> int:
    """MiB of a teacher's file, or of the plain files in its folder; 0 of one that is made here."""
    place = Path(folder)
    files = [place] if place.is_file() else list(place.iterdir()) if folder and place.is_dir() else []
    return sum(one.stat().st_size for one in files if one.is_file()) >> 20
