"""A student learns what the teacher said: its outputs on disk, its own exits, a kill on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, loose_target, run
from test_series_task import waves

from edgekd.core.errors import TeacherError, UsageError
from edgekd.core.protocols import NullProgress
from edgekd.core.tensors import RequestedOutputs
from edgekd.plan.planning import Options, make_plan
from edgekd.stages import Stages, augmented
from edgekd.store.store import Store
from edgekd.training import teach, teacher_outputs
from edgekd.training.teacher_outputs import TRAINED_ON, TeacherOutputs, pieces


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values, names = waves(400)
    place = tmp_path_factory.mktemp("waves") / "waves.npz"
    np.savez(place, x=values, y=names)
    return place


def stages_of(series: Path, folder: Path, **options: Any) -> Stages:
    """The stages of a small build, on a store of their own."""
    folder.mkdir(exist_ok=True)
    said = Options(
        target=str(loose_target(folder)),
        task="time-series-classification",
        data=str(series),
        threads=1,
        epochs=5,
        labels=60,
        **options,
    )
    plan, splits = make_plan(said, Store(folder / "store"))
    shape = {
        "width": 8,
        "depth": 3,
        "kernel": 3,
        "stride": 1,
        "separable": False,
        "dilated": True,
        "channels": 2,
        "classes": 3,
        "steps": plan.student.survey.max_size,
    }
    teacher = replace(plan.teacher, training=replace(plan.teacher.training, epochs=20))
    plan = replace(plan, teacher=teacher)
    return Stages(plan, augmented(plan, splits), Store(folder / "store"), NullProgress(), shape)


ALL = (
    "response=0.9",
    "hidden_states=1",
    "attention_transfer=1",
    "similarity=1",
    "relational=1",
    "hard_labels=0.1",
    "self_distillation=0.5",
)


@pytest.fixture(scope="module")
def trained(series: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stages, Path, Path]:
    """A student of all losses that a convolutional teacher can serve, with augmented rows."""
    stages = stages_of(series, tmp_path_factory.mktemp("all"), losses=ALL, augmentations=("jitter=1",))
    teacher = stages.teacher()
    return stages, teacher, stages.student(teacher)


def test_what_the_teacher_says_is_kept_as_the_losses_need_it(trained: tuple[Stages, Path, Path]) -> None:
    from edgekd.core.registry import make
    from edgekd.training import engine, models

    stages, teacher, _ = trained
    plan, splits = stages.plan, stages.splits
    said = TeacherOutputs(stages.outputs(teacher), TRAINED_ON, 3)
    rows = (*splits.train, *splits.unlabelled, *splits.augmented)
    assert len(said) == len(rows) > 1.9 * (len(splits.train) + len(splits.unlabelled))
    outputs = said.outputs([3, len(rows) - 1, 0])
    assert [tuple(value.shape) for value in outputs.features] == [(3, 16, 64)] * 3
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (3, 64)
    inputs = [rows[row].input for row in (3, len(rows) - 1, 0)]
    samples = make("tasks", plan.task).encode(teacher, inputs, plan.student.survey.max_size)
    own = engine.logits(models.load(teacher, plan.task), samples)
    assert torch.allclose(outputs.logits, own, atol=0.02)
    assert len(said.logits()) == len(rows)


def test_the_report_of_its_training(trained: tuple[Stages, Path, Path]) -> None:
    _, _, student = trained
    told = json.loads((student / "training.json").read_text())
    assert told["epochs"] == len(told["scores"]) == 5
    assert 1 <= told["kept_epoch"] <= 5
    assert set(told["of_exits"]) == {"1", "2"}
    assert told["scores"][told["kept_epoch"] - 1] == max(told["scores"])
    assert 0.5 < told["selection_agreement"] <= 1


def test_an_early_exit_is_a_model_of_its_own_that_ships(trained: tuple[Stages, Path, Path]) -> None:
    from edgekd.training import models

    stages, _, student = trained
    for layer in (1, 2):
        place = replace(stages, plan=replace(stages.plan, student=replace(stages.plan.student, exit=layer)))
        model = models.load(place.shipped(student), stages.plan.task)
        assert model.shape.depth == layer
    assert stages.shipped(student) == student


def test_an_exit_that_the_shape_has_not_is_refused_before_training(trained: tuple[Stages, Path, Path]) -> None:
    plan, shape = trained[0].plan, trained[0].shape
    plan.check_exits(shape)
    with pytest.raises(UsageError, match=r"--exit 3: a student of this shape has early exits after the layers 1, 2"):
        replace(plan, student=replace(plan.student, exit=3)).check_exits(shape)
    with pytest.raises(UsageError, match="the losses need early exits; a student of this shape has none") as raised:
        plan.check_exits(shape | {"depth": 1})
    assert "leave self_distillation out" in raised.value.fix


@pytest.mark.slow
def test_a_bundle_of_an_early_exit(series: Path, store: Path, tmp_path: Path) -> None:
    """The command itself: what ships is the exit, measured, calibrated and proved as any student is."""
    done = run(
        "build",
        "--task",
        "time-series-classification",
        "--target",
        loose_target(tmp_path),
        "--data",
        series,
        "--labels",
        "60",
        "--loss",
        "response=0.9",
        "--loss",
        "hard_labels=0.1",
        "--loss",
        "self_distillation=1",
        "--exit",
        "2",
        "--out",
        tmp_path / "bundle",
        *TINY,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["edgekd"]["shape"]["depth"] == 2
    assert not {"exits", "training.json", "confidence.json"} & {path.name for path in (tmp_path / "bundle").iterdir()}
    assert run("verify", tmp_path / "bundle").returncode == 0
    refused = run("plan", "--task", "time-series-classification", "--target", "rpi4", "--data", series, "--exit", "1")
    assert refused.returncode == 2
    assert "--exit 1: no loss trains early exits" in refused.stderr


def test_a_teacher_whose_outputs_do_not_fit_is_stopped_at_the_first_shard(
    trained: tuple[Stages, Path, Path], tmp_path: Path
) -> None:
    stages, teacher, _ = trained
    plan, deep = replace(stages.plan, cache_mib=0.1), RequestedOutputs((0, 2, 5), None, False, 16)
    with pytest.raises(UsageError, match=r"takes \d.\d+ MiB on disk or more, above 0.1") as raised:
        teacher_outputs.compute(plan, stages.splits, deep, pieces(deep), teacher, tmp_path, NullProgress())
    assert "--cache-mib" in raised.value.fix


def test_outputs_go_on_after_a_kill_to_the_same_bytes(
    trained: tuple[Stages, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, teacher, _ = trained
    monkeypatch.setattr(teacher_outputs, "DEEP_SHARD_ROWS", 50)
    wanted = RequestedOutputs((0, 1), None, True, 4)

    class Killed(NullProgress):
        def step(self, done: int, note: str = "") -> None:
            if done > 100:
                raise KeyboardInterrupt

    def compute(place: str, progress: NullProgress) -> None:
        parts = stages.plan, stages.splits, wanted, pieces(wanted), teacher, tmp_path / place
        teacher_outputs.compute(*parts, progress)

    compute("whole", NullProgress())
    with pytest.raises(KeyboardInterrupt):
        compute("again", Killed())
    (tmp_path / "again" / "features.1" / "train" / "00000.safetensors").unlink()  # as if killed between two pieces
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "again" / "features.0").rglob("*.safetensors")}
    assert kept
    compute("again", NullProgress())
    for file in (tmp_path / "whole").rglob("*.[js]*"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "whole")).read_bytes()
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_a_second_depth_asks_the_teacher_for_nothing_that_is_kept(
    trained: tuple[Stages, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, teacher, _ = trained
    first = stages.outputs(teacher)
    asked: list[list[str]] = []
    compute = teacher_outputs.compute
    monkeypatch.setattr(teacher_outputs, "compute", lambda *a: (asked.append(list(a[3])), compute(*a))[1])
    assert stages.outputs(teacher) == first
    other = replace(stages, shape=stages.shape | {"depth": 2}).outputs(teacher)
    new = [piece for piece in other if piece not in first]
    assert asked == ([new] if new else [])
    assert other["logits"] == first["logits"]
    assert other["embedding"] == first["embedding"]
    logits_alone = replace(stages.plan.student, losses=stages.plan.student.losses[:1])
    few = replace(stages, plan=replace(stages.plan, student=logits_alone)).outputs(teacher)
    assert few == {"logits": first["logits"]}
    assert len(asked) <= 1


def test_one_pass_of_the_teacher_serves_the_students_of_several_targets(
    trained: tuple[Stages, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, teacher, _ = trained
    shapes = tuple(stages.shape | {"depth": depth} for depth in (1, 2, 3))
    asked: list[list[str]] = []
    compute = teacher_outputs.compute
    monkeypatch.setattr(teacher_outputs, "compute", lambda *a: (asked.append(list(a[3])), compute(*a))[1])
    both = [replace(stages, store=Store(tmp_path), shape=shape, shapes_beside=shapes) for shape in shapes]
    found = [one.outputs(teacher) for one in both]
    assert len(asked) == 1
    assert [list(pieces_) for pieces_ in found] == [list(pieces(one.plan.matched(one.shape).teacher)) for one in both]
    assert set(asked[0]) == {piece for pieces_ in found for piece in pieces_}
    rows = range(3)
    alone = TeacherOutputs(stages.outputs(teacher), TRAINED_ON, 3).outputs(list(rows))
    beside = TeacherOutputs(found[2], TRAINED_ON, 3).outputs(list(rows))
    assert all(torch.equal(one, other) for one, other in zip(alone.features, beside.features, strict=True))


def test_where_all_targets_layers_are_too_much_each_asks_for_its_own(
    trained: tuple[Stages, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, teacher, _ = trained
    shapes = tuple(stages.shape | {"depth": depth} for depth in (1, 3))
    compute, asked = teacher_outputs.compute, []

    def limited(*given: Any) -> None:
        asked.append(list(given[3]))
        if len(asked[-1]) > len(pieces(one.plan.matched(one.shape).teacher)):
            raise UsageError("too much", fix="allow it")
        compute(*given)

    monkeypatch.setattr(teacher_outputs, "compute", limited)
    one = replace(stages, store=Store(tmp_path), shape=shapes[0], shapes_beside=shapes)
    found = one.outputs(teacher)
    assert len(asked) == 2
    assert set(found) == set(asked[1]) < set(asked[0])
    again = replace(one, shapes_beside=())
    assert again.outputs(teacher) == found
    assert len(asked) == 2


def test_of_many_classes_the_largest_logits_and_the_mass_of_the_rest_are_kept() -> None:
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)) * 3
    top, classes, rest = teacher_outputs.largest(logits).values()
    assert top.shape == classes.shape == (4, teacher_outputs.TOP)
    assert rest.shape == (4, 1)
    spread = rest.expand(-1, 1000).clone().scatter_(1, classes, top)
    probabilities, near = logits.softmax(dim=1), spread.softmax(dim=1)
    assert torch.allclose(probabilities.gather(1, classes), near.gather(1, classes), rtol=1e-4)


def test_classes_in_another_order_are_told_before_anything_is_trained(
    trained: tuple[Stages, Path, Path], tmp_path: Path
) -> None:
    stages, teacher, _ = trained
    ready = replace(stages.plan, teacher=replace(stages.plan.teacher, ready=True, name="my-teacher"))
    teach.check_answers(ready, stages.splits, stages.outputs(teacher), teacher)  # the order is right
    turned = {"fast": "growing", "growing": "slow", "slow": "fast"}
    train = tuple(replace(row, label=turned[row.label or ""]) for row in stages.splits.train)
    with pytest.raises(TeacherError, match="the classes of the teacher my-teacher stand in another order"):
        teach.check_answers(ready, replace(stages.splits, train=train), stages.outputs(teacher), teacher)


_KILLED = """
import sys
from edgekd import cli
from edgekd.training import engine
engine.CHECKPOINT_S = 0.0
sys.argv = ["edgekd", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_a_build_that_was_killed_ends_bit_identical_to_one_that_was_not(series: Path, tmp_path: Path) -> None:
    """The command itself, killed by SIGKILL in the middle of the student's training."""
    target = loose_target(tmp_path)

    def arguments(name: str) -> list[str]:
        return [
            "build",
            "--task",
            "time-series-classification",
            "--target",
            str(target),
            "--data",
            str(series),
            "--labels",
            "60",
            "--out",
            str(tmp_path / name),
            *TINY,
            "--epochs",
            "30",
        ]

    def students(name: str) -> list[bytes]:
        return [file.read_bytes() for file in sorted((tmp_path / f"store-{name}" / "student").glob("*/*.safetensors"))]

    done = run(*arguments("whole"), env={"EDGEKD_STORE": str(tmp_path / "store-whole")})
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"EDGEKD_STORE": str(tmp_path / "store-killed")}
    running = subprocess.Popen(
        [sys.executable, "-c", _KILLED, *arguments("killed")], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "store-killed").glob("student/*.work/checkpoint-*/.seal.json")):
        assert running.poll() is None, "it was to be killed before its end"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not students("killed")
    done = run(*arguments("killed"), env={"EDGEKD_STORE": str(tmp_path / "store-killed")})
    assert done.returncode == 0, done.stderr
    assert "student: goes on where it was stopped" in done.stderr
    assert students("killed") == students("whole") != []
    assert not list((tmp_path / "store-killed").glob("student/*.work"))
