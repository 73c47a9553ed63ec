"""Exporters: one graph each, the same inputs, outputs and answers, nothing of this machine in the file."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from helpers import PlanStub, matmul_model, profile

from edgekd.core import external
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.model import Model
from edgekd.core.predictions import network_outputs, stacked
from edgekd.core.registry import make
from edgekd.exporters._onnx import finish
from edgekd.exporters.dynamo import Dynamo
from edgekd.exporters.optimum import Optimum
from edgekd.inference import export, predict
from edgekd.sizing import bench

TARGET = profile()
TEXT, EMBEDDINGS = "text-classification", "feature-extraction"


def answer(model, feed):
    import onnxruntime as ort

    return ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, feed)[0]


def names(model):
    graph = onnx.load(model).graph
    return [one.name for one in graph.input], [one.name for one in graph.output]


@pytest.fixture(scope="module")
def bert(tiny_teacher):
    """Of each task a model with the tiny teacher's encoder; its head is random."""
    import transformers

    def load(task):
        kind = getattr(transformers, make("tasks", task).hub.auto_model)
        return kind.from_pretrained(tiny_teacher).eval()

    return load


@pytest.fixture(scope="module")
def exports(bert, tmp_path_factory):
    """Of each task: optimum's file and dynamo's, of the same weights."""
    made = {}
    for task in (TEXT, EMBEDDINGS):
        model, folder = bert(task), tmp_path_factory.mktemp(task)
        made[task] = [
            exporter.export(model, folder / type(exporter).__name__, task=task, target=TARGET).file
            for exporter in (Optimum(), Dynamo())
        ]
    return made


@pytest.mark.parametrize("task", [TEXT, EMBEDDINGS])
def test_both_exporters_give_the_same_names_and_answers(exports, task):
    optimum, dynamo = exports[task]
    assert names(dynamo) == (
        ["input_ids", "attention_mask", "token_type_ids"],
        list(network_outputs(make("tasks", task))),
    )
    assert sorted(names(optimum)[0]) == sorted(names(dynamo)[0])
    assert names(optimum)[1] == names(dynamo)[1]
    random = np.random.default_rng(0)
    for shape in ((1, 3), (1, 64), (5, 9)):  # batch and sequence are free
        mask = np.ones(shape, np.int64)
        mask[0, shape[1] // 2 :] = 0
        feed = {"input_ids": random.integers(5, 120, shape), "attention_mask": mask, "token_type_ids": 0 * mask}
        np.testing.assert_allclose(answer(dynamo, feed), answer(optimum, feed), atol=1e-5)


def test_a_file_names_nothing_of_this_machine(exports):
    for file in (path for pair in exports.values() for path in pair):
        found = onnx.load(file)
        assert (found.ir_version <= TARGET.max_ir_version, found.opset_import[0].version) == (True, 18)
        assert not re.search(rb"site-packages|\.py\b|stack_trace|/tmp", file.read_bytes())


@pytest.mark.parametrize(
    ("family", "shape", "task"),
    [
        (
            "convnet",
            {"image_size": 16, "channels": 1, "classes": 3, "width": 0.25, "depth": 0.25},
            "image-classification",
        ),
        (
            "conv1d",
            {
                "width": 8,
                "depth": 1,
                "kernel": 3,
                "stride": 2,
                "separable": False,
                "dilated": False,
                "steps": 24,
                "channels": 2,
                "classes": 3,
            },
            "time-series-classification",
        ),
    ],
)
def test_dynamo_exports_our_own_families(tmp_path, family, shape, task):
    import torch

    made = make("students", family, **shape)
    torch.manual_seed(0)
    model = bench.random_model(made)
    file = Dynamo().export(model, tmp_path, task=task, target=TARGET).file
    assert names(file) == ([model.input_name], ["logits"])
    values = np.concatenate(
        [made.sample(made.max_size, np.random.default_rng(seed))[model.input_name] for seed in (1, 2, 3)]
    )
    with torch.no_grad():
        expected = model(**{model.input_name: torch.from_numpy(values)}).logits.numpy()
    np.testing.assert_allclose(answer(file, {model.input_name: values}), expected, atol=1e-4)


def test_dynamo_asked_for_an_opset_below_its_lowest_is_refused(tmp_path):
    import torch

    class Sum(torch.nn.Module):
        input_name = "pixel_values"
        shape = make("students", "convnet", image_size=16, channels=1, classes=3)

        def forward(self, pixel_values):
            return SimpleNamespace(logits=pixel_values.flatten(2).sum(-1))

    with pytest.raises(RuntimeCannotLoad) as refusal:
        Dynamo().export(Sum().eval(), tmp_path, task="image-classification", target=profile(max_opset=17))
    assert refusal.value.message == "the export has opset 18; the target rpi4 knows 17"
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_export_refuses_is_an_error_with_a_way_out(tmp_path):
    import torch

    class Branches(torch.nn.Module):
        input_name = "pixel_values"
        shape = make("students", "convnet", image_size=16, channels=1, classes=3)

        def forward(self, pixel_values):
            if pixel_values.sum() > 0:
                return None
            return pixel_values

    with pytest.raises(EdgeKDError, match=r"^torch\.export cannot export the model: ") as refusal:
        Dynamo().export(Branches(), tmp_path, task="image-classification", target=TARGET)
    assert refusal.value.fix == "export it with the other exporter (optimum or torchscript)"


def test_notes_are_stripped_wherever_a_graph_keeps_them(tmp_path):
    model = onnx.load(matmul_model(tmp_path / "plain.onnx"))
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["hidden"], ["same"], "inner")],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)],
    )
    truth = onnx.helper.make_node("Constant", [], ["truth"], value=onnx.numpy_helper.from_array(np.array(True)))
    branch = onnx.helper.make_node("If", ["truth"], ["chosen"], "if", then_branch=inner, else_branch=inner)
    nodes = list(model.graph.node)
    nodes[1].input[0] = "chosen"
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], truth, branch, *nodes[1:]])
    note = {"key": "source", "value": "/home/somebody/model.py"}
    then = model.graph.node[2].attribute[0].g
    for part in (
        model,
        model.graph,
        model.graph.node[0],
        model.graph.initializer[0],
        model.graph.input[0],
        then.node[0],
    ):
        part.doc_string = "/home/somebody"
        part.metadata_props.add(**note)
    path = finish(model, tmp_path / "finished.onnx", profile(max_ir_version=10))
    assert b"somebody" not in path.read_bytes()


@pytest.mark.parametrize("task", [TEXT, EMBEDDINGS])
def test_optimum_opens_a_bundle_of_each_task_of_texts(bert, tiny_teacher, exports, tmp_path, task):
    from transformers import AutoTokenizer

    bert(task).config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(exports[task][0].read_bytes())
    texts = ["what is the red town", "a dog"]
    loader, said = Optimum().open(tmp_path, "model.onnx", texts, task=task)
    assert loader == {TEXT: "ORTModelForSequenceClassification", EMBEDDINGS: "ORTModelForFeatureExtraction"}[task]
    kind = make("tasks", task)
    keep = network_outputs(kind)
    expected = predict.outputs(Model.of(exports[task][0]), kind.encode(tmp_path, texts, 32), threads=1, keep=keep)
    (name,) = keep
    ours, theirs = stacked(expected, name), stacked(said, name)
    assert theirs.shape == ours.shape == ((2, 2) if task == TEXT else (2, 64))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("exporter", [Optimum(), Dynamo()])
def test_an_export_beyond_one_files_limit_says_the_same_and_opens_in_optimum(
    bert, tiny_teacher, tmp_path, monkeypatch, exporter
):
    from transformers import AutoTokenizer

    model = bert(TEXT)
    whole = exporter.export(model, tmp_path / "whole", task=TEXT, target=TARGET)
    monkeypatch.setattr(external, "LARGEST_FILE", 100_000)
    apart = exporter.export(model, tmp_path / "onnx", task=TEXT, target=TARGET)
    assert len(whole.files) == 1
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    assert apart.size == pytest.approx(whole.size, rel=0.1)
    feed = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.ones((1, 3), np.int64)}
    feed |= {"token_type_ids": np.zeros((1, 3), np.int64)}
    np.testing.assert_array_equal(answer(apart.file, feed), answer(whole.file, feed))
    model.config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(tmp_path)
    Optimum().open(tmp_path, "model.onnx", ["what is the red town", "a dog"], task=TEXT)


def _embeds(task):
    return {"sentence": {"pooling": ["cls"], "layers": [], "width": 64}} if task == EMBEDDINGS else {}


@pytest.mark.parametrize("task", [TEXT, EMBEDDINGS])
def test_an_export_is_held_against_torch_row_by_row(bert, tiny_teacher, tmp_path, monkeypatch, task):
    survey = SimpleNamespace(max_size=32)
    plan = PlanStub(
        seed=0,
        threads=1,
        task=task,
        target=TARGET,
        student=SimpleNamespace(survey=survey),
        teacher=SimpleNamespace(kind="huggingface", folder=str(tiny_teacher), architecture=_embeds(task)),
    )
    texts = ["what is the red town", "a dog", "a kind of soup that people in this town like"]
    teacher = shutil.copytree(tiny_teacher, tmp_path / "teacher")
    bert(task).save_pretrained(teacher)
    export.export(plan, teacher, texts, tmp_path)
    kind = make("tasks", task)
    assert names(tmp_path / "model.onnx")[1] == list(dict.fromkeys([*network_outputs(kind), *kind.keep]))
    monkeypatch.setattr(export, "PARITY_LIMIT", 1e-12)
    with pytest.raises(RuntimeCannotLoad, match=r"the exported model disagrees with torch by \S+ on 3 real inputs"):
        export.export(plan, teacher, texts, tmp_path)
