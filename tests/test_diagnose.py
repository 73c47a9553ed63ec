"""Diagnosis: the layer that was spoilt is named, and kept in float it mends the model; mistakes are refused."""

import itertools
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import invoke
from helpers import WIDTH, fast, feeds, looping_model, matmul_model, random_weights, relu_model, samples, save_graph
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgekd.cli.diagnose import diagnose as command
from edgekd.compression import examine
from edgekd.compression.diagnose import Diagnosis, Group, Layer, diagnose, what_if
from edgekd.compression.side_by_side import EXACT, merge
from edgekd.compression.sqnr import LIMIT_DB, Ratios
from edgekd.core.errors import DataError, EdgeKDError, RuntimeCannotLoad, TeacherError, UsageError
from edgekd.core.model import Model
from edgekd.core.registry import make
from edgekd.onboard.runner import open_session, pack
from edgekd.report.page import render

ROWS, CALIBRATION = samples(3, 5, 2), samples(*[2, 4] * 8, seed=3)


def deep(path, spoilt=None):
    """Three layers of two matrices and a Relu; one weight of the spoilt layer dwarfs the others, on zeros."""
    nodes, weights, last = [], {}, "x"
    for layer in range(3):
        for part in ("up", "down"):
            weights[f"w{layer}{part}"] = random_weights(WIDTH, WIDTH, seed=layer * 7 + len(part))
            name = f"/layer.{layer}/{part}"
            nodes.append(helper.make_node("MatMul", [last, f"w{layer}{part}"], [f"{name}/out"], f"{name}/MatMul"))
            last = f"{name}/out"
        nodes.append(helper.make_node("Relu", [last], [f"r{layer}"], f"/layer.{layer}/Relu"))
        last = f"r{layer}"
    if spoilt is not None:
        weights[f"w{spoilt}up"][0, 0] = 500.0
        weights[f"w{spoilt - 1}down"][:, 0] = 0.0
    nodes.append(helper.make_node("MatMul", [last, "v"], ["y"], "/head/MatMul"))
    return save_graph(path, nodes, [1, "tokens", 4], v=random_weights(WIDTH, 4, seed=99), **weights)


def convolutions(path):
    """Two convolutions, a Clip between them: ONNX Runtime's quantizer leaves the Clip out."""
    weights = {
        "a": np.random.default_rng(0).normal(0, 0.5, (8, 3, 3, 3)).astype(np.float32),
        "b": np.random.default_rng(1).normal(0, 0.5, (4, 8, 3, 3)).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["first"], "first"),
        helper.make_node("Clip", ["first", "low", "high"], ["clipped"], "clip"),
        helper.make_node("Conv", ["clipped", "b"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def quantized(recipe, model, out, **options):
    make("quantizers", recipe, **options).quantize(model, out, CALIBRATION)
    return out


def outputs(path, rows=ROWS):
    session = open_session(str(path), threads=1)
    return [session.run(None, feed)[0] for feed in feeds(session, rows)]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt")
    model = deep(folder / "model.onnx", spoilt=1)
    return model, quantized("dynamic_int8", model, folder / "quantized.onnx", per_channel=False)


@pytest.mark.parametrize("recipe", ["dynamic_int8", "static_int8", "weight_int8", "weight_int4"])
def test_every_integer_recipe_is_compared_layer_by_layer(recipe, tmp_path):
    model = deep(tmp_path / "model.onnx")
    found = diagnose(model, quantized(recipe, model, tmp_path / "q.onnx"), ROWS, threads=1)
    matrices = [layer.name for layer in found.layers if layer.op == "MatMul"]
    assert matrices == [f"/layer.{at}/{part}/MatMul" for at in range(3) for part in ("up", "down")] + ["/head/MatMul"]
    assert all(5 < layer.sqnr_db < 80 for layer in found.layers if layer.op == "MatMul")
    assert all(layer.weight_mib == 4 * WIDTH * WIDTH / 2**20 for layer in found.layers[:2] if layer.op == "MatMul")
    assert found.layers[0].macs == pytest.approx(WIDTH * WIDTH * np.mean([3, 5, 2]))


def test_own_error_does_not_grow_with_depth_as_the_accumulated_does(spoilt):
    found = diagnose(*spoilt, ROWS, threads=1)
    by_name = {layer.name: layer for layer in found.layers}
    worst = min(found.layers, key=lambda layer: layer.sqnr_db)
    assert worst.name == "/layer.1/up/MatMul"
    after = by_name["/layer.2/down/MatMul"]
    assert after.sqnr_db > worst.sqnr_db + 10, "a sound layer behind the spoilt one"
    assert after.accumulated_sqnr_db < worst.sqnr_db + 10


def test_the_accumulated_error_is_the_quantized_models_own(spoilt):
    found = diagnose(*spoilt, ROWS, threads=1)
    ratios = Ratios()
    for right, said in zip(*map(outputs, spoilt), strict=True):
        ratios.add("y", right, said)
    assert found.output_sqnr_db == found.layers[-1].accumulated_sqnr_db
    assert found.output_sqnr_db == pytest.approx(ratios.sqnr_db("y"), abs=0.05)


def test_kept_in_float_what_is_named_mends_the_model(spoilt, tmp_path):
    model, candidate = spoilt
    found = diagnose(model, candidate, ROWS, threads=1)
    recipe = make("quantizers", "dynamic_int8", per_channel=False)
    (label, nodes), *_ = found.suggestions(most=1)
    assert (label, nodes) == ("/layer.1/up/MatMul", ("/layer.1/up/MatMul",)), "before the group: the loss is its own"

    def judge(made):
        return {"output_sqnr_db": diagnose(model, made.file, ROWS, threads=1).output_sqnr_db}

    def quantize(folder, keep):
        recipe.quantize(model, folder / "model.onnx", (), keep=keep)
        return Model.of(folder / "model.onnx")

    bought = what_if(found, judge(Model.of(candidate)), quantize, judge, most=2)
    assert bought[0].label == label
    assert bought[0].change["output_sqnr_db"] > 5


def test_what_leaves_nothing_to_quantize_is_passed_over(tmp_path):
    model = matmul_model(tmp_path / "model.onnx")
    found = diagnose(model, quantized("dynamic_int8", model, tmp_path / "q.onnx"), ROWS, threads=1)

    def refuse(out, keep):
        raise EdgeKDError("nothing was quantized", fix="")

    assert what_if(found, {"speed": 1.0}, refuse, lambda file: {"speed": 2.0}) == ()


def test_groups_fold_the_numbers_of_layers(spoilt):
    found = diagnose(*spoilt, ROWS, threads=1)
    assert {group.label: len(group.layers) for group in found.groups} == {
        "/layer.*/up/MatMul": 3,
        "/layer.*/down/MatMul": 3,
        "/head/MatMul": 1,
    }
    assert found.groups[0].label == "/layer.*/up/MatMul"
    assert found.groups[0].nodes == tuple(f"/layer.{at}/up/MatMul" for at in range(3))


def test_blocks_of_other_widths_stay_apart(tmp_path):
    widths, nodes, weights, last = [WIDTH, 16, 8, 8, 8], [], {}, "x"
    for at, (ins, outs) in enumerate(itertools.pairwise(widths)):
        weights[f"w{at}"] = random_weights(ins, outs, seed=at)
        nodes.append(
            helper.make_node("MatMul", [last, f"w{at}"], [f"t{at}" if at < 3 else "y"], f"/blocks.{at}/MatMul")
        )
        last = f"t{at}"
    model = save_graph(tmp_path / "m.onnx", nodes, [1, "tokens", 8], **weights)
    found = diagnose(model, quantized("dynamic_int8", model, tmp_path / "q.onnx"), ROWS, threads=1)
    labels = {group.label: len(group.layers) for group in found.groups}
    assert labels == {"/blocks.0/MatMul": 1, "/blocks.1/MatMul": 1, "/blocks.2/MatMul and 1 like it": 2}


def test_an_activation_that_is_lost_needs_all_its_readers_in_float(tmp_path):
    """One value of what both matrices read dwarfs the others: kept in float, one alone would still read it rounded."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["big"], "scaling"),
        helper.make_node("MatMul", ["big", "a"], ["left"], "left"),
        helper.make_node("MatMul", ["big", "b"], ["right"], "right"),
        helper.make_node("Mul", ["left", "right"], ["y"], "product"),
    ]
    scale = np.ones(WIDTH, np.float32)
    scale[0] = 1e4
    a, b = random_weights(WIDTH, WIDTH), random_weights(WIDTH, WIDTH, seed=1)
    a[0] = b[0] = 0  # the large value says nothing: all that counts is rounded away
    model = save_graph(tmp_path / "m.onnx", nodes, [1, "tokens", WIDTH], scale=scale, a=a, b=b)
    found = diagnose(model, quantized("static_int8", model, tmp_path / "q.onnx"), ROWS, threads=1)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["left"].sqnr_db < 3
    assert set(by_name["left"].nodes) == set(by_name["right"].nodes) == {"left", "right"}


def test_a_clip_that_rounding_replaces_is_no_error(tmp_path):
    model = convolutions(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    rows = [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(12)]
    make("quantizers", "static_int8").quantize(model, tmp_path / "q.onnx", rows)
    assert "clip" not in {node.name for node in onnx.load(tmp_path / "q.onnx").graph.node}
    found = diagnose(model, tmp_path / "q.onnx", rows[:4], threads=1)
    assert [layer.name for layer in found.layers] == ["first", "second"]
    assert all(layer.sqnr_db > 20 for layer in found.layers)


def test_with_every_switch_off_the_merged_graph_is_fp32(spoilt, tmp_path):
    merged = merge(*spoilt)
    onnx.save(merged.model, tmp_path / "merged.onnx")
    session = open_session(str(tmp_path / "merged.onnx"), threads=1)
    off = dict.fromkeys([EXACT, *(site.switch for site in merged.sites)], np.array(False))
    for sample, right in zip(ROWS, outputs(spoilt[0]), strict=True):
        np.testing.assert_allclose(session.run([*merged.outputs], {"x": sample["x"], **off})[0], right, rtol=1e-5)


@fast
@given(st.floats(-60, 60), st.integers(1, 4))
def test_sqnr_is_the_ratio_of_powers_over_all_samples(wanted_db, parts):
    random = np.random.default_rng(0)
    right = random.normal(size=(parts, 50))
    ratios = Ratios()
    for row in right:
        ratios.add("x", row, row * (1 + 10 ** (-wanted_db / 20)))
    assert ratios.sqnr_db("x") == pytest.approx(wanted_db, abs=0.01)


def test_masks_and_exact_values_have_their_place():
    ratios = Ratios()
    ratios.add("exact", np.ones(3), np.ones(3))
    ratios.add("mask", np.array([1.0, -3e38, -np.inf]), np.array([1.1, 0.0, 0.0]))
    ratios.add("broken", np.ones(2), np.array([1.0, np.nan]))
    assert ratios.sqnr_db("exact") == LIMIT_DB
    assert ratios.sqnr_db("mask") == pytest.approx(20, abs=0.01)
    assert ratios.sqnr_db("broken") == -LIMIT_DB
    assert ratios.sqnr_db("never") is None


def test_cheap_and_harmful_comes_first():
    def group(label, output_db, mib):
        return Group(label, 20.0, output_db, mib, 0.0, (label,), (label,))

    def layer(name, mib):
        return Layer(name, "MatMul", 20.0, 20.0, mib, 0.0, (name,))

    parts = [("cheap", 10.0, 0.1), ("dear", 10.0, 10.0), ("harmless", 50.0, 0.1)]
    made = Diagnosis(
        tuple(layer(n, mib) for n, _, mib in parts), tuple(group(*part) for part in reversed(parts)), 8.0, 12.0, 1
    )
    assert [label for label, _ in made.suggestions()] == ["cheap", "dear", "harmless"]
    assert len(made.suggestions(most=2)) == 2


def test_a_diagnosis_survives_json(spoilt):
    found = diagnose(*spoilt, ROWS, threads=1)
    assert Diagnosis.read(json.loads(json.dumps(found.as_dict(), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), (b"no model at all", "is not an ONNX model"), (b"", "is not an ONNX model")],
)
def test_what_is_no_model_is_refused(content, message, spoilt, tmp_path):
    if content is not None:
        (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(DataError, match=message) as refusal:
        diagnose(spoilt[0], tmp_path / "bad.onnx", ROWS, threads=1)
    assert ".onnx file" in refusal.value.fix


def test_what_cannot_be_compared_is_refused(spoilt, tmp_path):
    with pytest.raises(EdgeKDError, match=r"has no quantized layer that stands in model\.onnx too"):
        diagnose(spoilt[0], spoilt[0], ROWS, threads=1)
    with pytest.raises(RuntimeCannotLoad, match="refuses the two models side by side"):
        diagnose(relu_model(tmp_path / "other.onnx"), spoilt[1], ROWS, threads=1)
    make("quantizers", "float16").quantize(spoilt[0], tmp_path / "half.onnx", ())
    with pytest.raises(EdgeKDError, match="half-precision"):
        diagnose(spoilt[0], tmp_path / "half.onnx", ROWS, threads=1)
    with pytest.raises(DataError, match="has no inputs"):
        diagnose(*spoilt, [], threads=1)
    with pytest.raises(DataError, match="the inputs lack x, which the model takes; they hold z"):
        diagnose(*spoilt, [{"z": np.zeros(1)}], threads=1)
    with pytest.raises(DataError, match="does not run on these inputs"):
        diagnose(*spoilt, [{"x": np.zeros((1, 2, 3), np.float32)}], threads=1)


def run(*arguments):
    done = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_says_what_was_lost_and_what_float_would_buy(tmp_path):
    model = matmul_model(tmp_path / "model.onnx")
    rows = [{"x": sample["x"]} for sample in samples(3, 4, 5, 6)]
    pack(rows, tmp_path / "rows.npz")
    arguments = [model, "--recipe", "dynamic_int8,per_channel=false", "--data", tmp_path / "rows.npz"]
    said = json.loads(run(*arguments, "--json"))["diagnosis"]
    assert said["of"] == "dynamic_int8,per_channel=false"
    assert said["samples"] == 2
    assert set(said["candidate"]) == {"agreement", "output_sqnr_db", "artifact_mib", "speed"}
    kept = {one["label"]: one["change"] for one in said["what_if"]}
    assert kept["layer"]["artifact_mib"] > 0
    assert kept["layer"]["output_sqnr_db"] > 0
    text = run(*arguments)
    for words in ("2 quantized layers, 2 samples", "own SQNR, dB", "share of weights", "left in float", "(as it is)"):
        assert words in text


def test_the_command_takes_a_quantized_file(spoilt, tmp_path):
    pack([{"x": sample["x"]} for sample in ROWS], tmp_path / "rows.npz")
    text = run(spoilt[0], "--quantized", spoilt[1], "--data", tmp_path / "rows.npz")
    worst = text.split("\n\n")[1].splitlines()[1]
    assert worst.startswith("/layer.1/up/MatMul")
    assert "left in float" not in text, "no recipe is known to try it with"


@pytest.mark.parametrize("free", [-1, *(pytest.param(one, marks=pytest.mark.slow) for one in (None, 0))])
def test_the_command_takes_nodes_without_names_and_free_sizes_as_numbers(free, tmp_path):
    model = onnx.load(deep(tmp_path / "m.onnx", spoilt=1))
    for node in model.graph.node:
        node.name = ""
    if free is not None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = free
    onnx.save(model, tmp_path / "m.onnx")
    pack([{"x": sample["x"]} for sample in samples(4, 4, 4, 4)], tmp_path / "rows.npz")
    found = json.loads(run(tmp_path / "m.onnx", "--data", tmp_path / "rows.npz", "--json"))["diagnosis"]
    names = [layer["name"] for layer in found["layers"]]
    assert "MatMul_3" in names, "the spoilt layer's"
    assert len(set(names)) == len(names)
    assert found["what_if"], "layers with names can be left in float"
    assert {node for one in found["what_if"] for node in one["nodes"]} <= set(names)


def test_the_command_reads_a_bundles_report(spoilt, tmp_path):
    said = json.loads(json.dumps({"of": "dynamic_int8", **diagnose(*spoilt, ROWS, threads=1).as_dict()}))
    for folder, diagnosis, recipe in (("a", said, "dynamic_int8"), ("b", None, "float32"), ("c", None, "static_int8")):
        (tmp_path / folder).mkdir()
        kept = {"diagnosis": diagnosis, "choice": {"recipe": recipe}}
        (tmp_path / folder / "report.json").write_text(json.dumps(kept), encoding="utf-8")
    assert "/layer.1/up/MatMul" in run(tmp_path / "a")
    assert json.loads(run(tmp_path / "a", "--json"))["diagnosis"] == said
    assert "ships float32" in run(tmp_path / "b")
    with pytest.raises(UsageError, match="made no diagnosis"):
        run(tmp_path / "c")
    with pytest.raises(UsageError, match="is no bundle"):
        run(tmp_path)
    with pytest.raises(UsageError, match="is a folder") as refusal:
        run(tmp_path / "a", "--data", "x.csv")
    assert "leave out --recipe" in refusal.value.fix


def test_the_commands_mistakes_are_refused(spoilt, tmp_path):
    pack([{"x": sample["x"]} for sample in ROWS], tmp_path / "rows.npz")
    pack([{"x": ROWS[0]["x"]}], tmp_path / "one.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    model, rows = spoilt[0], tmp_path / "rows.npz"
    for arguments, message in (
        ([model], "needs real inputs"),
        ([tmp_path / "no.onnx", "--data", rows], "there is no file"),
        ([model, "--data", tmp_path / "no.npz"], "there is no file"),
        ([model, "--data", tmp_path / "bad.npz"], "holds no packed samples"),
        ([model, "--data", tmp_path / "other.npz"], "holds no packed samples"),
        ([model, "--data", tmp_path / "one.npz"], "holds 1 row"),
        ([model, "--data", rows, "--recipe", "int8"], "no quantizer called 'int8'"),
        ([model, "--data", rows, "--recipe", "static_int8,rows=3"], "no option 'rows'"),
        ([model, "--data", rows, "--recipe", "static_int8,symmetric=3"], "symmetric cannot be '3'"),
    ):
        with pytest.raises(EdgeKDError, match=message) as refusal:
            run(*arguments)
        assert refusal.value.fix


def test_a_strangers_model_is_refused_before_it_runs_without_end(spoilt, tmp_path):
    pack([{"x": sample["x"]} for sample in ROWS], tmp_path / "rows.npz")
    loop = looping_model(tmp_path / "loop.onnx", 2 * 10**12)
    for models in ([loop], [spoilt[0], "--quantized", loop]):
        with pytest.raises(TeacherError, match=r"loop\.onnx has control flow \(1 x Loop\): what a run") as refusal:
            run(*models, "--data", tmp_path / "rows.npz")
        assert "unrolls them" in refusal.value.fix
        assert "--allow-loops" not in refusal.value.fix, "diagnose has no such option"


def test_a_strangers_model_without_a_loop_is_run_with_limits_first(spoilt, tmp_path):
    pack([{"x": sample["x"]} for sample in ROWS], tmp_path / "rows.npz")
    pack([{"z": sample["x"]} for sample in ROWS], tmp_path / "others.npz")
    nodes = [
        helper.make_node("ConstantOfShape", ["terabytes"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    large = save_graph(tmp_path / "large.onnx", nodes, [1, "tokens", WIDTH], terabytes=np.array([2**20, 2**20]))
    for models in ([large], [spoilt[0], "--quantized", large]):
        with pytest.raises(TeacherError, match=r"large\.onnx"):
            run(*models, "--data", tmp_path / "rows.npz")
    with pytest.raises(DataError, match=r"the inputs lack x, which .*model\.onnx takes; they hold z"):
        run(spoilt[0], "--data", tmp_path / "others.npz")


def test_a_recipes_options_are_read():
    assert examine.recipe("static_int8,symmetric=true,method=entropy").symmetric is True
    assert examine.recipe("static_int8,calibration_rows=9").calibration_rows == 9


def test_the_report_shows_it(spoilt):
    found = diagnose(*spoilt, ROWS, threads=1)
    said = {"of": "a<b|c", **found.as_dict()}
    said["what_if"] = [{"label": "x", "nodes": ["n"], "change": {"agreement": 0.021, "speed": -0.2}}]
    text = render("_diagnosis.html", {"diagnosis": said})
    assert text.count('class="decibel"') == min(5, len(found.layers))
    assert "<script" not in text
    assert "a<b" not in text
    assert "1. /layer.1/up/MatMul" in text.replace("<wbr>", "")
    text = render("_diagnosis.md", {"diagnosis": said})
    assert "| /layer.1/up/MatMul | " in text
    assert "| x | 1 | +2.1 | -0.20 |" in text
    for name in ("_diagnosis.html", "_diagnosis.md"):
        assert "nothing is lost" in render(name, {"diagnosis": None})


def test_single_layers_share_their_groups_loss_by_their_own():
    def layer(name, sqnr_db, macs=1.0):
        return Layer(name, "MatMul", sqnr_db, sqnr_db, 1.0, macs, (name,))

    layers = (layer("a.0", 40.0), layer("a.1", 10.0), layer("b", 20.0), layer("unnamed", 5.0))
    layers = (*layers[:3], replace(layers[3], nodes=()))
    groups = (
        Group("a.*", 13.0, 12.0, 2.0, 2.0, ("a.0", "a.1"), ("a.0", "a.1")),
        Group("b", 20.0, 20.0, 1.0, 1.0, ("b",), ("b",)),
        Group("unnamed", 5.0, 3.0, 1.0, 1.0, ("unnamed",), ()),
    )
    found = Diagnosis(layers, groups, 10.0, 4.0, 1)
    assert [name for name, _ in found.places(most=9)] == ["a.1", "b", "a.0"], "what has no name cannot be kept"
    assert found.places(most=1) == [("a.1", ("a.1",))]
    assert [name for name, _ in found.from_input(most=9)] == ["a.0", "a.1", "b"]


@pytest.mark.parametrize(
    "report",
    [
        "{}",
        "[]",
        "1",
        '{"choice": 1}',
        "{",
        "\0",
        "[" * 100_000,
        '{"diagnosis": {}, "choice": {"recipe": "int8"}}',
        '{"diagnosis": {"layers": [{}]}}',
        '{"diagnosis": 7}',
        '{"diagnosis": {"total_weight_mib": 1, "layers": 5}}',
    ],
)
def test_a_stranger_s_report_is_told(tmp_path, report):
    (tmp_path / "report.json").write_text(report)
    done = invoke("diagnose", tmp_path)
    assert done.returncode == 2
    assert "is not as edgekd writes it" in done.stderr or "made no diagnosis" in done.stderr
