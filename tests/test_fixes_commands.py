"""Fixes of the commands, of devices and of proofs, obeyed: the words that they name are then taken."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import matmul_model, profile
from made_bundle import make_bundle

from edgekd.cli import cli
from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.receipts.shipped import device_at


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    make_bundle(tmp_path / "tiny-here", onboard=True)
    matmul_model(tmp_path / "model.onnx")
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    return tmp_path


def refused(words: str) -> EdgeKDError:
    error = CliRunner().invoke(cli, shlex.split(words)).exception
    assert isinstance(error, EdgeKDError), (words, error)
    return error


TARGET = profile().as_dict()
# what is refused; what its fix says; the same command as the fix has it
OBEYED = {
    "compare of one": ("compare tiny-here", "give two or more: edgekd compare A B", None),
    "columns without rows": ("bench tiny-here --label-column a", "give the rows: --data FILE", None),
    "no device": ("bench tiny-here --device lokal", "give one of: local", "bench tiny-here --device local"),
    "nothing to install": ("bench tiny-here --install", "leave it out", None),
    "a report's diagnosis": (
        "diagnose tiny-here --recipe static_int8",
        "leave out --recipe, --quantized and --data",
        "diagnose tiny-here",
    ),
    "no bundle": ("report .", "give the folder that build wrote", "report tiny-here"),
    "nothing to verify": ("verify .", "give the folder that build wrote", "verify tiny-here"),
    "nobody trusted": (f"verify tiny-here --revoked {'0' * 64}", "give the trusted keys: --key PUB", None),
    "no real inputs": ("diagnose model.onnx", "give them: --data FILE", None),
    "no board": ("targets probe --device lokal", "give local, or ssh://user@host:port", "targets probe --device local"),
    "less than nothing": ("store prune --to-mib -1", "give a number from 0 on", "store prune --to-mib 0"),
    "both targets": ("plan --target rpi4 --targets rpi4,rpi5", "give one of them", None),
    "no such command": ("verifi tiny-here", "see `edgekd --help`", "verify tiny-here"),
}


@pytest.mark.parametrize("name", OBEYED)
def test_what_the_fix_says_is_taken(name, place):
    words, fix, obeyed = OBEYED[name]
    result = CliRunner().invoke(cli, shlex.split(words))
    if isinstance(result.exception, EdgeKDError):
        assert fix in result.exception.fix
        assert result.exception.exit_code == 2
    else:
        assert result.exit_code == 2, result.output  # click's own refusal, of which `main` makes one of ours
    if obeyed:
        after = CliRunner().invoke(cli, shlex.split(obeyed))
        said = after.exception.message if isinstance(after.exception, EdgeKDError) else ""
        assert "means nothing" not in said
        assert (after.exit_code, said) == (0, "") or obeyed.startswith(("bench", "compare", "diagnose", "report"))
        assert said != getattr(result.exception, "message", None)


@pytest.mark.parametrize("words", ["lokal", "qemu", "guest", "ssh"])
def test_each_device_that_a_refusal_names_is_one(words):
    with pytest.raises(UsageError) as refusal:
        device_at(words, TARGET, timed=True)
    named = re.findall(r"local|ssh://USER@HOST:PORT|[a-z]+:cortex-a72", refusal.value.fix)
    assert named, refusal.value.fix
    for one in named:
        if ":cortex" in one:
            assert device_at(one, TARGET)
        else:
            assert device_at(one.replace("USER@HOST:PORT", "pi@board:22"), TARGET, timed=True)


def test_a_passphrase_that_nobody_can_type_is_taken_from_the_environment(place, monkeypatch):
    from edgekd.cli.keygen import ask_passphrase
    from edgekd.security.keys import make_key, open_signer

    path = Path("key")
    make_key(path, "secret words")
    monkeypatch.delenv("EDGEKD_PASSPHRASE", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UsageError) as refusal:
        open_signer(path, ask_passphrase)
    assert refusal.value.fix == "set $EDGEKD_PASSPHRASE"
    monkeypatch.setenv("EDGEKD_PASSPHRASE", "secret words")
    assert open_signer(path, ask_passphrase).key_id
