"""Which rows are asked for, which keep the labels that they have, and the folder that `edgekd build --data` takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError, counted
from edgekd.data.answers import ANSWER, ANSWER_PROBABILITIES, GIVEN_LABEL, LABEL, LABELLED_BY, PROBABILITIES, TEXT
from edgekd.data.given import Given, read_given
from edgekd.data.leaks import distinct
from edgekd.data.limits import shown
from edgekd.data.splits import LEAST, TEST_SHARE, VALIDATION_SHARE, Example, Label, place_of
from edgekd.data.strata import stratified


@dataclass(frozen=True)
class Rows:
    """Rows by role. Of `train` those without a label are asked for; with `relabel` all of them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    relabel: bool
    notes: tuple[str, ...]

    @property
    def wanted(self) -> list[Example]:
        """The rows to ask for, in order."""
        return [row for row in self.train if self.relabel or row.label is None]

    @property
    def gold(self) -> list[Example]:
        """Rows with a label of their own: those of training first, those of the test last."""
        return [row for row in (*self.train, *self.validation, *self.test) if row.label is not None]

    @property
    def labels(self) -> list[str]:
        """The labels that rows have, in order."""
        return sorted({name for row in self.gold for name in row.names})

    @property
    def digest(self) -> str:
        """SHA-256 over every row and its role."""
        total = sha256()
        for part in (self.train, self.validation, self.test):
            for row in part:
                total.update(json.dumps([row.identity, row.label]).encode())
            total.update(b"\n")
        return total.hexdigest()


def read_rows(task: Any, source: str, *, relabel: bool) -> Rows:
    """A source's rows by role; one file is parted by content as `edgekd build` does it. Raises DataError.

    Where all training rows have a label, it is asked for all of them, as with `relabel`.
    """
    given, _, notes = read_given(task, source, None, classes=None, labelled=False)
    parts = _by_content(given["all"], notes) if "all" in given else given
    train = [*parts["train"], *(Example(row.input) for row in parts.get("unlabelled", []))]
    if not relabel and all(row.label is not None for row in train):
        relabel = True
        notes.append("all training rows have a label: the teacher is asked for each; theirs stand in given_label")
    rows = Rows(tuple(train), tuple(parts.get("validation", [])), tuple(parts.get("test", [])), relabel, tuple(notes))
    if not rows.wanted:
        raise DataError(f"{source} has no training row to label", fix="give rows without a label")
    for name in ("validation", "test"):
        loose = sum(row.label is None for row in getattr(rows, name))
        if loose:
            rows = replace(
                rows, notes=(*rows.notes, f"{counted(loose, f'{name} row')} without a label stay so: none is asked for")
            )
    return rows


def _by_content(rows: list[Example], notes: list[str]) -> Given:
    """Labelled rows go to the roles that `edgekd build` gives those of one file; the others are training rows."""
    first = sorted(rows, key=lambda row: row.label is None)  # of two of one content, that with a label
    kept = {id(row) for row in distinct(first, set(), notes, "repeated row", "dropped")}
    rows = [row for row in rows if id(row) in kept]
    parts: Given = {"train": [], "validation": [], "test": []}
    for row in rows:
        place = place_of(row) if row.label is not None else 1.0
        role = "test" if place < TEST_SHARE else "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"
        parts[role].append(row)
    if len(parts["test"]) >= LEAST["test"]:
        notes.append(f"one file: {len(parts['test'])} of its labelled rows are the test, by content hash")
        return parts
    labelled = sum(row.label is not None for row in rows)
    notes.append(
        f"one file with {labelled} labelled rows, too few to hold a test back: edgekd build will take test rows from "
        "all, and hold the student against the teacher's labels there"
    )
    return {"train": rows}


def draw_shots(rows: Rows, count: int, seed: int, before: Sequence[str]) -> tuple[Example, ...]:
    """Examples for the prompt: labelled training rows, stratified. Those of `before`, by hash, if they are still rows.

    Another choice would be another prompt, under which every row is asked anew. Raises DataError for too few.
    """
    able = [row for row in rows.train if row.label is not None]
    if len(able) < count:
        raise DataError(
            f"{count} examples for the prompt are asked for, and {len(able)} training rows have a label",
            fix=f"give --shots {len(able)}, or label more training rows",
        )
    known = {row_sha256(row): row for row in able}
    if len(before) == count and known.keys() >= set(before):
        return tuple(known[one] for one in before)
    return tuple(stratified(able, count, seed)[:count]) if count else ()


def row_sha256(row: Example) -> str:
    """SHA-256 of a row and its label."""
    return sha256(json.dumps([row.identity, row.label]).encode()).hexdigest()


@dataclass(frozen=True)
class Answered:
    """What the teacher said of a row: a label or none, and its probabilities where it gave them."""

    label: Label | None
    probabilities: dict[str, float] | None = None


def labelled_line(row: Example, answered: Answered | None) -> str:
    """A row as a line of JSON, with the label that it came with; beside it the teacher's answer, where there is one."""
    said: dict[str, object] = {TEXT: row.input, LABEL: row.label}
    said |= {LABELLED_BY: "data" if row.label is not None else None}
    if answered is not None:
        said |= {ANSWER: answered.label, ANSWER_PROBABILITIES: answered.probabilities}
    return _line(said)


def train_line(row: Example, answered: Answered | None) -> str:
    """A training row that the teacher labels as a line of JSON; the label that it had stands beside its answer's."""
    label, soft = (None, None) if answered is None else (answered.label, answered.probabilities)
    said: dict[str, object] = {TEXT: row.input, LABEL: label}
    said |= {LABELLED_BY: None if label is None else "api", PROBABILITIES: soft}
    if row.label is not None:
        said[GIVEN_LABEL] = row.label
    return _line(said)


def _line(values: dict[str, object]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def name_of(source: str) -> str:
    """The source's last part: no path of this machine reaches the folder."""
    return shown(Path(source).name or source)[1:-1]
