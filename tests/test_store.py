"""The store: what is there is whole, or it is made anew; nobody computes twice, and the dead leave no litter."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fast, python
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core import store as store_module
from edgekd.core.errors import DataError, StoreError
from edgekd.core.results import canonical, digest, file_sha256
from edgekd.core.store import Store, is_whole, open_store, writing

KEY = {"rows": "abc", "seed": 0}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def calls():
    return []


@pytest.fixture
def produce(calls):
    def produce(folder):
        calls.append(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "a.bin").write_bytes(b"result")
        (folder / "b.txt").write_text("more")

    return produce


def entries(store):
    return sorted(path.name for path in store.root.glob("*/*") if not path.name.endswith(".lock"))


def test_a_stage_is_made_once(store, produce, calls):
    assert not store.has("teach", KEY)
    place = store.stage("teach", KEY, produce)
    assert store.has("teach", KEY)
    assert (place / "inner" / "a.bin").read_bytes() == b"result"
    assert place == store.stage("teach", dict(reversed(KEY.items())), produce) == store.path("teach", KEY)
    assert len(calls) == 1
    assert place.parent == store.root / "teach"


def test_another_key_or_stage_is_another_result(store, produce, calls):
    keys = [("teach", KEY), ("teach", KEY | {"seed": 1}), ("distill", KEY)]
    assert len({store.stage(name, key, produce) for name, key in keys}) == len(calls) == 3


@pytest.mark.parametrize("error", [DataError("no", fix="yes"), KeyboardInterrupt(), ValueError("oops")])
def test_a_producer_that_raises_leaves_nothing(store, error):
    def produce(folder):
        (folder / "half.bin").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)) as raised:
        store.stage("teach", KEY, produce)
    assert raised.value is error
    assert entries(store) == []


def test_a_failure_keeps_the_entry_that_was_there(tmp_path):
    place = tmp_path / "out"
    with writing(place) as fresh:
        (fresh / "a").write_text("old")

    def fail(fresh):
        (fresh / "a").write_text("new")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"), writing(place) as fresh:
        fail(fresh)
    assert (place / "a").read_text() == "old"
    assert is_whole(place)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _flip(place):
    (place / "inner" / "a.bin").write_bytes(b"resulT")


DAMAGE = {
    "a flipped byte": _flip,
    "a missing file": lambda place: (place / "b.txt").unlink(),
    "a file too many": lambda place: (place / "c.txt").write_text("?"),
    "a renamed file": lambda place: (place / "b.txt").rename(place / "c.txt"),
    "no seal": lambda place: (place / ".seal.json").unlink(),
    "half a seal": lambda place: (place / ".seal.json").write_text('{"b.txt": "'),
    "a seal of another kind": lambda place: (place / ".seal.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_made_anew(store, produce, calls, damage):
    place = store.stage("teach", KEY, produce)
    damage(place)
    assert not store.has("teach", KEY)
    store.stage("teach", KEY, produce)
    assert (len(calls), store.has("teach", KEY)) == (2, True)
    assert sorted(path.name for path in place.iterdir()) == [".seal.json", "b.txt", "inner"]


_STAGE = """
import os, signal, sys, time
from pathlib import Path
from edgekd.core.store import Store
root, what = sys.argv[1:]
def produce(folder):
    (folder / "a").write_text("half")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    with (Path(root).parent / "log").open("a") as log:
        log.write("made\\n")
    time.sleep(0.5)
print(Store(Path(root)).stage("teach", {"seed": 0}, produce))
"""


def test_a_killed_producer_leaves_nothing_that_counts(store, produce):
    assert python(_STAGE, str(store.root), "die").returncode == -signal.SIGKILL
    key = {"seed": 0}
    assert not store.has("teach", key)
    litter = entries(store)
    assert len(litter) == 1
    assert litter[0].startswith(f".{store.path('teach', key).name}.new-")
    place = store.stage("teach", key, produce)
    assert entries(store) == [place.name], "the dead writer's folder is swept"


def test_two_processes_with_one_key_compute_once(store):
    command = [sys.executable, "-c", _STAGE, str(store.root), "live"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert answers == {str(store.path("teach", {"seed": 0}))}
    assert (store.root.parent / "log").read_text() == "made\n"


def test_only_the_litter_of_the_dead_is_swept(tmp_path):
    names = {"living": f".out.new-{os.getpid()}-x", "dead": ".out.new-99999999-x", "another's": ".other.new-99999999-x"}
    for name in names.values():
        (tmp_path / name).mkdir()
    store_module.sweep(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names["living"], names["another's"]])


@pytest.mark.parametrize("seal", [True, False])
def test_writing_takes_the_place_at_once(tmp_path, seal):
    place = tmp_path / "deep" / "out"
    for content in ("first", "second"):
        with writing(place, seal=seal) as fresh:
            assert fresh.parent == place.parent, "on the same disk, so that the move is one rename"
            (fresh / content).write_text(content)
        assert sorted(path.name for path in place.iterdir()) == [".seal.json"] * seal + [content]
    assert place.stat().st_mode & 0o777 == 0o755
    assert is_whole(place) is seal


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(store, number):
    def produce(folder):
        raise OSError(number, "No space left on device")

    with pytest.raises(StoreError) as refusal:
        store.stage("teach", KEY, produce)
    assert refusal.value.message == f"no space left while writing under {store.root}"
    fix = "free some space, or point $EDGEKD_STORE and --out to a larger disk; what was finished is kept"
    assert (refusal.value.fix, refusal.value.exit_code) == (fix, 1)
    assert entries(store) == []


def test_a_store_that_is_no_folder_is_named(tmp_path, produce):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError) as refusal:
        Store(tmp_path / "file").stage("teach", KEY, produce)
    assert refusal.value.message == f"cannot use {tmp_path}/file/teach: Not a directory"
    assert refusal.value.fix == "make it readable and writable, or point $EDGEKD_STORE and --out elsewhere"


def test_the_store_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for value, place in (("near", tmp_path / "near"), ("~/far", Path("/home/someone/far"))):
        monkeypatch.setenv("EDGEKD_STORE", value)
        assert open_store().root == place
    monkeypatch.setenv("EDGEKD_STORE", "")
    assert open_store().root.name == "edgekd"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def _shuffled(value, data):
    if isinstance(value, dict):
        return {key: _shuffled(value[key], data) for key in data.draw(st.permutations(list(value)))}
    return [_shuffled(inner, data) for inner in value] if isinstance(value, list) else value


@fast
@given(value=json_values, data=st.data())
def test_a_digest_does_not_depend_on_the_order_of_keys(value, data):
    assert digest(_shuffled(value, data)) == digest(value)
    assert json.loads(canonical(value)) == value
    assert digest([value]) != digest(value)


def test_a_digest_is_the_same_for_ever():
    """A changed digest makes every user's store worthless: only with a CHANGELOG line."""
    assert canonical({"b": (1, 2.5, None), "a": "é", "path": Path("x")}) == '{"a":"é","b":[1,2.5,null],"path":"x"}'
    assert digest({}) == hashlib.sha256(b"{}").hexdigest()


def test_a_file_is_hashed_whole(tmp_path):
    content = os.urandom((2 << 20) + 1)
    (tmp_path / "big").write_bytes(content)
    assert file_sha256(tmp_path / "big") == hashlib.sha256(content).hexdigest()
