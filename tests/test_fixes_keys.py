"""The fixes of errors about keys, obeyed: the same error does not come again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgekd.core.errors import UsageError
from edgekd.security.keys import PASSPHRASE, make_key, open_signer, read_public, read_publics

NAMES = ("release.key", "my key (1)", "it's", "-rf", "$HOME", "a;b")


def asked(path: Path) -> str:
    raise AssertionError(f"no passphrase is needed for {path}")


def run(command: str, folder: Path) -> None:
    subprocess.run(["bash", "-c", command], check=True, cwd=folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relative", [False, True])
def test_a_key_that_others_can_read_is_closed_by_the_command(
    name: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name) if relative else tmp_path / name
    make_key(path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others") as error:
        open_signer(path, asked)
    run(error.value.fix, tmp_path)
    assert open_signer(path, asked).key_id


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_missing_is_made_by_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no folder") as error:
        make_key(Path(name, "deep", "own"))
    run(error.value.fix, tmp_path)
    assert make_key(Path(name, "deep", "own")).key_id


def test_a_folder_in_place_of_a_key_is_given_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder") as error:
        make_key(tmp_path)
    assert make_key(Path(error.value.fix.removeprefix("give the key a name: "))).key_id


@pytest.mark.parametrize("name", ["own", "own.key", "own.pub"])
def test_the_other_key_of_the_pair_is_named_only_where_it_lies(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    public = make_key(path)
    with pytest.raises(UsageError, match="holds a private key") as error:
        read_public(path)
    assert read_public(Path(error.value.fix.removeprefix("give "))).key_id == public.key_id
    other = tmp_path / f"{name}.pub"
    with pytest.raises(UsageError, match="is a public key") as error:
        open_signer(other, asked)
    own = Path(error.value.fix.removeprefix("give the private key beside it: "))
    assert open_signer(own, asked).key_id == public.key_id
    path.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="is a public key") as error:
        open_signer(other, asked)
    assert str(own) not in error.value.fix
    other.unlink()
    with pytest.raises(UsageError, match="holds a private key") as error:
        read_public(tmp_path / "moved")
    assert "moved.pub" not in error.value.fix


def test_a_folder_of_keys_and_a_passphrase_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"has no \*.pub"):
        read_publics(tmp_path)
    public = make_key(tmp_path / "own", "right")
    assert [one.key_id for one in read_publics(tmp_path)] == [public.key_id]
    with pytest.raises(UsageError, match="does not open") as error:
        open_signer(tmp_path / "own", lambda _: "wrong")
    assert f"${PASSPHRASE}" in error.value.fix
    monkeypatch.setenv(PASSPHRASE, "right")
    assert open_signer(tmp_path / "own", asked).key_id == public.key_id


def test_a_passphrase_that_is_too_long_is_cut_to_what_the_fix_says(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        make_key(tmp_path / "own", "x" * 5000)
    most = int(error.value.fix.rpartition(" ")[2])
    assert make_key(tmp_path / "own", "x" * most).key_id


def test_what_is_there_already_is_kept_and_another_path_taken(tmp_path: Path) -> None:
    make_key(tmp_path / "own")
    before = (tmp_path / "own").read_bytes()
    with pytest.raises(UsageError, match="never overwritten") as error:
        make_key(tmp_path / "own")
    assert error.value.fix == "give another PATH"
    assert make_key(tmp_path / "other").key_id
    assert (tmp_path / "own").read_bytes() == before
