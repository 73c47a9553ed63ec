"""A model with token types beside a tokenizer that gives none: zeros, as transformers takes them, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from bert_files import CONFIG, TOKENIZER, teacher
from helpers import feeds
from onnx_files import CLASSES, FLOAT, HIDDEN, INT, PIECES, beside, model_of, node, value, weights

from edgekd.core.errors import TeacherError
from edgekd.data import clean, token_types
from edgekd.data.tokens import tokenize
from edgekd.teachers.onnx_model import OnnxModel

TASK = "text-classification"


def typed(folder: Path, tokenizer: dict[str, object], **config: object) -> Path:
    """An .onnx text classifier that takes token types, and a tokenizer of these settings beside it."""
    inputs = [value(name, INT, ["batch", "tokens"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    nodes = [
        node("Gather", ["table", "input_ids"], ["words"]),
        node("Gather", ["types", "token_type_ids"], ["kinds"]),
        node("Add", ["words", "kinds"], ["rows"]),
        node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        node("Unsqueeze", ["mask", "last"], ["column"]),
        node("Mul", ["rows", "column"], ["masked"]),
        node("ReduceMean", ["masked"], ["pooled"], axes=[1], keepdims=0),
        node("MatMul", ["pooled", "head"], ["scores"]),
    ]
    constants = {"table": weights(len(PIECES), HIDDEN), "types": weights(2, HIDDEN), "head": weights(HIDDEN, CLASSES)}
    outputs = [value("scores", FLOAT, ["batch", CLASSES])]
    model = model_of(nodes, inputs, outputs, constants | {"last": np.array([-1], np.int64)})
    beside(folder, **config)
    own = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(own | tokenizer))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def runs(file: Path, folder: Path) -> bool:
    """Whether what the folder's tokenizer gives is all that the graph takes."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    samples = list(tokenize(folder, ["a b c", "d e"], 32))
    assert all((sample["token_type_ids"] == 0).all() for sample in samples)
    return all(session.run(None, feed)[0].shape == (1, CLASSES) for feed in feeds(session, samples))


NONE = ({"model_input_names": ["input_ids", "attention_mask"]}, {"tokenizer_class": "RobertaTokenizerFast"})


@pytest.mark.parametrize("tokenizer", NONE, ids=["by name", "by class"])
def test_a_graph_without_its_types_is_refused_and_the_fix_works(tokenizer, tmp_path):
    file = typed(tmp_path, tokenizer)
    with pytest.raises(TeacherError) as refusal:
        OnnxModel().inspect(str(file), TASK)
    assert f"{file} takes token_type_ids, and its tokenizer ({tmp_path}/tokenizer_config.json)" in str(refusal.value)
    settings = tmp_path / "tokenizer_config.json"
    told = json.loads("{" + refusal.value.fix.split("set ")[1].split(" in /")[0] + "}")
    told |= {"tokenizer_class": "PreTrainedTokenizerFast"}  # Roberta's own wants merges, which no test has
    settings.write_text(json.dumps(json.loads(settings.read_text()) | told))
    assert OnnxModel().inspect(str(file), TASK)["architecture"]["inputs"].keys() >= {"token_type_ids"}
    assert runs(file, tmp_path)


def test_a_config_that_tells_of_types_is_enough(tmp_path):
    file = typed(tmp_path, NONE[0], model_type="bert", num_labels=CLASSES)
    found = OnnxModel().inspect(str(file), TASK)
    assert runs(file, tmp_path)
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    OnnxModel().files(tmp_path, found["architecture"], TASK, shipped)
    (shipped / "config.json").unlink()  # the tokenizer that ships gives them by its own settings
    assert runs(file, shipped)


def test_a_tokenizer_that_gives_types_is_left_as_it_is(tmp_path):
    file = typed(tmp_path, {})
    found = OnnxModel().inspect(str(file), TASK)
    out = tmp_path / "out"
    out.mkdir()
    OnnxModel().files(tmp_path, found["architecture"], TASK, out)
    assert "model_input_names" not in json.loads((out / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], None], ids=["by name", "by class"])
def test_a_folders_tokenizer_gives_zeros_and_is_saved_so(names, tmp_path):
    settings = {"tokenizer_class": "DistilBertTokenizerFast", "pad_token": "[PAD]", "model_max_length": 16}
    settings |= {"model_input_names": names} if names else {}
    lower = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    files = {
        "tokenizer_config.json": json.dumps(settings),
        "tokenizer.json": json.dumps(TOKENIZER | {"normalizer": lower}),
    }
    folder = teacher(tmp_path / "teacher", **files)
    sample = tokenize(folder, ["a b"], 16)[0]
    assert sample["token_type_ids"].tolist() == [[0] * sample["input_ids"].shape[1]]
    with clean.tokenizer(folder) as loaded:
        loaded.save_pretrained(tmp_path / "saved")
    assert "token_type_ids" in tokenize(tmp_path / "saved", ["a b"], 16)[0]
    other = json.dumps(CONFIG | {"type_vocab_size": 0, "model_type": "distilbert"})
    bare = teacher(tmp_path / "bare", **files, **{"config.json": other})
    assert "token_type_ids" not in tokenize(bare, ["a b"], 16)[0]


@pytest.mark.parametrize(
    ("config", "takes"),
    [
        ({"model_type": "bert"}, True),
        ({"model_type": "bert", "type_vocab_size": 1}, True),
        ({"model_type": "bert", "type_vocab_size": 0}, False),
        ({"model_type": "roberta", "type_vocab_size": 1}, False),
        ({"model_type": "distilbert"}, False),
        ({"model_type": "deberta-v2", "type_vocab_size": 0}, False),
        ({"type_vocab_size": "2"}, False),
        ({}, False),
    ],
)
def test_which_models_take_types(config, takes):
    assert token_types.takes_types(config) is takes


def test_the_list_of_tokenizers_is_that_of_transformers():
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    for name in {one for pair in TOKENIZER_MAPPING_NAMES.values() for one in pair if one and one.endswith("Fast")}:
        kind = getattr(transformers, name, None)
        if getattr(kind, "model_input_names", None):
            assert token_types.gives_types({"tokenizer_class": name}) is ("token_type_ids" in kind.model_input_names), (
                name
            )
