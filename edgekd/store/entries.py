"""What lies in a store: its results and the work of stopped builds, their sizes and when they were last used.

Only what has a store's names is looked at, so that a store in a folder with other things harms none.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgekd.core.files import storage_error
from edgekd.core.seals import SEAL, read_seal
from edgekd.store.store import WORK

APART = ("calibration", "measured", "guest")  # folders of a store's root that hold no stages
_AHEAD_S = 60.0  # a time further in the future was written while the clock was wrong
_LAST_S = 253_402_300_799.0  # the end of the year 9999, where dates end; file systems' times do not
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Kept:
    """A result, or what a stopped build keeps on the way to one."""

    path: Path
    used_s: float  # when it was last read or written, since 1970
    size: int  # bytes
    edgekd: str  # the version that made it; empty where that is not known
    of: str

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.path.parent.name

    @property
    def is_work(self) -> bool:
        """Whether it is the work of a stopped build rather than a result."""
        return self.path.suffix == WORK

    @property
    def name(self) -> str:
        """`teacher/0f3a...`: where it lies in the store."""
        return f"{self.stage}/{self.path.name}"

    @property
    def size_mib(self) -> float:
        """What its files hold."""
        return self.size / 2**20

    def age_s(self, now_s: float) -> float:
        """Since its last use; 0 for one from the future, whose time was written while the clock was wrong."""
        return max(0.0, now_s - self.used_s)

    def as_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {
            "stage": self.stage,
            "key": self.path.stem,
            "kind": "work" if self.is_work else "result",
            "mib": round(self.size_mib, 3),
            "edgekd": self.edgekd,
            "of": self.of,
            "used": datetime.fromtimestamp(self.used_s, UTC).isoformat(timespec="seconds"),
        }


def kept(root: Path) -> tuple[Kept, ...]:
    """All results and works of a store, the least recently used first. Raises StoreError."""
    return tuple(sorted(_all(root), key=lambda one: (one.used_s, one.name)))


def set_right(found: Sequence[Kept]) -> bool:
    """Times from the future become now, so that they age from here on: no wrong clock makes an entry immortal.

    Whether there were any.
    """
    wrong = [one for one in found if one.used_s > time.time() + _AHEAD_S]
    for one in wrong:
        for path in _clocks(one.path):
            with contextlib.suppress(OSError):
                os.utime(path)
    return bool(wrong)


def stages(root: Path) -> list[Path]:
    """Folders of stages; none of a store that is not there yet. Raises StoreError."""
    try:
        return sorted(path for path in root.iterdir() if path.name not in APART and _is_real(path))
    except FileNotFoundError as error:
        if root.is_symlink():
            raise storage_error(error, root) from error
        return []
    except OSError as error:
        raise storage_error(error, root) from error


def is_key(path: Path) -> bool:
    """Whether a file or folder is named after a key, whatever its suffix."""
    return _KEY.fullmatch(path.name.removeprefix(".").partition(".")[0]) is not None


def _all(root: Path) -> Iterator[Kept]:
    for folder in stages(root):
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            raise storage_error(error, folder) from error
        for path in found:
            if _KEY.fullmatch(path.name.removesuffix(WORK)) and _is_real(path):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    yield _read(path)


def _read(path: Path) -> Kept:
    told = None if path.suffix == WORK else read_seal(path)
    used_s = max(clock.stat(follow_symlinks=False).st_mtime for clock in _clocks(path))
    size = sum(file.stat(follow_symlinks=False).st_size for file in _files(path))
    return Kept(path, min(max(used_s, 0.0), _LAST_S), size, told.edgekd if told else "", told.of if told else "")


def _clocks(path: Path) -> list[Path]:
    """Whose times say when an entry was last used: its seal's, of work its own and its files'."""
    if path.suffix == WORK:
        return [path, *_files(path)]
    return [path / SEAL] if os.path.isfile(path / SEAL) else [path]


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield Path(entry.path)


def _is_real(path: Path) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
