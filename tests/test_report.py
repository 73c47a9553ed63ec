"""The report: what it claims of certainty, classes, cost and evidence, in every form that it is read in."""

import json
import re
from html import unescape
from itertools import pairwise
from types import SimpleNamespace

import pytest
from helpers import PlanStub, elsewhere
from made_up import (
    CARD,
    EVIDENCE,
    FORCED,
    FORMS,
    LABELS,
    NONE,
    SCALING,
    SUGGESTION,
    TRIALS,
    UNLABELLED,
    composed,
    model,
)

from edgekd.cli import show
from edgekd.compression.choose import Choice
from edgekd.compression.diagnose import Diagnosis, Group, Layer
from edgekd.core import confidence as sure
from edgekd.core.results import this_host
from edgekd.hardware.latency_correction import Reading, keep
from edgekd.report import figures
from edgekd.report.page import render


@pytest.fixture(scope="module", params=FORMS, ids=list(FORMS))
def form(request):
    """A report of each form: what it is of, its values, and every text made of it."""
    said = json.loads(json.dumps(composed(**FORMS[request.param])))
    texts = {name: render(name, said | CARD) for name in ("report.md", "report.html", "card.md")}
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
        "threshold": 0.6,
        "coverage": said["coverage"]["value"],
        "accuracy": said["accuracy"]["value"],
    }
    assert "96.0% of the answers are the teacher's too, 95% wanted." in said["says"]


def test_a_threshold_that_no_test_row_reaches_answers_nothing():
    said = composed(suggestion=sure.Suggestion(0.999999, 0.1, 0.96))["confidence"]
    assert (said["coverage"]["value"], said["accuracy"]["value"], said["accuracy"]["n"]) == (0.0, None, 0)
    assert "and none of those answers are right" in said["says"]
    assert "on the other 96.0% of the answers are right, 95% wanted." in said["says"]


def test_a_threshold_that_does_not_deliver_is_not_suggested():
    """A poor model above a low threshold: the held-out rows show that 95% is not kept."""
    data = SimpleNamespace(selection_labelled=True, test_labelled=True, counts={"selection": 200})
    plan = PlanStub(task="time-series-classification", data=data)
    shipped = model(3, 1.0, 0.72, suggestion=sure.Suggestion(0.2, 0.99, 0.96))
    said = figures.sureness(plan, shipped, None)
    assert figures.suggested(shipped["above"], plan) is said["suggestion"] is None
    assert said["says"].startswith("No confidence threshold is suggested: the one that the selection rows gave")
    assert said["missed"]["interval"][1] < sure.WANTED


def test_evidence_is_the_whole_objectives(full):
    assert full["summary"]["evidence"] == {"difference": 9.1, "low": 7.9, "high": 10.3, "seeds": 2}
    assert full["evidence"]["says"] == "the teacher helped by +9.1 points [+7.9, +10.3], 2 seeds"


@pytest.mark.parametrize("name", ["report.md", "report.html", "card.md"])
def test_every_form_says_it(full, name):
    text = render(name, full | CARD)
    assert "Suggested: answer where" in text
    assert "$0.05 an hour" in text
    assert "The teacher helped by +9.1 points [+7.9, +10.3], 2 seeds." in text
    if name != "card.md":
        assert "labels alone" in text
        assert "it brought ECE from 12.1% to 3.4%" in text
        assert "too few to say" in text


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.0, 3.0, "The teacher helped by +2.0 points"),
        (-3.0, -1.0, "The teacher hurt by -2.0 points"),
        (-1.0, 3.0, "No effect shown (+1.0 points"),
    ],
)
@pytest.mark.parametrize("name", ["report.md", "report.html", "card.md"])
def test_every_form_says_whether_the_teacher_helped_or_hurt(full, name, low, high, word):
    effect = {"difference": (low + high) / 2, "low": low, "high": high, "seeds": 3}
    says = sure.evidence_says(effect)
    said = full | {"summary": full["summary"] | {"evidence": effect}, "evidence": full["evidence"] | {"says": says}}
    text = render(name, said | CARD)
    assert word in text
    assert text.count("he teacher helped by") == (low > 0)


def test_code_of_other_packages_is_named(full):
    of_others = full | {"plugins": {"losses/squares": "their-losses 1.2"}}
    assert all("losses/squares of their-losses 1.2" in render(name, of_others) for name in ("report.md", "report.html"))
    assert "Code of other packages" not in render("report.md", full)


def test_class_names_break_neither_table_nor_page(full):
    assert "| a\\|b |" in render("report.md", full)
    html = render("report.html", full)
    assert "<i>c</i>" not in html
    assert "&lt;i&gt;c&lt;/i&gt;" in html


def test_without_evidence_threshold_and_temperature_it_still_speaks():
    said = composed(suggestion=None)
    assert said["summary"]["evidence"] is said["summary"]["threshold"] is None
    assert json.loads(json.dumps(said))["evidence"]["says"] == "not asked for: --evidence 5"
    for name in ("report.md", "report.html"):
        text = render(name, said)
        assert "Not asked for: --evidence 5." in text
        assert "No confidence threshold is suggested: none gave 95% on selection rows" in text
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
    html = re.sub(r"<style>.*?</style>", "", texts["report.html"], flags=re.S)
    assert "None" not in html, name
    assert html.count("<section>") == html.count("</section>")
    assert html.count("<tr") == html.count("</tr>")
    distilled = said["summary"]["distilled"]
    for text in (texts["report.md"], html):
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
        assert "no kernel of the <provider> takes it" in unescape(text).replace("\\<", "<")
    assert said["pareto"] == ["float32", "dynamic_int8", "static_int8", "static_int8-float2"]
    assert [trial["name"] for trial in said["trials"]] == [trial.name for trial in TRIALS]
    html = texts["report.html"]
    assert html.count("<td>●</td>") == 4
    drawn = html[html.index("of every candidate: the table") : html.index('<svg class="narrow" viewBox="0 0 360 300"')]
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="[46]"/>', drawn)
    assert len(circles) == 4, "the failed one has no place"
    across, up = ([float(point[axis]) for point in circles] for axis in (0, 1))
    assert across[0] < across[3] < across[2] < across[1], "further right is faster"
    assert up[0] < up[3] < up[2] < up[1], "further up agrees more"
    assert all(0 < x < 860 for x in across)
    assert all(0 < y < 320 for y in up)


def test_the_verdict_says_what_it_is_and_what_is_left():
    verdicts = {name: composed(**given)["summary"]["verdict"] for name, given in FORMS.items()}
    assert re.fullmatch(
        r"ships as static_int8: keeps \d+\.\d% \[\d+\.\d, \d+\.\d\] of the teacher's accuracy, 10\.00x as fast, "
        r"1\.0x smaller",
        verdicts["distilled"],
    )
    assert verdicts["none, without labels"].startswith("ships as static_int8: agrees with the teacher on 99.6% [")
    assert verdicts["none, embeddings"].startswith(
        "ships as static_int8: mean cosine 0.9957 [0.9947, 0.9957] to the teacher, 10.00x"
    )
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
        text = render(name, said | CARD)
        assert "0.9957" in text
        assert "99.6%" not in text
        assert "classes" not in text
    assert "| static_int8 (ships) | 0.9957 | 0.9947 to 0.9957 | 0.72 |" in render("report.md", said)


def test_agreement_stands_in_one_column_where_it_is_the_metric():
    said = composed(**UNLABELLED)
    table = render("report.md", said).split("\n\n")
    assert not [part for part in table if part.startswith("| | agreement") and "agrees with teacher |" in part]
    assert "99.6% (ships)" not in render("card.md", said | CARD)
    shares = "100.0% (85.0% to 95.0%) | 99.6% (85.0% to 95.0%)"
    assert f"| agreement with the teacher on 183 held-out samples | {shares} |" in render("card.md", said | CARD)
    assert said["summary"]["baseline"] is said["fit"] is said["prediction"] is None
    assert "of those answers are the teacher's too; of all answers 99.6% are." in said["confidence"]["says"]


def test_what_was_forced_is_marked_everywhere(tmp_path):
    said = composed(choice=FORCED, min_retained=1.2)
    assert said["summary"]["forced"] is said["choice"]["forced"] is True
    first, second = said["choice"]["against"]
    assert first == "loses 4.2 points > 2 allowed"
    assert re.fullmatch(
        r"keeps \d+\.\d% \[.+\] of the teacher's accuracy on the held-out samples, 120.0% asked for", second
    )
    for name in ("report.md", "report.html", "card.md"):
        text = render(name, said | CARD).replace("&gt;", ">").replace("&#39;", "'")
        assert "FORCED with" in text
        assert first in text
        assert second in text
    assert show.summary(said["summary"], tmp_path, fresh=True).startswith("FORCED: ships as static_int8 against")
    easy = composed(choice=Choice("static_int8", "forced; nothing stands against it", {}, forced=True))
    assert easy["summary"]["verdict"].startswith(
        "FORCED: ships as static_int8 though no floor or budget bars it: keeps "
    )
    assert "Nothing stands against it." in render("card.md", easy | CARD)
    assert "FORCED" not in render("report.md", composed())
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
        assert words in render(name, said)
        assert words not in render(name, composed())


def test_without_a_shape_the_latency_elsewhere_is_unknown():
    said = composed(**NONE, target=elsewhere())
    latency = said["target_figures"]["latency_p50"]
    assert (latency["value"], latency["kind"], latency["n"]) == (None, "unknown", 0)
    assert said["target_figures"]["peak_rss"]["kind"] == "predicted"
    assert composed(target=elsewhere())["target_figures"]["latency_p50"]["kind"] == "predicted"
    assert "| latency_p50 | unknown | – | unknown | – |" in render("report.md", said)
    assert "<strong>unknown</strong>, budget" in render("report.html", said)


@pytest.mark.parametrize(
    ("file", "dtype"),
    [("model.onnx", "fp32"), ("model_fp16.onnx", "fp16"), ("model_quantized.onnx", "q8"), ("model_q4.onnx", "q4")],
)
def test_the_card_shows_how_to_embed(file, dtype):
    said = composed(**FORMS["none, embeddings"])
    text = render("card.md", said | CARD | {"model": file})
    assert f'AutoModel.from_pretrained("things", {{ dtype: "{dtype}" }})' in text
    assert 'model.run(["sentence_embedding"], feeds)' in text
    assert 'SentenceTransformer("things", backend="onnx", model_kwargs=options)' in text
    assert f'"file_name": "{file}"' in text
    assert "The teacher itself, compressed; texts are cut at 500 tokens." in text


def test_the_terminal_knows_every_form(form, tmp_path):
    name, said, _ = form
    text = show.summary(said["summary"], tmp_path, fresh=True)
    assert text.startswith(said["summary"]["verdict"])
    assert ("baseline" in text) is (said["baseline"] is not None)
    proof = (
        "not asked for: --evidence 5"
        if said["summary"]["distilled"]
        else ("nothing was distilled: the teacher itself was compressed")
    )
    assert f"proof   {proof}" in text
    if name == "none, embeddings":
        assert "static_int8  0.9957" in text
        assert "sure " not in text
    if name == "none, without labels":
        assert "% of them as the teacher does" in text


def test_a_summary_of_before_is_still_read(full, tmp_path):
    old = {key: value for key, value in full["summary"].items() if key not in ("distilled", "forced")}
    assert "proof   the teacher helped" in show.summary(old, tmp_path, fresh=False)


def test_a_diagnosis_has_its_place_before_the_details():
    layers = tuple(Layer(f"layer{i}", "MatMul", 20.0 + i, 15.0 + i, 0.5, 1e6, (f"node{i}",)) for i in range(8))
    found = Diagnosis(layers, (Group("all", 20.0, 30.0, 4.0, 8e6, ("layer0",), ("node0",)),), 21.0, 10.0, 16)
    said = json.loads(json.dumps(composed() | {"diagnosis": {"of": "static_int8", **found.as_dict()}}))
    for name, order in {
        "report.md": ("What was measured where", "Why this variant", "Where does quantization lose?", "Why this size"),
        "report.html": (
            "What was measured where",
            "Where does quantization lose?",
            "Why this variant",
            "Why this size",
        ),
    }.items():
        text = render(name, said)
        heads = [text.index(head) for head in order]
        assert heads == sorted(heads)
        assert "Where does quantization lose?" not in render(name, composed())


def test_the_graph_that_was_kept_is_named():
    said = composed() | {"graph": {"kept": "fused", "why": "1.20x the speed of the folded graph (1.15 to 1.25)"}}
    for name in ("report.md", "report.html"):
        assert "Graph: fused, 1.20x the speed of the folded graph (1.15 to 1.25)." in render(name, said)


def test_what_real_boards_took_scales_the_prediction_and_nothing_else_does(tmp_path, monkeypatch):
    target = elsewhere(microarch="cortex-a72")
    reading = Reading("cortex-a72", 1500, "float32", 1.0, 2.0, "a" * 64, "a board")
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path))
    keep(tmp_path, reading)
    plain, scaled = (
        composed(target=target, readings=readings)["target_figures"]["latency_p50"] for readings in ((), (reading,))
    )
    assert "not checked on a board" in plain["how"], "a report is made of its arguments alone"
    assert scaled["value"] == pytest.approx(2 * plain["value"])


def test_a_speed_that_is_not_the_targets_says_so(tmp_path):
    said = composed(target=elsewhere())
    assert f"x as fast on this {this_host().arch} host, " in said["summary"]["verdict"]
    text = show.summary(said["summary"], tmp_path, fresh=True, on_target=said["on_target_says"])
    assert "\ntarget  Nothing was run on aarch64 kernels." in text


def test_a_speedup_short_of_the_aim_is_seen():
    said = composed()
    assert "Less than the speedup asked for" not in render("report.html", said)
    said["min_speedup"] = 12.0
    assert "Less than the speedup asked for: 10.00x on this host, 12.00x was the aim" in render("report.html", said)


def test_what_was_looked_into_of_the_teachers_file_is_told(form):
    _, said, texts = form
    assert said["teacher"]["checks"] == ["ONNX: <parsed> & checked"]
    assert "\n- ONNX: \\<parsed> & checked\n" in texts["report.md"]
    assert "<li>ONNX: &lt;parsed&gt; &amp; checked</li>" in texts["report.html"]


def test_what_a_licence_asks_is_pointed_out_and_an_older_report_still_shown(full):
    words = "gemma (as its model card says)"
    said = full | {"teacher": {key: value for key, value in full["teacher"].items() if key != "checks"}}
    said |= {"data": said["data"] | {"licence": words}}
    for name in ("report.md", "report.html", "card.md"):
        once = render(name, said | CARD)
        assert once.count("eep in mind of their licence") == 1, name
        assert "eep in mind of its licence" not in once, name
        both = render(name, said | {"teacher": said["teacher"] | {"licence": words}} | CARD)
        assert "eep in mind of its licence" in both, name
        assert "looked into" not in both, name
