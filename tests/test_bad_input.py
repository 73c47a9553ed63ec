"""Every mistake of a user's ends before any training, with its fix and its exit code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import invoke, loose_target, run, texts, write_csv

from edgekd.core.errors import DataError

ROWS = [*texts(60, seed=2)]


def refused(
    code: int, *arguments: str | Path, env: dict[str, str] | None = None, by: Callable[..., Any] = invoke
) -> tuple[str, str]:
    """The error and the fix of a `plan` or `build` that must be refused with this exit code, and no traceback."""
    done = by(*arguments, "--json", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert said["exit"] == code
    return said["error"], said["fix"]


@pytest.fixture
def plan_of(tiny_teacher: Path, store: Path):
    """Plan with the tiny teacher on a file; the rest of the options as given."""

    def of(data: Path | str, *more: str | Path) -> tuple[str | Path, ...]:
        return ("plan", "--target", "rpi4", "--teacher", tiny_teacher, "--data", data, *more)

    return of


@pytest.mark.parametrize(
    ("arguments", "error", "fix"),
    [
        (("--target", "rpy4"), "unknown target 'rpy4'", "did you mean 'rpi4'? choose one of: cpu-avx2"),
        (
            ("--target", "rpi4", "--task", "text-clasification"),
            "there is no task called 'text-clasification'",
            "did you mean 'text-classification'?",
        ),
        (("--target", "rpi4", "--loss", "respnse"), "there is no loss called 'respnse'", "did you mean 'response'?"),
        (
            ("--target", "rpi4", "--loss", "response=-1"),
            "--loss response=-1: '-1' is no positive weight",
            "write --loss response=0.9",
        ),
        (
            ("--target", "rpi4", "--student", "transfromer"),
            "there is no student called 'transfromer'",
            "did you mean 'transformer'?",
        ),
        (("--target", "rpi4", "--memory-mib", "0"), "--memory-mib 0 makes no sense", "give a number from 0.01"),
        (("--target", "rpi4", "--memory-mib", "-3"), "--memory-mib -3 makes no sense", "give a number from 0.01"),
        (("--target", "rpi4", "--labels", "1"), "--labels 1 makes no sense", "give a number from 2"),
        (("--target", "rpi4", "--temperature", "0"), "--temperature 0 makes no sense", "give a number from 0.05"),
        (
            ("--target", "rpi4", "--golden", "mine"),
            "--golden 'mine' is unknown",
            "choose one of: synthetic, test; or give a data file",
        ),
        (
            ("--target", "rpi4", "--image-size", "32"),
            "--image-size means nothing to text-classification",
            "leave it out, or name another --task",
        ),
        (
            ("--target", "rpi4", "--task", "image-classification", "--max-tokens", "32"),
            "--max-tokens means nothing to image-classification",
            "leave it out, or name another --task",
        ),
        (
            ("--target", "rpi4", "--task", "time-series-classification", "--vocabulary", "32"),
            "--vocabulary means nothing to time-series-classification",
            "leave it out, or name another --task",
        ),
        (
            ("--target", "rpi4", "--student", "none", "--loss", "response"),
            "--loss means nothing with --student none",
            "leave it out, or leave --student none out",
        ),
        (
            ("--target", "rpi4", "--task", "tensors", "--teacher", "a.onnx"),
            "no family of students serves tensors",
            "compress the teacher itself: --student none",
        ),
        (("--target", "rpi4", "--force", "int8"), "there is no quantizer called 'int8'", "choose one of: block_int4"),
        (("--target", "gpu-t4", "--force", "dynamic_int8"), "has no kernels for what it writes", "choose one of: "),
        (("--target", "rpi4", "--min-agreement", "2"), "--min-agreement 2 makes no sense", "give a number from 0 to 1"),
        (("--target", "rpi4", "--max-drop", "-1"), "--max-drop -1 makes no sense", "give a number from 0 to 100"),
        (
            ("--target", "rpi4", "--teacher", "model.onnx"),
            "the teacher model.onnx is an ONNX file",
            "give --student none, which compresses it as it is",
        ),
        (("--target", "rpi4", "--bogus"), "No such option", "see `edgekd plan --help`"),
        (("--target", "missing.yaml"), "cannot read the target profile missing.yaml", "edgekd targets show rpi4"),
    ],
)
def test_words_that_make_no_sense(store: Path, arguments: tuple[str, ...], error: str, fix: str) -> None:
    said = refused(2, "plan", *arguments)
    assert error in said[0]
    assert fix in said[1]


def test_a_mistake_ends_the_process_with_its_code_and_no_traceback(store: Path, plan_of, tmp_path: Path) -> None:
    error, _ = refused(2, "plan", "--target", "rpy4", by=run)
    assert error == "unknown target 'rpy4'"
    error, _ = refused(1, *plan_of(tmp_path / "nowhere.csv"), by=run)
    assert "cannot read" in error


def test_profile_with_unknown_and_absurd_values(tmp_path: Path, store: Path) -> None:
    profile = loose_target(tmp_path, memory_mb=3, cores=0, latency_ms=-1.0)
    error, _ = refused(2, "targets", "check", profile)
    assert "unknown key 'memory_mb' (did you mean 'memory_mib'?)" in error
    assert "cores is 0" in error
    assert "latency_ms is -1.0" in error


@pytest.mark.parametrize(
    ("content", "name", "error", "fix"),
    [
        (b"", "a.csv", "is empty", "give a file with a header line and rows"),
        (b"text,label\n", "a.csv", "holds a header and no rows", "at least one row for each class"),
        (b"text,label\nhello,a\ncaf\xe9,b\n", "a.csv", "is not UTF-8: line 3 holds byte 0xe9", "iconv -f WINDOWS-1252"),
        (b"text,label\na,b,c\n", "a.csv", "line 2: 3 cells where the header names 2", "quote cells"),
        (
            b"body,topic\nhello,a\n",
            "a.csv",
            "has no text column by a usual name; its columns are 'body', 'topic'",
            "name it: --text-column body",
        ),
        (b'{"text": "a"\n', "a.jsonl", "line 1: not JSON", "one JSON object a line"),
        (b"PAR1 nonsense", "a.parquet", "is not a readable Parquet file", "write the file again"),
        (
            b"text,label\n" + b"".join(b"row %d,same\n" % i for i in range(40)),
            "a.csv",
            "training rows have one class, 'same'",
            "give rows of at least two classes",
        ),
        (b"text,label\n,a\n", "a.csv", "row 1: the text column 'text' holds ''", "remove rows without text"),
        (
            b"text,label\n" + b"".join(b"row %d,%c\n" % (i, 97 + i % 2) for i in range(9)),
            "a.csv",
            "rows are left after splitting",
            "give more rows",
        ),
    ],
)
def test_data_that_cannot_be_used(plan_of, tmp_path: Path, content: bytes, name: str, error: str, fix: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    said = refused(1, *plan_of(path))
    assert error in said[0]
    assert str(path) in said[0] or "rows" in said[0]
    assert fix in said[1]


def test_named_column_that_is_not_there(plan_of, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    error, fix = refused(1, *plan_of(path, "--text-column", "txt"))
    assert "has no column 'txt'" in error
    assert fix == "did you mean 'text'? choose one of: label, text"


def test_unreadable_and_missing_data(plan_of, tmp_path: Path) -> None:
    error, fix = refused(1, *plan_of(tmp_path / "nowhere.csv"))
    assert "cannot read" in error
    assert fix == "check the path and its permissions"
    error, _ = refused(1, *plan_of(tmp_path))
    assert "has no training split" in error


def test_test_split_that_leaks(plan_of, tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "test.csv", [(text.rstrip("?").upper() + " !", label) for text, label in ROWS[:30]])
    error, fix = refused(1, *plan_of(tmp_path))
    assert "30 of 30 distinct test rows also stand in training" in error
    assert "split it by content" in fix


def test_validation_split_that_shares_rows_with_training(plan_of, tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS[:40])
    write_csv(tmp_path / "validation.csv", [(text.rstrip("?").upper() + " !", label) for text, label in ROWS[37:]])
    write_csv(tmp_path / "test.csv", texts(30, seed=9))
    error, fix = refused(1, *plan_of(tmp_path))
    assert "3 of 23 distinct validation rows also stand in training" in error
    assert "split it by content" in fix


def test_rows_to_calibrate_on_that_stand_in_test(plan_of, tiny_data: Path) -> None:
    error, fix = refused(1, *plan_of(tiny_data, "--calibration", tiny_data))
    assert " of 600 rows to calibrate on also stand in test (the first: " in error
    assert fix.startswith("leave these rows out")


def test_a_base_model_that_shall_be_compressed(plan_of, tiny_data: Path) -> None:
    error, fix = refused(1, *plan_of(tiny_data, "--student", "none"))
    assert error.endswith("is a base model: without a head for text-classification there is nothing to compress")
    assert "--task feature-extraction for its embeddings" in fix


def _classifier(teacher: Path, folder: Path, labels: list[str]) -> Path:
    """The tiny teacher as a classifier that is ready for these labels."""
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(teacher, folder)
    names = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        teacher, num_labels=len(labels), id2label=names, label2id={label: number for number, label in names.items()}
    )
    model.save_pretrained(folder)
    return folder


def test_labels_that_the_teacher_does_not_know(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, store: Path, no_children
) -> None:
    teacher = _classifier(tiny_teacher, tmp_path / "ready", ["colour", "animal", "music"])
    error, fix = refused(1, "plan", "--target", "rpi4", "--teacher", teacher, "--data", tiny_data)
    assert "have labels that the teacher does not know: 'food'" in error
    assert "use the labels 'animal', 'colour', 'music'" in fix


def test_class_orders_that_contradict_each_other(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, store: Path
) -> None:
    teacher = _classifier(tiny_teacher, tmp_path / "ready", ["animal", "colour", "food"])
    config = json.loads((teacher / "config.json").read_text())
    config["label2id"] = {"colour": 0, "animal": 1, "food": 2}
    (teacher / "config.json").write_text(json.dumps(config))
    error, fix = refused(1, "plan", "--target", "rpi4", "--teacher", teacher, "--data", tiny_data)
    assert error == (
        f"id2label and label2id in {teacher}/config.json do not give one order of classes: "
        "'animal' is 0 in id2label and 1 in label2id"
    )
    assert fix.startswith("set both in config.json to the classes in the order of the model's outputs")


def _shorter_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))


def _tokenizer_of_another(folder: Path) -> None:
    from transformers import BertTokenizerFast

    words = [*(folder / "vocab.txt").read_text().splitlines(), *(f"word{number}" for number in range(900))]
    (folder / "other.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "other.txt")).save_pretrained(folder)


class _RunsCode:
    def __reduce__(self):
        return os.system, ("echo harm > /tmp/edgekd-harm",)


@pytest.mark.parametrize(
    ("break_it", "error", "fix"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights", "model.save_pretrained"),
        (lambda folder: (folder / "config.json").unlink(), "cannot read", "give a folder saved by"),
        (
            lambda folder: [path.unlink() for path in folder.glob("*ok*.json")] and (folder / "vocab.txt").unlink(),
            "has no tokenizer",
            "save it beside the model",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "are damaged: it is cut short",
            "fetch or save the file again",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "gpt9"}'),
            "is a 'gpt9' model",
            "give a teacher of one of these types: bert",
        ),
        (
            lambda folder: (
                (folder / "model.safetensors").unlink(),
                (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_RunsCode())),
            ),
            "would run code when loaded: it calls posix.system",
            "do not load it",
        ),
        (
            _tokenizer_of_another,
            "do not belong together: the tokenizer has ids up to",
            "save the tokenizer that the model was trained with beside it",
        ),
        (
            _shorter_vocabulary,
            "/config.json names a vocabulary of 300 tokens; the weights have embeddings of",
            "take config.json and the weights from one and the same model",
        ),
    ],
    ids=[
        "no weights",
        "no config",
        "no tokenizer",
        "cut short",
        "unknown type",
        "pickle that runs code",
        "another's tokenizer",
        "another's weights",
    ],
)
def test_teachers_that_cannot_be_used(
    tiny_teacher, tiny_data, tmp_path, store, no_children, break_it, error, fix
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, folder)
    break_it(folder)
    said = refused(1, "plan", "--target", "rpi4", "--teacher", folder, "--data", tiny_data)
    assert error in said[0]
    assert fix in said[1]
    assert not Path("/tmp/edgekd-harm").exists()


def test_output_folder_that_is_not_empty(plan_of, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    arguments = ("build", *plan_of(tiny_data)[1:], "--out", tmp_path)
    error, fix = refused(2, *arguments)
    assert error == f"the output folder {tmp_path} is not empty"
    assert "give --out a new or an empty folder" in fix
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_max_tokens_beyond_the_teachers(plan_of, tiny_data: Path) -> None:
    error, _ = refused(2, *plan_of(tiny_data, "--max-tokens", "4096"))
    assert error == "--max-tokens 4096 is outside 4 to 64, what the teacher takes"


def test_a_file_that_nothing_fits(plan_of, tiny_data: Path, no_children) -> None:
    """Memory: test_budget.py."""
    error, fix = refused(6, *plan_of(tiny_data, "--artifact-mib", "0.001"))
    assert "budget 0.001 MiB of file" in error
    assert "raise artifact_mib to at least" in fix


def test_latency_that_nothing_meets(tiny_teacher, tiny_data, tmp_path: Path, store: Path, no_children) -> None:
    import platform

    target = loose_target(tmp_path, latency_ms=0.001, arch=platform.machine())
    error, fix = refused(4, "plan", "--target", target, "--teacher", tiny_teacher, "--data", tiny_data)
    assert error.startswith("budget 0.001 ms; the smallest transformer")
    assert "raise latency_ms to at least" in fix


def test_no_space(tiny_teacher: Path, tiny_data: Path, tmp_path: Path, store: Path, monkeypatch) -> None:
    from edgekd.bundle import write
    from edgekd.core.errors import StoreError

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 << 20))
    with pytest.raises(StoreError, match=r"no space: .* has 10 MiB free, a build of this teacher may take 500 MiB"):
        write.check_space([tmp_path / "new" / "folder"], 500)


def test_a_file_in_the_stores_place(tiny_teacher: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    arguments = ("plan", "--target", "rpi4", "--teacher", tiny_teacher, "--data", tiny_data)
    error, fix = refused(1, *arguments, env={"EDGEKD_STORE": str(tmp_path / "file")})
    assert "cannot use" in error
    assert "point $EDGEKD_STORE" in fix


def test_an_error_crosses_into_another_process_with_its_fix() -> None:
    said = pickle.loads(pickle.dumps(DataError("what is wrong", fix="what to do")))
    assert (type(said), said.message, said.fix, said.exit_code) == (DataError, "what is wrong", "what to do", 1)
