"""What a guest packs of a run, unpacked in bounds: a few plain files of known names, each of at most its size.

Only plain headers of tar are read, as busybox writes them: no sparse files, links, devices or long names.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

from edgekd.devices._answer import MOST_OUTPUTS
from edgekd.devices._bounded import MOST_ANSWER, MOST_ERRORS, brief

MOST = {"code": 16, "answer.json": MOST_ANSWER, "errors.txt": MOST_ERRORS, "outputs.npz": MOST_OUTPUTS}
MOST_BACK = sum(MOST.values()) + (1 << 20)  # of the whole archive: headers and padding, too
_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20


def unpack(archive: Path, folder: Path) -> None:
    """Write the archive's files into `folder`. Raises ValueError, in words, for whatever else it holds."""
    taken: set[str] = set()
    with archive.open("rb") as file:
        while (block := file.read(_BLOCK)).strip(b"\0"):
            try:
                entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise ValueError(f"it is no archive: {brief(str(error))}") from error
            name = entry.name.rstrip("/")
            if entry.type == tarfile.DIRTYPE and name == "out" and not entry.size:
                continue
            known = name.removeprefix("out/")
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name != f"out/{known}" or known not in MOST:
                raise ValueError(f"it holds {brief(name, 100) or 'an entry without a name'}")
            if known in taken or not 0 <= entry.size <= MOST[known]:
                raise ValueError(f"{name} is there twice, or has not 0 to {MOST[known]:,} bytes")
            taken.add(known)
            _write(file, entry.size, folder / known)
    if "code" not in taken or "answer.json" not in taken:
        raise ValueError("it has neither code nor answer" if not taken else f"it has only {', '.join(sorted(taken))}")


def _write(file: IO[bytes], size: int, out: Path) -> None:
    with out.open("wb") as to:
        left = size
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise ValueError(f"it ends within {out.name}")
            to.write(piece)
            left -= len(piece)
    file.read(-size % _BLOCK)  # padding
