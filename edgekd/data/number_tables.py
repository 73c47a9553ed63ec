"""Targets out of a table's cells: one column of numbers, several of them, or lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekd.core.errors import DataError
from edgekd.data.columns import LABEL_NAMES, find_column, values_of
from edgekd.data.limits import shown
from edgekd.data.numbers import Numbers
from edgekd.data.read import NotedTable, Table

NAMES = (*LABEL_NAMES, "score", "rating", "stars", "similarity", "similarity_score", "relevance", "value", "y")
BETWEEN = ","  # names of several columns
_MOST = 1e30  # beyond it squares of float32 are infinite


class Cells(dict[str, Any]):
    """The cells of several targets' columns, by name: one column holds them."""


def with_targets(tables: Mapping[str, Table], given: str | None, source: str) -> dict[str, Table]:
    """Return the tables with one column in place of several that `given` names, commas between; else as they are.

    Raises DataError for a name that no table has, or that is given twice.
    """
    if given is None or BETWEEN not in given or any(given in table[0] for table in tables.values()):
        return dict(tables)
    names = [name.strip() for name in given.split(BETWEEN)]
    if len(set(names)) < len(names):
        raise DataError(f"{source}: a target is named twice in {given!r}", fix="name each column once")
    made: dict[str, Table] = {}
    for split, table in tables.items():
        if split == "unlabelled" and not set(names) & set(table[0]):
            made[split] = table
            continue
        for name in names:
            find_column(name, (), list(table[0]), source, "label")
        rows = [
            {key: value for key, value in row.items() if key not in names}
            | {given: Cells({name: row.get(name) for name in names})}
            for row in table
        ]
        made[split] = NotedTable(rows, getattr(table, "notes", ()), getattr(table, "nameless", 0))
    return made


def find_targets(given: str | None, present: list[str], source: str, *, needed: bool) -> str:
    """Return the column of the target; empty where there is none and none is `needed`. Raises DataError."""
    if given is None and not needed and not {name.lower() for name in present} & set(NAMES):
        return ""
    return find_column(given, NAMES, present, source, "label")


def targets_of(row: Mapping[str, Any], column: str, where: str) -> Numbers | None:
    """Return a row's targets; None where it has none. Raises DataError for what is no finite number."""
    cell = row.get(column)
    names, cells = ([*cell], [*cell.values()]) if isinstance(cell, Cells) else ([column], [cell])
    if len(cells) == 1 and (several := values_of(cells[0])) is not None:
        cells, names = several, [f"{column} {number}" for number in range(1, len(several) + 1)]
        if not cells:
            raise DataError(f"{where}: the target {column!r} is an empty list", fix="give a number for each target")
    absent = [name for name, cell in zip(names, cells, strict=True) if cell is None or not str(cell).strip()]
    if len(absent) == len(cells):
        return None
    if absent:
        raise DataError(
            f"{where}: the target {absent[0]!r} is missing, and others of the row are there",
            fix="give all targets of a row, or none: it is unlabelled then",
        )
    return Numbers.of((_number(cell, name, where) for name, cell in zip(names, cells, strict=True)), names)


def _number(cell: Any, name: str, where: str) -> float:
    try:
        value = float(cell.item() if hasattr(cell, "item") else cell)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the target {name!r} is {shown(cell)}, which is no number",
            fix="give numbers, with a point; classes by name are another task: --task text-classification",
        ) from error
    if not math.isfinite(value) or abs(value) > _MOST:
        raise DataError(
            f"{where}: the target {name!r} is {shown(cell)}",
            fix="give a finite number; leave the cell empty where the target is unknown",
        )
    return value


def examples_of(table: Table, column: str, source: str) -> list[Numbers | None]:
    """Return the targets of a table's rows. Raises DataError with the row's number."""
    return [targets_of(row, column, f"{source}, row {number}") for number, row in enumerate(table, start=1)]
