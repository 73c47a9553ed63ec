"""Writing so that a kill at any moment leaves the old state or the new one, and sweeping what the dead left.

Everything is written beside its place, flushed to disk, and moved there by one rename. Beside what is being written
lies a lock for as long as its writer lives: a sweeper tests that, since a process number says nothing where machines or
containers share a disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edgekd.core.errors import EdgeKDError, StoreError

_NEW, _LOCK, _OLD = ".new-", ".lock", "-old"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # what a disk without locks answers
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # of folders, where the file system cannot or the mode forbids


def user_path(text: str | Path) -> Path:
    """A path as a user gives it: `~` is their home. One in the home of nobody stays as it is: there is no such file."""
    return Path(os.path.expanduser(text))  # pathlib's raises RuntimeError


def is_plain(path: Path) -> bool:
    """Whether it is a file with content of its own: opening a pipe would wait for ever, a device never ends."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


class writing:  # noqa: N801 (reads as a verb: `with writing(place) as folder`)
    """A fresh folder that takes `place` at once when the block ends well, and vanishes when it does not.

    With `seal`, which writes its seal, it takes the place of whatever lies there. Without, it takes the place of
    nothing but an empty folder: StoreError where something came to lie there meanwhile.
    """

    def __init__(self, place: Path, *, seal: Callable[[Path], None] | None = None) -> None:
        self.place, self.seal = place, seal

    def __enter__(self) -> Path:
        make_folder(self.place.parent)
        sweep(self.place)
        self.lock, self.handle = _claim(self.place, _LOCK)
        self.fresh = Path(str(self.lock).removesuffix(_LOCK))
        try:
            self.fresh.mkdir()
            self.fresh.chmod(0o755)
        except BaseException:
            self._release()
            raise
        return self.fresh

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        try:
            if error is not None and (number := _disk_error(error)):
                raise storage_error(OSError(number, os.strerror(number)), self.place.parent) from error
            if kind is None:
                if self.seal:
                    self.seal(self.fresh)
                for path in (*self.fresh.rglob("*"), self.fresh):
                    flush(path)
                self._take_place()
                flush(self.place.parent)
        finally:
            remove(self.fresh)
            self._release()

    def _take_place(self) -> None:
        if not self.seal:
            try:
                os.replace(self.fresh, self.place)  # over a folder only where it is empty
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise StoreError(
                    f"{self.place} was filled by another command meanwhile; nothing of it was touched",
                    fix="give --out a new folder: the finished stages are kept",
                ) from error
            return
        old = self.fresh.with_name(f"{self.fresh.name}{_OLD}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.place, old)
        os.replace(self.fresh, self.place)
        remove(old)

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            self.lock.unlink(missing_ok=True)
        os.close(self.handle)


def write_file(place: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write a file, its folder too, by one rename: a kill at any moment leaves the old one or the new one.

    With `mode` it has that one whatever the umask is, where the disk keeps permissions.

    Raises StoreError where that cannot be.
    """
    try:
        make_folder(place.parent)
        sweep(place)
        fresh, handle = _claim(place)
        try:
            with open(handle, "wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                if mode is not None:
                    with contextlib.suppress(PermissionError):  # FAT
                        os.fchmod(handle, mode)
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(fresh, place)
            flush(place.parent)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, place) from error


def make_folder(folder: Path) -> None:
    """The folder and those above it, each one's name flushed to disk."""
    missing = []
    for path in (folder, *folder.parents):
        if os.path.isdir(path):
            break
        missing.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush(path.parent)


def flush(path: Path) -> None:
    """A file's content, or a folder's names, to disk."""
    folder = path.is_dir()
    if path.is_symlink() or not (folder or path.is_file()):
        return
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not (folder and error.errno in _NO_FSYNC):
            raise


def remove(path: Path) -> None:
    """A file or a folder, as far as it can be removed; what is not there is no error."""
    if _is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def sweep(place: Path) -> None:
    """Remove what killed writers of this place left behind; a living writer's stays."""
    sweep_litter(place.parent.glob(f".{glob.escape(place.name)}{_NEW}[0-9]*-*"))


def sweep_litter(found: Iterable[Path]) -> list[Path]:
    """Of these fresh files, folders and their locks, those of dead writers: removed, and returned."""
    swept = []
    for path in sorted(found):  # a folder before its lock
        if _is_folder(path):
            lock = path.with_name(f"{path.name.removesuffix(_OLD)}{_LOCK}")
            if not lock.exists() and not _runs_here(path):
                remove(path)
                swept.append(path)
            continue
        folder = Path(str(path).removesuffix(_LOCK))
        with _if_dead(path) as dead:
            if dead:
                for litter in (folder, folder.with_name(f"{folder.name}{_OLD}"), path):
                    if os.path.lexists(litter):
                        remove(litter)
                        swept.append(litter)
    return swept


def try_lock(handle: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Whether the open file could be locked, until it is closed; None where the file system has no locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One process at a time within the block, where the disk can lock a folder: nothing of it is left there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _claim(place: Path, suffix: str = "") -> tuple[Path, int]:
    """A fresh file beside `place`, and the handle by which it stays locked."""
    while True:
        fresh = place.with_name(f".{place.name}{_NEW}{os.getpid()}-{secrets.token_hex(4)}{suffix}")
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if try_lock(handle) is not False and os.fstat(handle).st_nlink:  # else a sweeper was there in between
            return fresh, handle
        os.close(handle)


@contextlib.contextmanager
def _if_dead(path: Path) -> Iterator[bool]:
    """Whether nobody writes a fresh file any more: then it stays locked within the block."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone, or not ours to judge
        yield False
        return
    try:
        free = try_lock(handle)
        yield bool(free) or (free is None and not _runs_here(path))
    finally:
        os.close(handle)


def _runs_here(path: Path) -> bool:
    """Whether a process of the number in a fresh file's name runs: all that can be known where nothing is locked."""
    writer = path.name.rpartition(_NEW)[2].split("-")[0]
    return writer.isdigit() and Path(f"/proc/{writer}").exists()


def storage_error(error: OSError, where: Path) -> StoreError:
    """A disk's error as a user can act on it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "inodes (the disk holds too many files)" if _no_inodes(where) else "space"
        return StoreError(
            f"no {what} left while writing under {where}",
            fix="free some space, or point $EDGEKD_STORE and --out to a larger disk; what was finished is kept",
        )
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else where
    why = error.strerror or str(error)
    for above in (place, *place.parents):
        if os.path.islink(above) and not os.path.exists(above):  # pathlib's would raise on forbidden ones
            place, why = above, "it is a link that leads nowhere"
    return StoreError(
        f"cannot use {place}: {why}",
        fix="make it readable and writable, or point $EDGEKD_STORE and --out elsewhere",
    )


def _disk_error(error: BaseException) -> int | None:
    """The disk's error that a library tells in words of its own, as safetensors, tokenizers and onnx do."""
    if isinstance(error, EdgeKDError | OSError) or not isinstance(error, Exception):
        return None
    said = str(error)
    return next(
        (number for number in _DISK_ERRORS if f"(os error {number})" in said or os.strerror(number) in said), None
    )


def _no_inodes(where: Path) -> bool:
    there = next((path for path in (where, *where.parents) if os.path.exists(path)), Path("/"))
    try:
        state = os.statvfs(there)
    except OSError:
        return False
    return state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0
