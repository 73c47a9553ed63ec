"""Recipes: each writes a model that loads and says nearly what fp32 says, or refuses; none is a silent no-op."""

import logging
import sys
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import WIDTH, feeds, matmul_model, profile, random_weights, relu_model, samples, save_graph
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.core.quiet import quiet
from edgekd.core.registry import make, names, plugin
from edgekd.onboard.runner import open_session
from edgekd.quantizers._onnx import drop_unused
from edgekd.quantizers._smooth import smooth

CALIBRATION, HELD_OUT = samples(*[1, 2, 3, 5] * 8), samples(3, 9, 1, seed=7)


WEIGHTS = {"lookup": "table", "second": "other", "layer": "w", "head": "v"}  # of each node that recipes may change


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """x (1, tokens, 32) through two lookup tables, a MatMul, the mean over tokens and a Gemm to y (1, 4)."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["ids"], "ids", axis=2, keepdims=0),
        helper.make_node("Gather", ["table", "ids"], ["looked"], "lookup"),
        helper.make_node("Gather", ["other", "ids"], ["looked2"], "second"),
        helper.make_node("Sum", ["x", "looked", "looked2"], ["summed"], "sum"),
        helper.make_node("MatMul", ["summed", "w"], ["hidden"], "layer"),
        helper.make_node("Relu", ["hidden"], ["positive"], "relu"),
        helper.make_node("ReduceMean", ["positive"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["pooled", "v", "b"], ["y"], "head", transB=1),
    ]
    return save_graph(
        tmp_path_factory.mktemp("plain") / "model.onnx",
        nodes,
        [1, 4],
        table=random_weights(256, WIDTH, seed=1),
        other=random_weights(256, WIDTH, seed=2),
        w=random_weights(WIDTH, WIDTH, seed=3),
        v=random_weights(4, WIDTH, seed=4),
        b=random_weights(4, seed=5),
    )


def outputs(path):
    session = open_session(str(path), threads=1)
    return np.concatenate([session.run(None, feed)[0] for feed in feeds(session, HELD_OUT)])


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("recipe", names("quantizers"))
def test_a_candidate_says_nearly_what_fp32_says(recipe, reduce_range, activation_type, model, tmp_path):
    target = profile(reduce_range=reduce_range, activation_type=activation_type, isa=["avx2", "avx512_vnni"])
    plugin("quantizers", recipe).for_target(target).quantize(model, tmp_path / "out.onnx", CALIBRATION)
    plain, own = outputs(model), outputs(tmp_path / "out.onnx")
    assert own.dtype == np.float32
    limit = {"float32": 0.0, "float16": 0.005, "weight_int4": 0.2, "block_int4": 0.2}.get(recipe, 0.05)
    assert np.abs(own - plain).max() <= limit * np.abs(plain).max()
    assert recipe == "float32" or not np.array_equal(own, plain), "it did something"
    expected = {
        "dynamic_int8": ("MatMulInteger", 2),
        "static_int8": ("DequantizeLinear", 4),
        "weight_int8": ("MatMulNBits", 2),
        "weight_int4": ("MatMulNBits", 2),
        "block_int8": ("GatherBlockQuantized", 2),
        "block_int4": ("GatherBlockQuantized", 2),
        "embeddings_int8": ("DequantizeLinear", 2),
    }
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


@pytest.mark.parametrize("recipe", [name for name in names("quantizers") if "int" in name])
def test_a_recipe_that_changes_nothing_is_refused(recipe, tmp_path):
    relu_model(tmp_path / "model.onnx")
    with pytest.raises(EdgeKDError) as refusal:
        make("quantizers", recipe).quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", CALIBRATION)
    assert refusal.value.message == f"{recipe} quantized nothing: the model has no operator that it applies to"
    assert refusal.value.fix == "take the recipe out of the profile's recipes"


@pytest.mark.parametrize("recipe", names("quantizers"))
def test_only_a_recipe_that_calibrates_needs_rows(recipe, model, tmp_path):
    quantizer = make("quantizers", recipe)
    if not (quantizer.calibrates and getattr(quantizer, "compensate", True)):  # rounding looks at no row
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


def constant(path, node_name):
    """The constant that a node reads, as it stands in the file, and its ONNX type."""
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    node = next(node for node in graph.node if node.name in (node_name, f"{node_name}_MatMul"))
    tensor = next(tensors[name] for name in node.input if name in tensors and tensors[name].dims)
    return numpy_helper.to_array(tensor), tensor.data_type


@pytest.mark.parametrize("kept", WEIGHTS)
@pytest.mark.parametrize("recipe", names("quantizers"))
def test_kept_nodes_stay_float_and_the_others_do_not(recipe, kept, model, tmp_path):
    make("quantizers", recipe).quantize(model, tmp_path / "out.onnx", CALIBRATION, keep=[kept])
    plain, _ = constant(model, kept)
    values, kind = constant(tmp_path / "out.onnx", kept)
    assert kind == TensorProto.FLOAT
    assert np.array_equal(values, plain) or np.array_equal(values, plain.T)
    floats = {
        tensor.name
        for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and min(tensor.dims) > 1
    }
    scales = {name for name in floats if name.endswith("_scales")}  # of MatMulNBits, by block
    untouched = {"float32": 4, "embeddings_int8": 3 if kept in ("lookup", "second") else 2}
    assert len(floats - scales) == untouched.get(recipe, 1)


@pytest.mark.parametrize("recipe", [name for name in names("quantizers") if "int" in name])
def test_all_nodes_kept_is_refused_as_changing_nothing(recipe, model, tmp_path):
    with pytest.raises(EdgeKDError, match=f"^{recipe} quantized nothing: "):
        make("quantizers", recipe).quantize(model, tmp_path / "out.onnx", CALIBRATION, keep=list(WEIGHTS))


@pytest.mark.parametrize("recipe", names("quantizers"))
def test_every_variant_can_be_made_and_differs(recipe, model, tmp_path):
    own = plugin("quantizers", recipe).for_target(profile())
    written = set()
    for number, options in enumerate(({}, *own.variants())):
        out = tmp_path / f"{number}.onnx"
        replace(own, **options).quantize(model, out, samples(*[200] * 8), cache=tmp_path / "cache")
        written.add(out.read_bytes())
    assert len(written) == 1 + len(own.variants())


@pytest.mark.parametrize("recipe", names("quantizers"))
def test_a_recipe_stays_within_the_models_opset_and_names_its_providers(recipe, model, tmp_path):
    quantizer = make("quantizers", recipe)
    quantizer.quantize(model, tmp_path / "out.onnx", CALIBRATION)
    own, plain = onnx.load(tmp_path / "out.onnx"), onnx.load(model)
    assert own.ir_version <= plain.ir_version
    assert {one.version for one in own.opset_import if one.domain == ""} == {17}
    assert set(quantizer.providers) <= {"CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"}


@pytest.mark.parametrize("recipe", ["dynamic_int8", "static_int8"])
def test_weights_of_seven_bits_cannot_saturate(recipe, tmp_path):
    """255 times the sum of two neighbours down a column must fit 16 bits: AVX2's instruction adds such pairs."""
    matmul_model(tmp_path / "model.onnx")
    for name, reduce_range in (("seven", True), ("eight", False)):
        make("quantizers", recipe, reduce_range=reduce_range).quantize(
            tmp_path / "model.onnx", tmp_path / f"{name}.onnx", CALIBRATION
        )
    worst = {}
    for name in ("seven", "eight"):
        tensors = [numpy_helper.to_array(one) for one in onnx.load(tmp_path / f"{name}.onnx").graph.initializer]
        matrices = [one.astype(int) for one in tensors if one.dtype == np.int8 and one.ndim == 2]
        assert len(matrices) == 2
        worst[name] = 255 * max(np.abs(one[0::2] + one[1::2]).max() for one in matrices)
    assert worst["seven"] <= 2**15 - 1 < worst["eight"]


def test_for_tensorrt_static_int8_is_symmetric_with_float_biases(model, tmp_path):
    target = profile(
        execution_provider="TensorrtExecutionProvider", recipes=["float32", "static_int8"], activation_type="uint8"
    )
    own = plugin("quantizers", "static_int8").for_target(target)
    assert (own.symmetric, own.activation_type, own.weight_type, own.reduce_range) == (True, "int8", "int8", False)
    own.quantize(model, tmp_path / "out.onnx", CALIBRATION)
    graph = onnx.load(tmp_path / "out.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    changes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    points = [tensors[node.input[2]] for node in changes]
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    assert tensors["b"].dtype == np.float32


def test_onnx_runtime_s_warnings_stay_off_the_screen(tmp_path, capfd):
    ort.set_default_logger_severity(2)
    path = matmul_model(tmp_path / "model.onnx")
    wide = onnx.load(path)
    wide.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "nobody's"))
    onnx.save(wide, path)
    make("quantizers", "static_int8").quantize(path, tmp_path / "out.onnx", CALIBRATION)
    assert capfd.readouterr().err == "", "Removing initializer ..., in colours"


def attention_model(path):
    """x through a matrix, times its own transpose, as attention's scores are, and a softmax."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"], "layer"),
        helper.make_node("Transpose", ["q"], ["k"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["y"], "softmax"),
    ]
    return save_graph(path, nodes, [1, "tokens", "tokens"], w=random_weights(WIDTH, WIDTH))


def test_only_every_operator_quantizes_products_of_activations_and_what_comes_out(tmp_path):
    attention_model(tmp_path / "model.onnx")
    found = {}
    for every in (False, True):
        make("quantizers", "static_int8", every_operator=every).quantize(
            tmp_path / "model.onnx", tmp_path / f"{every}.onnx", CALIBRATION
        )
        found[every] = operators(tmp_path / f"{every}.onnx")["QuantizeLinear"]
    assert found[False] == 1, "only what goes into the matrix"
    assert found[True] > 3


def test_a_fused_graph_can_be_quantized_dynamically(tmp_path):
    """Shape inference knows no operator of ONNX Runtime's own: what follows one has no type."""
    nodes = [
        helper.make_node("Gelu", ["x"], ["bent"], "gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["bent", "w"], ["y"], "layer"),
    ]
    graph = helper.make_graph(
        nodes,
        "fused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "tokens", WIDTH])],
        [numpy_helper.from_array(random_weights(WIDTH, WIDTH), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "model.onnx")
    make("quantizers", "dynamic_int8").quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", ())
    assert operators(tmp_path / "out.onnx")["MatMulInteger"] == 1


def test_tables_stay_float_where_that_is_asked_for(model, tmp_path):
    for recipe in ("dynamic_int8", "weight_int8", "weight_int4"):
        make("quantizers", recipe, embeddings=False).quantize(model, tmp_path / "out.onnx", ())
        assert constant(tmp_path / "out.onnx", "lookup")[1] == TensorProto.FLOAT


def test_an_unknown_calibration_method_is_refused():
    with pytest.raises(UsageError) as refusal:
        make("quantizers", "static_int8", method="percentil")
    assert refusal.value.message == "static_int8 knows no calibration method 'percentil'"
    assert refusal.value.fix == "did you mean 'percentile'? choose one of: entropy, minmax, percentile"


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


def outliers(path):
    """Two matrices behind one activation, a channel of which is a hundred times as wide as the others."""
    up = random_weights(WIDTH, WIDTH, seed=1)
    up[:, 0] *= 100.0
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["wide"], "up"),
        helper.make_node("MatMul", ["wide", "left"], ["l"], "left"),
        helper.make_node("MatMul", ["wide", "right"], ["r"], "right"),
        helper.make_node("Add", ["l", "r"], ["y"], "sum"),
    ]
    left, right = random_weights(WIDTH, WIDTH, seed=2), random_weights(WIDTH, WIDTH, seed=3)
    left[0], right[0] = left[0] / 100.0, right[0] / 100.0
    return save_graph(path, nodes, [1, "tokens", WIDTH], up=up, left=left, right=right)


def said(path):
    session = open_session(str(path), threads=1)
    return np.concatenate([session.run(None, feed)[0][0] for feed in feeds(session, HELD_OUT)])


def test_a_smoothed_model_says_the_same_in_float(tmp_path):
    model = outliers(tmp_path / "model.onnx")
    smoothed = smooth(model, tmp_path / "smooth.onnx", CALIBRATION, strength=0.8)
    np.testing.assert_allclose(said(smoothed), said(model), rtol=1e-4, atol=1e-4)
    graph = onnx.load(smoothed).graph
    products = [node for node in graph.node if node.op_type == "Mul"]
    assert len(products) == 2, "matrices that read the same activation share one"
    onnx.checker.check_model(onnx.load(smoothed))


def test_smoothing_brings_int8_nearer_to_float(tmp_path):
    model, errors = outliers(tmp_path / "model.onnx"), {}
    for strength in (0.0, 0.8):
        out = tmp_path / f"{strength}.onnx"
        make("quantizers", "dynamic_int8", smooth=strength).quantize(model, out, CALIBRATION)
        errors[strength] = np.abs(said(out) - said(model)).mean()
    assert errors[0.8] < 0.5 * errors[0.0]


def test_smoothing_leaves_kept_nodes_alone_and_needs_rows(tmp_path):
    model = outliers(tmp_path / "model.onnx")
    smoothed = smooth(model, tmp_path / "smooth.onnx", CALIBRATION, strength=0.8, keep=["left", "right"])
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(smoothed).graph.initializer}
    np.testing.assert_array_equal(kept["left"][1:], random_weights(WIDTH, WIDTH, seed=2)[1:])
    with pytest.raises(EdgeKDError, match="smoothing has no calibration rows"):
        smooth(model, tmp_path / "none.onnx", [], strength=0.8)
    with pytest.raises(EdgeKDError, match="no matrix of the model can be smoothed"):
        smooth(model, tmp_path / "none.onnx", CALIBRATION, strength=0.8, keep=["up", "left", "right"])


def test_a_smoothed_recipe_says_that_it_takes_rows():
    """By this the search knows whom to give them: without rows no smoothed candidate can be made."""
    assert not make("quantizers", "dynamic_int8").calibrates
    assert make("quantizers", "dynamic_int8", smooth=0.8).calibrates


def test_what_a_branch_reads_is_used():
    """A merged decoder's cross-attention lies in an If: its weights stay, and what nothing reads goes."""
    empty = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    inner = helper.make_graph([helper.make_node("Identity", ["held"], ["y"])], "branch", [], empty)
    node = helper.make_node("If", ["which"], ["out"], then_branch=inner, else_branch=inner)
    idle = helper.make_node("Identity", ["left"], ["nowhere"])
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0]) for name in ("held", "left")]
    which = [helper.make_tensor_value_info("which", TensorProto.BOOL, [])]
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])]
    graph = helper.make_graph([node, idle], "whole", which, out, constants)
    drop_unused(graph)
    assert [one.op_type for one in graph.node] == ["If"]
    assert [one.name for one in graph.initializer] == ["held"]
