"""Tables as people have them: semicolons, UTF-16, gzip, JSON lists, shards of a dataset repository, nested images."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.core.store import Store
from edgekd.data import unpacked
from edgekd.data.images import read_images
from edgekd.data.read import read_file, read_tables
from edgekd.data.series import read_series

ROWS = [{"text": f"good, row {n}", "label": "ab"[n % 2]} for n in range(6)]
SEMICOLONS = "text;label\n" + "".join(f"{row['text']};{row['label']}\n" for row in ROWS)
COMMAS = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.csv", SEMICOLONS.encode()),
        ("a.csv", SEMICOLONS.replace(";", "\t").encode()),
        ("a.csv", b"sep=;\r\n" + SEMICOLONS.encode()),
        ("a.csv", SEMICOLONS.encode("utf-8-sig")),
        ("a.csv", SEMICOLONS.encode("utf-16")),
        ("a.csv", COMMAS.encode("utf-16")),
        ("a.csv", ("sep=|\n" + SEMICOLONS.replace(";", "|")).encode("utf-32")),
        ("a.csv.gz", gzip.compress(COMMAS.encode())),
        ("A.CSV.GZ", gzip.compress(SEMICOLONS.encode("utf-16"))),
        ("a.ndjson", LINES.encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode())),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", LINES.encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode("utf-8-sig"))),
    ],
)
def test_a_table_is_read_however_it_is_written(name, raw, tmp_path):
    (tmp_path / name).write_bytes(raw)
    assert read_file(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    "text", ["text\na; b\nc\n", "text,note;s\na;b,c\n", "text\na;b\n"], ids=["one column", "comma", "no header"]
)
def test_a_semicolon_in_a_text_parts_nothing(text):
    assert unpacked.delimiter_of(text) == (",", text)


def test_a_packed_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacked, "_MOST_UNPACKED", 1000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * 1000))
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        read_file(tmp_path / "a.csv.gz")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(COMMAS.encode())[:-9])
    with pytest.raises(DataError, match="no whole gzip file"):
        read_file(tmp_path / "b.csv.gz")


def test_the_label_may_lack_in_the_first_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two", "label": "b"}\n', encoding="utf-8")
    assert read_file(path) == [{"text": "one", "label": None}, {"text": "two", "label": "b"}]


def test_a_dataset_repository_is_read_with_all_its_shards(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# A dataset", encoding="utf-8")
    for number in range(2):
        table = pyarrow.Table.from_pylist(ROWS[3 * number : 3 * number + 3])
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"train-0000{number}-of-00002.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    tables = read_tables(str(tmp_path))
    assert (list(tables), tables["train"], tables["test"]) == (["test", "train"], ROWS, ROWS[3:])
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="holds 1 of the 2 shards of the train split"):
        read_tables(str(tmp_path))


def test_images_below_a_class_folder_are_its_own(tmp_path):
    for name in ("cat/1.png", "cat/monday/2.png", "dog/tuesday/late/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 12), (len(name), 0, 0)).save(tmp_path / name)
    table = read_images(str(tmp_path), store=Store(tmp_path / ".store"))["all"]
    assert [row["label"] for row in table] == ["cat", "cat", "dog"]


def test_a_log_with_a_row_for_each_step_is_refused(tmp_path):
    path = tmp_path / "log.csv"
    header = "Timestamp," + ",".join(f"sensor{n}" for n in range(9)) + ",label\n"
    path.write_text(header + "".join(f"{n}," + "0.5," * 9 + "a\n" for n in range(30)), encoding="utf-8")
    with pytest.raises(DataError, match="has the column 'Timestamp': a log with a row for each time step") as refusal:
        read_series(str(path))
    assert "windows" in refusal.value.fix
