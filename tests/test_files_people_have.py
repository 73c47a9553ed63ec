"""Tables as people have them: semicolons, UTF-16, gzip, JSON lists, shards of a dataset repository, nested images."""

from __future__ import annotations

import gzip
import io
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data import unpacked
from edgekd.data.images import read_images
from edgekd.data.read import read_file, read_tables
from edgekd.data.series import read_series
from edgekd.store.store import Store
from edgekd.tasks.image_classification import ImageClassification

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
        ("a.csv.gz", gzip.compress(COMMAS.encode(), mtime=0)),
        ("A.CSV.GZ", gzip.compress(SEMICOLONS.encode("utf-16"), mtime=0)),
        ("a.ndjson", LINES.encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", LINES.encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode("utf-8-sig"), mtime=0)),
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


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def picture(number):
    stream = io.BytesIO()
    Image.new("RGB", (9, 12), (number, 0, 0)).save(stream, "png")
    return stream.getvalue()


def kinds(folder, split="all", **options):
    table = read_images(str(folder), store=Store(folder.parent / ".store"), **options)[split]
    name = options.get("column") or "image"
    return {row[name].source.name: row[options.get("label") or "label"] for row in table}, table.notes


METADATA = {
    "csv": "file_name,label\n1.png,cat\n2.png,dog\n",
    "jsonl": '{"file_name": "1.png", "label": "cat"}\n{"file_name": "2.png", "label": "dog"}\n',
}


@pytest.mark.parametrize("suffix", METADATA)
@pytest.mark.parametrize("place", ["", "train/", "data/train/"])
def test_labels_are_those_of_the_metadata(suffix, place, tmp_path):
    folder = tmp_path / "photos"
    write(
        folder,
        {place + "1.png": picture(1), place + "2.png": picture(2), place + f"metadata.{suffix}": METADATA[suffix]},
    )
    labels, notes = kinds(folder, "train" if place else "all")
    assert (labels, notes) == ({"1.png": "cat", "2.png": "dog"}, ())


def test_metadata_may_name_images_in_folders_below(tmp_path):
    folder = tmp_path / "photos"
    rows = "file,kind\ntrain/images/1.png,cat\ntrain/images/2.png,dog\ntest/images/3.png,cat\n"
    write(folder, {f"train/images/{n}.png": picture(n) for n in (1, 2, 4)} | {"test/images/3.png": picture(3)})
    write(folder, {"metadata.csv": rows})
    labels, notes = kinds(folder, "train", column="file", label="kind")
    assert labels == {"1.png": "cat", "2.png": "dog", "4.png": None}
    assert any("1 images that metadata.csv does not name have no label" in note for note in notes)
    assert kinds(folder, "test", column="file", label="kind")[0] == {"3.png": "cat"}


def test_metadata_without_labels_leaves_the_folders_names(tmp_path):
    folder = tmp_path / "photos"
    write(folder, {"cat/1.png": picture(1), "dog/2.png": picture(2)})
    write(folder, {"metadata.csv": "file_name,camera\ncat/1.png,left\ndog/2.png,right\n"})
    assert kinds(folder)[0] == {"1.png": "cat", "2.png": "dog"}


def test_metadata_that_contradicts_the_folders_is_refused(tmp_path):
    folder = tmp_path / "photos"
    write(folder, {"cat/1.png": picture(1), "dog/2.png": picture(2)})
    write(folder, {"metadata.csv": "file_name,label\ncat/1.png,dog\ndog/2.png,dog\n"})
    with pytest.raises(DataError, match=r"metadata\.csv calls 1\.png 'dog', and it lies in the folder 'cat'"):
        kinds(folder)
    write(folder, {"dog/metadata.csv": "file_name,label\n2.png,cat\n"})
    with pytest.raises(DataError, match=r"give 2\.png two labels"):
        kinds(folder)
    (folder / "dog" / "metadata.csv").unlink()
    assert kinds(folder / "metadata.csv", column="file_name")[0] == {"1.png": "dog", "2.png": "dog"}, "the fix"


def test_metadata_that_names_what_is_not_there_is_refused(tmp_path):
    folder = tmp_path / "photos"
    write(folder, {"1.png": picture(1), "metadata.csv": METADATA["csv"]})
    with pytest.raises(DataError, match=r"metadata\.csv names 1 images that are not there \(the first: .*2\.png"):
        kinds(folder)
    write(folder, {"metadata.csv": "width,label\n9,cat\n"})
    with pytest.raises(DataError, match=r"metadata\.csv has no image column"):
        kinds(folder)


def test_what_lies_among_images_is_told(tmp_path):
    folder = tmp_path / "photos"
    write(folder, {"train/cat/late/1.png": picture(1), "train/cat/2.png": picture(2), "extra/3.png": picture(3)})
    write(folder, {"train/labels.csv": "file,label\ncat/2.png,dog\n"})
    labels, notes = kinds(folder, "train")
    assert labels == {"1.png": "cat", "2.png": "cat"}
    assert "labels.csv" in notes[0]
    assert notes[1].endswith("folders that name no split left out: extra")
    assert notes[2].endswith("1 images in folders below a class folder are of that class")


TEXTS = {"pos/1.txt": "good\n", "neg/a/2.txt": "bad", "neg/3.TXT": "worse".encode("utf-16")}


def test_a_folder_of_texts_for_each_class(tmp_path):
    write(tmp_path, TEXTS | {"README.txt": "what it is"})
    table = read_tables(str(tmp_path))["all"]
    assert [(row["text"], row["label"]) for row in table] == [("worse", "neg"), ("bad", "neg"), ("good", "pos")]
    assert "1 file in folders below a class folder" in table.notes[0]
    assert table.notes[1].endswith("left out (the first: README.txt)")
    write(tmp_path, {"pos/4.txt": " \n"})
    with pytest.raises(DataError, match=r"4\.txt is empty"):
        read_tables(str(tmp_path))


def test_texts_below_folders_of_splits(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split, TEXTS)
    write(tmp_path, {"train/unsup/5.txt": "who knows", "README": "x", "imdb.vocab": "good"})
    tables = read_tables(str(tmp_path))
    assert {split: sorted(str(row["label"]) for row in table) for split, table in tables.items()} == {
        "test": ["neg", "neg", "pos"],
        "train": ["None", "neg", "neg", "pos"],
    }
    write(tmp_path / "flat", {"1.txt": "a", "2.txt": "b"})
    assert read_tables(str(tmp_path / "flat"))["all"] == [{"text": text, "label": None} for text in "ab"]


@pytest.mark.parametrize(
    ("name", "raw", "columns"),
    [
        ("a.csv", ",text,label\n0,one,a\n", "a column"),
        ("a.csv", "Unnamed: 0,Unnamed: 0.1,text,label\n0,0,one,a\n", "2 columns"),
        ("a.csv", "label,text,,,\na,one,,,\n", "3 columns"),
        ("a.tsv", "\ttext\tlabel\t\n0\tone\ta\t\n", "2 columns"),
        ("a.jsonl", '{"": 0, "text": "one", "label": "a"}\n', "a column"),
    ],
)
def test_columns_without_a_name_are_left_out(name, raw, columns, tmp_path):
    write(tmp_path, {name: raw})
    table = read_file(tmp_path / name)
    assert (table, table.notes) == ([{"text": "one", "label": "a"}], (f"{name}: {columns} without a name left out",))


def test_the_index_that_pandas_wrote_into_parquet_is_no_column(tmp_path):
    rows = [{"text": "one", "label": "a", "__index_level_0__": 7}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet") == [{"text": "one", "label": "a"}]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["one", "安全なテキスト", "дорога", "🚲"])
def test_wide_text_needs_no_mark(encoding, text, tmp_path):
    write(tmp_path, {"a.csv": f"text,label\n{text},a\n".encode(encoding)})
    assert read_file(tmp_path / "a.csv") == [{"text": text, "label": "a"}]


def test_bytes_that_are_no_text_are_not_taken_for_some(tmp_path):
    write(tmp_path, {"a.csv": bytes(range(256)) * 8, "b.csv": b"text,label\na\0,b\n"})
    for name in ("a.csv", "b.csv"):
        with pytest.raises(DataError):
            read_file(tmp_path / name)


@pytest.mark.parametrize("place", ["", "data/", "plain_text/", "data/en/"])
def test_folders_of_a_split_hold_its_parts(place, tmp_path):
    lines = COMMAS.splitlines(keepends=True)
    write(tmp_path, {place + f"test/part-{n}.csv": lines[0] + lines[1 + n] for n in range(2)})
    (tmp_path / place / "train").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / place / "train" / "0000.parquet")
    tables = read_tables(str(tmp_path))
    assert (tables["train"], tables["test"]) == (ROWS, ROWS[:2])
    write(tmp_path, {place + "test/part-3.csv": "text,kind\na,b\n"})
    with pytest.raises(DataError, match="differ in the columns 'kind', 'label'"):
        read_tables(str(tmp_path))


@pytest.mark.parametrize(
    "names", [["train-00000-of-00001-a09b74b3ef9c3b56.csv"], ["train_0.csv", "train_1.csv"], ["train.part1.csv"]]
)
def test_parts_beside_each_other(names, tmp_path):
    write(tmp_path, dict.fromkeys(names, COMMAS))
    assert read_tables(str(tmp_path)) == {"train": ROWS * len(names)}


@pytest.mark.parametrize("place", ["", "data/"])
def test_several_data_sets_are_refused_by_name(place, tmp_path):
    write(tmp_path, {place + "de/train.csv": COMMAS, place + "en/train/0.csv": COMMAS})
    with pytest.raises(DataError, match=f"holds 2 data sets: {place}de, {place}en") as refusal:
        read_tables(str(tmp_path))
    assert read_tables(refusal.value.fix.split(": ")[1]) == {"train": ROWS}


@pytest.mark.parametrize("name", ["sec", "seconds", "step", "t", "Index", "anything"])
def test_a_column_that_counts_the_rows_is_no_step(name, tmp_path):
    header = f"{name}," + ",".join(f"sensor{n}" for n in range(9)) + ",label\n"
    rows = [f"{0.02 * n:.2f}," + f"{n * n % 7}," * 9 + "a\n" for n in range(30)]
    write(tmp_path, {"log.csv": header + "".join(rows)})
    with pytest.raises(DataError, match=f"has the column '{name}': it increases evenly") as refusal:
        read_series(str(tmp_path / "log.csv"))
    assert "windows" in refusal.value.fix
    write(tmp_path, {"log.csv": header + "".join(rows[n] for n in (3, 1, 2, 7, 5, 6, 0, 4, 9))})
    assert len(read_series(str(tmp_path / "log.csv"))["all"]) == 9, "a row a series, where nothing counts"


def test_notes_say_how_a_table_was_read(tmp_path):
    write(tmp_path, {"a.csv.gz": gzip.compress(SEMICOLONS.encode()), "b.csv": "sep=|\ntext|label\na|b\n"})
    assert read_file(tmp_path / "a.csv.gz").notes == ("a.csv.gz: unpacked", "a.csv.gz: cells parted by semicolons")
    assert read_file(tmp_path / "b.csv").notes == ("b.csv: cells parted by '|'",)
    write(tmp_path, {"c.csv": "label;" + ";".join(f"t{n}" for n in range(8)) + "\na" + ";1.5" * 8 + "\n"})
    assert read_series(str(tmp_path / "c.csv"))["all"].notes == ("c.csv: cells parted by semicolons",)


def test_an_image_too_narrow_for_the_teacher_is_named_while_planning(tmp_path):
    write(tmp_path, {"preprocessor_config.json": json.dumps({"size": {"shortest_edge": 224}, "crop_size": 224})})
    Image.new("RGB", (1, 10_000)).save(tmp_path / "thin.png")
    Image.new("RGB", (20, 50)).save(tmp_path / "fine.png")
    table = read_images(str(tmp_path), store=Store(tmp_path / ".s"))["all"]
    rows = {row["image"].source.name: row["image"] for row in table}
    teacher = {"folder": str(tmp_path), "architecture": {"max_size": 224, "channels": 3}}
    task = ImageClassification()
    assert task.survey(teacher, [rows["fine.png"]], {}, Store(tmp_path / ".s")).max_size == 64
    with pytest.raises(DataError, match=r"the image .*thin\.png of 1 x 10,000 pixels is too narrow"):
        task.survey(teacher, list(rows.values()), {}, Store(tmp_path / ".s"))


def test_a_name_that_is_not_utf_8_is_refused_where_it_lies(tmp_path):
    for folder, inside in ((b"caf\xe9", b"a.png"), (b"cats", b"caf\xe9.png"), (b"dogs", b"b.png")):
        place = os.path.join(os.fsencode(tmp_path), folder)
        os.makedirs(place, exist_ok=True)
        Image.new("RGB", (8, 8)).save(os.fsdecode(os.path.join(place, inside)))
    for _ in range(2):  # the class folder, then the file in another class
        with pytest.raises(DataError, match=r"holds a name that is not UTF-8: 'caf\\udce9") as refusal:
            read_images(str(tmp_path))
        assert refusal.value.fix.startswith("rename it")
        odd = next(path for path in tmp_path.rglob("*") if "\udce9" in path.name)
        odd.rename(odd.with_name(odd.name.replace("\udce9", "e")))
    assert sum(map(len, read_images(str(tmp_path)).values())) == 3
