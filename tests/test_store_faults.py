"""A store on a disk that refuses: what is there is still read, and the error says what to do."""

import contextlib
import errno
import fcntl
import gc
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekd.cli.store import store as commands
from edgekd.core.errors import StoreError
from edgekd.core.seals import is_whole
from edgekd.store.entries import kept
from edgekd.store.store import Store
from edgekd.store.upkeep import Which, collected_afterwards, prune, verify

KEY, OTHER = {"seed": 0}, {"seed": 1}
NOBODY = 65534


def write(folder):
    (folder / "a").write_text("a")


@contextlib.contextmanager
def mounted(folder, *options):
    """A file system of the test's own on a folder; skips where this user may not mount."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def as_nobody():
    """A folder, and this process without root's rights to everything."""
    folder = Path(tempfile.mkdtemp(prefix="edgekd-test-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def refused(store, key=OTHER):
    with pytest.raises(StoreError) as refusal:
        store.stage("teach", key, write)
    assert "$EDGEKD_STORE" in refusal.value.fix
    return refusal.value.message


def loop(path):
    path.symlink_to(path)
    return f"cannot use {path}: it is a link that leads nowhere"


def dangling(path):
    path.symlink_to("/nonexistent/disk")
    return f"cannot use {path}: it is a link that leads nowhere"


def file(path):
    path.write_text("mine")
    return f"cannot use {path}/teach: Not a directory"


@pytest.mark.parametrize("kind", [file, loop, dangling])
def test_a_root_that_is_no_folder(tmp_path, kind, monkeypatch):
    root = tmp_path / "store"
    message = kind(root)
    assert refused(Store(root)) == message
    with pytest.raises(StoreError) as refusal:
        kept(root)
    assert str(root) in refusal.value.message
    monkeypatch.setenv("EDGEKD_STORE", str(root))
    for command in ("list", "verify", "prune"):
        assert isinstance(CliRunner().invoke(commands, [command]).exception, StoreError)
    with collected_afterwards(Store(root), print):
        pass
    assert os.path.lexists(root)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_still_builds_and_is_never_pruned(tmp_path, monkeypatch, number):
    def flock(handle, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    place = Store(tmp_path).stage("teach", KEY, write)
    assert Store(tmp_path).stage("teach", KEY, lambda folder: pytest.fail("it is kept")) == place
    with pytest.raises(StoreError, match=f"cannot use .*: {os.strerror(number)}"):
        prune(tmp_path, Which(older_than_days=0))
    (place / "a").write_text("b")
    assert list(verify(tmp_path)[0].values()) == ["a is changed"]


def test_a_stage_that_is_a_file(tmp_path):
    (tmp_path / "teach").write_text("mine")
    assert refused(Store(tmp_path)) in (
        f"cannot use {tmp_path}/teach: File exists",
        f"cannot use {tmp_path}/teach: Not a directory",
    )
    assert (tmp_path / "teach").read_text() == "mine"


def test_a_lock_that_is_a_folder(tmp_path):
    store = Store(tmp_path)
    lock = store.path("teach", KEY).with_suffix(".lock")
    lock.mkdir(parents=True)
    assert refused(store, KEY) == f"cannot use {lock}: Is a directory"
    Store(tmp_path).stage("teach", OTHER, write)
    assert len(prune(tmp_path, Which(older_than_days=0)).removed) == 1
    assert lock.is_dir()


def test_no_permission_to_write(as_nobody):
    place = Store(as_nobody).stage("teach", KEY, write)
    for path in (as_nobody / "teach", as_nobody):
        path.chmod(0o555)
    store = Store(as_nobody)
    assert store.stage("teach", KEY, lambda folder: 1 / 0) == place, "what is there is read"
    assert store.has("teach", KEY)
    assert refused(store).startswith(f"cannot use {as_nobody}/teach/")
    assert refused(store).endswith(": Permission denied")
    assert verify(as_nobody) == ({}, 1)
    with collected_afterwards(store, print):
        pass
    del store
    gc.collect()  # the refusals' tracebacks know it, too
    with pytest.raises(StoreError, match="Permission denied"):
        prune(as_nobody, Which(older_than_days=0))
    assert is_whole(place)


def test_no_permission_to_read(as_nobody):
    Store(as_nobody).stage("teach", KEY, write)
    (as_nobody / "teach").chmod(0o000)
    store = Store(as_nobody)
    assert "Permission denied" in refused(store)
    assert not store.has("teach", KEY)
    with pytest.raises(StoreError, match="Permission denied"):
        kept(as_nobody)


def test_a_damaged_entry_that_cannot_be_replaced_is_named(as_nobody):
    place = Store(as_nobody).stage("teach", KEY, write)
    (place / "a").write_text("b")
    (as_nobody / "teach").chmod(0o555)
    assert refused(Store(as_nobody), KEY).endswith(": Permission denied")
    wrong, whole = verify(as_nobody)
    assert (list(wrong.values()), whole) == (["a is changed"], 0)


def test_a_store_on_a_disk_that_can_only_be_read(tmp_path):
    root = tmp_path / "store"
    place = Store(root).stage("teach", KEY, write)
    damaged = Store(root).stage("teach", {"seed": 2}, write)
    (damaged / "a").write_text("b")
    with mounted(root, "--bind", str(root)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        lines = []
        store = Store(root, lines.append)
        assert store.stage("teach", KEY, lambda folder: 1 / 0) == place
        assert (place / "a").read_text() == "a"
        assert refused(store).endswith(": Read-only file system")
        assert refused(store, {"seed": 2}).endswith(": Read-only file system")
        assert verify(root)[1] == 1
        assert list(verify(root)[0].values()) == ["a is changed"]
        with pytest.raises(StoreError, match="Read-only file system"):
            prune(root, Which(older_than_days=0))
        assert len(kept(root)) == 2


def test_a_full_disk_keeps_the_old_entry_and_leaves_no_litter(tmp_path):
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=1m", "none"):
        store = Store(tmp_path)
        place = store.stage("teach", KEY, write)
        with pytest.raises(StoreError, match="no space left while writing under"):
            store.stage("teach", OTHER, lambda folder: (folder / "big").write_bytes(bytes(2 << 20)))
        assert is_whole(place)
        assert [path.name for path in (tmp_path / "teach").glob(".*")] == []
        assert store.stage("teach", OTHER, write).exists(), "room again"


def test_a_disk_without_inodes_is_named(tmp_path):
    def many(folder):
        for number in range(40):
            (folder / str(number)).touch()

    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=1m,nr_inodes=24", "none"):
        store = Store(tmp_path)
        with pytest.raises(StoreError, match=r"no (inodes|space)") as refusal:
            store.stage("teach", KEY, many)
        assert "free some space" in refusal.value.fix
        assert [path.name for path in (tmp_path / "teach").glob(".*")] == []
        assert store.stage("teach", KEY, write).exists()
        for number in range(40):
            with contextlib.suppress(OSError):
                (tmp_path / str(number)).touch()
        with pytest.raises(StoreError, match=r"no inodes \(the disk holds too many files\) left"):
            store.stage("other", KEY, write)
