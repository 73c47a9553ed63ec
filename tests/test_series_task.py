"""The time series task: its rows, its sizes, its yardstick, and the whole path from numbers to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError, EdgeKDError, UsageError
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import make
from edgekd.data import demos
from edgekd.data.splits import Example
from edgekd.store.store import Store

TASK = make("tasks", "time-series-classification")
FRESH = {"architecture": {"family": "conv1d"}}
STEPS, CHANNELS = 32, 2


def waves(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Slow, fast and growing waves of random phase, far from zero: no linear model tells them apart."""
    random = np.random.default_rng(seed)
    names = np.array(["slow", "fast", "growing"])[np.arange(count) % 3]
    time = np.linspace(0, 1, STEPS)
    speed = np.where(names == "slow", 2, 7)[:, None]
    size = np.where(names == "growing", 2.0, 0.0)[:, None] * time + 1
    wave = size * np.sin(2 * np.pi * (speed * time + random.random((count, 1))))
    both = np.stack([500 + 100 * wave, -3 + 0.1 * wave[:, ::-1]], axis=2)
    return (both + random.normal(0, [20, 0.02], both.shape)).astype(np.float32), names


def examples(count: int) -> list[Example]:
    values, names = waves(count)
    return [Example(value, str(name)) for value, name in zip(values, names, strict=True)]


def test_rows_are_examples_with_or_without_labels(tmp_path: Path) -> None:
    values, names = waves(6)
    np.savez(tmp_path / "a.npz", x_train=values, y_train=names, x_unlabelled=values)
    tables = TASK.read(str(tmp_path / "a.npz"))
    columns = TASK.columns(tables["train"], "a.npz")
    assert columns == ("series", "label")
    rows = TASK.examples(tables["train"], columns, "a.npz")
    assert [row.label for row in rows] == names.tolist()
    assert [row.label for row in TASK.examples(tables["unlabelled"], columns, "a.npz")] == [None] * 6
    assert [row.label for row in TASK.examples(tables["train"], columns, "a.npz", labelled=False)] == [None] * 6
    assert rows[0].content != rows[1].content
    with pytest.raises(DataError) as caught:
        TASK.columns(tables["unlabelled"], "a.npz")
    assert "a.npz has no label column by a usual name" in str(caught.value)
    assert "--label-column NAME; in a NumPy file the labels are called y" in str(caught.value)


def test_survey_is_the_series_own_size(tmp_path: Path) -> None:
    inputs = [row.input for row in examples(3)]
    survey = TASK.survey(FRESH, inputs, {}, Store(tmp_path))
    assert survey == InputSpec(STEPS, (STEPS,), channels=CHANNELS)
    for steps, channels in ((STEPS, CHANNELS), (90, 2), (STEPS, 1)):
        teacher = {"architecture": {"family": "conv1d", "shape": {"steps": steps, "channels": channels}}}
        if (steps, channels) == (STEPS, CHANNELS):
            assert TASK.survey(teacher, inputs, {}, Store(tmp_path)) == survey
            continue
        with pytest.raises(DataError, match=f"the teacher takes series of {steps} steps.*32 steps of 2 channels"):
            TASK.survey(teacher, inputs, {}, Store(tmp_path))


def test_survey_refuses_other_lengths(tmp_path: Path) -> None:
    inputs = [row.input for row in examples(3)]
    with pytest.raises(DataError, match="the unlabelled series have 31 steps of 2 channels, the labelled ones 32"):
        TASK.survey(FRESH, [*inputs, inputs[0][1:]], {}, Store(tmp_path))


def test_inputs_are_the_series_untouched(tmp_path: Path) -> None:
    rows = examples(4)
    samples = TASK.encode(tmp_path, [row.input for row in rows], STEPS)
    assert [sample["past_values"].shape for sample in samples] == [(1, STEPS, CHANNELS)] * 4
    np.testing.assert_array_equal(samples[2]["past_values"][0], rows[2].input)
    assert TASK.sized(samples, STEPS) is samples[0]
    assert TASK.student_files(tmp_path, [], None, None, tmp_path / "none") is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="a series has 32 steps of 2 channels where the model takes 48 steps"):
        TASK.encode(tmp_path, [row.input for row in rows], 48)


def test_golden_inputs_are_nobodys_series_of_the_same_scale(tmp_path: Path) -> None:
    samples = TASK.encode(tmp_path, [row.input for row in examples(30)], STEPS)
    made = TASK.synthetic(samples, 5, seed=1)
    values = np.concatenate([sample["past_values"] for sample in made])
    assert values.shape == (5, STEPS, CHANNELS)
    assert values.dtype == np.float32
    real = np.concatenate([sample["past_values"] for sample in samples])
    np.testing.assert_allclose(values.mean(axis=(0, 1)), real.mean(axis=(0, 1)), rtol=1e-3)
    np.testing.assert_allclose(values.std(axis=(0, 1)), real.std(axis=(0, 1)), rtol=1e-3)
    assert all((TASK.synthetic(samples, 5, 1)[n]["past_values"] == made[n]["past_values"]).all() for n in range(5))
    assert not any((made[0]["past_values"] == sample["past_values"]).all() for sample in samples)


def test_metric_and_yardstick() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0]])
    assert TASK.statistics(logits, np.array([0, 1, 0])).tolist() == [1.0, 1.0, 0.0]
    flat = [Example(row.input - (row.label == "slow") * 300, row.label) for row in examples(60)]
    said = TASK.baseline(flat[:45], flat[45:], seed=0)
    right = [hit for hit, row in zip(said, flat[45:], strict=True) if row.label == "slow"]
    assert len(said) == 15
    assert sum(right) == len(right)  # a level is what a linear model sees


def test_the_default_data_name_the_command_that_fetches_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = "time-series-classification"
    assert demos.demo_teacher(task) == "labels"
    monkeypatch.setattr(demos, "distribution", _nothing)
    with pytest.raises(UsageError) as caught:
        demos.demo_data(task, Store(tmp_path))
    assert "fix: run `make demo-series`, or give --teacher and --data" in str(caught.value)


def _nothing(name: str) -> None:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_a_family_that_cannot_serve_the_task_is_refused(tmp_path: Path) -> None:
    from edgekd.plan.planning import Options, make_plan

    with pytest.raises(EdgeKDError) as caught:
        make_plan(Options(target="rpi4", task="time-series-classification", student="transformer"), Store(tmp_path))
    assert "the transformer family cannot serve time-series-classification" in str(caught.value)
    assert "choose one of: conv1d, mlp (--student)" in str(caught.value)


def planned(tmp_path: Path, **options: object):
    """The plan of a table with its labels in the column `kind`."""
    from edgekd.plan.planning import Options, make_plan

    values, names = waves(90)
    write_rows(tmp_path / "rows.csv", values[:, :, 0], names)
    given = {"target": "rpi4", "task": "time-series-classification", "teacher": "labels", "label_column": "kind"}
    return make_plan(Options(**given | {"data": str(tmp_path / "rows.csv")} | options), Store(tmp_path / "store"))


def write_rows(path: Path, values: np.ndarray, names: np.ndarray | None = None) -> Path:
    header = ["kind"] * (names is not None) + [f"t{step}" for step in range(values.shape[1])]
    labels = [] if names is None else names.tolist()
    rows = [[*labels[number : number + 1], *map(str, row)] for number, row in enumerate(values.tolist())]
    path.write_text("\n".join(",".join(row) for row in [header, *rows]))
    return path


def test_unlabelled_and_golden_files_need_no_label_column(tmp_path: Path) -> None:
    more = write_rows(tmp_path / "more.csv", waves(30, seed=5)[0][:, :, 0])
    plan, splits = planned(tmp_path, unlabelled=str(more), golden=str(more))
    assert plan.data.classes == ("fast", "growing", "slow")
    assert len(splits.golden) == 30
    assert len(splits.unlabelled) >= 30
    np.savez(tmp_path / "more.npz", x=waves(30, seed=5)[0][:, :, :1])
    assert planned(tmp_path, unlabelled=str(tmp_path / "more.npz"))[1].unlabelled
    folder = tmp_path / "folder"
    folder.mkdir()
    write_rows(folder / "train.csv", waves(90)[0][:, :, 0], waves(90)[1])
    more.rename(folder / "unlabelled.csv")
    assert len(planned(tmp_path, data=str(folder))[1].unlabelled) >= 30
    write_rows(folder / "test.csv", waves(9, seed=6)[0][:, :, 0])
    with pytest.raises(DataError, match=r"folder \(test\) has no column 'kind'"):
        planned(tmp_path, data=str(folder))
    bare = write_rows(tmp_path / "bare.csv", waves(30)[0][:, :, 0])
    with pytest.raises(DataError, match=r"bare.csv has no column 'kind'") as caught:
        planned(tmp_path, data=str(bare))
    assert caught.value.fix.startswith("name it: --label-column NAME")


def test_golden_series_of_another_shape_are_refused_while_planning(tmp_path: Path) -> None:
    short = write_rows(tmp_path / "short.csv", waves(9)[0][:, 1:, 0])
    with pytest.raises(
        DataError, match=r"short.csv has series of 31 steps; the training series have 32 steps"
    ) as caught:
        planned(tmp_path, golden=str(short))
    assert caught.value.fix == "give golden inputs of the training data's steps and channels"


def test_a_series_model_of_ours_is_a_ready_teacher(tmp_path: Path) -> None:
    shape = make(
        "students",
        "conv1d",
        width=8,
        depth=1,
        kernel=7,
        stride=1,
        separable=False,
        dilated=False,
        steps=STEPS,
        channels=1,
        classes=3,
    )
    model = shape.random()
    model.name_classes(("fast", "growing", "slow"))
    (tmp_path / "own").mkdir()
    model.save_pretrained(tmp_path / "own")
    plan, _ = planned(tmp_path, teacher=str(tmp_path / "own"))
    assert plan.teacher.training is None
    assert plan.teacher.architecture == {"family": "conv1d", "shape": shape.as_dict()}
    assert plan.teacher.labels == plan.data.classes == ("fast", "growing", "slow")
    source = make("teachers", plan.teacher.kind)
    labels = list(plan.data.classes)
    assert source.base(tmp_path / "own", plan.teacher.architecture, plan.task, labels).shape == shape


def test_the_default_teacher_keeps_its_name_with_other_data(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, teacher=None)
    assert plan.teacher.name == "a convolutional network trained here from the labels"
    assert plan.teacher.licence == "trained here from the labels"
    assert plan.data.name == "rows.csv"
    assert planned(tmp_path)[0].teacher.name == "labels"
