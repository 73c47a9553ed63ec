"""The runtime gate: what the target's ONNX Runtime would not load ends with exit 7, before anything is trained."""

import contextlib
import json
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import invoke, loose_target
from helpers import elsewhere, fast, profile, python
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import EMBED, TEXT, save, text_model
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from edgekd import pipeline
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make, names, plugin
from edgekd.core.results import this_host
from edgekd.emulation import evaluate, preflight
from edgekd.hardware import ort_releases
from edgekd.hardware.profile import load_profile, parse_profile, target_names
from edgekd.plan import compatibility
from edgekd.plan.planning import Options, make_plan
from edgekd.store.store import Store

HERE = this_host().ort_version
FAMILIES = ("transformer", "convnet", "conv1d", "mlp")


def checked(installed=HERE, exporters=("optimum",), recipes=None, **values):
    target = profile(**values)
    compatibility.check(target, installed, recipes=target.recipes if recipes is None else recipes, exporters=exporters)


def refused(**more):
    with pytest.raises(RuntimeCannotLoad) as refusal:
        checked(**more)
    assert refusal.value.exit_code == 7
    return refusal.value.message, refusal.value.fix


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_passes_with_what_is_installed_and_costs_nothing(name):
    target = load_profile(name)
    begun = time.perf_counter()
    for family in FAMILIES:
        compatibility.check(
            target, HERE, recipes=target.recipes, exporters=compatibility.exporters(family, "huggingface", {})
        )
    assert time.perf_counter() - begun < 0.5  # a plan is to stay quick; milliseconds, on a machine that is not busy


def test_the_gate_is_decided_without_loading_anything_large():
    child = python(
        "import sys; from edgekd.hardware.profile import load_profile; from edgekd.plan import compatibility; "
        "t = load_profile('rpi4'); "
        f"compatibility.check(t, {HERE!r}, recipes=t.recipes, exporters=['optimum', 'torchscript']); "
        "print([name for name in ('onnx', 'onnxruntime', 'numpy', 'torch', 'transformers') if name in sys.modules])"
    )
    assert child.stdout.strip() == "[]", child.stderr


@pytest.mark.parametrize(
    ("values", "message", "fix"),
    [
        (
            {"installed": "1.23.2", "ort_version": "==1.17.3"},
            "onnxruntime 1.23.2, which exports and measures here, is none that rpi4 runs: "
            "its ort_version is '==1.17.3'",
            "install one that it allows, `pip install 'onnxruntime==1.17.3'`; or widen ort_version in the profile, "
            "whose oldest release decides what may be written",
        ),
        (
            {"installed": "1.21.0"},
            "onnxruntime 1.21.0, which exports and measures here, is one of known_bad_ort of rpi4",
            "install another, `pip install 'onnxruntime>=1.17,<2,!=1.21.0'`; or take it out of known_bad_ort if the "
            "device runs it",
        ),
        (
            {"installed": "1.21", "known_bad_ort": ["1.21.0"]},
            "onnxruntime 1.21, which exports and measures here, is one of known_bad_ort of rpi4",
            "install another, `pip install 'onnxruntime>=1.17,<2,!=1.21.0'`; or take it out of known_bad_ort if the "
            "device runs it",
        ),
        (
            {"ort_version": "==1.21.0"},
            "ort_version '==1.21.0' of rpi4 allows no release that edgekd knows but those of known_bad_ort (1.21.0)",
            "correct ort_version in the profile, or known_bad_ort",
        ),
        (
            {"ort_version": "<1.17,>1.18", "known_bad_ort": []},
            "ort_version '<1.17,>1.18' of rpi4 allows no release that edgekd knows",
            "correct ort_version in the profile, or known_bad_ort",
        ),
        (
            {"ort_version": ">=1.12"},
            "ort_version '>=1.12' of rpi4 allows 1.12.0; edgekd knows nothing of ONNX Runtime before 1.15.0",
            "set ort_version to '>=1.15.0' or narrower, as the device has it",
        ),
        (
            {"max_opset": 21},
            "ort_version '>=1.17,<2' of rpi4 allows 1.17.0, which loads opset 20 at most; max_opset is 21",
            "set max_opset to 20 or less, or ort_version to '>=1.18.0'",
        ),
        (
            {"max_opset": 30},
            "ort_version '>=1.17,<2' of rpi4 allows 1.17.0, which loads opset 20 at most; max_opset is 30",
            "set max_opset to 20 or less",
        ),
        (
            {"max_ir_version": 10},
            "ort_version '>=1.17,<2' of rpi4 allows 1.17.0, which loads IR version 9 at most; max_ir_version is 10",
            "set max_ir_version to 9 or less, or ort_version to '>=1.18.0'",
        ),
        (
            {"ort_version": ">=1.21", "max_opset": 22, "max_ir_version": 11, "known_bad_ort": ["1.21.0", "1.21.1"]},
            "ort_version '>=1.21' of rpi4 allows 1.21.2, which loads IR version 10 at most; max_ir_version is 11",
            "set max_ir_version to 10 or less, or ort_version to '>=1.23.0'",
        ),
        (
            {"max_opset": 13},
            "the optimum exporter writes opset 14 or higher; max_opset of rpi4 is 13",
            "set max_opset to 14 or higher, if the device's ONNX Runtime loads that: all from 1.15.0 on do",
        ),
        (
            {"max_opset": 12, "exporters": ["torchscript"]},
            "static_int8 writes what needs opset 13; max_opset of rpi4 is 12",
            "raise max_opset if the device's ONNX Runtime loads more, or leave static_int8 out",
        ),
        (
            {"recipes": ["float32", "weight_int8"]},
            "weight_int8 writes what ONNX Runtime loads from 1.23.0 on; ort_version '>=1.17,<2' of rpi4 allows 1.17.0",
            "set ort_version to '>=1.23.0' if the device has that, or leave weight_int8 out",
        ),
        (
            {"recipes": ["weight_int4"], "ort_version": ">=1.16", "max_opset": 19},
            "weight_int4 writes what ONNX Runtime loads from 1.17.0 on; ort_version '>=1.16' of rpi4 allows 1.16.0",
            "set ort_version to '>=1.17.0' if the device has that, or leave weight_int4 out",
        ),
        (
            {"installed": "absent"},
            "onnxruntime is not installed here",
            "run `pip install 'onnxruntime>=1.17,<2,!=1.21.0'`",
        ),
    ],
)
def test_what_the_targets_runtime_would_not_load(values, message, fix):
    assert refused(**values) == (message, fix)


@pytest.mark.parametrize(
    "values",
    [
        {"ort_version": f"=={HERE}", "max_opset": 20, "max_ir_version": 10},
        {"ort_version": "~=1.20", "max_opset": 21, "max_ir_version": 10},
        {"ort_version": ">=1.17,!=1.18.*", "max_opset": 20},
        {"ort_version": ">1.17.9", "max_opset": 21, "max_ir_version": 10},
        {"recipes": ["float32", "weight_int4"]},
        {"recipes": ["weight_int8"], "ort_version": ">=1.23,<2"},
        {"max_opset": 12, "per_channel": False, "exporters": ["torchscript"]},
        {"max_opset": 13, "exporters": []},
        {"installed": "1.99.0", "ort_version": ">=1.99", "max_opset": 28, "max_ir_version": 14},
        {"installed": "2.0.1", "ort_version": ">=2", "max_opset": 28, "max_ir_version": 14},
    ],
)
def test_what_it_loads(values):
    checked(**values)


@fast
@given(minor=st.integers(15, 40), patch=st.integers(0, 9), opset=st.integers(14, 30), ir=st.integers(7, 20))
def test_a_profile_passes_just_where_its_oldest_release_loads_both(minor, patch, opset, ir):
    version = Version(f"1.{minor}.{patch}")
    row = ort_releases.loads(version)
    able = opset <= row.opset and ir <= row.ir_version
    values = {"ort_version": f">={version}", "max_opset": opset, "max_ir_version": ir, "known_bad_ort": []}
    with contextlib.nullcontext() if able else pytest.raises(RuntimeCannotLoad):
        checked(installed="1.40.9", recipes=["float32"], **values)


def test_the_table_rises_and_the_installed_release_loads_what_it_says(tmp_path):
    for older, newer in zip(ort_releases.RELEASES, ort_releases.RELEASES[1:], strict=False):
        assert Version(older.version) < Version(newer.version)
        assert (older.opset, older.ir_version) < (newer.opset, newer.ir_version)
        assert older.ir_version <= newer.ir_version
    row = ort_releases.loads(Version(HERE))
    graph = onnx.load(preflight.probe(tmp_path / "probe.onnx", text=True, opset=17, ir_version=8)).graph
    relu = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["input"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("input", 1, [1])],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    for made, opset, ir in ((relu, row.opset, row.ir_version), (graph, 17, row.ir_version)):
        model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir)
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert ort_releases.loads(Version("1.14.1")) is None
    assert ort_releases.oldest(SpecifierSet(">=1.17"), (Version("1.17.0"),), Version(HERE)) == Version("1.17.1")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"ort_version": "1.17"}, "ort_version: '1.17' is no version specifier, such as '>=1.17,<2' or '==1.23.2'"),
        ({"ort_version": "=>1.17"}, "ort_version: '=>1.17' is no version specifier, such as '>=1.17,<2' or '==1.23.2'"),
        ({"known_bad_ort": ["1.21.0", "newest"]}, "known_bad_ort: 'newest' is no release; name them as '1.21.0'"),
        ({"known_bad_ort": [">1.21"]}, "known_bad_ort: '>1.21' is no release; name them as '1.21.0'"),
    ],
)
def test_versions_that_are_none_are_a_mistake_in_the_profile(values, problem):
    with pytest.raises(UsageError) as refusal:
        parse_profile(load_profile("rpi4").as_dict() | values, where="mine.yaml")
    assert (refusal.value.message, refusal.value.exit_code) == (f"mine.yaml: {problem}", 2)


@pytest.mark.parametrize(
    ("family", "kind", "architecture", "expected"),
    [
        ("transformer", "huggingface", {"model_type": "bert"}, ["optimum"]),
        ("convnet", "huggingface", {"model_type": "resnet"}, ["torchscript", "optimum"]),
        ("convnet", "efficientnet_lite", {"family": "convnet"}, ["torchscript"]),
        ("none", "huggingface", {"model_type": "bert"}, ["optimum"]),
        ("none", "onnx_model", {"model_type": "onnx", "operators": 5}, []),
    ],
)
def test_who_exports(family, kind, architecture, expected):
    assert compatibility.exporters(family, kind, architecture) == expected


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        (
            {"known_bad_ort": [HERE]},
            (),
            f"onnxruntime {HERE}, which exports and measures here, is one of known_bad_ort",
        ),
        ({"max_opset": 21}, (), "ort_version '>=1.17,<2' of loose allows 1.17.0, which loads opset 20 at most"),
        ({}, ("--force", "weight_int8"), "weight_int8 writes what ONNX Runtime loads from 1.23.0 on"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "build"])
def test_the_command_ends_with_exit_7_before_anything_is_made(
    tmp_path, tiny_teacher, tiny_data, command, changes, more, says
):
    out = ("--out", tmp_path / "out") if command == "build" else ()
    target, place = loose_target(tmp_path, **changes), tmp_path / "store"
    asked = (command, "--target", target, "--teacher", tiny_teacher, "--data", tiny_data, *more, *out, "--json")
    done = invoke(*asked, env={"EDGEKD_STORE": str(place)})
    assert (done.returncode, done.stderr) == (7, "")
    said = json.loads(done.stdout)
    assert says in said["error"]
    assert (bool(said["fix"]), said["exit"]) == (True, 7)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "out").exists()


def test_a_given_graph_above_the_ceiling_ends_with_exit_7_while_planning(tmp_path, tiny_data):
    path = save(tmp_path, text_model(EMBED, opset=22))
    done = invoke(
        "plan",
        "--target",
        loose_target(tmp_path),
        "--student",
        "none",
        "--task",
        EMBED,
        "--teacher",
        path,
        "--data",
        tiny_data,
    )
    assert done.returncode == 7, done.stderr
    assert "the teacher model.onnx has opset 22; the target loose knows 20" in done.stderr
    assert "fix: export it again with opset 20, or raise max_opset in the profile" in done.stderr


# on the target's core


@dataclass(frozen=True)
class Planned:
    """What of a plan the gate looks at."""

    target: object
    task: str = TEXT
    force: str | None = None
    emulate_minutes: float = 0.5

    @property
    def made_task(self):
        return make("tasks", self.task)


class Heard(NullProgress):
    def __init__(self):
        self.lines = []

    def stage(self, name, total=None):
        self.lines.append(name)

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def there(monkeypatch):
    """An emulator that is a list of its jobs; `refuses` is what it raises for the models in `bad`."""
    emulator = SimpleNamespace(jobs=[], bad=(), refuses=RuntimeCannotLoad("it dies", fix="nothing"))

    def answer(mode, **job):
        emulator.jobs.append((mode, job))
        asked = job.get("models", {}) or {job["model"].rpartition("/")[2].removesuffix(".onnx"): None}
        if set(asked) & set(emulator.bad):
            raise emulator.refuses
        return {}

    @contextlib.contextmanager
    def up():
        yield SimpleNamespace(run=answer, host="an emulator")

    monkeypatch.setattr(evaluate, "why_not", lambda plan: None)
    monkeypatch.setattr(preflight, "make", lambda kind, name, cpu: SimpleNamespace(up=up))
    return emulator


PLANNED = Planned(elsewhere(emulator_cpu="cortex-a72"))


def test_each_recipe_runs_on_the_core_once(there, tmp_path):
    heard = Heard()
    for _ in range(2):
        preflight.check(replace(PLANNED, force="weight_int4"), Store(tmp_path), heard)
    assert [(mode, list(job["models"])) for mode, job in there.jobs] == [
        ("answers", ["float32", "dynamic_int8", "static_int8", "weight_int4"])
    ]
    assert heard.lines == ["runtime gate: the recipes' operators on cortex-a72"]
    preflight.check(replace(PLANNED, task="image-classification"), Store(tmp_path), heard)
    assert len(there.jobs) == 2


def test_a_recipe_that_the_core_refuses_is_named_and_asked_again_the_next_time(there, tmp_path):
    there.bad = ("static_int8",)
    for _ in range(2):
        with pytest.raises(RuntimeCannotLoad) as refusal:
            preflight.check(PLANNED, Store(tmp_path), NullProgress())
        assert refusal.value.message == "Raspberry Pi 4 Model B will not run what static_int8 writes: it dies"
        assert refusal.value.fix == (
            "install another onnxruntime and note this one in the profile's known_bad_ort; or leave static_int8 out"
        )
    assert [mode for mode, _ in there.jobs] == ["answers", "predict", "predict", "predict"] * 2


def test_a_runtime_that_dies_on_the_core_is_no_recipes_fault(there, tmp_path):
    there.bad = ("float32", "dynamic_int8", "static_int8")
    with pytest.raises(RuntimeCannotLoad) as refusal:
        preflight.check(PLANNED, Store(tmp_path), NullProgress())
    assert refusal.value.fix == "install another onnxruntime and note this one in the profile's known_bad_ort"


def test_an_emulator_that_fails_costs_no_build(there, tmp_path):
    there.bad, there.refuses = ("float32",), EdgeKDError("it took too long", fix="wait")
    heard = Heard()
    preflight.check(PLANNED, Store(tmp_path), heard)
    assert heard.lines[1:] == [
        "runtime gate: no recipe was run on the target's core, the emulator failed: it took too long"
    ]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Planned(profile()), []),
        (Planned(elsewhere(emulator_cpu=None)), ["its profile names no emulator_cpu"]),
        (Planned(load_profile("gpu-t4")), ["there is no emulator of Server with one NVIDIA T4"]),
    ],
)
def test_where_nothing_is_run_there_it_says_so_and_why(plan, says, tmp_path):
    heard = Heard()
    preflight.check(plan, Store(tmp_path), heard)
    assert heard.lines == [f"runtime gate: no recipe was run on the target's core: {why}" for why in says]
    assert list(tmp_path.iterdir()) == []


def test_a_build_asks_before_it_sizes_or_teaches(tmp_path, tiny_teacher, tiny_data, monkeypatch):
    def refuse(plan, store, progress):
        raise RuntimeCannotLoad(f"{plan.target.name} would not", fix="another")

    monkeypatch.setattr(pipeline.preflight, "check", refuse)
    monkeypatch.setattr(pipeline.fitting, "fit", lambda *_: pytest.fail("it went on"))
    store = Store(tmp_path / "store")
    plan, splits = make_plan(Options("rpi4", teacher=str(tiny_teacher), data=str(tiny_data)), store)
    with pytest.raises(RuntimeCannotLoad, match="rpi4 would not"):
        pipeline.build(plan, splits, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
@pytest.mark.parametrize("opset", [14, 18])
def test_the_probes_run_here_and_hold_what_the_recipes_write(task, opset, tmp_path):
    able = [name for name in names("quantizers") if "CPUExecutionProvider" in plugin("quantizers", name).providers]
    text = task == "text-classification"
    made = preflight._probes(Planned(profile(recipes=able, max_opset=opset), task=task), tmp_path)
    assert set(made) == set(able) - (set() if text else {"embeddings_int8"})
    said = {}
    for name, file in made.items():
        model = onnx.load(file)
        assert max(entry.version for entry in model.opset_import) == opset
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        said[name] = session.run(None, preflight._sample(text=text))[0]
        assert name == "float32" or {"MatMulInteger", "ConvInteger", "DequantizeLinear", "MatMulNBits"} & {
            node.op_type for node in model.graph.node
        }
        np.testing.assert_allclose(said[name], said["float32"], atol=0.3)  # four bits lose the most


@pytest.mark.emulator
def test_the_real_runtime_runs_the_recipes_on_the_real_core(emulator, tmp_path):
    target = load_profile("rpi4")
    target = target.model_copy(update={"recipes": [*target.recipes, "embeddings_int8", "weight_int4", "weight_int8"]})
    for task in ("text-classification", "image-classification"):
        heard = Heard()
        begun = time.monotonic()
        preflight.check(Planned(target, task=task), Store(tmp_path), heard)
        first, begun = time.monotonic() - begun, time.monotonic()
        preflight.check(Planned(target, task=task), Store(tmp_path), heard)
        assert heard.lines == ["runtime gate: the recipes' operators on cortex-a72"]
        assert time.monotonic() - begun < first / 4
