"""Do real graphs survive? `python -m benchmarks.clinic --wheels FOLDER` (about 90 minutes on a quiet machine).

Each graph of `_graphs.py` goes through `edgekd build --task tensors` and through ONNX Runtime's `quantize_dynamic` with
its defaults. All are held against the original on rows that neither saw, by edgekd's fidelity (the worst output), and
timed in turn in several fresh processes. What became of each graph lies in `--work`, one file a graph: a run that was
stopped goes on, and `--only WORD` treats some of the graphs (again with `--again`). Once all are there the table is
kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks._graphs import PATIENTS, ROOT, Patient, Rows
from edgekd.compression import timing
from edgekd.core.model import ONE, Model
from edgekd.core.predictions import agreement
from edgekd.core.registry import make
from edgekd.inference.predict import outputs

SEEN, UNSEEN = 90, 30  # rows that edgekd divides among its roles, and rows of the figures
FLOOR = 0.99
TASK, TARGET = "tensors", "cpu-vnni"
ORIGINAL, OTHERS, OURS = "original", "ORT dynamic int8", "edgekd"
_NO_BUDGETS = ("--latency-ms", "10000", "--memory-mib", "4000", "--artifact-mib", "1000")  # fidelity and speed decide
_ROUNDS, _TIMED = 5, 12


@dataclass(frozen=True)
class Treated:
    """What became of one graph under one tool."""

    fidelity: float | None = None  # of the worst output, on rows that it never saw
    speed: float | None = None  # over the original, with its 95% interval over processes
    speed_interval: tuple[float, float] | None = None
    size_mib: float | None = None
    recipe: str = ""
    why: str = ""  # why there is no model, or why fp32 ships

    @property
    def is_sound(self) -> bool:
        """Whether it says what the original says."""
        return self.fidelity is not None and self.fidelity >= FLOOR

    @property
    def is_faster(self) -> bool:
        """Whether it is surely faster."""
        return self.speed_interval is not None and self.speed_interval[0] > 1


def saved(rows: Rows, folder: Path) -> Path:
    """Write each row to a file of its own, as `--task tensors` reads them."""
    folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        np.savez(folder / f"{number:04d}.npz", **row)  # type: ignore[arg-type]
    return folder


def as_taken(task: Any, folder: Path) -> Rows:
    """Rows of a folder as edgekd feeds them: with the batch axis that they may lack."""
    table = task.read(str(folder))["all"]
    return task.encode(folder, [row.input for row in task.examples(table, ("", ""), str(folder))], 0)


def by_others(graph: Path, out: Path) -> Path | str:
    """The graph as `quantize_dynamic` makes it with its defaults, or why there is none."""
    from onnxruntime.quantization import quantize_dynamic

    try:
        quantize_dynamic(graph, out)
    except Exception as error:  # noqa: BLE001  (whatever it raises is what a user would get)
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    return out


def by_us(graph: Path, rows: Path, patient: Patient, out: Path, limit_s: int) -> tuple[Path | str, str, str]:
    """What `edgekd build` ships, or why it ships nothing; its recipe, and why fp32 where it is that."""
    words = ["--student", "none", "--task", TASK, "--teacher", str(graph), "--data", str(rows), "--target", TARGET]
    words += [*_NO_BUDGETS, *patient.options, "--min-agreement", str(FLOOR), "--time-limit", str(limit_s)]
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", "build", *words, "--out", str(out), "--json"],
        env=os.environ | {"EDGEKD_STORE": str(out.parent / "store")},
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = json.loads(done.stdout)["error"] if done.stdout.startswith("{") else f"exit {done.returncode}"
        return said, "", ""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    recipe = report["choice"]["recipe"]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return (
        out / manifest["model"]["graphs"][ONE]["file"],
        recipe,
        report["choice"]["why"] if recipe == "float32" else "",
    )


def judged(task: Any, found: dict[str, Path], rows: Rows) -> dict[str, float | str]:
    """By name: the fidelity of the worst output to the original, or why it does not run."""
    said: dict[str, Any] = {}
    for name, file in found.items():
        try:
            said[name] = outputs(Model({ONE: file}, task.program), rows, threads=1, keep=task.keep)
        except Exception as error:  # noqa: BLE001  (a graph that no longer runs is a finding)
            said[name] = f"does not run: {str(error).splitlines()[0][:120]}"
    scored = {}
    for name, own in said.items():
        scored[name] = own if isinstance(own, str) else task.fidelity.value(agreement(task, own, said[ORIGINAL]))
    return scored


def treated(patient: Patient, wheels: Path, place: Path, limit_s: int) -> dict[str, Treated]:
    """One graph under both tools."""
    graph = patient.write(wheels, place)
    if graph is None:
        return {name: Treated(why=f"not run: {patient.of} is not there") for name in (OTHERS, OURS)}
    rows = list(patient.rows(SEEN + UNSEEN))
    data = saved(rows[:SEEN], place / "rows")
    recipe = why = ""
    made: dict[str, Path | str] = {OTHERS: by_others(graph, place / "others.onnx")}
    made[OURS], recipe, why = by_us(graph, data, patient, place / "bundle", limit_s)
    allowed = "--allow-loops" in patient.options
    bound: Any = make("tasks", TASK)
    if "--state" in patient.options:
        bound = make("tasks", TASK, state=(patient.options[patient.options.index("--state") + 1],))
    task = bound.bound(make("teachers", "array_graph", allow_loops=allowed).inspect(str(graph), TASK))
    found = {ORIGINAL: graph, **{name: file for name, file in made.items() if isinstance(file, Path)}}
    unseen = as_taken(task, saved(rows[SEEN:], place / "unseen"))
    fidelity = judged(task, found, unseen)
    if not isinstance(fidelity[ORIGINAL], float):
        raise SystemExit(f"{patient.name}: the graph itself {fidelity[ORIGINAL]}")
    runs = {name: Model({ONE: file}, task.program) for name, file in found.items() if isinstance(fidelity[name], float)}
    speeds = timing.speeds(make("devices", "local"), runs, unseen[:_TIMED], threads=1, rounds=_ROUNDS, seed=0)
    done = {}
    for name, file in made.items():
        worth = fidelity.get(name)
        if not isinstance(file, Path) or not isinstance(worth, float):
            done[name] = Treated(why=str(worth or file))
            continue
        speed, size = speeds[name], file.stat().st_size / 2**20
        done[name] = Treated(worth, speed.value, (speed.low, speed.high), size, recipe if name == OURS else "", "")
    if isinstance(made[OURS], Path):
        done[OURS] = Treated(**{**asdict(done[OURS]), "why": why})
    return done


def line(patient: Patient, done: dict[str, Treated]) -> str:
    """A row of the table."""
    cells = [patient.name]
    for name in (OTHERS, OURS):
        one = done[name]
        if one.fidelity is None or one.speed is None or one.speed_interval is None:
            cells += ["–", "–", one.why]
            continue
        low, high = one.speed_interval
        mark = "" if one.is_sound else " **worse**"
        cells += [
            f"{one.fidelity:.4f}{mark}",
            f"{one.speed:.2f}x [{low:.2f}, {high:.2f}]",
            f"{one.recipe}: {one.why}" if one.recipe and one.why else one.recipe or one.why,
        ]
    return f"| {' | '.join(cells)} |"


def counts(every: Sequence[dict[str, Treated]]) -> dict[str, dict[str, int]]:
    """Of each tool: graphs that are sound and faster, those that ship as they came, those that are silently worse."""
    found = {}
    for name in (OTHERS, OURS):
        ones = [done[name] for done in every]
        found[name] = {
            "sound_and_faster": sum(one.is_sound and one.is_faster for one in ones),
            "sound": sum(one.is_sound for one in ones),
            "worse": sum(one.fidelity is not None and not one.is_sound for one in ones),
            "none": sum(one.fidelity is None for one in ones),
        }
    return found


def slug(patient: Patient) -> str:
    """The graph's name as a file's."""
    return "".join(letter if letter.isalnum() else "-" for letter in patient.name.lower())


def read(file: Path) -> dict[str, Treated]:
    """What became of one graph, by tool."""
    told = json.loads(file.read_text(encoding="utf-8"))
    pairs = {
        name: one | {"speed_interval": one["speed_interval"] and tuple(one["speed_interval"])}
        for name, one in told.items()
    }
    return {name: Treated(**one) for name, one in pairs.items()}


def main() -> None:
    """Treat every graph, print the table as it grows, and keep the figures where all were treated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "wheels", help="where the packages' wheels lie")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "clinic", help="where each graph's figures lie")
    parser.add_argument("--only", default="", metavar="WORD", help="graphs whose name holds this word")
    parser.add_argument("--keep", action="store_true", help="keep the table though graphs lack; treats none")
    parser.add_argument("--again", action="store_true", help="treat them though their figures are there")
    parser.add_argument("--time-limit", type=int, default=300, metavar="SECONDS", help="of each search")
    asked = parser.parse_args()
    chosen = [one for one in PATIENTS if asked.only.lower() in one.name.lower()]
    print("| graph | ORT dynamic int8 | speed | | edgekd | speed | recipe |\n|---|---|---|---|---|---|---|")
    asked.work.mkdir(parents=True, exist_ok=True)
    for patient in [] if asked.keep else chosen:
        kept = asked.work / f"{slug(patient)}.json"
        if asked.again or not kept.exists():
            with tempfile.TemporaryDirectory(prefix="edgekd-clinic-") as name:
                done = treated(patient, asked.wheels, Path(name), asked.time_limit)
            kept.write_text(json.dumps({name: asdict(one) for name, one in done.items()}, indent=1), encoding="utf-8")
        print(line(patient, read(kept)), flush=True)
    found = {one.name: asked.work / f"{slug(one)}.json" for one in PATIENTS}
    every = {name: read(file) for name, file in found.items() if file.exists()}
    if len(every) < len(found) and not asked.keep:
        return
    told = counts(list(every.values()))
    print(json.dumps(told, indent=1))
    graphs = {
        one.name: {"of": one.of} | {name: asdict(done) for name, done in every[one.name].items()}
        for one in PATIENTS
        if one.name in every
    }
    results.write("clinic", {"counts": told, "of": len(PATIENTS), "graphs": graphs, "floor": FLOOR, "target": TARGET})


if __name__ == "__main__":
    main()
