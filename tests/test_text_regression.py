"""Texts with numbers: what is read, which teachers are taken, how numbers are scaled, and what an error is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import loose_target, write_csv
from foreign_weights import classifier, configure
from helpers import profile
from onnx_files import FLOAT, HIDDEN, INT, ROWS, beside, exported, model_of, node, refused, value, weights

from edgekd.compression.choose import Trial, violations
from edgekd.core.errors import DataError, TeacherError, UsageError
from edgekd.core.protocols import REGRESSION
from edgekd.core.registry import make, sibling_task
from edgekd.core.tensors import Outputs, Targets
from edgekd.data import orders
from edgekd.data.given import read_given
from edgekd.data.numbers import Numbers, bins, check_numbers
from edgekd.data.pairs import Pair
from edgekd.data.splits import Example, split
from edgekd.data.strata import stratified
from edgekd.inference.export import completed
from edgekd.losses.hard_labels import HardLabels
from edgekd.losses.response import Response
from edgekd.plan.planning import Options, make_plan
from edgekd.teachers.huggingface import Huggingface
from edgekd.training import models, scored

TASK, TEXT = "text-regression", "text-classification"
SHADES = {"red": 1.0, "green": 2.5, "blue": 4.0}
OTHERS = ("cat", "dog", "horse", "bread", "rice", "soup", "people", "kind")


def rows(count: int) -> list[tuple[str, ...]]:
    """Distinct sentences with a number that follows from a word, and another that is a thousand times as large."""
    texts = [f"{shade} {one} like {two}" for shade in SHADES for one in OTHERS for two in OTHERS]
    made = [(text, f"{SHADES[text.split()[0]]:g}", f"{1000 * SHADES[text.split()[0]]:g}") for text in texts]
    return made[:: max(1, len(made) // count)][:count]


HEADER = ("text", "score", "price")


def read(path: Path, *, labelled: bool = True, **columns: str):
    return read_given(make("tasks", TASK, **columns), str(path), None, classes=None, labelled=labelled)


# what is read


def test_one_target_or_several(tmp_path):
    path = write_csv(tmp_path / "rows.csv", rows(20), HEADER)
    given, columns, _ = read(path)
    assert given["all"][0].label == (1.0,)
    assert (columns.read.label, columns.read.left_out) == ("score", ("price",))
    given, columns, _ = read(path, label_column="score, price")
    assert given["all"][0].label == (1.0, 1000.0)
    assert given["all"][0].label.names == ("score", "price")
    lists = tmp_path / "rows.jsonl"
    lists.write_text("".join(json.dumps({"text": text, "score": [1, 2.5]}) + "\n" for text, *_ in rows(4)))
    given, *_ = read(lists)
    assert given["all"][0].label == (1.0, 2.5)
    assert given["all"][0].label.names == ("score 1", "score 2")


def test_rows_without_a_number_are_unlabelled(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "red", "score": 1}\n{"text": "blue", "score": null}\n{"text": "green"}\n')
    assert [row.label for row in read(path)[0]["all"]] == [(1.0,), None, None]
    path.write_text('{"text": "red"}\n')
    assert read(path, labelled=False)[1].label == ""


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("NaN", "row 2: the target 'score' is nan"),
        ("Infinity", "row 2: the target 'score' is inf"),
        ("1e300", "row 2: the target 'score' is 1e\\+300"),
        ('"good"', "row 2: the target 'score' is 'good', which is no number"),
        ('{"a": 1}', "row 2: the target 'score' is"),
        ("[]", "row 2: the target 'score' is an empty list"),
        ("[1, null]", "row 2: the target 'score 2' is missing"),
    ],
)
def test_what_is_no_number_is_refused_by_its_row(tmp_path, cell, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "red", "score": 1}}\n{{"text": "blue", "score": {cell}}}\n')
    with pytest.raises(DataError, match=message) as refusal:
        read(path)
    assert refusal.value.fix


def examples(count: int, *values: float) -> list[Example]:
    given = values or tuple(range(count))
    return [Example(f"text {n}", Numbers.of([float(given[n % len(given)])], ["score"])) for n in range(count)]


def test_targets_that_teach_nothing_are_refused():
    with pytest.raises(DataError, match=r"the target 'score' is 3 in all .* training rows: there is nothing to learn"):
        split({"all": examples(60, 3.0)}, labels=None, seed=0)
    with pytest.raises(DataError, match="the teacher gives 2 numbers; the rows have 1 targets"):
        split({"all": examples(60)}, labels=None, seed=0, classes=("a", "b"))
    uneven = [*examples(9), Example("more", Numbers.of([1.0, 2.0], ["a", "b"]))]
    with pytest.raises(DataError, match="rows have 1 and 2 targets"):
        check_numbers(uneven)
    splits = split({"all": examples(120)}, labels=40, seed=0)
    assert splits.classes == ("score",)
    assert not any("one label alone" in note for note in splits.notes)


def test_each_tenth_of_the_values_has_its_share():
    given = examples(200)
    kept = sorted(row.label[0] for row in stratified(given, 40, seed=0))
    assert len(kept) == 40
    assert all(3 <= sum(20 * tenth <= value < 20 * (tenth + 1) for value in kept) <= 5 for tenth in range(10))
    assert bins([(1.0,), (1.0,), (2.0,)]) == ["0", "0", "6"], "equal values are in one"


# teachers


def test_problem_types_decide_which_task_takes_a_folder(tmp_path):
    one = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    cross_encoder = classifier(tmp_path / "one", **one)
    assert Huggingface().inspect(str(cross_encoder), TASK)["labels"] == ("LABEL_0",)
    several = classifier(tmp_path / "three", problem_type=REGRESSION)
    assert len(Huggingface().inspect(str(several), TASK)["labels"]) == 3
    with pytest.raises(TeacherError, match="does not name one of several classes") as why:
        Huggingface().inspect(str(cross_encoder), TEXT)
    assert f"one that gives numbers (scores, ratings) for --task {TASK}" in why.value.fix
    plain = classifier(tmp_path / "plain")
    with pytest.raises(TeacherError, match=r"does not give numbers: its config.json says no problem_type") as why:
        Huggingface().inspect(str(plain), TASK)
    assert f"is for --task {TEXT}" in why.value.fix
    configure(plain, problem_type=REGRESSION)
    assert Huggingface().inspect(str(plain), TASK)["ready"], "the fix, obeyed"
    configure(plain, problem_type="multi_label_classification")
    with pytest.raises(TeacherError, match="says problem_type multi_label_classification"):
        Huggingface().inspect(str(plain), TASK)
    assert sibling_task("text", REGRESSION) == TASK


def test_an_onnx_file_may_give_one_value_and_keeps_its_sigmoid(tmp_path):
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("ReduceMean", ["rows"], ["pooled"], axes=[1], keepdims=0),
        node("MatMul", ["pooled", "head"], ["score"]),
        node("Sigmoid", ["score"], ["share"]),
    ]
    constants = {"table": weights(ROWS, HIDDEN), "head": weights(HIDDEN, 1)}
    inputs = [value("input_ids", INT, ["batch", "tokens"])]
    model = model_of(nodes, inputs, [value("share", FLOAT, ["batch", 1])], constants)
    beside(tmp_path, problem_type=REGRESSION, model_type="bert")
    onnx.save(model, tmp_path / "model.onnx")
    made = exported(tmp_path / "model.onnx", TASK, tmp_path / "out.onnx")
    assert [one.op_type for one in made.graph.node][-1] == "Sigmoid"
    assert [one.name for one in made.graph.output] == ["logits"]
    assert "does not name one of several classes" in refused(tmp_path / "model.onnx", TEXT)


def test_a_bundle_says_that_its_outputs_are_numbers():
    config = {"model_type": "bert", "id2label": {"0": "LABEL_0"}}
    assert completed(config, "text", (), REGRESSION)["problem_type"] == REGRESSION
    assert completed(config | {"problem_type": REGRESSION}, "text", (), REGRESSION) == {}


def test_a_loss_of_classes_is_refused_while_planning(tmp_path):
    teacher = classifier(tmp_path / "teacher", problem_type=REGRESSION)
    data = write_csv(tmp_path / "rows.csv", rows(120), HEADER)
    said = {"task": TASK, "teacher": str(teacher), "data": str(data), "label_column": "score"}
    with pytest.raises(DataError, match="the teacher gives 3 numbers; the rows have 1 targets"):
        make_plan(Options(str(loose_target(tmp_path)), **said))
    one = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": REGRESSION}
    said["teacher"] = str(classifier(tmp_path / "one", **one))
    with pytest.raises(UsageError, match=r"the loss decoupled weighs the right class .* numbers have no classes"):
        make_plan(Options(str(loose_target(tmp_path)), **said, losses=("decoupled=1",)))
    plan, splits = make_plan(Options(str(loose_target(tmp_path)), **said))
    assert plan.metric.name == "relative_mae"
    assert splits.classes == ("LABEL_0",)


def test_without_a_student_rows_of_other_targets_are_refused(tmp_path):
    teacher = classifier(tmp_path / "teacher", problem_type=REGRESSION)
    data = write_csv(tmp_path / "rows.csv", rows(120), HEADER)
    said = {"task": TASK, "teacher": str(teacher), "data": str(data), "student": "none"}
    with pytest.raises(DataError, match="the teacher gives 3 numbers; the rows have 1 targets"):
        make_plan(Options(str(loose_target(tmp_path)), **said))


# how numbers are learned


def test_losses_are_squared_differences_of_what_is_known():
    outputs = Outputs(torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True))
    labels = torch.tensor([[0.0, math.nan], [3.0, 2.0]])
    targets = Targets(Outputs(torch.zeros(2, 2)), labels)
    assert targets.numeric
    assert not targets.independent
    loss = HardLabels()(outputs, targets)
    assert loss.item() == pytest.approx((1 + 0 + 4) / 3)
    loss.backward()
    assert torch.isfinite(outputs.logits.grad).all(), "a row without a number teaches nothing"
    assert Response()(outputs, targets).item() == pytest.approx((1 + 4 + 9 + 16) / 4)
    nothing = Targets(None, torch.full((2, 2), math.nan))
    assert HardLabels()(outputs, nothing).item() == 0.0


def test_the_scale_is_folded_into_the_last_layer(tmp_path):
    folder = classifier(tmp_path / "teacher", problem_type=None)
    model = models.load(folder, TEXT)
    task = make("tasks", TASK)
    values = np.array([[1.0, 10.0, 5.0], [3.0, 30.0, 5.0], [np.nan] * 3], dtype=np.float32)
    scale = scored.Scale.of(task, values)
    assert scale.mean == (2.0, 20.0, 5.0)
    assert scale.spread == (1.0, 10.0, 1.0)
    samples = task.encode(folder, ["red cat", "blue soup"], 32)
    before = scored.said(model, samples, task)
    wanted = scale.unscaled(before).metric_input
    scale.fold(model)
    after = scored.said(model, samples, task).metric_input
    np.testing.assert_allclose(after, wanted, rtol=1e-5)
    assert model.config.problem_type == REGRESSION
    assert torch.allclose(scale.scaled(torch.tensor(after)), torch.tensor(before.metric_input), atol=1e-5)
    scale.fold(model, undo=True)
    np.testing.assert_allclose(scored.said(model, samples, task).metric_input, before.metric_input, atol=1e-5)
    assert scored.Scale.of(make("tasks", TEXT), np.zeros(3)) == scored.Scale()
    unscaled = torch.zeros(3)
    assert scored.Scale().scaled(unscaled) is unscaled


# errors, of which less is better


def test_the_error_is_a_share_of_the_means():
    task = make("tasks", TASK)
    truth = np.array([[1.0], [2.0], [3.0], [6.0]], dtype=np.float32)
    metric = task.metric
    assert metric.value(task.statistics(truth, truth)) == 0.0
    mean = np.full_like(truth, truth.mean())
    assert metric.value(task.statistics(mean, truth)) == pytest.approx(1.0)
    far = task.statistics(truth + 6, truth)
    assert metric.value(far) == pytest.approx(6 / 1.5), "it may be above 1"
    two = np.concatenate([truth, 1000 * truth], axis=1)
    worse = two + np.array([0, 1500])
    assert metric.value(task.statistics(worse, two)) == pytest.approx(0.5), "targets weigh the same in any unit"
    kept = metric.retained(task.statistics(mean, truth), task.statistics(truth + 0.75, truth))
    assert kept.value == pytest.approx(0.5)
    lost = metric.lost(task.statistics(mean, truth), task.statistics(truth, truth))
    assert lost.points == pytest.approx(100.0)


def test_agreement_is_r2_to_the_teachers_numbers():
    task = make("tasks", TASK)
    reference = np.random.default_rng(0).normal(5, 2, (200, 2))
    agree = task.fidelity
    assert agree.value(task.agrees(reference, reference)) == 1.0
    near = reference + np.random.default_rng(1).normal(0, 0.2, reference.shape)
    assert agree.value(task.agrees(near, reference)) == pytest.approx(0.99, abs=0.01)
    assert agree.value(task.agrees(np.full_like(reference, 5.0), reference)) < 0.02
    assert agree.value(task.agrees(-100 * reference, reference)) == 0.0
    low, high = agree.interval(task.agrees(near, reference))
    assert low < agree.value(task.agrees(near, reference)) < high


def test_int8_that_says_one_number_is_not_let_through():
    task = make("tasks", TASK)
    reference = np.random.default_rng(0).normal(5, 2, (80, 1))
    constant = np.full_like(reference, 5.0)
    agreed = task.agrees(constant, reference)
    lost = task.metric.lost(task.statistics(constant, reference), task.statistics(reference, reference))
    trial = Trial("static_int8", task.fidelity.value(agreed), lost.points, 3.0, 1.0, 1.0, 1.0)
    told = [violation.text for violation in violations(trial, profile())]
    assert any("points > " in text for text in told)
    assert any("agreement with the teacher" in text for text in told)
    with pytest.raises(TeacherError, match="gives one and the same number for all 80 selection rows"):
        orders.check_varies("mine", constant)
    orders.check_varies("mine", reference)


def test_figures_are_in_the_targets_own_unit():
    task = make("tasks", TASK)
    truth = np.array([[1.0], [2.0], [3.0], [6.0]])
    [told] = task.figures(truth * 2, truth, ["stars"])
    assert told["mae"] == pytest.approx(3.0)
    assert told["spearman"] == pytest.approx(1.0)
    assert told["r2"] == pytest.approx(1 - (1 + 4 + 9 + 36) / 14)
    [constant] = task.figures(np.zeros_like(truth), truth, ["stars"])
    assert constant["spearman"] is None


def test_the_baseline_is_a_ridge_regression():
    task = make("tasks", TASK)
    given = [Example(text, Numbers.of([float(score)], ["score"])) for text, score, _ in rows(150)]
    value = task.metric.value(task.baseline(given[::2], given[1::2], 0))
    assert value < 0.3


def test_pairs_have_numbers_too(tmp_path):
    path = write_csv(tmp_path / "rows.csv", [("red", "blue", "0.5")] * 3, ("question", "passage", "relevance"))
    given, *_ = read(path, text_pair_column="passage")
    assert isinstance(given["all"][0].input, Pair)
    assert given["all"][0].label == (0.5,)
