"""A task unlike the house's own, the whole way: two graphs, ragged outputs, a metric that is better below and above 1.

The task, its teacher and two recipes are plug-ins of a package outside: `toy_notes.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from conftest import call_here, invoke, loose_target
from made_bundle import Board
from toy_notes import save_teacher, write_tunes

from edgekd.core import registry
from edgekd.devices.local import Local
from edgekd.security import child

CACHES = (registry.names, registry._outside, registry._all_outside)
OUTSIDE = [
    EntryPoint("notes", "toy_notes:Notes", "edgekd.tasks"),
    EntryPoint("tune_graphs", "toy_notes:TuneGraphs", "edgekd.teachers"),
    EntryPoint("hushed", "toy_notes:Hushed", "edgekd.quantizers"),
    EntryPoint("talkative", "toy_notes:Talkative", "edgekd.quantizers"),
]


@pytest.fixture(scope="module")
def outside():
    """A package that adds the task, its teacher and two recipes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda: EntryPoints(OUTSIDE))
        for cached in CACHES:
            cached.cache_clear()
        yield
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture(scope="module")
def lab(outside, tmp_path_factory):
    """`edgekd` for this task, in a store of its own."""
    folder = tmp_path_factory.mktemp("notes")

    class Lab:
        teacher, data = save_teacher(folder / "teacher"), write_tunes(folder / "tunes.jsonl", 240)
        env = {"EDGEKD_STORE": str(folder / "store")}

        def edgekd(self, *words):
            return invoke(*words, env=self.env)

        def words(self, name, recipes, rows=None, **floors):
            place = folder / name
            place.mkdir()
            return (
                "--target",
                loose_target(place, recipes=recipes, **floors),
                "--task",
                "notes",
                "--student",
                "none",
                "--teacher",
                self.teacher,
                "--data",
                rows or self.data,
                "--threads",
                "1",
                "--name",
                name,
            )

        def build(self, name, recipes, *words, **more):
            asked = self.words(name, recipes, **more)
            return self.edgekd("build", *asked, "--out", folder / name / f"{name}-loose", "--json", *words)

    return Lab()


@pytest.fixture(scope="module")
def here():
    """Jobs of the runner and what edgekd asks of children are done in this process: each takes milliseconds."""
    board = Board()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Local, "run", lambda self, mode, **job: board.run(mode, **job))
        patch.setattr(child, "call", call_here)
        yield


def shipped(done):
    """The folder of a build that went well, and its summary."""
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    return Path(said["bundle"]), said["summary"]


@pytest.fixture(scope="module")
def better(lab, here):
    """Of its recipes one makes fewer errors than the teacher, in less time."""
    return shipped(lab.build("better", ["float32", "dynamic_int8", "static_int8", "hushed"]))


@pytest.fixture(scope="module")
def plain(lab, here):
    """The teacher's own graphs."""
    return shipped(lab.build("plain", ["float32"]))


def page(bundle, name):
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", (bundle / name).read_text(encoding="utf-8"), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("&nbsp;", " ").split())


def test_what_is_better_than_its_teacher_ships_and_says_so(better):
    bundle, said = better
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    summary = report["summary"]
    assert {key: said[key] for key in ("metric", "higher_is_better", "task")} == {
        "metric": "note_error_rate",
        "higher_is_better": False,
        "task": "notes",
    }
    assert summary["shipped"]["recipe"] == "hushed"
    assert summary["teacher"]["metric_value"] == pytest.approx(2.0, abs=0.1)
    assert summary["shipped"]["metric_value"] < 1
    assert summary["retained"] == pytest.approx(
        summary["teacher"]["metric_value"] / summary["shipped"]["metric_value"], abs=1e-6
    )
    assert summary["retained_interval"][0] > 1
    assert "better than the teacher by note_error_rate, " in summary["verdict"]
    assert " against 200.0% (less is better): keeps " in summary["verdict"]
    assert "points gained" in report["choice"]["why"]
    assert report["floors"]["held"][0]["held"]


def test_recipes_are_tried_on_both_graphs_and_judged_by_their_errors(better):
    bundle, _ = better
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    trials = {one["name"]: one for one in report["trials"]}
    assert not [one["failed"] for one in trials.values() if one["failed"]]
    assert {"dynamic_int8", "static_int8", "dynamic_int8-float32_encoder_model"} <= set(trials)
    assert trials["hushed"]["said"] == "stays float32: encoder_model"
    assert trials["hushed"]["drop_points"] < -100
    assert abs(trials["dynamic_int8"]["drop_points"]) < 10
    assert trials["dynamic_int8"]["artifact_mib"] < trials["float32"]["artifact_mib"]
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert {name: one["recipe"] for name, one in manifest["model"]["graphs"].items()} == {
        "encoder_model": "float32",
        "decoder_model": "hushed",
    }
    assert manifest["model"]["outputs"] == {"notes": "as_is"}


def test_its_papers_know_that_less_is_better(better):
    bundle, _ = better
    text = (bundle / "report.md").read_text(encoding="utf-8")
    assert "Baseline: always the note that is played most often. Of note_error_rate less is better.\n" in text
    assert "beats the shipped model" not in text, "88% against 66%"
    html = page(bundle, "report.html")
    assert "Quality retained" in html
    assert "points better than the teacher" in html
    assert "Further up is worse" in html
    assert "of the teacher's quality." in html
    assert "baseline beats" not in html
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "It turns short tunes into the notes that were played, offline" in card
    assert "config.json" not in card, "there is none"
    bom = json.loads((bundle / "sbom.cdx.json").read_text(encoding="utf-8"))
    kinds = {
        one["type"] for one in bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert {"note_error_rate", "mean share of notes shared with the teacher"} <= kinds


def test_the_picture_reaches_above_one(plain):
    text = (plain[0] / "report.html").read_text(encoding="utf-8")
    circles = re.findall(r'<circle[^>]*cy="([-\d.]+)"', text)
    assert circles
    assert all(float(y) > 0 for y in circles), "the teacher's 200% lies inside"
    assert ">200%</text>" in text or ">210%</text>" in text or ">220%</text>" in text


def test_the_cards_words_run(better, monkeypatch, capsys):
    bundle, _ = better
    code = (bundle / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(bundle.parent)
    exec(compile(code, "card", "exec"), {})
    assert re.fullmatch(r"\[[\d ]+\]\n", capsys.readouterr().out)


def test_it_verifies_alone(better):
    bundle, _ = better
    done = subprocess.run([sys.executable, "-B", bundle / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "onnx/encoder_model.onnx, onnx/decoder_model_hushed.onnx loads and runs" in done.stdout
    expected = np.load(bundle / "golden" / "expected.npz")
    lengths = {expected[key].shape for key in expected}
    assert len(lengths) > 3, "as long as each tune asks for"


def test_a_device_gives_a_receipt_of_whole_numbers(lab, better):
    bundle, _ = better
    done = lab.edgekd("bench", bundle, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["golden"] == {
        "within_tolerance": True,
        "flips": said["golden"]["flips"],
        "says": said["golden"]["says"],
    }
    assert said["accuracy_of"] == "golden inputs, all of what the float32 model gives"
    assert said["accuracy"] == pytest.approx(1 - said["golden"]["flips"] / said["accuracy_n"])


def test_a_receipt_on_labelled_rows_has_the_tasks_own_metric(lab, plain):
    bundle, _ = plain
    done = lab.edgekd("bench", bundle, "--data", lab.data, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["accuracy_of"] == "note_error_rate, labels of tunes.jsonl"
    assert said["accuracy"] == pytest.approx(2.0, abs=0.1)
    told = lab.edgekd("report", bundle)
    assert told.returncode == 0, told.stderr
    assert "note_error_rate, labels of tunes.jsonl" in told.stdout
    assert "Receipts from devices" in told.stdout
    assert "refused" not in told.stdout.lower()


def test_two_bundles_are_compared_on_tunes_of_the_same_lengths(lab, better, plain):
    done = lab.edgekd("compare", plain[0], better[0], "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert [one["metric"] for one in said["sides"]] == ["note_error_rate"] * 2
    assert said["verdicts"][0]["verdict"] == "faster"


def test_what_makes_more_errors_is_refused_by_the_floors(lab, here):
    bundle, said = shipped(lab.build("held", ["float32", "talkative"]))
    assert said["shipped"]["recipe"] == "float32"
    why = json.loads((bundle / "report.json").read_text(encoding="utf-8"))["choice"]["passed_over"]["talkative"]
    assert re.fullmatch(r"loses \d\d\.\d points > 20 allowed", why)
    done = lab.build("worse", ["float32", "talkative"], max_drop_points=100.0)
    assert done.returncode == 5
    told = json.loads(done.stdout)
    assert re.match(
        r"talkative is worse than the teacher by note_error_rate, 2\d\d\.\d% against 200\.0% \(less is better\): "
        r"keeps [78]\d\.\d% \[.*\] of its quality, less than the 90\.0% asked for",
        told["error"],
    )
    done = lab.build("forced", ["float32"], "--force", "talkative")
    _, said = shipped(done)
    assert "worse than the teacher by note_error_rate" in said["verdict"]
    assert said["retained"] < 0.9


def test_the_fix_of_the_floor_works(lab, here):
    _, said = shipped(lab.build("lowered", ["float32", "talkative"], "--min-retained", "0.7", max_drop_points=100.0))
    assert said["shipped"]["recipe"] == "talkative"


def test_rows_without_notes_are_judged_by_the_teacher(lab, here, tmp_path):
    rows = write_tunes(tmp_path / "heard.jsonl", 120, labelled=False)
    done = lab.build("unknown", ["float32", "talkative"], rows=rows)
    assert done.returncode == 5
    assert re.match(
        r"talkative keeps 8\d\.\d% \[.*\] of its teacher's same_notes, less than", json.loads(done.stdout)["error"]
    )
    bundle, said = shipped(lab.build("known", ["float32", "talkative"], "--min-retained", "0.7", rows=rows))
    assert (said["metric"], said["higher_is_better"]) == ("same_notes", True)
    assert re.search(r"has [\d.]+% \[[\d., ]+\] mean share of notes shared with the teacher", said["verdict"])
    assert "less is better" not in (bundle / "report.md").read_text(encoding="utf-8")


def test_the_plan_names_what_it_is_picked_by(lab):
    done = lab.edgekd("plan", *lab.words("planned", ["float32", "dynamic_int8"]))
    assert done.returncode == 0, done.stderr
    assert "picked by note_error_rate on validation rows" in done.stdout
    assert "classes" not in done.stdout, "a tune's notes are no class"


def test_no_student_is_cut_from_graphs(lab):
    words = [one if one != "none" else "transformer" for one in lab.words("student", ["float32"])]
    done = lab.edgekd("plan", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no family of students serves notes" in done.stderr


@pytest.mark.slow
def test_the_same_in_fresh_processes(lab):
    bundle, said = shipped(lab.build("processes", ["float32", "static_int8", "hushed"]))
    assert said["shipped"]["recipe"] == "hushed"
    done = lab.edgekd("bench", bundle, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
