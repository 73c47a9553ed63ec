"""Rows with several labels: lists, text with separators, a column of 0 and 1 for each label, vectors of 0 and 1.

A label set is a sorted tuple of names, each once. An empty list is a label, none of them; an empty cell is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from edgekd.core.errors import DataError, counted, listed
from edgekd.data.columns import LABEL_NAMES, row_label, spelt, values_of
from edgekd.data.limits import shown
from edgekd.data.read import NotedTable, Table
from edgekd.data.strata import SEPARATORS

NAMES = ("labels", "tags", "topics", "categories", "genres", "classes", *LABEL_NAMES)  # usual names of the column
_MOST_COLUMNS = 4  # that a description names
_HIDDEN = -1


@dataclass(frozen=True)
class Form:
    """How the rows of a source say which labels they have."""

    kind: str  # lists, vectors (of 0 and 1), columns (of 0 and 1), text
    separator: str = ""  # of text; empty: each cell is one name
    length: int = 0  # of vectors

    @property
    def words(self) -> str:
        """Return what was understood, for the plan."""
        if self.kind == "text":
            return f"text parted by {self.separator!r}" if self.separator else "one name a cell"
        return {
            "lists": "lists of names",
            "vectors": f"vectors of {self.length} zeros and ones, whose names are the numbers from 0",
            "columns": "a column of zeros and ones for each",
        }[self.kind]


class Marks(dict[str, Any]):
    """A row's cells of the columns that hold 0 or 1, by the label that each stands for."""


class LabelSetTable(NotedTable):
    """A table whose label column was looked at: `form` says how it is read."""

    def __init__(self, rows: Table, form: Form, of: Table, notes: Sequence[str] = ()) -> None:
        super().__init__(rows, (*getattr(of, "notes", ()), *notes), getattr(of, "nameless", 0))
        self.form = form


def with_label_sets(tables: dict[str, Table], given: str | None) -> dict[str, Table]:
    """Return the tables with one label column each, and how to read it; they stay as they are where none is found.

    `given` names a column, or several of 0 and 1 with commas between; else a column of a usual name is taken, else
    all columns, at least two, that hold 0 and 1 alone: these become one column. Raises DataError for a split that lacks
    some of these; `read` refuses all else.
    """
    first = tables.get("train") or next(iter(tables.values()))
    present = list(first[0])
    marked = [] if given is not None and given in present else _mark_columns(tables, given, present)
    if marked:
        return _with_marks(tables, marked)
    by_name = {name.lower(): name for name in reversed(present)}
    column = given if given is not None else next((by_name[name] for name in NAMES if name in by_name), None)
    if column not in present:
        return tables
    form = _form(row[column] for table in tables.values() for row in table if column in row)
    note = (f"labels of {column!r}: {form.words}; an empty cell is no label, [] is none of them",)
    return {split: LabelSetTable(table, form, table, note if table is first else ()) for split, table in tables.items()}


def read(cell: Any, form: Form | None, where: str) -> tuple[str, ...] | None:
    """Return a cell's labels; None where they are unknown. Raises DataError, naming `where`.

    With no `form` the cell is read by itself.
    """
    if isinstance(cell, Marks):
        return _of_marks(cell, where)
    form = form or _form([cell])
    values = _values(cell, form, where)
    if values is None:
        return None
    if form.kind == "vectors":
        return _of_vector(values, form, where)
    if any(isinstance(value, dict) or values_of(value) is not None for value in values):
        raise DataError(f"{where}: the label is {shown(cell)}, lists in a list", fix="give one list of names a row")
    if strange := _no_names(values):
        raise DataError(f"{where}: the label is {shown(cell)}, {strange[0]}", fix=strange[1])
    names = [row_label(value, where) for value in values]
    if None in names:
        raise DataError(f"{where}: of the labels {shown(cell)} one has no name", fix="leave it out of the list")
    if names == [str(_HIDDEN)] and form.kind == "lists":
        return None
    return tuple(sorted({name for name in names if name is not None}))


def _values(cell: Any, form: Form, where: str) -> Sequence[Any] | None:
    """Return the values in a cell, in its order; None of an empty one."""
    if isinstance(cell, dict) or (isinstance(cell, str) and isinstance(spelt(cell), dict)):
        raise DataError(
            f"{where}: the label is {shown(cell)}, an object", fix="give a list of the names that the row has"
        )
    found = values_of(cell)
    if found is not None:
        return found
    text = row_label(cell, where)
    if text is None:
        return None
    parts = text.split(form.separator) if form.kind == "text" and form.separator else [text]
    if _is_broken_list(text, parts, form):
        raise DataError(
            f"{where}: the label is {shown(cell)}, brackets around what is no list that can be read",
            fix='write lists as JSON does, ["a", "b"], or names with ; between them and no brackets',
        )
    return [part.strip() for part in parts if part.strip()]


def _is_broken_list(text: str, parts: Sequence[str], form: Form) -> bool:
    """Return whether brackets or `array(...)` enclose several names: in `[a];[b]` they belong to each."""
    several = len(parts) > 1 or form.kind != "text"
    enclosed = (text[0] + text[-1] in ("[]", "{}")) and text[-1] not in parts[0][1:]
    return several and (enclosed or (form.kind != "text" and text[0] in "[{") or text.startswith("array("))


def _no_names(values: Sequence[Any]) -> tuple[str, str] | None:
    """Return what is wrong with values that are no names, and what to do; None where they may be."""
    if "..." in values:
        return "whose middle was left out when it was written", "write it whole, as JSON does: [0, 1, 0]"
    shares = [value for value in values if isinstance(value, float) and not value.is_integer() and value == value]
    if shares:
        return f"where {shares[0]} is neither a name nor 0 or 1", "give 0 or 1 for each label, or the names as text"
    return None


def _form(cells: Iterable[Any]) -> Form:
    """Return how these cells are to be read, by all that they hold."""
    filled: list[Sequence[Any]] = []
    lists, separators = False, set[str]()
    for cell in cells:
        values = values_of(cell)
        lists = lists or (values is not None and not isinstance(cell, str))
        if values:
            filled.append(values)
        elif values is None and isinstance(cell, str):
            separators |= {mark for mark in SEPARATORS if mark in cell}
    if lists or filled:
        plain = [value for values in filled for value in values]
        if filled and all(_is_mark(value) or value in ("0", "1") for value in plain):
            lengths = Counter(map(len, filled))
            repeats = any(len({str(value) for value in values}) < len(values) for values in filled)
            if repeats or (len(lengths) == 1 and min(lengths) > 1 and all(map(_is_mark, plain))):
                return Form("vectors", length=lengths.most_common(1)[0][0])
        return Form("lists")
    return Form("text", separator=next((mark for mark in SEPARATORS if mark in separators), ""))


def _of_vector(values: Sequence[Any], form: Form, where: str) -> tuple[str, ...] | None:
    if len(values) != form.length:
        raise DataError(
            f"{where}: the label has {counted(len(values), 'value')} where others have {form.length}",
            fix="give each row a 0 or 1 for each label, or a list of the names that it has",
        )
    return _of_marks(Marks({str(number): value for number, value in enumerate(values)}), where)


def _of_marks(marks: Marks, where: str) -> tuple[str, ...] | None:
    """Return the names that are marked 1; None where all are empty, or -1: whoever published them keeps them hidden."""
    known = {name: _mark(value) for name, value in marks.items()}
    if set(known.values()) <= {None} or set(known.values()) == {_HIDDEN}:
        return None
    strange = next((name for name, value in known.items() if value not in (0, 1)), None)
    if strange is not None:
        raise DataError(
            f"{where}: {strange!r} is {shown(marks[strange])}, neither 0 nor 1",
            fix="give 0 or 1 for each label of a row, or leave all of them empty where its labels are unknown",
        )
    return tuple(sorted(name for name, value in known.items() if value == 1))


def _mark(value: Any) -> int | None:
    """Return a cell as 0, 1 or -1; None of an empty one, 2 of any other."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | dict | set) or (
        isinstance(value, str) and value.lstrip()[:1] in ("[", "{", "(")
    ):
        return 2
    known = {"0": 0, "1": 1, "-1": _HIDDEN, "false": 0, "true": 1, None: None}
    return known.get(row_label(value), 2)


def _is_mark(value: Any) -> bool:
    """Return whether a value of a list is the number 0, 1 or -1; "0" and "1" may be names, if none stands twice."""
    return isinstance(value, bool | int | float) and value in (0, 1, _HIDDEN)


def _mark_columns(tables: Mapping[str, Table], given: str | None, present: Sequence[str]) -> list[str]:
    """Return the columns of 0 and 1 that are the labels; none where the labels are said in another way."""
    if given is not None:
        named = [name.strip() for name in given.split(",")]
        return named if len(named) > 1 and set(named) <= set(present) else []
    rows = [row for table in tables.values() for row in table]
    fitting = [name for name in present if all(_mark(row.get(name)) != 2 for row in rows)]
    if any(name.lower() in NAMES and name not in fitting for name in present):
        return []  # a column of a usual name says it; one that holds 0 and 1 beside others is a label like them
    marked = [name for name in fitting if any(_mark(row.get(name)) is not None for row in rows)]
    return marked if len(marked) > 1 else []


def _with_marks(tables: Mapping[str, Table], names: Sequence[str]) -> dict[str, Table]:
    """Return the tables with one column of `Marks` in place of those columns, where they have them."""
    column = f"{listed(list(names), most=_MOST_COLUMNS)} (0 or 1)"
    counts = Counter(name for table in tables.values() for row in table for name in names if _mark(row.get(name)) == 1)
    notes = [f"labels: {Form('columns').words}, {len(names)} of them"]
    if empty := [name for name in names if not counts[name]]:
        notes.append(f"labels that no row has: {listed([*map(repr, empty)], most=_MOST_COLUMNS)}")
    made: dict[str, Table] = {}
    for split, table in tables.items():
        if 0 < len(lacking := [name for name in names if name not in table[0]]) < len(names) and split != "unlabelled":
            raise DataError(
                f"the split {split!r} has no column {lacking[0]!r}, which holds 0 and 1 in others",
                fix=f"add it, 0 where no row has the label; or name those that all have: --label-column "
                f"{quote(','.join(name for name in names if name not in lacking))}",
            )
        rows = [_folded(row, names, column) for row in table] if set(names) <= table[0].keys() else table
        made[split] = LabelSetTable(rows, Form("columns"), table, () if made else notes)
    return made


def _folded(row: Mapping[str, Any], names: Sequence[str], column: str) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in names}
    return kept | {column: Marks({name: row.get(name) for name in names})}


def folded_column(table: Table) -> str:
    """Return the column that columns of 0 and 1 became; empty where there is none."""
    return next((name for name, cell in table[0].items() if isinstance(cell, Marks)), "")
