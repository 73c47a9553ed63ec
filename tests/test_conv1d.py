"""The conv1d family: what its shapes cost is what their graphs hold, and a student is a cut of its teacher."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd.core.model import Model
from edgekd.core.predictions import stacked
from edgekd.core.protocols import InputSpec
from edgekd.exporters.torchscript import Torchscript
from edgekd.hardware.profile import load_profile
from edgekd.inference.predict import outputs
from edgekd.quantizers.static_int8 import StaticInt8
from edgekd.students.conv1d import Conv1d
from edgekd.training.models import load

TASK = "time-series-classification"
WHOLE = Conv1d(16, 4, 5, 2, separable=False, dilated=False, steps=40, channels=3, classes=4)
SHAPES = [
    WHOLE,
    replace(WHOLE, separable=True),
    replace(WHOLE, width=8, depth=1, stride=1, dilated=True),
    replace(WHOLE, steps=41, kernel=7, dilated=True, separable=True, depth=5),
]


def trained(shape: Conv1d, seed: int = 0):
    """A network whose batch norms are no identity, as if it had been trained."""
    torch.manual_seed(seed)
    model = shape.random()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
        if hasattr(module, "fit_inputs"):
            module.fit_inputs(samples(shape))
    return model


def samples(shape: Conv1d, count: int = 6) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"past_values": 5 + 3 * shape.sample(shape.steps, random)["past_values"]} for _ in range(count)]


def logits(model, rows) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(past_values=torch.from_numpy(row["past_values"])).logits for row in rows])


def exported(model, folder: Path) -> Path:
    return Torchscript().export(model, folder, task=TASK, target=load_profile("rpi4")).file


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_work_is_what_the_exported_graph_holds(shape: Conv1d, tmp_path: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported(trained(shape), tmp_path))).graph
    values = {
        value.name: int(np.prod([dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]))
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    work = shape.work(shape.steps)
    assert work.weights == sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert work.operators == len(nodes)
    assert work.moved == sum(values[node.output[0]] for node in nodes)
    assert work.activations == max(
        values[node.output[0]] + sum(values.get(name, 0) for name in node.input) for node in nodes
    )
    kinds = Counter(node.op_type for node in nodes)
    assert "BatchNormalization" not in kinds  # folded into the convolutions
    assert kinds["Conv"] == 1 + shape.depth * (2 if shape.separable else 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiply_adds_are_those_of_the_torch_modules(shape: Conv1d) -> None:
    dense, depthwise = [], []

    def count(module, _inputs, output) -> None:
        macs = output[0].numel() * module.weight[0].numel()
        (depthwise if getattr(module, "groups", 1) > 1 else dense).append(macs)

    model = shape.random()
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Linear)):
            module.register_forward_hook(count)
    logits(model, samples(shape, 1))
    work = shape.work(shape.steps)
    assert (work.macs, work.other_macs) == (sum(dense), sum(depthwise))


def test_graph_takes_raw_values_and_says_what_torch_says(tmp_path: Path) -> None:
    model = trained(WHOLE)
    rows = samples(WHOLE)
    said = stacked(outputs(Model.of(exported(model, tmp_path)), rows, threads=1), "logits")
    np.testing.assert_allclose(said, logits(model, rows).numpy(), atol=1e-5)


@pytest.mark.parametrize("separable", [False, True])
def test_static_int8_quantizes_every_convolution(separable: bool, tmp_path: Path) -> None:
    """As ONNX Runtime runs it: no convolution stays in float."""
    import onnxruntime

    shape = replace(WHOLE, separable=separable)
    model = shape.random()  # as sizing measures it
    StaticInt8().quantize(exported(model, tmp_path), tmp_path / "int8.onnx", samples(shape))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "int8.onnx", options)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert kinds["QLinearConv"] == 1 + shape.depth * (1 + separable)
    assert not {"Conv", "FusedConv"} & set(kinds)


def test_standardisation_is_that_of_the_training_rows() -> None:
    model, rows = trained(WHOLE), samples(WHOLE)
    seen = np.concatenate([row["past_values"][0] for row in rows])
    standardised = model.body.inputs[0](torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-5)
    rows[0]["past_values"][:] = 7  # a channel that never changes is not divided by zero
    model.body.inputs[0].fit_inputs(rows[:1])
    assert logits(model, rows).isfinite().all()


def test_whole_student_is_its_teacher(tmp_path: Path) -> None:
    teacher, rows = trained(WHOLE), samples(WHOLE)
    teacher.name_classes("abcd")
    student = WHOLE.init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    assert student.config.id2label == dict(enumerate("abcd"))
    assert torch.equal(logits(student, rows), logits(teacher, rows))


def test_channels_that_matter_are_kept(tmp_path: Path) -> None:
    """With all other channels silent, the narrow student says what the wide teacher does."""
    teacher, rows = trained(WHOLE), samples(WHOLE)
    silent = torch.randperm(WHOLE.width, generator=torch.Generator().manual_seed(1))[:8]
    with torch.no_grad():
        for norm in (module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm1d)):
            norm.weight[silent] = 0
            norm.bias[silent] = 0
    student = replace(WHOLE, width=8).init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    torch.testing.assert_close(logits(student, rows), logits(teacher, rows))


def test_blocks_are_those_of_the_teacher(tmp_path: Path) -> None:
    teacher, rows = trained(WHOLE), samples(WHOLE)
    student = replace(WHOLE, depth=2).init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    for own, theirs in ((0, 0), (1, 3)):  # the first and the last
        assert torch.equal(student.body.blocks[own].body[0].weight, teacher.body.blocks[theirs].body[0].weight)
        assert torch.equal(
            student.body.blocks[own].body[1].running_var, teacher.body.blocks[theirs].body[1].running_var
        )
    dilated = replace(WHOLE, dilated=True)
    student = replace(dilated, depth=2).init_from_teacher(trained(dilated), tmp_path, kept=None, samples=rows)
    teacher = trained(dilated)
    assert torch.equal(student.body.blocks[1].body[0].weight, teacher.body.blocks[1].body[0].weight)  # dilations stay


def test_separable_student_of_a_dense_teacher_is_its_best_product(tmp_path: Path) -> None:
    """A teacher whose filters are products already is copied exactly."""
    teacher, rows = trained(WHOLE), samples(WHOLE)
    with torch.no_grad():
        for block in teacher.body.blocks:
            weight = block.body[0].weight  # (out, in, kernel)
            weight.copy_(torch.einsum("oi,ik->oik", weight[:, :, 0].clone(), weight[0].clone()))
    student = replace(WHOLE, separable=True).init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    torch.testing.assert_close(logits(student, rows), logits(teacher, rows), atol=1e-4, rtol=1e-4)


def test_other_kernels_start_at_random_but_take_the_standardisation(tmp_path: Path) -> None:
    teacher, rows = trained(WHOLE), samples(WHOLE)
    student = replace(WHOLE, kernel=3).init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    assert torch.equal(student.body.inputs[0].mean, teacher.body.inputs[0].mean)
    assert student.body.stem[0].weight.shape == (16, 3, 5)


def test_ladder_goes_from_the_teacher_to_a_few_hundred_weights() -> None:
    survey = InputSpec(500, (500,))
    teacher = Conv1d.of_labels(survey, classes=2)
    architecture = {"family": "conv1d", "shape": teacher.as_dict()}
    assert Conv1d.of_teacher(architecture, survey, classes=2) == teacher
    ladder = Conv1d.ladder(architecture, survey, classes=2)
    assert ladder[0] == teacher
    assert ladder[-1].work(500).weights < 500
    assert [shape.capability for shape in ladder] == sorted((shape.capability for shape in ladder), reverse=True)
    assert 40 < len(ladder) <= 200
    assert len(set(ladder)) == len(ladder)
    assert Conv1d.ladder({"family": "other"}, survey, classes=2) == ladder


@pytest.mark.parametrize(("steps", "stride"), [(24, 1), (96, 1), (200, 2), (500, 4), (5000, 32)])
def test_long_series_are_strided_early(steps: int, stride: int) -> None:
    shape = Conv1d.of_labels(InputSpec(steps, (steps,)), classes=2)
    assert shape.stride == stride
    assert shape.stem_kernel > stride


def test_shape_is_its_words_and_its_dict(tmp_path: Path) -> None:
    shape = replace(WHOLE, separable=True, dilated=True)
    assert str(shape) == "4 blocks x 16, kernel 5, separable, dilated"
    assert Conv1d(**json.loads(json.dumps(shape.as_dict()))) == shape
    model = trained(shape)
    model.save_pretrained(tmp_path)
    rows = samples(shape)
    assert torch.equal(logits(load(tmp_path, TASK), rows), logits(model, rows))
