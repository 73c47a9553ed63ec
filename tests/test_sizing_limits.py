"""The process that loads base models to measure what they cost has limits, and says which of them was met."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.core.errors import TeacherError, UsageError
from edgekd.security import child
from edgekd.sizing import apart, fitting


@pytest.fixture
def limited(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(apart, "_BASE_MIB", 256)
    monkeypatch.setattr(apart, "usable_cpus", lambda: 1)

    def call(name, seconds=30, **arguments):
        monkeypatch.setattr(apart, "_SECONDS", seconds)
        return apart.call(f"strange_children:{name}", arguments, "")

    return call


@pytest.mark.parametrize(
    ("name", "seconds", "arguments", "words"),
    [
        ("hoard", 30, {"mib": 1000}, "its child process needs more than the 256 MiB of memory it may use"),
        ("spin", 1, {}, "its child process took"),
        ("sleep", 1, {}, "its child process took longer than 1 s"),
    ],
)
def test_each_limit_is_named(limited, name, seconds, arguments, words):
    with pytest.raises(TeacherError, match="cost cannot be measured") as refusal:
        limited(name, seconds, **arguments)
    assert words in refusal.value.message
    assert "give a smaller --teacher" in refusal.value.fix


def test_what_it_raises_itself_stays(limited, monkeypatch):
    with pytest.raises(child.ChildError, match="SIGSEGV"):
        limited("crash")
    with pytest.raises(UsageError, match="this cannot work"):
        apart.call("helpers:refuse", {}, "")


def test_both_searches_go_that_way(monkeypatch):
    """No call of a child in sizing is without limits but that of the reference, a model of our own."""
    source = Path(fitting.__file__).read_text(encoding="utf-8")
    assert source.count("child.call(") == 1
    assert 'child.call("edgekd.sizing.fitting:reference_ms"' in source
    assert source.count("apart.call(") == 2


def test_a_larger_teacher_may_take_more(tmp_path):
    assert apart.size_mib("") == apart.size_mib(str(tmp_path / "none")) == 0
    for name in ("model.safetensors", "other.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 << 20)
    assert apart.size_mib(str(tmp_path)) == 6
    assert apart.size_mib(str(tmp_path / "other.bin")) == 3
