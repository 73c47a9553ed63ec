"""The mlp family, over series and over images."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd.core.protocols import InputSpec
from edgekd.exporters.torchscript import Torchscript
from edgekd.hardware.profile import load_profile
from edgekd.quantizers.dynamic_int8 import DynamicInt8
from edgekd.students.conv1d import Conv1d
from edgekd.students.mlp import IMAGE, SERIES, Mlp
from edgekd.training.models import load

SERIES_SHAPE = Mlp(16, 3, 20, 2, 4, SERIES)
IMAGE_SHAPE = Mlp(12, 2, 6, 3, 5, IMAGE)


def samples(shape: Mlp, count: int = 8) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [shape.sample(shape.max_size, random) for _ in range(count)]


def logits(model, rows) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**{k: torch.from_numpy(v) for k, v in row.items()}).logits for row in rows])


def exported(model, folder: Path) -> Path:
    return Torchscript().export(model, folder, task="time-series-classification", target=load_profile("rpi4")).file


@pytest.mark.parametrize("shape", [SERIES_SHAPE, IMAGE_SHAPE, replace(IMAGE_SHAPE, depth=1)], ids=str)
def test_work_is_what_the_exported_graph_holds(shape: Mlp, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported(shape.random(), tmp_path))).graph
    values = {
        value.name: int(np.prod([dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]))
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    work = shape.work(shape.max_size)
    assert work.weights == sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert work.operators == len(nodes)
    assert work.moved == sum(values[node.output[0]] for node in nodes)
    assert work.activations == max(
        values[node.output[0]] + sum(values.get(name, 0) for name in node.input) for node in nodes
    )
    linears = [module for module in shape.random().modules() if isinstance(module, torch.nn.Linear)]
    assert work.macs == sum(linear.weight.numel() for linear in linears)


def test_dynamic_int8_quantizes_every_layer(tmp_path: Path) -> None:
    DynamicInt8().quantize(exported(SERIES_SHAPE.random(), tmp_path), tmp_path / "int8.onnx", ())
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert kinds["MatMulInteger"] == SERIES_SHAPE.depth + 1
    assert not {"Gemm", "MatMul"} & set(kinds)


@pytest.mark.parametrize("shape", [SERIES_SHAPE, IMAGE_SHAPE], ids=str)
def test_whole_student_is_its_teacher(shape: Mlp, tmp_path: Path) -> None:
    teacher, rows = shape.random(), samples(shape)
    student = shape.init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    assert torch.equal(logits(student, rows), logits(teacher, rows))


def test_neurons_that_matter_are_kept(tmp_path: Path) -> None:
    """With all other neurons unread, the narrow student says what the wide teacher does."""
    torch.manual_seed(0)
    teacher, rows = SERIES_SHAPE.random(), samples(SERIES_SHAPE)
    with torch.no_grad():
        for number, linear in enumerate([*(layer[0] for layer in teacher.body.layers[1:]), teacher.head]):
            linear.weight[:, torch.randperm(16, generator=torch.Generator().manual_seed(number))[:8]] = 0
    student = replace(SERIES_SHAPE, width=8).init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    torch.testing.assert_close(logits(student, rows), logits(teacher, rows))


def test_student_of_another_family_takes_its_standardisation(tmp_path: Path) -> None:
    convolutions = Conv1d(8, 1, 5, 1, separable=False, dilated=False, steps=20, channels=2, classes=4)
    teacher, rows = convolutions.random(), samples(SERIES_SHAPE)
    teacher.body.inputs[0].fit_inputs(rows)
    student = SERIES_SHAPE.init_from_teacher(teacher, tmp_path, kept=None, samples=rows)
    assert torch.equal(student.body.inputs[0].mean, teacher.body.inputs[0].mean)
    bare = IMAGE_SHAPE.random()
    student = SERIES_SHAPE.init_from_teacher(
        bare, tmp_path, kept=None, samples=rows
    )  # from the rows, where it has none
    assert torch.equal(student.body.inputs[0].mean, teacher.body.inputs[0].mean)


def test_ladder_knows_series_from_images_by_what_the_teacher_counts() -> None:
    survey = InputSpec(28, (28,), channels=1)
    series = Mlp.ladder({"shape": {"steps": 28}, "family": "conv1d"}, survey, classes=3)
    images = Mlp.ladder({"shape": {"image_size": 28}, "family": "convnet"}, survey, classes=3)
    assert {shape.inputs for shape in series} == {28}
    assert {shape.inputs for shape in images} == {28 * 28}
    for ladder in (series, images):
        assert [shape.capability for shape in ladder] == sorted((s.capability for s in ladder), reverse=True)
        assert len(set(ladder)) == len(ladder)
    own = {"family": "mlp", "shape": SERIES_SHAPE.as_dict()}
    assert Mlp.ladder(own, survey, classes=4)[0] == SERIES_SHAPE == Mlp.of_teacher(own, survey, classes=4)
    assert Mlp.of_teacher({"family": "conv1d"}, survey, classes=4) is None
    own = {"family": "mlp", "shape": replace(IMAGE_SHAPE, side=32).as_dict()}
    assert {shape.side for shape in Mlp.ladder(own, survey, classes=4)} == {28}  # as --image-size says


def test_shape_is_its_words_and_its_dict(tmp_path: Path) -> None:
    assert str(SERIES_SHAPE) == "3 hidden layers x 16 on 40 values"
    assert SERIES_SHAPE.how_to_shrink() == ""
    assert IMAGE_SHAPE.how_to_shrink() == ""  # below what --image-size takes
    assert replace(IMAGE_SHAPE, side=28).how_to_shrink() == "give smaller images (--image-size 8)"
    assert Mlp(**json.loads(json.dumps(IMAGE_SHAPE.as_dict()))) == IMAGE_SHAPE
    model, rows = IMAGE_SHAPE.random(), samples(IMAGE_SHAPE)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path, "image-classification"), rows), logits(model, rows))
