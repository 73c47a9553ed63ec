"""Rows that stand in two roles, or twice in one: dropped and counted, or refused. By content, see `splits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.core.errors import DataError, counted
from edgekd.data.limits import shown
from edgekd.data.numbers import Numbers
from edgekd.data.tags import Tags

if TYPE_CHECKING:
    from edgekd.data.splits import Example, Label

_EXAMPLES = 3  # of inputs with two labels, in the note
MAX_LEAK = 0.05  # of the test or validation rows that also stand in training, before we refuse


def distinct(rows: Sequence[Example], seen: set[str], notes: list[str], noun: str, words: str) -> list[Example]:
    """The rows whose content is not in `seen` and came first; what falls away is noted: the noun counted, and words."""
    seen = set(seen)
    kept = []
    for row in rows:
        if row.content not in seen:
            seen.add(row.content)
            kept.append(row)
    if len(kept) < len(rows):
        notes.append(f"{counted(len(rows) - len(kept), noun)} {words}")
    return kept


def two_labels(given: Mapping[str, Sequence[Example]]) -> list[str]:
    """A note where one content has several labels, with how many such contents there are and up to three of them."""
    first: dict[str, Example] = {}
    labels: dict[str, list[Label]] = {}
    for rows in given.values():
        for row in rows:
            if row.label is None:
                continue
            before = first.setdefault(row.content, row)
            if row.label != before.label:
                others = labels.setdefault(row.content, [])
                if row.label not in others:
                    others.append(row.label)
    if not labels:
        return []
    examples = [
        f"{_called(first[content])}: {', '.join(_spelled(label) for label in (first[content].label, *others[:3]))}"
        for content, others in list(labels.items())[:_EXAMPLES]
    ]
    what = "input has" if len(labels) == 1 else "inputs have"
    kinds = {type(row.label) for row in first.values()}
    several = {Tags: "sequence of tags", tuple: "set of labels"}
    more = next((words for kind, words in several.items() if kind in kinds), "label")
    return [f"{len(labels)} {what} more than one {more} ({'; '.join(examples)}): the first of a split counts"]


def _spelled(label: Label | None) -> str:
    """A label in a message; of several names with plus signs between."""
    if isinstance(label, Tags):
        return shown(" ".join(label))
    if isinstance(label, Numbers):
        return ", ".join(f"{value:g}" for value in label)
    if not isinstance(label, tuple):
        return shown(label)
    return " + ".join(map(shown, label)) or "none"


def _called(row: Example) -> str:
    """A row in a message: its text, its file's name, or the start of its content's digest."""
    if isinstance(row.input, str):
        return shown(row.input)
    source = getattr(row.input, "source", None)
    return shown(source.name) if isinstance(source, Path) else f"content {row.content[:12]}"


def few_leaks(seen: Sequence[Example], held: Sequence[Example], name: str) -> None:
    """Raises DataError where more than MAX_LEAK of the rows held out are also seen in training."""
    contents = {row.content for row in held}
    leaked = contents & {row.content for row in seen}
    if len(leaked) > MAX_LEAK * max(1, len(contents)):
        raise DataError(
            f"{len(leaked)} of {len(contents)} distinct {name} rows also stand in training (texts with case, space and "
            f"the final mark folded): a figure on this {name} split would mean nothing",
            fix="remove repeated rows before splitting, or give one file and let edgekd split it by content",
        )


def outside(held: Sequence[Example], name: str, notes: list[str], *roles: Sequence[Example]) -> list[list[Example]]:
    """The rows of each role that are not among those held out; what falls away is noted."""
    inside = {row.content for row in held}
    kept = [[row for row in rows if row.content not in inside] for rows in roles]
    dropped = sum(map(len, roles)) - sum(map(len, kept))
    if dropped:
        notes.append(f"{counted(dropped, 'row')} dropped from training: in {name}, too")
    return kept


def check_calibration(calibration: Sequence[Example], held: Sequence[Example], name: str) -> None:
    """Raises DataError where a row that is given to calibrate on is also judged by: in test, or in selection."""
    contents = {row.content for row in held}
    shared = [row for row in calibration if row.content in contents]
    if shared:
        first = repr(shared[0].input) if isinstance(shared[0].input, str) else f"content {shared[0].content[:12]}"
        raise DataError(
            f"{len(shared)} of {len(calibration)} rows to calibrate on also stand in {name} (the first: {first}): "
            "a variant may not be judged by the rows that it was calibrated on",
            fix="leave these rows out, or leave --calibration out: rows are then held back for it",
        )
