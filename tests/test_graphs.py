"""Other forms of a graph: what is kept is a pure decision; folding and fusing change no answer and leak no operator."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from helpers import PlanStub, elsewhere, fast, matmul_model, profile, samples, save_graph
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgekd.compression import graphs
from edgekd.compression.graphs import Form, choose
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.exporters.optimum import Optimum

TARGET = profile()
QUIET = (1.0, 0.995, 1.005)
BERT = {"model_type": "bert", "num_attention_heads": 4, "hidden_size": 64}


def form(name, speed=1.0, half=0.01, **values):
    return Form(name, speed=(speed, speed - half, speed + half), **values)


@pytest.mark.parametrize(
    ("forms", "control", "kept", "why"),
    [
        (
            [form("folded"), form("exported"), form("fused", 1.2)],
            QUIET,
            "fused",
            "1.20x the speed of the folded graph (1.19 to 1.21)",
        ),
        (
            [form("folded"), form("fused", 1.2), form("dynamo", 1.3)],
            QUIET,
            "dynamo",
            "1.30x the speed of the folded graph (1.29 to 1.31)",
        ),
        (
            [form("folded"), form("fused", 1.055)],
            QUIET,
            "folded",
            "the simplest graph; none is faster by more than 5.0% (noise 0.5%)",
        ),
        (
            [form("folded"), form("fused", 1.3, half=0.29)],
            QUIET,
            "folded",
            "the simplest graph; none is faster by more than 5.0% (noise 0.5%)",
        ),
        (
            [form("folded"), form("fused", 1.1)],
            (1.05, 1.0, 1.12),
            "folded",
            "the simplest graph; none is faster by more than 12.0% (noise 12.0%)",
        ),
        (
            [form("folded"), form("fused", 1.1)],
            (0.9, 0.8, 1.0),
            "folded",
            "the simplest graph; none is faster by more than 25.0% (noise 25.0%)",
        ),
        (
            [form("folded"), form("fused", 2.0, failed="differs")],
            QUIET,
            "folded",
            "the simplest graph; none is faster by more than 5.0% (noise 0.5%)",
        ),
        (
            [Form("folded", failed="refused"), Form("exported")],
            None,
            "exported",
            "the simplest graph; no other was timed",
        ),
    ],
)
def test_the_simplest_stays_unless_another_is_faster_beyond_noise(forms, control, kept, why):
    assert choose(forms, control) == graphs.Verdict(kept, why)


@fast
@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(0.0, 0.3), st.booleans()), max_size=5), st.floats(1.0, 1.3))
def test_what_is_kept_never_failed_and_is_the_fastest_of_those_beyond_noise(drawn, noise):
    forms = [form("folded")] + [
        form(f"other {number}", speed, half, failed="no" if failed else None)
        for number, (speed, half, failed) in enumerate(drawn)
    ]
    kept = next(one for one in forms if one.name == choose(forms, (1.0, 1.0, noise)).kept)
    beyond = [one for one in forms[1:] if not one.failed and one.speed[1] > max(noise, graphs.LEAST_GAIN)]
    assert kept.failed is None
    assert kept.speed[0] == max([one.speed[0] for one in beyond], default=1.0)


def with_constants(path):
    """y = relu(x @ w) @ v + (1 + 2), and a branch that leads nowhere."""
    rows = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    one = helper.make_node("Constant", [], ["one"], "one", value_float=1.0)
    two = helper.make_node("Constant", [], ["two"], "two", value_float=2.0)
    nodes = [
        one,
        two,
        helper.make_node("Add", ["one", "two"], ["three"], "sum of constants"),
        helper.make_node("MatMul", ["x", "w"], ["hidden"], "layer"),
        helper.make_node("Identity", ["hidden"], ["same"], "nothing"),
        helper.make_node("Exp", ["hidden"], ["nowhere"], "dead"),
        helper.make_node("Add", ["same", "three"], ["y"], "shift"),
    ]
    return save_graph(path, nodes, [1, "tokens", 4], w=rows)


def answer(model, sample):
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {node.name: sample[node.name] for node in session.get_inputs()})[0]


def test_folding_computes_constants_cuts_dead_branches_and_keeps_names(tmp_path):
    model = with_constants(tmp_path / "model.onnx")
    folded = graphs.fold(model, tmp_path / "folded.onnx", TARGET)
    found = onnx.load(folded)
    assert [(node.op_type, node.name) for node in found.graph.node] == [("MatMul", "layer"), ("Add", "shift")]
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", 17)]
    assert found.ir_version <= TARGET.max_ir_version
    assert found.producer_name == "edgekd"
    np.testing.assert_array_equal(answer(folded, samples(5)[0]), answer(model, samples(5)[0]))


def test_a_model_that_onnx_runtime_refuses_is_not_folded(tmp_path):
    model = onnx.load(matmul_model(tmp_path / "model.onnx"))
    model.graph.node[0].input[1] = "missing"
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(RuntimeCannotLoad, match=r"^ONNX Runtime cannot fold the model: ") as refusal:
        graphs.fold(tmp_path / "broken.onnx", tmp_path / "out.onnx", TARGET)
    assert refusal.value.fix == "export it again with an opset and IR version that this runtime knows"


@pytest.mark.parametrize(
    ("target", "config", "message"),
    [
        (
            TARGET.model_copy(update={"execution_provider": "TensorrtExecutionProvider"}),
            BERT,
            "TensorrtExecutionProvider has no kernels for fused operators",
        ),
        (TARGET, {}, "no fusion is known for the model type None"),
        (TARGET, BERT | {"model_type": "t5"}, "no fusion is known for the model type 't5'"),
        (TARGET, BERT, "the graph has nothing that could be fused"),
    ],
)
def test_what_cannot_be_fused_is_refused(tmp_path, target, config, message):
    model = matmul_model(tmp_path / "model.onnx")
    with pytest.raises(EdgeKDError) as refusal:
        graphs.fuse(model, tmp_path / "out.onnx", target, config)
    assert (refusal.value.message, refusal.value.fix) == (message, "keep the standard operators")
    assert not (tmp_path / "out.onnx").exists()


@pytest.fixture(scope="module")
def exported(tiny_teacher, tmp_path_factory):
    """The tiny BERT as a classifier: its folder, and its export."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_teacher, num_labels=3).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(folder)
    return folder, Optimum().export(model, folder / "onnx", task="text-classification", target=TARGET)


def test_fusing_a_bert_says_the_same_with_a_quarter_of_the_operators(exported, tmp_path):
    folder, model = exported[0], exported[1].file
    fused = graphs.fuse(model, tmp_path / "fused.onnx", TARGET, json.loads((folder / "config.json").read_text()))
    found = onnx.load(fused)
    kinds = [node.op_type for node in found.graph.node if node.domain == "com.microsoft"]
    assert kinds.count("Attention") == 4
    assert {entry.domain for entry in found.opset_import} == {"", "com.microsoft"}
    assert len(found.graph.node) < len(onnx.load(model).graph.node) / 4
    sample = {"input_ids": np.array([[2, 9, 11, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    sample |= {"token_type_ids": np.zeros((1, 4), np.int64)}
    np.testing.assert_allclose(answer(fused, sample), answer(model, sample), atol=1e-5)


class Device:
    """Answers as the runner does; a model's latency is what `speeds` says of its file's name."""

    def __init__(self, real, speeds):
        self.real, self.speeds = real, speeds

    def run(self, mode, **job):
        if mode == "predict":
            return self.real.run(mode, **job)
        if mode == "footprint":
            return {"load_ms": 5.0, "cold_start_ms": 9.0, "baseline_mib": 50.0, "peak_rss_mib": [12.0]}
        names = [*job["models"], "aa"]
        return {
            "latency_ms": {name: [[1 / self.speeds.get(name, 1.0)] * 12] * job["rounds"] for name in names},
            "row_sha256": {},
            "rows": list(range(12)),
        }


@pytest.fixture
def improve(exported, tmp_path, monkeypatch):
    folder, model = exported

    def run(speeds, *, target=TARGET, recipe="dynamic_int8"):
        real = graphs.make
        monkeypatch.setattr(
            graphs,
            "make",
            lambda kind, name: Device(real(kind, name), speeds) if kind == "devices" else real(kind, name),
        )
        survey = SimpleNamespace(max_size=32)
        plan = PlanStub(task="text-classification", target=target, student=SimpleNamespace(survey=survey))
        graphs.improve(plan, folder, ["what is the red town", "a dog"], model, tmp_path, recipe=recipe)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.json", "model.onnx"]
        return graphs.read(tmp_path), onnx.load(tmp_path / "model.onnx")

    return run


def test_a_faster_form_replaces_the_export_and_the_reasons_stand_beside_it(improve):
    said, kept = improve({"fused": 1.5})
    assert (said["kept"], said["recipe"], said["control"]) == ("fused", "dynamic_int8", [1.0, 1.0, 1.0])
    assert said["why"] == "1.50x the speed of the folded graph (1.50 to 1.50)"
    assert [one["name"] for one in said["tried"]] == ["folded", "exported", "fused"]
    assert [one["failed"] for one in said["tried"]] == [None] * 3
    assert said["tried"][2]["operators"] == len([n for n in kept.graph.node if n.op_type != "Constant"])
    assert "Attention" in {node.op_type for node in kept.graph.node}


def test_where_none_is_faster_the_folded_graph_stays(improve):
    said, kept = improve({"fused": 1.01})
    assert said["kept"] == "folded"
    assert {node.domain for node in kept.graph.node} == {""}
    assert "Constant" not in {node.op_type for node in kept.graph.node}


@pytest.mark.parametrize("asked", [{"recipe": None}, {"target": elsewhere()}])
def test_nothing_is_timed_unasked_or_for_another_architecture(improve, asked):
    said, _ = improve({"fused": 9.0}, **asked)
    assert (said["kept"], said["recipe"], said["control"]) == ("folded", None, None)
    assert said["why"] == "the simplest graph; no other was timed"
    assert [one["name"] for one in said["tried"]] == ["folded", "exported"]


def test_a_form_that_says_something_else_is_passed_over(improve, monkeypatch, tmp_path):
    def wrong(model, out, target, config):
        changed = onnx.load(model)
        bias = next(one for one in changed.graph.initializer if one.name == "classifier.bias")
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(changed, out)
        return out

    monkeypatch.setattr(graphs, "fuse", wrong)
    said, _ = improve({"fused": 9.0})
    assert said["kept"] == "folded"
    assert said["tried"][2]["failed"] == "it differs from the export by 0.5 on 2 real inputs"


def test_a_form_without_the_recipe_is_passed_over(improve):
    said, _ = improve({"fused": 9.0}, recipe="static_int8")
    assert (said["kept"], said["recipe"]) == ("folded", "static_int8")
    assert said["tried"][2]["failed"].startswith("static_int8: Unable to get valid quantization scale")
    assert said["tried"][2]["speed"] is None


def test_no_file_says_nothing(tmp_path):
    assert graphs.read(tmp_path) is None
