"""What a teacher's settings may say: nothing in them chooses a file, loads code, or makes tables of its own size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from bert_files import teacher
from hostile_settings import IMAGE, PROCESSOR, SECRET, TEXT, change

from edgekd.core.errors import DataError, TeacherError
from edgekd.data import clean, pixels, settings
from edgekd.teachers import _files, _settings
from edgekd.teachers.huggingface import Huggingface

TASK = "text-classification"


@pytest.fixture
def folder(tmp_path):
    return teacher(tmp_path / "model")


def test_the_folder_itself_is_taken(folder):
    assert Huggingface().inspect(str(folder), TASK)["ready"]


@pytest.mark.parametrize(("name", "build"), TEXT, ids=[name for name, _ in TEXT])
def test_hostile_settings_are_refused(folder, name, build):
    build(folder)
    with pytest.raises(TeacherError) as caught:
        Huggingface().inspect(str(folder), TASK)
    assert caught.value.fix


@pytest.mark.parametrize(("name", "build"), IMAGE, ids=[name for name, _ in IMAGE])
def test_odd_image_settings_are_refused_by_name(tmp_path, name, build):
    (tmp_path / clean.PROCESSOR).write_text(json.dumps(PROCESSOR))
    assert pixels.read_config(tmp_path) == PROCESSOR
    build(tmp_path)
    with pytest.raises(TeacherError) as caught:
        pixels.read_config(tmp_path)
    assert name.split()[0] in str(caught.value)
    assert name.split()[0] in caught.value.fix


def test_the_fix_of_a_setting_works(folder):
    change(folder, "config.json", _hidden="x")
    with pytest.raises(TeacherError, match="_hidden") as caught:
        _settings.check(folder)
    assert "remove _hidden from config.json" in caught.value.fix
    told = json.loads((folder / "config.json").read_text())
    del told["_hidden"]
    (folder / "config.json").write_text(json.dumps(told))
    _settings.check(folder)


def test_what_every_saved_model_carries_is_left_out(folder):
    usual = {
        "_name_or_path": "/home/her/model",
        "_num_labels": 3,
        "_attn_implementation_autoset": True,
        "_commit_hash": None,
        "conv_kernel_size": 3,
        "kernel_sizes": [[3, 5], [7, 9]],
    }
    change(folder, "config.json", **usual, label2id={"_a": 0, "kernel": 1}, id2label={"0": "_a", "1": "kernel"})
    said = clean.cleaned(settings.clean_config, folder, "config.json")
    assert not [key for key in said if key.startswith("_")]
    assert said["kernel_sizes"] == usual["kernel_sizes"]
    assert said["label2id"] == {"_a": 0, "kernel": 1}


def test_paths_of_another_machine_are_passed_over(folder):
    """They stand in many folders; nothing of them reaches transformers."""
    change(
        folder,
        "tokenizer_config.json",
        vocab_file="/home/her/vocab.txt",
        tokenizer_file=None,
        name_or_path="x/y",
        fast_tokenizer_files=["tokenizer.json", "tokenizer.4.0.json"],
        chat_template="{{ x }}",
    )
    _settings.check(folder)
    with clean.tokenizer_folder(folder) as place:
        said = json.loads((place / "tokenizer_config.json").read_text())
        assert not {*said} & {"vocab_file", "tokenizer_file", "fast_tokenizer_files", "chat_template", "name_or_path"}
        assert place.stat().st_mode & 0o77 == 0
    assert not place.exists()


def test_only_the_folders_own_files_reach_transformers(folder):
    """Whatever the settings name, even where nobody checked them before."""
    (folder.parent / SECRET).write_text("[PAD]\nprivate\n")
    said = {"vocab_file": str(folder.parent / SECRET), "fast_tokenizer_files": [f"../{SECRET}"], "vocab_size": 3}
    cut = settings._taken(said, folder / "tokenizer_config.json", settings._TOKENIZER)
    assert cut == {}
    (folder / "vocab.txt").symlink_to(folder.parent / SECRET)
    with pytest.raises(TeacherError, match=r"vocab.txt is no plain file of the teacher's folder"):
        clean.write_tokenizer(folder, folder.parent)
    (folder / "vocab.txt").unlink()
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(TeacherError, match=r"vocab.txt is no plain file of the teacher's folder"):
        clean.write_tokenizer(folder, folder.parent)


def test_every_file_that_is_read_is_in_the_fingerprint(folder):
    """Its content and its name: a changed file is another teacher."""
    weights = [folder / "model.safetensors"]

    def taken():
        return _files.fingerprint(folder, weights)

    seen = {taken()}
    for name in (*clean.READ, "modules.json", "sentence_bert_config.json", "LICENSE", "README.md"):
        for content in (b'{"do_lower_case": true}', b'{"do_lower_case": false}'):
            (folder / name).write_bytes(content)
            assert taken() not in seen, name
            seen.add(taken())
    (folder / "1_Pooling").mkdir()
    for content in ("{}", "[]"):
        (folder / "1_Pooling" / "config.json").write_text(content)
        assert taken() not in seen
        seen.add(taken())


def test_an_onnx_teachers_tokenizer_is_in_its_fingerprint(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    seen = set()
    for lower in (True, False):
        change(tmp_path, "tokenizer_config.json", do_lower_case=lower)
        seen.add(_files.fingerprint(tmp_path, [tmp_path / "model.onnx"]))
    assert len(seen) == 2


def test_a_changed_setting_is_read_again(folder):
    before = clean.state(folder)
    change(folder, "tokenizer_config.json", do_lower_case=True)
    assert clean.state(folder) != before


def test_an_image_that_is_too_narrow_is_refused_before_it_is_resized():
    """1 x 10,000 under shortest_edge 224 would be 224 x 2,240,000: 5.3 GB."""
    by_edge = {"size": {"shortest_edge": 224}, "do_center_crop": True}
    for size in ((1, 10_000), (10_000, 1)):
        with pytest.raises(DataError, match=r"too narrow: .* which makes 501,760,000 pixels"):
            pixels.check_resized(by_edge, size, "a.png")
    pixels.check_resized(by_edge, (640, 480), "a.png")
    pixels.check_resized({"size": {"height": 224, "width": 224}}, (1, 10_000), "a.png")


def test_a_package_kernels_is_never_imported(tmp_path):
    """transformers imports it where it is installed, and loads code from the hub with it (CVE-2026-4372)."""
    package = tmp_path / "site" / "kernels"
    package.mkdir(parents=True)
    trace = tmp_path / "trace"
    (package / "__init__.py").write_text(f"open({str(trace)!r}, 'w').write('imported')\n")
    script = textwrap.dedent("""
        import sys
        from edgekd.core.quiet import silence_libraries
        silence_libraries()
        from transformers.integrations import hub_kernels
        assert not hub_kernels._kernels_available
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not trace.exists()
