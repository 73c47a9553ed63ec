"""What the runner answered in a process that ended well: read in bounds, held against its form, accepted or not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.receipt import Clock, Cores, Mib, Ms, Sha256, Words
from edgekd.devices._bounded import MOST_ANSWER, MOST_ERRORS, brief
from edgekd.onboard import verify

MOST_OUTPUTS = 512 << 20  # bytes of a file of outputs
_MOST_AXES = 16  # of an output
_MOST_VALUES, _MOST_LISTS = 4_000_000, 500_000  # in one answer: its bytes say nothing of the memory it takes
_ONCE_MORE = (
    "run the same command again; if it repeats, look for a package or a sitecustomize on that device "
    "that prints or exits, and whether it is the device that you mean"
)
_Temperature = Annotated[float, Field(ge=-300, le=1e5)]  # some kernels tell of -274


class Form(BaseModel):
    """Keys, types and ranges of what a device may answer; no others."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Identity(Form):
    """`machine.identity()`."""

    arch: Words
    cpu: Words
    microarch: Words
    isa: Annotated[list[Words], Field(max_length=100)]
    cores: Cores
    clock_mhz: Annotated[int, Field(ge=1, lt=1_000_000)] | None
    memory_mib: Annotated[int, Field(ge=1, lt=1 << 30)]
    os: Words
    python: Words


class _State(Form):
    load: Annotated[float, Field(ge=0, le=1e6)] | None
    governor: Words | None
    temperature_c: _Temperature | None
    clock_mhz: Clock | None
    throttled: bool | None


class _Facts(Identity):
    state: _State
    ort_version: Words
    numpy_version: Words
    providers: Annotated[list[Words], Field(max_length=100)]
    provider: Words


class _Footprint(Form):
    baseline_mib: Mib
    peak_rss_mib: Annotated[list[Mib], Field(min_length=1)]
    load_ms: Annotated[float, Field(ge=0, lt=1e8)] | None
    cold_start_ms: Ms | None


class _Predict(Form):
    n: Annotated[int, Field(ge=1)]
    row_sha256: Annotated[list[Sha256], Field(min_length=1)]


class _Answers(Form):
    n: Annotated[int, Field(ge=1)]
    row_sha256: dict[str, list[Sha256]]


class _Count(Form):
    n: dict[str, Annotated[int, Field(ge=1, le=1_000_000_000)]]


class _Time(Form):
    latency_ms: dict[str, list[list[Ms]]]
    row_sha256: dict[str, list[Sha256]]
    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    stages_ms: dict[str, dict[str, Annotated[float, Field(ge=0, lt=1e8)]]] = {}
    state: _State


class _Context(Form):
    context: Annotated[int, Field(ge=1, lt=1 << 31)]
    first_token_ms: Ms
    read_tokens_per_cpu_s: Annotated[float, Field(gt=0, lt=1e12)]
    written_tokens_per_cpu_s: Annotated[float, Field(gt=0, lt=1e12)]
    peak_rss_mib: Mib


class _Generation(Form):
    baseline_mib: Mib
    contexts: Annotated[list[_Context], Field(min_length=1, max_length=100)]


_FORMS: dict[str, type[Form]] = {
    "facts": _Facts,
    "footprint": _Footprint,
    "predict": _Predict,
    "answers": _Answers,
    "count": _Count,
    "generation": _Generation,
    "time": _Time,
}


def answer_of(said: bytes, mode: str, job: dict[str, Any], *, run: str, runtime: str) -> dict[str, Any]:
    """The runner's answer to a job, on the last line of `said`; `run` and `runtime` name both with their place.

    Raises RuntimeCannotLoad where ONNX Runtime refuses the model, EdgeKDError where it is no answer to that job.
    """
    last = (said.strip().splitlines() or [b""])[-1]
    try:
        answer = parse(last)
    except ValueError as error:
        shown = brief(last[:1000].decode(errors="replace"), 200) or "it said nothing"
        why = "" if not last.startswith(b"{") or isinstance(error, json.JSONDecodeError) else f" ({brief(str(error))})"
        raise no_answer(f"{run} ended without an answer: {shown}{why}") from error
    if "refused" in answer:
        raise RuntimeCannotLoad(
            f"{runtime} refuses the model: {brief(str(answer['refused']), 500)}",
            fix="export it again with an opset and IR version that this runtime knows",
        )
    if mode == "footprint" and job.get("started") == 0.0:  # a guest, whose times mean nothing
        answer |= {"load_ms": None, "cold_start_ms": None}
    if problem := _problem(answer, mode, job):
        raise no_answer(f"{run} gave no answer that can be used: {problem}")
    return answer


def parse(raw: bytes) -> dict[str, Any]:
    """A JSON object of a stranger's. Raises ValueError in words: too long, too deep, numbers that are none."""
    if len(raw) > MOST_ANSWER:
        raise ValueError(f"it has more than {MOST_ANSWER >> 20} MiB")
    if raw.count(b",") > _MOST_VALUES or raw.count(b"[") + raw.count(b"{") > _MOST_LISTS:
        raise ValueError("it has more values than any answer")
    try:
        answer = verify.read_json(raw)
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None
    if not isinstance(answer, dict):
        raise ValueError("it is no JSON object")
    return answer


def held(values: Any, form: Any, what: str) -> Any:
    """The values where they have the form, a type. Raises EdgeKDError that begins with `what`, the place among it."""
    try:
        TypeAdapter(form).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise no_answer(f"{what}: {_told(error)}") from error
    return values


def check_outputs(path: Path, mode: str, job: dict[str, Any], answer: dict[str, Any], run: str) -> None:
    """Raises EdgeKDError where the file of outputs is not what the answer says: packed numbers, a row an input."""
    try:
        if path.stat().st_size > MOST_OUTPUTS:
            raise ValueError(f"it has more than {MOST_OUTPUTS >> 20} MiB")
        names = _packed(verify.read_arrays(path, MOST_OUTPUTS), answer["n"])
        if mode == "answers" and {name.partition("/")[0] for name in names} != set(job["models"]):
            raise ValueError("it is of other models than were asked for")
    except (OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, *verify.BROKEN_ZIP) as error:
        raise no_answer(f"{run} gave no outputs that can be used: {brief(str(error))}") from error


def _packed(arrays: dict[str, Any], count: int) -> set[str]:
    """The names in arrays as `runner.pack` writes them, of so many rows. Raises ValueError where they are not that."""
    names = {key.rpartition(".")[0] for key in arrays}
    if not names or set(arrays) != {f"{name}.{part}" for name in names for part in ("values", "shapes")}:
        raise ValueError("it has not values and shapes of each name")
    for name in names:
        values, shapes = arrays[f"{name}.values"], arrays[f"{name}.shapes"]
        if values.ndim != 1 or shapes.ndim != 2 or shapes.dtype.kind != "i" or shapes.shape[1] > _MOST_AXES:
            raise ValueError(f"{name} is not packed")
        if len(shapes) != count:
            raise ValueError(f"{name} has {len(shapes)} rows for {count} inputs")
        rows = shapes.tolist()
        if any(size < 0 for row in rows for size in row) or sum(map(math.prod, rows)) != values.size:
            raise ValueError(f"{name} has other shapes than values")
        if any(math.prod(max(1, size) for size in row) > MOST_OUTPUTS for row in rows):  # an empty one of vast sides
            raise ValueError(f"{name} has a shape of more than {MOST_OUTPUTS} values")
    return names


def _problem(answer: dict[str, Any], mode: str, job: dict[str, Any]) -> str:
    """What is wrong with an answer to that job, in words; empty where nothing is."""
    try:
        _FORMS[mode].model_validate(answer)
    except ValidationError as error:
        return _told(error)
    names = set(job.get("models", ()))
    if mode == "time":
        rows = {name: [len(turn) for turn in turns] for name, turns in answer["latency_ms"].items()}
        count = len(answer["row_sha256"].get("aa", ()))
        if set(rows) != names | {"aa"} or set(answer["row_sha256"]) != set(rows) or not count:
            return "it is of other models than were asked for"
        rounds = len(rows["aa"])
        least = job["rounds"] if job.get("most_s") is None else 1
        if not least <= rounds <= job["rounds"] or any(turns != [count] * rounds for turns in rows.values()):
            return f"latency_ms has not {job['rounds']} rounds of {count} rows for each model"
        if any(len(hashes) != count for hashes in [answer["rows"], *answer["row_sha256"].values()]):
            return f"row_sha256 has not {count} rows for each model"
        if answer["rows"] != (job.get("rows") or sorted(set(answer["rows"]))):
            return "it is of other rows than were asked for"
    elif mode == "footprint" and len(answer["peak_rss_mib"]) != len(job["inputs"]):
        return f"peak_rss_mib has {len(answer['peak_rss_mib'])} values for {len(job['inputs'])} files of inputs"
    elif mode == "predict" and len(answer["row_sha256"]) != answer["n"]:
        return "row_sha256 has not n rows"
    elif mode == "answers" and (
        set(answer["row_sha256"]) != names or any(len(one) != answer["n"] for one in answer["row_sha256"].values())
    ):
        return "row_sha256 has not n rows for each model that was asked for"
    elif mode == "generation" and [one["context"] for one in answer["contexts"]] != job["contexts"]:
        return "it is of other contexts than were asked for"
    elif mode == "count" and set(answer["n"]) != names:
        return "it is of other models than were asked for"
    return ""


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = brief(".".join(map(str, first["loc"])), 100)
    words = {"extra_forbidden": f"unknown key {key}", "missing": f"missing key {key}"}
    return words.get(first["type"], f"{key} is {brief(repr(first['input'])[:200], 60)}: {brief(first['msg'].lower())}")


def too_much(run: str, stream: str, most_stdout: int = MOST_ANSWER) -> EdgeKDError:
    """The error of a run that said more on that stream than is read."""
    most = {"stdout": most_stdout, "stderr": MOST_ERRORS}[stream]
    return no_answer(f"{run} was ended: it said more than {most >> 20} MiB on {stream}")


def no_answer(message: str) -> EdgeKDError:
    """The error of a run that did not answer as a runner does."""
    return EdgeKDError(message, fix=_ONCE_MORE)
