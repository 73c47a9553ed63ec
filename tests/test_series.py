"""Series from files, and every way in which such a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from edgekd.core.errors import DataError
from edgekd.data.series import read_series

STEPS = 12
VALUES = np.arange(4 * STEPS, dtype=np.float32).reshape(4, STEPS)
LABELS = ("1", "-1", "1", "-1")


def ucr(path: Path, values=VALUES, labels=LABELS) -> Path:
    lines = ["\t".join([label, *(f"{value:.7e}" for value in row)]) for label, row in zip(labels, values, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def refusal(source: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_series(str(source), **options)
    return str(caught.value)


def test_ucr_folder_is_its_two_splits(tmp_path: Path) -> None:
    ucr(tmp_path / "Pump_TRAIN.tsv")
    ucr(tmp_path / "Pump_TEST.tsv", VALUES[:2] + 100, ("1.0000000e+00", "-1"))
    tables = read_series(str(tmp_path))
    assert {part: len(rows) for part, rows in tables.items()} == {"train": 4, "test": 2}
    row = tables["train"][1]
    assert row["series"].dtype == np.float32
    assert row["series"].shape == (STEPS, 1)
    assert row["label"] == "-1"
    np.testing.assert_array_equal(row["series"][:, 0], VALUES[1])
    assert [row["label"] for row in tables["test"]] == ["1", "-1"]  # 1.0000000e+00 is class 1


def test_one_ucr_file_is_unsplit(tmp_path: Path) -> None:
    assert list(read_series(str(ucr(tmp_path / "Pump_TRAIN.tsv")))) == ["all"]


@pytest.mark.parametrize("channels", [None, 3])
def test_numpy_archives(channels: int | None, tmp_path: Path) -> None:
    values = VALUES if channels is None else np.stack([VALUES] * channels, axis=2)
    np.savez(tmp_path / "a.npz", X_train=values, y_train=[0.0, 1, 0, 1], x_test=values, y_test=["0", "1", "0", "1"])
    tables = read_series(str(tmp_path / "a.npz"))
    assert set(tables) == {"train", "test"}
    assert tables["train"][0]["series"].shape == (STEPS, channels or 1)
    assert [row["label"] for row in tables["train"]] == [row["label"] for row in tables["test"]] == ["0", "1", "0", "1"]
    np.savez(tmp_path / "b.npz", X=values.astype(np.int16), y=np.array([[1], [2], [1], [2]]))
    table = read_series(str(tmp_path / "b.npz"))["all"]
    assert [row["label"] for row in table] == ["1", "2", "1", "2"]
    assert table[0]["series"].dtype == np.float32
    np.savez(tmp_path / "c.npz", x_train=values, y_train=[1, 2, 1, 2], x_unlabelled=values)
    assert "label" not in read_series(str(tmp_path / "c.npz"))["unlabelled"][0]


def test_tables_of_lists_and_of_columns(tmp_path: Path) -> None:
    rows = [{"id": number, "values": row.tolist(), "label": "up"} for number, row in enumerate(VALUES)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    two = [{"x": [[a, -a] for a in row.tolist()], "kind": "up"} for row in VALUES]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(two), tmp_path / "b.parquet")
    header = ",".join(["label", *(f"t{step}" for step in range(STEPS))])
    lines = [",".join(["up" if n else "", *map(str, row)]) for n, row in enumerate(VALUES.tolist())]
    (tmp_path / "c.csv").write_text("\n".join([header, *lines]))
    a, c = (read_series(str(tmp_path / name))["all"] for name in ("a.jsonl", "c.csv"))
    b = read_series(str(tmp_path / "b.parquet"), label_column="kind")["all"]
    for row in (a[2], c[2], {"series": b[2]["series"][:, :1], "label": b[2]["label"]}):
        np.testing.assert_array_equal(row["series"][:, 0], VALUES[2])
        assert row["label"] == "up"
    assert b[0]["series"].shape == (STEPS, 2)
    assert c[0]["label"] is None  # an empty cell is a row without a label


def test_a_table_without_labels_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join([",".join(f"t{n}" for n in range(STEPS)), ",".join(["1"] * STEPS)]))
    assert "label" not in read_series(str(tmp_path / "a.csv"))["all"][0]


def test_a_header_is_told_from_a_row(tmp_path: Path) -> None:
    """pandas calls columns 0, 1, 2, and puts the label first or last; UCR's classes may be words."""
    rows = [[*map(str, row)] for row in VALUES.tolist()]
    numbers = [str(step) for step in range(STEPS)]
    for name, header, label_at in (("a.tsv", ["label", *numbers], 0), ("b.tsv", [*numbers, "label"], STEPS)):
        lines = [header, *([*row[:label_at], label, *row[label_at:]] for row, label in zip(rows, LABELS, strict=True))]
        (tmp_path / name).write_text("\n".join("\t".join(line) for line in lines))
        table = read_series(str(tmp_path / name))["all"]
        assert [row["label"] for row in table] == list(LABELS)
        np.testing.assert_array_equal(table[1]["series"][:, 0], VALUES[1])
    words = read_series(str(ucr(tmp_path / "c.tsv", labels=("up", "down", "down", "up"))))["all"]
    assert [row["label"] for row in words] == ["up", "down", "down", "up"]
    (tmp_path / "a.tsv").rename(tmp_path / "P_TRAIN.tsv")
    said = refusal(tmp_path)
    assert "P_TRAIN.tsv: the first line names columns, which UCR files do not" in said
    assert "fix: remove that line, or call the files train.tsv and test.tsv" in said


def test_an_index_is_no_step(tmp_path: Path) -> None:
    header = ",".join(["", "label", *map(str, range(STEPS))])
    lines = [",".join([str(n), "up", *map(str, row)]) for n, row in enumerate(VALUES.tolist())]
    (tmp_path / "a.csv").write_text("\n".join([header, *lines]))
    table = read_series(str(tmp_path / "a.csv"))["all"]
    assert np.array_equal(np.stack([row["series"] for row in table])[..., 0], VALUES.astype(np.float32))
    assert table.notes == ("a.csv: a column without a name left out",)
    (tmp_path / "a.csv").write_text("\n".join([",".join(["label", *[""] * STEPS]), *(line[2:] for line in lines)]))
    assert f"has {STEPS} columns without a name" in refusal(tmp_path / "a.csv")


def test_shorter_ucr_series_are_refused_with_the_way_out(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[2, 9:] = np.nan
    said = refusal(ucr(tmp_path / "a.tsv", values))
    assert "a.tsv, line 3: the last 3 of 12 steps are NaN, which is how UCR files mark a shorter series" in said
    assert "bring all series to one length: cut them to the shortest, pad them" in said


def test_gaps_and_infinity_are_refused(tmp_path: Path) -> None:
    values = VALUES.astype(np.float64)
    values[1, 4] = np.nan
    assert "a.tsv, line 2: step 5 is NaN" in refusal(ucr(tmp_path / "a.tsv", values))
    values[1, 4] = 1e300
    said = refusal(ucr(tmp_path / "a.tsv", values))
    assert "line 2: step 5 is infinity, or more than float32 can hold" in said
    assert "fix: fill gaps before" in said


def test_series_of_unequal_length_are_refused(tmp_path: Path) -> None:
    path = ucr(tmp_path / "a.tsv")
    path.write_text(path.read_text().rstrip() + "\t7\n")
    assert "a.tsv, row 4: 13 steps where the first series has 12" in refusal(path)
    ucr(tmp_path / "P_TRAIN.tsv")
    ucr(tmp_path / "P_TEST.tsv", VALUES[:, :-1])
    assert "(test), row 1: 11 steps where the first series has 12" in refusal(tmp_path)
    rows = [{"x": [[1, 2]] * STEPS}, {"x": [[1, 2, 3]] * STEPS}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "row 2: 3 channels where the first series has 2" in refusal(tmp_path / "b.jsonl")


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    path = ucr(tmp_path / "a.tsv")
    path.write_text(path.read_text().replace("1.7000000e+01", "off"))
    assert "a.tsv, line 2: step 6 holds 'off', not a number" in refusal(path)
    (tmp_path / "b.csv").write_text("sensor,label,a,b\nleft,1,2,3\n")
    said = refusal(tmp_path / "b.csv")
    assert "row 1: column 'sensor' holds 'left', not a number" in said
    assert "fix: remove the column, or name the label's with --label-column" in said
    for cells, wanted in (
        ([1.0, None] * 6, "step 2 holds None, not a number"),
        ([[1, 2]] * 9 + [[1]], "step 10 holds [1], not a list of 2 numbers"),
        ([[1, 2]] * 9 + [3], "step 10 holds 3, not a list of 2 numbers"),
    ):
        (tmp_path / "c.jsonl").write_text(json.dumps({"series": cells, "label": "a"}))
        assert wanted in refusal(tmp_path / "c.jsonl")


def test_python_objects_are_refused_unread(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return Path(tmp_path / "ran").touch, ()

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object), y=np.ones(1))
    assert "holds Python objects, which run code when they are read" in refusal(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_archives_that_promise_too_much_are_refused_unread(tmp_path: Path) -> None:
    import io
    import zipfile

    from numpy.lib import format as npy

    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 500)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    assert "the array x.npy declares 2,199,023,255,552,000 bytes" in refusal(tmp_path / "a.npz")


def test_archives_of_another_kind_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=VALUES, target=LABELS)
    assert "holds the arrays data, target, none of which we know" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=VALUES, y=LABELS[:3])
    assert "4 series and labels of the shape (3,)" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=VALUES.astype(complex), y=LABELS)
    assert "series of the shape (4, 12) and type complex128" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=VALUES[:0], y=LABELS[:0])
    assert "holds no series" in refusal(tmp_path / "a.npz")
    whole = Path(tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    assert "fix: write it again with numpy.savez_compressed" in refusal(tmp_path / "a.npz")


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text("@relation x")
    assert "fix: give a UCR .tsv, a NumPy .npz" in refusal(tmp_path / "a.arff")
    ucr(tmp_path / "A_TRAIN.tsv")
    ucr(tmp_path / "B_TRAIN.tsv")
    assert "holds 2 training files: A_TRAIN.tsv, B_TRAIN.tsv" in refusal(tmp_path)
    assert "fix: leave --label-column out" in refusal(tmp_path / "A_TRAIN.tsv", label_column="y")
    assert "a series of 3 steps" in refusal(ucr(tmp_path / "c.tsv", VALUES[:, :3]))
    (tmp_path / "d.jsonl").write_text(json.dumps({"a": [1] * 9, "b": [1] * 9, "label": "1"}))
    assert "has 2 columns of lists: 'a', 'b'" in refusal(tmp_path / "d.jsonl")
    (tmp_path / "e.jsonl").write_text('{"x": [1,2,3,4,5,6,7,8], "label": "1"}\n{"x": 4, "label": "1"}')
    assert "row 2: 4 where other rows have a list" in refusal(tmp_path / "e.jsonl")
    (tmp_path / "f.tsv").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "f.tsv")
    (tmp_path / "P_TRAIN.tsv").write_bytes(b"1\t\xff\n")
    (tmp_path / "A_TRAIN.tsv").unlink()
    (tmp_path / "B_TRAIN.tsv").unlink()
    assert "UCR files are plain text" in refusal(tmp_path)
