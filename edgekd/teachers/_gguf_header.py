"""The header of a GGUF file: keys and tensors, each length held against the file before anything of it is read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgekd.core.errors import TeacherError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# type number: name, values of a block, bytes of a block
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
_MOST_KEYS, _MOST_TENSORS, _MOST_AXES = 4096, 65_536, 4
_MOST_NAME, _MOST_TEXT = 65_535, 16 << 20  # bytes of a key and of a string
_MOST_ITEMS = 4 << 20  # of an array: the largest vocabularies have 262,144 tokens
_MOST_VALUES = 1 << 40  # of a tensor
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class Tensor:
    """A tensor's type, its shape (the fastest axis first, as GGUF has it), and its bytes."""

    type: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def values(self) -> int:
        """Return how many weights there are."""
        return sum(math.prod(one.shape) for one in self.tensors.values())


def read(file: Path) -> Header:
    """Return the header of a file. Raises TeacherError where it is no GGUF, is cut, or a length in it lies."""
    try:
        with file.open("rb") as stream:
            return _Reader(stream, file.stat().st_size, file).header()
    except OSError as error:
        raise TeacherError(
            f"cannot read {file}: {error.strerror or error}", fix="check the path and its permissions"
        ) from error


class _Reader:
    """A file that is read from its beginning, never further than it is long."""

    def __init__(self, stream: IO[bytes], size: int, file: Path) -> None:
        self.stream, self.size, self.file = stream, size, file

    def header(self) -> Header:
        if self.take(4, "its magic number") != MAGIC:
            raise self.wrong("it does not begin as a GGUF does")
        version = self.scalar(4)
        if version not in _VERSIONS:
            raise self.wrong(f"its version is {version}; {' and '.join(map(str, _VERSIONS))} are read, little-endian")
        tensors = self.count(10, _MOST_TENSORS, "arrays of weights", least=24)
        keys = self.count(10, _MOST_KEYS, "keys", least=13)
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            name = self.text(_MOST_NAME)
            if name in metadata:
                raise self.wrong(f"it has the key {name!r:.80} twice")
            metadata[name] = self.value(self.scalar(4), name)
        described = [self.tensor() for _ in range(tensors)]
        return Header(metadata, self.checked(described, metadata.get(_ALIGNMENT, 32)))

    def tensor(self) -> tuple[str, Tensor, int]:
        name = self.text(_MOST_NAME)
        axes = self.scalar(4)
        if not 1 <= axes <= _MOST_AXES:
            raise self.wrong(f"its tensor {name!r:.80} has {axes} axes")
        shape = tuple(self.scalar(10) for _ in range(axes))
        kind, offset = self.scalar(4), self.scalar(10)
        if kind not in _TYPES:
            raise self.wrong(
                f"its tensor {name!r:.80} has the type {kind}, which is not read",
                fix=f"give one whose tensors are of {', '.join(one for one, _, _ in _TYPES.values())}",
            )
        word, block, size = _TYPES[kind]
        values = math.prod(shape)
        if not 0 < values <= _MOST_VALUES or shape[0] % block:
            raise self.wrong(f"its tensor {name!r:.80} has the shape {list(shape)}, in {word}")
        return name, Tensor(word, shape, values // block * size), offset

    def checked(self, described: list[tuple[str, Tensor, int]], alignment: Any) -> dict[str, Tensor]:
        """Return the tensors whose bytes lie inside the file, one behind the other, each once."""
        if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise self.wrong(f"its alignment is {alignment!r:.40}")
        start = -(-self.stream.tell() // alignment) * alignment
        found: dict[str, Tensor] = {}
        end = 0
        for name, tensor, offset in sorted(described, key=lambda one: one[2]):
            if name in found:
                raise self.wrong(f"it has the tensor {name!r:.80} twice")
            if offset % alignment or offset < end:
                raise self.wrong(
                    f"its tensor {name!r:.80} begins at byte {offset}, inside another or off its alignment"
                )
            end = offset + tensor.size
            if start + end > self.size:
                raise self.wrong(
                    f"its tensor {name!r:.80} ends at byte {start + end}, the file at {self.size}", fix=_CUT
                )
            found[name] = tensor
        if not found:
            raise self.wrong("it has no tensors", fix="give the file with the weights, not the vocabulary alone")
        return found

    def value(self, kind: int, name: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.scalar(kind)
        if kind == _STRING:
            return self.text(_MOST_TEXT)
        if kind != _ARRAY or depth:
            raise self.wrong(f"its key {name!r:.80} has a value of the type {kind}")
        inner = self.scalar(4)
        if inner in _SCALARS:
            form = _SCALARS[inner][1:]
            size = struct.calcsize(f"<{form}")
            count = self.count(10, _MOST_ITEMS, f"values of {name!r:.80}", least=size)
            return list(struct.unpack(f"<{count}{form}", self.take(count * size, f"the values of {name!r:.80}")))
        count = self.count(10, _MOST_ITEMS, f"values of {name!r:.80}", least=8)
        return [self.value(inner, name, depth + 1) for _ in range(count)]

    def count(self, kind: int, most: int, what: str, *, least: int) -> int:
        """Read a number of things of which each has `least` bytes: no more than the rest of the file can hold."""
        count: int = self.scalar(kind)
        if count > most or count * least > self.size - self.stream.tell():
            raise self.wrong(f"it claims {count} {what}, more than its {self.size} bytes can hold or than are read")
        return count

    def scalar(self, kind: int) -> Any:
        form = _SCALARS[kind]
        return struct.unpack(form, self.take(struct.calcsize(form), "a number"))[0]

    def text(self, most: int) -> str:
        length = self.scalar(10)
        if length > most:
            raise self.wrong(f"it claims a text of {length} bytes")
        try:
            return self.take(length, "a text").decode()
        except UnicodeDecodeError as error:
            raise self.wrong("a text in it is no UTF-8") from error

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.stream.tell():
            raise self.wrong(f"it ends inside {what}", fix=_CUT)
        return self.stream.read(count)

    def wrong(self, why: str, fix: str = "") -> TeacherError:
        return TeacherError(
            f"{self.file} is no GGUF that edgekd reads: {why}",
            fix=fix or "fetch the file again and compare its SHA-256; or give the model as a Hugging Face folder",
        )


_CUT = "it was cut on the way: fetch the file again, and compare its size"
