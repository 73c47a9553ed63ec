"""The report of a student whose teacher only answers: who took what, and what is compared with what."""

from __future__ import annotations

import re

import pytest
from made_up import CARD, FREE, TOOK, composed

from edgekd.report.page import render


def test_each_role_is_told_apart():
    said = composed(api=(TOOK, True))
    assert said["roles"] == {
        "answers": "t",
        "start": "t",
        "yardstick": "float32",
        "speed": "its own fp32",
        "quality": "the teacher",
        "metric_value": 0.9,
    }
    summary, api = said["summary"], said["api"]
    assert "of the teacher's accuracy" in summary["verdict"]
    assert "as fast as its own fp32" in summary["verdict"]
    teacher = summary["teacher"]
    assert (teacher["metric_value"], teacher["latency_p50_ms"], teacher["peak_rss_mib"]) == (0.9, 400.0, None)
    assert teacher["cost_per_million_usd"] == pytest.approx(60)
    assert summary["compared_with"]["recipe"] == "its own fp32"
    assert api["a_label_usd"] == pytest.approx(0.1234 / 1990)
    own = api["student_million_usd"]
    assert api["break_even"] == pytest.approx(1e6 * 0.1234 / (60 - own), rel=1e-3)
    assert api["cheaper"] == pytest.approx(60 / own)
    assert api["pilot"]["held"] is True
    assert said["floors"]["held"][0]["value"] == summary["retained"]


def test_without_rows_to_compare_it_is_held_against_its_own_fp32():
    said = composed(api=(FREE, False))
    assert (said["roles"]["quality"], said["api"]["compared"]) == ("its own fp32", None)
    assert "of its own fp32's accuracy" in said["summary"]["verdict"]
    assert said["api"]["break_even"] is None
    assert said["summary"]["teacher"]["cost_per_million_usd"] is None


def test_a_teacher_that_runs_here_is_all_three():
    said = composed()
    assert said["roles"]["yardstick"] == "teacher"
    assert (said["api"], said["base"], said["summary"]["compared_with"]) == (None, None, None)
    assert "own fp32" not in render("report.md", said)


@pytest.mark.parametrize("name", ["report.md", "report.html", "card.md"])
@pytest.mark.parametrize("api", [(TOOK, True), (TOOK, False), (FREE, True), (FREE, False)])
def test_every_page_shows_it(name, api):
    text = render(name, composed(api=api) | CARD)
    assert "The teacher behind an API" in text
    assert not re.search(r"(?<!\\)<b>model", text), "a name is shown, and means nothing"
    assert "1,990 of 2,000 rows" in text
    if name != "card.md":
        assert "starts from" in text
    if api[0] is FREE:
        assert "What it cost is not known" in text
    assert ("asked about too few held-out samples" in text) is not api[1]
    assert "the teacher's own fp32" not in text


def test_the_page_of_a_report_of_before_has_a_teacher():
    said = composed()
    for key in ("roles", "api", "base"):
        del said[key]
    assert "against the teacher" in render("report.html", said)
