"""Variants on the target's own kernels: which are asked, on which rows, and what a part of the rows says of all."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, loose_target, run
from helpers import PlanStub, elsewhere, fast, matmul_model, profile, samples
from hypothesis import given
from hypothesis import strategies as st

from edgekd import stages
from edgekd.compression.choose import OnTarget, Trial, choose
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.metrics import ACCURACY, AGREEMENT
from edgekd.core.model import Model
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make
from edgekd.core.results import this_host
from edgekd.devices.local import Local
from edgekd.emulation import answers, evaluate, target_stages
from edgekd.hardware.profile import load_profile
from edgekd.onboard import runner

TARGET = elsewhere(memory_mib=32.0, artifact_mib=16.0)


def trial(name="float32", **values):
    usual = {"agreement": 0.95, "drop_points": 0.0, "speed": 1.0, "latency_ms": 5.0, "peak_rss_mib": 20.0}
    return Trial(name, **usual | {"artifact_mib": 10.0} | values)


def plan(target=TARGET, *, minutes=0.5, force=None, task="text-classification"):
    return PlanStub(target=target, emulate_minutes=minutes, force=force, task=task, seed=0, threads=2)


def test_those_that_may_ship_here_are_asked_first_then_those_that_only_accuracy_bars():
    trials = [
        trial(),
        trial("dynamic_int8", speed=2.0, drop_points=9.0),
        trial("static_int8", speed=1.5),
        trial("weight_int8", speed=3.0, peak_rss_mib=99.0),
        Trial.failure("float16", "no kernel"),
    ]
    assert evaluate.contenders(trials, plan()) == ["float32", "static_int8", "dynamic_int8"]
    assert evaluate.contenders(trials, plan(force="weight_int8"))[:2] == ["float32", "weight_int8"]


def test_what_cannot_be_asked_is_said_of_the_profile():
    if not TARGET.needs_guest:
        pytest.skip("this host is the target's own architecture")
    assert evaluate.why_not(plan(elsewhere(emulator_cpu=None))) == "its profile names no emulator_cpu"
    assert evaluate.why_not(plan(load_profile("gpu-t4"))) == "there is no emulator of Server with one NVIDIA T4"


def test_no_more_are_asked_than_the_minutes_bear():
    many = [trial(), *(trial(f"static_int8-float{n}", speed=1 + n / 10) for n in range(9))]
    assert evaluate.contenders(many, plan()) == ["float32", *(f"static_int8-float{n}" for n in (8, 7, 6, 5))]


@fast
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(0, 5))
def test_every_beginning_of_the_order_holds_each_class_in_its_proportion(labels, seed):
    order = evaluate.stratified_order(labels, None, seed)
    assert sorted(order) == list(range(len(labels)))
    for end in range(1, len(order) + 1):
        head = [labels[row] for row in order[:end]]
        for one in set(labels):
            assert abs(head.count(one) - end * labels.count(one) / len(labels)) < 2


def test_rows_without_labels_are_stratified_by_what_the_teacher_says():
    says = np.eye(2)[[0] * 8 + [1] * 4]
    order = evaluate.stratified_order([None] * 12, says, seed=1)
    assert sum(row >= 8 for row in order[:6]) == 2


def test_a_figure_of_all_rows_moves_by_what_changed_in_some():
    change = np.zeros(100)
    change[:3] = -1
    value, (low, high) = evaluate._moved(0.95, (0.93, 0.97), AGREEMENT.moved(change, np.zeros(100)))
    assert value == pytest.approx(0.92)
    assert low < 0.90
    assert high > 0.94


def test_where_no_row_changed_the_interval_still_allows_for_what_was_not_seen():
    still = np.zeros(100)
    change = ACCURACY.lost_further((still, still), (still, still))
    value, (low, high) = evaluate._moved(1.0, (0.5, 1.5), change)
    assert value == 1.0
    assert low == pytest.approx(1 - np.hypot(0.5, 3.0))
    assert high == pytest.approx(1 + np.hypot(0.5, 3.0))


def test_too_few_rows_move_nothing():
    few = evaluate.FEWEST - 1
    none, all_of_them = np.zeros(few), np.ones(few)
    scored = SimpleNamespace(
        agreed_there=none,
        agreed_here=all_of_them,
        there=none,
        here=all_of_them,
        flips=few,
        largest_difference=1.0,
        fidelity=AGREEMENT,
        metric=ACCURACY,
    )
    plain = SimpleNamespace(there=np.ones(few), here=np.ones(few))
    found = evaluate._on_target(trial("int8", agreement=0.95, drop_points=1.5), scored, plain, None)
    assert (found.agreement, found.drop_points) == (0.95, 1.5)


def test_a_share_of_the_rows_has_an_interval_of_shares():
    same = SimpleNamespace(
        agreed_there=np.ones(40),
        agreed_here=np.ones(40),
        there=np.ones(40),
        here=np.ones(40),
        flips=0,
        largest_difference=0.0,
        fidelity=AGREEMENT,
    )
    found = evaluate._on_target(trial(agreement=0.99, agreement_interval=(0.98, 1.0)), same, same, None)
    assert found.agreement_interval == (pytest.approx(0.99 - np.hypot(0.01, 3 / 40)), 1.0)


def test_a_gpu_s_answers_are_not_asked_of_a_cpu():
    for provider, asked in (("CPUExecutionProvider", True), ("CUDAExecutionProvider", False)):
        target = profile(arch="aarch64", emulator_cpu="cortex-a76", execution_provider=provider, recipes=["float32"])
        assert target.needs_guest == (asked and this_host().arch != "aarch64")


def told(**values):
    usual = {
        "n": 90,
        "agreement": 0.9,
        "agreement_interval": [0.8, 1.0],
        "drop_points": 0.1,
        "drop_interval": [-1.0, 1.0],
        "flips": 2,
        "largest_difference": 0.3,
        "cost": None,
    }
    return usual | values


def test_what_was_not_asked_there_does_not_ship_beside_what_was():
    trials = [
        trial(),
        trial("dynamic_int8", speed=2.0),
        trial("static_int8", speed=3.0),
        trial("weight_int8", peak_rss_mib=99.0),
    ]
    found = {"trials": {"float32": told(), "dynamic_int8": told(drop_points=0.5)}, "refused": {}}
    merged = evaluate.applied(trials, found, plan())
    assert merged[1].on_target == OnTarget(90, 0.9, (0.8, 1.0), 0.5, (-1.0, 1.0), 2, 0.3, None)
    choice = choose(merged, TARGET)
    assert choice.name == "dynamic_int8"
    assert "not asked on" in choice.passed_over["static_int8"]
    assert choice.passed_over["weight_int8"] == "peak memory 99.0 MiB > 32"
    assert evaluate.applied(trials, None, plan()) == trials


def test_it_says_plainly_why_nothing_was_asked(monkeypatch):
    monkeypatch.setattr(evaluate, "plugin", lambda kind, name: SimpleNamespace(available=lambda: False))
    arm = profile(arch="aarch64")
    if not arm.needs_guest:
        pytest.skip("this host is the target's own architecture")
    assert evaluate.says(plan(arm), None) == (
        "Nothing was run on aarch64 kernels: no emulator is set up: `edgekd doctor --fix emulator`. Accuracy is this "
        "host's, and int8 answers differ there."
    )
    assert "--emulate-minutes 0 left it out" in evaluate.says(plan(arm, minutes=0), None)
    assert evaluate.says(plan(profile()), None).startswith("This host's kernels are")


class Emulator:
    """A device that answers as this host does, but for one row of one model, and counts instructions."""

    available = classmethod(lambda cls: True)
    host = "a core that is not here"

    def __init__(self, cpu):
        self.cpu = cpu

    def up(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def run(self, mode, **job):
        if self.cpu == "cortex-a57" and "dynamic_int8" in job["models"]:
            raise RuntimeCannotLoad("illegal instruction", fix="none")
        if mode == "count":
            if self.cpu == "cortex-a53":
                raise EdgeKDError("no gcc", fix="install it")
            return {
                name: {"instructions": 100.0 if name == "float32" else 61.0, "classes": {}} for name in job["models"]
            }
        told = Local().run(mode, **job)
        said = [
            {name: values if name.startswith("float32/") else -values for name, values in row.items()}
            for row in runner.unpack(Path(job["outputs"]))
        ]
        if self.cpu == "cortex-a35" and job["outputs"].endswith("1.said.npz"):  # the second process is the slower one
            said = said[:5]
        runner.pack(said, Path(job["outputs"]))
        return told


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """Two variants of one tiny model, 40 selection rows, and an emulator that answers otherwise for one of them."""
    text = make("tasks", "text-classification")
    task = SimpleNamespace(
        encode=lambda folder, rows, size: rows,
        keep={"y": "as_is"},
        graphs=text.graphs,
        program=text.program,
        agrees=text.agrees,
        metric=text.metric,
        fidelity=text.fidelity,
    )
    monkeypatch.setattr(PlanStub, "made_task", task)
    monkeypatch.setattr(answers, "make", lambda kind, name, **options: Emulator(**options))
    for name, file in (("float32", "model.onnx"), ("dynamic_int8", "model_quantized.onnx")):
        (tmp_path / name).mkdir()
        matmul_model(tmp_path / name / file)
    rows = [SimpleNamespace(input=sample, label=None) for sample in samples(*range(1, 41))]
    splits = SimpleNamespace(selection=rows, selection_labelled=False, classes=("a", "b", "c", "d"))
    return splits, tmp_path


def judged(lab, cpu="cortex-a72"):
    splits, folder = lab
    asked = plan(elsewhere(emulator_cpu=cpu))
    asked.student = SimpleNamespace(survey=SimpleNamespace(max_size=9))
    from edgekd.inference.predict import outputs

    reference = outputs(Model.of(folder / "float32" / "model.onnx"), [row.input for row in splits.selection], threads=1)
    trials = [trial(agreement=1.0), trial("dynamic_int8", speed=2.0, agreement=1.0)]
    progress = SimpleNamespace(stage=lambda *words: None, say=lambda line: None)
    (folder / "out").mkdir()
    evaluate.judge(asked, splits, trials, folder, folder, reference, folder / "out", progress)
    found = evaluate.read(folder / "out", evaluate.SELECTION)
    return found, evaluate.applied(trials, found, asked), asked


def test_a_variant_that_answers_otherwise_there_is_found_out(lab):
    found, trials, asked = judged(lab)
    assert (found["n"], found["of"], found["host"]) == (40, 40, Emulator.host)
    assert found["agreement_here"] == {"float32": 1.0, "dynamic_int8": 1.0}
    assert found["agreement_there"]["dynamic_int8"] < 0.5
    plain, spoiled = (one.on_target for one in trials)
    assert (plain.flips, plain.drop_points, plain.drop_interval, plain.cost) == (0, 0.0, (0.0, 0.0), 1.0)
    assert spoiled.flips == 40 - round(40 * found["agreement_there"]["dynamic_int8"])
    assert spoiled.drop_points == pytest.approx(100 * spoiled.flips / 40)
    assert spoiled.cost == 0.61
    assert choose(trials, asked.target).name == "float32"


def test_without_counts_it_still_judges(lab):
    found, trials, _ = judged(lab, "cortex-a53")
    assert found["cost"] is None
    assert found["cost_note"] == "no gcc; install it"
    assert trials[1].on_target.cost is None


def test_a_variant_that_the_target_s_runtime_refuses_does_not_ship_and_the_others_are_judged(lab):
    found, trials, asked = judged(lab, "cortex-a57")
    assert found["refused"] == {"dynamic_int8": "illegal instruction"}
    assert trials[1].failed == f"does not run on {asked.target.arch}: illegal instruction"
    choice = choose(trials, asked.target)
    assert choice.name == "float32"
    assert choice.passed_over["dynamic_int8"].startswith("failed: does not run on")


def test_rows_that_only_the_quicker_process_reached_do_not_count(lab):
    found, _, _ = judged(lab, "cortex-a35")
    assert found["n"] == 11, "0 to 10: the second process has 1, 3, 5, 7, 9"


def test_it_is_asked_anew_on_another_host_and_once_instructions_can_be_counted(lab, monkeypatch):
    _, folder = lab
    keys = []

    def kept(name, key, produce, **_):
        keys.append(key)
        raise EdgeKDError("far enough", fix="none")

    def asked(reason="", **host):
        emulator = SimpleNamespace(counts=lambda: reason, available=lambda: True)
        monkeypatch.setattr(target_stages, "plugin", lambda kind, name: emulator)
        monkeypatch.setattr(evaluate, "plugin", lambda kind, name: emulator)
        monkeypatch.setattr(target_stages, "this_host", lambda: replace(this_host(), **host))
        monkeypatch.setattr(stages.Stages, "student_key", lambda self: {})
        monkeypatch.setattr(target_stages, "read_trials", lambda place: [trial(), trial("dynamic_int8")])
        made = plan()
        made.data, made.teacher = SimpleNamespace(digest="0", name="rows"), SimpleNamespace(name="teacher")
        store = SimpleNamespace(stage=kept)
        found = target_stages.Emulated(stages.Stages(made, None, store, NullProgress(), {}), folder, folder)
        assert found.judged(list) is None
        return keys[-1]

    if not TARGET.needs_guest:
        pytest.skip("this host is the target's own architecture")
    assert asked() == asked()
    assert asked() != asked("there is no gcc") != asked(cpu="another")
    assert asked() != asked(cpu="another")


@pytest.mark.parametrize("rows", [evaluate.FEWEST - 1, evaluate.FEWEST + 1])
def test_a_few_held_out_rows_move_nothing(lab, rows):
    splits, folder = lab
    held = SimpleNamespace(test=splits.selection[:rows], test_labelled=False, classes=splits.classes)
    asked, file = plan(), folder / "dynamic_int8" / "model_quantized.onnx"
    asked.student = SimpleNamespace(survey=SimpleNamespace(max_size=9))
    evaluate.held_out(asked, held, folder, Model.of(file), (Model.of(file), folder), folder)
    found = evaluate.read(folder, evaluate.HELD_OUT)
    assert (found["n"], found["of"], found["here"]) == (rows, rows, 1.0)
    assert found["value"] < 0.5
    assert found["moved"] == (0.0 if rows < evaluate.FEWEST else found["value"] - 1.0)


@pytest.mark.emulator
def test_a_build_for_arm_is_judged_on_arm(emulator, tiny_teacher, tiny_data, store, tmp_path):
    """The whole way, with the real aarch64 runtime: what it chose by, what it reports, what it recorded."""
    target = loose_target(tmp_path, arch="aarch64", isa=["asimd"], microarch="cortex-a72", emulator_cpu="cortex-a72")
    done = run(
        "build", "--target", target, "--teacher", tiny_teacher, "--data", tiny_data, "--out", tmp_path / "bundle", *TINY
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "bundle" / "report.json").read_text("utf-8"))
    there, accuracy = said["on_target"], said["target_figures"]["accuracy"]
    assert "under QEMU" in there["host"]
    assert there["selection"]["trials"]["float32"]["flips"] == 0, "fp32 answers alike"
    assert there["selection"]["trials"]["float32"]["largest_difference"] < 1e-4
    assert there["selection"]["trials"]["dynamic_int8"]["n"] == there["selection"]["n"] >= evaluate.FEWEST
    assert there["cost"]["float32"]["relative"] == 1.0
    assert there["cost"]["dynamic_int8"]["classes"]["integer multiply-add"] > 0
    assert (accuracy["kind"], accuracy["host"]) == ("measured", there["host"])
    assert accuracy["n"] == there["held_out"]["n"]
    assert "selection rows, stratified." in said["on_target_says"]
    golden = json.loads((tmp_path / "bundle" / "golden" / "golden.json").read_text("utf-8"))
    assert golden["rows"] == {this_host().arch: 16, "aarch64": 16}
    assert set(golden["tolerance"]) == {this_host().arch, "aarch64", "float32"}
    with make("devices", "qemu", cpu="cortex-a72").up() as device:
        checked = device.python([str(tmp_path / "bundle" / "verify.py")])
    assert checked.returncode == 0, checked.stderr
    assert "the outputs recorded on aarch64" in checked.stdout.decode()
