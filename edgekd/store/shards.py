"""Rows of arrays on disk, in shards: appended once, resumed after a kill, read at random in constant memory.

A shard is an ordinary safetensors file. An array of one shape in all of its rows lies in it as (rows, ...); one whose
first axis differs from row to row lies end to end, with `NAME.sizes` (rows,) beside it.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import StoreError
from edgekd.core.files import write_file

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

INDEX = "index.json"
_SCHEMA = 1
_DTYPES = {"F16": "float16", "F32": "float32", "I32": "int32", "I64": "int64"}  # safetensors' names: NumPy's
_BYTES = {"F16": 2, "F32": 4, "I32": 4, "I64": 8}
_SIZES = ".sizes"
_HEADER_MOST = 100 << 20  # bytes: what safetensors itself accepts


class Writer:
    """Appends rows to a folder; goes on after the whole shards that an earlier run left there.

    A row is one array for each name, the names always the same. Arrays of a name share their dtype (float16, float32,
    int32 or int64) and their shape but for the first axis. One writer a folder at a time.
    """

    def __init__(self, folder: Path, rows_per_shard: int = 1024) -> None:
        self.folder, self.rows_per_shard = folder, rows_per_shard
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        for litter in folder.glob(".*.new-*"):  # of a killed writer: there is one at a time
            litter.unlink()
        self._shards, self._layout = _whole_shards(folder)
        for damaged in sorted(folder.glob("*.safetensors"))[len(self._shards) :]:
            damaged.unlink()
        self._rows: list[dict[str, Array]] = []

    @property
    def done(self) -> int:
        """Rows in whole shards: a run that was interrupted goes on with this one."""
        return sum(self._shards)

    def append(self, arrays: Mapping[str, Array]) -> None:
        """One more row, copied; the shard is written when it is full."""
        row = {name: values.copy(order="C") for name, values in arrays.items()}
        layout = {name: (values.dtype.name, values.shape[1:]) for name, values in row.items()}
        self._layout = self._layout or layout
        assert layout == self._layout, f"a row of {layout} among rows of {self._layout}"
        assert all(values.ndim and values.dtype.name in _DTYPES.values() for values in row.values())
        assert row, "a row of nothing"
        assert not any(name.endswith(_SIZES) for name in row)
        self._rows.append(row)
        if len(self._rows) == self.rows_per_shard:
            self._write()

    def close(self) -> None:
        """Write what is left, and the index that a `Reader` needs. Nothing may be appended afterwards."""
        if self._rows:
            self._write()
        names = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in sorted(self._layout.items())}
        index = {"schema": _SCHEMA, "rows": self.done, "shards": self._shards, "names": names}
        write_file(self.folder / INDEX, (json.dumps(index, indent=1) + "\n").encode())

    def _write(self) -> None:
        import numpy as np
        from safetensors.numpy import save

        tensors = {}
        for name in self._layout:
            values = [row[name] for row in self._rows]
            sizes = np.array([len(value) for value in values], dtype=np.int64)
            if (sizes == sizes[0]).all():
                tensors[name] = np.stack(values)
            else:
                tensors |= {name: np.concatenate(values), f"{name}{_SIZES}": sizes}
        content = save(tensors, metadata={"rows": str(len(self._rows))})
        write_file(self.folder / _shard_name(len(self._shards)), content)
        self._shards.append(len(self._rows))
        self._rows = []


class Reader:
    """The rows of a closed folder, by number. Raises StoreError where a file is not what the index says.

    Files are read at offsets, never mapped: mapped pages count in a process's RSS, which must stay the same however
    many rows there are. Held are one int64 a row for each name whose first axis differs, and a few numbers a shard.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.folder = folder
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            names = {name: (told["dtype"], tuple(told["shape"])) for name, told in index["names"].items()}
            shards: list[int] = index["shards"]
            matches = index["schema"] == _SCHEMA and sum(shards) == index["rows"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unusable(folder / INDEX, "it is missing or damaged: the rows were never finished") from error
        if not matches:
            raise _unusable(folder / INDEX, "it contradicts itself, or is of another version")
        self.firsts = np.cumsum([0, *shards])  # of each shard: the number of its first row
        parts = [_Shard(folder / _shard_name(number), names, rows) for number, rows in enumerate(shards)]
        self._columns = {name: _Column(dtype, shape, name, parts) for name, (dtype, shape) in names.items()}

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """What each row holds."""
        return tuple(self._columns)

    def rows(self, numbers: Sequence[int], only: Collection[str] | None = None) -> dict[str, Any]:
        """These rows, in this order, by name: an array (numbers, ...) where all rows of the folder have one shape.

        Else a list of arrays, one a row. Of `only` those names, where they are given. Raises IndexError for a number
        that is no row's, and StoreError.
        """
        import numpy as np

        wanted = np.asarray(numbers, dtype=np.int64)
        if ((wanted < 0) | (wanted >= len(self))).any():
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        columns = {name: column for name, column in self._columns.items() if only is None or name in only}
        found = {name: column.room(wanted) for name, column in columns.items()}
        shards = np.searchsorted(self.firsts, wanted, side="right") - 1
        for shard in np.unique(shards).tolist():
            file, first = self.folder / _shard_name(shard), int(self.firsts[shard])
            places = np.flatnonzero(shards == shard)
            try:
                handle = os.open(file, os.O_RDONLY)
                try:
                    for name, column in columns.items():
                        for place in places:
                            column.read(handle, shard, first, int(wanted[place]), found[name][place])
                finally:
                    os.close(handle)
            except (OSError, ValueError) as error:
                raise _unusable(file, f"it cannot be read any more: {error}") from error
        return found


class _Column:
    """Where the values of one name lie."""

    def __init__(self, dtype: str, shape: tuple[int, ...], name: str, parts: Sequence[_Shard]) -> None:
        """`shape` is a row's without its first axis."""
        import numpy as np

        self.dtype, self.shape = np.dtype(dtype), shape
        self.width = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize  # bytes of one entry of the first axis
        self.begins = [part.begins[name] for part in parts]
        sizes = [part.sizes[name] for part in parts]
        fixed = {size for size in sizes if isinstance(size, int)}
        self.size = fixed.pop() if len(fixed) == 1 and all(isinstance(size, int) for size in sizes) else None
        if self.size is None:
            each = [np.broadcast_to(size, part.rows) for size, part in zip(sizes, parts, strict=True)]
            self.offsets = np.concatenate([[0], *each]).cumsum(dtype=np.int64)

    def room(self, rows: Array) -> Any:
        """Space for the values of these rows."""
        import numpy as np

        if self.size is not None:
            return np.empty((len(rows), self.size, *self.shape), dtype=self.dtype)
        sizes = self.offsets[rows + 1] - self.offsets[rows]
        return [np.empty((size, *self.shape), dtype=self.dtype) for size in sizes]

    def read(self, handle: int, shard: int, first: int, row: int, out: Array) -> None:
        """Fill `out` with a row of a shard whose first row is `first`. Raises ValueError where the file is short."""
        import numpy as np

        start = (row - first) * self.size if self.size is not None else int(self.offsets[row] - self.offsets[first])
        raw = os.pread(handle, out.nbytes, self.begins[shard] + start * self.width)
        if len(raw) != out.nbytes:
            raise ValueError("it is cut short")
        out[...] = np.frombuffer(raw, dtype=self.dtype).reshape(out.shape)


class _Shard:
    """What a shard's header says; raises StoreError where that is not `rows` rows of `names`."""

    def __init__(self, file: Path, names: Mapping[str, tuple[str, tuple[int, ...]]], rows: int) -> None:
        self.rows = rows
        self.begins: dict[str, int] = {}  # bytes from the file's start
        self.sizes: dict[str, int | Array] = {}  # of the first axis: of every row, or (rows,)
        try:
            header, start = read_header(file)
            if _layout_of(header) != names or int(header["__metadata__"]["rows"]) != rows:
                raise ValueError("it holds other rows than the index says")
            for told in (told for name, told in header.items() if name != "__metadata__"):
                begin, end = told["data_offsets"]
                if math.prod(told["shape"]) * _BYTES[told["dtype"]] != end - begin:
                    raise ValueError("its header contradicts itself")
            for name in names:
                self.begins[name] = start + header[name]["data_offsets"][0]
                self.sizes[name] = _sizes_of(file, header, start, name)
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise _unusable(file, str(error)) from error


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data begin. Raises ValueError where the size is not what it says.

    Also whatever a damaged header leads to: OSError, KeyError, TypeError, struct.error.
    """
    with file.open("rb") as stream:
        size = struct.unpack("<Q", stream.read(8))[0]
        if size > min(_HEADER_MOST, file.stat().st_size):
            raise ValueError("its header is longer than the file")
        raw = stream.read(size)
    try:
        header: dict[str, Any] = json.loads(raw)
        ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
    except (RecursionError, AttributeError, IndexError) as error:
        raise ValueError(f"its header is none: {error}") from error
    if 8 + size + max(ends, default=0) != file.stat().st_size:
        raise ValueError("it is cut short, or has bytes that no tensor owns")
    return header, 8 + size


def _sizes_of(file: Path, header: Mapping[str, Any], start: int, name: str) -> int | Array:
    import numpy as np

    beside = header.get(f"{name}{_SIZES}")
    if beside is None:
        return int(header[name]["shape"][1])
    begin, end = beside["data_offsets"]
    sizes: Array = np.fromfile(file, dtype=np.int64, count=(end - begin) // 8, offset=start + begin)
    rows, total = int(header["__metadata__"]["rows"]), header[name]["shape"][0]
    if len(sizes) != rows or (sizes < 0).any() or sizes.sum() != total:
        raise ValueError(f"the sizes of {name} are not those of its rows")
    return sizes


def _layout_of(header: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to dtype and shape of a row without its first axis."""
    own = {name: told for name, told in header.items() if name != "__metadata__" and not name.endswith(_SIZES)}
    return {
        name: (_DTYPES[told["dtype"]], tuple(told["shape"][1 if f"{name}{_SIZES}" in header else 2 :]))
        for name, told in own.items()
    }


def _whole_shards(folder: Path) -> tuple[list[int], dict[str, tuple[str, tuple[int, ...]]]]:
    """Rows of each shard up to the first that is missing or damaged, and what a row holds."""
    rows: list[int] = []
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    while True:
        try:
            header, _ = read_header(folder / _shard_name(len(rows)))
            count, layout = int(header["__metadata__"]["rows"]), layout or _layout_of(header)
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return rows, layout
        rows.append(count)


def _shard_name(number: int) -> str:
    return f"{number:05}.safetensors"


def _unusable(file: Path, why: str) -> StoreError:
    return StoreError(
        f"cannot use the kept rows in {file}: {why}",
        fix=f"remove the folder {file.parent} and run the same command again: it computes them anew",
    )
