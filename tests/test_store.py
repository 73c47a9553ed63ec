"""The store: what is there is whole, or it is made anew; nobody computes twice, and the dead leave no litter."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import fast, python
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core import files
from edgekd.core.digests import canonical, digest, file_sha256
from edgekd.core.errors import DataError, StoreError
from edgekd.core.files import write_file, writing
from edgekd.core.seals import FORMAT, is_whole, read_seal, seal
from edgekd.store import store as store_module
from edgekd.store.store import Store, open_store

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
    assert list((store.root / "teach").iterdir()) == [], "its lock neither"


def test_a_failure_keeps_the_entry_that_was_there(tmp_path):
    place = tmp_path / "out"
    with writing(place, seal=seal) as fresh:
        (fresh / "a").write_text("old")

    def fail(fresh):
        (fresh / "a").write_text("new")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"), writing(place, seal=seal) as fresh:
        fail(fresh)
    assert (place / "a").read_text() == "old"
    assert is_whole(place)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _flip(place):
    (place / "inner" / "a.bin").write_bytes(b"resulT")


DAMAGE = {
    "a file in its place": lambda place: (shutil.rmtree(place), place.write_text("?")),
    "a link in its place": lambda place: (place.rename(place.with_suffix(".x")), place.symlink_to("nowhere")),
    "a seal of lists": lambda place: (place / ".seal.json").write_text('{"files": [], "sha256": 1}'),
    "a seal too deep": lambda place: (place / ".seal.json").write_text("[" * 100_000),
    "a folder as seal": lambda place: ((place / ".seal.json").unlink(), (place / ".seal.json").mkdir()),
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
    lines = []
    store = replace(store, say=lines.append)
    place = store.stage("teach", KEY, produce)
    damage(place)
    assert not store.has("teach", KEY)
    store.stage("teach", KEY, produce)
    (line,) = lines
    assert line.startswith("teach: what was kept is damaged (")
    assert line.endswith("); made anew")
    assert (len(calls), store.has("teach", KEY)) == (2, True)
    assert sorted(path.name for path in place.iterdir()) == [".seal.json", "b.txt", "inner"]


_STAGE = """
import os, signal, sys, time
from pathlib import Path
from edgekd.store.store import Store
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
    assert litter[0] + ".lock" in {path.name for path in store.root.glob("*/.*")}
    assert litter[0].startswith(f".{store.path('teach', key).name}.new-")
    place = store.stage("teach", key, produce)
    assert entries(store) == [place.name], "the dead writer's folder is swept"
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name, f"{place.name}.lock"]


def test_two_processes_with_one_key_compute_once(store):
    command = [sys.executable, "-c", _STAGE, str(store.root), "live"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert answers == {str(store.path("teach", {"seed": 0}))}
    assert (store.root.parent / "log").read_text() == "made\n"


def test_the_home_of_nobody_is_a_path_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/x") == tmp_path / "x"
    assert files.user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_a_users_own_file_is_no_litter(tmp_path):
    (tmp_path / ".out.new-notes").write_text("mine")
    with writing(tmp_path / "out") as fresh:
        (fresh / "a").write_text("a")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.new-notes"}


def test_only_the_litter_of_the_dead_is_swept(tmp_path):
    """As an edgekd left it that had no locks beside its fresh folders: their number says who lives."""
    names = {"living": f".out.new-{os.getpid()}-x", "dead": ".out.new-99999999-x", "another's": ".other.new-99999999-x"}
    for name in names.values():
        (tmp_path / name).mkdir()
    files.sweep(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names["living"], names["another's"]])


_WRITER = """
import sys, time
from pathlib import Path
from edgekd.core.files import writing
from edgekd.core.seals import seal
with writing(Path(sys.argv[1]), seal=seal) as fresh:
    (fresh / "a").write_text("a")
    print(fresh, flush=True)
    sys.stdin.read()
"""


def test_a_writer_lives_by_its_lock_not_by_its_number(tmp_path):
    """Its number says nothing in another container on the same disk: neither that it lives nor that it died."""
    place = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        fresh = Path(writer.stdout.readline().strip())
        unknown = fresh.with_name(".out.new-99999999-0")  # as if its container had numbers of its own
        for suffix in ("", ".lock"):
            Path(f"{fresh}{suffix}").rename(f"{unknown}{suffix}")
        files.sweep(place)
        assert (unknown / "a").exists(), "it is held"
        writer.kill()
        writer.wait()
        ours = fresh.with_name(f".out.new-{os.getpid()}-0")  # a dead writer's number that another process has now
        for suffix in ("", ".lock"):
            Path(f"{unknown}{suffix}").rename(f"{ours}{suffix}")
        files.sweep(place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["-old", "in place"])
def test_a_kill_while_an_entry_is_replaced(store, produce, calls, moment):
    """The damaged one aside, then the new one in: whatever is left is no half entry, and is swept."""
    place = store.stage("teach", KEY, produce)
    _flip(place)
    code = _REPLACE.format(moment=moment, key=KEY)
    assert python(code, str(store.root)).returncode == -signal.SIGKILL
    assert store.has("teach", KEY) is (moment == "in place")
    store.stage("teach", KEY, produce)
    assert (place / "b.txt").read_text() == ("more" if moment == "-old" else "other")
    files.sweep(place)
    files.sweep(place)
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name, f"{place.name}.lock"]


_REPLACE = """
import os, sys
from pathlib import Path
from edgekd.store.store import Store
replace = os.replace
def kill(source, target):
    replace(source, target)
    if str(target).endswith("-old") == ({moment!r} == "-old"):
        os.kill(os.getpid(), 9)
os.replace = kill
Store(Path(sys.argv[1])).stage("teach", {key!r}, lambda folder: (folder / "b.txt").write_text("other"))
"""


def test_writing_takes_the_place_at_once(tmp_path):
    place = tmp_path / "deep" / "out"
    for content in ("first", "second"):
        with writing(place, seal=seal) as fresh:
            assert fresh.parent == place.parent, "on the same disk, so that the move is one rename"
            (fresh / content).write_text(content)
        assert sorted(path.name for path in place.iterdir()) == [".seal.json", content]
    assert place.stat().st_mode & 0o777 == 0o755
    assert is_whole(place)
    assert [path.name for path in place.parent.iterdir()] == ["out"]


def test_without_a_seal_nothing_of_a_users_is_replaced(tmp_path):
    """A bundle takes a missing or an empty folder; what another command wrote there meanwhile stays."""
    place = tmp_path / "out"
    place.mkdir()
    with writing(place) as fresh:
        (fresh / "a").write_text("first")
    with (
        pytest.raises(StoreError, match="was filled by another command meanwhile") as refusal,
        writing(place) as fresh,
    ):
        (fresh / "a").write_text("second")
    assert "--out" in refusal.value.fix
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]
    assert (place / "a").read_text() == "first"


def test_every_new_folder_and_file_is_flushed_and_the_name_above_it(tmp_path, monkeypatch):
    """In the order that a power cut needs: content, the fresh folder, then the name that it takes."""
    flushed = []
    flush = files.flush
    monkeypatch.setattr(files, "flush", lambda path: (flushed.append(path), flush(path)))
    place = tmp_path / "store" / "teach" / "0"
    with writing(place, seal=seal) as fresh:
        (fresh / "inner").mkdir()
        (fresh / "inner" / "a").write_text("a")
        (fresh / "link").symlink_to("nowhere")
    below = [path.relative_to(fresh).as_posix() for path in flushed if path.is_relative_to(fresh)]
    assert sorted(below) == [".", ".seal.json", "inner", "inner/a", "link"]
    assert below[-1] == "."
    assert [path for path in flushed if not path.is_relative_to(fresh)] == [place.parents[1], tmp_path, place.parent]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    place = tmp_path / "new" / "a.json"
    write_file(place, "first")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="no space left"):
            write_file(place, "second")
    assert [path.name for path in place.parent.iterdir()] == ["a.json"]
    assert place.read_text() == "first"
    write_file(place, b"third")
    assert place.read_bytes() == b"third"
    assert place.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    before = os.umask(0)
    os.umask(before)
    return before


def test_the_seal_says_what_it_is_of_and_notices_a_changed_word(store, produce, calls):
    place = store.stage("teach", KEY, produce, of="a teacher; some data")
    told = read_seal(place)
    assert (told.format, told.edgekd, told.of) == (FORMAT, store_module.EDGEKD, "a teacher; some data")
    assert told.key[:32] == place.name
    assert told.files.keys() == {"inner/a.bin", "b.txt"}
    text = (place / ".seal.json").read_text()
    (place / ".seal.json").write_text(text.replace("a teacher", "A teacher"))
    assert not store.has("teach", KEY)


def test_two_versions_on_one_store_never_meet(store, produce, calls, monkeypatch):
    old = store.stage("teach", KEY, produce)
    workspace = store.workspace("teach", KEY)
    before = (old / ".seal.json").read_bytes()
    monkeypatch.setattr(store_module, "EDGEKD", "99.0.0")
    assert not store.has("teach", KEY)
    new = store.stage("teach", KEY, produce)
    assert (len(calls), new != old, store.workspace("teach", KEY) != workspace) == (2, True, True)
    assert read_seal(new).edgekd == "99.0.0"
    monkeypatch.setattr(store_module, "FORMAT", FORMAT + 1)
    assert not store.has("teach", KEY)
    assert is_whole(old)
    assert (old / ".seal.json").read_bytes() == before


def test_what_is_for_every_version_stays_where_it_was(tmp_path, produce, calls, monkeypatch):
    """The guest's packages: their keys hold all that they are made of, and format 1 of the store is still read."""
    store = Store(tmp_path, every_version=True)
    assert store.path("packages", KEY).name == digest(KEY)[:32]
    place = store.path("packages", KEY)
    place.mkdir(parents=True)
    (place / "a").write_text("a")
    (place / ".seal.json").write_text(json.dumps({"a": file_sha256(place / "a")}))
    assert store.stage("packages", KEY, produce) == place
    monkeypatch.setattr(store_module, "EDGEKD", "99.0.0")
    assert store.has("packages", KEY)
    assert calls == []


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


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "Error while serializing: I/O error: No space left on device (os error 28)",
            "no space left while writing under",
        ),
        ("[Errno 28] No space left on device: '/x/model.onnx'", "no space left while writing under"),
        ("IoError: Read-only file system (os error 30)", "cannot use .*: Read-only file system"),
        ("cannot open: Permission denied", "cannot use .*: Permission denied"),
    ],
)
def test_a_disk_error_in_a_librarys_own_words_is_named(store, said, message):
    def produce(folder):
        raise RuntimeError(said)

    with pytest.raises(StoreError, match=message) as refusal:
        store.stage("teach", KEY, produce)
    assert isinstance(refusal.value.__cause__, RuntimeError)
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
