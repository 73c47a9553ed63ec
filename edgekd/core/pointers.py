"""Git LFS: a repository that was cloned without it holds, in place of each large file, a few lines that point to it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from edgekd.core.errors import EdgeKDError

_BEGINS = b"version https://git-lfs.github.com/spec/"
_LARGEST = 1024  # bytes, as the specification says
_MOST_FILES = 200
REASON = "it is a pointer of Git LFS, not the file itself"
FIX = "fetch the file itself: run `git lfs pull` in the folder that was cloned"


def is_pointer(raw: bytes) -> bool:
    """Whether a file's first bytes are those of a pointer."""
    return raw.startswith(_BEGINS)


def check_no_pointer(path: Path, error: type[EdgeKDError]) -> None:
    """Raises the error for a plain file that is a pointer. One that cannot be read is left to whoever opens it."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return
        with path.open("rb") as stream:
            begins = stream.read(len(_BEGINS))
    except (OSError, ValueError):
        return
    if is_pointer(begins):
        raise error(f"{path} cannot be read: {REASON}", fix=FIX)


def check_none_within(folder: Path, error: type[EdgeKDError]) -> None:
    """Raises the error where one of a folder's files is a pointer. Looks at a bundle's count of files, no further."""
    for path in islice(folder.rglob("*"), _MOST_FILES):
        check_no_pointer(path, error)
