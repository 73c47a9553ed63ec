"""Which column of a table holds what, by its name where the user does not say."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from edgekd.core.errors import DataError, listed, suggestion

_LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent", "sentiment", "fine_label")


def find_column(given: str | None, usual: Sequence[str], present: list[str], source: str, what: str) -> str:
    """The column that is given, or the first usual name that is there. Raises DataError, naming the columns."""
    if given is not None:
        if given not in present:
            raise DataError(f"{source} has no column {given!r}", fix=suggestion(given, present))
        return given
    by_name = {name.lower(): name for name in present}
    found = [by_name[name] for name in usual if name in by_name]
    if not found:
        raise DataError(
            f"{source} has no {what} column by a usual name; its columns are {listed([*map(repr, present)])}",
            fix=_separate(present) or f"name it: --{what}-column {shlex.quote(present[0]) if present else 'NAME'}",
        )
    return found[0]


def _separate(present: list[str]) -> str:
    """What to do where the header is one cell that another delimiter would cut; else nothing."""
    if len(present) != 1 or not set(present[0]) & set(";|\t"):
        return ""
    return "separate the columns by commas, or by tabs in a file that ends in .tsv"


def find_label(given: str | None, present: list[str], source: str, *, needed: bool = True) -> str:
    """The label's column; empty where there is none by a usual name and none is `needed`. Raises DataError."""
    if not needed and given is None and not {name.lower() for name in present} & set(_LABEL_NAMES):
        return ""
    return find_column(given, _LABEL_NAMES, present, source, "label")


def row_label(value: Any) -> str | None:
    """A cell as a class name; None where it is empty: a row without a label."""
    return None if value is None or str(value).strip() == "" else str(value).strip()
