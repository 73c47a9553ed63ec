"""Classes that are never answered rightly, and a model no better than one constant answer: said where a build ends."""

from __future__ import annotations

import pytest
from made_up import composed
from test_report import render

from edgekd.cli import show
from edgekd.core.recall import MOST_NAMED, baseline_says, most_frequent, never_right, recall_says

COUNTS = {"usual": 60, "rare": 3, "absent": 0, "odd": 5}


def test_classes_of_no_right_answer_are_named_with_their_rows():
    found = never_right(COUNTS, [0.9, 0.5, None, 0.0], [0.9, 0.0, None, 0.0])
    assert found == {
        "count": 2,
        "of": 3,
        "classes": [{"name": "odd", "n": 5, "teacher": 0.0}, {"name": "rare", "n": 3, "teacher": 0.5}],
    }
    assert recall_says({"never_right": found}) == [
        "2 of 3 classes are never answered rightly (recall 0%): 'odd' (5 test rows, the teacher 0%), "
        "'rare' (3 test rows, the teacher 50%)"
    ]


def test_of_many_such_classes_the_first_are_named():
    counts = {f"class {number}": 2 for number in range(30)}
    found = never_right(counts, [1.0] * 30, [0.0] * 30)
    assert (found["count"], len(found["classes"])) == (30, MOST_NAMED)
    assert recall_says({"never_right": found})[0].endswith(f" and {30 - MOST_NAMED} more")


def test_nothing_is_said_without_labels_or_where_all_is_well():
    assert never_right({}, (), ()) is None
    assert never_right(COUNTS, (), ()) is None
    assert most_frequent({}, (0.5, 0.6)) is None
    assert most_frequent({"absent": 0}, (0.5, 0.6)) is None
    well = {
        "never_right": never_right(COUNTS, [1.0] * 4, [1.0, 0.5, None, 0.2]),
        "most_frequent": most_frequent(COUNTS, (0.9, 1)),
    }
    assert well["most_frequent"] == {"class": "usual", "share": 60 / 68, "beaten": True}
    assert recall_says(well) == recall_says({}) == []


@pytest.mark.parametrize("low", [0.5, 60 / 68])
def test_an_interval_that_reaches_the_most_frequent_class_is_told(low):
    said = recall_says({"most_frequent": most_frequent(COUNTS, (low, 0.95))})
    assert said == [
        "no better than the most frequent class, by the accuracy's interval: to answer 'usual' always is right on "
        "88.2% of the test rows"
    ]


def test_report_summary_and_command_say_it(tmp_path):
    said = composed()
    assert {"never_right", "most_frequent", "columns"} <= said["summary"].keys()
    weak = said["summary"] | {
        "never_right": {"count": 1, "of": 4, "classes": [{"name": "a\x1b[31m|b", "n": 3, "teacher": 0.5}]},
        "most_frequent": {"class": "usual", "share": 0.9, "beaten": False},
    }
    text = show.summary(weak, tmp_path, fresh=True)
    assert "\nclasses no better than the most frequent class" in text
    assert "\nclasses 1 of 4 classes is never answered rightly (recall 0%): 'a\\x1b[31m|b'" in text
    assert "\x1b" not in text
    assert "columns: 'x' as input, 'y' as label; left out: 'id', 'a\\nb'" in text
    for name in ("report.md", "report.html"):
        page = render(name, said | {"classes": said["classes"] | {"says": recall_says(weak)}})
        assert "No better than the most frequent class" in page
        assert "1 of 4 classes is never answered rightly" in page


def test_a_report_without_labels_has_neither():
    said = composed(tested=False, labelled=False)
    assert said["summary"]["never_right"] is said["summary"]["most_frequent"] is None
    assert said["classes"]["says"] == []


def test_older_reports_are_shown_as_they_are(tmp_path):
    said = composed()["summary"]
    old = {key: value for key, value in said.items() if key not in ("never_right", "most_frequent", "columns")}
    text = show.summary(old, tmp_path, fresh=True)
    assert "classes" not in text
    assert "columns" not in text


@pytest.mark.parametrize(
    ("baseline", "shipped", "teacher", "higher", "words"),
    [
        (1.0, 0.7, 0.8, True, "the baseline has 100%, better than 70% of the shipped model and 80% of the teacher"),
        (0.75, 0.7, 0.8, True, "better than 70% of the shipped model: consider"),
        (0.75, 0.8, 0.7, True, "better than 70% of the teacher: consider"),
        (0.7, 0.7, 0.8, True, ""),
        (0.1, 0.2, 0.3, False, "better than 20% of the shipped model and 30% of the teacher"),
        (0.9, 0.2, 0.3, False, ""),
    ],
)
def test_a_baseline_that_beats_a_network_is_told(baseline, shipped, teacher, higher, words):
    figures = {"baseline": baseline, "shipped": shipped, "teacher": teacher}
    summary = {name: {"metric_value": value} for name, value in figures.items()} | {"higher_is_better": higher}
    said = baseline_says(summary, lambda value: f"{value:.0%}")
    assert words in said
    assert bool(said) == bool(words)
    assert baseline_says(summary | {"baseline": None}, str) == ""
