"""A task's default teacher and data, found inside installed packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """Where a task's defaults come from, the command that fetches them, and whose licences they carry."""

    name: str  # of the bundle
    teacher: tuple[str, str] | str  # package and folder inside site-packages, or what `--teacher` takes
    data: tuple[str, str]  # package, file or folder inside site-packages (of a Debian package: inside the prefix)
    labels: int
    command: str
    teacher_name: str
    teacher_licence: str
    data_name: str
    data_licence: str
    write: Callable[[Path, Path], None] | None = None  # into a folder, where no loader takes the data as they lie
    written: str = ""  # the file of that folder that loaders take; empty: the folder
