"""Files of strangers: hostile pickles and ONNX files, and mutated ones, counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from edgekd.core.errors import EdgeKDError, TeacherError
from edgekd.security import child

HANG_S = 20.0
_BATCH, _BATCH_S = 40, 120.0
_LIMITS = child.Limits(memory_mib=4096, cpu_s=120)  # as the command has for a small file


@dataclass(frozen=True)
class Said:
    """How one run of the command ended."""

    code: int
    text: str
    seconds: float

    @property
    def traceback(self) -> bool:
        """Whether a user would have seen one."""
        return "Traceback" in self.text


def command(*arguments: str | Path, timeout_s: float = 120, cwd: Path | None = None, **environment: str) -> Said:
    """`edgekd` in a fresh process; -9 where it had to be ended."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=os.environ | environment,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        return Said(-9, "", time.monotonic() - began)
    return Said(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


@contextmanager
def room() -> Iterator[Path]:
    """A folder of its own."""
    with tempfile.TemporaryDirectory(prefix="edgekd-faults-") as name:
        yield Path(name)


def _counted(ends: Mapping[str, Said], executed: int, *names: str) -> dict[str, Any]:
    """The same counts of every kind of hostile file; a refusal is of the file only where it names it."""
    refused = {
        name for name, one in ends.items() if one.code not in (0, -9) and any(file in one.text for file in names)
    }
    hung = {name: one.seconds for name, one in ends.items() if one.code == -9 or one.seconds > HANG_S}
    return {
        "files": len(ends),
        "executed": executed,
        "refused": len(refused),
        "hangs": len(hung),
        "hung": hung,
        "tracebacks": sum(one.traceback for one in ends.values()),
        "slowest_s": max((one.seconds for one in ends.values()), default=0.0),
        "not_refused": {name: one.text[-300:] for name, one in ends.items() if name not in refused},
    }


def mutated_onnx(count: int, seed: int) -> dict[str, Any]:
    """So many mutations of tiny models of every task through what `build --teacher FILE` does to look at them."""
    from mutations import damaged, mutated_message
    from onnx_files import MODELS, save

    random, found, slowest = Random(seed), Counter[str](), 0.0
    with room() as folder:
        tasks = list(MODELS)
        models = {task: MODELS[task]() for task in tasks}
        for number, task in enumerate(tasks):
            (folder / str(number)).mkdir()
            save(folder / str(number), models[task])
        jobs: dict[str, list[Path]] = {task: [] for task in tasks}
        for number in range(count):
            task = tasks[number % len(tasks)]
            path = folder / str(number % len(tasks)) / f"{number}.onnx"
            bytewise = number % 8 < 4  # the others parse, and say something else
            model = models[task]
            path.write_bytes(damaged(model.SerializeToString(), random) if bytewise else mutated_message(model, random))
            jobs[task].append(path)
        for task, paths in jobs.items():
            for start in range(0, len(paths), _BATCH):
                for end, seconds in _looked_at(task, paths[start : start + _BATCH]):
                    found[end] += 1
                    found["hangs"] += seconds > HANG_S
                    slowest = max(slowest, seconds)
    return {
        "files": count,
        "refused": found["refused"],
        "taken": found["taken"],
        "tracebacks": found["traceback"],
        "crashed_alone_and_refused": found["crashed"],
        "hangs": found["hangs"],
        "slowest_s": slowest,
        "seed": seed,
    }


def _looked_at(task: str, paths: Sequence[Path]) -> list[tuple[str, float]]:
    """By file how it ended, and seconds; in one limited child, and where that dies each in one of its own."""
    from edgekd.teachers.onnx_model import OnnxModel

    try:
        job = {"task": task, "paths": [str(path) for path in paths]}
        found = child.call("benchmarks._foreign:look_at", job, timeout_s=_BATCH_S, limits=_LIMITS)
        return [(end, seconds) for end, seconds in found]
    except child.ChildError:
        ends = []
        for path in paths:
            began = time.monotonic()
            try:
                OnnxModel().inspect(str(path), task)
                end = "taken"
            except TeacherError as error:
                end = "crashed" if isinstance(error.__cause__, child.ChildError) else "refused"
            except Exception:  # noqa: BLE001 (what is counted)
                end = "traceback"
            ends.append((end, time.monotonic() - began))
        return ends


def look_at(task: str, paths: list[str]) -> list[tuple[str, float]]:
    """In the child: what the command does there with each file."""
    from edgekd.teachers._onnx_inspect import look

    ends = []
    for path in paths:
        began = time.monotonic()
        try:
            look(path, task)
            end = "taken"
        except EdgeKDError:
            end = "refused"
        except Exception:  # noqa: BLE001 (what is counted)
            end = "traceback"
        ends.append((end, time.monotonic() - began))
    return ends


def onnx(count: int, seed: int) -> dict[str, Any]:
    """The hostile files of tests/hostile_onnx.py as a teacher, through the real command; `build` where it runs them."""
    import hostile_onnx

    ends = {}
    with room() as folder:
        rows = folder / "rows.jsonl"
        series = [{"series": [[row, -row]] * hostile_onnx.STEPS, "label": str(row % 3)} for row in range(99)]
        rows.write_text("".join(f"{json.dumps(row)}\n" for row in series), encoding="utf-8")
        for number, (name, write) in enumerate(some(hostile_onnx.HOSTILE, count, seed).items()):
            (folder / str(number)).mkdir()
            path = write(folder / str(number))
            out = ("build", "--out", folder / "out" / str(number)) if name in hostile_onnx.RUN else ("plan",)
            # a board's core would be emulated first, which has nothing to do with the file
            ends[name] = command(
                *out,
                "--target",
                "cpu-avx2",
                "--task",
                "time-series-classification",
                "--student",
                "none",
                "--teacher",
                path,
                "--data",
                rows,
                EDGEKD_STORE=str(folder / "store"),
            )
    return _counted(ends, 0, "model.onnx")


def pickles(count: int, seed: int) -> dict[str, Any]:
    """The hostile files of tests/hostile_pickles.py as a teacher's weights, through the real command, in two places."""
    import bert_files
    import hostile_pickles

    ends, executed = {}, 0
    with room() as folder:
        text = bert_files.teacher(folder / "text")
        (text / "model.safetensors").unlink()
        places = {
            text / "pytorch_model.bin": ("text-classification", "--teacher", text),
            folder / "image.pth": ("image-classification", "--teacher", folder / "image.pth"),
        }
        for name, write in some(hostile_pickles.HOSTILE, count, seed).items():
            for place, said in places.items():
                marker = folder / "executed"
                place.write_bytes(write(f"touch {marker}"))
                ends[f"{name}, {place.suffix}"] = command(
                    "plan", "--target", "rpi4", "--task", *said, "--data", folder, EDGEKD_STORE=str(folder / "store")
                )
                executed += marker.exists()
                marker.unlink(missing_ok=True)
    return _counted(ends, executed, "pytorch_model.bin", "image.pth")


def some(kinds: Mapping[str, Any], count: int, seed: int) -> dict[str, Any]:
    """So many of them, drawn; all where there are not more."""
    names = sorted(kinds)
    chosen = names if count >= len(names) else Random(seed).sample(names, count)
    return {name: kinds[name] for name in chosen}
