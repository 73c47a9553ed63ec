"""A tiny real teacher, tiny data and one finished bundle: what the tests of the whole path share."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from edgekd.core.quiet import silence_libraries

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: the others have the other cores
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, "1")
silence_libraries()

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


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A folder of this name that is made once, also where several workers run the tests: the others wait for it."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                place.mkdir()
                make(place)
                made.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def tiny_data(once: Once) -> Path:
    """600 rows in one CSV."""
    return once("data", lambda folder: write_csv(folder / "things.csv", texts(600, seed=1))) / "things.csv"


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
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(once: Once) -> Path:
    """The base model of `save_teacher`."""
    return once("teacher", lambda folder: save_teacher(folder / "tiny-bert")) / "tiny-bert"


@pytest.fixture(scope="session")
def store(once: Once) -> Iterator[Path]:
    """One store for the session, so that tests share stages as users' builds do."""
    place = once("store", lambda folder: None)
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
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )


def invoke(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The same command in this process, 0.5 s sooner: for tests of what is answered, not of the process."""
    from edgekd.cli import main

    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgekd", *words])
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    return subprocess.CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


# what only looks at a teacher, through transformers: a child takes seconds to import it, and is asked for each teacher
LOOKS = ("edgekd.teachers._names:", "edgekd.teachers._types:", "edgekd.data.vocabulary:write_tokenizer")


def call_here(function: str, arguments: dict[str, Any], *, said: Callable[[str], None] = lambda line: None, **_: Any):
    """As `child.call`, in this process: without limits."""
    module, _, name = function.partition(":")
    lines = io.StringIO()
    with contextlib.redirect_stdout(lines):
        result = getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))
    for line in lines.getvalue().splitlines():
        said(line)
    return json.loads(json.dumps(result))


@pytest.fixture(scope="session", autouse=True)
def looks_are_here() -> Iterator[None]:
    """The children of `LOOKS` are none in the tests' own process; commands that `run` starts have them."""
    from edgekd.security import child

    apart = child.call

    def call(function: str, arguments: dict[str, Any], **more: Any) -> Any:
        return (call_here if function.startswith(LOOKS) else apart)(function, arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "call", call)
        yield


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever edgekd asks of a child process is done in this one, which has loaded torch."""
    from edgekd.security import child

    monkeypatch.setattr(child, "call", call_here)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_teacher: Path, tiny_data: Path, store: Path, once: Once) -> Path:
    """A finished bundle of the tiny teacher, made by the command itself."""

    def build(folder: Path) -> None:
        done = run(
            "build",
            "--target",
            loose_target(folder),
            "--teacher",
            tiny_teacher,
            "--data",
            tiny_data,
            "--out",
            folder / "things-cpu",
            *TINY,
            "--json",
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["bundle"] == str(folder / "things-cpu")

    return once("bundle", build) / "things-cpu"


@pytest.fixture(scope="session")
def emulator() -> None:
    """The emulated ARM core's files, made first where they are not there: these tests may be the first to need them."""
    from edgekd.devices.qemu import Qemu

    Qemu.build()


def loose_target(folder: Path, **changes: object) -> Path:
    """A copy of the cpu-avx2 profile with floors that a toy model can meet, and `changes`."""
    import yaml

    from edgekd.hardware.profile import targets_folder

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
