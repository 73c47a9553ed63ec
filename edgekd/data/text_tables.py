"""Rows out of a table's text: cells parted by a delimiter, JSON lines, a list of JSON objects."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError, counted
from edgekd.data import limits, unpacked

Table = list[dict[str, Any]]

NAMELESS = re.compile(r"\s*|Unnamed: \d+(\.\d+)*|__index_level_\d+__")  # of a column: an index, as pandas writes it
_LONGEST = 16 << 20  # characters of a cell, and of a line of JSON


def with_all_columns(table: Table) -> Table:
    """The first row, by which columns are found, gets the keys of all rows: a label may lack in it."""
    if table:
        table[0] = dict.fromkeys(key for row in table for key in row) | table[0]
    return table


def json_list(path: Path, text: str) -> Table:
    """A `.json` file: one list of objects, or, as some write it, one object a line. Raises DataError."""
    if not text.lstrip().startswith("["):
        return json_lines(path, text)
    try:
        rows = json.loads(text, object_pairs_hook=_once)
        size = limits.Cells(path)
        for number, row in enumerate(rows, start=1):
            size.add(limits.json_values(row))
            if not isinstance(row, dict):
                raise DataError(f"{path}, entry {number}: not a JSON object", fix="give a list of objects")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})", fix="give a list of objects, or .jsonl") from error
    if "\\u" in text and any(map(limits.has_odd_text, rows)):
        raise DataError(f"{path} holds half a character (a lone surrogate)", fix="write the text as UTF-8")
    table: Table = rows
    return table


_QUOTES = "quote cells that hold the delimiter, and escape quotes by doubling them"
_NO_QUOTES = "write one tab between two cells, and no tab inside a cell: .tsv has no quotes; .csv and .jsonl have"


def delimited(path: Path, text: str, delimiter: str) -> Table:
    """Rows of a .csv or .tsv; columns without a name are called as pandas calls them. Raises DataError."""
    csv.field_size_limit(_LONGEST)
    tabs = unpacked.kind_of(path) == ".tsv"
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,  # TSV has no quoting (IANA)
        strict=True,
    )
    try:
        header = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(next(reader, []))]
        named = Counter(name for name in header if not NAMELESS.fullmatch(name))
        name, times = next(iter(named.most_common(1)), ("", 1))
        if times > 1:
            raise DataError(
                f"{path} has {times} columns called {limits.shown(name)}", fix="rename them in the header line"
            )
        rows: Table = []
        size = limits.Cells(path)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {counted(len(cells), 'cell')} where the header names "
                    f"{len(header)}",
                    fix=_NO_QUOTES if tabs else _QUOTES,
                )
            size.add(len(cells))
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", fix="check the quotes on that line") from error
    return rows


def json_lines(path: Path, text: str) -> Table:
    """One JSON object a line. Raises DataError."""
    rows: Table = []
    size = limits.Cells(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > _LONGEST:
            raise DataError(f"{path}, line {number}: {len(line):,} characters", fix="one JSON object a line")
        try:
            row = json.loads(line, object_pairs_hook=_once)
            size.add(limits.json_values(row))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})", fix="one JSON object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object", fix="one JSON object a line")
        if "\\u" in line and limits.has_odd_text(row):
            raise DataError(
                f"{path}, line {number}: it holds half a character (a lone surrogate)",
                fix="write the text as UTF-8: json.dumps(row, ensure_ascii=False)",
            )
        rows.append(row)
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ. Raises ValueError, since the last of two would win in silence."""
    made = dict(pairs)
    if len(made) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {limits.shown(name)} stands there twice")
    return made
