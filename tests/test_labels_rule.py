"""One rule for labels, whatever the file: what is one class, what is none, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.columns import row_label
from edgekd.data.given import read_given
from edgekd.data.series import read_series
from edgekd.tasks.text_classification import TextClassification


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ((0, 0.0, "0", "0.0", " 0 ", "-0", "0e0", np.int32(0), np.float64(0), np.int64(0)), "0"),
        ((1, "1.0000000e+00", np.float32(1), "+1"), "1"),
        ((-1, "-1.0"), "-1"),
        ((True, "True", "TRUE", "true", np.bool_(True)), "true"),
        ((None, "", "  ", float("nan"), "NaN", "nan", np.float64("nan"), "<NA>"), None),
        (("007",), "007"),
        (("1.10",), "1.10"),
        ((b"cat", "cat ", np.str_("cat")), "cat"),
        ((2**60 + 1,), str(2**60 + 1)),
        (("[URGENT]",), "[URGENT]"),
    ],
)
def test_cells_that_mean_one_class_are_one(cells, name):
    assert [row_label(cell) for cell in cells] == [name] * len(cells)


LISTS = (["a", "b"], ("a",), [], {"name": "a"}, np.array([0, 1]), "['a', 'b']", '["a"]', "[0 1 0]", "{'a': 1}")


@pytest.mark.parametrize("cell", LISTS, ids=repr)
def test_several_values_are_no_class(cell):
    with pytest.raises(DataError, match=r"row 3: the label is .* not one class") as refusal:
        row_label(cell, "row 3")
    assert "one class a row" in refusal.value.fix


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_labels_as_lists_are_refused_while_reading(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    table = [{"text": f"row {n}", "label": ["a", "b"][: n % 2 + 1]} for n in range(20)]
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    with pytest.raises(DataError, match="row 1: the label is"):
        read_given(TextClassification(), str(path), None, classes=None, labelled=True)


def test_series_and_texts_read_labels_alike(tmp_path):
    series = tmp_path / "rows.npz"
    np.savez(series, x=np.random.default_rng(0).normal(size=(3, 8)), y=np.array([0.0, 1.0, np.nan]))
    assert [row["label"] for row in read_series(str(series))["all"]] == ["0", "1", None]
    texts = tmp_path / "rows.csv"
    texts.write_text("text,label\none,0.0\ntwo,1\nthree,NaN\n", encoding="utf-8")
    given, _, _ = read_given(TextClassification(), str(texts), None, classes=None, labelled=True)
    assert [row.label for row in given["all"]] == ["0", "1", None]


def test_a_teachers_own_spelling_of_a_class_is_met(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": true}\n{"text": "b", "label": false}\n', encoding="utf-8")
    given, _, _ = read_given(TextClassification(), str(path), None, classes=("False", "True"), labelled=True)
    assert [row.label for row in given["all"]] == ["True", "False"]
