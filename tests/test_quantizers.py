"""Recipes: each writes a model that loads and says nearly what fp32 says, or refuses; none is a silent no-op."""

import logging
import sys
import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from helpers import matmul_model, profile, relu_model, samples

from edgekd.core.errors import EdgeKDError
from edgekd.core.quiet import quiet
from edgekd.core.registry import make, names, plugin
from edgekd.quantizers._onnx import Reader
from edgekd.runner import feeds, open_session

CALIBRATION, HELD_OUT = samples(*[1, 2, 3, 5] * 8), samples(3, 9, 1, seed=7)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return matmul_model(tmp_path_factory.mktemp("plain") / "model.onnx")


def outputs(path):
    session = open_session(str(path), threads=1)
    return np.concatenate([session.run(None, feed)[0] for feed in feeds(session, HELD_OUT)])


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("recipe", names("quantizers"))
def test_a_candidate_says_nearly_what_fp32_says(recipe, reduce_range, activation_type, model, tmp_path):
    target = profile(reduce_range=reduce_range, activation_type=activation_type)
    plugin("quantizers", recipe).for_target(target).quantize(model, tmp_path / "out.onnx", CALIBRATION)
    plain, own = outputs(model), outputs(tmp_path / "out.onnx")
    assert own.dtype == np.float32
    limit = {"float32": 0.0, "float16": 0.005}.get(recipe, 0.05)
    assert np.abs(own - plain).max() <= limit * np.abs(plain).max()
    assert recipe == "float32" or not np.array_equal(own, plain), "it did something"
    expected = {"dynamic_int8": ("MatMulInteger", 2), "static_int8": ("DequantizeLinear", 2)}
    if recipe in expected:
        operator, least = expected[recipe]
        assert operators(tmp_path / "out.onnx")[operator] >= least
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"], "one file"


@pytest.mark.parametrize("recipe", [name for name in names("quantizers") if name != "float32"])
def test_a_candidate_is_smaller(recipe, model, tmp_path):
    make("quantizers", recipe).quantize(model, tmp_path / "out.onnx", CALIBRATION)
    assert (tmp_path / "out.onnx").stat().st_size < 0.75 * model.stat().st_size


@pytest.mark.parametrize("recipe", [name for name in names("quantizers") if name != "float16"])
def test_a_candidate_is_a_valid_graph_with_the_same_inputs_and_outputs(recipe, model, tmp_path):
    make("quantizers", recipe).quantize(model, tmp_path / "out.onnx", CALIBRATION)
    own, plain = onnx.load(tmp_path / "out.onnx"), onnx.load(model)
    onnx.checker.check_model(own)
    assert list(own.graph.input) == list(plain.graph.input)
    assert list(own.graph.output) == list(plain.graph.output)


@pytest.mark.parametrize("recipe", [name for name in names("quantizers") if name.endswith("int8")])
def test_a_recipe_that_changes_nothing_is_refused(recipe, tmp_path):
    relu_model(tmp_path / "model.onnx")
    with pytest.raises(EdgeKDError) as refusal:
        make("quantizers", recipe).quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", CALIBRATION)
    assert refusal.value.message == f"{recipe} quantized nothing: the model has no operator that it applies to"
    assert refusal.value.fix == "take the recipe out of the profile's recipes"


@pytest.mark.parametrize("recipe", names("quantizers"))
def test_only_a_recipe_that_calibrates_needs_rows(recipe, model, tmp_path):
    quantizer = make("quantizers", recipe)
    if not quantizer.calibrates:
        quantizer.quantize(model, tmp_path / "out.onnx", ())
        assert (tmp_path / "out.onnx").exists()
        return
    with pytest.raises(EdgeKDError) as refusal:
        quantizer.quantize(model, tmp_path / "out.onnx", ())
    assert refusal.value.message == f"{recipe} has no calibration rows"
    assert refusal.value.fix == "give unlabelled or validation rows"
    assert not list(tmp_path.iterdir())


def test_calibration_rows_set_the_ranges(model, tmp_path):
    tiny = [{name: values * 0.01 for name, values in sample.items()} for sample in CALIBRATION]
    for name, rows in (("fit", CALIBRATION), ("misfit", tiny)):
        make("quantizers", "static_int8").quantize(model, tmp_path / f"{name}.onnx", rows)
    plain = outputs(model)
    error = {name: np.abs(outputs(tmp_path / f"{name}.onnx") - plain).max() for name in ("fit", "misfit")}
    assert error["misfit"] > 10 * error["fit"]


def test_the_profile_sets_the_options():
    target = profile(per_channel=False, reduce_range=False, weight_type="uint8", activation_type="int8")
    assert plugin("quantizers", "dynamic_int8").for_target(target) == make(
        "quantizers", "dynamic_int8", per_channel=False, reduce_range=False, weight_type="uint8"
    )
    assert plugin("quantizers", "static_int8").for_target(target) == make(
        "quantizers",
        "static_int8",
        per_channel=False,
        reduce_range=False,
        weight_type="uint8",
        activation_type="int8",
    )


def test_the_calibration_reader_gives_what_the_model_takes_and_can_stride(model):
    reader = Reader(model, CALIBRATION)
    assert len(reader) == len(CALIBRATION) == 32
    assert list(reader.get_next()) == ["x"]
    reader.set_range(30, 40)
    assert [reader.get_next() is None for _ in range(3)] == [False, False, True]
    reader.rewind()
    assert reader.get_next()["x"] is CALIBRATION[0]["x"]


def test_quiet_lasts_as_long_as_its_block(capsys):
    logger = logging.getLogger("optimum")
    before = logger.level
    with quiet():
        sys.stdout.write("advice")
        warnings.warn("more advice", stacklevel=1)
        assert logger.level == logging.ERROR
    assert logger.level == before
    with pytest.raises(ValueError, match="an error passes"), quiet():
        raise ValueError("an error passes")
    assert logger.level == before
    assert capsys.readouterr().out == ""
