"""A student as a cut of its teacher, for every model type that we say we can copy from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from edgekd.core.layers import layer_map
from edgekd.students.transformer import Transformer
from edgekd.teachers._types import MODEL_TYPES
from edgekd.teachers.huggingface import Huggingface

VOCABULARY, TOKENS, CLASSES, WIDTH, WIDE = 120, 24, 3, 32, 128
KEPT = [*range(6), *range(10, 60)]
SAMPLES = [{"input_ids": np.array([[0, *range(10, 20), 2]]), "attention_mask": np.ones((1, 12), dtype=np.int64)}]


def teacher_of(model_type: str, folder: Path):
    """A small random classifier of this type, saved as a user's folder would be."""
    torch.manual_seed(0)
    padded = model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
    names = {"dim": WIDTH, "n_layers": 4, "n_heads": 4, "hidden_dim": WIDE}
    usual = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": WIDE}
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCABULARY,
        max_position_embeddings=64 + 2 * padded,
        num_labels=CLASSES,
        pad_token_id=1 if padded else 0,
        **(names if model_type == "distilbert" else usual),
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return model


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_student_starts_as_a_cut_of_its_teacher(model_type: str, tmp_path: Path) -> None:
    teacher = teacher_of(model_type, tmp_path)
    found = Huggingface().inspect(str(tmp_path), "text-classification")
    assert found["ready"]
    assert found["architecture"] == {
        "model_type": model_type,
        "layers": 4,
        "hidden": WIDTH,
        "heads": 4,
        "feed_forward": WIDE,
        "vocabulary": VOCABULARY,
        "max_tokens": 64,
    }
    shape = Transformer(2, WIDTH, 4, 64, len(KEPT), TOKENS, CLASSES)
    student = shape.init_from_teacher(teacher, tmp_path, kept=KEPT, samples=SAMPLES)
    words = teacher.get_input_embeddings().weight[KEPT]
    assert torch.equal(student.get_input_embeddings().weight, words)
    assert student.num_parameters() < teacher.num_parameters()
    assert student.config.num_hidden_layers == 2
    source, target = teacher.state_dict(), student.state_dict()
    same = [name for name in target if target[name].shape == source[name].shape and ".layer." not in name]
    assert same
    assert all(torch.equal(target[name], source[name]) for name in same)
    ids = torch.tensor([[0, *range(6, 16), 2]])
    assert student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, CLASSES)
    long = torch.full((1, TOKENS), 7)
    assert student(input_ids=long, attention_mask=torch.ones_like(long)).logits.isfinite().all()


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "mpnet"])
def test_a_student_of_half_the_width_is_a_cut_too(model_type: str, tmp_path: Path) -> None:
    """Half the channels, half the heads of the same size: every weight is one of the teacher's."""
    teacher = teacher_of(model_type, tmp_path)
    shape = Transformer(2, WIDTH // 2, 2, 64, len(KEPT), TOKENS, CLASSES)
    student = shape.init_from_teacher(teacher, tmp_path, kept=KEPT, samples=SAMPLES)
    assert student.get_input_embeddings().weight.shape[0] == len(KEPT)
    known = torch.cat([value.flatten() for value in teacher.state_dict().values() if value.is_floating_point()])
    for name, value in student.state_dict().items():
        if value.is_floating_point():
            assert torch.isin(value, known).all(), name
    ids = torch.tensor([[0, *range(6, 16), 2]])
    assert student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_channels_and_heads_that_matter_are_kept(tmp_path: Path) -> None:
    """A head whose output nobody reads, and channels that stay near zero, are the ones that go."""
    teacher = teacher_of("bert", tmp_path)
    size = WIDTH // 4
    with torch.no_grad():
        for layer in teacher.bert.encoder.layer:
            layer.attention.output.dense.weight[:, size : 3 * size] = 0  # heads 1 and 2
            layer.output.LayerNorm.weight[::2] = 1e-3  # every other channel
    shape = Transformer(4, WIDTH // 2, 2, WIDE, VOCABULARY, 64, CLASSES)
    student = shape.init_from_teacher(teacher, tmp_path, kept=range(VOCABULARY), samples=SAMPLES)
    for old, new in zip(teacher.bert.encoder.layer, student.bert.encoder.layer, strict=True):
        kept = torch.cat([torch.arange(size), torch.arange(3 * size, WIDTH)])
        expected = old.attention.self.query.weight[kept][:, 1::2]
        assert torch.equal(new.attention.self.query.weight, expected)
        assert torch.equal(new.output.LayerNorm.weight, old.output.LayerNorm.weight[1::2])


def test_whole_student_is_its_teacher(tmp_path: Path) -> None:
    """Nothing cut: the same answers, so that whatever changes them is the cut."""
    teacher = teacher_of("bert", tmp_path)
    shape = Transformer(4, WIDTH, 4, WIDE, VOCABULARY, 64, CLASSES)
    student = shape.init_from_teacher(teacher, tmp_path, kept=range(VOCABULARY), samples=SAMPLES)
    ids = torch.arange(2, 20)[None]
    torch.testing.assert_close(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_neurons_that_matter_are_kept(tmp_path: Path) -> None:
    """With all other outgoing weights at zero, the narrow student answers as the wide one does."""
    teacher = teacher_of("bert", tmp_path)
    alive = torch.randperm(WIDE, generator=torch.Generator().manual_seed(1))[:64]
    with torch.no_grad():
        for layer in teacher.bert.encoder.layer:
            mask = torch.zeros(WIDE)
            mask[alive] = 1
            layer.output.dense.weight *= mask
    shape = Transformer(4, WIDTH, 4, 64, VOCABULARY, 64, CLASSES)
    student = shape.init_from_teacher(teacher, tmp_path, kept=range(VOCABULARY), samples=SAMPLES)
    ids = torch.arange(2, 20)[None]
    torch.testing.assert_close(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_paper_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    teacher_of("bert", tmp_path)
    shape = Transformer(2, WIDTH, 4, 64, 100, TOKENS, CLASSES)
    assert shape.random(tmp_path).num_parameters() == pytest.approx(shape.work(8).weights, rel=0.05)
    assert Transformer(**json.loads(json.dumps(shape.as_dict()))) == shape


@pytest.mark.parametrize(("teacher", "student", "expected"), [(6, 3, [0, 2, 5]), (12, 1, [0]), (4, 4, [0, 1, 2, 3])])
def test_layers_are_spread_evenly(teacher: int, student: int, expected: list[int]) -> None:
    assert layer_map(teacher, student) == expected
