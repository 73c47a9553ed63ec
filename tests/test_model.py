"""A model is named graphs: how they lie in a folder, how they are hashed, changed one by one, and named in a job."""

import numpy as np
import onnx
import pytest
from helpers import WIDTH, matmul_model, profile, random_weights, relu_model, samples, save_graph
from onnx import helper

from edgekd.compression.candidates import Candidate, one_graph_plain, recipes_of
from edgekd.compression.diagnose import diagnose_model
from edgekd.core import external
from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model, graph_file
from edgekd.core.registry import make
from edgekd.devices.ssh import _translated
from edgekd.inference import export
from edgekd.onboard import programs

TARGET = profile()


def two_graphs(folder):
    """An encoder that no recipe can quantize, and a head that every recipe can."""
    encoder = save_graph(
        folder / "encoder_model.onnx",
        [helper.make_node("Relu", ["x"], ["states"], "relu")],
        [1, "tokens", WIDTH],
        output_name="states",
    )
    nodes = [
        helper.make_node("ReduceMean", ["states"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["y"], "head"),
    ]
    head = save_graph(
        folder / "decoder_model_merged.onnx", nodes, [1, 4], input_name="states", v=random_weights(WIDTH, 4)
    )
    return Model({"encoder_model": encoder, "decoder_model_merged": head})


def test_one_graph_is_named_in_a_job_by_its_path_and_several_by_name(tmp_path):
    assert Model.of(tmp_path / "model.onnx").job == {"model": str(tmp_path / "model.onnx")}
    several = Model({"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"}, "seq2seq")
    paths = {"a": str(tmp_path / "a.onnx"), "b": str(tmp_path / "b.onnx")}
    assert several.job == {"model": paths, "program": "seq2seq"}
    assert list(several.job["model"]) == ["a", "b"]
    assert Model({"encoder_model": tmp_path / "e.onnx"}).job == {"model": {"encoder_model": str(tmp_path / "e.onnx")}}
    with pytest.raises(EdgeKDError, match="the graphs a, b, where one is taken"):
        _ = several.file


def test_the_digest_tells_names_order_program_and_external_data_apart(tmp_path):
    for name, content in (("a.onnx", b"1"), ("b.onnx", b"2"), ("c.onnx", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / f"{name}.onnx" for name in "abc")
    assert Model.of(a).sha256 == Model.of(c).sha256, "where it lies is no part of it"
    made = [
        Model.of(a),
        Model.of(b),
        Model({"x": a}),
        Model({"x": a, "y": b}),
        Model({"y": b, "x": a}),
        Model({"x": a}, "causal"),
        Model({"x": b, "y": a}),
    ]
    digests = [one.sha256 for one in made]
    external.data_file(a).write_bytes(b"2")
    digests.append(Model.of(a).sha256)
    external.data_file(a).write_bytes(b"3")
    digests.append(Model.of(a).sha256)
    assert len(set(digests)) == len(digests)
    assert (Model.of(a).size, Model({"x": a, "y": b}).size) == (2, 3)
    assert Model.of(a).files == (a, tmp_path / "a.onnx_data")


@pytest.mark.parametrize("recipe", ["dynamic_int8", "static_int8", "weight_int8", "weight_int4"])
def test_a_graph_that_a_recipe_cannot_change_stays_as_it_is_and_that_is_told(tmp_path, recipe):
    (tmp_path / "plain").mkdir()
    (tmp_path / "out").mkdir()
    plain, quantizer = two_graphs(tmp_path / "plain"), make("quantizers", recipe)
    rows = [{"x": row["x"], "states": np.maximum(row["x"], 0)} for row in samples(3, 5)]
    made, stays = plain.changed(
        tmp_path / "out", lambda _, file, out: quantizer.quantize(file, out, rows), suffix=quantizer.suffix
    )
    assert list(made.graphs) == ["encoder_model", "decoder_model_merged"]
    assert made.graphs["encoder_model"] == tmp_path / "out" / "encoder_model.onnx"
    assert made.graphs["decoder_model_merged"] == graph_file(tmp_path / "out", "decoder_model_merged", quantizer.suffix)
    assert list(stays) == ["encoder_model"]
    assert stays["encoder_model"].startswith(f"{recipe} quantized nothing")
    assert made.graphs["encoder_model"].read_bytes() == plain.graphs["encoder_model"].read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in made.files)
    assert Model.in_folder(tmp_path / "out", tuple(made.graphs), suffix=quantizer.suffix) == made


def test_a_graph_may_be_left_as_it_is_and_one_alone_must_change(tmp_path):
    plain, quantizer = two_graphs(tmp_path), make("quantizers", "dynamic_int8")

    def change(name, file, out):
        quantizer.quantize(file, out, ())

    (tmp_path / "out").mkdir()
    with pytest.raises(EdgeKDError, match="quantized nothing"):
        plain.changed(tmp_path / "out", change, leave=("decoder_model_merged",))
    with pytest.raises(EdgeKDError, match="quantized nothing"):
        Model.of(relu_model(tmp_path / "model.onnx")).changed(tmp_path / "out", change)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_exporter_of_an_older_edgekd_is_refused_by_name(tmp_path):
    task = make("tasks", "text-classification")
    export._check_graphs("theirs", Model.of(tmp_path / "model.onnx"), task)
    with pytest.raises(UsageError, match="'theirs' gave PosixPath, not a Model with the graphs model") as why:
        export._check_graphs("theirs", tmp_path / "model.onnx", task)
    assert "edgekd.core.model.Model" in why.value.fix
    with pytest.raises(UsageError, match="gave a, b, not a Model"):
        export._check_graphs("theirs", Model({"a": tmp_path / "a", "b": tmp_path / "b"}), task)


def test_a_board_gets_a_graph_and_its_data_under_their_own_names(tmp_path):
    plain = matmul_model(tmp_path / "model.onnx")
    job, files = _translated({**Model.of(plain).job, "threads": 1}, "/place")
    assert job["model"] == f"/place/{next(iter(files))}"
    assert list(files.values()) == [plain]
    external.data_file(plain).write_bytes(b"weights")
    two = Model({"model": plain, "other": matmul_model(tmp_path / "other.onnx", seed=1)})
    job, files = _translated({"models": {"a": two.job}}, "/place")
    first, second = job["models"]["a"]["model"].values()
    assert first.endswith("/model.onnx")
    assert files[first.removeprefix("/place/") + "_data"] == external.data_file(plain)
    assert second == f"/place/{external.graph_sha256(tmp_path / 'other.onnx')}.onnx"
    assert len(files) == 3


def test_an_onnx_file_of_several_graphs_finds_its_inner_tensors():
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "inner",
        [],
        [value],
        [onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "outer", [], [value]))
    assert [name for name, _ in external.tensors(model)] == ["w", "w"]


def test_a_graph_is_calibrated_on_what_the_graphs_before_it_give(tmp_path):
    plain, rows = two_graphs(tmp_path), samples(3, 5)
    inputs = GraphInputs(plain, rows)
    assert [list(row) for row in inputs.of("encoder_model")] == [["x"], ["x"]]
    for given, row in zip(inputs.of("decoder_model_merged"), rows, strict=True):
        np.testing.assert_array_equal(given["states"], np.maximum(row["x"], 0))
    assert GraphInputs(Model.of(tmp_path / "model.onnx"), rows).of("model") is rows
    with pytest.raises(ValueError, match="the program 'swarm' is unknown here"):
        GraphInputs(Model(plain.graphs, "swarm"), rows).of("encoder_model")


def test_of_a_graph_that_a_program_runs_often_few_inputs_of_each_sample_are_kept(tmp_path, monkeypatch):
    plain, rows = two_graphs(tmp_path), samples(3, 5)

    class Looping:
        """A program that runs the second graph ten times for each sample."""

        def __init__(self, sessions):
            self.first, self.second = sessions.values()

        def feed(self, sample):
            return {"x": sample["x"]}

        def run(self, _, feed):
            (states,) = self.first.run(None, feed)
            return [self.second.run(None, {"states": states + turn}) for turn in range(10)]

    monkeypatch.setattr(programs, "open_program", lambda name, sessions: Looping(sessions))
    inputs = GraphInputs(plain, rows)
    assert len(inputs.of("encoder_model")) == 2
    told = [row["states"] for row in inputs.of("decoder_model_merged")]
    assert [one.shape[1] for one in told] == [3] * 4 + [5] * 4
    np.testing.assert_allclose(told[1], np.maximum(rows[0]["x"], 0) + 1)


def test_of_several_graphs_each_may_stay_in_fp32_and_its_layers_are_named_by_graph(tmp_path):
    (tmp_path / "q").mkdir()
    encoder, recipe = matmul_model(tmp_path / "a.onnx"), make("quantizers", "dynamic_int8")
    plain = Model({"a": encoder, "b": matmul_model(tmp_path / "b.onnx", seed=1)})
    made, _ = plain.changed(tmp_path / "q", lambda _, file, out: recipe.quantize(file, out, ()), suffix=recipe.suffix)
    found = diagnose_model(plain, made, GraphInputs(plain, samples(3, 5)), threads=1)
    assert [layer.name for layer in found.layers] == ["a:layer", "a:head", "b:layer", "b:head"]
    assert {node for layer in found.layers for node in layer.nodes} == {"a:layer", "a:head", "b:layer", "b:head"}
    base = Candidate("dynamic_int8")
    left = one_graph_plain(base, ["a", "b"])
    assert [one.name for one in left] == ["dynamic_int8-float32_a", "dynamic_int8-float32_b"]
    assert [one.words for one in left] == ["float32: a", "float32: b"]
    assert one_graph_plain(base, ["a"]) == [], "it would be fp32"
    assert len(one_graph_plain(base, [str(number) for number in range(50)])) == 8
    assert recipes_of(made, "dynamic_int8-float2") == dict.fromkeys("ab", "dynamic_int8-float2")
    half = Model({"a": encoder, "b": made.graphs["b"]})
    assert recipes_of(half, "dynamic_int8") == {"a": "float32", "b": "dynamic_int8"}
    assert recipes_of(plain, "float32") == {"a": "float32", "b": "float32"}
