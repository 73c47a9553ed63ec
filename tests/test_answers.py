"""A teacher that only answers: its roles, its kept answers as probabilities, and the plan that is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from api_server import CLASSES, StandIn
from conftest import invoke, texts, write_csv

from edgekd.core.errors import TeacherError, UsageError
from edgekd.core.metrics import ACCURACY
from edgekd.core.protocols import StartingNetwork, Yardstick
from edgekd.core.registry import make, plugin, protocols_of
from edgekd.data import answers
from edgekd.data.splits import Example
from edgekd.inference import against_answers
from edgekd.labelling.answers import Reader
from edgekd.labelling.asked import asked_of
from edgekd.labelling.client import Reply
from edgekd.plan.options import Options
from edgekd.plan.planning import make_plan
from edgekd.report import api
from edgekd.report.api import break_even

WHO = {"provider": "api.example.com/v1", "model": "mini", "terms": {"date": "2026-11-30"}}


def kept(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> Path:
    """A folder as `edgekd label` leaves it."""
    folder.mkdir()
    for name, rows in (("train", train), ("test", test or [])):
        if rows:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = {"teacher": WHO, "classes": dict.fromkeys(CLASSES, ""), "figures": {"cost_usd": 0.5, "labelled": 2}}
    (folder / "provenance.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def asked(text: str, label: str | None, **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, "labelled_by": "api" if label else None, "probabilities": None} | more


def own(text: str, label: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, "labelled_by": "data"} | more


def of_texts(folder: Path, count: int = 120) -> Path:
    """Answers for rows of the tests' own vocabulary; people labelled the test."""
    rows = texts(count, seed=1)
    train = [asked(text, label) for text, label in rows[: count // 2]]
    test = [
        {"text": text, "label": label, "labelled_by": "data", "answer": label} for text, label in rows[count // 2 :]
    ]
    return kept(folder, [*train, asked("a row that it refused", None)], test)


def test_each_teacher_has_the_roles_that_it_can_fill():
    roles = {
        name: (issubclass(plugin("teachers", name), StartingNetwork), issubclass(plugin("teachers", name), Yardstick))
        for name in ("huggingface", "labels", "efficientnet_lite", "onnx_model", "answers")
    }
    assert roles == {
        "huggingface": (True, True),
        "labels": (True, True),
        "efficientnet_lite": (True, True),
        "onnx_model": (False, True),
        "answers": (False, False),
    }
    assert protocols_of("teachers", plugin("teachers", "onnx_model")) == ("Teacher", "Yardstick")


def test_half_a_role_is_told_by_what_it_lacks():
    half = type("Half", (), {"base": None, "files": None})
    assert protocols_of("teachers", half) == ("Teacher", "StartingNetwork")
    assert protocols_of("teachers", type("None", (), {"files": None})) == ("Teacher",), "what roles share tells of none"


def test_answers_are_read_with_who_gave_them(tmp_path):
    soft = {"animal": 0.9, "colour": 0.1, "food": 0.0}
    folder = kept(
        tmp_path / "answers",
        [
            asked("soft", "animal", probabilities=soft),
            asked("hard", "food"),
            asked("checked", "food", given_label="colour"),
            asked("refused", None),
            {"text": "own", "label": "colour", "labelled_by": "data"},
        ],
        [{"text": "test", "label": "animal", "labelled_by": "data", "answer": "colour"}],
    )
    found = answers.read(folder)
    assert found.hard == {"soft": "animal", "hard": "food", "checked": "food", "test": "colour"}
    assert found.checked == {("colour", "food"): 1}, "what the test says may change no training"
    assert found.labels == {"soft", "hard", "checked"}
    assert found.probabilities("soft").round(3).tolist() == [0.9, 0.1, 0.0]
    assert found.probabilities("soft").min() > 0
    assert found.probabilities("own", "colour").argmax() == 1
    assert found.probabilities("unknown").tolist() == [1 / 3] * 3
    inspected = make("teachers", "answers").inspect(str(folder), "text-classification")
    assert (inspected["name"], inspected["labels"], inspected["ready"]) == ("mini", CLASSES, True)
    assert inspected["licence"] == "terms of mini, api.example.com/v1: accepted on 2026-11-30"


def test_a_hard_label_is_as_sure_as_checked_rows_say(tmp_path):
    def smoothed(rows: list[dict[str, Any]]) -> list[float]:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        return list(answers.read(kept(place, [asked("x", "food"), *rows])).probabilities("x").round(2))

    assert smoothed([]) == [0.05, 0.05, 0.9], "nothing is known: nine in ten"
    right = [asked(f"right {number}", "food", given_label="food") for number in range(50)]
    assert smoothed(right)[2] > 0.97
    taken = [asked(f"colour {number}", "food", given_label="colour") for number in range(20)]
    low = smoothed([*right[:20], *taken])
    assert 0.4 < low[1] < low[2] < 0.6, "colours are often called food"
    assert low[0] < 0.05


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "provenance.json").unlink(), "provenance.json: No such file"),
        (lambda folder: (folder / "provenance.json").write_text("[]"), "holds no answers of a teacher"),
        (lambda folder: (folder / "provenance.json").write_text('{"teacher": {"model": ""}}'), "holds no answers"),
        (lambda folder: (folder / "train.jsonl").write_text('{"text": 1}\n'), "train.jsonl, line 1"),
        (lambda folder: (folder / "train.jsonl").write_text('{"text": "a", "label"'), "train.jsonl, line 1"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    folder = kept(tmp_path / "answers", [asked("x", "food")])
    damage(folder)
    with pytest.raises(TeacherError, match=message) as refusal:
        answers.read(folder)
    assert "edgekd label" in refusal.value.fix


def test_a_plan_of_kept_answers_starts_from_a_network_beside_them(tmp_path, tiny_teacher, store):
    folder = of_texts(tmp_path / "answers")
    plan, splits = make_plan(Options("rpi4", teacher="answers", base=str(tiny_teacher), data=str(folder)))
    assert (plan.teacher.name, plan.teacher.kind, plan.has_yardstick) == ("mini", "answers", False)
    assert plan.base is not None
    assert (plan.start, plan.base.kind, plan.start.folder) == (plan.base, "huggingface", str(tiny_teacher))
    assert plan.compared_with == "its own fp32"
    assert plan.student.min_speedup == 0
    assert plan.student.losses[0].name == "response"
    assert plan.student.training is not None
    rates = (plan.student.training.learning_rate, plan.student.training.head_factor)
    assert rates == (2e-4, 5.0), "of fine-tuning: the head is fresh"
    assert not splits.unlabelled, "nobody can be asked about them any more"
    assert "1 train row without an answer that names a class left out" in splits.notes
    assert plan.needs == {"logits"}
    assert plan.is_cut
    known = json.dumps(plan.as_dict())
    assert WHO["provider"] in known
    other = replace(plan.teacher, answered={"figures": {"cost_usd": 99.0}})
    assert replace(plan, teacher=other).digest == plan.digest, "what it cost decides nothing"
    assert replace(plan, base=replace(plan.base, sha256="0")).digest != plan.digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"min_speedup": 3.0}, "--min-speedup means nothing"),
        ({"evidence": 2}, "--evidence means nothing"),
        ({"labels": 10}, "--labels means nothing"),
        ({"unlabelled": "more.csv"}, "--unlabelled means nothing"),
        ({"augmentations": ("word_swap=1",)}, "--augment means nothing"),
        ({"max_cost": "1"}, "--max-cost means nothing here: no API is asked"),
        ({"student": "none"}, "--student none compresses a model that is there"),
        ({"data": None}, "whose answers"),
        ({"base": "labels"}, "--base labels: no student can start from that"),
        ({"base": "model.onnx"}, "no student can start from that"),
        ({"losses": ("hidden_states=1",)}, "needs features"),
    ],
)
def test_what_means_nothing_is_refused_and_its_fix_works(tmp_path, tiny_teacher, store, words, message):
    usual = Options("rpi4", teacher="answers", base=str(tiny_teacher), data=str(of_texts(tmp_path / "answers")))
    with pytest.raises(UsageError, match=message) as refusal:
        make_plan(replace(usual, **words))
    if "leave it out" in refusal.value.fix:
        make_plan(usual)


def test_answers_for_another_task_are_refused(tmp_path):
    folder = of_texts(tmp_path / "answers")
    said = json.loads((folder / "provenance.json").read_text()) | {"task": "multi-label-text-classification"}
    (folder / "provenance.json").write_text(json.dumps(said))
    with pytest.raises(TeacherError, match="are for multi-label-text-classification") as refusal:
        make("teachers", "answers").inspect(str(folder), "text-classification")
    assert "--task multi-label-text-classification" in refusal.value.fix


@pytest.mark.parametrize("own", [True, False])
def test_student_and_teacher_are_held_against_each_other_on_the_same_rows(tmp_path, own):
    names = [f"row {number}" for number in range(20)]
    test = [
        {"text": text, "label": "food", "labelled_by": "data", "answer": "food" if number < 9 else "colour"}
        for number, text in enumerate(names[:12])
    ]
    train = [asked(text, "food") for text in names[:12]]
    folder = kept(tmp_path / "answers", [asked("x", "food")] if own else train, test if own else [])
    plan: Any = SimpleNamespace(has_yardstick=False, teacher=SimpleNamespace(folder=str(folder)))
    splits: Any = SimpleNamespace(test=tuple(Example(text, "food") for text in names))
    truth = np.full(20, 2)
    rows = np.array([1.0] * 10 + [0.0] * 10)
    task = make("tasks", "text-classification")
    found = against_answers.compare(plan, splits, task, truth, {"float32": rows})
    assert found is not None
    assert (found["n"], found["of"], found["own_labels"]) == (12, 20, own)
    assert found["metric_value"] == pytest.approx(9 / 12 if own else 1.0)
    student = found["models"]["float32"]
    assert student["metric_value"] == pytest.approx(10 / 12), "on the same rows, not on all"
    assert student["retained"] == pytest.approx((10 / 12) / found["metric_value"])
    assert ACCURACY.value(rows) == 0.5
    few: Any = SimpleNamespace(test=splits.test[:4])
    assert against_answers.compare(plan, few, task, truth[:4], {"float32": rows[:4]}) is None
    plan.has_yardstick = True
    assert against_answers.compare(plan, splits, task, truth, {"float32": rows}) is None


@pytest.mark.parametrize(
    ("spent", "theirs", "own", "queries"),
    [(1.0, 100.0, 0.0, 10_000), (None, 100.0, 0.0, None), (1.0, None, 0.0, None), (1.0, 1.0, 2.0, None)],
)
def test_when_labels_have_paid_for_themselves(spent, theirs, own, queries):
    assert break_even(spent, theirs, own) == queries


def test_rows_with_several_labels_are_asked_about_and_read(tmp_path):
    """A prompt and a schema of its own; answers of one label, of several, and of none."""
    names = {0: (), 1: ("food",), 2: ("animal", "food")}
    rows = [(f"text {number}", "") for number in range(30)]
    rows += [(f"gold {number}", ";".join(names[number % 3]) or "colour") for number in range(60)]
    data = write_csv(tmp_path / "rows.csv", rows, ("text", "labels"))
    with StandIn() as server:
        server.answer = lambda text: names[int(text.split()[-1]) % 3]
        words = ["--task", "multi-label-text-classification", "--teacher", f"api:{server.url}", "--model", "mini"]
        words += ["--data", data, "--out", tmp_path / "answers", "--classes", ",".join(CLASSES), "--shots", "2"]
        done = invoke("label", *words, "--json")
        assert done.returncode == 0, done.stdout
        form = server.bodies[0]["response_format"]["json_schema"]["schema"]
        assert form["properties"]["labels"]["items"]["enum"] == list(CLASSES)
        assert '{"labels": [' in server.bodies[0]["messages"][2]["content"]
        assert "logprobs" not in server.bodies[0], "the first token tells nothing of a list"
    assert json.loads(done.stdout)["labelled"] == 30
    written = (tmp_path / "answers" / "train.jsonl").read_text().splitlines()
    kept_rows = {row["text"]: row for row in map(json.loads, written)}
    assert [kept_rows[f"text {number}"]["label"] for number in range(3)] == [[], ["food"], ["animal", "food"]]
    found = answers.read(tmp_path / "answers")
    assert found.several
    assert (found.logits("text 2") > 0).tolist() == [True, False, True]
    assert (found.logits("text 0") < 0).all()
    assert (found.logits("not asked", ("colour",)) > 0).tolist() == [False, True, False]
    assert found.decided["colour", True, False] > 0, "gold rows of the pilot tell that colours are missed"
    assert make("teachers", "answers").inspect(str(tmp_path / "answers"), "multi-label-text-classification")["ready"]


@pytest.mark.parametrize(
    ("content", "outcome", "label"),
    [
        ('{"labels": ["food", "animal"]}', "label", ("animal", "food")),
        ('{"labels": []}', "label", ()),
        ('Sure: ["Food", "food"]', "label", ("food",)),
        ('```json\n{"labels": ["colour"]}\n```', "label", ("colour",)),
        ('{"label": ["food"]}', "label", ("food",)),
        ('{"labels": ["food", "vehicle"]}', "off_list", None),
        ('{"labels": "food"}', "malformed", None),
        ("food", "malformed", None),
        ('{"labels": [["food"]]}', "malformed", None),
        ('<think>["food"]</think>{"labels": ["animal"]}', "label", ("animal",)),
    ],
)
def test_how_an_answer_of_several_labels_is_read(content, outcome, label):
    reply = Reply(content, "stop", "", None, "", (), {})
    found = Reader(CLASSES, several=True).read(reply)
    assert (found.outcome, found.label) == (outcome, label)


def test_two_texts_a_row_are_refused_before_anything_is_asked(tmp_path):
    options = Options("rpi4", teacher="api:http://127.0.0.1:1/v1", model="m", data="x.csv", text_pair_column="b")
    with pytest.raises(UsageError, match="one text a row"):
        asked_of(options, tmp_path)


def test_a_build_asks_nothing_where_its_words_are_refused(tmp_path, tiny_teacher, store):
    rows = write_csv(tmp_path / "rows.csv", [(f"text {number}",) for number in range(30)], ("text",))
    with StandIn() as server:
        words = [
            "--teacher",
            f"api:{server.url}",
            "--data",
            rows,
            "--classes",
            "a,b",
            "--answers",
            tmp_path / "answers",
        ]
        for more in (
            ["--target", "rpi4", "--base", tiny_teacher],
            ["--target", "nowhere", "--model", "mini", "--base", tiny_teacher],
            ["--target", "rpi4", "--model", "mini", "--base", tmp_path / "none"],
            ["--target", "rpi4", "--model", "mini", "--base", tiny_teacher, "--min-speedup", "3"],
            ["--target", "rpi4", "--model", "mini", "--base", tiny_teacher, "--concurrency", "0"],
        ):
            done = invoke("build", *words, *more, "--json")
            assert done.returncode in (1, 2), done.stdout
            assert json.loads(done.stdout)["fix"]
        assert server.requests == 0
    assert not (tmp_path / "answers").exists()


def test_a_ceiling_ends_a_build_with_8_and_names_the_build_from_what_there_is(tmp_path, tiny_teacher, store):
    rows = write_csv(tmp_path / "rows.csv", [(f"text {number}",) for number in range(30)], ("text",))
    with StandIn() as server:
        words = ["--teacher", f"api:{server.url}", "--model", "mini", "--data", rows, "--classes", ",".join(CLASSES)]
        words += ["--answers", tmp_path / "answers", "--base", tiny_teacher, "--target", "rpi4", "--max-requests", "12"]
        done = invoke("build", *words, "--json")
        assert (done.returncode, server.requests) == (8, 12)
    said = json.loads(done.stdout)
    assert "18 rows have no label yet" in said["error"]
    assert f"--teacher answers --data {tmp_path / 'answers'}" in said["fix"]
    rows_kept = (tmp_path / "answers" / "train.jsonl").read_text().splitlines()
    assert sum(json.loads(row)["labelled_by"] == "api" for row in rows_kept) == 12


def test_a_plan_shows_what_would_be_asked_and_asks_nothing(tmp_path, tiny_teacher, store):
    rows = write_csv(tmp_path / "rows.csv", [(f"text {number}",) for number in range(30)], ("text",))
    with StandIn() as server:
        words = ["--teacher", f"api:{server.url}", "--model", "mini", "--data", rows, "--classes", ",".join(CLASSES)]
        words += ["--answers", tmp_path / "answers", "--base", tiny_teacher, "--target", "rpi4"]
        done = invoke("plan", *words, "--json")
        assert (done.returncode, server.requests) == (0, 0)
        said = json.loads(done.stdout)
        assert (said["plan"], said["labelling"]["requests"]) == (None, 30)
        shown = invoke("plan", *words).stdout
        assert "You label texts for a classifier" in shown
        assert "planned once the rows are labelled" in shown


@pytest.mark.parametrize(
    ("of_test", "count", "accuracy", "holds"),
    [
        (0, 100, 0.9, True),
        (0, 100, 0.5, False),
        (50, 50, 0.9, None),  # the same rows once more
        (50, 70, 0.9, None),  # too few others
        (50, 150, 0.9, True),
        (50, 150, 0.6, False),  # 45 of the pilot's 50, and 45 of the other 100
        (20, 150, 0.9, None),
    ],
)
def test_a_pilot_is_confirmed_by_rows_that_were_not_its_own(of_test, count, accuracy, holds):
    pilot = {"rows": 50, "right": 45, "accuracy": 0.9, "low": 0.786, "high": 0.957, "test_rows": of_test}
    compared = {"n": count, "metric_value": accuracy, "own_labels": True}
    assert api._pilot(pilot, compared)["held"] is holds
