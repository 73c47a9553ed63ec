"""`edgekd distill`: a folder in, a smaller folder out, figures told; what is refused leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import invoke

from edgekd.data.brown import plain, write_brown
from tests.tiny_language import save_llama, save_tokenizer, text_of


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("command")
    save_llama(place / "teacher")
    (place / "corpus").mkdir()
    for number in range(16):
        (place / "corpus" / f"{number}.txt").write_text(text_of(number, 24))
    return place


def words(given: Path, *more: str, data: str = "corpus") -> list[str]:
    usual = ["distill", "--teacher", str(given / "teacher"), "--data", str(given / data), "--out", str(given / "small")]
    return [*usual, "--layers", "2", "--epochs", "1", "--threads", "1", *more]


def test_a_student_is_written_and_its_figures_told(given: Path) -> None:
    done = invoke(*words(given, "--evidence"))
    assert done.returncode == 0, done.stderr
    assert "2 of 4 layers" in done.stdout
    assert "split by document" in done.stdout
    assert "next_token_agreement against labels alone" in done.stdout
    assert "edgekd build --task text-generation --student none" in done.stdout
    told = json.loads((given / "small" / "distillation.json").read_text())
    assert told["parameters"]["student"] < told["parameters"]["teacher"]
    again = invoke(*words(given, "--json"))
    assert again.returncode == 2
    assert "not a new or an empty folder" in json.loads(again.stdout)["error"]


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--loss", "hidden_states=1"], 2, "looks at more than the teacher's answers"),
        (["--loss", "nonsense=1"], 2, "nonsense"),
        (["--max-tokens", "4096"], 2, "context ends at 512"),
        (["--layers", "9"], 2, "the teacher has 4"),
        (["--text-column", "body"], 1, "has no column 'body'"),
    ],
)
def test_what_is_refused_leaves_nothing(given: Path, tmp_path: Path, more: list[str], code: int, says: str) -> None:
    asked = [str(tmp_path / "out") if word == str(given / "small") else word for word in words(given, *more)]
    done = invoke(*asked)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr
    assert "fix:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(given: Path, tmp_path: Path) -> None:
    """The student's is the teacher's own, trimmed; beside a teacher's weights only its own is taken."""
    save_llama(tmp_path / "teacher", 300)
    save_tokenizer(tmp_path / "teacher", 400)
    done = invoke("distill", "--teacher", tmp_path / "teacher", "--data", given / "corpus", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "the tokenizer has ids up to 399, the model embeddings of 300 tokens" in done.stderr


def test_one_document_is_refused(given: Path, tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text(text_of(1, 100))
    done = invoke(
        "distill", "--teacher", given / "teacher", "--data", tmp_path / "novel.txt", "--out", tmp_path / "out"
    )
    assert done.returncode == 1
    assert "holds one document" in done.stderr
    assert not (tmp_path / "out").exists()


def test_brown_is_read_as_plain_text(tmp_path: Path) -> None:
    assert plain("\n\n\tIt/pps 's/bez (/( so/rb )/) ;/. and/or/cc ./.\n") == "It's (so); and/or."
    source, out = tmp_path / "package", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for number in range(500):
        name = f"c{'abcdefghijklmnopqr'[number // 30]}{number % 30 + 1:02}"
        (source / name).write_text(f"\tNumber/nn {number}/cd ./.\n")
    (source / "README").write_text("no document")
    write_brown(source, out)
    assert len(list(out.iterdir())) == 500
    assert (out / "ca01.txt").read_text() == "Number 0.\n"
    (source / "ca01").unlink()
    from edgekd.core.errors import DataError

    with pytest.raises(DataError, match="499 documents of the 500"):
        write_brown(source, out)
