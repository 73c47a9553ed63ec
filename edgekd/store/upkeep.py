"""Care of the store: whether it is whole, and what may go.

Nothing goes that a process uses: an entry's seal is held by its readers, a key's lock by its maker, and both are tested
by locking them, which other machines and containers on the same disk see, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import StoreError, UsageError
from edgekd.core.files import remove, storage_error, sweep_litter, try_lock
from edgekd.core.seals import SEAL, damage
from edgekd.store.entries import Kept, is_key, kept, set_right, stages
from edgekd.store.store import LOCK, USING, WORK, Store

CAP = "EDGEKD_STORE_MIB"
WORK_DAYS = 7.0  # what a stopped build keeps on the way is worth something for as long
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Which:
    """What `prune` removes; all that is given must hold. Of nothing given: the work of builds stopped WORK_DAYS ago."""

    older_than_days: float | None = None
    to_mib: float | None = None  # least recently used first, until so much is left
    damaged: bool = False
    stage: str | None = None

    @property
    def says_nothing(self) -> bool:
        """Whether nothing was asked for."""
        return self == Which()


@dataclass(frozen=True)
class Pruned:
    """What went, or would go; what was left because a process uses it; litter of the dead that went."""

    removed: tuple[Kept, ...]
    in_use: tuple[Kept, ...]
    litter: tuple[Path, ...]

    @property
    def mib(self) -> float:
        """What the removed entries held."""
        return sum(one.size_mib for one in self.removed)


def verify(root: Path) -> tuple[dict[Kept, str], int]:
    """What is wrong with each damaged result, and how many are whole. One that is being made is passed over."""
    wrong, whole = {}, 0
    for one in kept(root):
        if one.is_work:
            continue
        why = damage(one.path)
        if why is None:
            whole += 1
        elif not _is_being_made(one.path) and (why := damage(one.path)) and one.path.exists():
            wrong[one] = why
    return wrong, whole


def prune(root: Path, which: Which, *, dry_run: bool = False) -> Pruned:
    """Remove what `which` says, and what nobody can use: see `sweep`. Raises StoreError."""
    litter = () if dry_run else sweep(root)
    found = kept(root)
    if not dry_run and set_right(found):
        found = kept(root)
    removed: list[Kept] = []
    in_use: list[Kept] = []
    left_mib = sum(one.size_mib for one in found)
    for one in _asked(found, which):
        if which.to_mib is not None and left_mib <= which.to_mib:
            break
        try:
            with _unused(one.path) as unused:
                gone = not os.path.lexists(one.path)  # another prune was here first
                if unused and not dry_run:
                    _remove(one.path)
        except OSError as error:
            raise storage_error(error, one.path) from error
        if not gone:
            (removed if unused else in_use).append(one)
        left_mib -= one.size_mib if unused or gone else 0
    return Pruned(tuple(removed), tuple(in_use), litter)


def sweep(root: Path) -> tuple[Path, ...]:
    """Remove what dead writers left, work whose result is there, locks of nothing. Looks at names alone."""
    swept: list[Path] = []
    for folder in stages(root):
        with contextlib.suppress(OSError):  # what cannot be swept stays
            swept += sweep_litter(path for path in folder.glob(".*.new-*") if is_key(path))
            for path in sorted(folder.glob("[!.]*.*")):
                if is_key(path) and _is_idle(path):
                    with _unused(path) as unused:
                        if unused and _is_idle(path):
                            swept += _removed([path] if path.suffix == WORK else _beside(path))
    return tuple(swept)


def _is_idle(path: Path) -> bool:
    """Whether what lies beside an entry serves nobody: work whose result is there, a lock of nothing."""
    if path.suffix == WORK:
        return (path.with_suffix("") / SEAL).exists()
    return path.suffix in (LOCK, USING) and path.is_file() and bool(_beside(path))


def cap_mib() -> float | None:
    """`$EDGEKD_STORE_MIB`; None where it is not set: no cap. Raises UsageError."""
    said = os.environ.get(CAP, "").strip()
    if not said:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (cap := float(said)) < float("inf"):
            return cap
    raise UsageError(
        f"${CAP} is {said!r}, which is no size", fix="give a number of MiB, or unset it: then nothing goes"
    )


@contextlib.contextmanager
def collected_afterwards(store: Store, say: Callable[[str], None]) -> Iterator[None]:
    """Litter is swept as the block begins; as it ends, well or not, the store is kept to its cap.

    What this process or another uses stays. Raises UsageError before the block for a cap that is none.
    """
    cap = cap_mib()
    _quietly(lambda: sweep(store.root))
    try:
        yield
    finally:
        if cap is not None:
            _quietly(lambda: _keep_to(cap, store, say))


def _keep_to(cap: float, store: Store, say: Callable[[str], None]) -> None:
    done = prune(store.root, Which(to_mib=cap))
    left = sum(one.size_mib for one in kept(store.root))
    if done.removed:
        say(
            f"store: {len(done.removed)} least recently used results removed, {done.mib:.1f} MiB "
            f"(${CAP} is {cap:g}): {_names(done.removed)}"
        )
    if left > cap:
        say(f"store: {left:.1f} MiB are in use, more than ${CAP} = {cap:g}")


def _names(removed: Sequence[Kept]) -> str:
    counts: dict[str, int] = {}
    for one in removed:
        counts[one.stage] = counts.get(one.stage, 0) + 1
    return ", ".join(f"{stage} x{count}" if count > 1 else stage for stage, count in sorted(counts.items()))


def _quietly(work: Callable[[], object]) -> None:
    """Upkeep that a disk refuses costs room, never a build."""
    with contextlib.suppress(OSError, StoreError):
        work()


def _asked(found: Sequence[Kept], which: Which) -> list[Kept]:
    """Those that are asked for, the least recently used first."""
    now_s = time.time()
    days = WORK_DAYS if which.says_nothing else which.older_than_days
    return [
        one
        for one in found
        if (which.stage is None or one.stage == which.stage)
        and (days is None or one.age_s(now_s) >= days * _DAY_S)
        and (not which.says_nothing or one.is_work)
        and (not which.damaged or not (one.is_work or damage(one.path) is None))
    ]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody makes the entry; then nobody can within the block. Raises OSError."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path.with_suffix('')}{LOCK}")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _is_being_made(path: Path) -> bool:
    try:
        with _alone(path) as alone:
            return not alone
    except OSError:  # a store that can only be read
        return False


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether nobody makes or reads the entry or the work; then nobody can within the block. Raises OSError."""
    held = path.with_suffix(USING) if path.suffix else path / SEAL
    with _alone(path) as alone:
        if not alone:
            yield False
            return
        try:
            handle = os.open(
                held, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
            )  # NFS locks for one's own only what may be written
        except FileNotFoundError:
            yield True
            return
        except PermissionError:  # another user's
            handle = os.open(held, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield try_lock(handle) is True
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    """Out of its place at once, then file by file: a kill in between leaves litter, no half entry. Raises OSError."""
    aside = path.with_name(f".{path.name}.new-{os.getpid()}-removed")
    remove(aside)
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
    remove(aside)
    _removed(_beside(path))


def _beside(path: Path) -> list[Path]:
    """What lies beside an entry's place where there is neither entry nor work any more.

    The lock may go while it is held: who waits for it takes a new one.
    """
    entry = path.with_suffix("")
    if any(map(os.path.lexists, (entry, entry.with_suffix(WORK)))):
        return []
    return [entry.with_suffix(USING), entry.with_suffix(LOCK)]


def _removed(paths: Sequence[Path]) -> list[Path]:
    """Those that were there, removed."""
    there = [path for path in paths if os.path.lexists(path)]
    for path in there:
        remove(path)
    return there
