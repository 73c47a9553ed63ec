"""What a model gives to losses beside its logits, and what is known of that before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_image_teachers
import test_students
import torch
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.layers import exit_layers, layer_map, matched_layers
from edgekd.core.protocols import InputSpec, writes
from edgekd.core.registry import make, names, plugin
from edgekd.core.tensors import RequestedOutputs
from edgekd.plan.plan import teacher_depth
from edgekd.students.conv1d import Conv1d
from edgekd.students.convnet import Convnet
from edgekd.students.mlp import IMAGE, SERIES, Mlp
from edgekd.teachers._types import IMAGE_TYPES, MODEL_TYPES
from edgekd.teachers.huggingface import Huggingface
from edgekd.teachers.labels import Labels
from edgekd.training.feature_extractor import FeatureExtractor, by_position

OWN = (
    Conv1d(8, 4, 3, 2, separable=True, dilated=True, steps=50, channels=2, classes=3),
    Convnet(32, 1, 3, width=0.25, depth=0.5, stages=5, stem_stride=1),
    Mlp(12, 3, 20, 2, 3, SERIES),
    Mlp(12, 2, 6, 3, 3, IMAGE),
)


def batch_of(shape, rows: int = 3) -> dict[str, torch.Tensor]:
    """Random inputs of one of our families."""
    torch.manual_seed(0)
    series = type(shape) is Conv1d or getattr(shape, "input_name", "") == SERIES
    side = shape.max_size
    size = (side, shape.channels) if series else (shape.channels, side, side)
    return {SERIES if series else IMAGE: torch.randn(rows, *size)}


def texts() -> dict[str, torch.Tensor]:
    """Two of 9 and 5 tokens, the latter padded."""
    ids = torch.tensor([[4, *range(10, 17), 5], [4, 30, 31, 32, 5, 1, 1, 1, 1]])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * 9, [1] * 5 + [0] * 4])}


@given(st.integers(1, 48), st.integers(1, 48))
@fast
def test_the_last_layers_are_compared(teacher: int, student: int) -> None:
    layers = matched_layers(teacher, student)
    assert len(layers) == student
    assert layers[-1] == teacher - 1
    assert layers == sorted(layers)
    assert layers[0] == (0 if student > 1 else teacher - 1)
    assert layer_map(teacher, student)[0] == 0
    if student <= teacher:
        assert len(set(layers)) == student


@given(st.integers(1, 100))
@fast
def test_up_to_three_exits_before_the_last_layer(layers: int) -> None:
    exits = exit_layers(layers)
    assert len(exits) == min(3, layers - 1)
    assert sorted(set(exits)) == list(exits)
    assert all(0 <= one < layers - 1 for one in exits)
    assert len(exits) < 3 or layers / 4 - 2 < exits[0] < layers / 4 + 1


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_texts(model_type: str, tmp_path: Path) -> None:
    model = test_students.teacher_of(model_type, tmp_path)
    architecture = Huggingface().inspect(str(tmp_path), "text-classification")["architecture"]
    assert teacher_depth(architecture) == 4
    assert Huggingface().gives(architecture) == ("logits", "features", "embedding", "attention", "text")
    batch, wanted = texts(), RequestedOutputs(layers=(0, 3), attention=2, embedding=True, positions=16)
    seen: list[torch.Tensor] = []
    key = next(
        m
        for name, m in model.named_modules()
        if name.endswith(("2.attention.self.key", "2.attention.k_lin", "2.attention.attn.k"))
    )
    hook = key.register_forward_hook(lambda _module, inputs, output: seen.extend((inputs[0], output)))
    with FeatureExtractor(model, wanted) as taps:
        given = taps(batch)
    hidden = model(**batch, output_hidden_states=True).hidden_states
    hook.remove()
    assert torch.equal(given.logits, model(**batch).logits)
    assert torch.equal(given.features[0], hidden[1])
    assert torch.equal(given.features[1], hidden[4])
    assert given.mask is not None
    assert given.mask.dtype == torch.bool
    assert torch.equal(given.mask, batch["attention_mask"] == 1)
    assert [value.shape for value in given.attention] == [(2, 9, test_students.WIDTH)] * 3
    assert torch.equal(given.attention[1], seen[1])
    assert torch.equal(seen[0], hidden[2])  # the third layer's input is the second's output
    assert given.embedding is not None
    torch.testing.assert_close(given.embedding[1], hidden[-1][1, :5].mean(dim=0))
    torch.testing.assert_close(given.embedding[0], hidden[-1][0].mean(dim=0))


def test_gradients_flow_and_hooks_come_off(tmp_path: Path) -> None:
    model = test_students.teacher_of("bert", tmp_path).train()
    with FeatureExtractor(model, RequestedOutputs(layers=(1,), attention=3, embedding=True)) as taps:
        given = taps(texts())
        values = (given.features[0], *given.attention, given.embedding)
        sum(value.square().sum() for value in values).backward()
    for layer in model.bert.encoder.layer[:3]:
        assert layer.output.dense.weight.grad.abs().sum() > 0
    assert model.bert.encoder.layer[3].attention.self.value.weight.grad.abs().sum() > 0
    assert model.classifier.weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_wanted_is_the_model_itself(tmp_path: Path) -> None:
    model = test_students.teacher_of("bert", tmp_path)
    asked = []
    model.register_forward_pre_hook(lambda _module, _args, options: asked.append(set(options)), with_kwargs=True)
    before = sum(len(module._forward_hooks) for module in model.modules())
    given = FeatureExtractor(model, RequestedOutputs())(texts())
    assert sum(len(module._forward_hooks) for module in model.modules()) == before
    assert asked == [{"input_ids", "attention_mask"}]
    assert given.mask is None
    assert given.embedding is None
    assert (given.features, given.attention, given.exits) == ((), (), ())


def test_batches_that_others_run_are_not_kept(tmp_path: Path) -> None:
    model = OWN[0].random()
    taps = FeatureExtractor(model, RequestedOutputs(layers=(0,)))
    taps(batch_of(OWN[0]))
    model(**batch_of(OWN[0]))
    assert taps._kept is None
    assert model.body.blocks[0]._forward_hooks
    taps.close()
    assert not model.body.blocks[0]._forward_hooks


@pytest.mark.parametrize("model_type", IMAGE_TYPES)
def test_images(model_type: str, tmp_path: Path) -> None:
    """The count of layers, known from the config alone, is the model's."""
    model = test_image_teachers.teacher_of(model_type, tmp_path)
    architecture = Huggingface().inspect(str(tmp_path), "image-classification")["architecture"]
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    depth = teacher_depth(architecture)
    gives = Huggingface().gives(architecture)
    attention = "attention" in gives
    assert attention == (model_type in ("beit", "deit", "vit"))
    wanted = RequestedOutputs(tuple(range(depth)), depth - 1 if attention else None, embedding=True, positions=4)
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True).hidden_states
        given = FeatureExtractor(model, wanted)(batch)
        whole = FeatureExtractor(model, RequestedOutputs(layers=(depth - 1,)))(batch).features[0]
    assert depth == len(hidden) - 1
    assert [value.shape[:2] for value in given.features] == [(2, 4)] * depth
    width = hidden[-1].shape[1 if hidden[-1].dim() == 4 else 2]
    assert given.features[-1].shape[2] == width
    assert given.mask is None
    assert given.embedding is not None
    torch.testing.assert_close(given.embedding, whole.mean(dim=1))
    if attention:
        tokens = hidden[-1].shape[1]
        assert [value.shape for value in given.attention] == [(2, tokens, width)] * 3
        assert whole.shape[1] == 16  # 4 x 4 patches: no class token is among them
        torch.testing.assert_close(whole, hidden[-1][:, tokens - 16 :])


def test_blocks_of_a_scaled_efficientnet(tmp_path: Path) -> None:
    """Repeats are rounded up stage by stage: 2 and 3 of 1 and 2."""
    model = test_image_teachers.teacher_of("efficientnet", tmp_path, depth_coefficient=1.2)
    architecture = Huggingface().inspect(str(tmp_path), "image-classification")["architecture"]
    assert teacher_depth(architecture) == len(model.efficientnet.encoder.blocks) == 5


def test_a_config_that_hides_its_depth_gives_no_features(tmp_path: Path) -> None:
    test_image_teachers.teacher_of("resnet", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["depths"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    architecture = Huggingface().inspect(str(tmp_path), "image-classification")["architecture"]
    assert teacher_depth(architecture) == 0
    assert Huggingface().gives(architecture) == ("logits",)


@pytest.mark.parametrize("shape", OWN, ids=str)
def test_own_families(shape) -> None:
    model, batch = shape.random(), batch_of(shape)
    wanted = RequestedOutputs(tuple(range(shape.layers)), embedding=True, positions=4)
    given = FeatureExtractor(model, wanted)(batch)
    assert len(given.features) == shape.layers == len(model.layers)
    assert model.device == torch.device("cpu")
    positions = 1 if type(shape) is Mlp else 4
    assert [value.shape[:2] for value in given.features] == [(3, positions)] * shape.layers
    assert torch.equal(given.logits, model(**batch).logits)
    assert given.embedding is not None
    assert given.mask is None
    if type(shape) is not Convnet:  # its top convolution stands between the two
        torch.testing.assert_close(model.head(given.embedding), given.logits)
    torch.stack([value.mean() for value in given.features]).sum().backward()
    first = next(weight for weight in model.parameters() if weight.dim() > 1)
    assert first.grad.abs().sum() > 0
    architecture = {"family": type(shape).__name__.lower(), "shape": shape.as_dict()}
    assert teacher_depth(architecture) == shape.layers
    for teacher in (Labels(), Huggingface(), make("teachers", "efficientnet_lite")):
        assert teacher.gives(architecture) == ("logits", "features", "embedding")


def test_layers_of_a_convnet_are_its_stages() -> None:
    shape = OWN[1]
    given = FeatureExtractor(shape.random(), RequestedOutputs((0, 4)))(batch_of(shape))
    ends = [next(b for b in reversed(shape.blocks) if b.stage == stage).project for stage in (0, 4)]
    assert [value.shape for value in given.features] == [(3, end.out_side**2, end.outputs) for end in ends]


@pytest.mark.parametrize("family", [name for name in names("students") if not writes(plugin("students", name))])
def test_families_say_what_they_give(family: str) -> None:
    kind = plugin("students", family)
    assert {"features", "embedding", "exits"} <= set(kind.gives) <= {"features", "embedding", "exits", "attention"}
    architecture = {"layers": 2, "hidden": 64, "heads": 2, "feed_forward": 64}
    survey = InputSpec(32, (32,), vocabulary=50)
    for shape in kind.ladder(architecture, survey, classes=2)[::10]:
        assert all(layer < shape.layers - 1 for layer in shape.exits)
        assert isinstance(shape.layers, int)


def test_maps_are_averaged_to_a_grid() -> None:
    """The mean of each quarter of a map, row by row; a vision transformer's patches are a map without class tokens."""
    rows = torch.arange(16.0).reshape(4, 4)
    quarters = torch.tensor([rows[a : a + 2, b : b + 2].mean() for a in (0, 2) for b in (0, 2)])
    maps = torch.stack([rows, 2 * rows])[None]
    expected = torch.stack([quarters, 2 * quarters], dim=1)[None]
    image = {"pixel_values": torch.zeros(())}
    torch.testing.assert_close(by_position(maps, image, 4), expected)
    for classes in (1, 2):
        patches = torch.cat([torch.full((1, classes, 2), 99.0), maps.flatten(2).transpose(1, 2)], dim=1)
        torch.testing.assert_close(by_position(patches, image, 4), expected)
        torch.testing.assert_close(by_position(patches, image, None), patches[:, classes:])
    series = {"past_values": torch.zeros(())}
    torch.testing.assert_close(
        by_position(torch.arange(6.0)[None, None], series, 3), torch.tensor([[[0.5], [2.5], [4.5]]])
    )
    torch.testing.assert_close(by_position(torch.ones(2, 5), series, 16), torch.ones(2, 1, 5))
