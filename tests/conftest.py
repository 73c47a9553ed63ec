"""A tiny real teacher, tiny data and one finished bundle: what the tests of the whole path share."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.core.quiet import hush

hush()

CLASSES = {
    "colour": "red green blue white black",
    "animal": "cat dog horse cow bird",
    "food": "bread rice soup cake egg",
}
FILLER = (
    "what",
    "is",
    "the",
    "name",
    "of",
    "a",
    "kind",
    "that",
    "people",
    "in",
    "this",
    "town",
    "like",
    "most",
    "when",
    "they",
    "see",
    "it",
    "near",
)


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Labelled sentences that a small model can learn: a word of the class among filler."""
    draw = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        label = draw.choice(sorted(CLASSES))
        words = draw.sample(FILLER, draw.randint(3, 9))
        words.insert(draw.randint(0, len(words)), draw.choice(CLASSES[label].split()))
        made[" ".join(words) + "?"] = label
    return list(made.items())


def write_csv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows in one CSV."""
    return write_csv(tmp_path_factory.mktemp("data") / "things.csv", texts(600, seed=1))


def save_teacher(folder: Path) -> Path:
    """A BERT of 4 layers x 64 with a WordPiece vocabulary, random weights: a base model."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    trainer = BertWordPieceTokenizer()
    trainer.train_from_iterator([text for text, _ in texts(600, seed=1)] * 2, vocab_size=600, show_progress=False)
    trainer.save_model(str(folder))
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model of `save_teacher`."""
    return save_teacher(tmp_path_factory.mktemp("teacher") / "tiny-bert")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for the session, so that tests share stages as users' builds do."""
    place = tmp_path_factory.mktemp("store")
    before = os.environ.get("EDGEKD_STORE")
    os.environ["EDGEKD_STORE"] = str(place)
    yield place
    os.environ.pop("EDGEKD_STORE") if before is None else os.environ.update(EDGEKD_STORE=before)


TINY = ("--min-speedup", "1.1", "--min-retained", "0.5", "--epochs", "8", "--threads", "1")


def run(
    *arguments: str | Path, env: dict[str, str] | None = None, timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """The real command in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {}), check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_bundle(tiny_teacher: Path, tiny_data: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle of the tiny teacher, made by the command itself."""
    out = tmp_path_factory.mktemp("bundles") / "things-cpu"
    done = run(
        "build", "--target", loose_target(tmp_path_factory.mktemp("targets")), "--teacher", tiny_teacher,
        "--data", tiny_data, "--out", out, *TINY, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == str(out)
    return out


@pytest.fixture(scope="session")
def emulator() -> None:
    """The emulated ARM core's files, made first where they are not there: these tests may be the first to need them."""
    from edgekd.devices.qemu import Qemu

    Qemu.build()


def loose_target(folder: Path, **changes: object) -> Path:
    """A copy of the cpu-avx2 profile with floors that a toy model can meet, and `changes`."""
    import yaml

    from edgekd.core.profile import targets_folder

    values = yaml.safe_load((targets_folder() / "cpu-avx2.yaml").read_text(encoding="utf-8"))
    values |= {
        "name": "loose",
        "max_drop_points": 20.0,
        "min_teacher_agreement": 0.1,
        "latency_ms": 100.0,
        "cold_start_ms": 60_000.0,
    } | changes
    path = folder / "loose.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
