"""Two texts that are one input: a premise and a hypothesis, a question and a passage, two sentences to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekd.core.errors import DataError, suggestion
from edgekd.data import limits
from edgekd.data.columns import find_column
from edgekd.data.read import NotedTable, Table

BETWEEN = " + "  # the names of the two columns, in the name of the one that they become
_MARK = " ¦ "


class Pair(str):
    """Two texts. As one text it is both with a bar between: what it is known by, and what a linear baseline reads."""

    first: str
    second: str

    @classmethod
    def of(cls, first: str, second: str) -> Pair:
        """Return the two as one input."""
        made = cls(f"{first}{_MARK}{second}")
        made.first, made.second = first, second
        return made

    def changed(self, first: str) -> Pair:
        """Return another first text beside the same second one."""
        return Pair.of(first, self.second)


def given_to_tokenizer(text: str) -> Any:
    """Return a text as a tokenizer's batch takes it: of a pair both, as a list.

    >>> given_to_tokenizer("a"), given_to_tokenizer(Pair.of("a", "b"))
    ('a', ['a', 'b'])
    """
    return [text.first, text.second] if isinstance(text, Pair) else text


def sides(texts: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return the first texts and the second ones; None where the texts are no pairs."""
    if not any(isinstance(text, Pair) for text in texts):
        return list(texts), None
    return [text.first if isinstance(text, Pair) else text for text in texts], [
        text.second if isinstance(text, Pair) else "" for text in texts
    ]


def with_pairs(
    tables: Mapping[str, Table], first: str | None, second: str | None, usual: Iterable[str], source: str
) -> dict[str, Table]:
    """Return the tables with one column of pairs in place of the two, where a `second` is named.

    Raises DataError where a table lacks one of the columns, or a row one of its sides.
    """
    if second is None:
        return dict(tables)
    if first == second:
        raise DataError(
            f"both sides of each pair are the column {second!r}",
            fix="name two columns: --text-column FIRST --text-pair-column SECOND",
        )
    return {
        split: _paired(table, first, second, tuple(usual), source if split == "all" else f"{source} ({split})")
        for split, table in tables.items()
    }


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
