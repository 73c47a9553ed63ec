"""Every form of data through every option that takes data: read, or refused with a fix that works."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.core.registry import make
from edgekd.data import limits
from edgekd.data.given import read_given, read_inputs
from edgekd.data.splits import split
from edgekd.data.untrained import split_untrained
from edgekd.plan.resolve import GOLDEN_MOST, _golden
from edgekd.receipts.shipped import DataFile
from edgekd.tasks.image_classification import ImageClassification
from edgekd.tasks.text_classification import TextClassification
from edgekd.tasks.time_series_classification import TimeSeriesClassification

COUNT, CLASSES = 90, ("a", "b")
ROWS = [{"text": f"row {n}; it says, {n}", "label": CLASSES[n % 2]} for n in range(COUNT)]
COMMAS = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)
TABS = "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS)
SEMICOLONS = "text;label\n" + "".join(f'"{row["text"]}";{row["label"]}\n' for row in ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
SPLITS = {"train": ROWS[:60], "validation": ROWS[60:72], "test": ROWS[72:]}


def raw(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return write


def parquet(file: Path, rows: list[dict[str, Any]], **columns: Any) -> None:
    table = pyarrow.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pyarrow.parquet.write_table(table, file)


def one_parquet(folder: Path) -> Path:
    parquet(folder / "rows.parquet", ROWS)
    return folder / "rows.parquet"


def int32_parquet(folder: Path) -> Path:
    labels = pyarrow.array([n % 2 for n in range(COUNT)], pyarrow.int32())
    parquet(folder / "rows.parquet", ROWS, label=labels)
    return folder / "rows.parquet"


def saved(folder: Path) -> Path:
    import datasets

    datasets.DatasetDict({part: datasets.Dataset.from_list(rows) for part, rows in SPLITS.items()}).save_to_disk(
        folder / "saved"
    )
    return folder / "saved"


def repository(folder: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "README.md").write_text("# rows\n")
    for part, rows in SPLITS.items():
        parquet(folder / "data" / f"{part}-00000-of-00001.parquet", rows)
    return folder


def files(folder: Path) -> Path:
    for part, rows in SPLITS.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def text_folder(folder: Path) -> Path:
    for number, row in enumerate(ROWS):
        (folder / row["label"]).mkdir(exist_ok=True)
        (folder / row["label"] / f"{number}.txt").write_text(row["text"])
    return folder


def flat_texts(folder: Path) -> Path:
    for number, row in enumerate(ROWS):
        (folder / f"{number}.txt").write_text(row["text"])
    return folder


def image(number: int, size: tuple[int, int] = (20, 50)) -> Image.Image:
    """Not square, and no two alike."""
    return Image.new("RGB", size, (number, number * 7 % 256, number * 31 % 256))


def image_folder(folder: Path) -> Path:
    for number, row in enumerate(ROWS):
        (folder / row["label"]).mkdir(exist_ok=True)
        image(number).save(folder / row["label"] / f"{number}.png")
    return folder


def image_splits(folder: Path) -> Path:
    for part, rows in SPLITS.items():
        for number, row in enumerate(rows):
            (folder / part / row["label"]).mkdir(parents=True, exist_ok=True)
            image(number + {"train": 0, "validation": 100, "test": 150}[part]).save(
                folder / part / row["label"] / f"{number}.png"
            )
    return folder


def flat_images(folder: Path) -> Path:
    for number in range(COUNT):
        image(number).save(folder / f"{number}.png")
    return folder


def image_metadata(folder: Path) -> Path:
    flat_images(folder)
    names = "".join(f"{number}.png,{row['label']}\n" for number, row in enumerate(ROWS))
    (folder / "metadata.csv").write_text(f"file_name,label\n{names}")
    return folder


def image_table(folder: Path) -> Path:
    flat_images(folder)
    names = "".join(f"{number}.png,{row['label']}\n" for number, row in enumerate(ROWS))
    (folder / "rows.csv").write_text(f"image,label\n{names}")
    return folder / "rows.csv"


def image_parquet(folder: Path) -> Path:
    import io

    rows = []
    for number, row in enumerate(ROWS):
        stream = io.BytesIO()
        image(number).save(stream, "png")
        rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "label": row["label"]})
    parquet(folder / "rows.parquet", rows)
    return folder / "rows.parquet"


def arrays(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (COUNT, *shape), dtype=np.uint8)


def image_npz(folder: Path) -> Path:
    np.savez(folder / "rows.npz", x=arrays(20, 50, 3), y=np.arange(COUNT, dtype=np.int32) % 2)
    return folder / "rows.npz"


def idx(folder: Path) -> Path:
    for part, at in (("train", slice(0, 70)), ("t10k", slice(70, COUNT))):
        pixels, labels = arrays(20, 50)[at], np.arange(COUNT, dtype=np.uint8)[at] % 2
        images = struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())
    return folder


def series() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(COUNT, 9))


def series_npz(folder: Path) -> Path:
    np.savez(folder / "rows.npz", x=series(), y=np.arange(COUNT, dtype=np.int32) % 2)
    return folder / "rows.npz"


def bare_npz(folder: Path) -> Path:
    np.savez(folder / "rows.npz", x=series())
    return folder / "rows.npz"


def ucr_file(folder: Path) -> Path:
    cells = np.column_stack([np.arange(COUNT) % 2 + 1, series()])
    np.savetxt(folder / "rows.tsv", cells, delimiter="\t", fmt="%.7e")
    return folder / "rows.tsv"


def ucr(folder: Path) -> Path:
    cells = np.column_stack([np.arange(COUNT) % 2 + 1, series()])
    for part, at in (("TRAIN", slice(0, 70)), ("TEST", slice(70, COUNT))):
        np.savetxt(folder / f"Some_{part}.tsv", cells[at], delimiter="\t", fmt="%.7e")
    return folder


def series_table(folder: Path) -> Path:
    lines = [",".join([*(f"{cell:.5f}" for cell in row), CLASSES[n % 2]]) for n, row in enumerate(series())]
    (folder / "rows.csv").write_text("\n".join([",".join([*(f"t{n}" for n in range(9)), "label"]), *lines]) + "\n")
    return folder / "rows.csv"


def series_lists(folder: Path) -> Path:
    rows = [{"series": list(row), "label": CLASSES[n % 2]} for n, row in enumerate(series())]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


TEXT, IMAGE, SERIES = TextClassification(), ImageClassification(), TimeSeriesClassification()
# form: (task, how it is written, whether it has labels)
FORMS: dict[str, tuple[Any, Callable[[Path], Path], bool]] = {
    "csv": (TEXT, raw("rows.csv", COMMAS), True),
    "CSV in capitals": (TEXT, raw("ROWS.CSV", COMMAS), True),
    "tsv": (TEXT, raw("rows.tsv", TABS), True),
    "semicolons": (TEXT, raw("rows.csv", SEMICOLONS), True),
    "sep=": (TEXT, raw("rows.csv", "sep=;\r\n" + SEMICOLONS), True),
    "UTF-16": (TEXT, raw("rows.csv", COMMAS.encode("utf-16")), True),
    "jsonl": (TEXT, raw("rows.jsonl", LINES), True),
    "ndjson": (TEXT, raw("rows.ndjson", LINES), True),
    "json list": (TEXT, raw("rows.json", json.dumps(ROWS)), True),
    "csv.gz": (TEXT, raw("rows.csv.gz", gzip.compress(COMMAS.encode())), True),
    "parquet": (TEXT, one_parquet, True),
    "int32 labels": (TEXT, int32_parquet, True),
    "saved dataset": (TEXT, saved, True),
    "repository": (TEXT, repository, True),
    "file by split": (TEXT, files, True),
    "texts by class": (TEXT, text_folder, True),
    "flat texts": (TEXT, flat_texts, False),
    "images by class": (IMAGE, image_folder, True),
    "images by split": (IMAGE, image_splits, True),
    "flat images": (IMAGE, flat_images, False),
    "images with metadata": (IMAGE, image_metadata, True),
    "table of images": (IMAGE, image_table, True),
    "parquet of images": (IMAGE, image_parquet, True),
    "npz of images": (IMAGE, image_npz, True),
    "IDX": (IMAGE, idx, True),
    "npz of series": (SERIES, series_npz, True),
    "npz without labels": (SERIES, bare_npz, False),
    "UCR file": (SERIES, ucr_file, True),
    "UCR folder": (SERIES, ucr, True),
    "table of steps": (SERIES, series_table, True),
    "lists of steps": (SERIES, series_lists, True),
}
PARTS = ("saved dataset", "repository", "file by split", "images by split", "IDX", "UCR folder")  # come divided


@pytest.fixture
def written(request, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    (tmp_path / "data").mkdir()
    if request.function is not test_as_data_of_a_student:  # a process looks at each Parquet file: once is enough
        monkeypatch.setattr(limits, "look_first", lambda function, path: None)
    return lambda form: (FORMS[form][0], str(FORMS[form][1](tmp_path / "data")), FORMS[form][2])


@pytest.mark.parametrize("form", FORMS)
def test_as_data_of_a_student(form, written):
    task, source, labelled = written(form)
    if not labelled:
        with pytest.raises(DataError) as refusal:
            split(read_given(task, source, None, classes=None, labelled=True)[0], labels=None, seed=0)
        assert "label" in refusal.value.message
        assert "label" in refusal.value.fix
        return
    given, _, _ = read_given(task, source, None, classes=None, labelled=True)
    assert sum(map(len, given.values())) == COUNT
    splits = split(given, labels=None, seed=0)
    assert len(splits.classes) == 2
    assert sum(splits.counts.values()) == COUNT


@pytest.mark.parametrize("form", FORMS)
def test_as_data_of_a_model_that_is_compressed(form, written):
    task, source, labelled = written(form)
    given, _, _ = read_given(task, source, None, classes=None, labelled=False)
    classes = sorted({row.label for rows in given.values() for row in rows if row.label}) or ["a", "b"]
    splits = split_untrained(given, seed=0, classes=classes)
    assert splits.test_labelled is labelled
    assert sum(splits.counts.values()) == COUNT


@pytest.mark.parametrize("form", FORMS)
def test_as_inputs_without_labels(form, written, tmp_path):
    """--unlabelled and --calibration: the training rows of what comes divided, else all."""
    task, source, _ = written(form)
    rows, _ = read_inputs(task, source)
    assert len(rows) == {"IDX": 70, "UCR folder": 70}.get(form, 60 if form in PARTS else COUNT)
    assert {row.label for row in rows} == {None}


@pytest.mark.parametrize("form", FORMS)
def test_as_golden_inputs(form, written):
    task, source, _ = written(form)
    rows = _golden(SimpleNamespace(golden=source), task)
    assert len(rows) == min(GOLDEN_MOST, 60 if form in PARTS and form not in ("IDX", "UCR folder") else COUNT)


@pytest.mark.parametrize("form", FORMS)
def test_as_data_of_bench(form, written):
    task, source, labelled = written(form)
    classes = ("1", "2") if form.startswith("UCR") else CLASSES
    if "npz" in form or form in ("IDX", "int32 labels"):
        classes = ("0", "1")
    names = {TEXT: "text-classification", IMAGE: "image-classification", SERIES: "time-series-classification"}
    bundle = SimpleNamespace(
        made_task=partial(make, "tasks", names[task]), task=names[task], classes=classes, name="a bundle"
    )
    if not labelled:
        with pytest.raises(DataError, match="label"):
            DataFile(source).rows(bundle, labelled=True)
        return
    rows = DataFile(source).rows(bundle, labelled=True)
    assert {row.label for row in rows} == set(classes)
