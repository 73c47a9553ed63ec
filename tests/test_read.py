"""Files to tables: every form we read, and for each damage the file, the line and the way out."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import DataError
from edgekd.data import hub
from edgekd.data.read import read_file, read_tables

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
ONE = b"text,label\nhi,x\n"


@fast
@given(rows=st.lists(st.tuples(text, text), min_size=1, max_size=6), bom=st.booleans())
def test_csv_and_json_lines_come_back_as_written(rows, bom, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    expected = [{"text": first, "label": second} for first, second in rows]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("text", "label"), *rows])
    (folder / "a.csv").write_text(stream.getvalue(), encoding="utf-8-sig" if bom else "utf-8", newline="")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in expected)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8", newline="")
    assert read_file(folder / "a.csv") == read_file(folder / "a.jsonl") == expected


def test_tsv_has_no_quotes(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\nsay "hi, you\tx\n\n', encoding="utf-8")
    assert read_file(tmp_path / "a.tsv") == [{"text": 'say "hi, you', "label": "x"}]


def test_parquet(tmp_path):
    rows = [{"text": "é", "label": 1}, {"text": "b", "label": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet") == rows


@pytest.mark.parametrize(
    ("name", "content", "problem", "fix"),
    [
        ("a.csv", b"", "{path} is empty", "give a file with a header line and rows"),
        ("a.csv", b"a,b\n", "{path} holds a header and no rows", "give a file with at least one row for each class"),
        ("a.csv", b"a,a\n1,2\n", "{path} has 2 columns called 'a'", "rename them in the header line"),
        (
            "a.csv",
            b"a,b\n1,2\n1,2,3\n",
            "{path}, line 3: 3 cells where the header names 2",
            "quote cells that hold the delimiter, and escape quotes by doubling them",
        ),
        ("a.csv", b'a,b\n"x"y,2\n', "{path}, line 2: ',' expected after '\"'", "check the quotes on that line"),
        ("a.csv", b'a,b\n"x,2\n', "{path}, line 2: unexpected end of data", "check the quotes on that line"),
        (
            "a.csv",
            b"a,b\nx,\xe9\n",
            "{path} is not UTF-8: line 2 holds byte 0xe9",
            "convert it first: iconv -f WINDOWS-1252 -t UTF-8 {path} > {path.parent}/utf8-a.csv",
        ),
        (
            "a.tsv",
            b"a\x00\tb\n",
            "{path} holds NUL bytes: it is not a text file",
            "give a text file, in UTF-8",
        ),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "{path}, line 2: not a JSON object", "one JSON object a line"),
        ("a.jsonl", b"\n{\n", "{path}, line 2: not JSON (Expecting property name", "one JSON object a line"),
        ("a.parquet", b"PAR1", "{path} is not a readable Parquet file: ", "write the file again"),
        (
            "a.txt",
            b"hi",
            "cannot tell what {path} is",
            "give a file that ends in one of .csv, .tsv, .jsonl, .ndjson, .json, .parquet",
        ),
        (
            "a.csv",
            None,
            "cannot read {path}: No such file or directory",
            "check the path and its permissions",
        ),
    ],
)
def test_a_damaged_file_is_refused(name, content, problem, fix, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_tables(str(path))
    assert refusal.value.message.startswith(problem.format(path=path))
    assert (refusal.value.fix, refusal.value.exit_code) == (fix.format(path=path), 1)


def test_a_cell_of_the_absurd_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"x" * (17 << 20) + b",2\n")
    with pytest.raises(DataError, match=r"a.csv, line 2: field larger than field limit"):
        read_file(tmp_path / "a.csv")


def test_a_folder_names_its_splits(tmp_path):
    for name in ("Training.csv", "dev.tsv", "test.csv", "unlabeled.csv", "notes.txt", "extra.csv"):
        (tmp_path / name).write_bytes(ONE if name.endswith("csv") else ONE.replace(b",", b"\t"))
    row = {"text": "hi", "label": "x"}
    assert read_tables(str(tmp_path)) == {name: [row] for name in ("train", "validation", "test", "unlabelled")}


@pytest.mark.parametrize(
    ("files", "problem", "fix"),
    [
        (
            ["val.csv", "valid.csv", "train.csv"],
            "{folder}/val.csv and {folder}/valid.csv both name the validation split",
            "keep one of them",
        ),
        (
            ["test.csv"],
            "{folder} has no training split",
            "name the files train.csv, validation.csv, test.csv (or .tsv, .jsonl, .parquet); or give one file, "
            "or a folder of .txt files for each class",
        ),
    ],
)
def test_a_folder_without_its_splits_is_refused(files, problem, fix, tmp_path):
    for name in files:
        (tmp_path / name).write_bytes(ONE)
    with pytest.raises(DataError) as refusal:
        read_tables(str(tmp_path))
    assert (refusal.value.message, refusal.value.fix) == (problem.format(folder=tmp_path), fix)


@pytest.fixture(scope="module")
def dataset():
    datasets = pytest.importorskip("datasets")
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    return datasets.Dataset.from_dict(
        {"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=datasets.Features(features)
    )


def test_a_saved_dataset_gives_labels_by_name(dataset, tmp_path):
    import datasets

    rows = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}, {"text": "c", "label": None}]
    dataset.save_to_disk(tmp_path / "one")
    assert read_tables(str(tmp_path / "one")) == {"all": rows}
    datasets.DatasetDict({"train": dataset, "dev": dataset, "more": dataset}).save_to_disk(tmp_path / "several")
    assert read_tables(str(tmp_path / "several")) == {"train": rows, "validation": rows}
    datasets.DatasetDict({"a": dataset, "b": dataset}).save_to_disk(tmp_path / "strange")
    with pytest.raises(DataError, match=r"strange has the splits \['a', 'b'\] and none called train"):
        read_tables(str(tmp_path / "strange"))


def test_parquet_that_a_dataset_wrote_gives_labels_by_name(dataset, tmp_path):
    dataset.to_parquet(tmp_path / "a.parquet")
    assert [row["label"] for row in read_file(tmp_path / "a.parquet")] == ["yes", "no", None]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            hub.Unknown("no such dataset"),
            "there is no such file or folder, and on the Hugging Face hub: no such dataset",
        ),
        (None, "no route to someone/something"),
    ],
)
def test_a_hub_id_that_is_not_to_be_had_is_refused(dataset, monkeypatch, answer, words):
    def ask(name, kind):
        if answer is not None:
            raise answer

    def unreadable(source):
        raise ConnectionError(f"no route to {source}\nand more")

    monkeypatch.setattr(hub, "ask", ask)
    monkeypatch.setattr(hub, "dataset_card", lambda name: None)  # its client tries again for half a minute
    monkeypatch.setattr("datasets.load_dataset", unreadable)
    with pytest.raises(DataError) as refusal:
        read_tables("someone/something")
    assert refusal.value.message == f"cannot load the data 'someone/something': {words}"
    assert refusal.value.fix.startswith("give an existing file or folder, or the id of a dataset")


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """A dataset on the hub with two configurations; what `datasets` says of it is its own words."""
    import datasets

    folder = tmp_path / "names"
    folder.mkdir()
    parts = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("en", "de"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{parts}---\n", encoding="utf-8")
    for name in ("en", "de"):
        (folder / f"{name}.jsonl").write_text(f'{{"text": "in {name}", "label": "a"}}\n', encoding="utf-8")
    load = datasets.load_dataset
    asked = []
    monkeypatch.setattr(hub, "ask", lambda name, kind: asked.append(name))
    monkeypatch.setattr(hub, "dataset_card", lambda name: asked.append(name))
    monkeypatch.setattr(
        "datasets.load_dataset", lambda name, *rest: load(str(folder), *rest, cache_dir=str(tmp_path / "cache"))
    )
    return asked


def test_of_several_configurations_one_must_be_named_and_the_fix_does_it(configured):
    with pytest.raises(DataError) as refusal:
        read_tables("someone/something")
    assert refusal.value.message == "someone/something has 2 configurations (data sets): 'en', 'de'"
    assert refusal.value.fix == "name one of them: --data someone/something:en"
    source = refusal.value.fix.rpartition(" ")[2]
    assert read_tables(source) == {"all": [{"text": "in en", "label": "a"}]}
    assert read_tables("someone/something:de")["all"][0]["text"] == "in de"
    assert set(configured) == {"someone/something"}


def test_a_configuration_that_is_not_there_is_refused_with_those_that_are(configured):
    with pytest.raises(DataError) as refusal:
        read_tables("someone/something:fr")
    assert refusal.value.message == "someone/something has no configuration 'fr': 'en', 'de'"


def test_so_it_is_of_a_copy_in_the_cache(configured, monkeypatch):
    def unreachable(name, kind):
        raise hub.Unreachable("no network")

    monkeypatch.setattr(hub, "ask", unreachable)
    monkeypatch.setattr(hub, "cached", lambda name, kind: None)
    with pytest.raises(DataError, match="has 2 configurations"):
        read_tables("someone/something")
    assert read_tables("someone/something:en")["all"].notes == (hub.CACHED,)
