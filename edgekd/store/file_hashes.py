"""Hashes of large files that were taken before: believed while planning, where the same file lies there unchanged.

A plan ships nothing: it may take a file's hash by its place, size, times and inode. Everything else reads every byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from edgekd.core.digests import file_sha256
from edgekd.store.store import open_store

_LEAST = 1 << 20  # bytes: a smaller file is read in a moment
_SETTLED_S = 2.0  # since the last change: one that follows within a clock's tick leaves the times as they are
_FILE = "sha256"
_believed: ContextVar[bool] = ContextVar("believed", default=False)


@contextmanager
def believed() -> Iterator[None]:
    """Within the block `sha256_of` takes a hash that the store has of a file with the same times."""
    token = _believed.set(True)
    try:
        yield
    finally:
        _believed.reset(token)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes: read, or within `believed` perhaps as it was before. Raises OSError."""
    if not _believed.get():
        return file_sha256(path)
    state = os.stat(path)
    changed_s = max(state.st_mtime, state.st_ctime)
    if state.st_size < _LEAST or not 0 <= changed_s < time.time() - _SETTLED_S:
        return file_sha256(path)
    times = {"mtime_ns": state.st_mtime_ns, "ctime_ns": state.st_ctime_ns}
    key = {"path": os.path.abspath(path), "size": state.st_size, "inode": state.st_ino, "device": state.st_dev, **times}

    def produce(out: Path) -> None:
        (out / _FILE).write_text(file_sha256(path), encoding="ascii")

    place = open_store().stage("hash", key, produce)
    return (place / _FILE).read_text(encoding="ascii")
