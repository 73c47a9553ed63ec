"""Tables whose rows are pairs of texts: two columns become one of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgekd.core.errors import DataError, suggestion
from edgekd.data import limits
from edgekd.data.columns import LABEL_NAMES, find_column, find_label
from edgekd.data.pairs import BETWEEN, Pair
from edgekd.data.read import NotedTable, Table


def with_pairs(
    tables: Mapping[str, Table],
    first: str | None,
    second: str | None,
    usual: Iterable[str],
    source: str,
    *,
    label: str | None = None,
    label_names: Sequence[str] = LABEL_NAMES,
) -> dict[str, Table]:
    """Return the tables with one column of pairs in place of the two, where a `second` is named.

    Raises DataError where a table lacks one of the columns, or a row one of its sides; and where a side is the column
    that labels are read from: `label`, or the first of `label_names` that is there.
    """
    if second is None:
        return dict(tables)
    if first == second:
        raise DataError(
            f"both sides of each pair are the column {second!r}",
            fix="name two columns: --text-column FIRST --text-pair-column SECOND",
        )
    for table in tables.values():
        _check_no_label(first, second, list(table[0]), source, label, label_names)
    return {
        split: _paired(table, first, second, tuple(usual), source if split == "all" else f"{source} ({split})")
        for split, table in tables.items()
    }


def _check_no_label(
    first: str | None, second: str, present: list[str], source: str, label: str | None, names: Sequence[str]
) -> None:
    """Raise DataError where a side of the pairs is the labels' column."""
    labels = label.split(",") if label else [find_label(None, present, source, needed=False, usual=names)]
    for flag, side in (("text-column", first), ("text-pair-column", second)):
        if side and side in map(str.strip, labels):
            raise DataError(
                f"{source}: --{flag} {side}: that column holds the labels",
                fix=f"name the column of texts: --{flag} NAME"
                if label
                else f"name the column of texts: --{flag} NAME; where {side!r} holds texts, say which column holds the "
                "labels: --label-column NAME",
            )


def _paired(table: Table, first: str | None, second: str, usual: tuple[str, ...], source: str) -> Table:
    present = list(table[0])
    if second not in present:
        raise DataError(f"{source} has no column {second!r}", fix=suggestion(second, present))
    name = find_column(first, usual, [one for one in present if one != second], source, "text")
    both = f"{name}{BETWEEN}{second}"
    rows = []
    for number, row in enumerate(table, start=1):
        for side in (name, second):
            text = row.get(side)
            if not isinstance(text, str) or not text.strip():
                raise DataError(
                    f"{source}, row {number}: one side of the pair is missing: the column {side!r} holds "
                    f"{limits.shown(text)}",
                    fix="remove rows without both texts, or name other columns: --text-column, --text-pair-column",
                )
        others = {column: cell for column, cell in row.items() if column not in (name, second, both)}
        rows.append({both: Pair.of(row[name], row[second])} | others)
    return NotedTable(rows, getattr(table, "notes", ()), getattr(table, "nameless", 0))


def pair_column(table: Table) -> str | None:
    """Return the column that the two became; None where there is none."""
    return next((name for name, cell in table[0].items() if isinstance(cell, Pair)), None)
