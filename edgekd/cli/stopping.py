"""A command that is stopped: by Ctrl-C, by SIGTERM, or by SIGHUP when its terminal goes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_KEPT = "run the same command again: finished stages are kept"
_SAID_KEPT = "stopped; finished stages are kept: the same command goes on from there"
_LOST = "nothing was kept"
_ANSWERS = "answers are kept"


class EndedError(BaseException):
    """A signal that ends the command: what is open is closed, temporary folders are removed, and children end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def signals_end_the_command() -> Iterator[None]:
    """SIGTERM and SIGHUP raise EndedError within the block. What the caller ignores (nohup) stays ignored."""
    before: dict[signal.Signals, Any] = {one: signal.getsignal(one) for one in _SIGNALS}
    ours = [one for one in _SIGNALS if before[one] is not signal.SIG_IGN]
    for one in ours:
        signal.signal(one, _end)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, before[one] or signal.SIG_DFL)


def _end(number: int, _: object) -> None:
    raise EndedError(number)


@contextlib.contextmanager
def nothing_is_kept() -> Iterator[None]:
    """Notes that what is stopped within the block leaves nothing behind: unlike a build's, its stages are not kept."""
    try:
        yield
    except (KeyboardInterrupt, EndedError) as error:
        error.add_note(_LOST)
        raise


@contextlib.contextmanager
def answers_are_kept() -> Iterator[None]:
    """Notes that what is stopped within the block keeps every answer: the same command asks for none of them again."""
    try:
        yield
    except (KeyboardInterrupt, EndedError) as error:
        error.add_note(_ANSWERS)
        raise


def told(error: BaseException) -> tuple[int, str, str]:
    """Of a stopped command the exit code, what is said, and the fix."""
    cause = error if isinstance(error, EndedError | KeyboardInterrupt) else error.__cause__  # click's Abort
    code = error.exit_code if isinstance(error, EndedError) else 130
    if _LOST in getattr(cause, "__notes__", ()):
        return code, f"stopped; {_LOST}", "run the same command again"
    if _ANSWERS in getattr(cause, "__notes__", ()):
        return code, f"stopped; {_ANSWERS}: the same command asks for none of them again", "run the same command again"
    return code, _SAID_KEPT, _KEPT
