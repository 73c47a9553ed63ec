"""A pipe, a device, a socket or a folder where a file belongs: refused at once, by name, wherever a file is read."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bert_files import teacher
from onnx_files import save, text_model
from PIL import Image

from edgekd.compression import side_by_side
from edgekd.core.errors import EdgeKDError
from edgekd.data.given import read_given, read_inputs
from edgekd.data.images import read_images
from edgekd.data.series import read_series
from edgekd.hardware import latency_correction
from edgekd.hardware.profile import load_profile
from edgekd.security.keys import open_signer, read_public, read_publics
from edgekd.tasks.text_classification import TextClassification
from edgekd.teachers.efficientnet_lite import EfficientnetLite
from edgekd.teachers.huggingface import Huggingface
from edgekd.teachers.onnx_model import OnnxModel

TEXT = "text-classification"


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Whoever opens a pipe waits for ever: the alarm ends the test instead."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for a pipe, or reads a device without end")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound(path: Path) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(place)


KINDS: dict[str, Callable[[Path], None]] = {"pipe": pipe, "device": device, "socket": bound, "folder": Path.mkdir}
kinds = pytest.mark.parametrize("kind", KINDS)


def refusal(call: Callable[[], object], *words: str) -> EdgeKDError:
    with pytest.raises(EdgeKDError) as refused:
        call()
    assert any(word in refused.value.message for word in words), refused.value.message
    return refused.value


@kinds
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".csv.gz"])
def test_as_a_table(kind, suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    KINDS[kind](path)
    words = (f"{path} is no plain file", f"{path} has no training split")
    refusal(lambda: read_given(TextClassification(), str(path), None, classes=None, labelled=True), *words)
    refusal(lambda: read_inputs(TextClassification(), str(path)), *words)  # --unlabelled, --calibration, --golden


@kinds
@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_in_a_folder_of_tables(kind, name, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    (tmp_path / name).unlink(missing_ok=True)
    KINDS[kind](tmp_path / name)
    read = lambda: read_given(TextClassification(), str(tmp_path), None, classes=None, labelled=True)  # noqa: E731
    refusal(read, f"{tmp_path / name} is no plain file")


@kinds
@pytest.mark.parametrize("name", ["rows.npz", "rows.tsv", "rows.csv"])
def test_as_series(kind, name, tmp_path):
    KINDS[kind](tmp_path / name)
    refusal(lambda: read_series(str(tmp_path / name)), "is no plain file", "has no training split")
    place = tmp_path / "ucr"
    place.mkdir()
    KINDS[kind](place / "X_TRAIN.tsv")
    refusal(lambda: read_series(str(place)), f"{place / 'X_TRAIN.tsv'} is no plain file")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("name", ["a/odd.png", "metadata.csv", "a/odd.txt"])
def test_among_images_and_texts_nothing_is_lost_without_a_word(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    place = tmp_path / "data"
    for number, label in enumerate("ab"):
        (place / label).mkdir(parents=True)
        if name.endswith(".txt"):
            (place / label / "0.txt").write_text(f"text {number}")
        else:
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place / label / "0.png")
    KINDS[kind](place / name)
    read = TextClassification().read if name.endswith(".txt") else read_images
    told = refusal(lambda: read(str(place)), f"{place / name} is no plain file")
    assert "remove it" in told.fix
    (place / name).unlink()  # as the fix says
    assert sum(map(len, read(str(place)).values())) == 2


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    """As git-annex leaves them where a file was not fetched."""
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / label / "0.png")
    (tmp_path / "a" / "1.png").symlink_to(".git/annex/objects/1.png")
    refusal(lambda: read_images(str(tmp_path)), f"{tmp_path / 'a' / '1.png'} is a link that leads nowhere")


@kinds
def test_as_a_profile(kind, tmp_path):
    path = tmp_path / "board.yaml"
    KINDS[kind](path)
    told = refusal(lambda: load_profile(str(path)), f"cannot read the target profile {path}: it is no plain file")
    assert "edgekd targets show rpi4 --yaml" in told.fix


@kinds
def test_as_a_key(kind, tmp_path):
    path = tmp_path / "key"
    KINDS[kind](path)
    for read in (read_public, read_publics, lambda place: open_signer(place, lambda _: "")):
        assert "key" in refusal(lambda read=read: read(path), f"{path}").fix


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "LICENSE", "README.md"]
)
def test_in_a_teachers_folder(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    folder = teacher(tmp_path / "teacher")
    (folder / name).unlink(missing_ok=True)
    KINDS[kind](folder / name)
    told = refusal(lambda: Huggingface().inspect(str(folder), TEXT), f"{folder / name} is ")
    assert "remove it" in told.fix or "cp -rL" in told.fix


@kinds
@pytest.mark.parametrize("suffix", [".onnx", ".pth"])
def test_as_a_teacher(kind, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    KINDS[kind](path)
    if suffix == ".pth":
        refusal(lambda: EfficientnetLite().inspect(str(path), "image-classification"), f"{path}' is not a file")
        return
    refusal(lambda: OnnxModel().inspect(str(path), TEXT), f"{path} is not a file")
    refusal(lambda: side_by_side.read(path), f"{path} is no plain file")  # diagnose


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_beside_an_onnx_teacher(name, tmp_path):
    file = save(tmp_path, text_model())
    (tmp_path / name).unlink(missing_ok=True)
    pipe(tmp_path / name)
    refusal(lambda: OnnxModel().inspect(str(file), TEXT), f"{tmp_path / name}")


def test_in_a_store_what_boards_took_is_no_pipe(tmp_path):
    reading = latency_correction._file(tmp_path, "cortex-a72")
    reading.parent.mkdir(parents=True, exist_ok=True)
    pipe(reading)
    assert latency_correction.load(tmp_path, "cortex-a72") == ()


def test_packed_samples_are_no_pipe(tmp_path):
    from types import SimpleNamespace

    from edgekd.compression.examine import _samples

    pipe(tmp_path / "rows.npz")
    refusal(lambda: _samples(SimpleNamespace(data=str(tmp_path / "rows.npz")), None), "is no plain file")
    shutil.rmtree(tmp_path)
    refusal(lambda: _samples(SimpleNamespace(data=str(tmp_path / "rows.npz")), None), "there is no file")
