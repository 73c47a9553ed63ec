"""Texts with several labels, the whole way: to a bundle, opened by other clients, which decide what it decides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Once, loose_target, run, write_csv
from helpers import python
from label_texts import LABELS, joined, label_texts
from test_multi_label_task import TASK

from edgekd.core.protocols import MULTI_LABEL, NullProgress
from edgekd.core.registry import make
from edgekd.onboard.runner import open_session
from edgekd.plan.plan import Plan
from edgekd.plan.planning import Options, make_plan
from edgekd.stages import Stages
from edgekd.store.store import Store
from edgekd.training import distill, engine, models

SCRIPT = Path(__file__).parent / "node" / "labels.mjs"
DTYPES = {"model.onnx": "fp32", "model_fp16.onnx": "fp16", "model_quantized.onnx": "q8"}
TEXTS = [text for text, _ in label_texts(40, seed=77)]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(once: Once) -> Path:
    return (
        once("label-rows", lambda place: write_csv(place / "rows.csv", joined(label_texts(900, seed=1)))) / "rows.csv"
    )


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, rows: Path, store: Path, once: Once) -> Path:
    def build(folder: Path) -> None:
        done = run(
            "build",
            "--target",
            loose_target(folder),
            "--task",
            TASK,
            "--teacher",
            tiny_teacher,
            "--data",
            rows,
            "--out",
            folder / "several",
            *TINY,
            "--json",
        )
        assert done.returncode == 0, done.stderr

    return once("several-labels", build) / "several"


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def model_of(folder: Path) -> Path:
    return next((folder / "onnx").glob("*.onnx"))


def decisions(folder: Path, texts: list[str]) -> list[list[str]]:
    """What the bundle's graph decides of each text: labels above 0."""
    names = json.loads((folder / "config.json").read_text())["id2label"]
    session = open_session(str(model_of(folder)), threads=1)
    found = []
    for sample in make("tasks", TASK).encode(folder, texts, 64):
        logits = session.run(["logits"], {node.name: sample[node.name] for node in session.get_inputs()})[0][0]
        found.append([names[str(number)] for number in np.flatnonzero(logits > 0)])
    return found


def test_the_report_is_of_micro_f1_and_says_where_labels_are_decided(bundle: Path) -> None:
    said = report(bundle)
    summary = said["summary"]
    assert summary["metric"] == "micro_f1"
    assert summary["shipped"]["metric_value"] > 0.75
    assert summary["baseline"]["metric_value"] > 0.75
    assert summary["retained"] > 0.5
    assert said["quality"]["fidelity"]["name"] == "decision_f1"
    assert said["confidence"] is None
    assert summary["threshold"] is None
    thresholds = said["thresholds"]
    assert [row["name"] for row in thresholds["labels"]] == list(LABELS)
    assert thresholds["fitted_on"] == "labels"
    assert {row["name"] for row in said["classes"]["rows"]} == set(LABELS)
    for name in ("report.md", "report.html"):
        text = (bundle / name).read_text(encoding="utf-8")
        assert "Where is a label decided?" in text
        assert "micro F1 to the decisions of" in text
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "It knows 3 labels and answers with those whose probability is above one half" in card
    assert "top_k: null" in card
    done = subprocess.run([sys.executable, bundle / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((bundle / "manifest.json").read_text())["fidelity"] == "decision_f1"


def test_the_bundle_decides_what_the_texts_have(bundle: Path) -> None:
    wanted = dict(label_texts(40, seed=77))
    found = decisions(bundle, TEXTS)
    right = sum(len(set(own) & set(wanted[text])) for text, own in zip(TEXTS, found, strict=True))
    whole = sum(len(own) + len(wanted[text]) for text, own in zip(TEXTS, found, strict=True))
    assert 2 * right / whole > 0.7


_PIPELINE = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

folder, file, texts = sys.argv[1:]
model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name=file)
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None)
named = [sorted(one["label"] for one in row if one["score"] > 0.5) for row in classify(json.loads(texts))]
print(json.dumps([model.config.problem_type, named]))
"""


def test_optimum_and_its_pipeline_decide_the_same_by_a_sigmoid(bundle: Path) -> None:
    """In a process of its own, as users do it: the pipeline imports packages whose warnings would be errors here."""
    done = python(_PIPELINE, str(bundle), model_of(bundle).name, json.dumps(TEXTS))
    assert done.returncode == 0, done.stderr
    kind, theirs = json.loads(done.stdout.splitlines()[-1])
    assert kind == MULTI_LABEL
    assert theirs == decisions(bundle, TEXTS)
    assert any(len(one) != 1 for one in theirs), "several or none: no softmax names those"


@pytest.mark.node
def test_transformers_js_decides_the_same(bundle: Path, tmp_path: Path) -> None:
    command = shutil.which("node")
    if command is None or not (SCRIPT.parent / "node_modules").is_dir():
        pytest.fail("node lacks") if os.environ.get("CI") else pytest.skip("node, or `make node`, lacks")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    words = [
        command,
        str(SCRIPT),
        str(bundle.parent),
        bundle.name,
        DTYPES[model_of(bundle).name],
        str(tmp_path / "texts.json"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == decisions(bundle, TEXTS)


def test_a_receipt_of_labelled_rows_is_of_micro_f1(bundle: Path, tmp_path: Path) -> None:
    own = tmp_path / "several"
    shutil.copytree(bundle, own)
    data = write_csv(tmp_path / "more.csv", joined(label_texts(60, seed=50), "|"))
    done = run("bench", own, "--device", "local", "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "several.receipts").glob("*.json")
    receipt = json.loads(file.read_text())
    assert receipt["accuracy_of"] == "labels of more.csv"
    assert receipt["accuracy"] > 0.7
    strange = write_csv(tmp_path / "strange.csv", [("what is this", "toy"), ("that", "food")])
    refused = run("bench", own, "--device", "local", "--data", strange)
    assert refused.returncode == 1
    assert "has the label 'toy', which several does not know" in refused.stderr


def ready_teacher(plan: Plan, splits: Any, store: Path) -> Path:
    """The teacher that a build trained, a ready model of several labels."""
    return Stages(plan, splits, Store(store), NullProgress(), {}).teacher()


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "without labels"])
def test_a_ready_teacher_compressed_as_it_is(
    tiny_teacher: Path, rows: Path, bundle: Path, store: Path, tmp_path: Path, labelled: bool
) -> None:
    options = Options(str(loose_target(tmp_path)), task=TASK, teacher=str(tiny_teacher), data=str(rows), threads=1)
    teacher = ready_teacher(*make_plan(options), store)
    data = rows
    if not labelled:
        data = write_csv(tmp_path / "raw.csv", [(text,) for text, _ in label_texts(300, seed=8)], ("text",))
    out = tmp_path / "bundle"
    done = run(
        "build",
        "--target",
        loose_target(tmp_path),
        "--task",
        TASK,
        "--student",
        "none",
        "--teacher",
        teacher,
        "--data",
        data,
        "--min-retained",
        "0.5",
        "--out",
        out,
        "--threads",
        "1",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = report(out)
    assert said["summary"]["metric"] == ("micro_f1" if labelled else "decision_f1")
    assert "as the model came: nothing was trained" in said["thresholds"]["says"]
    assert json.loads((out / "config.json").read_text())["problem_type"] == MULTI_LABEL
    if not labelled:
        assert "micro F1 to the decisions of the teacher" in said["summary"]["verdict"]


def test_without_labels_to_select_by_the_teachers_decisions_choose_thresholds(
    tiny_teacher: Path, rows: Path, store: Path, tmp_path: Path
) -> None:
    """And what is folded in is in the model's files: its own threshold is one half."""
    options = Options(
        str(loose_target(tmp_path)),
        task=TASK,
        teacher=str(tiny_teacher),
        data=str(rows),
        threads=1,
        labels=400,
        epochs=6,
        losses=("response=0.9", "hard_labels=0.1", "self_distillation=0.5"),
    )
    plan, splits = make_plan(options)
    survey = plan.student.survey
    shape = {"layers": 3, "hidden": 64, "heads": 4, "feed_forward": 128, "classes": 3}
    shape |= {"vocabulary": survey.vocabulary, "max_tokens": survey.max_size}
    stages = Stages(plan, splits, Store(store), NullProgress(), shape)
    student = stages.student(stages.teacher())
    said = distill.read(student, distill.CONFIDENCE)
    assert said["fitted_on"] == "teacher"
    assert len(said["logits"]) == 3
    told = distill.read(student, distill.TRAINING)
    assert told["selection_agreement"] > 0.5
    assert told["of_exits"]
    task = make("tasks", TASK)
    model = models.load(student, TASK)
    logits = engine.logits(model, task.encode(student, [row.input for row in splits.test], 64)).numpy()
    value = task.metric.value(task.statistics(logits, task.truth(splits.test, splits.classes)))
    assert value > 0.5
    assert model.config.problem_type == MULTI_LABEL
