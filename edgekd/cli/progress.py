"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from edgekd.cli.printing import echo, one_line, visible
from edgekd.core.protocols import Progress

STAGES = ("size", "teach", "distill", "export", "compress", "measure", "ship")
_EVERY_S = 10.0  # between plain lines of one stage


@contextlib.contextmanager
def shown_on_stderr() -> Iterator[Progress]:
    """A Progress for the length of the block."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich import progress as bars
    from rich.console import Console

    # no markup: a name with [red] in it, or [link=...], is a name
    title = bars.TextColumn("{task.description}", style="progress.description", markup=False)
    note = bars.TextColumn("{task.fields[note]}", markup=False)
    columns = (title, bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn(), note)
    with bars.Progress(*columns, console=Console(stderr=True)) as shown:
        yield _Bars(shown)


def _title(name: str) -> str:
    """`[2/7] teach: ...`: how far the whole is."""
    kind = name.partition(":")[0]
    return f"[{STAGES.index(kind) + 1}/{len(STAGES)}] {name}" if kind in STAGES else name


class _Lines:
    """Plain lines: one as a stage begins, one every ten seconds with what is left."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.began = self.last = time.monotonic()
        self.start = time.monotonic()

    def stage(self, name: str, total: int | None = None) -> None:
        self.total, self.began, self.last = total, time.monotonic(), time.monotonic()
        echo(f"{self.began - self.start:5.0f} s  {one_line(_title(name))}", err=True)

    def step(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < _EVERY_S:
            return
        self.last = now
        if not self.total:  # nobody knows how many there are
            echo(f"{now - self.start:5.0f} s    {done}: {note}", err=True)
            return
        left = (now - self.began) / max(done, 1) * (self.total - done)
        echo(f"{now - self.start:5.0f} s    {done}/{self.total}, about {left:.0f} s left  {note}", err=True)

    def say(self, line: str) -> None:
        echo(f"{time.monotonic() - self.start:5.0f} s  {line}", err=True)


class _Bars:
    """A bar for each stage."""

    def __init__(self, shown: Any) -> None:
        self.shown, self.task = shown, None

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self.task = self.shown.add_task(one_line(_title(name)), total=total, note="")

    def step(self, done: int, note: str = "") -> None:
        if self.task is not None:
            self.shown.update(self.task, completed=done, note=one_line(note))

    def say(self, line: str) -> None:
        self.shown.console.print(visible(line), markup=False, highlight=False, emoji=False)

    def _finish(self) -> None:
        if self.task is not None:
            whole = self.shown.tasks[self.task].total or 1
            self.shown.update(self.task, total=whole, completed=whole, note="")
