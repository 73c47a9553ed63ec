"""Tables of very many names, rows, cells and levels: read in bounds, or refused at once in a few words."""

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.errors import DataError
from edgekd.data import columns, limits
from edgekd.data.read import read_file

Builder = Callable[[], str]
_NAMES = [f"c{n}" for n in range(60_000)]


def _nested(depth: int, left: str, right: str) -> str:
    return f'{{"text": {left * depth}1{right * depth}}}\n'


# name, file's suffix, its text, a part of the reason
REFUSED: list[tuple[str, str, Builder, str]] = [
    ("a name twice among 60,000", ".csv", lambda: ",".join([*_NAMES, "c7"]) + "\n", "2 columns called 'c7'"),
    ("60,000 equal names", ".csv", lambda: ",".join(["a"] * 60_000) + "\n", "60000 columns called 'a'"),
    ("a long name twice", ".tsv", lambda: "\t".join(["n" * 1_000_000] * 2) + "\n", "2 columns called 'nnn"),
    ("lists in lists", ".jsonl", lambda: _nested(900, "[", "]"), "line 1: not JSON (it is nested deeper than 32"),
    ("lists without end", ".jsonl", lambda: _nested(100_000, "[", "]"), "line 1: not JSON"),
    ("objects in objects", ".jsonl", lambda: _nested(900, '{"a": ', "}"), "nested deeper"),
    ("a key twice", ".jsonl", lambda: '{"text": "a", "label": 1}\n{"text": "a", "text": "b"}\n', "line 2: not JSON"),
    ("a number of 5,000 digits", ".jsonl", lambda: f'{{"text": {"9" * 5000}}}\n', "line 1: not JSON"),
    ("a line of 17 MB", ".jsonl", lambda: json.dumps({"text": "x" * (17 << 20)}), "line 1: 17,825"),
]


@pytest.mark.parametrize(("suffix", "build", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_out_of_bounds_is_refused_at_once(suffix: str, build: Builder, reason: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(build())
    began = time.perf_counter()
    with pytest.raises(DataError) as refusal:
        read_file(path)
    assert time.perf_counter() - began < 5
    assert reason in refusal.value.message
    assert len(refusal.value.message) < 500


# one-letter rows, empty ones, lists and objects: much memory for few bytes
MANY: list[tuple[str, str, Builder]] = [
    ("one-letter rows", ".csv", lambda: "a\n" + "x\n" * 30_000),
    ("wide rows", ".csv", lambda: ",".join(_NAMES[:5000]) + "\n" + (",".join("x" * 5000) + "\n") * 30),
    ("one-letter lines", ".jsonl", lambda: '{"a":1}\n' * 30_000),
    ("empty objects", ".jsonl", lambda: "{}\n" * 40_000),
    ("a list of lists", ".jsonl", lambda: '{"a": [' + "[]," * 60_000 + "[]]}\n" * 3),
]


@pytest.mark.parametrize(("suffix", "build"), [row[1:] for row in MANY], ids=[row[0] for row in MANY])
def test_many_cells_are_refused_before_they_fill_the_memory(
    suffix: str, build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(build())
    monkeypatch.setattr(limits, "MOST_CELLS", 50_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="holds more than 50,000 cells") as refusal:
        read_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000 * 100 + 12 * path.stat().st_size
    assert "fewer rows" in refusal.value.fix


def test_the_cap_is_a_gigabyte_of_cells() -> None:
    assert limits.MOST_CELLS * 64 <= 1 << 30


def test_an_error_of_60_000_columns_is_short() -> None:
    for given in (None, "wrong"):
        with pytest.raises(DataError) as refusal:
            columns.find_column(given, ("text",), [*_NAMES, "n" * 10_000], "rows.csv", "text")
        assert len(refusal.value.message) + len(refusal.value.fix) < 1000
