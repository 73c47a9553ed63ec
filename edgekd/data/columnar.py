"""Parquet files and saved datasets, looked at in a limited process: how large they are, unpacked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError
from edgekd.data.limits import CELLS_OF_A_ROW, MOST_BYTES, MOST_CELLS, read_json

_ROWS = 128  # that are unpacked at once: a dictionary's long text may stand in each of them


def parquet(path: str) -> dict[str, int]:
    """Bytes and cells of a Parquet file (in a child process). Raises DataError where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = file.metadata
            size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            cells = about.num_rows * (about.num_columns + CELLS_OF_A_ROW)
            if size <= MOST_BYTES and cells <= MOST_CELLS:
                size, cells = _sum(file.iter_batches(batch_size=_ROWS, use_threads=False))
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise unreadable(Path(path), error) from error
    return {"bytes": size, "cells": cells}


def saved(path: str) -> dict[str, int]:
    """Bytes and cells of a saved Hugging Face dataset (in a child process). Raises DataError as `parquet`."""
    import pyarrow

    try:
        size, cells = _sum(_saved_batches(Path(path)))
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise unreadable(Path(path), error) from error
    return {"bytes": size, "cells": cells}


def _saved_batches(folder: Path) -> Iterator[Any]:
    import pyarrow

    for file in saved_files(folder):
        with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
            for batch in stream:
                batch.validate(full=True)
                yield batch


def _sum(batches: Iterable[Any]) -> tuple[int, int]:
    """Bytes and cells of record batches, up to where they are too many."""
    size, cells = 0, 0
    for batch in batches:
        size += batch.nbytes
        cells += CELLS_OF_A_ROW * batch.num_rows + sum(map(_values, batch.columns))
        if size > MOST_BYTES or cells > MOST_CELLS:
            break
    return size, cells


def _values(array: Any) -> int:
    """Values of a column, those in lists and structs counted too."""
    import pyarrow

    array = getattr(array, "storage", array)  # of an extension's type
    if not hasattr(array, "flatten"):
        return len(array)
    if isinstance(array, pyarrow.MapArray):
        array = array.cast(pyarrow.list_(pyarrow.struct([("k", array.type.key_type), ("v", array.type.item_type)])))
    inner = array.flatten()  # of a struct one array for each field
    return len(array) + sum(map(_values, inner if isinstance(inner, list) else [inner]))


def saved_files(folder: Path) -> list[Path]:
    """The data files that a saved dataset names. Raises ValueError for one that does not lie beside its state.json."""
    found = []
    about = folder / "dataset_dict.json"
    splits: Any = []
    if about.exists():
        said = _read(about)
        splits = said.get("splits") if isinstance(said, dict) else None
        if not isinstance(splits, list) or not all(isinstance(one, str) and Path(one).name == one for one in splits):
            raise ValueError(f"{about.name} names splits that are no folders beside it")
    for state in [folder / "state.json", *(folder / name / "state.json" for name in splits)]:
        if not state.exists():
            continue
        told = _read(state)
        names = [one.get("filename") for one in told.get("_data_files", ())] if isinstance(told, dict) else [None]
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"{state.name} names {name!r}, which is no file beside it")
            found.append(state.parent / name)
    return found


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of a file that is not what it should be."""
    kind = "a readable Parquet file" if path.suffix.lower() == ".parquet" else "a readable dataset"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path} is not {kind}: {reason}", fix="write the file again")
