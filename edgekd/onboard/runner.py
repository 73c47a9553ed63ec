"""Runs ONNX models and measures them; needs numpy and onnxruntime alone, and travels to a device with `machine.py`.

    python runner.py JOB.json      prints one JSON object

A job names a `mode` and its arguments; paths in it are absolute:

    footprint   one model, fresh process: import baseline, cold start, peak RSS at given inputs
    predict     one model over all inputs: outputs to a file, their hashes
    answers     several models over the same rows, row by row, until a time limit: outputs to files
    time        several models interleaved sample by sample, with an A/A control: latency samples
    count       several models, one after the other, with a mark before and after: for whoever counts instructions
    facts       what this machine is, how it fares, and its packages

Inputs travel as one .npz of packed samples (`pack`, `unpack`): each sample keeps its own shape, unpadded.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # the folder may be a stranger's bundle: nothing beside this file is imported from there
    _HERE = os.path.dirname(os.path.realpath(__file__))
    sys.path = [place for place in sys.path if os.path.realpath(place) != _HERE]

import contextlib
import hashlib
import json
import random
import runpy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else release 1.32 leaves an id and a data base in the user's folders
import onnxruntime as ort

Sample = dict[str, np.ndarray]

MARK = 0x45444B44  # a process number beyond any kernel's limit; devices/_instructions.c knows it
SETTLE_ROUNDS = 30  # warm-up ends when three successive medians agree within 5%, or here


def pack(samples: Sequence[Sample], path: Path) -> None:
    """Write samples to an .npz: for each input name its values, end to end, and each sample's shape."""
    arrays: dict[str, np.ndarray] = {}
    for name in samples[0]:
        arrays[f"{name}.values"] = np.concatenate([sample[name].ravel() for sample in samples])
        arrays[f"{name}.shapes"] = np.array([sample[name].shape for sample in samples], dtype=np.int64)
    np.savez(path, **arrays)  # type: ignore[arg-type]


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


def feeds(session: ort.InferenceSession, samples: list[Sample]) -> list[Sample]:
    """The inputs that this model takes, of each sample."""
    names = [node.name for node in session.get_inputs()]
    return [{name: sample[name] for name in names} for sample in samples]


def peak_rss_mib() -> float:
    """VmHWM: the most memory this process ever held, in MiB; 0 where the kernel does not tell."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def footprint(model: str, inputs: list[str], threads: int, started: float, provider: str) -> dict[str, Any]:
    """Peak RSS above the import baseline after each of the input files, in MiB; cold start in ms.

    `started` is the wall time at which the parent started this process.
    """
    samples = [unpack(Path(path)) for path in inputs]
    baseline = peak_rss_mib()
    before = time.perf_counter()
    session = open_session(model, threads, provider)
    load_ms = (time.perf_counter() - before) * 1000
    cold_start_ms, peaks = 0.0, []
    for group in samples:
        for feed in feeds(session, group) * 3:
            session.run(None, feed)
            cold_start_ms = cold_start_ms or (time.time() - started) * 1000
        peaks.append(peak_rss_mib() - baseline)
    return {"baseline_mib": baseline, "peak_rss_mib": peaks, "load_ms": load_ms, "cold_start_ms": cold_start_ms}


def predict(
    model: str, inputs: str, threads: int, provider: str, outputs: str, pool: str | None = None
) -> dict[str, Any]:
    """First output of every sample, each run alone, stacked into `outputs` (.npy); SHA-256 over each row.

    With `pool` mask_mean an output (1, tokens, width) becomes its mean over the tokens that the mask holds: (1, width);
    with mean, over all tokens, as `verify.py` takes answers.
    """
    session = open_session(model, threads, provider)
    rows, hashes = [], []
    for feed in feeds(session, unpack(Path(inputs))):
        row = session.run(None, feed)[0]
        hashes.append(hashlib.sha256(row.tobytes()).hexdigest())
        rows.append(_pooled(row, feed, pool))
    np.save(outputs, np.concatenate(rows))
    return {"n": len(rows), "row_sha256": hashes}


def answers(
    models: dict[str, dict[str, Any]], threads: int, provider: str, outputs: str, limit_s: float,
    pool: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """First output of each model on each row, row by row, until `limit_s` is over; at least one row is done.

    `models` maps a name to its `model`, its `inputs` (as many rows each) and, where graph optimizations are to be off,
    `optimize` false. Each model's outputs are stacked into `outputs` (.npz, by name); SHA-256 over each row.
    """
    opened = {
        name: (open_session(spec["model"], threads, provider, optimize=spec.get("optimize", True)), spec["inputs"])
        for name, spec in models.items()
    }
    samples = {name: feeds(session, unpack(Path(inputs))) for name, (session, inputs) in opened.items()}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in opened}
    hashes: dict[str, list[str]] = {name: [] for name in opened}
    end = time.monotonic() + limit_s
    for row in range(min(len(mine) for mine in samples.values())):
        if row and time.monotonic() > end:
            break
        for name, (session, _) in opened.items():
            feed = samples[name][row]
            output = session.run(None, feed)[0]
            hashes[name].append(hashlib.sha256(output.tobytes()).hexdigest())
            rows[name].append(_pooled(output, feed, pool))
    np.savez(outputs, **{name: np.concatenate(mine) for name, mine in rows.items()})  # type: ignore[arg-type]
    return {"n": len(next(iter(rows.values()))), "row_sha256": hashes}


def count(models: dict[str, dict[str, str]], threads: int, provider: str) -> dict[str, Any]:
    """Each model once over its rows, warmed up on each, between two marks; `n` says how many rows each had.

    `models` maps a name to its `model` and `inputs`. What happens between the marks is the runtime's work alone: inputs
    are bound before.
    """
    rows = {}
    for name, spec in models.items():
        session = open_session(spec["model"], threads, provider)
        bound = [_bound(session, feed) for feed in feeds(session, unpack(Path(spec["inputs"])))]
        for binding in bound:
            session.run_with_iobinding(binding)
        _mark()
        for binding in bound:
            session.run_with_iobinding(binding)
        _mark()
        rows[name] = len(bound)
    return {"n": rows}


def _bound(session: ort.InferenceSession, feed: Sample) -> ort.IOBinding:
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding


def _mark() -> None:
    """A system call that does nothing, for no process has such a number; an emulator's counter hears it."""
    with contextlib.suppress(ProcessLookupError):
        os.getpriority(os.PRIO_PROCESS, MARK)


def facts(provider: str) -> dict[str, Any]:
    """The machine's identity and state, the runtime's version, and whether the provider is there."""
    machine = _machine()
    told: dict[str, Any] = machine["identity"]()
    return told | {
        "state": machine["state"](), "ort_version": ort.__version__, "numpy_version": np.__version__,
        "providers": ort.get_available_providers(), "provider": provider,
    }  # fmt: skip


def _machine() -> dict[str, Any]:
    """What `machine.py` beside this file defines; compiled from its text, never from a cache that lies there."""
    return runpy.run_path(str(Path(__file__).with_name("machine.py")))


def _pooled(output: np.ndarray, feed: Sample, pool: str | None) -> np.ndarray:
    if pool == "mean":
        mean: np.ndarray = output.reshape(1, -1, output.shape[-1]).mean(axis=1)
        return mean
    return output if pool is None else mask_mean(output, feed)


def mask_mean(output: np.ndarray, feed: Sample) -> np.ndarray:
    """The mean over tokens that are not padding: (1, tokens, width) to (1, width)."""
    mask = feed.get("attention_mask")
    if mask is None:
        mask = np.ones(output.shape[:2])
    weights = mask[:, :, None].astype(output.dtype)
    pooled: np.ndarray = (output * weights).sum(axis=1) / weights.sum(axis=1).clip(1)
    return pooled


def timed(models: dict[str, dict[str, str]], threads: int, rounds: int, seed: int, provider: str) -> dict[str, Any]:
    """Latency in ms of each model on the same samples, interleaved in random order; `aa` is the first model again.

    `models` maps a name to its `model` and `inputs`. Returns, for each name, samples as rounds x inputs, and the
    SHA-256 of each input's output, so that the timed run can be held against the accuracy run; and the machine's state
    as it ended.
    """
    opened = {}
    first = next(iter(models))
    order = random.Random(seed)  # noqa: S311
    sessions = [*models.items(), ("aa", models[first])]
    for name, spec in order.sample(sessions, len(sessions)):  # where a session lies in memory moves it by percents
        session = open_session(spec["model"], threads, provider)
        opened[name] = (session, feeds(session, unpack(Path(spec["inputs"]))))
    _settle(opened)
    count = len(opened[first][1])
    latency: dict[str, list[list[float]]] = {name: [[0.0] * count for _ in range(rounds)] for name in opened}
    hashes: dict[str, list[str]] = {name: [""] * count for name in opened}
    for turn in range(rounds):
        for row in order.sample(range(count), count):
            for name in order.sample(list(opened), len(opened)):
                session, samples = opened[name]
                session.run(None, samples[row])  # untimed: the other models' weights have left the caches cold
                before = time.perf_counter()
                output = session.run(None, samples[row])
                latency[name][turn][row] = (time.perf_counter() - before) * 1000
                hashes[name][row] = hashlib.sha256(output[0].tobytes()).hexdigest()
    return {"latency_ms": latency, "row_sha256": hashes, "state": _machine()["state"]()}


def _settle(opened: dict[str, tuple[ort.InferenceSession, list[Sample]]]) -> None:
    for session, samples in opened.values():
        medians: list[float] = []
        for _ in range(SETTLE_ROUNDS):
            times = []
            for feed in samples[:5]:
                before = time.perf_counter()
                session.run(None, feed)
                times.append(time.perf_counter() - before)
            medians.append(statistics.median(times))
            if len(medians) > 2 and abs(medians[-1] / medians[-2] - 1) < 0.05 > abs(medians[-2] / medians[-3] - 1):
                break


MODES: dict[str, Callable[..., dict[str, Any]]] = {
    "footprint": footprint, "predict": predict, "answers": answers, "time": timed, "count": count,
    "facts": facts,
}  # fmt: skip


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
