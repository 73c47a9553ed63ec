"""Does anybody quantize better? `python -m benchmarks.quantization` (about 50 minutes); `make peers` first.

MiniLM on real texts of 32 and 128 tokens, EfficientNet-Lite0 on Fashion-MNIST enlarged to 224 pixels. Every model is
held by a process of its own, one thread; they are timed in turn, in short bursts, so that noise hits all of them, in
several sets of fresh processes. Three sets of rows share nothing: those that edgekd searches on, those that gate what
it ships, and those of the figures. One run measures everything; `--quick` tries all of it small and keeps nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks._peers import ENVIRONMENT, PEERS, ROOT, Worker, python, size_mib
from benchmarks._rounds import AA, OURS, REFERENCE, ahead_of_us, mean_with_interval, speeds, until_stable
from benchmarks._subjects import FULL, QUICK, SUBJECTS, Setting, Subject, texts
from edgekd.core.registry import make
from edgekd.data import demos
from edgekd.onboard.runner import peak_rss_mib

NO_BUDGETS = ("--latency-ms", "1000", "--memory-mib", "1000", "--artifact-mib", "1000")  # fidelity and speed decide
RUNS = {"32": 8, "128": 3, "224": 20}  # a burst takes about a quarter of a second


def made_by_peer(name: str, subject: Subject, out: Path) -> Path | str:
    """The peer's model, or why there is none."""
    if not python(name).exists():
        return "not run: `make peers`"
    out.mkdir(parents=True)
    job = {"model": str(subject.fp32), "out": str(out), "calibration": str(subject.calibration)}
    (out / "job.json").write_text(json.dumps(job | {"transformer": subject.transformer}), encoding="utf-8")
    command = [str(python(name)), "-m", "benchmarks._peers", "make", name, str(out / "job.json")]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=out, capture_output=True, text=True, check=False)
    found = [file for file in (out / "model.onnx", out / "model.xml") if file.exists()]
    if done.returncode or not found:
        return f"not run: {(done.stderr.strip().splitlines() or ['it wrote no model'])[-1]}"
    return found[0]


def made_by_us(subject: Subject, target: str, out: Path, limit_s: int) -> tuple[Path | str, dict[str, Any]]:
    """The model that `build` ships, or why there is none; its recipe, its rows by role and the time of the build."""
    command = [
        "build",
        "--student",
        "none",
        "--task",
        subject.task,
        "--teacher",
        subject.teacher,
        *subject.options,
        *NO_BUDGETS,
        "--target",
        target,
        "--min-agreement",
        str(subject.floor),
        "--time-limit",
        str(limit_s),
        "--out",
        str(out / "bundle"),
        "--json",
    ]
    environment = os.environ | {"EDGEKD_STORE": str(out / "store")}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *command],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    said: dict[str, Any] = {"build_s": time.monotonic() - begun, "target": target}
    if done.returncode:
        return f"not run: {json.loads(done.stdout)['error'] if done.stdout else f'exit {done.returncode}'}", said
    report = json.loads((out / "bundle" / "report.json").read_text(encoding="utf-8"))
    said |= {"recipe": report["choice"]["recipe"], "trials": len(report["trials"]), "rows": report["data"]["counts"]}
    return next((out / "bundle" / "onnx").glob("model*.onnx")), said


@contextlib.contextmanager
def serving(found: dict[str, Path]) -> Iterator[dict[str, Worker]]:
    """A fresh process for each model, ended at the end."""
    with contextlib.ExitStack() as stack:
        workers = {name: Worker(model) for name, model in found.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        yield workers


def fidelities(found: dict[str, Path], rows: Path, metric: Callable[..., Any]) -> dict[str, Any]:
    """By name: how far each model says what fp32 says of the rows."""
    outputs = {}
    with tempfile.TemporaryDirectory(prefix="edgekd-outputs-") as folder, serving(found) as workers:
        for name, worker in workers.items():
            worker.ask(predict=str(rows), out=f"{folder}/outputs.npy")
            outputs[name] = np.load(f"{folder}/outputs.npy")
    same = {name: metric(values, outputs[REFERENCE]) for name, values in outputs.items()}
    return {name: {"fidelity": mean_with_interval(scores)} for name, scores in same.items()}


def timed(found: dict[str, Path], rows: Path, runs: int, setting: Setting) -> dict[str, list[float]]:
    """By name: median ms of each set of fresh processes, of rounds in random order."""
    ms: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(setting.processes):
        rounds: dict[str, list[float]] = {name: [] for name in found}
        with serving(found) as workers:
            for _ in range(setting.rounds):
                for name in random.sample(list(workers), len(workers)):
                    rounds[name].append(float(np.median(workers[name].ask(time=str(rows), runs=runs)["ms"])))
        for name, taken in rounds.items():
            ms[name].append(float(np.median(taken)))
    return ms


def side_by_side(found: dict[str, Path], subject: Subject, setting: Setting) -> tuple[dict[str, Any], dict[str, int]]:
    """By length and name fidelity, ms, size and speed over fp32; by length how many tries the speeds took."""
    lengths: dict[str, Any] = {}
    tries: dict[str, int] = {}
    for length, rows in subject.report.items():
        lengths[length] = fidelities(found, rows, subject.metric)
        if length not in RUNS:
            continue

        def measure(rows: Path = rows, runs: int = RUNS[length]) -> dict[str, Any]:
            return speeds(timed(found, rows, runs, setting))

        figures, tries[length] = until_stable(measure, setting.tries)
        for name, one in figures.items():
            lengths[length][name] |= one | {"size_mib": size_mib(found[name])}
    return lengths, tries


def calibrate(model: str, count: int) -> None:
    """Calibrate static_int8 in this process and print what it took: VmHWM in MiB, seconds."""
    teacher = Path(demos.demo_teacher("text-classification"))
    rows = make("tasks", "feature-extraction").encode(teacher, texts()[:count], 128)
    begun, before = time.monotonic(), peak_rss_mib()
    with tempfile.TemporaryDirectory() as name:
        recipe = make("quantizers", "static_int8", calibration_rows=count)
        recipe.quantize(Path(model), Path(name, "model.onnx"), rows)
    print(
        json.dumps(
            {"rows": count, "peak_rss_mib": peak_rss_mib(), "before_mib": before, "seconds": time.monotonic() - begun}
        )
    )


def memory(model: Path, counts: tuple[int, int]) -> list[dict[str, Any]]:
    """Peak RSS of a fresh process that calibrates on few rows, and on many."""
    said = []
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.quantization", "--calibrate", str(count), str(model)]
        done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        said.append(json.loads(done.stdout.splitlines()[-1]))
    return said


def compared(name: str, folder: Path, target: str, setting: Setting) -> tuple[Subject, dict[str, Any]]:
    """One model: everybody's variant of it, side by side."""
    folder.mkdir()
    subject = SUBJECTS[name](folder, setting)
    models: dict[str, Path | str] = {REFERENCE: subject.fp32, AA: subject.fp32}
    models[OURS], about = made_by_us(subject, target, folder, setting.limit_s)
    for peer in PEERS:
        models[peer] = made_by_peer(peer, subject, folder / peer.replace(" ", "-"))
        print(f"{name}: {peer}: {models[peer]}", file=sys.stderr)
    found = {one: model for one, model in models.items() if isinstance(model, Path)}
    missing = {one: model for one, model in models.items() if isinstance(model, str)}
    lengths, tries = side_by_side(found, subject, setting)
    return subject, about | {
        "lengths": lengths,
        "tries": tries,
        "not_run": missing,
        "ahead_of_us": ahead_of_us(lengths),
    }


def measured(target: str, setting: Setting) -> dict[str, Any]:
    """Everything, in one run: each model's figures, and calibration's memory; says how long each part took."""
    figures: dict[str, Any] = {"setting": asdict(setting), "models": {}, "target": target}
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        for model in SUBJECTS:
            begun = time.monotonic()
            subject, figures["models"][model] = compared(model, Path(name, model), target, setting)
            print(f"{model}: {(time.monotonic() - begun) / 60:.1f} min", file=sys.stderr)
            if subject.transformer:
                figures["calibration"] = memory(subject.fp32, setting.memory)
    return figures


def main() -> None:
    """Write results/quantization.json; with --quick print what a tiny setting gives, and keep nothing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="cpu-vnni" if _has_vnni() else "cpu-avx2")
    parser.add_argument("--quick", action="store_true", help="a few minutes: every step, tiny; printed, not kept")
    parser.add_argument("--calibrate", nargs=2, metavar=("ROWS", "MODEL"), help="in this process, and print its peak")
    given = parser.parse_args()
    if given.calibrate:
        calibrate(given.calibrate[1], int(given.calibrate[0]))
    elif given.quick:
        print(json.dumps(measured(given.target, QUICK), indent=1))
    else:
        results.made_by()  # exits now, not after the run, where figures could not be kept
        results.write("quantization", measured(given.target, FULL))


def _has_vnni() -> bool:
    from edgekd.hardware.profile import probe_local

    return any("vnni" in one for one in probe_local().get("isa", ()))


if __name__ == "__main__":
    main()
