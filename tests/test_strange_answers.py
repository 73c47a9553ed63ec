"""A device that answers what no runner answers is refused in a sentence, in little memory, with its name."""

import sys

import pytest
from strange_answers import ANSWERS, GOOD, JOB

from edgekd.core.errors import EdgeKDError
from edgekd.devices import _bounded
from edgekd.devices._answer import answer_of


def test_a_good_answer_is_taken():
    import json

    said = b"noise\n" + json.dumps(GOOD).encode() + b"\n"
    assert answer_of(said, "time", JOB, run="a time run on ssh://pi", runtime="ort") == GOOD


@pytest.mark.parametrize(("name", "build"), ANSWERS, ids=[name for name, _ in ANSWERS])
def test_a_strange_answer_is_refused(name, build):
    with pytest.raises(EdgeKDError, match="a time run on ssh://pi") as refused:
        answer_of(build(), "time", JOB, run="a time run on ssh://pi", runtime="ort")
    assert len(refused.value.message) < 700
    assert refused.value.message.isprintable()
    assert "whether it is the device that you mean" in refused.value.fix


@pytest.mark.parametrize(("stream", "number"), [("stdout", 1), ("stderr", 2)])
def test_output_without_end_is_cut_off(monkeypatch, stream, number):
    monkeypatch.setattr(_bounded, "MOST_ERRORS", 1 << 20)
    code = f"import os\nwhile True: os.write({number}, b'x' * 65536)"
    done = _bounded.run([sys.executable, "-c", code], timeout_s=30, most=1 << 20)
    assert done.too_much == stream
    assert len(done.stdout) <= 1 << 20
    assert len(done.stderr) <= 1 << 16
