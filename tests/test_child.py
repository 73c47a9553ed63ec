"""A limited process meets its limits, and the parent says which: never a traceback, never more than it may take."""

import json
import os
from pathlib import Path

import pytest

from edgekd.core import errors
from edgekd.security import child

LIMITS = child.Limits(memory_mib=256, cpu_s=1)


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def call(name, timeout_s=30, limits=LIMITS, said=lambda line: None, **arguments):
        return child.call(f"strange_children:{name}", arguments, timeout_s=timeout_s, limits=limits, said=said)

    return call


@pytest.mark.parametrize(
    ("name", "arguments", "limit", "words"),
    [
        ("hoard", {"mib": 1000}, "memory", "needs more than the 256 MiB of memory it may use"),
        ("hoard_in_c", {}, "memory", "needs more than the 256 MiB of memory it may use"),
        ("be_killed", {}, "memory", "was killed, most likely because the machine ran out of memory"),
        ("spin", {}, "cpu", "took more than 1 s of CPU time"),
        ("crash", {}, "signal", "ended by SIGSEGV: it crashed: "),
        ("answer", {"text": "{"}, "answer", "gave no answer that can be read: it said nothing"),
        ("answer", {"text": "[" * 100_000}, "answer", "gave no answer that can be read: it said nothing"),
        ("answer", {"text": "[1]"}, "answer", "gave no answer that can be read: it said nothing"),
        ("nest", {"depth": 1}, "memory", "was killed, most likely"),
    ],
)
def test_each_limit_is_named(call, name, arguments, limit, words):
    with pytest.raises(child.ChildError) as refusal:
        call(name, **arguments)
    assert refusal.value.limit == limit
    assert words in refusal.value.message
    assert "Traceback" not in str(refusal.value)


def test_time_is_named_and_what_it_started_ends(call):
    with pytest.raises(child.ChildError, match=r"sleep took longer than 0 s") as refusal:
        call("sleep", timeout_s=0.4)
    assert refusal.value.limit == "time"


def test_what_is_within_the_limits_passes(call):
    assert call("hoard", mib=50) == 50 << 20
    assert call("number") == int("1" * 50)


def test_no_file_is_larger_than_its_memory(call, tmp_path):
    with pytest.raises(child.ChildError, match="File too large"):
        call("write_much", path=str(tmp_path / "large"), mib=300)


@pytest.mark.parametrize("kind", ["Path", "suggestion", "__name__", "Nothing", "KeyboardInterrupt"])
def test_an_error_of_no_kind_of_ours_is_one_of_ours(call, kind):
    with pytest.raises(errors.EdgeKDError) as refusal:
        call("answer", text=json.dumps({"kind": kind, "error": "odd", "fix": "none"}))
    assert (type(refusal.value), refusal.value.message) == (errors.EdgeKDError, "odd")


def test_a_line_without_end_comes_in_parts(call):
    lines = []
    assert call("shout", said=lines.append) == "done"
    assert sum(map(len, lines)) == 3 << 20
    assert max(map(len, lines)) <= 1 << 16


def test_no_core_and_nothing_imported_from_where_it_was_called(call, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    found = call("core_and_path")
    assert found["core"] == 0
    assert found["cwd"] == str(tmp_path)
    assert not {"", ".", str(tmp_path)} & set(found["path"])
    assert os.listdir(tmp_path) == ["numpy.py"]
