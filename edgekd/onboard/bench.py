"""Composes a receipt: what one device answered, how long it took, what it held, and what the device was.

    python NAME-TARGET/bench [--full] [--minutes N] > receipt.json      on the device itself, by hand

In a bundle it lies as `bench/__main__.py` beside `runner.py` and what that loads. Every figure comes from jobs of the
runner in fresh processes, which `run` carries out: here, on a board, or in an emulator. It needs numpy alone.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # in a bundle, which may be a stranger's: nothing that lies in it is imported by its name
    _HERE = os.path.dirname(os.path.realpath(__file__))
    sys.path = [place for place in sys.path if os.path.realpath(place) not in (_HERE, os.path.dirname(_HERE))]

import argparse
import base64
import hashlib
import importlib
import json
import runpy
import shutil
import statistics
import subprocess
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_DAMAGED = (
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
Run = Callable[..., dict[str, Any]]  # run(mode, **job): the runner's answer

CHECKS = "checks"  # of the byproducts in provenance.json
SCHEMA = 2
PROTOCOLS = {"quick": (4, 2), "full": (10, 3)}  # fresh processes, and rounds over the timed rows in each
TIMED_ROWS = 100
LEAST_ROWS, ROUND_S = 5, 15.0  # no more rows are timed than are answered in that, but so many
FOOTPRINTS = 3
MOST_MINUTES = 1440.0  # of a sustained run: a day
SLOWDOWN = 1.10  # of a sustained run's last tenth over its first: above, the device throttles
_LARGEST_PAPER = 64 << 20  # bytes of provenance.json
_CHUNK_S = 9.0  # of timed work for each point of a sustained run
_EMULATED = "the machine is emulated: its time is the emulator's"


class Refused(Exception):
    """The device gave no receipt: a bundle that was changed, or a model that it cannot run or answers unlike twice."""

    def __init__(self, why: str, code: int = 1) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True)
class Rows:
    """Rows of a data file as model inputs; `labels` are class numbers, None where none are known.

    Of several labels a row they are 0 or 1 for each label: (rows, labels).
    """

    samples: Sequence[dict[str, np.ndarray[Any, Any]]]
    labels: np.ndarray[Any, Any] | None
    source: str  # the file's own name
    score: Callable[[Sequence[Mapping[str, Array]]], float] | None = None  # of answers, where labels are no classes
    metric: str = ""  # what `score` gives


def steps(protocol: str, emulated: str, rows: Rows | None = None) -> int:
    """How many lines `say` will be given before the sustained part."""
    timed = 0 if emulated else PROTOCOLS[protocol][0]
    return 2 + (rows is not None) + timed + (0 if emulated == "user" else FOOTPRINTS)


def receipt(
    bundle: Path,
    run: Run,
    *,
    device: str,
    emulated: str = "",
    protocol: str = "quick",
    minutes: float = 0.0,
    rows: Rows | None = None,
    say: Callable[[str], None] = lambda line: None,
    accept: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> dict[str, Any]:
    """The receipt of one device for a bundle, as `docs/receipts.md` describes it.

    `emulated` is "", "user" or "system": there nothing is timed. `accept` may refuse a device by its facts, before
    anything is measured. Raises Refused where a timed output is not the
    accuracy run's; whatever `run` raises passes through. Ctrl-C ends a sustained run early and keeps what it had.
    """
    began, started = time.monotonic(), datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: UP017 (3.10)
    verify = _beside("verify")
    manifest = verify["read_manifest"](bundle)
    plan = made_by(bundle)["plan"]
    threads, provider = (plan["target"][key] for key in ("threads", "execution_provider"))
    before = run("facts")
    accept(before)
    say(f"{before['cpu']}, onnxruntime {before['ort_version']}")
    if provider not in before["providers"]:
        raise Refused(f"onnxruntime here has no {provider}, which the profile asks for", 7)
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as name:
        job, keep = verify["model_job"](bundle, manifest), verify["model_of"](manifest)["outputs"]
        lab = _Lab(run, job, keep, threads, Path(name), say)
        said = _answers(lab, bundle, fidelity_of(manifest, plan), rows)
        latency = None if emulated else lab.timed(*PROTOCOLS[protocol])
        footprints = [] if emulated == "user" else lab.footprints()
        after = run("facts")
        sustained = lab.sustained(minutes, latency["model"]) if latency and minutes else None
    kind = {"accuracy": True, "latency": not emulated, "peak_rss": emulated != "user", "cold_start": not emulated}
    found = {
        "schema": SCHEMA,
        "bundle": {
            "name": manifest["name"],
            "version": manifest["version"],
            "target": manifest["compatible"][0],
            "manifest_sha256": _sha256(bundle / "manifest.json"),
        },
        "model": verify["model_name"](manifest),
        "model_sha256": verify["model_sha256"](manifest),
        "device": device,
        "emulated": emulated,
        **{
            key: before[key]
            for key in (
                "arch",
                "cpu",
                "microarch",
                "isa",
                "cores",
                "clock_mhz",
                "memory_mib",
                "os",
                "python",
                "numpy_version",
                "ort_version",
            )
        },
        "provider": provider,
        "threads": threads,
        **said,
        "latency_ms": latency and latency["model"],
        "aa_latency_ms": latency and latency["aa"],
        "latency_note": _EMULATED if emulated else f"over {lab.timed_rows} {lab.timed_of}, batch 1, each run warm",
        "peak_rss_mib": [one["peak_rss_mib"][0] for one in footprints] or None,
        "cold_start_ms": None if emulated else [one["cold_start_ms"] for one in footprints],
        "load": {"before": before["state"]["load"], "after": after["state"]["load"]},
        "governor": after["state"]["governor"],
        "temperature_c": {"before": before["state"]["temperature_c"], "after": after["state"]["temperature_c"]},
        "throttled": after["state"]["throttled"],
        "sustained": sustained,
        "protocol": {
            "name": protocol,
            "processes": PROTOCOLS[protocol][0],
            "rounds": PROTOCOLS[protocol][1],
            "samples": lab.timed_rows,
        },
        "started": started,
        "seconds": round(time.monotonic() - began, 1),
        "kind": {figure: "measured" if known else "unknown" for figure, known in kind.items()},
    }
    return found | {"digest": digest(found)}


def digest(found: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of all but the digest itself. It catches accidents; it proves no origin."""
    rest = {key: value for key, value in found.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def golden_inputs(bundle: Path) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The bundle's golden inputs, row by row. Raises ValueError where they are none."""
    found: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
    try:
        for key, values in _arrays(bundle / "golden" / "inputs.npz").items():
            row, _, name = key.partition(".")
            found.setdefault(int(row), {})[name] = values
        return [found[row] for row in range(len(found))]
    except _DAMAGED as error:
        raise ValueError(f"golden/inputs.npz cannot be used: {error or type(error).__name__}") from error


def fidelity_of(manifest: dict[str, Any], plan: dict[str, Any]) -> str:
    """Return what answers are held against the reference's by.

    That is `agreement` of classes, `cosine` of embeddings, `decision_f1` of labels, each of them decided by itself; or
    a task's own, which a device does not know: see `judged_by`.
    A bundle of before names neither: one without classes has embeddings.
    """
    return str(manifest.get("fidelity") or ("agreement" if plan["data"]["classes"] else "cosine"))


def judged_by(fidelity: str, reference: Sequence[Array]) -> str:
    """Return what `likeness` takes for these answers of the reference.

    A fidelity that is not known here is a task's own: whole numbers, as tokens are, are then the `same` or they are
    not; other values are compared by their cosine.
    """
    if fidelity in ("agreement", "cosine", "decision_f1"):
        return fidelity
    return "same" if all(row.dtype.kind in "biu" for row in reference) else "cosine"


def likeness(fidelity: str, answers: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """How far answers are the reference's: the share of rows with its class; of embeddings the mean cosine.

    Of labels that are decided each by itself, above 0, the micro F1: that most are absent in both is no merit.
    """
    import numpy as np

    if fidelity == "decision_f1":
        return _f1(answers > 0, reference > 0)
    if fidelity == "agreement":
        return float((answers.argmax(axis=1) == reference.argmax(axis=1)).mean())
    lengths = np.linalg.norm(answers, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((answers * reference).sum(axis=1) / np.maximum(lengths, 1e-30)).clip(0, 1).mean())


def likeness_of(fidelity: str, answers: Sequence[Array], reference: Sequence[Array]) -> float:
    """The same of one output, an array a row: of ragged ones the mean over rows, 0 where two have other shapes.

    Of what is the `same` or not, the share of rows that are.
    """
    import numpy as np

    if fidelity == "same":
        return float(np.mean([np.array_equal(own, other) for own, other in zip(answers, reference)]))  # noqa: B905
    if len({row.shape for row in (*answers, *reference)}) == 1 and answers[0].ndim == 1:
        return likeness(fidelity, np.stack(list(answers)), np.stack(list(reference)))
    each = [
        likeness(fidelity, _positions(own), _positions(other)) if own.shape == other.shape and own.size else 0.0
        for own, other in zip(answers, reference)  # noqa: B905  (`strict` is not for a board's Python 3.9)
    ]
    return float(np.mean(each))


def _positions(values: Array) -> Array:
    rows: Array = values.reshape(-1, values.shape[-1] if values.ndim > 1 else values.size)
    return rows


def likeness_says(fidelity: str) -> str:
    """What `likeness` is on the golden inputs, in a receipt's words."""
    words = {
        "agreement": "the class that",
        "decision_f1": "micro F1 to the labels that",
        "same": "all of what",
    }.get(fidelity, "cosine to what")
    return f"golden inputs, {words} the float32 model gives"


def _f1(decided: np.ndarray[Any, Any], there: np.ndarray[Any, Any]) -> float:
    """Micro F1 of decisions, both (rows, labels); 1 where nothing is there to find and nothing was found."""
    right, whole = int((decided & there).sum()), int(decided.sum()) + int(there.sum())
    return 2 * right / whole if whole else 1.0


def _accuracy(answers: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """The share of rows whose largest output is the label; micro F1 of several labels a row, each decided above 0."""
    if labels.ndim == 2:
        return _f1(answers > 0, labels == 1)
    return float((answers.argmax(axis=1) == labels).mean())


def _answers(lab: _Lab, bundle: Path, fidelity: str, rows: Rows | None) -> dict[str, Any]:
    """Outputs, accuracy and what it is of; the rows that are timed are chosen on the way."""
    import numpy as np

    golden, verify = golden_inputs(bundle), _beside("verify")
    answers = lab.predict("golden", golden, "golden inputs")
    reference = verify["read_expected"](_arrays(bundle / "golden" / "expected.npz"))["float32"]
    main = lab.main or next(iter(answers[0]))
    if not reference or max(reference) >= len(golden):
        raise ValueError(f"golden/expected.npz has no answers to {len(golden)} inputs")
    own = [answers[row][main] for row in reference]
    expected = [outputs["" if "" in outputs else main] for outputs in reference.values()]  # schemas 1 and 2: no name
    shapes, wanted = {one.shape for one in own}, {one.shape for one in expected}
    if len(shapes) == len(wanted) == 1 and shapes != wanted:
        raise Refused(f"its answers to the golden inputs have the shape {shapes.pop()}, not {wanted.pop()}")
    fidelity = judged_by(fidelity, expected)
    accuracy, n, of = likeness_of(fidelity, own, expected), len(reference), likeness_says(fidelity)
    if rows is not None:
        said = lab.predict("rows", rows.samples, f"rows of {rows.source}")
        if rows.score is not None:
            accuracy, n, of = rows.score(said), len(said), f"{rows.metric}, labels of {rows.source}"
        elif rows.labels is not None:
            accuracy = _accuracy(np.stack([row[main] for row in said]), np.asarray(rows.labels))
            n, of = len(said), f"labels of {rows.source}"
    return {"accuracy": accuracy, "accuracy_n": n, "accuracy_of": of, **encoded(answers)}


def encoded(predictions: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """`outputs` and `output_sha256` of a receipt: of each output its shapes, and its float32 values end to end."""
    import numpy as np

    outputs, hasher = {}, hashlib.sha256()
    for name in sorted(predictions[0]):
        rows = [np.asarray(row[name], dtype="<f4") for row in predictions]
        raw = b"".join(row.tobytes() for row in rows)
        hasher.update(raw)
        outputs[name] = {"shapes": [list(row.shape) for row in rows], "float32": base64.b64encode(raw).decode()}
    return {"outputs": outputs, "output_sha256": hasher.hexdigest()}


class _Lab:
    """One device, one model, one temporary folder."""

    def __init__(
        self, run: Run, job: dict[str, Any], keep: Any, threads: int, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.run, self.job, self.keep, self.threads, self.folder, self.say = run, job, keep, threads, folder, say
        self.main = "" if isinstance(keep, str) else next(iter(keep))
        self.timed_rows, self.timed_of = 0, ""
        self.hashes: list[str] = []  # what the accuracy run said of the timed rows

    def predict(self, name: str, samples: Sequence[dict[str, Any]], of: str) -> list[dict[str, Array]]:
        """The answers to these rows as `verify.py` takes them, float32 by output; the rows are what is timed next."""
        import numpy as np

        inputs, outputs = self.folder / f"{name}.npz", self.folder / f"{name}.outputs.npz"
        _pack(samples, inputs)
        began = time.monotonic()
        job = self.run(
            "predict", **self.job, inputs=str(inputs), threads=self.threads, outputs=str(outputs), keep=self.keep
        )
        self.say(f"answers to {len(samples)} {of}")
        fitting = int(ROUND_S * len(samples) / max(1e-9, 2 * (time.monotonic() - began)))  # model and control
        chosen = _evenly(len(samples), min(TIMED_ROWS, max(LEAST_ROWS, fitting)))
        _pack([samples[row] for row in chosen], self.folder / "timed.npz")
        answers = _beside("runner")["unpack"](outputs)
        if not len(answers) == len(job["row_sha256"]) == len(samples):
            raise Refused(f"it gave {len(answers)} answers to {len(samples)} {of}")
        self.hashes = [job["row_sha256"][row] for row in chosen]
        self.timed_rows, self.timed_of = len(chosen), of
        return [{key: values.astype(np.float32) for key, values in row.items()} for row in answers]

    def timed(self, processes: int, rounds: int) -> dict[str, list[list[float]]]:
        """Latencies in ms of the model and of its A/A control: (processes x rounds) lists of one for each row."""
        found: dict[str, list[list[float]]] = {"model": [], "aa": []}
        for number in range(processes):
            job = self._time(rounds, number)
            for name, turns in found.items():
                turns += [[round(ms, 6) for ms in turn] for turn in job["latency_ms"][name]]
            self.say(f"latency, process {number + 1} of {processes}")
        return found

    def footprints(self) -> list[dict[str, Any]]:
        """Memory and cold start over the golden inputs, each in a fresh process."""
        found = []
        for number in range(FOOTPRINTS):
            inputs = [str(self.folder / "golden.npz")]
            found.append(self.run("footprint", **self.job, inputs=inputs, threads=self.threads))
            self.say(f"memory and cold start, process {number + 1} of {FOOTPRINTS}")
        return found

    def sustained(self, minutes: float, latency: list[list[float]]) -> dict[str, Any] | None:
        """Latency and temperature over time, a point for each chunk of timed work; None where not one was finished."""
        p50_ms = statistics.median(ms for turn in latency for ms in turn)
        times = 4 if p50_ms < 1000 * _beside("runner")["SLOW_S"] else 2  # model and control; a fast row twice
        round_s = times * self.timed_rows * p50_ms / 1000
        points: list[dict[str, Any]] = []
        held_down, began = False, time.monotonic()
        try:
            while (left_s := 60 * minutes - (time.monotonic() - began)) > 0:
                job = self._time(max(1, round(min(_CHUNK_S, left_s) / round_s)), len(points))
                state = job["state"]
                held_down |= bool(state["throttled"])
                p50_ms = statistics.median(ms for turn in job["latency_ms"]["model"] for ms in turn)
                points.append(
                    {
                        "at_s": round(time.monotonic() - began, 2),
                        "p50_ms": round(p50_ms, 6),
                        "temperature_c": state["temperature_c"],
                        "clock_mhz": state["clock_mhz"],
                    }
                )
                warm = "" if state["temperature_c"] is None else f", {state['temperature_c']:.0f} °C"
                self.say(f"sustained, {points[-1]['at_s']:.0f} of {60 * minutes:.0f} s: {p50_ms:.3f} ms{warm}")
        except KeyboardInterrupt:
            kept = "what it showed is kept" if points else "before its first point: it showed nothing"
            self.say(f"sustained run ended early; {kept}")
        if not points:
            return None
        slower = slowdown([point["p50_ms"] for point in points])
        return {
            "minutes": max(0.01, round(points[-1]["at_s"] / 60, 2)),
            "points": points,
            "throttled": held_down or slower > SLOWDOWN,
            "slowdown": slower,
        }

    def _time(self, rounds: int, seed: int) -> dict[str, Any]:
        models = {"model": {**self.job, "inputs": str(self.folder / "timed.npz"), "keep": self.keep}}
        job = self.run("time", models=models, threads=self.threads, rounds=rounds, seed=seed)
        for name in ("model", "aa"):
            if job["row_sha256"][name] != self.hashes:
                raise Refused("the timed run's outputs are not the accuracy run's: this device answers unlike twice")
        return job


def slowdown(p50_ms: Sequence[float]) -> float:
    """The median of the last tenth of a sustained run's points over that of the first."""
    tenth = max(1, len(p50_ms) // 10)
    return round(statistics.median(p50_ms[-tenth:]) / statistics.median(p50_ms[:tenth]), 4)


def made_by(bundle: Path) -> dict[str, Any]:
    """What provenance.json says of the build, the `plan` and the `checks`: of a statement, or of the older layout.

    Raises OSError, ValueError, KeyError, TypeError or RecursionError where it cannot be read or says neither.
    """
    said = json.loads(_beside("verify")["read_small"](bundle / "provenance.json", _LARGEST_PAPER))
    if "predicate" not in said:  # before edgekd wrote in-toto statements
        return {"plan": said["plan"], "checks": said.get("checks", {})}
    definition, run = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    beside = {one["name"]: one for one in run["byproducts"]}
    return {"plan": definition["externalParameters"]["plan"], "checks": beside[CHECKS]["annotations"]}


def _pack(samples: Sequence[dict[str, Any]], path: Path) -> None:
    _beside("runner")["pack"](list(samples), path)


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    arrays: dict[str, np.ndarray[Any, Any]] = _beside("verify")["read_arrays"](path)
    return arrays


@cache
def _beside(name: str) -> dict[str, Any]:
    """What the module of that name defines: of this package; in a bundle, of the file itself, past every cache."""
    if __package__:
        return vars(importlib.import_module(f"{__package__}.{name}"))
    here = Path(__file__).resolve()
    return runpy.run_path(str(here.parents[1] / "verify.py" if name == "verify" else here.with_name(f"{name}.py")))


def _evenly(rows: int, most: int) -> list[int]:
    """At most so many row numbers, evenly spaced."""
    return list(range(rows)) if rows <= most else [round(i * (rows - 1) / (most - 1)) for i in range(most)]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _here(mode: str, **job: Any) -> dict[str, Any]:
    """One runner job on this machine, in a fresh process. `-B`: nothing may be written into a bundle."""
    job |= {"mode": mode} | ({"started": time.time()} if mode == "footprint" else {})
    with tempfile.TemporaryDirectory(prefix="edgekd-job-") as folder:
        file = Path(folder, "job.json")
        file.write_text(json.dumps(job), encoding="utf-8")
        runner = str(Path(__file__).with_name("runner.py"))
        done = subprocess.run([sys.executable, "-B", runner, str(file)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if last.startswith("ModuleNotFoundError: "):
            raise ImportError(last.partition(": ")[2])
        raise Refused(f"the process for a {mode} run ended with code {done.returncode}: {last}", 7)
    try:
        answer: dict[str, Any] = _beside("verify")["read_json"](done.stdout.encode().strip().splitlines()[-1])
        refused = answer.get("refused")
    except (AttributeError, IndexError, ValueError) as error:
        raise Refused(f"the process for a {mode} run ended without an answer", 7) from error
    if refused:
        raise Refused(f"ONNX Runtime refuses the model: {refused}", 7)
    return answer


def _check(bundle: Path) -> None:
    """Raises Refused where the bundle's files are not those that were shipped."""
    verify = _beside("verify")
    if problems := verify["changed_files"](bundle, verify["read_manifest"](bundle)):
        raise Refused(f"this is not the bundle that was shipped: {problems[0]}")


def main() -> int:
    """By hand: the receipt on stdout, progress on stderr. Exit code 1: a changed bundle; 7: no runtime for it."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure this bundle here; the receipt goes to stdout.")
    parser.add_argument("--full", action="store_true", help="ten fresh processes instead of four")
    parser.add_argument("--minutes", type=float, default=0.0, help="a sustained run of so many minutes after that")
    given = parser.parse_args()
    if not 0 <= given.minutes <= MOST_MINUTES:
        parser.error(f"--minutes takes 0 to {MOST_MINUTES:g}, not {given.minutes:g}")
    bundle = Path(__file__).resolve().parents[1]

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    try:
        _check(bundle)
        wanted = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["min"]["ort_version"]
        run = partial(_here, provider=made_by(bundle)["plan"]["target"]["execution_provider"])
        made = receipt(
            bundle, run, device="by hand", protocol="full" if given.full else "quick", minutes=given.minutes, say=say
        )
    except Refused as error:
        say(f"FAILED  {error}")
        return error.code
    except ImportError as error:
        say(f"FAILED  {error}: install numpy and onnxruntime {wanted}")
        return 7
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"FAILED  the bundle cannot be used: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; there is no receipt")
        return 130
    print(json.dumps(made, ensure_ascii=False))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    # `python bench` has compiled this file into the bundle before its first line ran: a file too many there
    shutil.rmtree(Path(__file__).with_name("__pycache__"), ignore_errors=True)
    sys.exit(main())
