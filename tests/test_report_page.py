"""The report of what devices and other kernels showed: what stands out, what is not drawn, and where receipts stand."""

import json
import re
import shutil
from html import unescape

import made_up
import pytest
from conftest import invoke, run
from helpers import elsewhere
from made_up import FORMS, composed

from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.receipts import files
from edgekd.report import page
from edgekd.report.page import render


def test_a_variant_that_answers_otherwise_on_the_target_stands_out():
    said = composed() | {"on_target": made_up.on_target(), "on_target_says": "3 variants were judged there."}
    html, text = render("report.html", said), render("report.md", said)
    assert html.count('class="strip apart"') == 1
    assert "▲ −7.2 points there</strong><small>98.3% here, 91.1% there;<br>14 of 180 flip" in html
    assert "97.8% there<small>98.3% here; 2 of 180 flip" in html
    assert "| static_int8 (ships) | 98.3% | 91.1% | **-7.2** | 14 of 180 | 0.31 | 91.0% (85.0% to 95.0%)" in text
    assert "| dynamic_int8 | 98.3% | 97.8% | -0.5 | 2 of 180 |" in text
    assert "| float32 | 99.4% | 99.4% | +0.0 | 0 of 180 | 0.00001 |" in text
    for words in (html, text):
        assert "3 variants were judged there." in words
        assert "on 60 of 124 held-out samples: accuracy 91.7% there (84.0 to 98.0), 98.3% here on the same" in words
        assert "180 of 400 selection rows" in words


def test_instructions_rank_variants_and_are_no_milliseconds():
    said = composed() | {"on_target": made_up.on_target()}
    html, text = render("report.html", said), render("report.md", said)
    assert "| static_int8 (ships) | 0.44x | 18 | 0 | 5 | 0 | 1 | 9 | 2 | 0.9 | 0.1 |" in text
    assert "<strong>0.44x</strong></td><td>18</td><td>0</td><td>5</td><td>0</td><td>1</td><td>9</td>" in html
    assert "they are no milliseconds" in html
    assert "they are no milliseconds" in text
    none = composed() | {"on_target": made_up.on_target() | {"cost": None, "cost_note": "no gcc is installed"}}
    for name in ("report.html", "report.md"):
        assert "Instructions were not counted: no gcc is installed." in render(name, none)
        assert "Instructions of one inference" not in render(name, none)


def test_a_cosine_on_the_target_is_no_percentage():
    there = made_up.on_target()
    there["selection"] |= {
        "agreement_here": dict.fromkeys(there["cost"], 0.9957),
        "agreement_there": {"float32": 0.9957, "dynamic_int8": 0.9941, "static_int8": 0.9803},
    }
    said = composed(**FORMS["none, embeddings"]) | {"on_target": there}
    assert "▲ −1.54 points there" in render("report.html", said)
    assert "| static_int8 (ships) | 0.9957 | 0.9803 | **-1.54** |" in render("report.md", said)


def test_every_target_figure_says_what_where_and_how():
    said = composed(target=elsewhere())
    html, text = render("report.html", said), render("report.md", said)
    for figure in said["target_figures"].values():
        for words in (figure["kind"], figure["how"], figure["host"] or "not run"):
            assert str(words) in unescape(html)
            assert str(words) in text
    assert html.count('<td data-label="kind">') == 4


def test_percentiles_that_nothing_resolves_are_not_drawn():
    said = composed()
    html, text = render("report.html", said), render("report.md", said)
    assert html.count('class="p90"') == html.count('<svg class="strip" height="40"') + html.count("strip ships") == 3
    assert 'class="p99"' not in html
    assert html.count("p99 not resolvable") == 3
    for words in (html, text):
        assert "p99 of what ships: not resolvable on this host: the A/A control is 41% off." in words
    assert "| static_int8 (ships) | 0.576 |" in text


def test_what_is_unstable_says_so_beside_every_latency():
    said = composed()
    assert "unstable" not in render("report.html", said) + render("report.md", said)
    said["aa"] = {"ratio": 1.021, "interval": [1.01, 1.03], "stable": False}
    assert render("report.html", said).count("unstable") == 3
    assert "the same model timed twice differed by 2.1%" in render("report.html", said)
    assert "1.021: **unstable**" in render("report.md", said)


def test_a_report_of_before_is_still_drawn():
    said = composed()
    for key in ("on_target", "on_target_says", "latency_quantiles_ms"):
        del said[key]
    for own in said["figures"].values():
        del own["latency_p99"]
    for name in ("report.html", "report.md"):
        text = render(name, said)
        assert "How long single runs took" not in text
        assert "What was measured where" in text
        assert "p99 not resolvable" not in text
        assert '<th scope="row">p99, ms' not in text


def test_budgets_that_a_shape_is_over_are_shown_of_this_report_and_of_one_before():
    said = composed()
    text = "speedup 1.00x < 5x & <more>"
    violation = {"budget": "min_speedup", "value": 1.0, "limit": 5.25, "kind": "measured", "text": text}
    now = {**said["fit"]["candidates"][0], "violations": [violation]}
    before = {key: value for key, value in now.items() if key != "violations"} | {"breaks": [text]}
    reports = [said | {"fit": said["fit"] | {"candidates": [cost]}} for cost in (now, before)]
    pages = [[render(name, one) for name in ("report.html", "report.md")] for one in reports]
    assert pages[0] == pages[1]
    assert text in unescape(pages[0][0])
    assert "speedup 1.00x" in pages[0][1]


@pytest.mark.parametrize("form", FORMS)
def test_the_page_may_load_nothing(form):
    html = render("report.html", composed(**FORMS[form]))
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
    assert not re.findall(r"(?:src|href|url|@import|<script|<link)\s*[=(]", html)
    assert html.count('role="img"') == html.count("<svg")
    assert not re.findall(r"[a-z]+://", html)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A bundle's report, and two receipts beside it, one of them refused, without the checks of a real bundle."""
    bundle = tmp_path / "things-rpi4"
    bundle.mkdir()
    page.write(composed(), bundle)
    files.folder(bundle).mkdir()
    (files.folder(bundle) / "a.json").write_text("{}")
    refused = [(files.folder(bundle) / "<b>.json", ("of another model", "it is from the future"))]
    monkeypatch.setattr(page.files, "read_all", lambda _: ([], refused))
    return bundle


def test_receipts_stand_beside_the_report_and_nothing_enters_the_bundle(measured):
    before = {path: path.read_bytes() for path in measured.iterdir()}
    written = page.write_page(measured)
    assert written == files.folder(measured) / "report.html"
    assert "<code>&lt;b&gt;.json</code>: of another model; it is from the future" in written.read_text("utf-8")
    shown = page.text(measured)
    assert shown.startswith((measured / "report.md").read_text("utf-8").rstrip())
    assert shown.endswith("Refused:\n- \\<b>.json: of another model; it is from the future\n")
    assert page.with_receipts(measured)["receipts"] == {
        "held": [],
        "refused": [{"file": "<b>.json", "reasons": ["of another model", "it is from the future"]}],
    }
    assert {path: path.read_bytes() for path in measured.iterdir()} == before


def test_without_receipts_the_bundles_own_page_is_shown(tmp_path):
    page.write(composed(), tmp_path)
    assert page.write_page(tmp_path) == tmp_path / "report.html"
    assert page.text(tmp_path) == (tmp_path / "report.md").read_text("utf-8")
    assert page.with_receipts(tmp_path)["receipts"] == {"held": [], "refused": []}


def test_each_device_has_a_column_and_its_runs_a_strip():
    said = composed() | {"receipts": made_up.receipts()}
    text, words = render("report.html", said), render("_receipts.md", said)
    own = text[text.index("Receipts from devices") : text.index("All models, measured")]
    assert own.count('<svg class="strip ships" height="40"') == 2, "an emulator has no latency"
    assert "the machine is emulated: its time is the emulator&#39;s" in own
    assert own.count("▲ over") == 2, "p50 and memory of the board"
    assert own.count("not the target&#39;s architecture: no budget holds") == 1
    assert own.count("unstable") == 2, "beside the strip and in the table"
    assert "▲ throttled" in own
    assert "over 5 minutes" in own
    assert "&lt;i&gt;board" in own
    assert "<i>board" not in own
    rows = [line for line in words.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {row.replace("\\|", "").count("|") for row in rows} == {12}
    assert "1.034, **unstable**" in words
    assert "it throttled" in words


def test_a_virtual_machine_is_no_board_and_no_budget_judges_its_times():
    said = composed() | {"receipts": made_up.receipts()}
    said["receipts"]["held"][1] |= {"remark": "a virtual machine's time is no board's"}
    text, words = render("report.html", said), render("_receipts.md", said)
    own = text[text.index("Receipts from devices") : text.index("All models, measured")]
    assert own.count("; a virtual machine&#39;s time is no board&#39;s") == 2, "beside the strip and in the table"
    assert own.count("▲ over") == 1, "memory alone"
    assert "<td>a virtual machine<small>" in own
    assert "| a virtual machine |" in words
    assert "ssh://pi@\\<i>board\\</i>:22: over 16 rows; a virtual machine's time is no board's.\n" in words


def test_a_sustained_run_of_one_point_is_no_chart():
    said = composed() | {"receipts": made_up.receipts()}
    told = said["receipts"]["held"][1]["sustained"]
    assert 'class="trend"' in render("report.html", said)
    told["points"] = told["points"][:1]
    text, words = render("report.html", said), render("_receipts.md", said)
    assert 'class="trend"' not in text
    assert ": too short to tell. <strong" in text
    assert "over 5 minutes: 80 ms, one point: too short to tell; **it throttled**." in words


def test_a_report_that_was_changed_is_shown_with_a_warning(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "report.md").write_text((bundle / "report.md").read_text("utf-8").replace("%", "0%"), "utf-8")
    done = run("report", bundle)
    assert (done.returncode, bool(done.stdout)) == (0, True)
    assert "warning: " in done.stderr
    assert "report.md: " in done.stderr
    assert json.loads(invoke("report", bundle, "--json").stdout)["altered"][0].startswith("report.md: ")
    assert invoke("report", tiny_bundle).stderr == ""


def test_the_command_shows_report_and_receipts_and_leaves_the_bundle_alone(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "things-cpu")
    assert invoke("report", bundle).stdout == (bundle / "report.md").read_text("utf-8")
    assert json.loads(invoke("report", bundle, "--json").stdout)["receipts"] == {"held": [], "refused": []}
    beside = files.folder(bundle)
    beside.mkdir()
    (beside / "hand.json").write_text('{"schema": 1, "accuracy": 2}')
    shown = invoke("report", bundle)
    assert shown.returncode == 0, shown.stderr
    assert "Refused:\n- hand.json: missing key" in shown.stdout
    said = json.loads(invoke("report", bundle, "--json").stdout)
    assert said["summary"] == page.read(bundle)["summary"]
    assert [one["file"] for one in said["receipts"]["refused"]] == ["hand.json"]
    assert invoke("verify", bundle).returncode == 0
    assert [path.name for path in beside.iterdir()] == ["hand.json"], "only --open and bench write the page"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it has no report.json"),
        ("{", "is no whole JSON"),
        ("[]", "is no report"),
        ("{}", "is no report"),
        ('{"summary": {}}', "no report.md"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        page.text(tmp_path)


def test_what_an_older_report_lacks_is_named(measured):
    said = composed()
    del said["search_says"]
    page.write(composed(), measured)
    (measured / "report.json").write_text(json.dumps(said))
    with pytest.raises(EdgeKDError, match=r"older edgekd: 'search_says' is undefined"):
        page.write_page(measured)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0, "0"),
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (1e-5, "0.00001"),
        (-2.5e-7, "-0.00000025"),
        (999.6, "1,000"),
        (12.0, "12"),
    ],
)
def test_numbers_are_never_in_exponents(value, words):
    assert page.significant(value) == words
