"""The seal of a finished folder: its files' hashes and what it is, written last, checked first."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.digests import digest, file_sha256

SEAL = ".seal.json"
_LARGEST = 64 << 20  # bytes of a seal
FORMAT = 2  # of the store: its layout and its seals; 1 had the files' hashes alone
_OWN = "sha256"  # of the seal's other values


@dataclass(frozen=True)
class Seal:
    """What a folder's seal says; of one from before format 2 only the files are known."""

    format: int
    key: str  # SHA-256, 64 hexadecimal digits
    edgekd: str  # the version that made it
    of: str  # for a reader: of which teacher and data
    files: dict[str, str]  # path inside the folder: SHA-256


def seal(folder: Path, says: Mapping[str, Any] | None = None) -> None:
    """Seal a folder with its files as they are, and `says`: values of `Seal`."""
    told = {"format": FORMAT, "key": "", "edgekd": "", "of": "", **(says or {}), "files": contents(folder)}
    text = json.dumps(told | {_OWN: digest(told)}, indent=1, ensure_ascii=False)
    (folder / SEAL).write_text(text + "\n", encoding="utf-8")


def read_seal(folder: Path) -> Seal | None:
    """The folder's seal; None where it is missing or damaged."""
    try:
        with open(folder / SEAL, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe would be waited for
                return None
            said = json.loads(file.read(_LARGEST))
        if "files" not in said:
            return Seal(1, "", "", "", _texts(said))
        if said.pop(_OWN) != digest(said):
            return None
        key, edgekd, of = (str(said[name]) for name in ("key", "edgekd", "of"))
        return Seal(int(said["format"]), key, edgekd, of, _texts(said["files"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _texts(said: dict[str, str]) -> dict[str, str]:
    if not all(isinstance(text, str) for text in said.values()):
        raise TypeError
    return said


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder but its seal, with its SHA-256. Raises OSError, for pipes and devices as well."""
    there = (path for path in sorted(folder.rglob("*")) if path.exists() and not path.is_dir())
    files = (path for path in there if path != folder / SEAL)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, every byte read: None where nothing is.

    Where its seal has a key, the folder must be named after that: one that was moved holds something else's result.
    """
    if not os.path.isdir(folder):  # pathlib's raises where that is forbidden to know
        return "it is not there"
    told = read_seal(folder)
    if told is None:
        return "its seal is missing or damaged"
    if told.format > FORMAT:
        return f"it is of edgekd {told.edgekd}, which is newer than this one"
    if told.key and not told.key.startswith(folder.name):
        return "it was made of something else"
    try:
        there = contents(folder)
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read: {error.strerror or error}"
    if there == told.files:
        return None
    changed = sorted(name for name in there.keys() | told.files.keys() if there.get(name) != told.files.get(name))
    kinds = {(True, True): "is changed", (True, False): "is missing", (False, True): "does not belong there"}
    first = changed[0]
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return f"{first} {kinds[first in told.files, first in there]}{more}"


def is_whole(folder: Path) -> bool:
    """Whether the folder's files are just those that were sealed, byte for byte."""
    return damage(folder) is None
