"""Shards: rows come back as they were appended, a kill costs the open shard alone, damage is named, memory is flat."""

import json
import os
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from edgekd.core.errors import StoreError
from edgekd.store.shards import INDEX, Reader, Writer

DTYPES = ("float16", "float32", "int32", "int64")
_numbers = count()


def row(number, *, tokens=None):
    """Logits of four classes and, where asked for, features of so many tokens: all values say whose they are."""
    made = {"logits": (np.arange(4) + 10 * number).astype(np.float16)}
    if tokens is not None:
        made["features"] = np.full((tokens, 3), number, dtype=np.float32)
    return made


def write(folder, rows, rows_per_shard=4):
    writer = Writer(folder, rows_per_shard)
    for one in rows:
        writer.append(one)
    writer.close()
    return Reader(folder)


def assert_same(found, expected):
    """What `Reader.rows` gave, against the rows that were appended."""
    for name, values in found.items():
        assert len(values) == len(expected)
        for got, one in zip(values, expected, strict=True):
            np.testing.assert_array_equal(got, one[name], strict=True)


@st.composite
def tables(draw):
    """Rows of one to three names, each of its dtype and shape, some of different sizes from row to row."""
    size = draw(st.integers(1, 25))
    rows = [{} for _ in range(size)]
    for name in ("logits", "features.0", "mask")[: draw(st.integers(1, 3))]:
        dtype = draw(st.sampled_from(DTYPES))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
        firsts = draw(
            st.one_of(st.integers(0, 5).map(lambda n: [n] * size), st.lists(st.integers(0, 5), min_size=size))
        )
        random = np.random.default_rng(draw(st.integers(0, 99)))
        for one, first in zip(rows, firsts, strict=False):
            one[name] = (random.normal(size=(first, *shape)) * 100).astype(dtype)
    return rows


@fast
@given(rows=tables(), per_shard=st.integers(1, 30), data=st.data())
def test_rows_come_back_as_they_were_appended(rows, per_shard, data, tmp_path_factory):
    reader = write(tmp_path_factory.getbasetemp() / f"shards-{next(_numbers)}", rows, per_shard)
    assert len(reader) == len(rows)
    assert set(reader.names) == set(rows[0])
    numbers = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    found = reader.rows(numbers)
    assert_same(found, [rows[number] for number in numbers])
    for name, values in found.items():
        assert isinstance(values, np.ndarray) == (len({len(one[name]) for one in rows}) == 1)


def test_a_row_may_be_changed_by_its_reader_and_by_its_writer(tmp_path):
    buffer = row(0, tokens=2)
    writer = Writer(tmp_path, 4)
    for number in range(3):
        buffer["logits"][:] = number  # the same array again: the writer must have its own
        writer.append(buffer)
    writer.close()
    found = Reader(tmp_path).rows([2, 0])
    assert found["logits"][:, 0].tolist() == [2, 0]
    found["logits"] += 1  # torch.from_numpy warns of what cannot be written to


def test_a_shard_is_a_safetensors_file(tmp_path):
    write(tmp_path, [row(n, tokens=2 if n < 4 else n) for n in range(7)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.safetensors", "00001.safetensors", INDEX]
    first, second = (load_file(tmp_path / f"0000{n}.safetensors") for n in (0, 1))
    assert {name: values.shape for name, values in first.items()} == {"logits": (4, 4), "features": (4, 2, 3)}
    assert second["features"].shape == (4 + 5 + 6, 3)
    assert second["features.sizes"].tolist() == [4, 5, 6]
    assert_same(Reader(tmp_path).rows(range(7)), [row(n, tokens=2 if n < 4 else n) for n in range(7)])


def test_no_rows_at_all(tmp_path):
    reader = write(tmp_path / "none", [])
    assert (len(reader), reader.names, reader.rows([])) == (0, (), {})
    assert Writer(tmp_path / "none").done == 0


@pytest.mark.parametrize("numbers", [[-1], [0, 7], [9]])
def test_a_number_that_is_no_rows(tmp_path, numbers):
    with pytest.raises(IndexError, match="of 7"):
        write(tmp_path, map(row, range(7))).rows(numbers)


def test_a_run_that_is_interrupted_goes_on_after_its_whole_shards(tmp_path):
    rows = [row(n, tokens=n % 3) for n in range(11)]
    whole = write(tmp_path / "whole", rows)
    killed = Writer(tmp_path / "killed", 4)
    for one in rows[:10]:  # two shards, and two rows that were never written
        killed.append(one)
    del killed
    assert not (tmp_path / "killed" / INDEX).exists()
    again = Writer(tmp_path / "killed", 4)
    assert again.done == 8
    for one in rows[again.done :]:
        again.append(one)
    again.close()
    assert_same(Reader(tmp_path / "killed").rows(range(11)), rows)
    for path in whole.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name
    assert Writer(tmp_path / "killed", 4).done == 11, "a closed folder is whole, its last shard too"


_KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from edgekd.store import shards
replace, left = os.replace, [2]
def kill(source, target):
    if not left[0]:
        os.kill(os.getpid(), 9)  # the third shard is written and flushed, and not yet in its place
    left[0] -= 1
    replace(source, target)
os.replace = kill
writer = shards.Writer(Path(sys.argv[1]), 4)
for number in range(20):
    writer.append({"logits": np.full(4, number, dtype=np.float16)})
"""


def test_a_kill_while_a_shard_is_written(tmp_path):
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert done.returncode == -9
    litter, *shards = sorted(path.name for path in tmp_path.iterdir())
    assert litter.startswith(".00002.safetensors.new-")
    assert shards == ["00000.safetensors", "00001.safetensors"]
    writer = Writer(tmp_path, 4)
    assert writer.done == 8
    assert len(list(tmp_path.iterdir())) == 2
    writer.append({"logits": np.full(4, 8, dtype=np.float16)})
    writer.close()
    assert Reader(tmp_path).rows(range(9))["logits"][:, 0].tolist() == [*range(9)]


@pytest.mark.parametrize(
    ("shard", "damage", "done"),
    [
        (1, lambda path: path.write_bytes(path.read_bytes()[:-1]), 4),
        (0, lambda path: path.write_bytes(b""), 0),
        (2, lambda path: path.write_bytes(path.read_bytes() + b"\0"), 8),
        (1, lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]), 4),
        (0, lambda path: path.write_bytes(path.read_bytes()[:8] + b"#" + path.read_bytes()[9:]), 0),
        (1, os.unlink, 4),
    ],
    ids=["cut short", "empty", "too long", "header too long", "header no JSON", "missing"],
)
def test_a_damaged_shard_falls_with_those_after_it(tmp_path, shard, damage, done):
    rows = [row(n, tokens=n) for n in range(12)]
    write(tmp_path, rows)
    damage(tmp_path / f"0000{shard}.safetensors")
    with pytest.raises(StoreError) as refusal:
        Reader(tmp_path)
    assert refusal.value.message.startswith(f"cannot use the kept rows in {tmp_path}/0000{shard}.safetensors: ")
    assert refusal.value.fix == (f"remove the folder {tmp_path} and run the same command again: it computes them anew")
    writer = Writer(tmp_path, 4)
    assert writer.done == done
    assert len(list(tmp_path.iterdir())) == done // 4
    for one in rows[done:]:
        writer.append(one)
    writer.close()
    assert_same(Reader(tmp_path).rows(range(12)), rows)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda index: index.update(schema=2), "it contradicts itself, or is of another version"),
        (lambda index: index.update(rows=11), "it contradicts itself, or is of another version"),
        (lambda index: index.pop("shards"), "it is missing or damaged: the rows were never finished"),
        (lambda index: index.update(shards=[4, 5, 1], rows=10), "it holds other rows than the index says"),
        (lambda index: index["names"]["logits"].update(dtype="float32"), "it holds other rows than the index says"),
        (lambda index: index["names"].pop("features"), "it holds other rows than the index says"),
    ],
)
def test_files_that_do_not_match_the_index(tmp_path, change, why):
    write(tmp_path, [row(n, tokens=n) for n in range(10)])
    index = json.loads((tmp_path / INDEX).read_text())
    change(index)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(StoreError) as refusal:
        Reader(tmp_path)
    assert refusal.value.message.endswith(f": {why}")


def test_an_unfinished_folder_has_no_reader(tmp_path):
    writer = Writer(tmp_path, 2)
    for number in range(4):
        writer.append(row(number))
    with pytest.raises(StoreError, match="the rows were never finished"):
        Reader(tmp_path)


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    reader = write(tmp_path, map(row, range(8)))
    path = tmp_path / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert reader.rows([0, 6])["logits"][1, 0] == 60
    with pytest.raises(StoreError, match=r"00001.safetensors: it cannot be read any more: it is cut short"):
        reader.rows([7])


@pytest.mark.parametrize(
    "other",
    [{"logits": np.zeros(4, np.float32)}, {"logits": np.zeros((4, 1), np.float16)}, {"more": np.zeros(4, np.float16)}],
)
def test_rows_of_another_layout_are_our_own_mistake(tmp_path, other):
    Writer(tmp_path, 1).append(row(0))
    with pytest.raises(AssertionError, match="among rows of"):
        Writer(tmp_path, 1).append(other)


def test_what_is_held_does_not_grow_with_the_rows(tmp_path):
    """No file stays open and no page stays mapped: each of those would grow with the data."""
    reader = write(tmp_path, [row(n, tokens=2 + n % 2) for n in range(400)], rows_per_shard=1)
    open_before = len(os.listdir("/proc/self/fd"))
    for start in range(0, 400, 32):
        reader.rows(range(start, min(400, start + 32)))
    assert len(os.listdir("/proc/self/fd")) == open_before
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()
