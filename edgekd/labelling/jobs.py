"""What is asked: the pilot's rows, then all rows, and some of either twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from edgekd.data.splits import Example
from edgekd.labelling.asking import Job
from edgekd.labelling.rows import Rows

PILOT_REPEATS = 10
_A_REPEAT, _MOST_REPEATS = 100, 100  # rows for each repeat of the bulk


def pilot_order(row: Example) -> bytes:
    """What rows are sorted by before some of them are taken: the same of the same rows."""
    return sha256(f"pilot {row.content}".encode()).digest()


def pilot_jobs(chosen: Sequence[Example]) -> list[Job]:
    """The pilot's rows, then some of them again."""
    return [Job(row.input) for row in chosen] + [Job(row.input, 1) for row in chosen[:PILOT_REPEATS]]


def bulk_jobs(rows: Rows) -> Iterator[Job]:
    """All rows in order, and among them, evenly, repeats of those at half of the way there."""
    wanted = rows.wanted
    repeats = min(_MOST_REPEATS, len(wanted) // _A_REPEAT)
    step = len(wanted) // repeats if repeats else len(wanted) + 1
    for place, row in enumerate(wanted, start=1):
        yield Job(row.input)
        if place % step == 0 and place // step <= repeats:
            yield Job(wanted[place // 2].input, 1)


def compared_jobs(rows: Rows, count: int, shots: Sequence[Example] = ()) -> list[Job]:
    """At most `count` test rows with a label of their own: more of them hold fewer ones, and first a pilot's."""
    shown = {shot.content for shot in shots}
    able = [row for row in rows.test if row.label is not None and row.content not in shown]
    able.sort(key=pilot_order)
    return [Job(row.input) for row in able[:count]]
