"""A stranger's safetensors file: its header against its data, and its values, read in blocks. Nothing is loaded."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekd.core.errors import TeacherError
from edgekd.data import limits
from edgekd.store.store import open_store

if TYPE_CHECKING:
    import numpy as np

Header = dict[str, Any]

_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
_HEADER_MOST = 16 << 20  # bytes: a hundred thousand tensors; as Python objects it is twenty times as large
_DIMENSIONS_MOST = 64  # torch's own
_SIZE_MOST = 1 << 63  # JSON's numbers have thousands of digits, and a product of many such takes hours
_BLOCK = 16 << 20
_KEPT_LEAST = 1 << 20  # bytes: a smaller file is checked in a moment
_VALUES_CHECK = 1  # the version of what is checked of values
# what a float's bits are when it is no number: its exponent is all ones
_EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}


def check(file: Path, sha256: str | None = None) -> Header:
    """The tensors of a header that is whole: name to dtype, shape and offsets.

    With the file's `sha256` its values are read once: that they are finite is kept in the store for this content.

    Raises TeacherError where a name stands twice, a type is unknown, a shape is not that of its bytes, tensors
    overlap or leave bytes between them, or a weight holds NaN or infinity.
    """
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            header, start = _header(stream, size)
            _check_layout(header, size - start)
            if sha256 is None or size < _KEPT_LEAST:
                _check_values(file, stream, header, start)
            else:
                key = {"sha256": sha256, "check": _VALUES_CHECK}
                open_store().stage("finite", key, lambda _: _check_values(file, stream, header, start))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise TeacherError(
            f"the teacher's weights {file} are damaged: {error}", fix="fetch or save the file again"
        ) from error
    return header


def _check_values(file: Path, stream: BinaryIO, header: Header, start: int) -> None:
    for name, told in header.items():
        count, bad = math.prod(told["shape"]), _not_finite(stream, start, told)
        # a single infinity is what masks are made of
        if bad and (count > 1 or _is_nan(stream, start, told)):
            raise TeacherError(
                f"the weight {limits.shown(name)} of {file} holds NaN or infinity ({bad} of {count} values)",
                fix="give an undamaged model",
            )


def header(file: Path) -> Header:
    """The tensors of a file that `check` has passed, without reading their values."""
    with file.open("rb") as stream:
        return _header(stream, file.stat().st_size)[0]


def renamed(file: Path, out: Path, names: Mapping[str, str]) -> list[str]:
    """Write the file to `out` with its tensors under these new names, which it returns; their bytes are the same."""
    with file.open("rb") as stream:
        told, start = _header(stream, file.stat().st_size)
        fresh = {names[name]: tensor for name, tensor in told.items()}
        raw = json.dumps({"__metadata__": {"format": "pt"}} | fresh).encode()
        raw += b" " * (-len(raw) % 8)  # data begin at a multiple of eight
        stream.seek(start)
        with out.open("wb") as target:
            target.write(struct.pack("<Q", len(raw)) + raw)
            shutil.copyfileobj(stream, target, _BLOCK)
    return list(fresh)


def _header(stream: BinaryIO, size: int) -> tuple[Header, int]:
    """The header without its notes, and where the data begin."""
    length = struct.unpack("<Q", stream.read(8))[0]
    if length > size - 8:
        raise ValueError("its header is longer than the file")
    if length > _HEADER_MOST:
        raise ValueError(f"its header has more than {_HEADER_MOST >> 20} MiB")
    header = json.loads(stream.read(length), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise ValueError("its header names no tensors")
    header.pop("__metadata__", None)
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _check_layout(header: Header, data: int) -> None:
    """Raises ValueError where tensors do not fill the data, one after the other, with as many bytes as they need."""
    spans = []
    for name, told in header.items():
        kind, shape, (begin, end) = told["dtype"], told["shape"], told["data_offsets"]
        if kind not in _BYTES:
            raise ValueError(f"the type {limits.shown(kind)} of {limits.shown(name)} is unknown")
        if len(shape) > _DIMENSIONS_MOST or not all(
            type(one) is int and 0 <= one < _SIZE_MOST for one in (*shape, begin, end)
        ):
            raise ValueError(f"the shape or place of {limits.shown(name)} is no list of whole numbers")
        if end - begin != math.prod(shape) * _BYTES[kind]:
            raise ValueError(f"{limits.shown(name)} has the shape {shape} and {end - begin} bytes of data")
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise ValueError(
                f"{limits.shown(name)} {'overlaps another tensor' if begin < reached else 'follows unused bytes'}"
            )
        reached = end
    if reached != data:
        raise ValueError("it is cut short, or has bytes that no tensor owns")


def _not_finite(stream: BinaryIO, start: int, told: Mapping[str, Any]) -> int:
    if told["dtype"] not in _EXPONENTS:
        return 0
    exponent = _EXPONENTS[told["dtype"]][1]
    return sum(int(((block & exponent) == exponent).sum()) for block in _blocks(stream, start, told))


def _is_nan(stream: BinaryIO, start: int, told: Mapping[str, Any]) -> bool:
    """Whether a single value that is not finite is NaN: it has bits below its exponent."""
    exponent = _EXPONENTS[told["dtype"]][1]
    mantissa = (exponent & -exponent) - 1
    return any(bool((block & mantissa).any()) for block in _blocks(stream, start, told))


def _blocks(stream: BinaryIO, start: int, told: Mapping[str, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """A tensor's values as bits, a few MiB at a time."""
    import numpy as np

    begin, end = told["data_offsets"]
    stream.seek(start + begin)
    left = end - begin
    while left:
        raw = stream.read(min(_BLOCK, left))
        if not raw:
            raise ValueError("it is cut short")
        left -= len(raw)
        yield np.frombuffer(raw, dtype=_EXPONENTS[told["dtype"]][0])
