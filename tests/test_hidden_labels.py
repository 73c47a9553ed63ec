"""A test split whose labels are all -1 is one without labels, in every reader; elsewhere -1 is a class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.given import read_given
from edgekd.data.splits import split
from edgekd.data.untrained import split_untrained
from edgekd.tasks.text_classification import TextClassification
from edgekd.tasks.time_series_classification import TimeSeriesClassification

Rows = dict[str, list[tuple[str, object]]]


def rows_of(test: list[object], train: tuple[object, object] = (0, 1)) -> Rows:
    return {
        "train": [(f"a row of training {n}", train[n % 2]) for n in range(120)],
        "test": [(f"a row of test {n}", label) for n, label in enumerate(test)],
    }


def table(folder: Path, rows: Rows, suffix: str) -> Path:
    for part, pairs in rows.items():
        path = folder / f"{part}{suffix}"
        if suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            records = [{"text": text, "label": label} for text, label in pairs]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in pairs))
        else:
            mark = "\t" if suffix == ".tsv" else ","
            path.write_text("\n".join([f"text{mark}label", *(f"{t}{mark}{label}" for t, label in pairs)]) + "\n")
    return folder


def saved(folder: Path, rows: Rows) -> Path:
    """A saved dataset with plain integers: no column of the type ClassLabel."""
    import datasets

    made = {
        part: datasets.Dataset.from_dict({"text": [t for t, _ in pairs], "label": [label for _, label in pairs]})
        for part, pairs in rows.items()
    }
    datasets.DatasetDict(made).save_to_disk(folder / "saved")
    return folder / "saved"


def numbers(pairs: list[tuple[str, object]], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(pairs), 9))


def npz(folder: Path, rows: Rows) -> Path:
    arrays = {}
    for seed, (part, pairs) in enumerate(rows.items()):
        arrays |= {f"x_{part}": numbers(pairs, seed), f"y_{part}": np.array([label for _, label in pairs])}
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


def ucr(folder: Path, rows: Rows) -> Path:
    for seed, (part, pairs) in enumerate(rows.items()):
        cells = np.column_stack([[float(label) for _, label in pairs], numbers(pairs, seed)])
        np.savetxt(folder / f"Some_{part.upper()}.tsv", cells, delimiter="\t", fmt="%.7e")
    return folder


TEXTS = {suffix: lambda f, r, s=suffix: table(f, r, s) for suffix in (".csv", ".tsv", ".jsonl", ".parquet")}
WRITERS = {**TEXTS, "saved": saved, "npz": npz, "ucr": ucr}


def read(source: Path, form: str, classes: tuple[str, ...] | None = None):
    task = TimeSeriesClassification() if form in ("npz", "ucr") else TextClassification()
    return read_given(task, str(source), None, classes=classes, labelled=True)


@pytest.mark.parametrize("form", WRITERS)
def test_a_test_split_of_minus_ones_has_no_labels_and_says_so(form, tmp_path):
    given, _, notes = read(WRITERS[form](tmp_path, rows_of([-1] * 12)), form)
    assert {row.label for row in given["test"]} == {None}
    assert {row.label for row in given["train"]} == {"0", "1"}
    assert any(note.startswith("12 test rows have the label -1") and "hidden" in note for note in notes)
    splits = split(given, labels=None, seed=0)
    assert splits.classes == ("0", "1")
    assert splits.test
    assert not {row.content for row in splits.test} & {row.content for row in given["test"]}
    assert "12 test rows without a label left out" in splits.notes
    assert any(note.startswith("no test row has a label: ") for note in splits.notes)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    ("test", "train"),
    [([-1, 1] * 6, (-1, 1)), ([-1] * 12, (-1, 1)), ([0, 1, -1] * 4, (0, 1))],
    ids=["FordA", "one-sided", "mixed"],
)
def test_minus_one_among_other_classes_stays_a_class(form, test, train, tmp_path):
    given, _, notes = read(WRITERS[form](tmp_path, rows_of(test, train)), form)
    assert [row.label for row in given["test"]] == list(map(str, test))
    assert not any("hidden" in note for note in notes)


def test_a_teachers_own_class_minus_one_stays(tmp_path):
    source = table(tmp_path, rows_of([-1] * 12, (1, 1)), ".csv")
    assert read(source, ".csv", classes=("-1", "1"))[0]["test"][0].label == "-1"
    assert read(source, ".csv", classes=("0", "1"))[0]["test"][0].label is None


@pytest.mark.parametrize("part", ["train", "validation", "unlabelled"])
def test_no_other_split_is_taken_for_hidden(part, tmp_path):
    rows = rows_of([0, 1] * 6) | {part: [(f"another {n}", -1) for n in range(12)]}
    given, _, notes = read(table(tmp_path, rows, ".csv"), ".csv")
    assert {row.label for row in given[part]} == ({None} if part == "unlabelled" else {"-1"})
    assert not any("hidden" in note for note in notes)


def test_nothing_trained_judges_hidden_rows_by_agreement(tmp_path):
    given, _, _ = read(table(tmp_path, rows_of([-1] * 12), ".csv"), ".csv", classes=("0", "1"))
    splits = split_untrained(given, seed=0, classes=("0", "1"))
    assert not splits.test_labelled
    assert len(splits.test) == 12


def test_bench_measures_on_the_split_that_has_labels(tmp_path):
    from functools import partial
    from types import SimpleNamespace

    from edgekd.core.errors import DataError
    from edgekd.core.registry import make
    from edgekd.receipts.shipped import DataFile

    bundle = SimpleNamespace(
        made_task=partial(make, "tasks", "text-classification"),
        task="text-classification",
        classes=("0", "1"),
        name="a bundle",
    )
    rows = rows_of([-1] * 12) | {"validation": [(f"a row of validation {n}", n % 2) for n in range(9)]}
    source = table(tmp_path, rows, ".csv")
    assert len(DataFile(str(source)).rows(bundle, labelled=True)) == 9
    for part in ("train", "validation"):
        (source / f"{part}.csv").write_text("text,label\na row without a label,\n")
    with pytest.raises(DataError, match="12 test rows have the label -1"):
        DataFile(str(source)).rows(bundle, labelled=True)
