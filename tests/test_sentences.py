"""A sentence-transformers folder says how its embeddings are made: what edgekd makes otherwise is refused by name."""

import json

import pytest
from foreign_weights import classifier

from edgekd.core.errors import TeacherError
from edgekd.teachers.huggingface import Huggingface

EMBED = "feature-extraction"
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.fixture
def folder(tmp_path):
    return classifier(tmp_path / "sentences")


def write(folder, *more, pooling=None, path="1_Pooling", **sentence):
    """modules.json with a pooling and more layers, and the settings beside it."""
    kinds = [("", "Transformer"), (path, "Pooling"), *((f"{at}_{name}", name) for at, name in enumerate(more, start=2))]
    modules = [
        {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (place, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(MEAN if pooling is None else pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(sentence))


def inspect(folder):
    return Huggingface().inspect(str(folder), EMBED)


def test_the_mean_and_the_longest_text_are_taken_over(folder):
    plain = inspect(folder)
    assert plain["architecture"]["max_tokens"] == 32
    write(folder, "Normalize", max_seq_length=16, do_lower_case=False)
    found = inspect(folder)
    assert found["architecture"]["max_tokens"] == 16
    assert found["sha256"] != plain["sha256"]
    assert found["checks"][-1].endswith("the bundle's are not scaled, cosines are the same")
    write(folder, "Normalize", max_seq_length=12)
    assert inspect(folder)["sha256"] != found["sha256"]


POOLINGS = {
    "pooling_mode_cls_token": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    "pooling_mode_max_tokens": {"pooling_mode_max_tokens": True},
    "pooling_mode_mean_tokens, pooling_mode_max_tokens": MEAN | {"pooling_mode_max_tokens": True},
    "pooling_mode_lasttoken": {"pooling_mode_lasttoken": True},
    "cls": {"pooling_mode": "cls"},
    "no pooling": {"word_embedding_dimension": 16},
}


@pytest.mark.parametrize("name", POOLINGS)
def test_other_poolings(folder, name):
    write(folder, pooling=POOLINGS[name])
    with pytest.raises(TeacherError, match=r"not the mean over tokens that edgekd makes: 1_Pooling/config.json has"):
        inspect(folder)
    write(folder)
    inspect(folder)  # the fix, obeyed


@pytest.mark.parametrize("layer", ["Dense", "LSTM", "LayerNorm"])
def test_layers_behind_the_pooling(folder, layer):
    write(folder, layer)
    with pytest.raises(TeacherError, match=f"modules.json has a '?{layer}'? layer"):
        inspect(folder)


def test_lower_case_and_damaged_files(folder):
    write(folder, do_lower_case=True)
    with pytest.raises(TeacherError, match="do_lower_case"):
        inspect(folder)
    for most in (0, -1, "16", 1.5):
        write(folder, max_seq_length=most)
        with pytest.raises(TeacherError, match="max_seq_length is"):
            inspect(folder)
    for path in ("..", "../elsewhere", "/etc", 5):
        write(folder, path=path)
        with pytest.raises(TeacherError, match="it names the folder"):
            inspect(folder)
    for text in ("{}", "[1]", "nonsense", '[{"type": 5}]'):
        (folder / "modules.json").write_text(text)
        with pytest.raises(TeacherError, match="cannot read"):
            inspect(folder)
