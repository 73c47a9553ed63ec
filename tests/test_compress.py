"""The search: in which order candidates are tried, where it ends, and what stands on disk after every trial."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import PlanStub, profile

from edgekd.compression import compress
from edgekd.compression.candidates import Candidate, variant
from edgekd.compression.choose import FP32, PROCESSES, Trial
from edgekd.compression.judge import Judge
from edgekd.core.errors import EdgeKDError
from edgekd.core.metrics import AGREEMENT
from edgekd.core.model import Model
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make

TARGET = profile(
    memory_mib=32.0,
    artifact_mib=16.0,
    latency_ms=10.0,
    max_drop_points=1.0,
    min_teacher_agreement=0.9,
    recipes=["float32", "dynamic_int8", "static_int8"],
)
PLACES = [(f"place {number}", (f"node{number}",)) for number in range(1, 9)]


def trial(name, speed=1.0, agreement=0.95, **values):
    usual = {"drop_points": 0.0, "latency_ms": 5.0, "peak_rss_mib": 20.0, "artifact_mib": 10.0}
    return Trial(name, agreement=agreement, speed=speed, **usual | values)


@dataclass
class Bench:
    """A search whose candidates are made of thin air: `says` gives each one's trial by what it is."""

    says: object
    asked: list = field(default_factory=list)
    confirmed: list = field(default_factory=list)
    made: dict = field(default_factory=dict)
    reference: tuple = ({"logits": np.zeros(2)},)
    speeds: dict = field(default_factory=dict)  # what several processes show where it is not what one showed
    task: object = None  # none of the costly ones

    def confirm(self, files):
        self.confirmed.append([FP32, *files])
        known = {name: self.made[name].speed if name in self.made else 1.0 for name in (FP32, *files)}
        return {name: (*self.speeds.get(name, (speed,) * 3), 5.0) for name, speed in known.items()}

    def trial(self, candidate, file):
        self.asked.append(candidate.name)
        found = self.says(candidate)
        if isinstance(found, BaseException):
            raise found
        self.made[candidate.name] = found
        return found


@pytest.fixture
def search(tmp_path, monkeypatch):
    recipe = SimpleNamespace(quantize=lambda model, out, *_, **__: out.write_bytes(b""), suffix="", calibrates=False)
    monkeypatch.setattr(Candidate, "quantizer", lambda self, target: recipe)
    monkeypatch.setattr(compress.candidates, "settings", lambda base, target: [])
    found = SimpleNamespace(layers=(), places=lambda most: PLACES[:most])
    monkeypatch.setattr(compress.diagnose, "diagnose", lambda *_, **__: found)

    def made(says, *, limit_s=60.0, force=None):
        plan = PlanStub(target=TARGET, search_limit_s=limit_s, force=force, task="text-classification")
        bench = Bench(says)
        return compress._Search(plan, bench, Model.of(tmp_path / "plain.onnx"), [{}], tmp_path, NullProgress()), bench

    return made


def well(candidate):
    return trial(candidate.name, {"float32": 1.0, "dynamic_int8": 2.0, "static_int8": 1.5}[candidate.recipe])


def test_where_the_fastest_is_allowed_nothing_else_is_tried(search):
    one, bench = search(well)
    one.run()
    assert bench.asked == ["float32", "dynamic_int8", "static_int8"]


def test_what_may_ship_is_timed_in_several_processes_before_it_ships(search, tmp_path):
    one, bench = search(well)
    one.run()
    assert bench.confirmed == [["float32", "dynamic_int8"]], "static_int8 is not as fast by far"
    told = {trial.name: trial.processes for trial in compress.read_trials(tmp_path)}
    assert told == {"float32": PROCESSES, "dynamic_int8": PROCESSES, "static_int8": 1}


def test_one_lucky_process_does_not_make_int8_ship(search, tmp_path):
    """Rows of one process agree on 2x; fresh processes disagree on whether it is faster at all: fp32 ships."""

    def lucky(candidate):
        speed = {"float32": 1.0, "dynamic_int8": 2.0, "static_int8": 1.9}[candidate.recipe]
        return trial(candidate.name, speed, speed_interval=(speed - 0.01, speed + 0.01))

    one, bench = search(lucky)
    bench.speeds = {"dynamic_int8": (1.3, 0.7, 2.3), "static_int8": (1.1, 0.9, 1.3), "float32": (1.0, 0.98, 1.02)}
    one.run()
    assert compress.read(tmp_path)["best"] == "float32"
    assert len(bench.confirmed) <= 2, "each round of processes settles one candidate at least"


def needing(places):
    """Static int8 is fast and allowed only with so many places in float, each of which costs a tenth of its speed."""

    def says(candidate):
        if candidate.recipe != "static_int8":
            return trial(candidate.name, 1.2 if candidate.recipe == "dynamic_int8" else 1.0)
        kept = len(candidate.keep)
        return trial(candidate.name, 3.0 - kept / 10, 0.95 if kept >= places else 0.4, kept=candidate.keep)

    return says


@pytest.mark.parametrize("places", range(1, 9))
def test_a_faster_one_is_mended_with_as_few_places_in_float_as_will_do(search, tmp_path, places):
    one, bench = search(needing(places))
    one.run()
    assert compress.read(tmp_path)["best"] == f"static_int8-float{places}"
    assert len(bench.asked) <= 3 + 4 + 2, "three recipes, a ladder of four rungs, a few in between"
    assert len(set(bench.asked)) == len(bench.asked), "nothing is tried twice"


def test_what_cannot_be_mended_ends(search, tmp_path):
    one, bench = search(needing(99))
    one.run()
    assert compress.read(tmp_path)["best"] == "dynamic_int8"
    assert bench.asked[3:] == [f"static_int8-float{kept}" for kept in (1, 2, 4, 8)]


def test_other_settings_come_before_layers_in_float(search, monkeypatch, tmp_path):
    better = Candidate("static_int8", (("method", "percentile"),))
    worse = Candidate("static_int8", (("method", "entropy"),))
    monkeypatch.setattr(
        compress.candidates, "settings", lambda base, target: [worse, better] if base.recipe == "static_int8" else []
    )

    def says(candidate):
        if candidate == better:
            return trial(candidate.name, 2.9)
        return needing(99)(candidate)

    one, bench = search(says)
    one.run()
    assert bench.asked[3:5] == [worse.name, better.name]
    assert compress.read(tmp_path)["best"] == better.name


def test_the_time_limit_ends_it_with_the_best_so_far(search, tmp_path):
    one, bench = search(needing(3), limit_s=0.0)
    one.run()
    said = compress.read(tmp_path)
    assert bench.asked == ["float32"]
    assert (said["best"], said["stopped"]) == ("float32", "time limit")


def test_after_every_trial_all_is_on_disk(search, tmp_path):
    seen = []

    def says(candidate):
        seen.append([t.name for t in compress.read_trials(tmp_path)] if (tmp_path / compress.TRIALS).exists() else [])
        return well(candidate)

    one, _ = search(says)
    one.run()
    assert seen == [[], ["float32"], ["float32", "dynamic_int8"]]
    said = compress.read(tmp_path)
    assert said["pareto"] == ["dynamic_int8"]
    assert [t.name for t in compress.read_trials(tmp_path)] == ["float32", "dynamic_int8", "static_int8"]


def test_a_search_goes_on_where_it_was_stopped(search):
    def stopped(candidate):
        return KeyboardInterrupt() if candidate.recipe == "static_int8" else well(candidate)

    one, _ = search(stopped)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    again, bench = search(well)
    again.run()
    assert bench.asked == ["static_int8"]
    assert list(again.trials) == ["float32", "dynamic_int8", "static_int8"]


def test_a_recipe_that_fails_is_noted_and_fp32_must_not(search, tmp_path):
    def fails(candidate):
        return EdgeKDError("no rows", fix="give some") if candidate.recipe == "static_int8" else well(candidate)

    one, _ = search(fails)
    one.run()
    assert one.trials["static_int8"].failed == "no rows"
    with pytest.raises(EdgeKDError, match="broken"):
        search(lambda candidate: EdgeKDError("broken", fix="-"))[0]._trial(Candidate("float32"))


def test_a_trial_survives_the_disk(search, tmp_path):
    whole = trial(
        "static_int8-float1",
        1.5,
        agreement_interval=(0.9, 0.99),
        drop_interval=(-0.5, 0.5),
        speed_interval=(1.4, 1.6),
        kept=("node1",),
        said="in float: place 1",
    )
    one, _ = search(well)
    one.trials = {whole.name: whole}
    one.note(stopped="interrupted")
    assert compress.read_trials(tmp_path) == [whole]
    assert json.loads((tmp_path / compress.TRIALS).read_text())["stopped"] == "interrupted"
    assert variant(tmp_path, whole.name, make("tasks", "text-classification")).file.parent.name == whole.name


def test_drops_are_against_fp32_even_where_its_trial_lies_in_an_earlier_run(monkeypatch, tmp_path):
    """The first one judged is not fp32: its score is taken all the same."""
    judge = object.__new__(Judge)
    judge.plain, judge._plain_score = Model.of(tmp_path / "plain.onnx"), None
    judge.task = SimpleNamespace(fidelity=AGREEMENT, one_of_classes=False)
    judge.plan = SimpleNamespace(compared_with="the teacher")
    judge.metric = AGREEMENT
    scores = {"plain.onnx": np.ones(4), "int8.onnx": np.array([1.0, 1.0, 1.0, 0.0])}
    monkeypatch.setattr(Judge, "fidelity", lambda self, one: (None, *[scores[one.file.name]] * 2))
    monkeypatch.setattr(Judge, "_cost", lambda self, model: (1.0, (2.0, 1.9, 2.1), 10.0))
    file = tmp_path / "int8.onnx"
    file.write_bytes(b"")
    found = judge.trial(Candidate("dynamic_int8"), Model.of(file))
    assert (found.drop_points, found.agreement) == (25.0, 0.75)


def test_only_what_was_left_untried_counts_as_cut(search, tmp_path):
    one, _ = search(well)
    one.run()
    one.end = 0.0  # late, but there was nothing more to try
    one.note(stopped="time limit" if one.cut else None)
    assert compress.read(tmp_path)["stopped"] is None
