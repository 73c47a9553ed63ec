"""A program's output read in bounds: whatever it says, however much of it, it takes little memory here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MOST_ANSWER = 32 << 20  # bytes of a runner's answer
MOST_ERRORS = 64 << 20  # bytes that a program may say on stderr; only both ends of them are kept
_KEPT = 32 << 10  # bytes, of each end
_PIECE = 1 << 16


@dataclass(frozen=True)
class Done:
    """A program that ended; `too_much` names the stream of which it said more than is read, or is empty."""

    returncode: int
    stdout: bytes
    stderr: str
    too_much: str = ""


class Ends(threading.Thread):
    """Reads a stream to its end and keeps the first and the last of it; `full` is called where it is too long."""

    def __init__(self, stream: IO[bytes], full: Any) -> None:
        super().__init__(daemon=True)
        self._stream, self._full, self._first, self._last, self.size = stream, full, b"", b"", 0
        self.start()

    def run(self) -> None:
        """Read until the stream ends."""
        with contextlib.suppress(OSError, ValueError):  # it was closed
            while piece := os.read(self._stream.fileno(), _PIECE):
                self.size += len(piece)
                room = _KEPT - len(self._first)
                self._first += piece[:room]
                self._last = (self._last + piece[room:])[-_KEPT:]
                if self.size > MOST_ERRORS:
                    self._full()
                    return

    def text(self) -> str:
        """What is kept, as text."""
        self.join(timeout=5)
        return (self._first + self._last).decode(errors="replace")


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    most: int = MOST_ANSWER,
    into: Path | None = None,
    stdin: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a program to its end; its stdout of at most so many bytes is kept, or written to the file `into`.

    It is killed, with all that it started, where it says more than that or than MOST_ERRORS on stderr. Raises
    TimeoutExpired.
    """
    timed_out, full = threading.Event(), threading.Event()
    with subprocess.Popen(
        command,
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None

        def end(why: threading.Event) -> None:
            why.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)

        timer = threading.Timer(timeout_s, end, [timed_out])
        timer.start()
        errors = Ends(program.stderr, lambda: end(full))
        try:
            kept, whole = _read(program.stdout, most, into)
            if not whole:
                end(full)
            code = program.wait()
        except BaseException:
            end(threading.Event())
            raise
        finally:
            timer.cancel()
        said = errors.text()
    if timed_out.is_set():
        raise subprocess.TimeoutExpired(list(command), timeout_s)
    too_much = "" if not full.is_set() else "stderr" if errors.size > MOST_ERRORS else "stdout"
    return Done(code, kept, said, too_much)


def _read(stream: IO[bytes], most: int, into: Path | None) -> tuple[bytes, bool]:
    """What a stream says, kept or written to a file; and whether that is all of it."""
    kept, size = bytearray(), 0
    with open(into, "wb") if into else contextlib.nullcontext() as file:
        while piece := os.read(stream.fileno(), _PIECE):
            size += len(piece)
            if size > most:
                return bytes(kept), False
            if file:
                file.write(piece)
            else:
                kept += piece
    return bytes(kept), True


def end_of(file: Path) -> str:
    """The last bytes of a file as text; empty where there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _KEPT))
            return stream.read(_KEPT).decode(errors="replace")
    except FileNotFoundError:
        return ""


def last(said: str) -> str:
    """The last line of what a program said, short enough for a message."""
    return brief((said.strip().splitlines() or ["it said nothing"])[-1].strip())


def brief(text: str, most: int = 300) -> str:
    """A text as it may stand in a message: one line of plain characters, not endless."""
    plain = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[:most]}..."
