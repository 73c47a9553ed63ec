"""The report: what it claims of certainty, classes, cost and evidence, in every form that it is read in."""

import json
import re
from dataclasses import asdict
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import elsewhere, profile

from edgekd import figures, report
from edgekd.choose import Choice, Trial, pareto
from edgekd.cli import show
from edgekd.core import confidence as sure
from edgekd.core import statistics
from edgekd.core.protocols import Survey
from edgekd.costs import Cost, Fit
from edgekd.diagnose import Diagnosis, Group, Layer
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


def against_teacher(values, value):
    """The same model where rows have no labels: its metric is how far it agrees with the teacher."""
    values = {key: known for key, known in values.items() if key != "recall"}
    return values | {"metric_value": value, "metric_interval": [value - 0.001, value], "agreement": value,
                     "ece": None, "ece_interval": None}  # fmt: skip


TRIALS = (
    Trial("float32", 1.0, 0.0, 1.0, 0.7, 30.0, 90.0, (1.0, 1.0), (0.0, 0.0), (1.0, 1.0)),
    Trial("dynamic_int8", 0.96, 4.2, 1.79, 0.4, 12.0, 23.0, (0.94, 0.98), (2.9, 5.5), (1.75, 1.83)),
    Trial("static_int8", 0.9957, 0.43, 1.71, 0.41, 12.0, 23.5, (0.993, 0.997), (0.3, 0.6), (1.68, 1.74)),
    Trial("static_int8-float2", 0.9981, 0.2, 1.6, 0.45, 13.0, 25.0, kept=("a", "b"), said="in float: first | last"),
    Trial.failure("float16", "no kernel of the <provider> takes it"),
)
BROKEN = {"float16": "failed: no kernel of the <provider> takes it"}
LOSES = "loses 4.2 points > 2 allowed"
CHOICE = Choice("static_int8", "1.71x the speed of fp32 at +0.4 points lost", BROKEN | {
    "float32": "1.71x slower than static_int8", "dynamic_int8": LOSES, "static_int8-float2": "not surely faster",
})  # fmt: skip
FP32 = Choice("float32", "no quantized variant is both allowed and faster",
              BROKEN | dict.fromkeys(("dynamic_int8", "static_int8", "static_int8-float2"), LOSES))  # fmt: skip
FORCED = Choice("static_int8", f"forced, although it {LOSES}; 1.71x the speed of fp32",
                BROKEN | dict.fromkeys(("float32", "dynamic_int8", "static_int8-float2"), "static_int8 was forced"),
                forced=True, against=(LOSES,))  # fmt: skip


def composed(
    *, labelled=True, tested=True, suggestion=SUGGESTION, distilled=True, task="time-series-classification",
    choice=CHOICE, stopped=None, target=None, min_retained=0.5, latency_ms=0.72, **given,
):  # fmt: skip
    """A report. Not `tested`: the test rows have no labels; of a text encoder's there are none."""
    cost = Cost(SHAPE, "5 blocks", "float32", "measured", 10, 1, 0.7, 200, 10, 2, "predicted", None, {"weights": 1.0},
                {"memory_mib": 10.1, "latency_ms": 0.8})  # fmt: skip
    teacher = {"kind": "measured", "latency_ms": 7.2, "memory_mib": 30.0, "artifact_mib": 20.0, "cold_start_ms": 300.0}
    errors = {"float32": {"memory_mib": 0.1, "artifact_mib": 0.1, "latency_ratio": 0.2}}
    fit = Fit(teacher, (cost,), cost, (cost,), 9, 3, errors, "a host", 1.0, (), "this host")
    embeds = task == "feature-extraction"
    plan = SimpleNamespace(
        name="things", task=task, target=target or profile(), digest="0" * 64, price_per_hour=0.05,
        metric="cosine" if embeds else "accuracy" if tested else "agreement",
        compresses_only=not distilled, search_limit_s=600.0,
        student=SimpleNamespace(family="conv1d" if distilled else "none", survey=Survey(500, (500,)), min_speedup=5.0,
                                exit=None),
        data=SimpleNamespace(name="d", counts={"selection": 200, "test": len(LABELS)}, notes=(),
                             classes=() if embeds else NAMES, licence="none", selection_labelled=labelled,
                             test_labelled=tested),
        teacher=SimpleNamespace(name="t", ready=True, licence="none", sha256="0" * 64, words="a net"),
        min_retained=min_retained, golden="synthetic", seed=0, versions={"edgekd": "0"},
    )  # fmt: skip
    first = model(1, 4.0, 7.2)
    models = {"teacher": first} | {
        name: model(
            seed, 3.0, 0.72 if name == "float32" else latency_ms, first["_correct"], None if embeds else suggestion
        )
        for seed, name in enumerate(("float32", "static_int8"), start=2)
    }
    baseline = {"recipe": "a ridge classifier", "metric_value": 0.5, "metric_interval": [0.4, 0.6], "n": len(LABELS)}
    if not tested:
        values = {"teacher": 1.0, "float32": 1.0, "static_int8": 0.9957}
        models = {name: against_teacher(models[name], value) for name, value in values.items()}
    measured = {"models": models, "aa": {"ratio": 1.0, "ratio_interval": [0.99, 1.01]},
                "baseline": baseline if tested else None, "n_test": len(LABELS),
                "classes": dict(zip(NAMES, (60, 60, 60, 3), strict=True)) if tested else {}}  # fmt: skip
    found = {"trials": json.loads(json.dumps([asdict(trial) for trial in TRIALS])), "pareto": pareto(TRIALS),
             "best": choice.name, "stopped": stopped, "diagnosis": None, "graph": None}  # fmt: skip
    return report.compose(plan, fit if distilled else None, choice, found, measured, **given)


CARD = {"model": "model_quantized.onnx", "bundle": "things", "survey": {"max_size": 9, "channels": 1}}
NONE = {"distilled": False}
UNLABELLED = NONE | {"labelled": False, "tested": False}
FORMS = {
    "distilled": {},
    "none": NONE,
    "none, without labels": UNLABELLED,
    "none, embeddings": UNLABELLED | {"task": "feature-extraction"},
    "forced": {"choice": FORCED},
    "stopped": {"stopped": "interrupted"},
    "fp32 ships": {"choice": FP32},
}


@pytest.fixture(scope="module", params=FORMS, ids=list(FORMS))
def form(request):
    """A report of each form: what it is of, its values, and every text made of it."""
    said = json.loads(json.dumps(composed(**FORMS[request.param])))
    texts = {name: report.render(name, said | CARD) for name in ("report.md", "report.html", "card.md")}
    return request.param, said, texts


@pytest.fixture(scope="module")
def full():
    return composed(labelled=False, confidence=SCALING, evidence=EVIDENCE)


def test_cost_is_hours_of_a_million_medians_times_the_price(full):
    assert figures.cost_per_million(3.6, 0.05) == pytest.approx(0.05), "a million queries of 3.6 ms are an hour"
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
    for own in full["figures"].values():
        assert own["ece"]["kind"] == "measured"
        assert own["ece"]["n"] == len(LABELS)
        assert 0 <= own["ece"]["value"] <= 1


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
    text = report.render(name, full | CARD)
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


def test_every_form_is_whole(form):
    """No table with a ragged row, no section without its matter, in any text of any form."""
    name, said, texts = form
    for file in ("report.md", "card.md"):
        rows = [line.replace("\\|", "") for line in texts[file].splitlines()]
        for before, row in pairwise(rows):
            if before.startswith("|") and row.startswith("|"):
                assert row.count("|") == before.count("|"), f"{name}: {row}"
            assert not row.startswith("## ") or before == "", f"{name}: {row}"
        assert "None" not in texts[file], name
        assert "\n\n\n\n" not in texts[file], name
    page = re.sub(r"<style>.*?</style>", "", texts["report.html"], flags=re.S)
    assert "None" not in page, name
    assert page.count("<section>") == page.count("</section>")
    assert page.count("<tr") == page.count("</tr>")
    distilled = said["summary"]["distilled"]
    for text in (texts["report.md"], page):
        assert ("Why this size" in text) is ("Does the teacher help?" in text) is distilled
        assert ("Nothing was distilled: the teacher itself was compressed." in text) is not distilled
        assert ("Classes against the teacher" in text) is (said["summary"]["metric"] == "accuracy")
        assert ("Does it know when" in text) is (said["summary"]["task"] != "feature-extraction")
        assert ("aseline: a ridge classifier" in text) is (said["baseline"] is not None)


def test_every_form_shows_the_search(form):
    _, said, texts = form
    for name in ("report.md", "report.html"):
        text = texts[name].replace("<wbr>", "")
        for trial in TRIALS:
            assert trial.name in text
        assert "first | last" in text.replace("\\|", "|")
        assert "no kernel of the <provider> takes it" in text.replace("&lt;", "<").replace("&gt;", ">")
    assert said["pareto"] == ["float32", "dynamic_int8", "static_int8", "static_int8-float2"]
    assert [trial["name"] for trial in said["trials"]] == [trial.name for trial in TRIALS]
    page = texts["report.html"]
    assert page.count("<td>●</td>") == 4
    drawn = page[page.index("of every candidate: the table") : page.index("over speed; numbers")]
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="[46]"/>', drawn)
    assert len(circles) == 4, "the failed one has no place"
    across, up = ([float(point[axis]) for point in circles] for axis in (0, 1))
    assert across[0] < across[3] < across[2] < across[1], "further right is faster"
    assert up[0] < up[3] < up[2] < up[1], "further up agrees more"
    assert all(0 < x < 720 for x in across)
    assert all(0 < y < 320 for y in up)


def test_the_verdict_says_what_it_is_and_what_is_left():
    verdicts = {name: composed(**given)["summary"]["verdict"] for name, given in FORMS.items()}
    assert re.fullmatch(
        r"ships as static_int8: keeps \d+\.\d% of the teacher's accuracy, 10\.00x as fast, 1\.0x smaller",
        verdicts["distilled"],
    )
    assert verdicts["none, without labels"].startswith("ships as static_int8: agrees with the teacher on 99.6% of the")
    assert verdicts["none, embeddings"].startswith("ships as static_int8: mean cosine 0.9957 to the teacher, 10.00x")
    assert verdicts["fp32 ships"].startswith("ships as float32: no quantized variant is both allowed and faster; keeps")
    assert verdicts["forced"].startswith(
        "FORCED: ships as static_int8 against the guard (loses 4.2 points > 2 allowed): keeps "
    )


def test_a_cosine_is_no_percentage():
    said = composed(**FORMS["none, embeddings"])
    assert said["figures"]["static_int8"]["cosine"]["unit"] == "cosine"
    assert said["target_figures"]["accuracy"]["unit"] == "cosine"
    assert said["confidence"] is None
    for name in ("report.md", "report.html", "card.md"):
        text = report.render(name, said | CARD)
        assert "0.9957" in text
        assert "99.6%" not in text
        assert "classes" not in text
    assert "| static_int8 (ships) | 0.9957 | 0.9947 to 0.9957 | 0.72 |" in report.render("report.md", said)


def test_agreement_stands_in_one_column_where_it_is_the_metric():
    said = composed(**UNLABELLED)
    table = report.render("report.md", said).split("\n\n")
    assert not [part for part in table if part.startswith("| | agreement") and "agrees with teacher |" in part]
    assert "99.6% (ships)" not in report.render("card.md", said | CARD)
    assert "| agreement with the teacher on 183 held-out samples | 100.0% | 99.6% |" in report.render(
        "card.md", said | CARD
    )
    assert said["summary"]["baseline"] is said["fit"] is said["prediction"] is None
    assert "of those answers are the teacher's too; of all answers 99.6% are." in said["confidence"]["says"]


def test_what_was_forced_is_marked_everywhere(tmp_path):
    said = composed(choice=FORCED, min_retained=1.2)
    assert said["summary"]["forced"] is said["choice"]["forced"] is True
    first, second = said["choice"]["against"]
    assert first == "loses 4.2 points > 2 allowed"
    assert re.fullmatch(r"keeps \d+\.\d% of the teacher's accuracy on the held-out samples, 120.0% asked for", second)
    for name in ("report.md", "report.html", "card.md"):
        text = report.render(name, said | CARD).replace("&gt;", ">").replace("&#39;", "'")
        assert "FORCED with" in text
        assert first in text
        assert second in text
    assert show.summary(said["summary"], tmp_path, fresh=True).startswith("FORCED: ships as static_int8 against")
    easy = composed(choice=Choice("static_int8", "forced; nothing stands against it", {}, forced=True))
    assert easy["summary"]["verdict"].startswith(
        "FORCED: ships as static_int8 though no floor or budget bars it: keeps "
    )
    assert "Nothing stands against it." in report.render("card.md", easy | CARD)
    assert "FORCED" not in report.render("report.md", composed())
    slow = composed(choice=FORCED, latency_ms=0.9)
    assert slow["choice"]["against"][1:] == ["slower than float32: 0.90 ms > 0.72 on the held-out samples"]
    assert composed(latency_ms=0.9)["choice"]["against"] == []


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        ("interrupted", "The same command with another --out goes on where it was."),
        ("time limit", "The search ended at its time limit, 600 s: this is the best that it had by then."),
    ],
)
def test_a_search_that_was_stopped_says_so(stopped, words):
    said = composed(stopped=stopped)
    assert said["search_stopped"] == stopped
    for name in ("report.md", "report.html"):
        assert words in report.render(name, said)
        assert words not in report.render(name, composed())


def test_without_a_shape_the_latency_elsewhere_is_unknown():
    said = composed(**NONE, target=elsewhere())
    latency = said["target_figures"]["latency_p50"]
    assert (latency["value"], latency["kind"], latency["n"]) == (None, "unknown", 0)
    assert said["target_figures"]["peak_rss"]["kind"] == "predicted"
    assert composed(target=elsewhere())["target_figures"]["latency_p50"]["kind"] == "predicted"
    assert "| latency_p50 | unknown | unknown |" in report.render("report.md", said)
    assert "<strong>unknown</strong>, budget" in report.render("report.html", said)


@pytest.mark.parametrize(
    ("file", "dtype"),
    [("model.onnx", "fp32"), ("model_fp16.onnx", "fp16"), ("model_quantized.onnx", "q8"), ("model_q4.onnx", "q4")],
)
def test_the_card_shows_how_to_embed(file, dtype):
    said = composed(**FORMS["none, embeddings"])
    text = report.render("card.md", said | CARD | {"model": file})
    assert f'pipeline("feature-extraction", "things", {{ dtype: "{dtype}" }})' in text
    assert '{ pooling: "mean" }' in text
    assert "ORTModelForFeatureExtraction" in text
    assert "The teacher itself, compressed; texts are cut at 500 tokens." in text


def test_the_terminal_knows_every_form(form, tmp_path):
    name, said, _ = form
    text = show.summary(said["summary"], tmp_path, fresh=True)
    assert text.startswith(said["summary"]["verdict"])
    assert ("baseline" in text) is (said["baseline"] is not None)
    proof = "not asked for: --evidence 5" if said["summary"]["distilled"] else (
        "nothing was distilled: the teacher itself was compressed")  # fmt: skip
    assert f"proof   {proof}" in text
    if name == "none, embeddings":
        assert "static_int8  0.9957" in text
        assert "sure " not in text
    if name == "none, without labels":
        assert "% of them as the teacher does" in text


def test_a_summary_of_before_is_still_read(full, tmp_path):
    old = {key: value for key, value in full["summary"].items() if key not in ("distilled", "forced")}
    assert "proof   the teacher helped" in show.summary(old, tmp_path, fresh=False)


def test_a_diagnosis_stands_behind_the_search():
    layers = tuple(Layer(f"layer{i}", "MatMul", 20.0 + i, 15.0 + i, 0.5, 1e6, (f"node{i}",)) for i in range(8))
    found = Diagnosis(layers, (Group("all", 20.0, 30.0, 4.0, 8e6, ("layer0",), ("node0",)),), 21.0, 10.0, 16)
    said = json.loads(json.dumps(composed() | {"diagnosis": {"of": "static_int8", **found.as_dict()}}))
    for name in ("report.md", "report.html"):
        text = report.render(name, said)
        heads = [text.index(head) for head in ("Why this variant", "Where does quantization lose?", "Why this size")]
        assert heads == sorted(heads)
        assert "Where does quantization lose?" not in report.render(name, composed())


def test_the_graph_that_was_kept_is_named():
    said = composed() | {"graph": {"kept": "fused", "why": "1.20x the speed of the folded graph (1.15 to 1.25)"}}
    for name in ("report.md", "report.html"):
        assert "Graph: fused, 1.20x the speed of the folded graph (1.15 to 1.25)." in report.render(name, said)
