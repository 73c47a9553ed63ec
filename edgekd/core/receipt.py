"""A receipt's form: every key, its type and its range, and what a file must be to be read at all.

One device's receipt for one bundle, as `edgekd.onboard.bench` composes it. What it says is judged elsewhere.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from edgekd.core.errors import EdgeKDError
from edgekd.onboard.bench import digest
from edgekd.onboard.verify import MOST_OUTPUTS

if TYPE_CHECKING:
    import numpy as np

LIMIT_MIB = 4
Positive = Annotated[float, Field(gt=0, lt=1e9)]
Mib = Annotated[float, Field(ge=0, lt=1 << 30)]
Ms = Annotated[float, Field(gt=0, lt=1e8)]  # up to a day
Clock = Annotated[float, Field(ge=0, lt=1e6)]  # MHz
Celsius = Annotated[float, Field(ge=-60, le=1000)]
Load = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Cores = Annotated[int, Field(ge=1, le=65_536)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Known = Literal["measured", "unknown"]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^\P{Cc}*$")]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 20)], ...], Field(max_length=8)]
OWN_METRIC = re.compile(r"\w+, labels of \S.*")  # of `accuracy_of`: a task's own metric, which may exceed 1
_VIRTUAL = "a virtual machine's time is no board's"
Words = Annotated[str, Field(max_length=500, pattern=r"^\P{Cc}*$")]  # no control characters: they reach terminals


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Of(_Strict):
    """The bundle that was measured."""

    name: Words
    version: Words
    target: Words
    manifest_sha256: Sha256


class Outputs(_Strict):
    """Answers to the golden inputs of schema 1: float32 values of that shape, little-endian, in base64."""

    shape: tuple[Annotated[int, Field(ge=1, le=1 << 16)], Annotated[int, Field(ge=1, le=1 << 20)]]
    float32: str


class Output(_Strict):
    """One output's answers to the golden inputs: a shape each, and all their float32 values, end to end, in base64."""

    shapes: Annotated[tuple[Shape, ...], Field(min_length=1, max_length=1 << 16)]
    float32: str


class Loads(_Strict):
    """The load of a minute before and after; None where the kernel does not tell."""

    before: Load | None
    after: Load | None


class Temperatures(_Strict):
    """Degrees Celsius before and after; None where the kernel does not tell."""

    before: Celsius | None
    after: Celsius | None


class Point(_Strict):
    """A sustained run at one moment."""

    at_s: Positive
    p50_ms: Ms
    temperature_c: Celsius | None
    clock_mhz: Clock | None


class Sustained(_Strict):
    """Latency over minutes; `slowdown` is the last tenth's median over the first's."""

    minutes: Positive
    points: Annotated[tuple[Point, ...], Field(min_length=1, max_length=100_000)]
    throttled: bool
    slowdown: Positive


class Protocol(_Strict):
    """How latency was timed."""

    name: Literal["quick", "full"]
    processes: Annotated[int, Field(ge=1, le=1000)]
    rounds: Annotated[int, Field(ge=1, le=1000)]
    samples: Annotated[int, Field(ge=1, le=100)]


class Kinds(_Strict):
    """What was measured there, and what cannot be known."""

    accuracy: Known
    latency: Known
    peak_rss: Known
    cold_start: Known


class Receipt(_Strict):
    """One device's receipt, as `docs/receipts.md` describes it. MiB are 2^20 bytes, times milliseconds.

    What both schemas have; `_First` and `_Second` have the rest.
    """

    bundle: Of
    model: Words
    model_sha256: Sha256
    device: Words
    emulated: Literal["", "user", "system"]
    arch: Words
    cpu: Words
    microarch: Words
    isa: Annotated[tuple[Words, ...], Field(max_length=100)]
    cores: Cores
    clock_mhz: Annotated[int, Field(ge=1, lt=1_000_000)] | None
    memory_mib: Annotated[int, Field(ge=1, lt=1 << 30)]
    os: Words
    python: Words
    numpy_version: Words
    ort_version: Words
    provider: Words
    threads: Cores
    accuracy_of: Words  # before `accuracy`, whose range depends on it
    accuracy: Annotated[float, Field(ge=0, lt=1e9)]
    accuracy_n: Count
    output_sha256: Sha256
    latency_ms: tuple[tuple[Ms, ...], ...] | None
    aa_latency_ms: tuple[tuple[Ms, ...], ...] | None
    latency_note: Words
    peak_rss_mib: Annotated[tuple[Mib, ...], Field(min_length=1, max_length=1000)] | None
    cold_start_ms: Annotated[tuple[Ms, ...], Field(min_length=1, max_length=1000)] | None
    load: Loads
    governor: Words | None
    temperature_c: Temperatures
    throttled: bool | None
    sustained: Sustained | None
    protocol: Protocol
    started: Annotated[str, Field(pattern=r"^2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    seconds: Positive
    kind: Kinds
    digest: Sha256

    @field_validator("accuracy")
    @classmethod
    def _share(cls, value: float, told: ValidationInfo) -> float:
        if value > 1 and not OWN_METRIC.fullmatch(told.data.get("accuracy_of", "")):
            raise PydanticKnownError("less_than_equal", {"le": 1})
        return value

    @property
    def remark(self) -> str:
        """What is to be kept in mind of its times, in words, or empty."""
        return remark(self.cpu)

    @property
    def predictions(self) -> list[dict[str, np.ndarray[Any, Any]]]:
        """The answers to the golden inputs, float32, by output. Raises ValueError where they have other sizes.

        Of schema 1 there is one output, whose name it does not say: "".
        """
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """As the file has it."""
        return self.model_dump(by_alias=True, mode="json")


class _First(Receipt):
    """Schema 1: one output, (rows, width)."""

    schema_version: Literal[1] = Field(alias="schema")
    outputs: Outputs

    @property
    def predictions(self) -> list[dict[str, np.ndarray[Any, Any]]]:
        return [{"": row} for row in _values(self.outputs.float32).reshape(self.outputs.shape)]


class _Second(Receipt):
    """Schema 2: outputs by name, each of its own shape from input to input."""

    schema_version: Literal[2] = Field(alias="schema")
    outputs: Annotated[dict[Name, Output], Field(min_length=1, max_length=MOST_OUTPUTS)]

    @property
    def predictions(self) -> list[dict[str, np.ndarray[Any, Any]]]:
        columns = {name: list(_rows(output)) for name, output in self.outputs.items()}
        counts = {len(column) for column in columns.values()}
        if len(counts) > 1:
            raise ValueError(f"they are of {min(counts)} and of {max(counts)} inputs")
        return [{name: column[row] for name, column in columns.items()} for row in range(counts.pop())]


_SCHEMAS: dict[int, type[Receipt]] = {1: _First, 2: _Second}


def _values(text: str) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


def _rows(output: Output) -> Iterator[np.ndarray[Any, Any]]:
    values, sizes = _values(output.float32), [math.prod(shape) for shape in output.shapes]
    if sum(sizes) != len(values):
        raise ValueError(f"they are {len(values)} values for shapes of {sum(sizes)}")
    first = 0
    for shape, size in zip(output.shapes, sizes, strict=True):
        yield values[first : first + size].reshape(shape)
        first += size


class ReceiptRefused(EdgeKDError):
    """A receipt that is not to be believed: `reasons` say why; `receipt` is None where none could be read."""

    def __init__(self, message: str, *, fix: str, reasons: Sequence[str] = (), receipt: Receipt | None = None) -> None:
        super().__init__(message, fix=fix)
        self.reasons, self.receipt = tuple(reasons), receipt


def remark(cpu: str) -> str:
    """What is to be kept in mind of times on a CPU or host of that name: whether QEMU and KVM made the board up."""
    return _VIRTUAL if "dummy-virt" in cpu else ""


def parse(raw: bytes) -> Receipt:
    """A receipt by its form. Raises ReceiptRefused: no JSON object, too large or too deep, unknown keys, bad values."""
    if len(raw) > LIMIT_MIB << 20:
        raise refused([f"it has {len(raw) / 2**20:.1f} MiB, more than the {LIMIT_MIB} that a receipt may have"])
    try:
        said = json.loads(raw, parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError:
        raise refused(["it is nested too deeply"]) from None
    except ValueError as error:
        raise refused([f"it is no whole JSON: {error}"]) from error
    if not isinstance(said, dict):
        raise refused([f"it is a {type(said).__name__}, not an object"])
    schema = said.get("schema")
    if type(schema) is not int or schema not in _SCHEMAS:
        newer = type(schema) is int and schema > max(_SCHEMAS)
        why = f"its schema is {schema!r:.40}, this edgekd reads {' and '.join(map(str, _SCHEMAS))}"
        raise refused([why], fix="install a newer edgekd, which made it" if newer else None)
    try:
        receipt = _SCHEMAS[schema].model_validate_json(raw)
    except ValidationError as error:
        raise refused([_problem(detail) for detail in error.errors()[:5]]) from error
    if receipt.digest != digest(said):
        raise refused(["its digest is not that of its content: it was changed, or damaged on the way"])
    return receipt


def refused(reasons: Sequence[str], receipt: Receipt | None = None, fix: str | None = None) -> ReceiptRefused:
    """The error of a receipt that these reasons speak against; it is made again where there is no other `fix`."""
    return ReceiptRefused(
        f"the receipt is refused: {reasons[0]}" + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""),
        fix=fix or "make it again: `edgekd bench BUNDLE`, or `python BUNDLE/bench` on the device",
        reasons=reasons,
        receipt=receipt,
    )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _problem(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])[:200] or "it"
    key = name if name.isprintable() else ascii(name)  # a stranger's word may hold what terminals obey
    words = {"extra_forbidden": f"unknown key {key!r}", "missing": f"missing key {key!r}"}
    return words.get(detail["type"], f"{key} is {detail['input']!r:.40}: {detail['msg'].lower()}")
