"""Rows of named arrays for any graph: NumPy files, a folder of them, or values drawn from the graph's shapes.

A folder holds a file a row, as the graph takes it. One file holds many: every array is cut along its first axis. The
batch axis, of size 1, may be left out in both. Nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError, suggestion
from edgekd.core.files import user_path
from edgekd.core.ports import Port, converted, listed
from edgekd.data.arrays import BROKEN, declared_shape, unreadable
from edgekd.data.limits import MOST_BYTES, check_plain

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SYNTHETIC = "synthetic"  # in place of a source: rows are drawn from the graph's shapes
INPUT, REFERENCE = "arrays", "reference"
_SUFFIXES = (".npz", ".npy")
_SPLITS = ("train", "validation", "test", "unlabelled")
_MOST_ROWS = 100_000


@dataclass(frozen=True)
class TensorRow:
    """One input of a graph: its arrays by name; and what its outputs are held against, where the file says."""

    arrays: Mapping[str, Array]
    reference: Mapping[str, Array] = field(default_factory=dict)
    source: Path = Path()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the inputs' names, types, shapes and bytes."""
        return _digest(self.arrays)

    @property
    def label(self) -> str | None:
        """What stands for the reference where rows are told apart; None where there is none."""
        return _digest(self.reference) if self.reference else None


def _digest(arrays: Mapping[str, Array]) -> str:
    hasher = sha256()
    for name, values in sorted(arrays.items()):
        hasher.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        hasher.update(values.tobytes())
    return hasher.hexdigest()


@dataclass(frozen=True)
class Taking:
    """How a graph takes its rows: its inputs, those that feed back from outputs, and those that a step is cut of."""

    inputs: tuple[Port, ...]
    states: tuple[str, ...] = ()  # may be left out: they start at zero

    @property
    def needed(self) -> tuple[Port, ...]:
        """The inputs that every row gives."""
        return tuple(port for port in self.inputs if port.name not in self.states)

    def steps(self, port: Port) -> bool:
        """Return whether an input has a new value at each step: all but states and single numbers do."""
        return bool(self.states) and port.name not in self.states and bool(port.shape)


def read_rows(source: str, taking: Taking) -> dict[str, list[dict[str, Any]]]:
    """Tables by split, or one called `all`; each row a TensorRow under INPUT. Raises DataError.

    A folder may hold folders called train, validation, test or unlabelled; other files than NumPy's are passed over.
    """
    path = user_path(source)
    if not path.exists():
        raise DataError(
            f"there is no {source}",
            fix="give a .npz or .npy file, a folder of them, or `synthetic`: values drawn from the graph's shapes",
        )
    if path.is_dir():
        parts = [path / name for name in _SPLITS if (path / name).is_dir()]
        found = {part.name: _folder(part, taking) for part in parts} or {"all": _folder(path, taking)}
        if not {"train", "all"} & found.keys():
            raise DataError(f"{source} has no folder train", fix="add one, or put all files into one folder")
        return {split: [{INPUT: row} for row in rows] for split, rows in found.items()}
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(
            f"{source} is no NumPy file",
            fix="give .npz or .npy: numpy.savez('rows.npz', **{input_name: stacked_rows})",
        )
    return {"all": [{INPUT: row} for row in _stacked(path, taking)]}


def _folder(folder: Path, taking: Taking) -> list[TensorRow]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no .npz or .npy file", fix="save each input there: numpy.savez(file, **feeds)")
    held, rows = 0, []
    for file in files[:_MOST_ROWS]:
        arrays = _arrays(file, taking)
        held += sum(values.nbytes for values in arrays.values())
        if held > MOST_BYTES:
            raise DataError(
                f"{folder} holds more than {MOST_BYTES:,} bytes of arrays", fix="give fewer files: a few hundred do"
            )
        rows.append(_row(arrays, taking, file, str(file)))
    return rows


def _stacked(path: Path, taking: Taking) -> list[TensorRow]:
    """The rows of one file, whose arrays are cut along their first axis; single numbers are the same for all."""
    arrays = _arrays(path, taking)
    known = {port.name: port for port in taking.inputs}
    same = {name for name, values in arrays.items() if name in known and _for_all(known[name], values, taking)}
    counts = {name: len(values) for name, values in arrays.items() if name not in same and values.ndim}
    if counts and not any(counts.values()):
        raise DataError(f"{path} holds no row: its arrays are empty", fix="stack inputs along a first axis, a row each")
    if len({0, *counts.values()}) != 2:  # none, none at all, or not as many
        told = ", ".join(f"{name} {arrays[name].shape}" for name in arrays)
        raise DataError(
            f"{path}: the arrays have not as many rows each: {told}",
            fix="stack every input along a first axis: numpy.savez(file, x=numpy.stack(xs))",
        )
    rows = []
    for at in range(min(_MOST_ROWS, next(iter(counts.values())))):
        own = {name: arrays[name][at] for name in counts} | {name: arrays[name] for name in same}
        rows.append(_row(own, taking, path, f"{path}, row {at}"))
    return rows


def _for_all(port: Port, values: Array, taking: Taking) -> bool:
    """Whether an array of a stack is one value for all rows: a single number, or a state that starts them all."""
    return values.ndim == len(port.shape) and (not port.shape or (port.name in taking.states and not port.batched))


def _arrays(path: Path, taking: Taking) -> dict[str, Array]:
    """A file's arrays by name. Raises DataError for what is no archive of numbers, or lacks an input."""
    import numpy as np

    check_plain(path)
    try:
        if path.suffix.lower() == ".npy":
            found = {"arr_0": _npy(path)}
        else:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    declared_shape(archive, name, path)
            with np.load(path, allow_pickle=False) as loaded:
                found = {name: loaded[name] for name in loaded.files}
    except BROKEN as error:
        raise unreadable(path, error) from error
    needed = taking.needed
    if list(found) == ["arr_0"] and len(needed) == 1:  # saved without a name
        found = {needed[0].name: found["arr_0"]}
    lacking = [port.name for port in needed if port.name not in found]
    if lacking:
        raise DataError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}, and not {', '.join(map(repr, lacking))}, which the "
            f"graph takes: {listed(taking.inputs)}",
            fix=f"name the arrays as the graph's inputs; {suggestion(lacking[0], sorted(found) or [lacking[0]])}",
        )
    return found


def _npy(path: Path) -> Array:
    import numpy as np
    from numpy.lib import format as npy

    with path.open("rb") as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"{path} holds Python objects, which run code when they are read", fix="save plain numbers: numpy.save"
        )
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MOST_BYTES:
        raise DataError(f"{path} declares more than {MOST_BYTES:,} bytes", fix="give fewer rows")
    loaded: Array = np.load(path, allow_pickle=False)
    return loaded


def _row(arrays: Mapping[str, Array], taking: Taking, source: Path, where: str) -> TensorRow:
    ports = {port.name: port for port in taking.inputs}
    given = {name: _fitting(values, ports[name], taking, where) for name, values in arrays.items() if name in ports}
    counts = {len(given[name]) for name in given if taking.steps(ports[name])}
    if len(counts) > 1:
        raise DataError(f"{where}: the inputs have {sorted(counts)} steps", fix="give each input as many steps")
    ordered = {name: given[name] for name in ports if name in given}
    return TensorRow(ordered, {name: values for name, values in arrays.items() if name not in ports}, source)


def _fitting(values: Array, port: Port, taking: Taking, where: str) -> Array:
    """An array in the type and axes of the graph's input, steps before them. Raises DataError where it is another's."""
    import numpy as np

    made = converted(values, port.type)
    if made is None and {values.dtype.kind, np.dtype(port.type).kind} == {"f"}:
        largest = f"{float(np.abs(values[np.isfinite(values)]).max()):.3g}"
        raise DataError(
            f"{where}: {port.name} holds {largest}, beyond what {port.type} can hold",
            fix="leave that row out, or scale the rows as the graph expects them",
        )
    if made is None:
        raise DataError(
            f"{where}: {port.name} is {values.dtype}, the graph takes {port.type}",
            fix=f"convert it where that is right: values.astype({port.type!r})",
        )
    values = made
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(
            f"{where}: {port.name} holds NaN or infinity ({int((~np.isfinite(values)).sum())} of {values.size} values)",
            fix="leave that row out, or put a number there",
        )
    ahead = 1 if taking.steps(port) else 0
    shaped = _with_batch(values, port, ahead)
    if shaped is None or not port.takes(shaped.shape[ahead:]):
        steps = "(steps, then) " if ahead else ""
        raise DataError(
            f"{where}: {port.name} has the shape {values.shape}, the graph takes {steps}{port.words}",
            fix="give rows of that shape; a file's arrays are cut along their first axis, one row each, and a folder's "
            "files hold a row each; the batch axis of 1 may be left out",
        )
    if not shaped.size:
        raise DataError(f"{where}: {port.name} is empty: {values.shape}", fix="leave that row out")
    if port.batched and len(port.shape) > 1 and isinstance(port.shape[0], str) and shaped.shape[ahead] == 0:
        raise DataError(f"{where}: {port.name} has no batch", fix="leave that row out")
    return np.ascontiguousarray(shaped).reshape(shaped.shape)  # a single number stays one


def _with_batch(values: Array, port: Port, ahead: int) -> Array | None:
    """The array with the batch axis that it may lack; None where it has another number of axes."""
    axes = ahead + len(port.shape)
    if values.ndim == axes:
        return values
    if values.ndim == axes - 1 and port.batched:
        return values[:, None] if ahead else values[None]
    if not port.shape and values.size == 1:
        return values.reshape(())
    return None


def references(rows: Sequence[TensorRow]) -> list[Mapping[str, Array]]:
    """What the outputs of each row are held against."""
    return [row.reference for row in rows]


def drawn(words: str, inputs: Sequence[Port], *, count: int, seed: int) -> list[TensorRow]:
    """Rows of random values: `synthetic`, or with shapes `synthetic:x=1x3x64x64,mask=1x64`. Raises DataError.

    Floats are normal, whole numbers and booleans 0 or 1. A free first size is 1; others 16, or 64 of what looks like
    an image; sizes of one name are one size.
    """
    import numpy as np

    shapes = _shapes_said(words, inputs)
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        arrays = {}
        for port in inputs:
            shape, kind = shapes[port.name], np.dtype(port.type)
            values = random.standard_normal(shape) if kind.kind == "f" else random.integers(0, 2, shape)
            arrays[port.name] = np.asarray(values).astype(kind)
        rows.append(TensorRow(arrays))
    return rows


def _shapes_said(words: str, inputs: Sequence[Port]) -> dict[str, tuple[int, ...]]:
    found = {port.name: tuple(_sizes(port)) for port in inputs}
    for part in filter(None, words.removeprefix(SYNTHETIC).removeprefix(":").split(",")):
        name, _, said = part.rpartition("=")
        sizes = said.split("x") if said else []
        port = next((one for one in inputs if one.name == name), None)
        if port is None:
            raise DataError(
                f"--data {words}: the graph has no input {name!r}", fix=suggestion(name, [one.name for one in inputs])
            )
        if not all(size.isascii() and size.isdecimal() and 0 < int(size) < 1 << 24 for size in sizes) or not port.takes(
            [int(size) for size in sizes]
        ):
            raise DataError(
                f"--data {words}: {said!r} is no shape of {port.words}", fix=f"give one: {name}={_spelled(found[name])}"
            )
        found[name] = tuple(map(int, sizes))
    return found


def _spelled(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _sizes(port: Port) -> Iterator[int]:
    image = len(port.shape) == 4 and port.shape[1] in (1, 3)
    for axis, size in enumerate(port.shape):
        yield size if isinstance(size, int) else 1 if axis == 0 else 64 if image else 16
