"""The report: what it claims of certainty, classes, cost and evidence, in every form that it is read in."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import profile

from edgekd import report
from edgekd.choose import Choice, Trial
from edgekd.cli import show
from edgekd.core import confidence as sure
from edgekd.core import statistics
from edgekd.core.protocols import Survey
from edgekd.costs import Cost, Fit
from edgekd.measure import above

NAMES = ("plain", "a|b", "<i>c</i>", "rare")
SHAPE = {"width": 8, "depth": 5, "kernel": 7, "stride": 4, "separable": False, "dilated": True, "steps": 500,
         "channels": 1, "classes": 4}  # fmt: skip
LABELS = [0] * 60 + [1] * 60 + [2] * 60 + [3] * 3
EVIDENCE = {
    "arms": [
        {"name": "the whole objective", "losses": "1 response(temperature 2)", "accuracy": [0.80, 0.82],
         "difference": 9.1, "low": 7.9, "high": 10.3, "seeds": 2},
        {"name": "weights", "losses": "1 hard_labels", "accuracy": [0.71, 0.72],
         "difference": -0.5, "low": -1.5, "high": 0.5, "seeds": 2},
    ],
    "control": {"name": "labels alone", "accuracy": [0.70, 0.74], "how": "random weights, the labels alone"},
    "n_test": len(LABELS),
}  # fmt: skip
SUGGESTION = sure.Suggestion(threshold=0.6, coverage=0.7, accuracy=0.96)
SCALING = {"temperature": 1.6, "fitted_on": "teacher", "n": 200, "ece_before": 0.121, "ece_after": 0.034}


def model(seed, skill, latency_ms, teacher=None, suggestion=None):
    """What `measure` says of a model whose logits lean to the label by `skill`."""
    logits = np.random.default_rng(seed).normal(size=(len(LABELS), 4))
    logits[np.arange(len(LABELS)), LABELS] += skill
    correct, certain = statistics.hits(logits, LABELS), sure.certainty(logits)
    difference, low, high = statistics.paired_difference(correct if teacher is None else teacher, correct)
    return {
        "metric_value": float(correct.mean()), "metric_interval": [0.7, 0.9], "n": len(LABELS), "artifact_mib": 1.5,
        "ece": sure.expected_calibration_error(certain, correct), "ece_interval": [0.01, 0.2],
        "recall": sure.recalls(LABELS, correct, 4),
        "above": above(suggestion, certain, correct) if suggestion else None,
        "agreement": 0.9, "agreement_interval": [0.85, 0.95],
        "difference_points": 100 * difference, "difference_interval": [100 * low, 100 * high],
        "latency_p50_ms": latency_ms, "latency_interval": [0.9 * latency_ms, 1.1 * latency_ms],
        "latency_p90_ms": 2 * latency_ms, "latency_n": 800, "ratio_interval": [0.9, 1.1], "speedup": 7.2 / latency_ms,
        "peak_rss_mib": 10.0, "peak_rss_interval": [9.0, 11.0], "peak_rss_longest_mib": 12.0, "longest": 500,
        "cold_start_ms": 200.0, "_correct": correct,
    }  # fmt: skip


def composed(*, labelled=True, suggestion=SUGGESTION, **given):
    cost = Cost(SHAPE, "5 blocks", "float32", "measured", 10, 1, 0.7, 200, 10, 2, "predicted", None, {"weights": 1.0},
                {"memory_mib": 10.1, "latency_ms": 0.8})  # fmt: skip
    teacher = {"kind": "measured", "latency_ms": 7.2, "memory_mib": 30.0, "artifact_mib": 20.0, "cold_start_ms": 300.0}
    errors = {"float32": {"memory_mib": 0.1, "artifact_mib": 0.1, "latency_ratio": 0.2}}
    fit = Fit(teacher, (cost,), cost, (cost,), 9, 3, errors, "a host", 1.0, (), "this host")
    plan = SimpleNamespace(
        name="things", task="time-series-classification", target=profile(), digest="0" * 64, price_per_hour=0.05,
        student=SimpleNamespace(family="conv1d", survey=Survey(500, (500,)), min_speedup=5.0),
        data=SimpleNamespace(name="d", counts={"selection": 200, "test": len(LABELS)}, notes=(), classes=NAMES,
                             licence="none", selection_labelled=labelled),
        teacher=SimpleNamespace(name="t", ready=True, licence="none", sha256="0" * 64, words="a net"),
        min_retained=0.9, golden="synthetic", seed=0, versions={"edgekd": "0"},
    )  # fmt: skip
    first = model(1, 4.0, 7.2)
    models = {"teacher": first} | {
        name: model(seed, 3.0, 0.72, first["_correct"], suggestion)
        for seed, name in enumerate(("float32", "static_int8"), start=2)
    }
    baseline = {"recipe": "a ridge classifier", "metric_value": 0.5, "metric_interval": [0.4, 0.6], "n": len(LABELS)}
    measured = {"models": models, "aa": {"ratio": 1.0, "ratio_interval": [0.99, 1.01]}, "baseline": baseline,
                "n_test": len(LABELS), "classes": dict(zip(NAMES, (60, 60, 60, 3), strict=True))}  # fmt: skip
    trials = [Trial(name, 0.9, 0.0, 1.0, 0.7, 10.0, 1.0) for name in ("float32", "static_int8")]
    choice = Choice("static_int8", "it is the fastest", {})
    return report.compose(plan, fit, choice, trials, measured, **given)


@pytest.fixture(scope="module")
def full():
    return composed(labelled=False, confidence=SCALING, evidence=EVIDENCE)


def test_cost_is_hours_of_a_million_medians_times_the_price(full):
    assert report.cost_per_million(3.6, 0.05) == pytest.approx(0.05), "a million queries of 3.6 ms are an hour"
    summary = full["summary"]
    assert summary["teacher"]["cost_per_million_usd"] == pytest.approx(0.1)
    assert summary["shipped"]["cost_per_million_usd"] == pytest.approx(0.01)
    assert summary["baseline"]["cost_per_million_usd"] is None
    figure = full["figures"]["teacher"]["cost_per_million"]
    assert (figure["unit"], figure["kind"]) == ("USD", "predicted")
    assert figure["interval"] == pytest.approx((0.09, 0.11))
    assert figure["how"] == (
        "a million queries one by one, each of this host's median latency, at $0.05 an hour (declared)"
    )


def test_every_model_has_its_calibration_error(full):
    for figures in full["figures"].values():
        assert figures["ece"]["kind"] == "measured"
        assert figures["ece"]["n"] == len(LABELS)
        assert 0 <= figures["ece"]["value"] <= 1


def test_the_suggestion_is_the_selection_rows_and_what_it_gives_is_measured(full):
    said, own = full["confidence"], model(3, 3.0, 0.72, suggestion=SUGGESTION)
    assert said["suggestion"] == {"threshold": 0.6, "coverage": 0.7, "accuracy": 0.96}
    assert said["coverage"]["value"] == pytest.approx(own["above"]["coverage"])
    assert said["accuracy"]["n"] == own["above"]["n"] < len(LABELS)
    assert full["summary"]["threshold"] == {
        "threshold": 0.6, "coverage": said["coverage"]["value"], "accuracy": said["accuracy"]["value"]
    }  # fmt: skip
    assert "96.0% of the answers are the teacher's too, 95% wanted." in said["says"]


def test_a_threshold_that_no_test_row_reaches_answers_nothing():
    said = composed(suggestion=sure.Suggestion(0.999999, 0.1, 0.9))["confidence"]
    assert (said["coverage"]["value"], said["accuracy"]["value"], said["accuracy"]["n"]) == (0.0, None, 0)
    assert "and none of those answers are right" in said["says"]
    assert "90.0% of the answers are right, 95% wanted: no threshold gives more." in said["says"]


def test_evidence_is_the_whole_objectives(full):
    assert full["summary"]["evidence"] == {"difference": 9.1, "low": 7.9, "high": 10.3, "seeds": 2}
    assert full["evidence"]["says"] == "the teacher helped by +9.1 points [+7.9, +10.3], 2 seeds"


@pytest.mark.parametrize("name", ["report.md", "report.html", "card.md"])
def test_every_form_says_it(full, name):
    own = {"model": "model.onnx", "bundle": "things", "survey": {"max_size": 9, "channels": 1}}
    text = report.render(name, full | own)
    assert "Suggested: answer where" in text
    assert "$0.05 an hour" in text
    if name != "card.md":
        assert "The teacher helped by +9.1 points [+7.9, +10.3], 2 seeds." in text
        assert "labels alone" in text
        assert "it brought ECE from 12.1% to 3.4%" in text
        assert "too few to say" in text


def test_class_names_break_neither_table_nor_page(full):
    assert "| a\\|b |" in report.render("report.md", full)
    page = report.render("report.html", full)
    assert "<i>c</i>" not in page
    assert "&lt;i&gt;c&lt;/i&gt;" in page


def test_without_evidence_threshold_and_temperature_it_still_speaks():
    said = composed(suggestion=None)
    assert said["summary"]["evidence"] is said["summary"]["threshold"] is None
    assert json.loads(json.dumps(said))["evidence"]["says"] == "not asked for: --evidence 5"
    for name in ("report.md", "report.html"):
        text = report.render(name, said)
        assert "Not asked for: --evidence 5." in text
        assert "No confidence threshold is suggested." in text
        assert "Temperature" not in text


def test_the_terminal_says_it_in_two_lines(full, tmp_path):
    lines = show.summary(full["summary"], tmp_path, fresh=True).splitlines()
    assert "proof   the teacher helped by +9.1 points [+7.9, +10.3], 2 seeds" in lines
    assert any(line.startswith("sure    at 0.600 or more it answers ") for line in lines)
    bare = show.summary(composed(suggestion=None)["summary"], tmp_path, fresh=True)
    assert "or more it answers" not in bare
    assert "proof   not asked for: --evidence 5" in bare
