"""The store: every stage's result in a folder of its own, under the SHA-256 of what it depends on.

A result is written to a fresh folder beside its place, its files are hashed and flushed, and it is moved
into place by one rename: a kill at any moment leaves the old state or the new one. Reading hashes the
files again, so that a damaged entry is made anew rather than used.

Beside an entry `KEY` may lie `KEY.lock`, held by the process that makes it; `KEY.work`, what a long stage keeps on
the way; `KEY.using`, held by those who read that. Who reads an entry holds its seal, until it ends: nobody removes
what is held (see `upkeep`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from edgekd.core.digests import digest
from edgekd.core.files import NO_LOCKS, make_folder, storage_error, user_path, writing
from edgekd.core.results import versions
from edgekd.core.seals import FORMAT, SEAL, damage, is_whole, seal
from edgekd.security.signing import read_limited

EDGEKD = versions("edgekd")["edgekd"]  # whose entries these are
WORK, LOCK, USING = ".work", ".lock", ".using"
_PATIENCE_S = 1.5  # that a second build waits in silence


class Uses:
    """What this process reads of a store: its files stay locked, shared with other readers, as long as this lives."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}
        self._turn = threading.Lock()

    def hold(self, file: Path) -> bool:
        """Hold a file until the end; False where it is not there. Where nothing can be locked it is only there."""
        while True:
            try:
                handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
            except FileNotFoundError:
                return False
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_SH)  # waits for a remover, who holds it until the entry is gone
            try:
                if os.path.samestat(os.fstat(handle), file.stat()):
                    break
            except FileNotFoundError:
                pass
            os.close(handle)
        with self._turn:
            before = self._held.pop(file, None)
            self._held[file] = handle
        if before is not None:
            os.close(before)
        return True

    def holds(self, file: Path) -> bool:
        """Whether it is held already."""
        return file in self._held

    def __del__(self) -> None:
        for handle in self._held.values():
            os.close(handle)


_OURS = Uses()  # whoever opens the user's store, however often


def _silent(line: str) -> None:
    """Who does not listen."""


@dataclass(frozen=True)
class Store:
    """Stage results under `root`. Builds may share one: a lock per key lets the others wait and read.

    `say` takes a line for the user. Where it is not for `every_version`, each version of edgekd has entries of its own.
    """

    root: Path
    say: Callable[[str], None] = field(default=_silent, compare=False, repr=False)
    every_version: bool = False
    _uses: Uses = field(default_factory=Uses, compare=False, repr=False)

    def stage(
        self,
        name: str,
        key: Mapping[str, Any],
        produce: Callable[[Path], None],
        *,
        of: str = "",
        kept: Callable[[], None] = lambda: None,
    ) -> Path:
        """The folder of the stage's result: read where it is whole, else made by `produce(folder)`.

        `key` must hold everything that the result depends on; `of` says it in a few words; `kept()` is called, once,
        where an earlier run had made it. Raises StoreError where the disk is full or the store cannot be written;
        whatever else `produce` raises passes through, and leaves nothing behind.
        """
        place, whole_key = self.path(name, key), self._key(key)
        waited = False
        try:
            while True:
                known, before = self._uses.holds(place / SEAL), _identity(place / SEAL)
                if self._reads(place):
                    if waited:
                        self.say(f"{name}: another build has made it")
                    elif not known:
                        kept()
                    return place
                make_folder(place.parent)
                with self._making(name, place) as also_waited:
                    waited = waited or also_waited
                    if _identity(place / SEAL) != before:  # made meanwhile: all who waited read it at once
                        waited = True
                        continue
                    if waited:
                        self.say(f"{name}: the other build ended without it; made here")
                    self._make(place, whole_key, name, produce, of)
                    shutil.rmtree(self.workspace(name, key), ignore_errors=True)
                    return place
        except OSError as error:
            raise storage_error(error, self.root) from error

    def _make(self, place: Path, key: str, name: str, produce: Callable[[Path], None], of: str) -> None:
        if os.path.lexists(place):
            self.say(f"{name}: what was kept is damaged ({damage(place)}); made anew")
        with writing(place, seal=partial(seal, says={"key": key, "edgekd": EDGEKD, "of": of})) as fresh:
            produce(fresh)
        self._uses.hold(place / SEAL)

    @contextlib.contextmanager
    def alone(self, name: str, key: Mapping[str, Any]) -> Iterator[None]:
        """Hold a key that several stages share within the block: another build that asks for it waits until then.

        Raises StoreError where the disk is full or the store cannot be written.
        """
        place = self.path(name, key)
        try:
            make_folder(place.parent)
            with self._making(name, place):
                yield
        except OSError as error:
            raise storage_error(error, self.root) from error

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """Where the result of this stage and key lies, made or not."""
        return self.root / name / self._key(key)[:32]

    def workspace(self, name: str, key: Mapping[str, Any]) -> Path:
        """A folder for what a long stage keeps of itself on the way: it outlives a kill, and goes with the result."""
        return self.path(name, key).with_suffix(WORK)

    def hold_workspace(self, name: str, key: Mapping[str, Any]) -> Path:
        """The same, for a stage that was stopped and is read from there: nobody sweeps it while this process lives."""
        using = self.path(name, key).with_suffix(USING)
        with contextlib.suppress(OSError):
            os.close(os.open(using, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))
            self._uses.hold(using)
        return self.workspace(name, key)

    def has(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether a whole result is there."""
        return is_whole(self.path(name, key))

    def _key(self, key: Mapping[str, Any]) -> str:
        """Two versions of edgekd, or of the store's format, on one store never meet."""
        return digest(key if self.every_version else {"key": key, "edgekd": EDGEKD, "store": FORMAT})

    def _reads(self, place: Path) -> bool:
        """Whether a whole result is there, then held as long as this store is, and noted as used now."""
        seal = place / SEAL
        try:
            if not self._uses.hold(seal):
                return False
        except OSError:  # what cannot be opened is damaged
            return False
        if not is_whole(place):
            return False
        with contextlib.suppress(OSError):  # a store that can only be read
            os.utime(seal)
        return True

    @contextlib.contextmanager
    def _making(self, name: str, place: Path) -> Iterator[bool]:
        """Alone with the key within the block. True where another process had it first."""
        from filelock import FileLock, Timeout

        lock, waits_for = FileLock(f"{place}{LOCK}"), None
        while True:
            try:
                lock.acquire(timeout=_PATIENCE_S)
                break
            except Timeout:
                holder = _holder(place)
                if holder != waits_for:
                    self.say(f"{name}: waits for another build that makes it{holder}")
                waits_for = holder
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break  # two builds may make it twice, and both are whole
        try:
            with contextlib.suppress(OSError):  # only who waits would miss it
                _note(Path(f"{place}{LOCK}"), f"{os.getpid()} {socket.gethostname()}")
            yield waits_for is not None
        finally:
            if not any(map(os.path.lexists, (place, place.with_suffix(WORK)))):
                with contextlib.suppress(OSError):  # of nothing: who waits for it takes a new one
                    os.unlink(f"{place}{LOCK}")
            lock.release()


def _note(file: Path, text: str) -> None:
    """Write a few words into a file that is there; never through a link. Raises OSError."""
    handle = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file lies there; None where none does."""
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _holder(place: Path) -> str:
    """Who holds a key's lock, as far as that is known."""
    try:
        number, _, host = read_limited(Path(f"{place}{LOCK}"), 1024).decode().partition(" ")
    except (OSError, ValueError):
        return ""
    return f" (process {number} on {host})" if number.isdigit() and host else ""


def store_root() -> Path:
    """`$EDGEKD_STORE`, else the user's cache folder."""
    return user_path(os.environ.get("EDGEKD_STORE") or user_cache_dir("edgekd")).absolute()


def open_store(say: Callable[[str], None] = _silent) -> Store:
    """The store at its root. What is read through it is held until the process ends."""
    return Store(store_root(), say, _uses=_OURS)
