"""Plans of `--student none`: what is refused, who sees which row, and what the plan says of the teacher itself."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import texts, write_csv
from helpers import fast, random_weights
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.cli import show
from edgekd.core.errors import DataError, EdgeKDError, TeacherError, UsageError
from edgekd.core.registry import make
from edgekd.data.splits import Example
from edgekd.data.untrained import split_untrained
from edgekd.plan.inputs import read_splits
from edgekd.plan.plan import Plan
from edgekd.plan.planning import Options, make_plan
from edgekd.students.convnet import Convnet

LABELS = ("animal", "colour", "food")


@pytest.fixture(scope="module")
def classifier(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher with a head for the tiny data's classes."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("ready") / "classifier"
    shutil.copytree(tiny_teacher, folder)
    names = dict(enumerate(LABELS))
    AutoModelForSequenceClassification.from_pretrained(
        tiny_teacher, num_labels=3, id2label=names, label2id={name: number for number, name in names.items()}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def without_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts and no column of labels."""
    return write_csv(
        tmp_path_factory.mktemp("bare") / "raw.csv", [(text,) for text, _ in texts(400, seed=3)], ("text",)
    )


def planned(teacher: Path, data: Path, **more: object) -> Plan:
    return make_plan(Options("cpu-vnni", student="none", teacher=str(teacher), data=str(data), **more))[0]


def refused(kind: type[EdgeKDError], *arguments: object, **more: object) -> EdgeKDError:
    with pytest.raises(kind) as refusal:
        planned(*arguments, **more)
    return refusal.value


def test_the_teacher_itself_is_planned(classifier: Path, tiny_data: Path, store: Path) -> None:
    plan = planned(classifier, tiny_data)
    student = plan.student
    assert plan.compresses_only
    assert (student.family, student.losses, student.augmentations, student.training) == ("none", (), (), None)
    assert (student.tries, student.exit, student.min_speedup, student.survey.vocabulary) == (1, None, 0.0, 0)
    assert not plan.is_cut
    assert plan.metric.name == "accuracy"
    assert plan.data.classes == LABELS
    assert plan.compressing["teaching"] == plan.teaching
    assert json.loads(json.dumps(plan.as_dict()))["student"]["training"] is None
    other = planned(classifier, tiny_data, max_tokens=16)
    assert other.student.survey.max_size == 16
    assert other.compressing != plan.compressing
    said = show.plan(plan)
    assert "student   none: the teacher itself, compressed as it is, up to 32 tokens; reported: accuracy" in said
    assert "distill" not in said


def test_an_ordinary_plan_is_not_one(tiny_teacher: Path, tiny_data: Path, store: Path) -> None:
    plan, splits = make_plan(Options("cpu-vnni", teacher=str(tiny_teacher), data=str(tiny_data), max_drop=3.5))
    assert not plan.compresses_only
    assert (plan.metric.name, plan.student.min_speedup, plan.force) == ("accuracy", 5.0, None)
    assert plan.target.max_drop_points == 3.5
    assert splits.known == splits.train + splits.unlabelled
    assert "distill" in show.plan(plan)


def test_labels_are_no_need(classifier: Path, without_labels: Path, store: Path) -> None:
    plan, splits = make_plan(
        Options("cpu-vnni", student="none", teacher=str(classifier), data=str(without_labels), force="dynamic-int8")
    )
    assert (plan.metric.name, plan.data.label_column, plan.force) == ("agreement", "", "dynamic_int8")
    assert not splits.test_labelled
    assert not splits.selection_labelled
    assert splits.classes == LABELS
    assert splits.train == ()
    assert sum(splits.counts.values()) == 400
    said = show.plan(plan)
    assert "picked by agreement with the teacher" in said
    assert "force     dynamic_int8 ships, whatever is measured of it" in said


@pytest.mark.parametrize(
    ("option", "value", "flag"),
    [
        ("losses", ("response=1",), "--loss"),
        ("epochs", 3, "--epochs"),
        ("tries", 2, "--try"),
        ("exit", 1, "--exit"),
        ("augmentations", ("word_swap",), "--augment"),
        ("evidence", 3, "--evidence"),
        ("patience", 3, "--patience"),
        ("temperature", 2.0, "--temperature"),
        ("learning_rate", 1e-3, "--learning-rate"),
        ("min_speedup", 5.0, "--min-speedup"),
        ("vocabulary", 900, "--vocabulary"),
        ("labels", 100, "--labels"),
        ("image_size", 32, "--image-size"),
    ],
)
def test_options_of_students_mean_nothing(store: Path, option: str, value: object, flag: str) -> None:
    said = refused(UsageError, Path("anything"), Path("anything"), **{option: value})
    assert said.message == (
        f"{flag} means nothing with --student none: the teacher itself is compressed, nothing is trained"
    )
    assert said.fix == "leave it out, or leave --student none out"


def test_teachers_that_are_not_ready(tiny_teacher: Path, tiny_data: Path, store: Path) -> None:
    said = refused(TeacherError, tiny_teacher, tiny_data)
    assert said.message == (
        f"the teacher {tiny_teacher} is a base model: without a head for text-classification there is nothing to "
        "compress"
    )
    assert said.fix.startswith("give a model that was fine-tuned on the task, or --task feature-extraction")
    said = refused(UsageError, Path("labels"), tiny_data, task="time-series-classification")
    assert said.message.endswith("the teacher `labels` is yet to be trained")
    with pytest.raises(UsageError, match=r"model\.onnx is an ONNX file; a student is cut from") as refusal:
        make_plan(Options("cpu-vnni", teacher="model.onnx", data=str(tiny_data)))
    assert refusal.value.fix.startswith("give --student none")


def test_labels_that_the_teacher_does_not_know(classifier: Path, tmp_path: Path, store: Path) -> None:
    data = write_csv(tmp_path / "music.csv", [(text, "music") for text, _ in texts(60, seed=4)])
    said = refused(DataError, classifier, data)
    assert said.message == "the rows have labels that the teacher does not know: 'music'"
    assert said.fix == "use the labels 'animal', 'colour', 'food'; or give the rows without labels"


@pytest.mark.parametrize(
    ("values", "message", "fix"),
    [
        ({"force": "dynamic_int4"}, "there is no quantizer called 'dynamic_int4'", "did you mean 'dynamic_int8'?"),
        (
            {"force": "float16"},
            "--force float16: the CPUExecutionProvider of cpu-vnni has no kernels for what it writes",
            "choose one of: block_int4, ",
        ),
        ({"min_agreement": 1.5}, "--min-agreement 1.5 makes no sense", "give a number from 0 to 1"),
        ({"max_drop": -1}, "--max-drop -1 makes no sense", "give a number from 0 to 100"),
    ],
)
def test_floors_and_force(store: Path, values: dict[str, object], message: str, fix: str) -> None:
    said = refused(UsageError, Path("anything"), Path("anything"), **values)
    assert said.message == message
    assert fix in said.fix


def test_floors_replace_the_profiles(classifier: Path, tiny_data: Path, store: Path) -> None:
    plan = planned(classifier, tiny_data, min_agreement=0.99, max_drop=2)
    assert (plan.target.min_teacher_agreement, plan.target.max_drop_points) == (0.99, 2.0)
    assert plan.digest != planned(classifier, tiny_data).digest


def test_rows_to_calibrate_on(
    classifier: Path, tiny_data: Path, without_labels: Path, tmp_path: Path, store: Path
) -> None:
    options = Options("cpu-vnni", student="none", teacher=str(classifier), data=str(tiny_data))
    mine = [text for text, _ in texts(50, seed=8)]
    given_rows = write_csv(tmp_path / "mine.csv", [(text,) for text in [*mine, mine[0].upper()]], ("text",))
    plan, splits = make_plan(Options(**{**vars(options), "calibration": str(given_rows)}))
    assert [row.input for row in splits.calibration] == mine
    assert plan.data.notes[:2] == ("1 repeated row to calibrate on dropped", "calibrated on 50 rows of mine.csv")
    usual, without = make_plan(options)
    assert plan.digest != usual.digest
    with pytest.raises(DataError) as refusal:
        make_plan(Options(**{**vars(options), "calibration": str(tiny_data)}))
    held = {row.input for row in without.test}
    first = next(text for text, _ in texts(600, seed=1) if text in held)
    assert refusal.value.message == (
        f"{len(without.test)} of 600 rows to calibrate on also stand in test (the first: {first!r}): "
        "a variant may not be judged by the rows that it was calibrated on"
    )
    assert refusal.value.fix.startswith("leave these rows out, or leave --calibration out")


def test_a_student_is_calibrated_on_given_rows_too(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, store: Path
) -> None:
    mine = write_csv(tmp_path / "mine.csv", [(text,) for text, _ in texts(50, seed=8)], ("text",))
    options = Options("cpu-vnni", teacher=str(tiny_teacher), data=str(tiny_data))
    _, usual = make_plan(options)
    _, splits = make_plan(Options(**{**vars(options), "calibration": str(mine)}))
    assert len(splits.calibration) == 50
    assert set(splits.selection) == {*usual.selection, *usual.calibration}
    assert (splits.train, splits.test) == (usual.train, usual.test)


def test_imagenets_own_head(tmp_path: Path, store: Path) -> None:
    from PIL import Image

    from tests.test_efficientnet_lite import original_names

    torch.manual_seed(0)
    network = Convnet(224, 3, 1000).random()
    state = OrderedDict((original_names(name), value) for name, value in network.state_dict().items())
    torch.save(state, tmp_path / "lite0.pth")
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(photos / f"{number}.png")
    plan, splits = make_plan(
        Options("cpu-vnni", "image-classification", str(tmp_path / "lite0.pth"), str(photos), student="none")
    )
    assert plan.teacher.ready
    assert plan.teacher.labels == splits.classes == tuple(map(str, range(1000)))
    assert (plan.student.survey.max_size, plan.student.survey.channels) == (224, 3)
    assert plan.metric.name == "agreement"


@pytest.mark.parametrize("demo", [True, False])
def test_default_data_of_another_models_classes(tiny_data: Path, demo: bool) -> None:
    asked = partial(
        read_splits,
        make("tasks", "text-classification"),
        str(tiny_data),
        unlabelled=None,
        calibration=None,
        labels=None,
        seed=0,
        known=("cat", "dog"),
        outputs=0,
        compressed=True,
    )
    if not demo:
        with pytest.raises(DataError, match="labels that the teacher does not know: 'animal', 'colour', 'food'"):
            asked(demo=False)
        return
    splits, _ = asked(demo=True)
    assert splits.notes[0] == "labels not read: they are not the teacher's classes"
    assert not splits.test_labelled


def _series_model(path: Path) -> Path:
    """past_values (batch, 12, 1) to three logits."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["past_values"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "series",
        [helper.make_tensor_value_info("past_values", TensorProto.FLOAT, ["batch", 12, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(random_weights(12, 3), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_an_onnx_teacher_whose_classes_nobody_names(tmp_path: Path, store: Path) -> None:
    model = _series_model(tmp_path / "model.onnx")
    values = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    np.savez(tmp_path / "bare.npz", x=values)
    plan = planned(model, tmp_path / "bare.npz", task="time-series-classification")
    assert (plan.teacher.kind, plan.metric.name, plan.data.classes) == ("onnx_model", "agreement", ("0", "1", "2"))
    assert plan.teacher.words == "an ONNX graph of 2 operators"
    np.savez(tmp_path / "told.npz", x=values, y=np.arange(60) % 3)
    plan = planned(model, tmp_path / "told.npz", task="time-series-classification")
    assert (plan.metric.name, plan.data.classes) == ("accuracy", ("0", "1", "2"))
    np.savez(tmp_path / "many.npz", x=values, y=np.arange(60) % 4)
    said = refused(TeacherError, model, tmp_path / "many.npz", task="time-series-classification")
    assert "tells 3 classes apart; the data have 4" in said.message
    np.savez(tmp_path / "wide.npz", x=np.zeros((40, 9), np.float32))
    said = refused(
        DataError,
        model,
        tmp_path / "bare.npz",
        task="time-series-classification",
        calibration=str(tmp_path / "wide.npz"),
    )
    assert said.message == f"{tmp_path / 'wide.npz'} has series of 9 steps; the training series have 12 steps"
    assert said.fix == "give rows to calibrate on of the training data's steps and channels"


# the split itself, without a plan
ROLES = ("train", "unlabelled", "selection", "calibration", "test")


def rows(count: int, *, start: int = 0, labels: str = "") -> list[Example]:
    numbers = range(start, start + count)
    return [Example(f"row number {n}", labels[n % len(labels)] if labels else None) for n in numbers]


def contents(found: tuple[Example, ...]) -> list[str]:
    return [row.content for row in found]


@fast
@given(st.integers(30, 400), st.integers(0, 40), st.booleans(), st.integers(0, 5))
def test_one_file_is_split_without_loss_or_leak(count: int, repeated: int, labelled: bool, seed: int) -> None:
    made = rows(count, labels="ab" if labelled else "")
    again = [Example(row.input.upper(), row.label) for row in made[:repeated]]
    splits = split_untrained({"all": made + again}, seed=seed, classes="ab")
    parts = [contents(getattr(splits, role)) for role in ROLES]
    assert sorted(chain(*parts)) == sorted(row.content for row in made)
    assert splits.test_labelled == (labelled and len([r for r in splits.test if r.label]) >= 8)
    assert all((row.label is not None) == splits.test_labelled for row in splits.test)
    assert splits.selection_labelled == splits.test_labelled
    assert min(len(splits.selection), len(splits.calibration), len(splits.known)) >= 7
    other = split_untrained({"all": (made + again)[::-1]}, seed=seed + 1, classes="ab")
    assert set(contents(other.test)) == set(contents(splits.test)), "content decides, neither order nor seed"


def test_sizes_stay_sober() -> None:
    splits = split_untrained({"all": rows(15_000)}, seed=0, classes="ab")
    assert splits.counts == {"train": 0, "unlabelled": 12_000, "selection": 500, "calibration": 500, "test": 2000}


def test_given_splits_stay() -> None:
    made = {
        "train": rows(90, labels="ab"),
        "validation": rows(12, start=100, labels="ab"),
        "test": rows(20, start=200, labels="ab") + rows(3, start=300),
    }
    splits = split_untrained(made, seed=0, classes="ab")
    assert list(splits.selection) == made["validation"]
    assert list(splits.test) == made["test"][:20]
    assert splits.counts == {"train": 60, "unlabelled": 0, "selection": 12, "calibration": 30, "test": 20}
    assert splits.selection_labelled
    assert splits.notes == (
        "3 test rows without a label left out",
        "nothing is trained: 12 rows select (by their labels), 30 calibrate",
    )


def test_labelled_rows_select_where_the_test_has_labels() -> None:
    made = {"train": rows(60, labels="ab") + rows(200, start=500), "test": rows(20, start=200, labels="ab")}
    splits = split_untrained(made, seed=0, classes="ab")
    assert len(splits.selection) == 86
    assert not splits.selection_labelled
    assert all(row.label is None for row in splits.selection)
    made["train"] = rows(60, labels="ab") + rows(20, start=500)
    splits = split_untrained(made, seed=0, classes="ab")
    assert splits.selection_labelled
    assert all(row.label is not None for row in splits.selection)


def test_labels_that_judge_nothing_are_told() -> None:
    """Of 40 labelled rows in one file too few fall among the test rows."""
    splits = split_untrained({"all": rows(30, labels="ab") + rows(30, start=400)}, seed=0, classes="ab")
    assert not splits.test_labelled
    told = [note for note in splits.notes if "not used" in note]
    assert len(told) == 1
    assert told[0].startswith("30 labels not used: ")
    named = {"all": rows(60), "test": rows(20, start=200, labels="ab")}
    assert split_untrained(named, seed=0, classes="ab").test_labelled, "its fix"
    assert not [note for note in split_untrained({"all": rows(90)}, seed=0, classes="ab").notes if "not used" in note]


def test_too_few_rows_and_leaks() -> None:
    with pytest.raises(DataError) as refusal:
        split_untrained({"all": rows(29)}, seed=0, classes="ab")
    assert refusal.value.message == "only 29 rows: at least 30 are needed to test, to select and to calibrate"
    assert refusal.value.fix == "give more rows; they need no labels"
    with pytest.raises(DataError, match="5 of 20 distinct test rows also stand in training"):
        split_untrained({"train": rows(60), "test": rows(20, start=55)}, seed=0, classes="ab")
    leaked = split_untrained({"train": rows(61), "test": rows(20, start=60)}, seed=0, classes="ab")
    assert leaked.notes[0] == "1 row dropped from training: in test, too"


def test_rows_that_calibrate_do_not_select() -> None:
    made = rows(200)
    splits = split_untrained({"all": made}, seed=0, classes="ab")
    mine = [row for row in made if row.content not in set(contents(splits.test))][:40]
    splits = split_untrained({"all": made}, seed=0, classes="ab", calibration=mine)
    assert list(splits.calibration) == mine
    assert not {*contents(splits.selection), *contents(splits.known)} & {row.content for row in mine}


def test_without_labels_one_floor_is_both(tiny_teacher: Path, without_labels: Path, store: Path) -> None:
    """Points lost against fp32 are then the agreement that is missing: what is asked for must not be barred twice."""
    embeddings = {"task": "feature-extraction"}
    assert planned(tiny_teacher, without_labels, **embeddings).target.max_drop_points == 1.0
    asked = planned(tiny_teacher, without_labels, min_agreement=0.92, **embeddings).target
    assert (asked.min_teacher_agreement, asked.max_drop_points) == (0.92, 8.0)
    both = planned(tiny_teacher, without_labels, min_agreement=0.92, max_drop=2.0, **embeddings).target
    assert (both.min_teacher_agreement, both.max_drop_points) == (0.92, 2.0)
