"""Costs that one target's sizing has measured are taken by the next one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import elsewhere, profile

from edgekd.core.errors import OverMemory
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import plugin
from edgekd.hardware.profile import Profile, load_profile
from edgekd.sizing import fitting, measured
from edgekd.sizing.bench import Bench
from edgekd.sizing.measured import TEACHER, Measured, name_of
from edgekd.store.store import Store

MINILM = {
    "model_type": "bert",
    "layers": 6,
    "hidden": 384,
    "heads": 12,
    "feed_forward": 1536,
    "vocabulary": 30522,
    "max_tokens": 512,
}
SURVEY = InputSpec(64, (12,), vocabulary=5000)
ROOMY = {"memory_mib": 500.0, "artifact_mib": 500.0, "latency_ms": 500.0, "cold_start_ms": 1e5}


def request_of(target: Profile, **changes: Any) -> dict[str, Any]:
    return {
        "schema": 5,
        "teacher_kind": "huggingface",
        "teacher_folder": "/nowhere",
        "architecture": MINILM,
        "family": "transformer",
        "survey": vars(SURVEY) | {"sizes": [12]},
        "classes": 50,
        "task": "text-classification",
        "min_speedup": 1.01,
        "tries": 1,
        "finalists": 3,
        "target": target.as_dict(),
        "readings": [],
    } | changes


def facts_of(target: Profile) -> dict[str, Any]:
    return measured.facts(request_of(target), target, ["dynamic_int8"])


def known_of(request: dict[str, Any]) -> dict[str, Any]:
    """Every shape as it would have been measured for another target, and the teacher."""
    among = fitting._candidates(request, 0.2, 20.0)
    teacher = {
        "kind": "measured",
        "memory_mib": 147.0,
        "artifact_mib": 87.0,
        "latency_ms": 20.0,
        "cold_start_ms": 300.0,
        "reference_ms": 0.2,
    }
    known: dict[str, Any] = {TEACHER: teacher}
    for shape in among.ladder:
        cost = among.predict(shape, "dynamic_int8")
        names = ("memory_mib", "artifact_mib", "latency_ms", "cold_start_ms")
        figures = {name: getattr(cost, name) for name in names} | {"speedup_low": cost.speedup * 0.99}
        known[name_of(shape.as_dict())] = {"teacher_ms": 20.0, "figures": {"dynamic_int8": figures}}
    return known


def test_budgets_and_names_are_no_part_of_what_is_measured_and_how_it_is_written_is():
    one = facts_of(profile())
    assert facts_of(profile(memory_mib=1.0, latency_ms=1.0, name="other", title="another", max_drop_points=9.0)) == one
    assert facts_of(load_profile("rpi4")) == facts_of(load_profile("rpi5"))
    for change in ({"per_channel": False}, {"threads": 2}, {"max_opset": 15}):
        assert facts_of(profile(**change)) != one, change
    assert measured.facts(request_of(profile(), classes=2), profile(), ["dynamic_int8"]) != one


def test_what_was_measured_is_kept_by_shape(tmp_path: Path):
    shapes = [{"layers": 1, "width": 2}, {"width": 3, "layers": 1}]
    kept = Measured(Store(tmp_path), {"facts": 1})
    assert kept.known(shapes) == {}
    kept.keep({TEACHER: {"latency_ms": 2.0}, name_of(shapes[0]): {"teacher_ms": 1.0, "figures": {}}})
    expected = {TEACHER: {"latency_ms": 2.0}, name_of({"width": 2, "layers": 1}): {"teacher_ms": 1.0, "figures": {}}}
    assert kept.known(shapes) == expected
    assert Measured(Store(tmp_path), {"facts": 2}).known(shapes) == {}


@pytest.fixture
def no_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("something was measured")

    for name in ("export", "quantize", "footprint", "time"):
        monkeypatch.setattr(Bench, name, refused)


@pytest.mark.usefixtures("no_bench")
def test_the_second_target_chooses_by_the_first_ones_figures_and_measures_nothing(capsys: pytest.CaptureFixture[str]):
    known = known_of(request_of(profile(**ROOMY)))
    choices = []
    for target in (profile(**ROOMY), profile(**ROOMY | {"artifact_mib": 400.0}), profile(**ROOMY | {"memory_mib": 28})):
        found = fitting.search(request_of(target), known)
        assert found["measured"] == {}
        assert found["fit"]["chosen"]["kind"] == "measured"
        choices.append(found["fit"]["chosen"]["shape"])
    assert choices[0] == choices[1] != choices[2]
    with pytest.raises(OverMemory):
        fitting.search(request_of(profile(**ROOMY | {"memory_mib": 1.0})), known)
    assert "measured 1 " in capsys.readouterr().out


def test_near_the_budget_a_guest_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another target's guest is another core: its figure is not kept."""
    monkeypatch.setattr(fitting._Lab, "guest_is_there", lambda _: True)
    lab = fitting._Lab(tmp_path, request_of(elsewhere(memory_mib=30.0)), fitting.contextlib.ExitStack())
    assert lab._asks_guest({"dynamic_int8": {"memory_mib": 29.0}})
    assert not lab._asks_guest({"dynamic_int8": {"memory_mib": 20.0}})
    monkeypatch.setattr(fitting._Lab, "guest_is_there", lambda _: False)
    assert not lab._asks_guest({"dynamic_int8": {"memory_mib": 29.0}})


def test_a_family_knows_its_shapes_by_name():
    ladder = plugin("students", "transformer").ladder(MINILM, SURVEY, classes=50)
    assert len({name_of(shape.as_dict()) for shape in ladder}) == len(ladder)
