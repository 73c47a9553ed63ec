"""The store: every stage's result in a folder of its own, under the SHA-256 of what it depends on.

A result is written to a fresh folder beside its place, its files are hashed and flushed, and it is moved
into place by one rename: a kill at any moment leaves the old state or the new one. Reading hashes the
files again, so that a damaged entry is made anew rather than used.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from edgekd.core.errors import StoreError
from edgekd.core.results import digest, file_sha256

_SEAL = ".seal.json"  # the entry's file list with hashes: written last, checked first


@dataclass(frozen=True)
class Store:
    """Stage results under `root`. Two builds may share one: a lock per key lets the second wait and read."""

    root: Path

    def stage(self, name: str, key: Mapping[str, Any], produce: Callable[[Path], None]) -> Path:
        """The folder of the stage's result: read where it is whole, else made by `produce(folder)`.

        `key` must hold everything that the result depends on. Raises StoreError where the disk is full or
        the store cannot be written; whatever `produce` raises passes through, and leaves nothing behind.
        """
        from filelock import FileLock

        place = self.path(name, key)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place}.lock"):
                if not is_whole(place):
                    with writing(place) as fresh:
                        produce(fresh)
                shutil.rmtree(self.workspace(name, key), ignore_errors=True)
        except OSError as error:
            raise storage_error(error, self.root) from error
        return place

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """Where the result of this stage and key lies, made or not."""
        return self.root / name / digest(key)[:32]

    def workspace(self, name: str, key: Mapping[str, Any]) -> Path:
        """A folder for what a long stage keeps of itself on the way: it outlives a kill, and goes with the result."""
        return self.path(name, key).with_suffix(".work")

    def has(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether a whole result is there."""
        return is_whole(self.path(name, key))


def open_store() -> Store:
    """`$EDGEKD_STORE`, else the user's cache folder."""
    return Store(Path(os.environ.get("EDGEKD_STORE") or user_cache_dir("edgekd")).expanduser().absolute())


def is_whole(place: Path) -> bool:
    """Whether the entry's files are just those that were written, byte for byte."""
    try:
        seal = json.loads((place / _SEAL).read_text(encoding="utf-8"))
        return bool(seal == _contents(place))
    except (OSError, ValueError):
        return False


def _contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _SEAL)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


class writing:  # noqa: N801 (reads as a verb: `with writing(place) as folder`)
    """A fresh folder that takes `place` at once when the block ends well, and vanishes when it does not."""

    def __init__(self, place: Path, *, seal: bool = True) -> None:
        self.place, self.seal = place, seal

    def __enter__(self) -> Path:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        sweep(self.place)
        self.fresh = Path(tempfile.mkdtemp(prefix=f".{self.place.name}.new-{os.getpid()}-", dir=self.place.parent))
        self.fresh.chmod(0o755)
        return self.fresh

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            shutil.rmtree(self.fresh, ignore_errors=True)
            return
        try:
            if self.seal:
                seal = json.dumps(_contents(self.fresh), indent=1)
                (self.fresh / _SEAL).write_text(seal, encoding="utf-8")
            for path in (*self.fresh.rglob("*"), self.fresh):
                _flush(path)
            if self.place.exists():
                shutil.rmtree(self.place)
            os.replace(self.fresh, self.place)
            _flush(self.place.parent)
        except BaseException:
            shutil.rmtree(self.fresh, ignore_errors=True)
            raise


def write_file(place: Path, text: str) -> None:
    """Write a file, its folder too, by one rename: a kill at any moment leaves the old one or the new one.

    Raises StoreError where that cannot be.
    """
    fresh = place.with_name(f".{place.name}.new-{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        _flush(fresh)
        os.replace(fresh, place)
    except OSError as error:
        raise storage_error(error, place) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def sweep(place: Path) -> None:
    """Remove what killed writers of this place left behind; a living writer's folder stays."""
    for litter in place.parent.glob(f".{glob.escape(place.name)}.new-*"):
        writer = litter.name.rpartition(".new-")[2].split("-")[0]
        if not (writer.isdigit() and Path(f"/proc/{writer}").exists()):
            shutil.rmtree(litter, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_error(error: OSError, where: Path) -> StoreError:
    """A disk's error as a user can act on it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"no space left while writing under {where}",
            fix="free some space, or point $EDGEKD_STORE and --out to a larger disk; what was finished is kept",
        )
    return StoreError(
        f"cannot use {error.filename or where}: {error.strerror or error}",
        fix="make it readable and writable, or point $EDGEKD_STORE and --out elsewhere",
    )
