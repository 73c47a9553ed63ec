"""Texts with tags, the whole way: to a bundle, opened by other clients, which find the spans that it finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Once, loose_target, run
from helpers import python
from tagged_texts import sentences, write_conll, write_tokens

from edgekd.core.registry import make
from edgekd.data.tags import Words
from edgekd.onboard.runner import Predictor

SCRIPT = Path(__file__).parent / "node" / "tags.mjs"
DTYPES = {"model.onnx": "fp32", "model_fp16.onnx": "fp16", "model_quantized.onnx": "q8"}
TASK = "token-classification"
TEXTS = [" ".join(words) for words, _ in sentences(40, seed=77)]
pytestmark = pytest.mark.slow


def save_body(folder: Path) -> Path:
    """A BERT of 4 layers x 64 with a vocabulary that splits names into pieces, random weights."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    trainer = BertWordPieceTokenizer(lowercase=False)
    texts = [" ".join(words) for words, _ in sentences(500, seed=1)]
    trainer.train_from_iterator(texts, vocab_size=100, show_progress=False)
    trainer.save_model(str(folder))
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=64, do_lower_case=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(store: Path, once: Once) -> Path:
    def build(folder: Path) -> None:
        rows = write_tokens(folder / "rows.jsonl", sentences(500, seed=1))
        words = ["--target", loose_target(folder), "--task", TASK, "--teacher", save_body(folder / "body")]
        done = run("build", *words, "--data", rows, "--out", folder / "tagger", *TINY, "--json")
        assert done.returncode == 0, done.stderr

    return once("tagger", build) / "tagger"


def model_of(folder: Path) -> Path:
    return next((folder / "onnx").glob("*.onnx"))


def spans(folder: Path, texts: list[str]) -> list[list[list[Any]]]:
    """What the bundle finds in each text: kind and words, by what it says at each word."""
    classes = [*json.loads((folder / "config.json").read_text())["id2label"].values()]
    task = make("tasks", TASK).named(classes)
    predict = Predictor(str(model_of(folder)), 1, "CPUExecutionProvider", keep=dict(task.keep))
    found = []
    for text, sample in zip(texts, task.encode(folder, texts, 64), strict=True):
        places = Words.of_text(text).places
        [own] = task._spans([predict(sample)[0]])
        found.append([[kind, text[places[start][0] : places[end - 1][1]]] for start, end, kind in own])
    return found


def test_the_report_is_of_spans(bundle: Path) -> None:
    said = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    summary = said["summary"]
    assert (summary["metric"], said["quality"]["fidelity"]["name"]) == ("span_f1", "span_agreement")
    assert summary["shipped"]["metric_value"] > 0.7
    assert summary["baseline"]["metric_value"] > 0.9
    assert {row["name"] for row in said["classes"]["rows"]} == {"LOC", "PER"}
    assert (summary["most_frequent"], said["confidence"]) == (None, None)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert "It finds spans of the kinds LOC, PER, and nothing else." in card
    assert 'aggregation_strategy="first"' in card
    done = subprocess.run([sys.executable, bundle / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [[kind for kind, _ in row] for row in spans(bundle, TEXTS)]
    assert sum(map(len, told)) > 40


_PIPELINE = """
import json, sys
from optimum.onnxruntime import ORTModelForTokenClassification
from transformers import AutoTokenizer, pipeline

folder, file, texts = sys.argv[1:]
model = ORTModelForTokenClassification.from_pretrained(folder, subfolder="onnx", file_name=file)
tokenizer = AutoTokenizer.from_pretrained(folder)
tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
rows = [tag(text) for text in json.loads(texts)]
found = [[[one["entity_group"], text[one["start"] : one["end"]]] for one in row]
         for text, row in zip(json.loads(texts), rows)]
tokens = pipeline("token-classification", model=model, tokenizer=tokenizer)
print(json.dumps([found, [[[one["word"], one["entity"]] for one in tokens(text)] for text in json.loads(texts)]]))
"""


@pytest.fixture(scope="module")
def opened(bundle: Path) -> list[Any]:
    """What transformers' pipelines say, in a process of their own: spans, and tokens with their tags."""
    done = python(_PIPELINE, str(bundle), model_of(bundle).name, json.dumps(TEXTS))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_pipeline_finds_the_same_spans(bundle: Path, opened: list[Any]) -> None:
    assert opened[0] == spans(bundle, TEXTS)


@pytest.mark.node
def test_transformers_js_tags_the_same_tokens(bundle: Path, opened: list[Any], tmp_path: Path) -> None:
    command = shutil.which("node")
    if command is None or not (SCRIPT.parent / "node_modules").is_dir():
        pytest.fail("node lacks") if os.environ.get("CI") else pytest.skip("node, or `make node`, lacks")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    dtype = DTYPES[model_of(bundle).name]
    words = [command, str(SCRIPT), str(bundle.parent), bundle.name, dtype, str(tmp_path / "texts.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == opened[1]


def test_a_receipt_of_tagged_rows_is_of_span_f1(bundle: Path, tmp_path: Path) -> None:
    own = tmp_path / "tagger"
    shutil.copytree(bundle, own)
    data = write_conll(tmp_path / "more.conll", sentences(60, seed=50))
    done = run("bench", own, "--device", "local", "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "tagger.receipts").glob("*.json")
    receipt = json.loads(file.read_text())
    assert receipt["accuracy_of"] == "span_f1, labels of more.conll"
    assert receipt["accuracy"] > 0.6  # which shape is taught hangs on measured speed; who knows nothing has 0
    strange = write_conll(tmp_path / "strange.conll", [(["Mars"], ["B-STAR"])] * 9)
    done = run("bench", own, "--device", "local", "--data", strange)
    assert done.returncode == 1
    assert "STAR" in done.stderr
