"""Several processes on one store: one makes, the others wait and read; nobody's ground is pulled away."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from edgekd.core.digests import file_sha256
from edgekd.core.files import try_lock
from edgekd.core.seals import SEAL
from edgekd.store.store import Store
from edgekd.store.upkeep import Which, kept, prune, sweep

KEY = {"seed": 0}

_BUILD = """
import hashlib, json, os, sys, time
from pathlib import Path
from edgekd.store import store as module
from edgekd.store.store import Store
module._PATIENCE_S = 0.3
root, seconds, others = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def produce(folder):
    with (root.parent / "log").open("a") as log:
        log.write(f"{os.getpid()}\\n")
    print("makes it", flush=True)
    while len(list(root.parent.glob("began-*"))) < others:
        time.sleep(0.02)
    time.sleep(seconds)
    (folder / "weights.bin").write_bytes(os.urandom(1 << 16))  # no two runs make the same
said = []
(root.parent / f"began-{os.getpid()}").touch()
place = Store(root, said.append).stage("teach", {"seed": 0}, produce)
files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
print(json.dumps({"files": files, "said": said}))
"""


def build(store, seconds, others=1):
    """A build whose stage takes so many seconds, from when so many builds have begun."""
    command = [sys.executable, "-c", _BUILD, str(store.root), str(seconds), str(others)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answer(process):
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(said.splitlines()[-1])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_of_eight_at_once_one_computes_and_all_get_the_same_files(store):
    eight = [build(store, 1.5, others=8) for _ in range(8)]
    answers = [answer(process) for process in eight]
    (maker,) = (store.root.parent / "log").read_text().split()
    assert len({json.dumps(one["files"], sort_keys=True) for one in answers}) == 1
    waits = f"teach: waits for another build that makes it (process {maker} on "
    for one in answers:
        if one["said"]:
            assert one["said"][0].startswith(waits)
            assert one["said"][-1] == "teach: another build has made it"
    assert sum(not one["said"] for one in answers) == 1, "who makes it says nothing, the others whom they wait for"


def test_who_waits_for_one_that_dies_makes_it(store):
    dying = build(store, 60)
    dying.stdout.readline()
    heirs = [build(store, 0.1) for _ in range(3)]
    while len(list(store.root.parent.glob("began-*"))) < 4:
        time.sleep(0.02)
    time.sleep(1.2)
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    answers = [answer(process) for process in heirs]
    assert len((store.root.parent / "log").read_text().split()) == 2, "the dead one, and one heir"
    assert len({json.dumps(one["files"], sort_keys=True) for one in answers}) == 1
    assert sum("teach: the other build ended without it; made here" in one["said"] for one in answers) == 1
    assert not list(store.root.rglob("*.new-*")), "what it left is swept"


def made(store, *keys):
    return [store.stage("teach", key, lambda folder: (folder / "a").write_text("a")) for key in keys]


_READER = """
import sys
from pathlib import Path
from edgekd.store.store import Store
store = Store(Path(sys.argv[1]))
store.stage("teach", {"seed": 0}, lambda folder: 1 / 0)
print("reads it", flush=True)
sys.stdin.read()
"""


def test_what_another_process_reads_stays_until_it_ends(store):
    first, second = made(Store(store.root), KEY, {"seed": 1})  # and lets go of both at once
    with subprocess.Popen(
        [sys.executable, "-c", _READER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "reads it\n"
        done = prune(store.root, Which(older_than_days=0))
        assert [one.path for one in done.removed] == [second]
        assert [one.path for one in done.in_use] == [first]
        assert store.has("teach", KEY)
        reader.kill()
    assert [one.path for one in prune(store.root, Which(older_than_days=0)).removed] == [first]
    assert list((store.root / "teach").iterdir()) == [], "their locks went with them"


def test_what_is_being_made_stays(store, tmp_path):
    work = store.workspace("teach", KEY)
    maker = build(store, 30)
    maker.stdout.readline()
    work.mkdir()
    done = prune(store.root, Which(older_than_days=0))
    assert (done.removed, [one.path for one in done.in_use], done.litter) == ((), [work], ())
    assert len(list(store.root.glob("teach/.*.new-*"))) == 2, "the fresh folder and its lock"
    maker.kill()
    maker.communicate()
    done = prune(store.root, Which(older_than_days=0))
    assert [one.path for one in done.removed] == [work]
    assert list((store.root / "teach").iterdir()) == []


def test_the_work_that_a_stopped_search_ships_from_stays(store):
    work = store.workspace("compress", KEY)
    work.mkdir(parents=True)
    (work / "model.onnx").write_text("best so far")
    building = Store(store.root)
    assert building.hold_workspace("compress", KEY) == work
    assert prune(store.root, Which(older_than_days=0)).removed == ()
    assert (work / "model.onnx").exists()
    del building
    assert [one.path for one in prune(store.root, Which(older_than_days=0)).removed] == [work]


_CHURN = """
import sys, time
from pathlib import Path
from edgekd.store.store import Store
from edgekd.core.seals import SEAL
end = time.monotonic() + float(sys.argv[2])
reads = 0
while time.monotonic() < end:
    store = Store(Path(sys.argv[1]))
    for seed in range(3):
        place = store.stage("teach", {"seed": seed}, lambda folder: (folder / "a").write_text("a"))
        for _ in range(3):
            assert (place / "a").read_text() == "a", "it was pulled away"
            assert (place / SEAL).exists()
            time.sleep(0.001)
        reads += 1
print(reads)
"""


def test_builds_beside_a_pruner_never_lose_what_they_read(store):
    """Also the locks that the pruner unlinks: who waited on one takes the new one, and no two make one entry."""
    command = [sys.executable, "-c", _CHURN, str(store.root), "2"]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    removed = 0
    while any(process.poll() is None for process in builds):
        removed += len(prune(store.root, Which(older_than_days=0)).removed)
    for process in builds:
        said, wrong = process.communicate()
        assert process.returncode == 0, wrong
        assert int(said) > 3
    assert removed > 3, "it did remove what nobody read"
    assert prune(store.root, Which(older_than_days=0)).in_use == ()
    assert list((store.root / "teach").iterdir()) == []


def test_two_threads_of_a_build_wait_for_each_other(store):
    places, calls = [], []

    def produce(folder):
        calls.append(folder)
        time.sleep(0.2)
        (folder / "a").write_text("a")

    threads = [threading.Thread(target=lambda: places.append(store.stage("teach", KEY, produce))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert (len(calls), len(places), len(set(places))) == (1, 4, 1)


def test_a_lock_that_a_dead_process_left_is_no_obstacle(store):
    place = store.path("teach", KEY)
    place.parent.mkdir(parents=True)
    place.with_suffix(".lock").write_text("99999999 elsewhere")
    lines = []
    began = time.monotonic()
    made(replace(store, say=lines.append), KEY)
    assert time.monotonic() - began < 1
    assert lines == []


_PASSING = """
import sys
from edgekd.store.store import open_store
open_store().stage("teach", {"seed": 0}, lambda folder: (folder / "a").write_text("a"))
print("read it", flush=True)
sys.stdin.read()
"""


def test_a_command_holds_what_any_part_of_it_read(store):
    """A teacher is unpacked by a part that opens the store for itself, and used by all that follow."""
    with subprocess.Popen(
        [sys.executable, "-c", _PASSING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"EDGEKD_STORE": str(store.root)},
    ) as command:
        assert command.stdout.readline() == "read it\n"
        assert prune(store.root, Which(older_than_days=0)).removed == ()
        command.kill()
    assert len(prune(store.root, Which(older_than_days=0)).removed) == 1


def test_what_is_held_is_let_go_with_the_store(store):
    building = Store(store.root)
    (place,) = made(building, KEY)
    handle = os.open(place / SEAL, os.O_RDWR)
    assert try_lock(handle) is False
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        made(building, KEY)
    assert len(os.listdir("/proc/self/fd")) == before, "one handle an entry"
    del building
    assert try_lock(handle) is True
    os.close(handle)


def test_sweeping_beside_a_writer_takes_nothing_of_it(store):
    """A sweeper that comes between a fresh file and its lock: the writer takes another name."""
    place = store.root / "teach" / ("0" * 32)
    place.parent.mkdir(parents=True)
    stop = threading.Event()

    def sweeping():
        while not stop.is_set():
            sweep(store.root)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    try:
        from edgekd.core.files import write_file, writing
        from edgekd.core.seals import seal

        for number in range(60):
            with writing(place, seal=seal) as fresh:
                (fresh / "a").write_text(str(number))
            assert (place / "a").read_text() == str(number)
            write_file(place.with_name("1" * 32), "text")
            assert file_sha256(place.with_name("1" * 32))
    finally:
        stop.set()
        sweeper.join()
    assert [one.path for one in kept(store.root)] == [place]
