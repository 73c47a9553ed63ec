"""Rows and answers at a URL (`s3://`, `gs://`, `memory://`, whatever fsspec knows): a copy here, kept alike.

No object can be appended to, so a ledger is there in pieces: each has what came since the one before, and its name
says from which byte to which. A machine that is lost takes with it what came since the last piece: `EVERY_S` seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from platformdirs import user_cache_dir

from edgekd.core.errors import StoreError, UsageError
from edgekd.core.files import make_folder
from edgekd.core.protocols import Progress
from edgekd.labelling.asked import Asked
from edgekd.labelling.folder import PROVENANCE, TEMPLATE
from edgekd.labelling.ledger import NAME, SHARDS
from edgekd.labelling.shards import MARK, part_of

EVERY_S = 30.0
_PIECES = "ledger"
_PIECE = re.compile(r"(\d{15})-(\d{15})\.jsonl")
_FILES = ("train.jsonl", "validation.jsonl", "test.jsonl", PROVENANCE, TEMPLATE, MARK)
_BEGUN = "begun"  # an empty file: whoever may write this may write what is paid for
_CHUNK = 1 << 20


def is_url(text: str) -> bool:
    """Return whether it names something by a URL, not by a path.

    >>> is_url("s3://bucket/rows.csv"), is_url("labels/")
    (True, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]*://", text) is not None


def copy_of(url: str) -> Path:
    """Return the folder on this machine that holds the copy of what is at the URL."""
    return Path(user_cache_dir("edgekd-labels")) / sha256(url.rstrip("/").encode()).hexdigest()[:16]


class _Taken(StoreError):
    """Somebody else writes where this run does."""


class Place:
    """A folder, or a file, at a URL."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that fsspec cannot open, or that holds a password."""
        import fsspec

        if urlsplit(url).password:
            raise UsageError(
                "the URL holds a password, which would stand in logs", fix="give it as the client of that storage asks"
            )
        self.url = url.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"cannot open {self.url}: {error}",
                fix="install fsspec's package for it (s3fs, gcsfs, adlfs ...), or give a path",
            ) from error
        self._root: str = root.rstrip("/")

    def _at(self, *names: str) -> str:
        return "/".join((self._root, *(name for name in names if name)))

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """What a storage raises depends on its package: all of it is an error of the storage."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(
                f"{self.url}: {type(error).__name__}: {error}",
                fix=f"check address, rights and connection; the same command goes on from {copy_of(self.url)}",
            ) from error

    def fetch(self, into: Path) -> Path:
        """Copy what is there into a folder, and return the copy. Raises StoreError."""
        local = into / self.url.rpartition("/")[2]
        shutil.rmtree(into, ignore_errors=True)
        make_folder(into)
        with self._asked():
            self._files.invalidate_cache()
            if not self._files.exists(self._root):
                raise StoreError(f"there is nothing at {self.url}", fix="check --data")
            if self._files.isdir(self._root):
                for path in self._files.find(self._root):
                    target = local / path[len(self._root) :].lstrip("/")
                    make_folder(target.parent)
                    self._files.get_file(path, str(target))
            else:
                self._files.get_file(self._root, str(local))
        return local

    def shards(self) -> list[str]:
        """Return the names of the parts that are there. Raises StoreError."""
        with self._asked():
            self._files.invalidate_cache()
            if not self._files.exists(self._at(SHARDS)):
                return []
            found = self._files.find(self._at(SHARDS))
        return sorted({path[len(self._at(SHARDS)) :].strip("/").split("/")[0] for path in found})

    def pieces(self, folder: str) -> list[tuple[int, int, str]]:
        """Return the pieces of a folder's ledger: first byte, end, path. Raises StoreError where they do not join."""
        with self._asked():
            self._files.invalidate_cache()
            above = self._at(folder, _PIECES)
            paths = self._files.find(above) if self._files.exists(above) else []
        found = sorted(
            (int(named[1]), int(named[2]), path)
            for path in paths
            if (named := _PIECE.fullmatch(path.rpartition("/")[2]))
        )
        end = 0
        for first, last, _ in found:
            if first != end:
                raise _Taken(
                    f"{self.url}: two workers wrote the ledger {folder or NAME} at once",
                    fix="end one of them; then remove the pieces of one, which were paid for, or give --out a new URL",
                )
            end = last
        return found

    def pull_ledger(self, folder: str, local: Path) -> int:
        """Make the copy of a ledger at least as long as the pieces are; return their length. Raises StoreError."""
        pieces = self.pieces(folder)
        if not pieces:
            return 0
        make_folder(local)
        fresh = local / f".{NAME}.pulled"
        with self._asked(), fresh.open("wb") as stream:
            for _, _, path in pieces:
                stream.write(self._files.cat_file(path))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            if not _agree(fresh, local / NAME):
                raise StoreError(
                    f"{local / NAME} and the ledger at {self.url} differ: both were paid for by runs of their own",
                    fix="keep one: remove the copy, or what is at the URL",
                )
            if not (local / NAME).exists() or (local / NAME).stat().st_size < fresh.stat().st_size:
                os.replace(fresh, local / NAME)
        finally:
            fresh.unlink(missing_ok=True)
        return pieces[-1][1]

    def push_ledger(self, folder: str, local: Path, done: int) -> int:
        """Write what a ledger has beyond `done` bytes as a piece; return how many it has now. Raises StoreError."""
        path = local / NAME
        if not path.exists():
            return done
        with path.open("rb") as stream:
            stream.seek(done)
            more = stream.read()
        more = more[: more.rfind(b"\n") + 1]  # the rest is being written
        if not more:
            return done
        before = self.pieces(folder)
        if (before[-1][1] if before else 0) != done:
            raise _Taken(
                f"another worker is at work on {self.url}/{folder}", fix="wait until it ends, then run this one again"
            )
        with self._asked():
            self._files.pipe_file(self._at(folder, _PIECES, f"{done:015}-{done + len(more):015}.jsonl"), more)
        return done + len(more)

    def push_files(self, folder: str, local: Path) -> None:
        """Write the other files of a folder. Raises StoreError."""
        with self._asked():
            for name in _FILES:
                if (local / name).exists():
                    self._files.put_file(str(local / name), self._at(folder, name))

    def mark(self, folder: str, local: Path) -> None:
        """Make the mark of a part's end here as it is there. Raises StoreError."""
        with self._asked():
            if self._files.exists(self._at(folder, MARK)):
                self._files.get_file(self._at(folder, MARK), str(local / MARK))
            else:
                (local / MARK).unlink(missing_ok=True)

    def begin(self, folder: str) -> None:
        """Take away the mark of a part's end, and see that one may write there. Raises StoreError."""
        with self._asked():
            self._files.pipe_file(self._at(folder, _BEGUN), b"")
            if self._files.exists(self._at(folder, MARK)):
                self._files.rm_file(self._at(folder, MARK))


def _agree(one: Path, other: Path) -> bool:
    """Whether the shorter file is the other's beginning."""
    if not other.exists():
        return True
    with one.open("rb") as first, other.open("rb") as second:
        while (left := first.read(_CHUNK)) and (right := second.read(_CHUNK)):
            least = min(len(left), len(right))
            if left[:least] != right[:least]:
                return False
    return True


@contextlib.contextmanager
def at_hand(asked: Asked, progress: Progress, *, look: bool = False) -> Iterator[Asked]:
    """Within the block rows and answers that lie at a URL are on this machine; what is paid for goes there as it comes.

    To `look` alone, nothing is written there. Raises UsageError and StoreError.
    """
    part = part_of(asked)
    with contextlib.ExitStack() as stack:
        if is_url(asked.data):
            copy = copy_of(f"rows of {asked.data}").with_suffix(f".{os.getpid()}")
            stack.callback(shutil.rmtree, copy, ignore_errors=True)
            asked = replace(asked, data=str(Place(asked.data).fetch(copy)))
        if asked.url is None:
            yield asked
            return
        place = Place(asked.url)
        begun = place.shards()
        own = "" if part is None else f"{SHARDS}/{part.name}"
        if part is not None:
            part.check_same_count(begun, asked.url)
        for folder in [f"{SHARDS}/{name}" for name in begun] if part is None else [""]:
            place.pull_ledger(folder, asked.out / folder)
            if folder:
                place.mark(folder, asked.out / folder)
        done = place.pull_ledger(own, asked.out / own)
        if look:
            yield asked
            return
        place.begin(own)
        with _Sent(place, own, asked.out / own, done, progress):
            yield asked


class _Sent(contextlib.AbstractContextManager["_Sent"]):
    """Sends a ledger piece by piece while the block runs, and the other files at its end."""

    def __init__(self, place: Place, folder: str, local: Path, done: int, progress: Progress) -> None:
        self._place, self._folder, self._local, self._done, self._progress = place, folder, local, done, progress
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Sent:
        self._done = self._place.push_ledger(self._folder, self._local, self._done)  # fails before anything is paid
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self._done = self._place.push_ledger(self._folder, self._local, self._done)
            except _Taken:
                signal.raise_signal(signal.SIGTERM)  # nothing more is asked; what is on its way is kept
                return
            except StoreError as error:
                self._progress.say(f"not sent yet: {error.message}")

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._done = self._place.push_ledger(self._folder, self._local, self._done)
        self._place.push_files(self._folder, self._local)
