"""Every plug-in keeps its contract: found by its file's name, frozen, described, and listed without being imported."""

import dataclasses
import doctest
import importlib
import inspect
import re
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from helpers import python

import edgekd
from edgekd.core import protocols, registry
from edgekd.core.errors import UsageError
from edgekd.core.protocols import InputSpec, lacking
from edgekd.core.registry import PROTOCOLS, make, names, plugin
from edgekd.plan import planning
from edgekd.plan.options import Options, check_ranges
from edgekd.students.whisper import Whisper

NEEDED = {"ssh": {"host": "board"}}  # options without a default
PLUGINS = [(kind, name) for kind in PROTOCOLS for name in names(kind)]

WHISPER = Whisper(4, 4, 384, 1536, 1536, 51865, 80, 30, 448, 6)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_folder_lists_its_files(kind):
    folder = importlib.import_module(f"edgekd.{kind}")
    assert folder.__doc__
    files = importlib.resources.files(folder).iterdir()
    expected = {file.name.removesuffix(".py") for file in files if file.name.endswith(".py")}
    assert set(names(kind)) == {name for name in expected if not name.startswith("_")} != set()


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_keeps_the_contract(kind, name):
    found = plugin(kind, name)
    assert found.__module__ == f"edgekd.{kind}.{name}"
    assert found.__name__.lower() == name.replace("_", "")
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen
    assert found.__bases__ == (object,), "there is nothing to inherit from"
    assert not found.__doc__.startswith(f"{found.__name__}("), "a docstring of its own"
    assert inspect.getmodule(found).__doc__
    assert lacking(found, getattr(protocols, PROTOCOLS[kind])) == []


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PLUGINS if pair[0] != "students"])
def test_a_plugin_is_made_by_name_and_its_repr_is_its_options(kind, name):
    made = make(kind, name.replace("_", "-"), **NEEDED.get(name, {}))
    assert eval(repr(made), {type(made).__name__: type(made)}) == made
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


@pytest.mark.parametrize("name", names("devices"))
def test_a_device_says_what_it_emulates(name):
    assert plugin("devices", name).emulated in ("", "user", "system")


@pytest.mark.parametrize("name", names("losses"))
def test_a_loss_says_what_it_needs(name):
    assert set(plugin("losses", name).needs) <= {"logits", "features", "attention", "embedding", "exits", "text"}


@pytest.mark.parametrize("name", names("quantizers"))
def test_a_recipe_names_its_files_as_transformers_js_expects(name):
    found = plugin("quantizers", name)
    assert found.suffix in ("", "_fp16", "_quantized", "_q4")
    assert isinstance(found().calibrates, bool)


@pytest.mark.parametrize("name", names("students"))
def test_a_family_offers_relief_that_planning_accepts(name):
    text = {"layers": 2, "hidden": 64, "heads": 2, "feed_forward": 256, "vocabulary": 900, "max_tokens": 64}
    for size in (8, 15, 16, 28, 224):
        survey = InputSpec(size, (size,), channels=3, vocabulary=600)
        teacher = {"family": "whisper", "shape": WHISPER.as_dict()} if name == "whisper" else text
        said = plugin("students", name).ladder(teacher, survey, classes=3)[-1].how_to_shrink()
        assert isinstance(said, str)
        assert (said == "") == ("--" not in said)
        for option, value in re.findall(r"--([a-z-]+) (\d+)", said):
            check_ranges(Options("rpi4", **{option.replace("-", "_"): int(value)}))


_HEAVY = """
import sys
from edgekd.core.registry import names, plugin
kinds = sys.argv[1].split()
listed = [(kind, name) for kind in kinds for name in names(kind)]
ours = [module.split(".")[1] for module in sys.modules if module.startswith("edgekd.")]
assert listed and set(ours) <= {"core", "_version"}
for kind, name in listed:
    plugin(kind, name)
heavy = {"torch", "transformers", "onnx", "onnxruntime", "optimum", "neural_compressor", "datasets", "tokenizers"}
print(sorted(heavy & set(sys.modules)))
"""


def test_listing_imports_no_plugin_and_loading_imports_no_library():
    done = python(_HEAVY, " ".join(PROTOCOLS))
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_options_reach_the_plugin():
    assert make("losses", "response", temperature=4.0).temperature == 4.0


@pytest.mark.parametrize(
    ("kind", "name", "message", "fix"),
    [
        (
            "quantizers",
            "dynamic_int",
            "there is no quantizer called 'dynamic_int'",
            f"did you mean 'dynamic_int8'? choose one of: {', '.join(names('quantizers'))}",
        ),
        (
            "tasks",
            "text-clasification",
            "there is no task called 'text-clasification'",
            f"did you mean 'text-classification'? choose one of: {', '.join(names('tasks')).replace('_', '-')}",
        ),
        (
            "losses",
            "respnse",
            "there is no loss called 'respnse'",
            f"did you mean 'response'? choose one of: {', '.join(names('losses'))}",
        ),
        ("searches", "x", "there is no search called 'x'", "choose one of: neural_compressor"),
        ("devices", "", "there is no device called ''", "choose one of: guest, local, qemu, ssh"),
        (
            "quantizers",
            "_onnx",
            "there is no quantizer called '_onnx'",
            f"choose one of: {', '.join(names('quantizers'))}",
        ),
        (
            "devices",
            "../losses/response",
            "there is no device called '../losses/response'",
            "choose one of: guest, local, qemu, ssh",
        ),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(kind, name, message, fix):
    with pytest.raises(UsageError) as refusal:
        plugin(kind, name)
    assert (refusal.value.message, refusal.value.fix) == (message, fix)


@pytest.fixture
def outside(monkeypatch):
    """A package that adds a loss of its own, and one by the name of one of ours."""
    held = {"mean_squares": "MeanSquares", "response": "MeanSquares", "older": "OlderLoss"}
    points = [EntryPoint(name, f"outside_plugins:{of}", "edgekd.losses") for name, of in held.items()]
    caches = (registry.names, registry._outside, registry._all_outside)
    monkeypatch.setattr(registry, "entry_points", lambda: EntryPoints(points))
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_a_package_outside_adds_its_own(outside):
    assert set(names("losses")) >= {"hard_labels", "mean_squares", "response"}
    assert plugin("losses", "mean-squares").__name__ == "MeanSquares"
    assert "mean_squares" not in names("tasks")


def test_a_package_outside_takes_the_place_of_none_of_ours_and_can_be_named(outside):
    assert plugin("losses", "response").__module__ == "edgekd.losses.response"
    assert registry.made_elsewhere("losses", "response") == registry.made_elsewhere("losses", "absent") == ""
    assert registry.made_elsewhere("losses", "mean-squares") == "an unknown package"
    used = {"losses": ["mean-squares", "response"], "tasks": ["text-classification"]}
    assert planning._of_others(used) == {"losses/mean_squares": "an unknown package"}


def test_a_package_of_an_older_edgekd_is_refused_by_name_with_what_it_lacks(outside):
    with pytest.raises(UsageError, match=r"'older' of an unknown package .* a Loss also has kind") as caught:
        plugin("losses", "older")
    assert "install a release of that package" in caught.value.fix


@pytest.mark.slow
def test_a_plugin_with_a_misspelled_method_fails_the_check(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    monkeypatch.setenv("MYPYPATH", str(Path(__file__).parent))
    check_plugins = importlib.import_module("check_plugins")
    said, code = check_plugins.check([("Search", "outside_plugins", "MisspelledSearch")])
    assert code == 1
    assert 'got "MisspelledSearch", expected "Search"' in said
    assert [protocol for protocol, _, name in check_plugins.ours() if name == "NeuralCompressor"] == ["Search"]


@pytest.mark.parametrize("module", ["edgekd", "edgekd.core.layers", "edgekd.core.protocols", "edgekd.students._images"])
def test_the_examples_in_docstrings_are_true(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0


def test_importing_edgekd_costs_nothing():
    done = python("import sys, edgekd; print(sorted(m for m in sys.modules if m.startswith('edgekd')))")
    assert done.stdout == "['edgekd', 'edgekd._version']\n"
    with pytest.raises(AttributeError, match="module 'edgekd' has no attribute 'biuld'"):
        _ = edgekd.biuld
