"""Data of strangers: no file is endless, none unpacks to more than fits, and none is code."""

import gzip
import io
import json
import os
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import invoke
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data import limits
from edgekd.data.images import read_images
from edgekd.data.read import read_tables
from edgekd.data.series import read_series
from edgekd.store.store import Store


def why(read, source, **options):
    with pytest.raises(DataError) as refusal:
        read(str(source), **options)
    assert refusal.value.fix
    assert len(refusal.value.message) < 1000
    return refusal.value.message.replace(f"{source}", "SOURCE")


# what is no file


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.npz", "a_TRAIN.tsv"])
def test_pipes_and_devices(tmp_path, name):
    os.mkfifo(tmp_path / name)
    link = tmp_path / f"zero_{name.lower()}"
    link.symlink_to("/dev/zero")
    if not name.endswith(".npz"):
        assert "is no plain file" in why(read_tables, tmp_path / name)
        assert "is no plain file" in why(read_tables, link)
    said = why(read_series, tmp_path if "TRAIN" in name else tmp_path / name)
    assert "is no plain file" in said or "cannot tell what" in said
    assert "is no plain file" in why(read_images, tmp_path / name)


@pytest.mark.parametrize("task", ["text-classification", "image-classification", "time-series-classification"])
def test_the_command_on_a_device(tiny_teacher, store, task):
    began = time.monotonic()
    teacher = ("--teacher", tiny_teacher) if task.startswith("text") else ("--teacher", "labels")
    done = invoke("plan", "--target", "rpi4", "--task", task, *teacher, "--data", "/dev/zero", "--json")
    assert time.monotonic() - began < 20
    assert done.returncode in (1, 2), done.stderr


def test_a_folder_with_a_pipe_among_its_tables(tmp_path):
    os.mkfifo(tmp_path / "train.csv")
    assert "train.csv is no plain file" in why(read_tables, tmp_path)


def test_a_file_of_a_terabyte_is_not_read(tmp_path):
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(1 << 40)
        assert f"SOURCE has {1 << 40:,} bytes; at most " in why(read_tables, tmp_path / name)
    (tmp_path / "a.csv").rename(tmp_path / "a.tsv")
    assert "SOURCE has " in why(read_series, tmp_path / "a.tsv")
    (tmp_path / "a.tsv").rename(tmp_path / "a.npz")
    assert "SOURCE has " in why(read_images, tmp_path / "a.npz")


# tables of text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "\\ud800", "label": "a"}', "it holds half a character (a lone surrogate)"),
        (b'{"text": "a", "la\\udfffbel": "a"}', "it holds half a character (a lone surrogate)"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON ("),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON (Exceeds the limit"),
        (b'{"text": 1' + b"0" * 400 + b"e999999999}", None),
    ],
)
def test_lines_of_json(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    if words is None:
        assert read_tables(str(path))["all"] == [{"text": float("inf")}]
    else:
        assert f"SOURCE, line 1: {words}" in why(read_tables, path)


def test_whole_characters_pass(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00 \\u0000", "label": "a"}\n')
    assert read_tables(str(tmp_path / "a.jsonl"))["all"] == [{"text": "😀 \x00", "label": "a"}]


def test_a_cell_is_shortened_in_a_message(tiny_teacher, store, tmp_path):
    nested = "[" * 400 + "]" * 400
    for cell in (nested, json.dumps(["long" * 1_000_000]), "7" * 4000):
        (tmp_path / "a.jsonl").write_text(f'{{"text": {cell}, "label": "a"}}\n' * 3)
        done = invoke("plan", "--target", "rpi4", "--teacher", tiny_teacher, "--data", tmp_path / "a.jsonl", "--json")
        assert done.returncode == 1, done.stderr
        assert len(json.loads(done.stdout)["error"]) < 1000


# columns


def _repeated(path, mib, rows):
    """A dictionary of one long text, which stands in every row: a few kilobytes on disk."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * (mib << 20)])
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=1 << 30, compression="zstd", store_schema=False)
    return path


def test_a_parquet_bomb_is_found_by_a_limited_process(tmp_path, monkeypatch):
    path = _repeated(tmp_path / "a.parquet", 16, 100_000)  # 1.6 TB
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(limits, "_BASE_MIB", 512)
    monkeypatch.setattr(limits, "_FACTOR", 0)
    said = why(read_tables, path)
    assert "unpacks to" in said or "needs more than the 512 MiB of memory" in said or "not a readable" in said


def test_what_metadata_declare_is_refused_unread(tmp_path, monkeypatch):
    from edgekd.data import columnar

    table = pyarrow.table({"text": ["abc" * 100] * 1000})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    monkeypatch.setattr(columnar, "MOST_BYTES", 1000)
    assert columnar.parquet(str(tmp_path / "a.parquet"))["bytes"] > 1000
    monkeypatch.setattr(limits, "MOST_CELLS", 10)
    assert "unpacks to 304000 bytes in 5000 cells" in why(read_tables, tmp_path / "a.parquet").replace(",", "")


def test_a_parquet_file_that_is_damaged_anywhere(tmp_path):
    from edgekd.data import columnar

    table = pyarrow.table({"text": [f"text {n}" for n in range(300)], "label": ["a", "b", "c"] * 100})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    whole, random = (tmp_path / "a.parquet").read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        raw = bytearray(whole)
        for place in random.integers(0, len(raw), 4):
            raw[place] ^= 1 << random.integers(0, 8)
        (tmp_path / "a.parquet").write_bytes(raw)
        try:
            columnar.parquet(str(tmp_path / "a.parquet"))
        except DataError as error:
            assert "is not a readable Parquet file" in error.message  # noqa: PT017 (most flips are refused, not all)


def test_a_parquet_file_of_very_many_rows_is_refused_unread(tmp_path):
    """Arrow repeats a number in no room at all; Python would make a dict of each row."""
    path = tmp_path / "a.parquet"
    rows = pyarrow.table({"text": pyarrow.array(np.ones(10_000_000, np.int8))})
    with pyarrow.parquet.ParquetWriter(path, rows.schema) as writer:
        for _ in range(3 + limits.MOST_CELLS // 50_000_000):
            writer.write_table(rows)
    assert path.stat().st_size < 2 << 20
    assert "cells are read" in why(read_tables, path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pyarrow.array([1, None]), 2),
        (pyarrow.array([[1, 2], [3]]), 5),
        (pyarrow.array([{"a": 1, "b": [1, 2]}, None]), 8),
        (pyarrow.array([[("k", 1)]] * 3, pyarrow.map_(pyarrow.string(), pyarrow.int64())).slice(1), 8),
        (pyarrow.array([[1, 2]], pyarrow.list_(pyarrow.int8(), 2)), 3),
        (pyarrow.array(["a", "a"]).dictionary_encode(), 2),
    ],
    ids=lambda one: str(getattr(one, "type", one)),
)
def test_values_in_lists_count(tmp_path, column, values):
    from edgekd.data import columnar

    rows = len(column)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet", store_schema=False)
    assert columnar.parquet(str(tmp_path / "a.parquet"))["cells"] == values + 4 * rows


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", ["../../outside.arrow", "/etc/passwd", 7, None])
def test_a_saved_dataset_that_leads_elsewhere(saved, name):
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert f"SOURCE is not a readable dataset: state.json names {name!r}, which is no file beside it" in why(
        read_tables, saved
    )


@pytest.mark.parametrize("splits", [["../saved"], ["/"], "saved", [7], None])
def test_splits_that_lead_elsewhere(saved, tmp_path, splits):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    assert "dataset_dict.json names splits that are no folders beside it" in why(read_tables, tmp_path / "other")


def test_a_saved_dataset_that_is_damaged(saved):
    file = next(saved.glob("*.arrow"))
    raw = file.read_bytes()
    for content in (raw[:100], b"", b"\xff" * 1000, raw[:-200]):
        file.write_bytes(content)
        assert "SOURCE" in why(read_tables, saved)
    (saved / "state.json").write_text("[" * 100_000)
    assert "state.json: it is nested too deeply" in why(read_tables, saved)


# arrays


def _npz(path, name="x.npy", content=b"", flags=0, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    if flags:
        raw = bytearray(path.read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = raw.find(mark)
            raw[start + place] |= flags
        path.write_bytes(raw)
    return path


def _array(header, version=(1, 0)):
    raw = header.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(raw)) + raw


@pytest.mark.parametrize("read", [read_images, read_series])
@pytest.mark.parametrize(
    "content",
    [
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 10, 2)}"),  # without its values
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 10, 2)}"),
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': (2**40, 1)}"),
        _array("{'descr': '|O', 'fortran_order': False, 'shape': (4, 10, 2)}"),
        _array("__import__('os').system('true')"),
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': ((("),
        _array("{" + "(" * 5000),
        _array("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (4,)}"),
        _array("{'descr': '<f4', 'fortran_order': 1, 'shape': (4,), 'more': 1}"),
        _array("'" * 3 + "x"),
        _array("{'descr': '|V2147483647', 'fortran_order': False, 'shape': (1000, 10, 2)}"),
        b"\x93NUMPY\x09\x00" + bytes(50),
        b"not an array",
        b"",
    ],
)
def test_arrays_that_are_none(tmp_path, read, content):
    assert "SOURCE" in why(read, _npz(tmp_path / "a.npz", content=content))


@pytest.mark.parametrize("read", [read_images, read_series])
def test_archives_that_are_encrypted_or_packed_otherwise(tmp_path, read):
    good = io.BytesIO()
    np.save(good, np.zeros((4, 10, 10), np.uint8))
    assert "encrypted" in why(read, _npz(tmp_path / "a.npz", content=good.getvalue(), flags=1))
    path = _npz(tmp_path / "b.npz", content=good.getvalue())
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\x03\x04") + 8] = raw[raw.find(b"PK\x01\x02") + 10] = 99
    path.write_bytes(raw)
    assert "SOURCE" in why(read, path)
    path = _npz(tmp_path / "c.npz", content=good.getvalue() * 50, method=zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    raw[60:70] = b"\xff" * 10
    path.write_bytes(raw)
    assert "SOURCE" in why(read, path)


def test_packed_bytes_beyond_what_their_header_says(tmp_path):
    header = struct.pack(">4I", 0x803, 2, 4, 4)
    for content in (gzip.compress(header + bytes(300 << 20)), gzip.compress(header) + b"junk", b"\x1f\x8b" + bytes(50)):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        began = time.monotonic()
        assert "is no IDX file: " in why(read_images, tmp_path)
        assert time.monotonic() - began < 2
    with pytest.raises(zlib.error):
        zlib.decompress(b"\x1f\x8b" + bytes(50))


# images


def test_images_that_are_none(tmp_path):
    """One in thirty each: left out, counted, and named."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(300):
        Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(folder / f"{number}.png")
    good = (folder / "0.png").read_bytes()
    text = zlib.compress(b"x" * (80 << 20))
    chunk = b"zTXt" + b"k\0\0" + text
    odd = {
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file",
        "text.png": good[:33]
        + struct.pack(">I", len(chunk) - 4)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + good[33:],
        "cut.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(100),
        "loop.tif": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
        "huge.tif": b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 256, 4, 1, 60000, 257, 4, 1, 60000),
        "huge.ppm": b"P6 60000 60000 255\n",
        "odd.webp": b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(40),
    }
    for name, raw in odd.items():
        (folder / name).write_bytes(raw)
    os.mkfifo(folder / "pipe.png")
    assert "pipe.png is no plain file" in why(read_images, folder)
    (folder / "pipe.png").unlink()
    with (folder / "large.png").open("wb") as stream:
        stream.truncate(1 << 36)
    began = time.monotonic()
    table = read_images(str(folder), store=Store(tmp_path / "store"))["all"]
    assert time.monotonic() - began < 10
    assert len(table) == 300
    assert table.notes[0].startswith(f"{len(odd) + 1} of {301 + len(odd)} images left out that cannot be decoded")


def test_paths_in_a_table_that_are_pipes(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    rows = ["good.png,a"] * 60 + ["pipe.png,a", "/dev/zero,b"]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label", *rows]))
    table = read_images(str(tmp_path / "rows.csv"), store=Store(tmp_path / "store"))["all"]
    assert len(table) == 60
    assert "2 of 62 images left out" in table.notes[0]
    assert "it is no plain file of at most 256 MiB" in table.notes[0]


def test_frames_turns_and_depths(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    frames = [Image.fromarray(np.full((8, 8), n, np.uint8)) for n in range(200)]
    frames[0].save(folder / "many.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 250  # no such turn
    frames[0].save(folder / "turned.jpg", exif=exif)
    table = read_images(str(folder), store=Store(tmp_path / "store"))["all"]
    assert [(row["image"].height, row["image"].width) for row in table] == [(8, 8), (8, 8)]


def test_nothing_that_was_looked_at_first_is_left(tmp_path):
    assert limits.shown("x" * 10_000) == limits.shown("x" * 10_000)[:90]
    assert not limits.is_plain(Path("/dev/null"))
    assert not limits.is_plain(tmp_path)
    assert not limits.is_plain(Path("a\0b"))
