"""What is loaded is held against what config.json names: a network that would be part random never ships."""

import json
from pathlib import Path

import pytest
import torch
from foreign_weights import HARMLESS, LABELS, STRANGE, WORDS, WRAPPED, classifier, configure, rewrite, saved, without
from safetensors.torch import load_file

from edgekd.core import loading
from edgekd.core.errors import TeacherError
from edgekd.plan.inputs import read_teacher, settle
from edgekd.security import child
from edgekd.teachers.huggingface import Huggingface
from edgekd.training import models

TEXT, EMBED = "text-classification", "feature-extraction"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("weights") / "original")


@pytest.fixture(autouse=True)
def of_the_session(store):
    """Answers about teachers are kept in the session's store."""


def settled(folder, task=TEXT, *, compressed=True):
    teacher = Huggingface()
    return teacher.settled(teacher.inspect(str(folder), task), task, compressed=compressed)


def logits(folder):
    model = models.load(folder, TEXT)
    with torch.no_grad():
        return model(input_ids=torch.tensor([[2, 5, 6, 11, 3]])).logits


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapper_is_taken_off_and_said(name, original, tmp_path):
    found = settled(saved(name, tmp_path / "teacher", original))
    torch.testing.assert_close(logits(Path(found["folder"])), logits(original))
    assert found["checks"][-1].startswith("weights of a wrapped model, under the model's own names: ")
    assert found["labels"] == LABELS


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_strange_passes_as_it_is(name, original, tmp_path):
    folder = saved(name, tmp_path / "teacher", original)
    found = settled(folder)
    assert found["folder"] == str(folder)
    torch.testing.assert_close(logits(folder), logits(original))


@pytest.mark.parametrize("name", STRANGE)
def test_weights_of_another_model_are_refused_before_and_at_loading(name, original, tmp_path):
    folder = saved(name, tmp_path / "teacher", original)
    with pytest.raises(TeacherError, match=r"weights in .* are not those of the BertForSequenceClassification") as why:
        settled(folder)
    assert why.value.fix
    if "positions in config" in name:
        return  # loading it would take gigabytes
    with pytest.raises(TeacherError, match=r"which would be part random|corrupted"):
        models.load(Path(Huggingface().inspect(str(folder), TEXT)["folder"]), TEXT)


def test_the_names_and_the_way_out_are_told(original, tmp_path):
    folder = saved("no head", tmp_path / "teacher", original)
    with pytest.raises(TeacherError) as why:
        settled(folder)
    assert "which would be part random: 2 missing: classifier.bias, classifier.weight" in why.value.message
    assert '"architectures": ["BertModel"]' in why.value.fix
    configure(folder, architectures=["BertModel"])  # the fix, obeyed
    found = settled(folder, compressed=False)
    assert not found["ready"]
    model = Huggingface().base(folder, found["architecture"], TEXT, ("yes", "no"))
    assert model.config.problem_type == "single_label_classification"
    other = saved("more positions in config.json", tmp_path / "other", original)
    with pytest.raises(TeacherError, match=r"1 of another shape: bert.embeddings.position_embeddings.weight") as why:
        settled(other)
    assert "model._orig_mod" in why.value.fix


def test_a_base_model_may_lack_a_head_and_a_pooler_but_no_layer(original, tmp_path):
    folder = configure(saved("no head", tmp_path / "base", original), architectures=["BertForMaskedLM"])
    rewrite(folder, without("pooler."))
    assert not settled(folder, compressed=False)["ready"]
    Huggingface().base(folder, {}, TEXT, ("yes", "no"))
    rewrite(folder, without("layer.0.output"))
    with pytest.raises(TeacherError, match=r"missing: bert.encoder.layer.0.output"):
        settled(folder, compressed=False)
    with pytest.raises(TeacherError, match=r"missing: bert.encoder.layer.0.output"):
        Huggingface().base(folder, {}, TEXT, ("yes", "no"))


def test_embeddings_need_the_encoder_alone(original, tmp_path):
    assert settled(original, EMBED)["ready"], "a head is dropped"
    folder = rewrite(saved("no head", tmp_path / "encoder", original), without("pooler."))
    settled(folder, EMBED)
    models.load(folder, EMBED)
    rewrite(folder, without("layer.1."))
    for attempt in (lambda: settled(folder, EMBED), lambda: models.load(folder, EMBED)):
        with pytest.raises(TeacherError, match="not those of the BertModel"):
            attempt()


def test_one_of_our_own_networks(tmp_path):
    from edgekd.students.mlp import SERIES, Mlp

    network = Mlp(8, 1, 32, 3, 3, SERIES).random()
    network.name_classes(LABELS)
    network.save_pretrained(tmp_path)
    task = "time-series-classification"
    settled(tmp_path, task)
    rewrite(tmp_path, lambda state: {f"module.{name}": value for name, value in state.items()})
    unwrapped = settled(tmp_path, task)
    models.load(Path(unwrapped["folder"]), task)
    first = next(iter(load_file(Path(unwrapped["folder"]) / "model.safetensors")))
    rewrite(tmp_path, lambda state: {n: v for n, v in state.items() if n != f"module.{first}"})
    with pytest.raises(TeacherError, match="missing"):
        settled(tmp_path, task)


def test_names_that_two_wrapped_parts_share_are_left_alone():
    assert loading.unwrapped(["module.a", "a"]) == []
    assert loading.unwrapped(["a.b", "c.d"]) == []
    assert loading.unwrapped(["model.a", "model.b"]) == [{"model.a": "a", "model.b": "b"}]


def test_the_command_s_way_asks_a_limited_child_once(original, tmp_path, monkeypatch, store):
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKD_STORE", str(store))
    folder = saved("compiled", tmp_path / "teacher", original)
    kind, read = read_teacher(str(folder), TEXT, compressed=True)
    found = settle(kind, read, TEXT, compressed=True)
    assert kind == "huggingface"
    assert found["folder"] != str(folder)
    calls = []
    monkeypatch.setattr(child, "call", lambda *a, **k: calls.append(a))
    assert settle(kind, read, TEXT, compressed=True) == found
    assert not calls
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(WORDS)
