"""Commands in fixes and in what is printed name their paths so that a shell takes them, whatever they are called."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from bert_files import teacher
from click.testing import CliRunner
from made_up import composed
from PIL import Image

from edgekd.cli import show
from edgekd.cli.keygen import keygen
from edgekd.core.errors import EdgeKDError
from edgekd.data import clean
from edgekd.data.images import read_images
from edgekd.receipts import files
from edgekd.teachers import _files

ODD = "it's $HOME; touch evil"


@pytest.fixture
def odd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    yield tmp_path / ODD
    assert not list(tmp_path.rglob("evil"))


def fix_of(call) -> str:
    with pytest.raises(EdgeKDError) as refusal:
        call()
    return refusal.value.fix


def obeyed(fix: str) -> None:
    """Run the command that stands between backticks."""
    subprocess.run(["sh", "-c", re.search(r"`(.*)`", fix)[1]], check=True)


@pytest.mark.parametrize("read", [_files.check_folder, lambda folder: clean.read_checked(folder, "LICENSE")])
def test_a_teachers_links_are_copied(odd, read):
    folder = teacher(odd)
    (folder.parent / "elsewhere").write_text("licence")
    (folder / "LICENSE").symlink_to(folder.parent / "elsewhere")
    obeyed(fix_of(lambda: read(folder)))
    copy = folder.with_name(f"{folder.name}-copy")
    read(copy)
    assert (copy / "LICENSE").read_text() == "licence"


def test_a_linked_folder_of_receipts_is_replaced(odd):
    odd.mkdir()
    (odd.parent / "other").mkdir()
    files.folder(odd).symlink_to(odd.parent / "other")
    obeyed(fix_of(lambda: files.writable_folder(odd)))
    assert files.writable_folder(odd).is_dir()
    assert (odd.parent / "other").is_dir()


def test_a_table_among_images_is_named_so_that_it_can_be_given(odd):
    for label in "ab":
        (odd / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (ord(label), 0, 0)).save(odd / label / "0.png")
    (odd / "labels.csv").write_text("image,label\na/0.png,c\nb/0.png,d\n")
    (note,) = (one for one in read_images(str(odd))["all"].notes if "--data" in one)
    source = shlex.split(note[note.index("--data") :])[1]
    assert [row["label"] for row in read_images(source)["all"]] == ["c", "d"]
    (odd / "labels.csv").unlink()
    (odd / "metadata.csv").write_text("file_name,label\na/0.png,b\nb/0.png,a\n")  # the folders say otherwise
    fix = fix_of(lambda: read_images(str(odd)))
    source = shlex.split(fix[fix.index("--data") :])[1]
    assert [row["label"] for row in read_images(source, column="file_name")["all"]] == ["b", "a"]


def test_what_commands_print_can_be_run(odd):
    odd.mkdir()
    said = CliRunner().invoke(keygen, [str(odd / "key")], input="\n\n").stdout
    lines = {line.split()[0]: shlex.split(line) for line in said.splitlines() if "edgekd" in line}
    assert lines["sign"][-1] == str(odd / "key")
    assert Path(lines["check"][-1]).is_file()
    text = show.summary(composed()["summary"], odd, fresh=True)
    assert shlex.split(text.splitlines()[-1]) == ["check", "python", str(odd / "verify.py")]
