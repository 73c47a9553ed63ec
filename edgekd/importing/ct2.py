"""CTranslate2's binary model: its variables, checked as a stranger's file before any of them is read.

The format is CTranslate2's `model_spec.py`, binary version 6: the spec's name and revision, then each variable's name,
shape, type and bytes, then aliases. Numbers are little-endian; names end in a zero byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekd.core.errors import TeacherError
from edgekd.core.files import is_plain
from edgekd.core.pointers import check_no_pointer
from edgekd.data import limits

if TYPE_CHECKING:
    import numpy as np

VERSION = 6
_MOST_VARIABLES, _MOST_NAME, _MOST_RANK = 20_000, 512, 4
_TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16", 5: "bfloat16"}
_FLOATS = ("float32", "float16", "bfloat16")
_SCALES = {"int8": "no scale for each row", "int16": "no scale"}  # what is wrong where they have none
_SIZES = {"float32": 4, "int8": 1, "int16": 2, "int32": 4, "float16": 2, "bfloat16": 2}
_FIX = "fetch the file again, or convert the model again with ct2-transformers-converter"


@dataclass(frozen=True)
class Variable:
    """Where one variable lies in the file."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


@dataclass(frozen=True)
class Ct2Model:
    """What a model.bin holds: its variables by name, aliases by their own."""

    path: Path
    spec: str
    revision: int
    variables: Mapping[str, Variable]
    aliases: Mapping[str, str]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """One variable's values: float32 or float16 as they are stored; of int8 and int16, unpacked by their scales.

        int8 weights have a scale for each row, int16 weights one for all. An alias stands for its variable. Raises
        TeacherError for a type that no weight has.
        """
        import numpy as np

        name = self.aliases.get(name, name)
        variable = self.variables[name]
        if variable.dtype in _FLOATS:
            return self._stored(variable)
        if variable.dtype not in _SCALES:
            raise damaged(self.path, f"{limits.shown(name)} is {variable.dtype}, which no weight is")
        scale = self.variables.get(f"{name}_scale")
        wanted = variable.shape[:1] if variable.dtype == "int8" else ()
        if scale is None or scale.shape != wanted or scale.dtype not in _FLOATS:
            raise damaged(self.path, f"{limits.shown(name)} is {variable.dtype} and has {_SCALES[variable.dtype]}")
        scales = self._stored(scale).astype(np.float32)
        if not (scales > 0).all():
            raise damaged(self.path, f"a scale of {limits.shown(name)} is not above zero")
        values = self._stored(variable).astype(np.float32)
        return values / (scales.reshape(-1, *[1] * (values.ndim - 1)) if scales.ndim else scales)

    def number(self, name: str) -> int:
        """A variable that is one whole number. Raises TeacherError where it is none."""
        if name not in self.variables or self.variables[name].shape != () or self.variables[name].dtype in _FLOATS:
            raise damaged(self.path, f"it has no whole number {limits.shown(name)}")
        return int(self._stored(self.variables[name]))

    def _stored(self, variable: Variable) -> np.ndarray[Any, Any]:
        import numpy as np

        kind = "uint16" if variable.dtype == "bfloat16" else variable.dtype
        with self.path.open("rb") as file:
            file.seek(variable.offset)
            count = math.prod(variable.shape)
            raw = np.frombuffer(file.read(count * _SIZES[variable.dtype]), dtype=np.dtype(kind).newbyteorder("<"))
        if len(raw) != count:
            raise damaged(self.path, "it became shorter while it was read")
        if variable.dtype == "bfloat16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        values: np.ndarray[Any, Any] = raw.reshape(variable.shape).copy()
        return values


def read(path: Path) -> Ct2Model:
    """The variables of a model.bin, whose lengths are held against the file; values are read as they are asked for.

    Raises TeacherError for what is no such file, one of another version, and lengths, names or types that cannot be.
    """
    if not is_plain(path):
        raise TeacherError(f"{path} is not a file", fix="give the path of CTranslate2's model.bin")
    check_no_pointer(path, TeacherError)
    try:
        with path.open("rb") as file:
            return _read(path, _Reader(file, path.stat().st_size))
    except (OSError, ValueError, struct.error) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> TeacherError:
    """The refusal of a file whose content cannot be."""
    return TeacherError(f"{path} is no CTranslate2 model that can be read: {why}", fix=_FIX)


class _Reader:
    """The file's parts one after the other, none longer than what is left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def number(self, kind: str) -> int:
        raw = self.take(struct.calcsize(kind))
        return int(struct.unpack(f"<{kind}", raw)[0])

    def take(self, count: int) -> bytes:
        raw = self.file.read(count)
        if len(raw) != count:
            raise ValueError("it ends in the middle")
        return raw

    def name(self) -> str:
        length = self.number("H")
        if not 1 < length <= _MOST_NAME:
            raise ValueError(f"a name has {length} bytes")
        raw = self.take(length)
        text = raw[:-1].decode("ascii")  # a UnicodeDecodeError is a ValueError
        if raw[-1] or not text.isprintable():
            raise ValueError("a name is no plain text")
        return text

    def skip(self, count: int) -> int:
        """Pass over so many bytes; where they begin."""
        at = self.file.tell()
        if count > self.size - at:
            raise ValueError("a variable is longer than the file")
        self.file.seek(count, 1)
        return at


def _read(path: Path, reader: _Reader) -> Ct2Model:
    version = reader.number("I")
    if version != VERSION:
        raise TeacherError(
            f"{path} has CTranslate2's binary version {version}; edgekd reads version {VERSION}"
            if version < 100
            else f"{path} is no CTranslate2 model",
            fix="give the model.bin that a CTranslate2 of release 3 or later has written",
        )
    spec, revision, count = reader.name(), reader.number("I"), reader.number("I")
    if not 0 < count <= _MOST_VARIABLES:
        raise ValueError(f"it names {count} variables")
    variables: dict[str, Variable] = {}
    for _ in range(count):
        name, rank = reader.name(), reader.number("B")
        if name in variables:
            raise ValueError(f"{name} stands in it twice")
        if rank > _MOST_RANK:
            raise ValueError(f"{name} has {rank} dimensions")
        shape = tuple(reader.number("I") for _ in range(rank))
        kind, size = _TYPES.get(reader.number("B"), ""), reader.number("I")
        if not kind:
            raise ValueError(f"{name} has an unknown type")
        if math.prod(shape) * _SIZES[kind] != size:
            raise ValueError(f"{name} has {size} bytes, which are not {shape} of {kind}")
        variables[name] = Variable(shape, kind, reader.skip(size))
    aliases = {}
    for _ in range(reader.number("I")):
        alias, name = reader.name(), reader.name()
        if name not in variables or alias in variables or alias in aliases:
            raise ValueError(f"the alias {alias} stands for nothing, or stands twice")
        aliases[alias] = name
    if reader.file.read(1):
        raise ValueError("bytes follow after its end")
    return Ct2Model(path, spec, revision, variables, aliases)
