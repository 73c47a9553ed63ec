"""The convnet family: its cost on paper is that of the network, and a cut keeps what it can of its teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd.core.protocols import InputSpec
from edgekd.exporters.torchscript import Torchscript
from edgekd.hardware.profile import load_profile
from edgekd.quantizers.static_int8 import StaticInt8
from edgekd.students.convnet import Convnet, Convolution

SHAPES = (
    Convnet(64, 3, 10),
    Convnet(40, 3, 4, width=1.1, depth=1.2),
    Convnet(28, 1, 10, width=0.5, depth=0.5, stages=5, stem_stride=1),
    Convnet(25, 3, 2, width=0.25, depth=0.25, stages=2, expand=3),
)
SURVEY = InputSpec(64, (64,), channels=3)


def images(shape: Convnet, count: int = 2) -> torch.Tensor:
    random = np.random.default_rng(3)
    return torch.from_numpy(np.concatenate([shape.sample(0, random)["pixel_values"] for _ in range(count)]))


def settled(shape: Convnet, seed: int = 0):
    """A random network whose batch norms have seen something: statistics and all parameters are its own."""
    torch.manual_seed(seed)
    network = shape.random()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    network.name_classes([f"class {number}" for number in range(shape.classes)])
    return network


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_work_is_that_of_the_network(shape: Convnet) -> None:
    network, work = settled(shape), shape.work(shape.image_size)
    seen: dict[str, list[int]] = {"dense": [], "depthwise": [], "written": [], "largest": []}

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        kind = "depthwise" if getattr(module, "groups", 1) > 1 else "dense"
        seen[kind].append(module.weight.numel() * positions)
        seen["written"].append(output.numel())
        seen["largest"].append(inputs[0].numel() + output.numel())

    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(pixel_values=images(shape, 1))
    for hook in hooks:
        hook.remove()
    assert work.macs == sum(seen["dense"])
    assert work.other_macs == sum(seen["depthwise"])
    assert work.activations == max(seen["largest"])
    sums = sum(block.project.outputs * block.project.out_side**2 for block in shape.blocks if not block.first)
    assert work.moved == sum(seen["written"]) + sums + 2 * shape.top.outputs  # the mean and its flattening
    dense = sum(m.weight.numel() for m in layers if getattr(m, "groups", 1) == 1)
    assert work.matrix_weights == dense
    folded = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert work.weights == sum(layer.weight.numel() for layer in layers) + folded + shape.classes


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_export_holds_those_weights_and_says_the_same(shape: Convnet, tmp_path: Path) -> None:
    import onnxruntime

    network, work, target = settled(shape), shape.work(shape.image_size), load_profile("rpi4")
    file = Torchscript().export(network, tmp_path, task="image-classification", target=target).file
    graph = onnx.load(file).graph
    assert sum(int(np.prod(tensor.dims)) for tensor in graph.initializer) == work.weights
    kinds = [node.op_type for node in graph.node]
    assert {"Pad", "BatchNormalization"}.isdisjoint(kinds)  # both went into their convolutions
    assert sum(kind not in ("Constant", "Clip") for kind in kinds) == work.operators
    session = onnxruntime.InferenceSession(file)
    inputs = images(shape)
    with torch.no_grad():
        expected = network(pixel_values=inputs).logits.numpy()
    np.testing.assert_allclose(session.run(None, {"pixel_values": inputs.numpy()})[0], expected, atol=1e-4)


def test_int8_graph_is_whole(tmp_path: Path) -> None:
    """No convolution of a random network stays in floats: what is measured before training is what ships after."""
    import onnxruntime

    shape, target = SHAPES[3], load_profile("rpi4")
    file = Torchscript().export(shape.random(), tmp_path, task="image-classification", target=target).file
    random = np.random.default_rng(0)
    StaticInt8.for_target(target).quantize(file, tmp_path / "q.onnx", [shape.sample(0, random) for _ in range(4)])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "q.onnx", options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == len(shape.convolutions)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        (224, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (56, 5, 2, (1, 2)),
        (7, 5, 1, (2, 2)),
        (8, 1, 1, (0, 0)),
        (1, 5, 2, (2, 2)),
    ],
)
def test_padding_is_tensorflows(side: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    assert Convolution(8, 8, kernel, stride, side).padding == padding


def test_lite_models_are_shapes() -> None:
    """Weights as published: 4.65, 5.42 and 6.09 million with batch norms' two a channel."""
    for width, depth, side, millions in ((1.0, 1.0, 224, 4.65), (1.0, 1.1, 240, 5.42), (1.1, 1.2, 260, 6.09)):
        shape = Convnet(side, 3, 1000, width=width, depth=depth)
        channels = sum(one.outputs for one in shape.convolutions)
        assert (shape.work(side).weights + channels) / 1e6 == pytest.approx(millions, abs=0.01)
    assert [block.project.outputs for block in Convnet(224, 3, 1000).blocks if block.first] == [
        16,
        24,
        40,
        80,
        112,
        192,
        320,
    ]


@pytest.mark.parametrize("survey", [SURVEY, InputSpec(28, (28,), channels=1), InputSpec(224, (224,), channels=3)])
def test_ladder_falls_from_the_teacher_to_some_thousand_weights(survey: InputSpec) -> None:
    top = Convnet(survey.max_size, survey.channels, 7, width=1.1, depth=1.2)
    architecture = {"family": "convnet", "shape": (top.as_dict() | {"classes": 1000})}
    ladder = Convnet.ladder(architecture, survey, classes=7)
    assert ladder[0] == top == Convnet.of_teacher(architecture, survey, classes=7)
    assert len(ladder) == len(set(ladder)) <= 200
    assert [shape.capability for shape in ladder] == sorted((shape.capability for shape in ladder), reverse=True)
    assert min(shape.work(0).weights for shape in ladder) < 4_000
    assert all(shape.channels == survey.channels and shape.classes == 7 for shape in ladder)
    assert all(shape.image_size <= survey.max_size for shape in ladder)


def test_ladder_keeps_to_the_images_that_the_user_asks_for() -> None:
    own = {"family": "convnet", "shape": Convnet(64, 3, 7).as_dict()}
    assert Convnet.ladder(own, InputSpec(32, (32,), channels=3), classes=7)[0] == Convnet(32, 3, 7)
    assert Convnet.of_teacher(own, InputSpec(32, (32,), channels=3), classes=7) == Convnet(64, 3, 7)


def test_ladder_of_another_teacher_starts_at_lite0() -> None:
    architecture = {"model_type": "vit", "layers": 12, "hidden": 192, "max_size": 224, "channels": 3}
    assert Convnet.of_teacher(architecture, SURVEY, classes=5) is None
    assert Convnet.ladder(architecture, SURVEY, classes=5)[0] == Convnet(64, 3, 5)
    assert Convnet.ladder({}, InputSpec(28, (28,)), classes=5)[0] == Convnet(28, 1, 5, stem_stride=1)


def test_shape_survives_json() -> None:
    for shape in (*SHAPES, Convnet.of_labels(SURVEY, classes=3)):
        assert Convnet(**json.loads(json.dumps(shape.as_dict()))) == shape
    assert str(SHAPES[3]) == "2 blocks to 8 channels, 2 stages, expand 3, 25 px"


def cut(teacher, shape: Convnet):
    random = np.random.default_rng(5)
    samples = [teacher.shape.sample(0, random) for _ in range(4)]
    torch.manual_seed(9)
    return shape.init_from_teacher(teacher, Path(), kept=None, samples=samples)


def test_whole_cut_is_the_teacher_bit_for_bit() -> None:
    teacher = settled(Convnet(32, 3, 5, width=0.5))
    student = cut(teacher, teacher.shape)
    with torch.no_grad():
        inputs = images(teacher.shape)
        assert torch.equal(student(pixel_values=inputs).logits, teacher(pixel_values=inputs).logits)
    assert student.config.id2label == teacher.config.id2label


def test_dead_channels_go_first() -> None:
    """With every other channel of the teacher silenced, a student of half the width says the same."""
    narrow = Convnet(32, 3, 5, width=0.5, depth=0.5)
    teacher = settled(Convnet(32, 3, 5, width=1.0, depth=0.5))
    pattern = torch.arange(1280) % 2 == 0
    with torch.no_grad():
        for name, module in teacher.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                alive = pattern[: module.num_features].clone()
                wanted = dict(narrow.random().named_modules())[name].num_features
                alive[alive.nonzero().flatten()[wanted:]] = False  # widths are rounded: 40 / 2 is 24, so some more
                spare = wanted - int(alive.sum())
                alive[(~alive).nonzero().flatten()[:spare]] = True
                module.weight *= alive
                module.bias *= alive
    student = cut(teacher, narrow)
    with torch.no_grad():
        inputs = images(narrow)
        torch.testing.assert_close(student(pixel_values=inputs).logits, teacher(pixel_values=inputs).logits)


def test_kept_blocks_are_the_first_and_evenly_spread() -> None:
    teacher = settled(Convnet(32, 3, 5, width=0.25))  # stages of 1, 2, 2, 3, 3, 4 and 1 blocks
    student = cut(teacher, Convnet(32, 3, 5, width=0.25, depth=0.5))  # of 1, 1, 1, 2, 2, 2 and 1
    for ours, theirs in ((1, 1), (3, 5), (4, 7), (7, 11), (8, 14), (9, 15)):
        assert torch.equal(
            student.body.blocks[ours].depthwise.conv.weight, teacher.body.blocks[theirs].depthwise.conv.weight
        )
        assert torch.equal(
            student.body.blocks[ours].project.norm.running_var, teacher.body.blocks[theirs].project.norm.running_var
        )


def test_short_student_copies_what_it_has_and_starts_the_rest_at_random() -> None:
    teacher = settled(Convnet(32, 3, 5, width=0.5))
    student = cut(teacher, Convnet(24, 3, 5, width=0.25, depth=0.25, stages=3, expand=3))
    assert student(pixel_values=images(student.shape)).logits.isfinite().all()
    rows = {tuple(row.flatten().tolist()) for row in teacher.body.stem.conv.weight}
    assert all(tuple(row.flatten().tolist()) in rows for row in student.body.stem.conv.weight)


def test_another_teacher_gives_only_its_classes() -> None:
    class Other:
        config = type("config", (), {"id2label": {1: "b", 0: "a"}})

    student = SHAPES[3].init_from_teacher(Other(), Path(), kept=None, samples=[])
    assert student.config.id2label == {0: "a", 1: "b"}
