"""Early exits: what an exit says is what the model says that ends there, which is saved and loaded as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_students import CLASSES, KEPT, SAMPLES, TOKENS, WIDTH, teacher_of
from test_taps import OWN, batch_of

from edgekd.core.tensors import RequestedOutputs
from edgekd.students.convnet import Convnet
from edgekd.students.transformer import Transformer
from edgekd.teachers._types import MODEL_TYPES
from edgekd.training import models
from edgekd.training.feature_extractor import FeatureExtractor

LABELS = ("cat", "dog", "eel")


def disturbed(module: torch.nn.Module) -> torch.nn.Module:
    """The module with weights, and statistics of batch norms, unlike any that a fresh one has."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand_like(value)
                value.add_(noise if name.endswith("running_var") else 0.3 * (noise - 0.5))
    return module


def check(shape, model, batch, folder: Path, task: str) -> None:
    """Every exit of the model, before and after its cut is written to the folder."""
    heads = {layer: disturbed(shape.exit_head(model, layer)).eval() for layer in shape.exits}
    with torch.no_grad(), FeatureExtractor(model, RequestedOutputs(), heads) as taps:
        given = taps(batch)
    assert len(given.exits) == len(shape.exits) > 0
    for layer, said in zip(shape.exits, given.exits, strict=True):
        assert (said - given.logits).abs().max() > 1e-3
        cut = shape.truncate_at(model, layer, heads[layer])
        out = folder / str(layer)
        out.mkdir()
        cut.save_pretrained(out)
        loaded = models.load(out, task)
        for one in (cut, loaded):
            assert not one.training
            with torch.no_grad():
                torch.testing.assert_close(one(**batch).logits, said, rtol=0, atol=1e-6)
        assert loaded.config.id2label == dict(enumerate(LABELS))
        assert sum(value.numel() for value in cut.parameters()) < sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_text_students_exits(model_type: str, tmp_path: Path) -> None:
    teacher = teacher_of(model_type, tmp_path)
    teacher.config.id2label = dict(enumerate(LABELS))
    shape = Transformer(4, WIDTH, 4, 64, len(KEPT), TOKENS, CLASSES)
    student = disturbed(shape.init_from_teacher(teacher, tmp_path, kept=KEPT, samples=SAMPLES)).eval()
    pad = student.config.pad_token_id
    ids = torch.tensor([[2, *range(6, 16), 3], [2, *range(16, 20), 3, *[pad] * 6]])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 12, [1] * 6 + [0] * 6])}
    assert shape.exits == (0, 1, 2)
    check(shape, student, batch, tmp_path, "text-classification")
    assert student.config.num_hidden_layers == 4


def test_a_fresh_exit_starts_as_the_models_own_head(tmp_path: Path) -> None:
    """On the last layer's output it gives the model's own logits; training it leaves the model alone."""
    model = teacher_of("distilbert", tmp_path)
    shape = Transformer(4, WIDTH, 4, 128, 120, 64, CLASSES)
    heads = {3: shape.exit_head(model, 3)}
    ids = torch.arange(2, 12)[None]
    given = FeatureExtractor(model, RequestedOutputs(), heads)({"input_ids": ids})
    torch.testing.assert_close(given.exits[0], given.logits)
    disturbed(heads[3])
    again = FeatureExtractor(model, RequestedOutputs(), heads)({"input_ids": ids})
    assert torch.equal(again.logits, given.logits)
    for shape in (OWN[0], OWN[2]):
        network = shape.random()
        head = shape.exit_head(network, 0)
        assert torch.equal(head.head.weight, network.head.weight)
        assert head.head.weight is not network.head.weight


@pytest.mark.parametrize("shape", OWN, ids=str)
def test_exits_of_our_own_families(shape, tmp_path: Path) -> None:
    model = disturbed(shape.random()).eval()
    model.name_classes(LABELS)
    seen = "pixel_values" in batch_of(shape)
    check(shape, model, batch_of(shape), tmp_path, "image-classification" if seen else "time-series-classification")


def test_exits_come_in_order_and_learn() -> None:
    """Gradients reach the exits' heads and the layers below; those above stay without."""
    shape = OWN[0]
    model = shape.random().train()
    heads = {layer: shape.exit_head(model, layer) for layer in reversed(shape.exits)}
    assert all(head.training for head in heads.values())
    assert not shape.exit_head(model.eval(), 0).training
    model.train()
    given = FeatureExtractor(model, RequestedOutputs(), heads)(batch_of(shape))
    assert len(given.exits) == 3
    given.exits[0].sum().backward()
    assert heads[0].head.weight.grad.abs().sum() > 0
    assert heads[1].head.weight.grad is None
    assert model.body.blocks[0].body[0].weight.grad.abs().sum() > 0
    assert model.body.blocks[1].body[0].weight.grad is None


def test_a_convnets_exit_starts_as_its_head_where_it_reads_as_many_channels() -> None:
    """At an eighth of the width the second and the third stage have 8 channels alike; at a quarter 8 and 16."""
    torch.manual_seed(0)
    for width, same in ((0.125, True), (0.25, False)):
        shape = Convnet(16, 1, 3, width=width, stages=3)
        model = shape.random()
        head = shape.exit_head(model, 1)
        assert torch.equal(head.top.norm.bias, model.body.top.norm.bias) == same
        assert torch.equal(head.head.weight, model.head.weight) == same


def test_a_convnet_ends_where_shapes_of_its_family_end() -> None:
    whole = Convnet(64, 3, 10, width=0.25)
    assert whole.exits == (1, 2, 4)
    assert replace(whole, stages=5).exits == (1, 2)
    assert replace(whole, stages=2).exits == ()
    model = whole.random()
    for layer in whole.exits:
        cut = whole.truncate_at(model, layer, whole.exit_head(model, layer))
        assert cut.shape == replace(whole, stages=layer + 1)
