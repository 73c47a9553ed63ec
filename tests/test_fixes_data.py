"""The fixes of data's errors, obeyed: the same error does not come again."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from edgekd.compression import graphs
from edgekd.compression.examine import Given, _task
from edgekd.core.errors import DataError, EdgeKDError, UsageError
from edgekd.data.columns import find_column
from edgekd.data.read import read_file
from edgekd.hardware.profile import load_profile

TEXT = "text,label\ncafé à la carte,food\nein Straßencafé,food\nfoo bar,none\n"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "utf-16-be", "utf-16"])
@pytest.mark.parametrize("name", ["rows.csv", "my rows (1).csv"])
def test_the_command_that_converts_is_run(encoding: str, name: str, tmp_path: Path):
    text = TEXT + ("\x81,odd\n" if encoding == "latin-1" else "")
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    try:
        table = read_file(path)
    except DataError as error:
        command = error.fix[error.fix.index("iconv") :]
        subprocess.run(["bash", "-c", command], check=True)
        table = read_file(tmp_path / f"utf8-{name}")
    assert [row["text"] for row in table][:2] == ["café à la carte", "ein Straßencafé"]


def test_a_tsv_is_told_of_tabs_a_csv_of_quotes(tmp_path: Path):
    for suffix, cut, mended in ((".tsv", "\t", "text\tlabel\na b\tx\n"), (".csv", ",", 'text,label\n"a,b",x\n')):
        path = tmp_path / f"rows{suffix}"
        path.write_text(f"text{cut}label\na{cut}b{cut}x\n")
        with pytest.raises(DataError, match="3 cells") as error:
            read_file(path)
        assert ("no quotes" in error.value.fix) is (suffix == ".tsv")
        path.write_text(mended)
        assert len(read_file(path)) == 1


def test_a_header_with_another_delimiter_is_not_told_to_name_a_column():
    with pytest.raises(DataError) as error:
        find_column(None, ["text"], ["text;label"], "rows.csv", "text")
    assert "--text-column" not in error.value.fix
    with pytest.raises(DataError) as error:
        find_column(None, ["text"], ["my words", "y"], "rows.csv", "text")
    flag, name = shlex.split(re.sub(r"^name it: ", "", error.value.fix))
    assert flag == "--text-column"
    assert find_column(name, ["text"], ["my words", "y"], "rows.csv", "text") == "my words"


def test_diagnose_takes_the_column_that_its_errors_ask_for(tmp_path: Path):
    given = Given(tmp_path / "m.onnx", "rows.csv", "text-classification", columns={"text_column": "words"})
    assert _task(given).text_column == "words"
    with pytest.raises(UsageError, match="--text-column means nothing"):
        _task(Given(tmp_path, "x", "image-classification", columns={"text_column": "words"}))


@pytest.mark.parametrize("more", [{}, {"num_attention_heads": 2}, {"hidden_size": 8}, {"n_heads": "2", "dim": 8}])
def test_a_small_config_beside_a_graph_is_enough(more: dict[str, object], tmp_path: Path):
    config = {"model_type": "bert", "id2label": {"0": "a"}} | more
    with pytest.raises(EdgeKDError, match="neither heads nor width"):
        graphs.fuse(tmp_path / "model.onnx", tmp_path / "out.onnx", load_profile("rpi4"), config)
