"""Which columns are read and which are left out, by the source's own names: in text and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx_files import save, text_model
from PIL import Image

from edgekd.cli import cli, show
from edgekd.data.given import read_given
from edgekd.data.read import ColumnsRead
from edgekd.tasks.image_classification import ImageClassification
from edgekd.tasks.text_classification import TextClassification
from edgekd.tasks.time_series_classification import TimeSeriesClassification

STEPS = [f"t{number}" for number in range(9)]


def texts(folder: Path) -> Path:
    path = folder / "rows.csv"
    path.write_text("id,text,lang,label\n" + "".join(f"{n},some text {n},en,{n % 3}\n" for n in range(40)))
    return path


def steps(folder: Path) -> Path:
    path = folder / "steps.csv"
    rows = [",".join(["kind", *STEPS]), *(",".join(map(str, (n % 2, *range(9)))) for n in range(3))]
    path.write_text("\n".join(rows) + "\n")
    return path


def lists(folder: Path) -> Path:
    path = folder / "lists.jsonl"
    path.write_text(
        "".join(json.dumps({"id": n, "series": list(range(9)), "class": n % 2, "note": "x"}) + "\n" for n in range(3))
    )
    return path


def pictures(folder: Path) -> Path:
    place = folder / "pictures"
    place.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(place / f"{number}.png")
    names = "".join(f"{number}.png,me,{number % 2}\n" for number in range(3))
    (place / "metadata.csv").write_text(f"file_name,author,label\n{names}")
    return place


def npz(folder: Path) -> Path:
    np.savez(folder / "rows.npz", x=np.random.default_rng(0).normal(size=(3, 9)), y=np.arange(3))
    return folder / "rows.npz"


FORMS = {
    "table": (texts, TextClassification(), ColumnsRead("text", "label", ("id", "lang"))),
    "named": (texts, TextClassification(label_column="lang"), ColumnsRead("text", "lang", ("id", "label"))),
    "steps": (steps, TimeSeriesClassification(label_column="kind"), ColumnsRead("t0 to t8 (9 steps)", "kind")),
    "lists": (lists, TimeSeriesClassification(), ColumnsRead("series", "class", ("id", "note"))),
    "npz": (npz, TimeSeriesClassification(), ColumnsRead("series", "label")),
    "images": (pictures, ImageClassification(), ColumnsRead("image", "label", ("author",))),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_told_by_the_sources_own_names(form, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    write, task, wanted = FORMS[form]
    _, columns, _ = read_given(task, str(write(tmp_path)), None, classes=None, labelled=True)
    assert columns.read == wanted


def test_inputs_of_another_column_are_told(tmp_path):
    raw = tmp_path / "raw.csv"
    raw.write_text("sentence,when\nsomething else,now\n")
    _, _, notes = read_given(TextClassification(), str(texts(tmp_path)), str(raw), classes=None, labelled=True)
    assert notes == ["raw.csv: the inputs are its column 'sentence'"]


def test_of_very_many_columns_the_first_are_named():
    told = ColumnsRead("text", "", tuple(f"c{number}" for number in range(60_000))).as_dict()
    assert (len(told["left_out"]), told["n_left_out"]) == (32, 60_000)
    assert show.columns(told) == (
        "columns: 'text' as input, no labels; left out: " + ", ".join(f"'c{n}'" for n in range(8)) + " and 59992 more"
    )


def test_the_plan_says_it_in_text_and_in_json(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    teacher = save(tmp_path, text_model())
    words = ["plan", "--target", "cpu-avx2", "--student", "none", "--teacher", str(teacher)]
    words += ["--data", str(texts(tmp_path))]
    shown = CliRunner().invoke(cli, words)
    assert "          columns: 'text' as input, 'label' as label; left out: 'id', 'lang'\n" in shown.stdout
    as_json = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert as_json["plan"]["data"]["columns"] == {
        "input": "text",
        "label": "label",
        "left_out": ["id", "lang"],
        "n_left_out": 2,
    }
    texts(tmp_path).write_text(texts(tmp_path).read_text().replace("lang", "language"))
    other = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert other["plan"]["data"]["columns"]["left_out"] == ["id", "language"]
    assert other["plan_sha256"] == as_json["plan_sha256"]  # columns that are not read decide nothing
