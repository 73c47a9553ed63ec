"""Labelled time series from files: UCR's TSV, NumPy archives, and tables of numbers.

Every reader gives rows `{"series": float32 (steps, channels), "label": str}`, all of one length and all finite.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError, counted
from edgekd.core.files import user_path
from edgekd.data.arrays import BROKEN, declared_shape, unreadable
from edgekd.data.columns import find_label, row_label
from edgekd.data.limits import check_plain, shown
from edgekd.data.read import ColumnsRead, NotedTable, Table, read_tables
from edgekd.data.split_files import is_table

if TYPE_CHECKING:
    import numpy as np

SERIES, LABEL = "series", "label"
_USUAL = ("series", "values", "past_values", "signal", "x", "sequence")
_LEAST_STEPS = 8
_TIMES = ("time", "timestamp", "datetime", "date", "ts", "time_stamp")  # of a log, whose rows are steps
_COUNTERS = (
    "sec",
    "secs",
    "second",
    "seconds",
    "s",
    "ms",
    "millis",
    "us",
    "step",
    "steps",
    "t",
    "index",
    "idx",
    "id",
    "row",
    "frame",
    "sample",
    "tick",
    "elapsed",
    "sec_elapsed",
    "seconds_elapsed",
)
_COUNTED, _COUNTED_LONG = 3, 8  # rows that tell it: of values from 0 to 255 so many are even by chance once in 10^15
_UNEVEN = 0.05  # of the mean: a log's times are rounded
_PARTS = ("train", "validation", "test", "unlabelled")
_MORE_STEPS = (
    f"give at least {_LEAST_STEPS} steps a series; where a row is a time step of a log, cut windows: docs/series.md"
)
_ONE_LENGTH = (
    "bring all series to one length: cut them to the shortest, pad them with a value that means silence, or "
    "resample them (numpy.interp)"
)


def read_series(source: str, *, label_column: str | None = None) -> dict[str, Table]:
    """Tables by split: a folder with NAME_TRAIN.tsv and NAME_TEST.tsv, a file of that kind, an .npz, or a table.

    Rows lack a label where their file has no such column: the unlabelled need none.
    Raises DataError for series of unequal length, NaN, infinity, values that are no numbers, and Python objects.
    """
    path = user_path(source)
    named = sorted(path.glob("*_TRAIN.tsv")) if path.is_dir() else []
    if len(named) > 1:
        raise DataError(
            f"{path} holds {len(named)} training files: {', '.join(file.name for file in named[:4])}",
            fix="give a folder of one data set, or one of its files",
        )
    if not path.is_dir():
        check_plain(path)
    if path.is_file() and not is_table(path) and path.suffix.lower() != ".npz":
        raise DataError(
            f"cannot tell what {path} is",
            fix="give a UCR .tsv, a NumPy .npz (numpy.savez(path, x=..., y=...)), or .csv, .jsonl, .parquet",
        )
    if named:
        test = path / named[0].name.replace("_TRAIN", "_TEST")
        tables = {"train": _ucr(named[0])} | ({"test": _ucr(test)} if test.exists() else {})
    elif path.is_file() and path.suffix.lower() == ".npz":
        tables = _npz(path)
    elif path.is_file() and path.suffix.lower() == ".tsv" and _is_ucr(path):
        tables = {"all": _ucr(path)}
    else:
        tables = {
            part: _table(rows, f"{source} ({part})" if part != "all" else source, label_column, part)
            for part, rows in read_tables(source).items()
        }
        label_column = None
    if label_column is not None and any(LABEL in table[0] for table in tables.values()):
        raise DataError(
            f"{source} has no column {label_column!r}: UCR and NumPy files have no column names",
            fix="leave --label-column out",
        )
    _same_length(tables, source)
    return tables


def _is_ucr(path: Path) -> bool:
    check_plain(path)  # a file may be one line without end
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return not _has_header(stream)


def _has_header(lines: Iterable[str]) -> bool:
    """Whether the first line names columns: its second or last cell is no number, or its first is a word alone.

    Columns may be called 0, 1, 2; a class, where it is a word, begins more lines than one.
    """
    rest = iter(lines)
    first, *cells = next(rest, "").split("\t")
    if not cells or not _is_step(cells[0], None) or not _is_step(cells[-1], None):
        return True
    return not _is_step(first, None) and not any(line.startswith(f"{first}\t") for line in rest)


def _ucr(path: Path) -> Table:
    """The UCR archive's form: no header, tab-separated, the class first."""
    check_plain(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", fix="check the path; UCR files are plain text") from error
    if lines and _has_header(lines):
        raise DataError(
            f"{path}: the first line names columns, which UCR files do not",
            fix="remove that line, or call the files train.tsv and test.tsv",
        )
    rows: Table = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            label, *cells = line.split("\t")
            rows.append(
                {SERIES: _series(cells, f"{path}, line {number}"), LABEL: row_label(label, f"{path}, line {number}")}
            )
    return _filled(rows, path)


def _npz(path: Path) -> dict[str, Table]:
    """`x_train`, `y_train`, `x_test`, `y_test` and the like, or `x` and `y`; `y` may lack for `x_unlabelled`."""
    import numpy as np

    check_plain(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            for member in members:
                declared_shape(archive, member, path)  # refuses objects and what would not fit in memory
        names = {member.removesuffix(".npy").lower(): member.removesuffix(".npy") for member in members}
        wanted = {part: (f"x_{part}", f"y_{part}") for part in _PARTS if f"x_{part}" in names}
        if "train" not in wanted:
            wanted = {"all": ("x", "y")} if "x" in names else {}
        if not wanted:
            raise DataError(
                f"{path} holds the arrays {', '.join(sorted(names.values()))}, none of which we know",
                fix="name them x_train, y_train, x_test, y_test; or x and y",
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {
                part: _rows(arrays[names[x]], arrays[names[y]] if y in names else None, f"{path}, {names[x]}")
                for part, (x, y) in wanted.items()
            }
    except BROKEN as error:
        raise unreadable(path, error) from error


def _rows(values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None, where: str) -> Table:
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
        raise DataError(
            f"{where}: series of the shape {values.shape} and type {values.dtype}",
            fix="give numbers as (rows, steps) or (rows, steps, channels)",
        )
    if labels is not None and labels.shape not in ((len(values),), (len(values), 1)):
        raise DataError(f"{where}: {len(values)} series and labels of the shape {labels.shape}", fix="give one each")
    rows: Table = [{SERIES: _series(row, f"{where}, row {n}")} for n, row in enumerate(values, start=1)]
    if labels is not None:
        for row, label in zip(rows, labels.ravel().tolist(), strict=True):
            row[LABEL] = row_label(label, where)
    return _filled(rows, where)


def _table(table: Table, where: str, label_column: str | None, part: str) -> Table:
    """A table's rows: a column that holds lists of numbers, or else every column but the label's is a step."""
    present = list(table[0])
    try:
        label = find_label(label_column, present, where)
    except DataError:
        if label_column is not None and part not in ("all", "unlabelled"):
            raise
        label = None  # of unlabelled series; where labels are needed, the task refuses
    lists = [
        name
        for name in present
        if name != label and isinstance(table[0][name], Sequence) and not isinstance(table[0][name], str)
    ]
    usual = [name for name in lists if name.lower() in _USUAL]
    if len(lists) > 1 and len(usual) != 1:
        raise DataError(
            f"{where} has {counted(len(lists), 'column')} of lists: {', '.join(map(repr, lists))}",
            fix=f"keep one, or call it {_USUAL[0]}",
        )
    steps = [name for name in present if name != label]
    if not lists:
        _check_steps(table, steps, where)
    rows: Table = []
    for number, cells in enumerate(table, start=1):
        place = f"{where}, row {number}"
        value = cells.get((usual or lists)[0]) if lists else [cells.get(name) for name in steps]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise DataError(
                f"{place}: {shown(value)} where other rows have a list", fix="give every row a list of numbers"
            )
        rows.append({SERIES: _series(value, place, steps if not lists else ())})
        if label is not None:
            rows[-1][LABEL] = row_label(cells.get(label), place, "series")
    read = NotedTable(rows, getattr(table, "notes", ()))
    used = (usual or lists)[:1] or steps
    words = used[0] if len(used) == 1 else f"{used[0]} to {used[-1]} ({len(used)} steps)"
    read.columns = ColumnsRead(words, label or "", tuple(name for name in steps if name not in used))
    return read


def _check_steps(table: Table, steps: list[str], where: str) -> None:
    """Raises DataError where columns are not a series' steps: most have no name, or one counts the rows."""
    nameless = getattr(table, "nameless", 0)
    if nameless > len(steps):
        raise DataError(
            f"{where} has {counted(nameless, 'column')} without a name and {len(steps)} with one: which are steps "
            "is unknown",
            fix="name every step in the header line: t0, t1, t2",
        )
    for name in steps:
        usual = name.strip().lower()
        if usual in _TIMES:
            what = "a log with a row for each time step"
        elif _is_even(table, name, least=_COUNTED if usual in _COUNTERS else _COUNTED_LONG):
            what = "it increases evenly from row to row, as the time of a log does, or a row's number"
        else:
            continue
        raise DataError(
            f"{where} has the column {name!r}: {what}, not a row for each series",
            fix="cut the log into windows of one length and give a row a window, with its label: numpy.savez(path, "
            "x=windows, y=labels), x of the shape (windows, steps, channels); docs/series.md has the lines. Where a "
            "row is a series, remove that column",
        )


def _is_even(table: Table, name: str, *, least: int) -> bool:
    """Whether a column increases by the same from each of at least so many rows to the next."""
    import numpy as np

    if len(table) < least:
        return False
    try:
        values = np.asarray([float(row.get(name, "")) for row in table])
    except (TypeError, ValueError, OverflowError):
        return False
    steps = np.diff(values)
    mean = steps.mean()
    return bool(np.isfinite(values).all() and mean > 0 and np.abs(steps - mean).max() <= _UNEVEN * mean)


def _series(cells: Any, where: str, columns: Sequence[str] = ()) -> np.ndarray[Any, Any]:
    """Numbers as float32 (steps, channels). Raises DataError for what is no number, or not finite."""
    import numpy as np

    with np.errstate(over="ignore"):
        values = np.asarray(_numbers(cells, where, columns), dtype=np.float32)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) < _LEAST_STEPS or not values.shape[1]:
        raise DataError(f"{where}: a series of {counted(len(values), 'step')}", fix=_MORE_STEPS)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        _refuse_missing(values, bad, where)
    return values


def _numbers(cells: Any, where: str, columns: Sequence[str]) -> Any:
    """A number a step, or a list of numbers a step; arrays as they are. Raises DataError, naming the step."""
    if not isinstance(cells, Sequence):
        return cells
    channels = len(cells[0]) if cells and isinstance(cells[0], list) else None
    try:
        if channels is None:
            return [float(cell) for cell in cells]
        rows = [[float(cell) for cell in step] for step in cells]
        if all(len(row) == channels for row in rows):
            return rows
    except (TypeError, ValueError, OverflowError):
        pass  # the slow way finds where
    place = next(number for number, cell in enumerate(cells) if not _is_step(cell, channels))
    column = f"column {columns[place]!r}" if columns else f"step {place + 1}"
    wanted = "a number" if channels is None else f"a list of {channels} numbers"
    raise DataError(
        f"{where}: {column} holds {shown(cells[place])}, not {wanted}",
        fix="remove the column, or name the label's with --label-column" if columns else f"give every step {wanted}",
    )


def _is_step(cell: Any, channels: int | None) -> bool:
    try:
        numbers = [float(one) for one in ([cell] if channels is None else cell)]
    except (TypeError, ValueError, OverflowError):
        return False
    return len(numbers) == (channels or 1)


def _refuse_missing(values: np.ndarray[Any, Any], bad: np.ndarray[Any, Any], where: str) -> None:
    import numpy as np

    first, steps = int(bad[0]), len(values)
    if np.isnan(values[first:]).all():
        raise DataError(
            f"{where}: the last {steps - first} of {steps} steps are NaN, which is how UCR files mark a shorter series",
            fix=_ONE_LENGTH,
        )
    what = "NaN" if np.isnan(values[first]).any() else "infinity, or more than float32 can hold"
    raise DataError(
        f"{where}: step {first + 1} is {what}",
        fix="fill gaps before, for example with the value before (or drop the row)",
    )


def _same_length(tables: dict[str, Table], source: str) -> None:
    first: tuple[int, ...] | None = None
    for part, table in tables.items():
        for number, row in enumerate(table, start=1):
            first = first or row[SERIES].shape
            if row[SERIES].shape != first:
                where = f"{source} ({part})" if part != "all" else source
                unit = "steps" if row[SERIES].shape[0] != first[0] else "channels"
                own, other = (shape[unit == "channels"] for shape in (row[SERIES].shape, first))
                raise DataError(
                    f"{where}, row {number}: {own} {unit} where the first series has {other}", fix=_ONE_LENGTH
                )


def _filled(rows: Table, where: Any) -> Table:
    if not rows:
        raise DataError(f"{where} holds no series", fix="give a file with at least one row for each class")
    return rows
