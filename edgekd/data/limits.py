"""How much of a stranger's file is taken, and whether it is a file at all; values of it, short enough for a message."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core.cpus import usable_cpus, usable_memory
from edgekd.core.errors import DataError
from edgekd.core.files import is_plain
from edgekd.core.pointers import check_no_pointer
from edgekd.security import child

_MACHINE = usable_memory()
MOST_BYTES = min(8 << 30, _MACHINE // 2)  # of one array or table as it is in memory, and of a text file
# of a table, which becomes so many Python objects of about 64 bytes: a gigabyte
MOST_CELLS = min(MOST_BYTES // 64, 16 << 20)
CELLS_OF_A_ROW = 4  # a row is a dict, which takes as much memory as four numbers: a few kilobytes may hold 10^8 of them
_DEEPEST = 32  # lists in lists of a JSON row
MOST_IMAGE_BYTES = 256 << 20  # of one encoded image
JSON_MOST = 64 << 20  # of a file beside data or weights: the largest tokenizer.json in use has 33 MB
_FACTOR = 3  # memory of the process that looks, over what it may find
_BASE_MIB = 1024
_BASE_S, _MIB_PER_S = 15.0, 20
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def check_plain(path: Path, most: int = MOST_BYTES) -> None:
    """Raises DataError for a device, a pipe or a folder, and for a file of more than `most` bytes.

    A file that is not there, or must not be read, is left to whoever opens it.
    """
    if not path.exists():
        return
    if not is_plain(path):
        raise DataError(f"{path} is no plain file", fix="give a file, not a folder, pipe or device")
    check_no_pointer(path, DataError)
    if path.stat().st_size > most:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes; at most {most:,} are read",
            fix="give fewer rows, or several files",
        )


def read_json(file: Path) -> Any:
    """JSON of a small plain file. Raises ValueError for what is none, OSError, DataError for a pointer of Git LFS."""
    check_no_pointer(file, DataError)
    if not is_plain(file) or file.stat().st_size > JSON_MOST:
        raise ValueError(f"it is no plain file of at most {JSON_MOST >> 20} MiB")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object of a small plain file. Raises as `read_json` does, ValueError for any other value too."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


class Cells:
    """Counts a table's cells while it is read, so that one of too many is refused before it fills the memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def add(self, cells: int) -> None:
        """A row of so many cells. Raises DataError."""
        self.count += cells + CELLS_OF_A_ROW
        if self.count > MOST_CELLS:
            raise DataError(
                f"{self.path} holds more than {MOST_CELLS:,} cells (a row counts as {CELLS_OF_A_ROW} more)",
                fix="give fewer rows or columns; series take less as an .npz file",
            )


def json_values(value: Any) -> int:
    """Values in it, those in lists and objects counted too. Raises ValueError where they are nested too deeply."""
    level, count = [value], 0
    for _ in range(_DEEPEST):
        inner = [one for one in level if isinstance(one, dict | list)]
        count += len(level)
        if not inner:
            return count
        level = [item for one in inner for item in (one.values() if isinstance(one, dict) else one)]
    raise ValueError(f"it is nested deeper than {_DEEPEST} levels")


def shown(value: Any) -> str:
    """A value as Python writes it, shortened: a cell may hold megabytes, or lists in lists in lists."""
    return _SHORT.repr(value)


def has_odd_text(row: Mapping[str, Any]) -> bool:
    """Whether a text in it cannot be written as UTF-8: JSON can spell half a character, `\\\\ud800`."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def look_first(function: str, path: Path) -> None:
    """Let a limited process read compressed columns before this one does; `function(path)` gives their bytes.

    Raises DataError where it cannot: a file of a few kilobytes may unpack to any size, or crash what reads it.
    """
    files = [path] if path.is_file() else [one for one in path.rglob("*") if is_plain(one)]
    size_mib = sum(one.stat().st_size for one in files) >> 20
    seconds = _BASE_S + size_mib / _MIB_PER_S
    machine_mib = _MACHINE >> 20
    limits = child.Limits(
        memory_mib=min(machine_mib, _BASE_MIB + _FACTOR * (MOST_BYTES >> 20)),
        cpu_s=int(seconds) * usable_cpus(),
    )
    try:
        found = child.call(function, {"path": str(path)}, timeout_s=seconds, limits=limits)
    except child.ChildError as error:
        raise DataError(
            f"{path} cannot be read: {error.why}", fix="write it again in smaller parts, or as .csv or .jsonl"
        ) from error
    if found["bytes"] > MOST_BYTES or found["cells"] > MOST_CELLS:
        raise DataError(
            f"{path} unpacks to {found['bytes']:,} bytes in {found['cells']:,} cells; at most {MOST_BYTES:,} bytes and "
            f"{MOST_CELLS:,} cells are read",
            fix="give fewer rows or columns",
        )
