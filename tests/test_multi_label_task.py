"""Texts with several labels: what is read, which teachers are taken, and how it is planned; builds are elsewhere."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import loose_target, write_csv
from foreign_weights import LABELS as NAMES
from foreign_weights import classifier, configure
from helpers import profile
from label_texts import LABELS, joined, label_texts
from onnx import helper
from onnx_files import TEXT, save, text_model

from edgekd.cli import show
from edgekd.compression.examine import Given, examine
from edgekd.core.errors import DataError, TeacherError, UsageError
from edgekd.core.protocols import MULTI_LABEL, NullProgress
from edgekd.core.registry import make, sibling_task
from edgekd.data.given import read_given
from edgekd.data.splits import split
from edgekd.exporters._onnx import finish
from edgekd.onboard.runner import open_session
from edgekd.plan.planning import Options, make_plan
from edgekd.teachers._onnx_inspect import look
from edgekd.teachers.huggingface import Huggingface
from edgekd.teachers.onnx_model import OnnxModel

TASK = "multi-label-text-classification"
SERIES = "time-series-classification"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("rows") / "rows.csv", joined(label_texts(300, seed=1)))


def planned(rows: Path, teacher: Path, folder: Path, **options: object):
    said = {"task": TASK, "teacher": str(teacher), "data": str(rows)} | options
    return make_plan(Options(str(loose_target(folder)), **said))


# what is read


FORMS = {
    "separated": lambda folder, rows: write_csv(folder / "rows.csv", joined(rows, "|")),
    "lists": lambda folder, rows: _jsonl(folder, [{"text": text, "tags": list(held)} for text, held in rows]),
    "columns": lambda folder, rows: write_csv(
        folder / "rows.csv",
        [(text, *(str(int(one in held)) for one in LABELS)) for text, held in rows],
        ("text", *LABELS),
    ),
    "vectors": lambda folder, rows: _jsonl(
        folder, [{"text": text, "labels": [int(one in held) for one in LABELS]} for text, held in rows]
    ),
}


def _jsonl(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_rows(form, tmp_path):
    wanted = label_texts(200, seed=3)
    path = FORMS[form](tmp_path, wanted)
    given, columns, notes = read_given(make("tasks", TASK), str(path), None, classes=LABELS, labelled=True)
    assert [(row.input, row.label) for row in given["all"]] == wanted
    assert notes[0].startswith("labels")
    assert columns.read.label in ("label", "tags", "labels", "animal, colour, food (0 or 1)")
    assert columns.read.left_out == ()


def test_columns_may_be_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,rude,new,label\none,1,1,x\ntwo,0,1,y\n")
    task = make("tasks", TASK, label_column="rude,new")
    given, columns, _ = read_given(task, str(path), None, classes=None, labelled=True)
    assert [row.label for row in given["all"]] == [("new", "rude"), ("new",)]
    assert columns.read.as_dict()["left_out"] == ["label"]
    with pytest.raises(DataError, match="has no column 'rude,old'") as refusal:
        read_given(make("tasks", TASK, label_column="rude,old"), str(path), None, classes=None, labelled=True)
    assert "rude" in refusal.value.fix


def test_rows_without_labels_and_texts_are_as_elsewhere(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "x", "labels": ["a"]}\n{"text": "y", "labels": null}\n{"text": "z", "labels": []}\n')
    given, _, _ = read_given(make("tasks", TASK), str(path), None, classes=None, labelled=True)
    assert [row.label for row in given["all"]] == [("a",), None, ()]
    path.write_text('{"text": "", "labels": ["a"]}\n')
    with pytest.raises(DataError, match="row 1: the text column 'text' holds"):
        read_given(make("tasks", TASK), str(path), None, classes=None, labelled=True)
    path.write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match="no label column by a usual name"):
        read_given(make("tasks", TASK), str(path), None, classes=None, labelled=True)
    given, columns, _ = read_given(make("tasks", TASK), str(path), None, classes=None, labelled=False)
    assert (given["all"][0].label, columns.label) == (None, "")


def test_ragged_rows_are_refused_by_number(tmp_path):
    path = _jsonl(tmp_path, [{"text": f"row {n}", "labels": [0, 1, 1][: 3 - n // 4]} for n in range(5)])
    with pytest.raises(DataError, match="row 5: the label has 2 values where others have 3"):
        read_given(make("tasks", TASK), str(path), None, classes=None, labelled=True)


def test_a_task_of_one_class_a_row_names_this_one(tmp_path):
    path = _jsonl(tmp_path, [{"text": f"row {n}", "label": ["a", "b"]} for n in range(20)])
    with pytest.raises(DataError, match="row 1: the label is") as refusal:
        read_given(make("tasks", TEXT), str(path), None, classes=None, labelled=True)
    assert f"--task {TASK}" in refusal.value.fix
    given, _, _ = read_given(make("tasks", TASK), str(path), None, classes=None, labelled=True)
    assert given["all"][0].label == ("a", "b"), "the fix, obeyed"
    assert sibling_task("series", MULTI_LABEL) == sibling_task("image", MULTI_LABEL) == ""


# which teachers are taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("several") / "teacher", problem_type=MULTI_LABEL)


def test_a_folder_that_says_so_is_taken_here_and_refused_there(folder):
    found = Huggingface().inspect(str(folder), TASK)
    assert found["ready"]
    assert found["labels"] == NAMES
    with pytest.raises(TeacherError, match="does not name one of several classes") as refusal:
        Huggingface().inspect(str(folder), TEXT)
    assert f"is for --task {TASK}" in refusal.value.fix


@pytest.mark.parametrize("said", ["single_label_classification", "regression", None])
def test_another_kind_is_refused_with_the_fix_that_works(said, tmp_path):
    folder = classifier(tmp_path / "teacher", problem_type=said)
    with pytest.raises(TeacherError, match="does not judge each of several labels by itself") as refusal:
        Huggingface().inspect(str(folder), TASK)
    assert f"is for --task {TEXT}" in refusal.value.fix
    if said != "regression":
        assert Huggingface().inspect(str(folder), TEXT)["ready"], "the one fix, obeyed"
    configure(folder, problem_type=MULTI_LABEL)
    assert Huggingface().inspect(str(folder), TASK)["ready"], "the other"


def test_a_sigmoid_in_the_config_says_it_too(tmp_path):
    folder = classifier(tmp_path / "teacher", function_to_apply="sigmoid")
    assert Huggingface().inspect(str(folder), TASK)["ready"]


def test_a_base_model_gets_a_head_whose_loss_is_of_each_label(tiny_teacher):
    found = Huggingface().inspect(str(tiny_teacher), TASK)
    assert not found["ready"]
    model = Huggingface().base(Path(found["folder"]), found["architecture"], TASK, ("a", "b"))
    assert model.config.problem_type == MULTI_LABEL


def test_another_set_of_labels_is_refused(folder, rows, tmp_path):
    strange = [(text, label.replace("food", "toy")) for text, label in joined(label_texts(300, seed=1))]
    path = write_csv(tmp_path / "rows.csv", strange)
    with pytest.raises(DataError, match="the training rows have labels that the teacher does not know: 'toy'"):
        planned(path, folder, tmp_path)
    plan, splits = planned(rows, folder, tmp_path)
    assert splits.classes == NAMES == plan.teacher.labels


def with_end(*operators: str) -> onnx.ModelProto:
    model = text_model()
    last = model.graph.output[0].name
    for number, kind in enumerate(operators):
        model.graph.node.append(helper.make_node(kind, [last], [f"after_{number}"]))
        last = f"after_{number}"
    model.graph.output[0].name = last
    return model


def written(folder: Path, model: onnx.ModelProto, **config: object) -> Path:
    path = save(folder, model)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize(
    "operators", [(), ("Sigmoid",), ("Sigmoid", "Identity")], ids=["logits", "sigmoid", "behind it more"]
)
def test_a_graph_gives_logits_whatever_its_end(operators, tmp_path):
    said = {"problem_type": MULTI_LABEL} if not operators else {}
    path = written(tmp_path, with_end(*operators), **said)
    found = OnnxModel().inspect(str(path), TASK)
    out = tmp_path / "out.onnx"
    OnnxModel().export(Path(found["folder"]), found["architecture"], TASK, out, partial(finish, target=profile()))
    assert "Sigmoid" not in {node.op_type for node in onnx.load(out).graph.node}
    feeds = {"input_ids": np.array([[4, 5, 6]]), "attention_mask": np.ones((1, 3), np.int64)}
    theirs, ours = (open_session(str(one), threads=1).run(None, feeds)[0] for one in (path, out))
    expected = 1 / (1 + np.exp(-ours)) if operators else ours
    np.testing.assert_allclose(theirs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("operators", "why"),
    [
        (("Softmax",), "ends in a softmax over all labels"),
        (("HardSigmoid",), "a sigmoid that cannot be left out"),
        (("Sigmoid", "Sigmoid"), "a sigmoid that cannot be left out"),
        ((), "says no problem_type"),
    ],
)
def test_a_graph_of_another_end_is_refused(operators, why, tmp_path):
    with pytest.raises(TeacherError, match=why):
        look(str(save(tmp_path, with_end(*operators))), TASK)


def test_a_graph_of_several_labels_is_refused_where_one_class_is_right(tmp_path):
    path = written(tmp_path, with_end(), problem_type=MULTI_LABEL)
    with pytest.raises(TeacherError, match="problem_type multi_label_classification") as refusal:
        look(str(path), TEXT)
    assert f"--task {TASK}" in refusal.value.fix
    assert look(str(path), TASK)["architecture"]["classes"] == 3, "the fix, obeyed"


def test_diagnose_takes_logits(tmp_path):
    path = written(tmp_path, with_end(), problem_type=MULTI_LABEL)
    data = write_csv(tmp_path / "rows.csv", [(one,) for one in ("abc", "cab", "bad", "dab", "ace")], ("text",))
    found = examine(Given(path, str(data), TASK, recipe="dynamic_int8", samples=2), NullProgress())
    assert 0 <= found["candidate"]["decision_f1"] <= 1
    path = written(tmp_path, with_end("Sigmoid"))
    with pytest.raises(TeacherError, match="ends in a sigmoid: its decisions"):
        examine(Given(path, str(data), TASK), NullProgress())


# how it is planned


def test_the_plan_says_what_was_read(rows, tiny_teacher, tmp_path, store):
    plan, _ = planned(rows, tiny_teacher, tmp_path)
    said = show.plan(plan)
    assert "labels of 'label': text parted by ';'; an empty cell is no label, [] is none of them" in said
    assert "3 labels" in said
    assert "picked by micro_f1 on validation rows" in said
    with pytest.raises(UsageError, match="of several labels a row none is the one"):
        planned(rows, tiny_teacher, tmp_path, losses=("decoupled=1",))


def test_few_labels_and_unlabelled_rows(rows, tiny_teacher, tmp_path):
    plan, splits = planned(rows, tiny_teacher, tmp_path, labels=40)
    assert len(splits.train) == 40
    assert {name for row in splits.train for name in row.names} == set(LABELS)
    assert not plan.data.selection_labelled
    assert plan.selected_by.name == "decision_f1"
    assert plan.metric.name == "micro_f1"


def test_there_are_no_default_teacher_and_data():
    with pytest.raises(UsageError, match="has no default teacher and data"):
        make_plan(Options("rpi4", task=TASK))


def test_a_label_that_no_test_row_has_is_no_obstacle():
    task, wanted = make("tasks", TASK), label_texts(300, seed=5)
    from edgekd.data.splits import Example

    given = {
        "train": [Example(text, (*held, "rare") if n < 5 else held) for n, (text, held) in enumerate(wanted)],
        "test": [Example(text, held) for text, held in label_texts(40, seed=99)],
    }
    splits = split(given, labels=None, seed=0)
    truth = task.truth(splits.test, splits.classes)
    assert truth[:, splits.classes.index("rare")].sum() == 0
    logits = np.where(truth == 1, 3.0, -3.0)
    assert task.metric.value(task.statistics(logits, truth)) == 1.0
    counts = task.baseline(splits.train, splits.test, 0)
    assert 0.8 < task.metric.value(counts) <= 1
    low, high = task.metric.interval(counts)
    assert low <= task.metric.value(counts) <= high


def test_kernels_that_decide_otherwise_are_counted_by_row():
    from edgekd.emulation.evaluate import _Scored

    task, random = make("tasks", TASK), np.random.default_rng(0)
    here = [{"logits": logits} for logits in random.normal(size=(40, 3))]
    there = [{"logits": row["logits"] + 1e-4} for row in here]
    there[0] = {"logits": -here[0]["logits"]}
    there[1] = {"logits": here[1]["logits"] * np.array([1.0, 1.0, -1.0])}
    scored = _Scored(task, there, here, here, None)
    assert scored.flips == 2, "rows, whatever number of labels differ in them"
    assert scored.metric is task.fidelity
    assert 0.9 < task.fidelity.value(scored.there) < 1
    assert task.fidelity.value(scored.here) == 1
    truth = np.array([(row["logits"] > 0).astype(np.int64) for row in here])
    assert _Scored(task, there, here, here, truth).metric is task.metric
