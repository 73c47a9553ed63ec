"""What `python -m benchmarks.faults` counts of hostile input: each end by its name, with what it took."""

import os
from collections.abc import Callable

import pytest

from benchmarks import _strange
from edgekd.core.errors import EdgeKDError


def _refuse() -> None:
    raise EdgeKDError("a.csv has a fault", fix="mend it")


def _fail() -> None:
    raise ValueError("not ours")


ENDS: list[tuple[Callable[[], object], str, str]] = [
    (_refuse, "a fault", "refused"),
    (_refuse, "another fault", "other reason"),
    (_fail, "", "traceback"),
    (lambda: {"taken": 1}, "", "through"),
    (lambda: None, "", "through"),
    (lambda: _strange.HARMLESS, "", "harmless"),
    (lambda: os.kill(os.getpid(), 9), "", "died"),
]


@pytest.mark.parametrize(("act", "words", "how"), ENDS, ids=[f"{end[2]} {at}" for at, end in enumerate(ENDS)])
def test_each_end_has_its_name(act: Callable[[], object], words: str, how: str) -> None:
    assert _strange._apart(act, words).how == how


def test_memory_and_totals_are_counted() -> None:
    small = _strange._apart(_refuse, "")
    large = _strange._apart(lambda: len(bytearray(os.urandom(1) * (200 << 20))) and _refuse(), "")
    assert large.peak_mib > small.peak_mib + 100
    over = _strange.End("refused", "", 21.0, 30.0, 2000.0)
    found = _strange._counts({"small": small, "over": over, "bad": _strange._apart(_fail, "")})
    assert (found["cases"], found["refused"], found["tracebacks"], found["through"]) == (3, 2, 1, 0)
    assert (found["slow"], found["large"]) == (["over"], ["over"])
    assert found["wrong"] == {"bad": "traceback: ValueError: not ours"}
