"""From a task's tables to examples by split, as the data give them: nothing is split or dropped yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekd.core.errors import DataError, suggestion
from edgekd.data.columns import row_label
from edgekd.data.limits import shown
from edgekd.data.numbers import Numbers
from edgekd.data.read import ColumnsRead
from edgekd.data.splits import Example, Label
from edgekd.data.tags import Tags

Given = dict[str, list[Example]]


class Columns(NamedTuple):
    """The columns of the task's tables that hold inputs and labels (empty: none), and those of the source itself."""

    input: str
    label: str
    read: ColumnsRead


HIDDEN = "-1"  # the label of a test row whose class its publisher keeps to itself


def read_given(
    task: Any, source: str, unlabelled: str | None, *, classes: Sequence[str] | None, labelled: bool
) -> tuple[Given, Columns, list[str]]:
    """Examples by split or as `all`, the columns that they come from, and notes of what reading left out.

    Rows need no labels where they need not be `labelled`: the label column may then lack, and is called empty.
    `unlabelled` is a source of more inputs. Raises DataError.
    """
    tables = task.read(source)
    first = tables.get("train") or tables["all"]
    columns = _columns(task, tables, source, labelled=labelled)
    own = ColumnsRead(columns[0], columns[1], tuple(name for name in first[0] if name not in columns))
    read = getattr(first, "columns", None) or own
    given: Given = {}
    for part, table in tables.items():
        where = f"{source} ({part})" if part != "all" else source
        absent = [column for column in columns if column and column not in table[0]]
        if part != "unlabelled" and absent and (labelled or absent[0] == columns[0]):
            raise DataError(f"{where} has no column {absent[0]!r}", fix=suggestion(absent[0], table[0]))
        given[part] = task.examples(table, columns, where, labelled=part != "unlabelled" and bool(columns[1]))
    notes = [note for table in tables.values() for note in getattr(table, "notes", ())]
    if unlabelled:
        extra, more = read_inputs(task, unlabelled, column=columns[0])
        given["unlabelled"] = given.get("unlabelled", []) + extra
        notes += more
    if "all" in given and "unlabelled" in given:
        given["all"] = given["all"] + given.pop("unlabelled")
    notes += _hide(given, classes or ())
    if classes is not None:
        given = {part: _by_number(rows, classes) for part, rows in given.items()}
    return given, Columns(columns[0], columns[1], read), notes


def _columns(task: Any, tables: Mapping[str, Any], source: str, *, labelled: bool) -> tuple[str, str]:
    """The columns of the training rows. Where those need no labels and have none, validation or test may name theirs.

    Raises DataError.
    """
    own: tuple[str, str] | None = None
    why: DataError | None = None
    others = [] if labelled else [tables[part] for part in ("validation", "test") if tables.get(part)]
    for table in (tables.get("train") or tables["all"], *others):
        try:
            found: tuple[str, str] = task.columns(table, source, labelled=labelled)
        except DataError as error:
            why = why or error
            continue
        own = own or found
        if found[1]:
            return own[0], found[1]
    if own is None:
        assert why is not None, "a table was asked"
        raise why
    return own


def _hide(given: Given, classes: Sequence[str]) -> list[str]:
    """Take the labels from a test split that only says -1, in place; a note of it. The one rule of all readers.

    Where -1 is one of the `classes`, or of the labels of another split, it is a class like others (UCR's FordA).
    """
    labels = {part: {row.names for row in rows if row.label is not None} for part, rows in given.items()}
    elsewhere = {name for part, found in labels.items() if part != "test" for names in found for name in names}
    if labels.get("test") != {(HIDDEN,)} or HIDDEN in elsewhere.union(classes):
        return []
    count = sum(row.label is not None for row in given["test"])
    given["test"] = [Example(row.input) for row in given["test"]]
    return [f"{count} test rows have the label {HIDDEN}, which is no class of the other rows: read as hidden, no label"]


def read_inputs(task: Any, source: str, *, column: str | None = None) -> tuple[list[Example], list[str]]:
    """Inputs alone, of a source's unlabelled rows or else its training rows, and notes; labels are not read.

    `column` is the inputs' where the source has it, else it is found by its name. Raises DataError.
    """
    tables = task.read(source)
    table = tables.get("unlabelled") or tables.get("all") or tables["train"]
    notes = list(getattr(table, "notes", ()))
    if column not in table[0]:
        column, other = task.input_column(table, source), column
        if other is not None:
            notes.append(f"{Path(source).name}: the inputs are its column {shown(column)}")
    return task.examples(table, (column, column), source, labelled=False), notes


def without_labels(given: Given) -> Given:
    """The same rows, their labels forgotten."""
    return {part: [Example(row.input) for row in rows] for part, rows in given.items()}


def class_names(given: Given) -> tuple[str, ...]:
    """The labels there are, in order: numbers by their value."""
    found = {name for rows in given.values() for row in rows for name in row.names}
    return tuple(
        sorted(found, key=lambda name: (int(name), name) if found and all(map(str.isdecimal, found)) else name)
    )


def _by_number(rows: list[Example], known: Sequence[str]) -> list[Example]:
    """Labels given as class numbers become the teacher's names for them."""
    tagged = any(isinstance(row.label, Tags) for row in rows)
    seen = {name for row in rows for name in (row.label or () if isinstance(row.label, Tags) else row.names)}
    if tagged and seen - {str(number) for number in range(len(known))}:
        return rows  # tags by name: of any scheme, whatever the teacher's
    by_rule = {row_label(name): name for name in known}  # a teacher may call a class "True", or "1.0"
    if not seen <= set(known) and seen <= set(by_rule) and len(by_rule) == len(known):
        return [Example(row.input, _renamed(row.label, lambda name: by_rule[name])) for row in rows]
    if seen <= set(known) or not seen <= {str(number) for number in range(len(known))}:
        return rows
    return [Example(row.input, _renamed(row.label, lambda name: known[int(name)])) for row in rows]


def _renamed(label: Label | None, other: Callable[[str], str]) -> Label | None:
    """Return a label with other names, those of several in order."""
    if isinstance(label, Tags):
        return Tags.of(map(other, label))
    if isinstance(label, Numbers):
        return label
    if isinstance(label, tuple):
        return tuple(sorted(map(other, label)))
    return None if label is None else other(label)
