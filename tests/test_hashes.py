"""What is kept of a teacher's and data's files: by content for all, by a file's times for a plan alone."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekd.cli import cli
from edgekd.core.digests import file_sha256
from edgekd.core.errors import TeacherError, UsageError
from edgekd.data import vocabulary
from edgekd.plan import planning
from edgekd.store import file_hashes
from edgekd.store.store import Store
from edgekd.teachers import _safetensors

BEFORE = time.time() - 3600


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed."""
    done: list[Path] = []

    def counted(path: Path) -> str:
        done.append(path)
        return file_sha256(path)

    monkeypatch.setattr(file_hashes, "file_sha256", counted)
    # a file that a test has just written would not be believed: its clock goes on by a minute
    monkeypatch.setattr(file_hashes.time, "time", lambda now=time.time: now() + 60)
    return done


def large(path: Path, byte: bytes = b"a") -> Path:
    path.write_bytes(byte * (2 << 20))
    os.utime(path, (BEFORE, BEFORE))
    return path


def test_a_plan_hashes_a_large_file_once(tmp_path: Path, read: list[Path]):
    file = large(tmp_path / "weights")
    with file_hashes.believed():
        assert {file_hashes.sha256_of(file) for _ in range(3)} == {file_sha256(file)}
    assert read == [file]


def test_everything_else_reads_every_byte(tmp_path: Path, read: list[Path]):
    file = large(tmp_path / "weights")
    with file_hashes.believed():
        file_hashes.sha256_of(file)
    assert file_hashes.sha256_of(file) == file_hashes.sha256_of(file) == file_sha256(file)
    assert len(read) == 3


def test_a_file_that_was_written_over_is_read_again_though_its_size_and_time_are_the_same(
    tmp_path: Path, read: list[Path]
):
    file = large(tmp_path / "weights")
    with file_hashes.believed():
        first = file_hashes.sha256_of(file)
        time.sleep(0.02)
        large(file, b"b")
        assert file_hashes.sha256_of(file) == file_sha256(file) != first
        os.replace(large(tmp_path / "other", b"c"), file)
        assert file_hashes.sha256_of(file) == file_sha256(file)


def test_small_files_and_those_of_this_moment_are_always_read(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch, own_store: Path
):
    small, fresh = tmp_path / "small", large(tmp_path / "fresh")
    small.write_bytes(b"a")
    monkeypatch.setattr(file_hashes.time, "time", lambda: fresh.stat().st_ctime + 1)
    with file_hashes.believed():
        for _ in range(2):
            file_hashes.sha256_of(small)
            file_hashes.sha256_of(fresh)
    assert len(read) == 4
    assert not (own_store / "hash").exists()


@pytest.mark.parametrize(("command", "believes"), [("plan", True), ("build", False)])
def test_only_plan_believes(command: str, believes: bool, monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []

    def make_plans(*_: Any) -> None:
        seen.append(file_hashes._believed.get())
        raise UsageError("enough", fix="none")

    monkeypatch.setattr(planning, "make_plans", make_plans)
    CliRunner().invoke(cli.commands[command], ["--target", "rpi4"])
    assert seen == [believes]
    assert not file_hashes._believed.get()


def weights(path: Path, values: np.ndarray) -> Path:
    head = f'{{"w":{{"dtype":"F32","shape":[{values.size}],"data_offsets":[0,{values.nbytes}]}}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + values.tobytes())
    return path


def test_values_that_were_found_finite_are_read_once_for_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.ones(1 << 19, np.float32)
    file, passes = weights(tmp_path / "a.safetensors", values), []
    own = _safetensors._check_values
    monkeypatch.setattr(_safetensors, "_check_values", lambda *given: passes.append(own(*given)))
    for _ in range(2):
        assert list(_safetensors.check(file, file_sha256(file))) == ["w"]
    assert len(passes) == 1
    values[-2:] = np.nan
    weights(file, values)
    for _ in range(2):
        with pytest.raises(TeacherError, match="holds NaN or infinity"):
            _safetensors.check(file, file_sha256(file))


def test_the_vocabulary_is_surveyed_once_for_the_same_tokenizer_texts_and_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []

    def apart(file: Path, texts: list[str], *, limit: int | None, fill: bool) -> tuple[list[int], list[int]]:
        asked.append((list(texts), limit))
        return [len(text) for text in texts], [0, 1]

    monkeypatch.setattr(vocabulary, "survey_apart", apart)
    file, store = tmp_path / "tokenizer.json", Store(tmp_path / "kept")
    file.write_text("{}")
    for texts, limit in ((["ab", "c"], None), (["ab", "c"], None), (["a", "bc"], None), (["ab", "c"], 5)):
        found = vocabulary.survey_kept(file, texts, store, limit=limit)
        assert found == ([len(text) for text in texts], [0, 1])
    assert len(asked) == 3
    file.write_text("{ }")
    vocabulary.survey_kept(file, ["ab", "c"], store, limit=None)
    assert len(asked) == 4
