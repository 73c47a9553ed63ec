"""Parquet files and saved datasets, looked at in a limited process: how large they are, unpacked."""

from __future__ import annotations

from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.data.limits import MOST_BYTES, read_json

_ROWS = 128  # that are unpacked at once: a dictionary's long text may stand in each of them


def parquet(path: str) -> dict[str, int]:
    """Bytes and cells of a Parquet file (in a child process). Raises DataError where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = file.metadata
            size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            cells = about.num_rows * about.num_columns
            if size <= MOST_BYTES:
                size = 0
                for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                    size += batch.nbytes
                    if size > MOST_BYTES:
                        break
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise unreadable(Path(path), error) from error
    return {"bytes": size, "cells": cells}


def saved(path: str) -> dict[str, int]:
    """Bytes and cells of a saved Hugging Face dataset (in a child process). Raises DataError as `parquet`."""
    import pyarrow

    bytes_, cells = 0, 0
    try:
        for file in saved_files(Path(path)):
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                for batch in stream:
                    batch.validate(full=True)
                    bytes_, cells = bytes_ + batch.nbytes, cells + batch.num_rows * max(1, batch.num_columns)
                    if bytes_ > MOST_BYTES:
                        break
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise unreadable(Path(path), error) from error
    return {"bytes": bytes_, "cells": cells}


def saved_files(folder: Path) -> list[Path]:
    """The data files that a saved dataset names. Raises ValueError for one that does not lie beside its state.json."""
    found = []
    for state in [folder / "state.json", *sorted(folder.glob("*/state.json"))]:
        if not state.exists():
            continue
        told = read_json(state)
        names = [one.get("filename") for one in told.get("_data_files", ())] if isinstance(told, dict) else [None]
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"{state.name} names {name!r}, which is no file beside it")
            found.append(state.parent / name)
    return found


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of a file that is not what it should be."""
    kind = "a readable Parquet file" if path.suffix == ".parquet" else "a readable dataset"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path} is not {kind}: {reason}", fix="write the file again")
