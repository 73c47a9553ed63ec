"""Runs ONNX models and measures them; needs numpy and onnxruntime alone.

It travels to a device with `machine.py`, `programs.py` and the programs themselves.

    python runner.py JOB.json      prints one JSON object

A job names a `mode` and its arguments; paths in it are absolute. Where it names a `model`, that is a file, or a mapping
of graphs to files in their order; `program` (`forward`) and `keep`, the output rule, are as `programs.py` says:

    footprint   one model, fresh process: import baseline, cold start, peak RSS at given inputs
    predict     one model over all inputs: outputs to a file, packed, and their hashes
    answers     several models over the same rows, row by row, until a time limit: outputs to a file, packed
    time        several models interleaved sample by sample, with an A/A control: latency samples
    count       several models, one after the other, with a mark before and after: for whoever counts instructions
    generation  a language model over ascending contexts: tokens a second in reading and writing, memory behind each
    facts       what this machine is, how it fares, and its packages

Inputs and outputs travel as one .npz of packed samples (`pack`, `unpack`): each sample keeps its own shape, unpadded.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # the folder may be a stranger's bundle: nothing beside this file is imported from there
    _HERE = os.path.dirname(os.path.realpath(__file__))
    sys.path = [place for place in sys.path if os.path.realpath(place) != _HERE]

import contextlib
import importlib
import json
import random
import runpy
import statistics
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Union

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else release 1.32 leaves an id and a data base in the user's folders
import onnxruntime as ort

Sample = dict[str, np.ndarray]
Model = Union[str, dict[str, str]]  # noqa: UP007  (evaluated on a board's Python 3.9)
Keep = Union[dict[str, str], str, None]  # noqa: UP007

MARK = 0x45444B44  # a process number beyond any kernel's limit; devices/_instructions.c knows it
SETTLE_ROUNDS = 30  # warm-up ends when three successive medians agree within 5%, or here
SETTLE_S = 5.0  # or behind so much time: what takes that long is warm
# an inference of which none needs to go before another: it reads weights more often than caches hold them
SLOW_S = 0.25


class Packer:
    """Samples for an .npz, taken one by one: of each name the values, end to end, and each sample's shape.

    No array of a sample is held on to: of many small ones the objects weigh more than their values.
    """

    def __init__(self) -> None:
        self._count = 0
        self._values: dict[str, bytearray] = {}
        self._shapes: dict[str, array[int]] = {}
        self._forms: dict[str, tuple[np.dtype, int]] = {}  # type and number of axes

    def add(self, sample: Mapping[str, np.ndarray]) -> None:
        """Take a sample. Raises ValueError for other names than the first one's, another type or number of axes."""
        self._count += 1
        if self._forms and sample.keys() != self._forms.keys():
            raise ValueError(f"a row has {', '.join(sample)} where the first has {', '.join(self._forms)}")
        for name, values in sample.items():
            form = (values.dtype, values.ndim)
            known = self._forms.setdefault(name, form)
            if known[1] != form[1]:
                raise ValueError(f"{name} has {known[1]} axes of one row and {form[1]} of another")
            if known[0] != form[0]:
                raise ValueError(f"{name} is {known[0]} of one row and {form[0]} of another")
            self._values.setdefault(name, bytearray()).extend(values.tobytes())
            self._shapes.setdefault(name, array("q")).extend(values.shape)

    def write(self, path: Path) -> None:
        """Write the file."""
        arrays = {}
        for name, (kind, axes) in self._forms.items():
            shapes = np.array(self._shapes[name], dtype=np.int64)
            arrays[f"{name}.values"] = np.frombuffer(self._values[name], dtype=kind)
            arrays[f"{name}.shapes"] = shapes.reshape(self._count, axes)
        np.savez(path, **arrays)  # type: ignore[arg-type]


def pack(samples: Sequence[Sample], path: Path) -> None:
    """Write samples to an .npz, as `Packer` does."""
    packer = Packer()
    for sample in samples:
        packer.add(sample)
    packer.write(path)


def unpack(path: Path) -> list[Sample]:
    """Read what `pack` wrote. Object arrays are refused by numpy."""
    with np.load(path, allow_pickle=False) as file:
        names = sorted({key.rpartition(".")[0] for key in file.files})
        columns = {}
        for name in names:
            values, shapes = file[f"{name}.values"], file[f"{name}.shapes"]
            ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
            columns[name] = [
                values[end - int(np.prod(shape)) : end].reshape(shape)
                for end, shape in zip(ends, shapes)  # noqa: B905  (`strict` is not for a board's Python 3.9)
            ]
    return [{name: columns[name][row] for name in names} for row in range(len(columns[names[0]]))]


def open_session(
    model: str, threads: int, provider: str = "CPUExecutionProvider", *, optimize: bool = True
) -> ort.InferenceSession:
    """Default session options, a fixed number of threads, spinning off; graph optimizations off unless `optimize`.

    Raises RuntimeError where ONNX Runtime would take another provider, which it does with a warning alone.
    """
    options = ort.SessionOptions()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=[provider])
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} does not run here; ONNX Runtime would take {session.get_providers()[0]}")
    return session


def open_model(
    model: Model,
    threads: int,
    provider: str = "CPUExecutionProvider",
    *,
    program: str = "forward",
    optimize: bool = True,
) -> Any:
    """The program over a session of each graph: one file's, or a mapping's in its order."""
    files = {"model": model} if isinstance(model, str) else model
    sessions = {name: open_session(file, threads, provider, optimize=optimize) for name, file in files.items()}
    return _beside("programs")["open_program"](program, sessions)


class Predictor:
    """One opened model, and what is kept of its outputs."""

    def __init__(
        self,
        model: Model,
        threads: int,
        provider: str,
        *,
        program: str = "forward",
        keep: Keep = None,
        optimize: bool = True,
    ) -> None:
        self.program = open_model(model, threads, provider, program=program, optimize=optimize)
        rule = _beside("programs")
        self.rules, self.kept, self.digest = rule["rules_of"](keep, self.program.outputs), rule["kept"], rule["digest"]

    def __call__(self, sample: Sample) -> tuple[Sample, str]:
        """One input's kept outputs, and their SHA-256."""
        return self.told(self.program.run(None, self.program.feed(sample)), sample)

    def told(self, result: Any, sample: Sample) -> tuple[Sample, str]:
        """The same of an inference that was run."""
        outputs: Sample = self.kept(self.program.named(result), sample, self.rules)
        return outputs, self.digest(outputs)


def peak_rss_mib() -> float:
    """VmHWM: the most memory this process ever held, in MiB; 0 where the kernel does not tell."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def footprint(
    model: Model, inputs: list[str], threads: int, started: float, provider: str, program: str = "forward"
) -> dict[str, Any]:
    """Peak RSS above the import baseline after each of the input files, in MiB; cold start in ms.

    `started` is the wall time at which the parent started this process.
    """
    samples = [unpack(Path(path)) for path in inputs]
    _beside("programs")["load"](program)
    baseline = peak_rss_mib()
    before = time.perf_counter()
    opened = open_model(model, threads, provider, program=program)
    load_ms = (time.perf_counter() - before) * 1000
    cold_start_ms, peaks = 0.0, []
    for group in samples:
        for feed in [opened.feed(sample) for sample in group] * 3:
            opened.run(None, feed)
            cold_start_ms = cold_start_ms or (time.time() - started) * 1000
        peaks.append(peak_rss_mib() - baseline)
    return {"baseline_mib": baseline, "peak_rss_mib": peaks, "load_ms": load_ms, "cold_start_ms": cold_start_ms}


def predict(
    model: Model, inputs: str, threads: int, provider: str, outputs: str, program: str = "forward", keep: Keep = None
) -> dict[str, Any]:
    """The kept outputs of every sample, each run alone, packed into `outputs` (.npz); SHA-256 over each row's."""
    predictor = Predictor(model, threads, provider, program=program, keep=keep)
    packer, hashes = Packer(), []
    for sample in unpack(Path(inputs)):
        row, digest = predictor(sample)
        packer.add(row)
        hashes.append(digest)
    packer.write(Path(outputs))
    return {"n": len(hashes), "row_sha256": hashes}


def answers(
    models: dict[str, dict[str, Any]],
    threads: int,
    provider: str,
    outputs: str,
    limit_s: float,
    least: int = 1,
    most_s: float = 0.0,
) -> dict[str, Any]:
    """The kept outputs of each model on each row, row by row, until `limit_s` is over; at least one row is done.

    A slow machine goes on until `least` rows are done, but not beyond `most_s`.
    `models` maps a name to its `model` and `inputs` (as many rows each), `program` and `keep`, and, where graph
    optimizations are to be off, `optimize` false. They are packed into `outputs` (.npz), each output under
    `MODEL/OUTPUT`; SHA-256 over each row's.
    """
    opened = {
        name: Predictor(spec["model"], threads, provider, optimize=spec.get("optimize", True), **_rule(spec))
        for name, spec in models.items()
    }
    samples = {name: unpack(Path(spec["inputs"])) for name, spec in models.items()}
    packer = Packer()
    hashes: dict[str, list[str]] = {name: [] for name in opened}
    started = time.monotonic()
    for row in range(min(len(mine) for mine in samples.values())):
        if row and time.monotonic() - started > (limit_s if row >= least else max(limit_s, most_s)):
            break
        outputs_of_row: Sample = {}
        for name, predictor in opened.items():
            told, digest = predictor(samples[name][row])
            hashes[name].append(digest)
            outputs_of_row.update({f"{name}/{output}": values for output, values in told.items()})
        packer.add(outputs_of_row)
    packer.write(Path(outputs))
    return {"n": len(next(iter(hashes.values()))), "row_sha256": hashes}


def _rule(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: spec[key] for key in ("program", "keep") if key in spec}


def count(models: dict[str, dict[str, Any]], threads: int, provider: str) -> dict[str, Any]:
    """Each model once over its rows, warmed up on each, between two marks; `n` says how many rows each had.

    `models` maps a name to its `model`, `inputs` and `program`. What happens between the marks is the runtime's work
    alone where a program can have it so: inputs are bound before.
    """
    rows = {}
    for name, spec in models.items():
        opened = open_model(spec["model"], threads, provider, program=spec.get("program", "forward"))
        bound = [opened.counted(opened.feed(sample)) for sample in unpack(Path(spec["inputs"]))]
        for inference in bound:
            inference()
        _mark()
        for inference in bound:
            inference()
        _mark()
        rows[name] = len(bound)
    return {"n": rows}


def _mark() -> None:
    """A system call that does nothing, for no process has such a number; an emulator's counter hears it."""
    with contextlib.suppress(ProcessLookupError):
        os.getpriority(os.PRIO_PROCESS, MARK)


def facts(provider: str) -> dict[str, Any]:
    """The machine's identity and state, the runtime's version, and whether the provider is there."""
    machine = _beside("machine")
    told: dict[str, Any] = machine["identity"]()
    return told | {
        "state": machine["state"](),
        "ort_version": ort.__version__,
        "numpy_version": np.__version__,
        "providers": ort.get_available_providers(),
        "provider": provider,
    }


@cache
def _beside(name: str) -> dict[str, Any]:
    """What the file of that name beside this one defines; compiled from its text, never from a cache beside it."""
    if __package__:
        return vars(importlib.import_module(f"{__package__}.{name}"))
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))


def timed(
    models: dict[str, dict[str, Any]],
    threads: int,
    rounds: int,
    seed: int,
    provider: str,
    most_s: float | None = None,
    least_rows: int | None = None,
    rows: list[int] | None = None,
) -> dict[str, Any]:
    """Latency in ms of each model on the same samples, interleaved in random order; `aa` is the first model again.

    Where all would take more than `most_s` seconds there are fewer `rounds`, but one, and where `least_rows` are given
    fewer samples, evenly spaced, but so many. `rows` are the only ones that are timed, as an earlier process chose.

    `models` maps a name to its `model`, `inputs`, `program` and `keep`. Returns, for each name, samples as rounds x
    inputs, and the SHA-256 of each input's kept outputs, so that the timed run can be held against the accuracy run;
    which `rows` were timed; of a program that tells its stages the median ms of each; and the machine's state as it
    ended.
    """
    opened = {}
    first = next(iter(models))
    order = random.Random(seed)  # noqa: S311
    specs = [*models.items(), ("aa", models[first])]
    for name, spec in order.sample(specs, len(specs)):  # where a session lies in memory moves it by percents
        opened[name] = _Timed(Predictor(spec["model"], threads, provider, **_rule(spec)), unpack(Path(spec["inputs"])))
    settle_s = SETTLE_S if most_s is None else min(SETTLE_S, most_s / (4 * len(opened)))
    row_s = 0.0  # of one input, by every model
    for model in opened.values():
        each_s = model.settle(settle_s)
        model.goes_before = each_s < SLOW_S
        row_s += each_s * (2 if model.goes_before else 1)
    chosen = list(range(len(opened[first].feeds))) if rows is None else rows
    if most_s is not None:
        fitting = int(most_s / max(1e-9, row_s))
        rounds = max(1, min(rounds, fitting // len(chosen)))
        if least_rows is not None and rows is None:
            chosen = _spread(len(chosen), max(least_rows, fitting))
    count = len(chosen)
    latency: dict[str, list[list[float]]] = {name: [[0.0] * count for _ in range(rounds)] for name in opened}
    stages: dict[str, dict[str, list[float]]] = {name: {} for name in opened}
    hashes: dict[str, list[str]] = {name: [""] * count for name in opened}
    for turn in range(rounds):
        for place in order.sample(range(count), count):
            for name in order.sample(list(opened), len(opened)):
                model, row = opened[name], chosen[place]
                run, feed = model.run, model.feeds[row]
                if model.goes_before:
                    run(None, feed)  # untimed: the other models' weights have left the caches cold
                before = time.perf_counter()
                result = run(None, feed)
                latency[name][turn][place] = (time.perf_counter() - before) * 1000
                for stage, seconds in getattr(model.predictor.program, "stages", {}).items():
                    stages[name].setdefault(stage, []).append(1000 * seconds)
                if turn == rounds - 1:  # once is enough, and what runs between two inferences is not free of effect
                    hashes[name][place] = model.digest(result, row)
    return {
        "latency_ms": latency,
        "row_sha256": hashes,
        "rows": chosen,
        "stages_ms": {
            name: {stage: statistics.median(ms) for stage, ms in own.items()} for name, own in stages.items() if own
        },
        "state": _beside("machine")["state"](),
    }


def _spread(count: int, most: int) -> list[int]:
    """At most so many of `count` row numbers, evenly spaced."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / max(1, most - 1)) for place in range(most)]


class _Timed:
    """One model of a timed run, and its inputs as it takes them."""

    def __init__(self, predictor: Predictor, samples: list[Sample]) -> None:
        self.predictor, self.samples, self.run = predictor, samples, predictor.program.run
        self.feeds = [predictor.program.feed(sample) for sample in samples]
        self.goes_before = True  # whether an untimed inference goes before each timed one

    def digest(self, result: Any, row: int) -> str:
        return self.predictor.told(result, self.samples[row])[1]

    def settle(self, most_s: float) -> float:
        """Run until three successive medians agree, or for so many seconds; the last of them, in seconds."""
        medians: list[float] = []
        end = time.perf_counter() + most_s
        for _ in range(SETTLE_ROUNDS):
            times: list[float] = []
            for feed in self.feeds[:5]:
                before = time.perf_counter()
                if before > end and (times or medians):
                    break
                self.run(None, feed)
                times.append(time.perf_counter() - before)
            medians += [statistics.median(times)] if times else []
            if time.perf_counter() > end:
                break
            if len(medians) > 2 and abs(medians[-1] / medians[-2] - 1) < 0.05 > abs(medians[-2] / medians[-3] - 1):
                break
        return medians[-1]


def generation(
    model: Model, inputs: str, threads: int, provider: str, program: str, contexts: list[int], written: int
) -> dict[str, Any]:
    """Return of each context what `speeds` of the program says, and the peak RSS above the import baseline behind it.

    The text is the first sample's `input_ids`, repeated where a context is longer.
    """
    ids = unpack(Path(inputs))[0]["input_ids"].reshape(-1).tolist()
    speeds = _beside(program)["speeds"]
    baseline = peak_rss_mib()
    opened = open_model(model, threads, provider, program=program)
    found = []
    for context in contexts:
        [told] = speeds(opened, ids, [context], written)
        found.append({**told, "peak_rss_mib": peak_rss_mib() - baseline})
    return {"baseline_mib": baseline, "contexts": found}


MODES: dict[str, Callable[..., dict[str, Any]]] = {
    "footprint": footprint,
    "predict": predict,
    "answers": answers,
    "time": timed,
    "count": count,
    "generation": generation,
    "facts": facts,
}


def main() -> None:
    """Do the job of the file named on the command line. A model that cannot be loaded gives `{"refused": why}`."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    mode = job.pop("mode")
    try:
        answer = MODES[mode](**job)
    except Exception as error:  # noqa: BLE001  (ONNX Runtime raises a dozen unrelated kinds; the parent names them)
        answer = {"refused": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    print(json.dumps(answer))  # noqa: T201  (this file's way to answer)


if __name__ == "__main__":
    main()
