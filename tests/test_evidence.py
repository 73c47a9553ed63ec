"""Whether the teacher helped: what is compared, the interval over seeds and samples, and a real comparison."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import TINY, loose_target, run
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st
from test_series_task import waves

from edgekd.core.statistics import seeded_difference
from edgekd.data.splits import Example
from edgekd.plan.plan import LossTerm, StudentPlan, Training
from edgekd.plan.planning import Options, make_plan
from edgekd.store.store import Store
from edgekd.training import distill, evidence

RESPONSE, LABELS, FEATURES = LossTerm("response", 0.9), LossTerm("hard_labels", 0.1), LossTerm("hidden_states", 1.0)
EXITS = LossTerm("self_distillation", 0.5)


def _plan() -> Any:
    values, names = waves(60)
    with tempfile.TemporaryDirectory() as name:
        np.savez(Path(name, "waves.npz"), x=values, y=names)
        said = Options("rpi4", "time-series-classification", teacher="labels", data=str(Path(name, "waves.npz")))
        return make_plan(said, Store(Path(name)))[0]


PLAN = _plan()


def arms_of(*losses: LossTerm, plain: int = 300, labelled_copies: int = 0, other_copies: int = 0) -> Any:
    """The arms of an objective on 100 labelled rows, `plain` without labels, and copies of either kind."""
    row = Example("a row", "a class")
    splits = SimpleNamespace(
        train=(row,) * 100,
        unlabelled=(Example("a row"),) * plain,
        augmented=(row,) * labelled_copies + (Example("a row"),) * other_copies,
    )
    training = Training(8, 16, 1e-3)
    student = replace(PLAN.student, losses=losses, training=training)
    return evidence.arms(replace(PLAN, student=student), splits), splits


def seen(student: StudentPlan, splits: Any) -> int:
    """Rows that an arm sees in all, as `distill` picks them."""
    rows = distill._rows(replace(PLAN, student=student), splits)
    return len(rows) * student.training.epochs


@pytest.mark.parametrize("losses", [(RESPONSE, LABELS), (EXITS, LABELS), (LABELS,), (RESPONSE, FEATURES, EXITS)])
@pytest.mark.parametrize("copies", [{}, {"labelled_copies": 100}, {"other_copies": 400}, {"plain": 0}])
def test_all_arms_take_as_many_steps(losses: tuple[LossTerm, ...], copies: dict[str, int]) -> None:
    arms, splits = arms_of(*losses, **copies)
    taken = {name: seen(student, splits) for name, student in arms.items()}
    whole = taken[evidence.WHOLE]
    assert all(abs(rows / whole - 1) < 0.1 for rows in taken.values()), taken


def test_the_control_has_nothing_of_the_teacher() -> None:
    arms, _ = arms_of(RESPONSE, LABELS)
    assert list(arms) == [evidence.WHOLE, evidence.WEIGHTS, evidence.CONTROL]
    control = arms[evidence.CONTROL]
    assert control.start == "scratch"
    assert [term.name for term in control.losses] == ["hard_labels"]
    assert control.training.epochs == 4 * 8, "a quarter of the rows"
    assert arms[evidence.WEIGHTS] == replace(control, start="teacher")


@pytest.mark.parametrize("patience", [0, 2, 8])
def test_all_arms_are_selected_by_one_rule(patience: int) -> None:
    """Patience is the same share of the epochs in each arm: the control is not trained to a bitter end."""
    row = Example("a row", "a class")
    splits = SimpleNamespace(train=(row,) * 100, unlabelled=(Example("a row"),) * 300, augmented=())
    student = replace(PLAN.student, losses=(RESPONSE, LABELS), training=Training(8, 16, 1e-3, patience=patience))
    arms = evidence.arms(replace(PLAN, student=student), splits)
    shares = {name: arm.training.patience / arm.training.epochs for name, arm in arms.items()}
    assert set(shares.values()) == {patience / 8}, shares
    assert len({arm.training.epochs for arm in arms.values()}) == 2, "they differ in epochs, so the rule matters"


def test_each_loss_stands_alone_where_there_are_several() -> None:
    arms, _ = arms_of(RESPONSE, FEATURES, EXITS, LABELS)
    assert list(arms) == [
        evidence.WHOLE,
        "response",
        "hidden_states",
        "self_distillation",
        evidence.WEIGHTS,
        evidence.CONTROL,
    ]
    assert arms["hidden_states"].losses == (FEATURES, LABELS)
    assert arms["self_distillation"].losses == (EXITS, LABELS)
    assert arms["self_distillation"].training.epochs == arms[evidence.CONTROL].training.epochs


def test_where_nothing_can_be_copied_no_arm_says_so() -> None:
    student = replace(PLAN.student, family="mlp", losses=(RESPONSE, LABELS))
    splits = SimpleNamespace(train=(Example("a", "b"),), unlabelled=(), augmented=())
    assert list(evidence.arms(replace(PLAN, student=student), splits)) == [evidence.WHOLE, evidence.CONTROL]


def test_by_hand() -> None:
    """Two seeds, four samples: means by seed .5 and 0, by sample 0, 0, .5, .5."""
    base = np.zeros((2, 4))
    better = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], dtype=float)
    mean, low, high = seeded_difference(base, better)
    seeds, samples = 0.125 / 2, (1 / 12) / 4
    freedom = (seeds + samples) ** 2 / (seeds**2 / 1 + samples**2 / 3)
    from scipy.stats import t

    half = t.ppf(0.975, freedom) * (seeds + samples) ** 0.5
    assert (mean, low, high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))


@fast
@given(seeds=st.integers(1, 6), rows=st.integers(2, 40), seed=st.integers(0, 99))
def test_the_interval_holds_the_mean_and_turns_with_the_sign(seeds: int, rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, 2, (2, seeds, rows)).astype(float)
    mean, low, high = seeded_difference(first, second)
    assert low <= mean <= high
    assert seeded_difference(second, first) == pytest.approx((-mean, -high, -low))


def test_the_interval_covers_the_truth() -> None:
    """Seeds and samples drawn anew, 200 times: the true difference of .1 lies inside as often as promised, or more."""
    draw, inside = np.random.default_rng(0), 0
    for _ in range(200):
        hardness, luck = draw.normal(size=(1, 300)), draw.normal(0, 0.1, (5, 1))
        base = (hardness + draw.normal(size=(5, 300)) < 0.5).astype(float)
        gain = 0.1 + luck
        better = np.where(draw.random((5, 300)) < np.clip(gain, 0, 1) / (1 - base.mean()), 1.0, base)
        _, low, high = seeded_difference(base, better)
        inside += low <= 0.1 <= high
    assert inside >= 0.9 * 200


def test_more_seeds_narrow_it() -> None:
    draw = np.random.default_rng(1)
    widths = []
    for seeds in (2, 20):
        base, better = draw.random((seeds, 500)) < 0.6, draw.random((seeds, 500)) < 0.7
        _, low, high = seeded_difference(base.astype(float), better.astype(float))
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.slow
def test_a_build_with_evidence_says_what_the_teacher_gave(store: Path, tmp_path: Path) -> None:
    """Few labels, many raw series: trained with and without the teacher, and no arm that another has trained twice."""
    values, names = waves(400)
    np.savez(tmp_path / "waves.npz", x=values, y=names)
    done = run(
        "build",
        "--task",
        "time-series-classification",
        "--target",
        loose_target(tmp_path),
        "--data",
        tmp_path / "waves.npz",
        "--labels",
        "30",
        "--out",
        tmp_path / "bundle",
        *TINY,
        "--evidence",
        "2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    told = json.loads((tmp_path / "bundle" / "report.json").read_text())["evidence"]
    assert set(summary["evidence"]) == {"difference", "low", "high", "seeds"}
    assert summary["evidence"]["low"] <= summary["evidence"]["difference"] <= summary["evidence"]["high"]
    assert summary["evidence"]["seeds"] == 2
    whole, control = told["arms"][0], told["control"]
    assert len(whole["accuracy"]) == len(control["accuracy"]) == 2
    assert whole["difference"] == pytest.approx(100 * (np.mean(whole["accuracy"]) - np.mean(control["accuracy"])))
    assert f"{summary['evidence']['difference']:+.1f}" in (tmp_path / "bundle" / "report.md").read_text()
