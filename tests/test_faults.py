"""Builds that are killed, starved or shut out, for real: what was finished stays, the rest is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from bert_files import whole_teacher
from broken_builds import (
    Moment,
    corrupt,
    differences,
    disk,
    entries,
    half_bundle,
    identities,
    litter,
    may_mount,
    moments,
    remount,
)
from build_faults import filled, finished, killed
from conftest import run, write_csv

from edgekd.security import child
from edgekd.store import store
from edgekd.store.store import Store

needs_mounts = pytest.mark.skipif(bool(may_mount()), reason=may_mount())
_NO_NETWORK = ("unshare", "--map-root-user", "--net")
needs_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*_NO_NETWORK, "true"], capture_output=True, check=False).returncode != 0,
    reason="a network cannot be taken away here: unshare --net is not allowed",
)


def edgekd(*arguments: str | Path, within: tuple[str, ...] = (), **options) -> subprocess.CompletedProcess[str]:
    """The command, within another one where that is given."""
    command = [*within, sys.executable, "-m", "edgekd", *map(str, arguments)]
    options["env"] = os.environ | options.get("env", {})
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def told(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """What a refusal says; it has a way out and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "  fix: " in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def tiny(tmp_path):
    """Options of a small build that needs no training."""
    rows = write_csv(tmp_path / "rows.csv", [(f"a text of {number} words", "ab"[number % 2]) for number in range(99)])
    return ("--target", "rpi4", "--student", "none", "--teacher", whole_teacher(tmp_path / "own"), "--data", rows)


# folders that cannot be written


@pytest.fixture
def frozen(tmp_path):
    """A disk that can only be read."""
    with disk(tmp_path / "disk") as place:
        remount(place, "ro")
        yield place


@needs_mounts
def test_a_store_that_cannot_be_written_is_named_before_anything_is_computed(tmp_path, tiny, frozen):
    done = edgekd("build", *tiny, "--out", tmp_path / "out", env={"EDGEKD_STORE": str(frozen / "store")})
    assert f"{frozen}/store" in told(done)
    assert "Read-only file system" in done.stderr
    assert "[2/7]" not in done.stderr
    assert not (tmp_path / "out").exists()


@needs_mounts
def test_an_output_that_cannot_be_written_is_named_before_anything_is_computed(tmp_path, tiny, frozen):
    done = edgekd("build", *tiny, "--out", frozen / "out", env={"EDGEKD_STORE": str(tmp_path / "store")})
    assert str(frozen) in told(done)
    assert "/7]" not in done.stderr, "no stage was begun"


@needs_mounts
def test_a_working_folder_that_cannot_be_written_does_no_harm(tmp_path, tiny, frozen):
    done = edgekd("plan", *tiny, cwd=frozen, env={"EDGEKD_STORE": str(tmp_path / "store")})
    assert done.returncode == 0, done.stderr


# no network


@needs_namespaces
def test_hub_ids_without_a_network_are_told_and_a_cached_copy_is_used(tmp_path, tiny_data):
    hub, plan = {"HF_HOME": str(tmp_path / "hf"), "EDGEKD_STORE": str(tmp_path / "store")}, ("plan", "--target", "rpi4")
    by_id = (*plan, "--student", "none", "--teacher", "some-people/some-model", "--data", tiny_data)
    assert "cannot fetch the teacher 'some-people/some-model'" in told(edgekd(*by_id, within=_NO_NETWORK, env=hub))
    other = (*plan, "--student", "none", "--teacher", whole_teacher(tmp_path / "own"), "--data", "some-people/rows")
    assert "cannot load the data 'some-people/rows'" in told(edgekd(*other, within=_NO_NETWORK, env=hub))

    cached = tmp_path / "hf" / "hub" / "models--some-people--some-model"
    whole_teacher(cached / "snapshots" / ("1" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1" * 40)
    said = told(edgekd(*by_id, within=_NO_NETWORK, env=hub))
    assert "labels that the teacher does not know" in said
    assert "'a', 'b'" in said, "the copy's own"


# memory


def test_a_child_that_takes_all_memory_ends_alone_and_by_name(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    limits = child.Limits(memory_mib=512, cpu_s=60)
    with pytest.raises(child.ChildError, match="512 MiB of memory") as refusal:
        child.call("helpers:hoard", {}, timeout_s=60, limits=limits)
    assert refusal.value.limit == "memory"
    assert child.call("helpers:greet", {"name": "next"}, timeout_s=60, limits=limits) == {"hello": "next"}


# two versions


def test_two_versions_on_one_store_leave_each_others_results_alone(tmp_path, monkeypatch):
    made = []

    def produce(folder: Path) -> None:
        made.append(folder)
        (folder / "result").write_text(str(len(made)))

    first = Store(tmp_path / "store").stage("teach", {"rows": 1}, produce)
    with monkeypatch.context() as patch:
        patch.setattr(store, "EDGEKD", "99.0.0")
        second = Store(tmp_path / "store").stage("teach", {"rows": 1}, produce)
    again = Store(tmp_path / "store").stage("teach", {"rows": 1}, produce)
    assert again == first != second
    assert [(place / "result").read_text() for place in (first, second)] == ["1", "2"]
    assert len(made) == 2
    assert corrupt(tmp_path / "store") == []


# whole builds


@pytest.fixture(scope="module")
def whole():
    """An undisturbed build: the build, its life, a folder for more."""
    with finished() as made:
        yield made


@pytest.fixture
def again(whole, tmp_path):
    """The same build with everything but its bundle."""
    build = replace(whole[0], store=tmp_path / "store", out=tmp_path / "bundles" / "bundle")
    shutil.copytree(whole[0].store, build.store)
    return build


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_cost_a_stage_each_at_most_and_leave_nothing_behind(whole, tmp_path):
    build = replace(whole[0], store=tmp_path / "store", out=tmp_path / "bundles" / "bundle")
    drawn = moments(whole[1], 10, Random(7))
    kills = killed(build, drawn)
    assert len(kills.costs) >= 5, "the build was over before it could be killed"
    assert max(kills.costs) <= 1
    assert (kills.lost, kills.damage) == (0, [])
    assert differences(build.out, whole[0].out) == []
    assert litter(build.store, build.out.parent) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_build_that_is_killed_while_it_writes_its_bundle_leaves_no_half_one(whole, again):
    for after_s in (0.05, 0.4, 0.8, 1.2):
        life = again.run(Moment("[7/7] ship: write the bundle", after_s))
        assert half_bundle(again.out) == []
        if life.code == 0:
            break
        assert not again.out.exists()
    else:
        assert again.run().code == 0
    assert after_s > 0.05, "it was over before it could be killed"
    assert half_bundle(again.out) == []
    assert litter(again.out.parent, again.store) == []
    assert differences(again.out, whole[0].out) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
@needs_mounts
def test_a_full_disk_is_named_in_early_middle_and_last_stages_and_costs_nothing(whole, tmp_path):
    names = [*entries(whole[0].store), "ship"]
    for name in (names[0], next(name for name in names if name.startswith("student/")), "ship"):
        with disk(tmp_path / name.replace("/", "-")) as place:
            judged, said = filled(whole[0], name, place)
            assert all(judged.values()), f"{name}: {judged}: {said}"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_damaged_entry_of_every_stage_is_made_anew_with_the_same_bytes(whole, again):
    random, before = Random(3), identities(again.store)
    for path in entries(again.store).values():
        file = random.choice([one for one in sorted(path.rglob("*")) if one.is_file() and one.stat().st_size])
        raw = bytearray(file.read_bytes())
        raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        file.write_bytes(raw)
    assert len(corrupt(again.store)) == len(before)
    life = again.run()
    assert life.code == 0, life.stderr
    assert life.stderr.count("what was kept is damaged") >= len(before) - 1
    assert corrupt(again.store) == []
    assert differences(again.out, whole[0].out) == []


_JUMPS = """
import random, time
real, draw = time.time, random.Random(5)
time.time = lambda: real() + draw.choice((0, -3e7, 3e7, -2e9))
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_clock_that_jumps_by_years_changes_nothing(whole, tmp_path):
    """Of every process of the build; half of the store is from 2099, half from 1970."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_JUMPS)
    build = replace(
        whole[0], store=tmp_path / "store", out=tmp_path / "bundle", environment={"PYTHONPATH": str(tmp_path / "site")}
    )
    shutil.copytree(whole[0].store, build.store)
    kept = list(entries(build.store).values())
    for number, path in enumerate(kept):
        for one in (path, *path.rglob("*")):
            os.utime(one, (4_070_908_800, 4_070_908_800) if number % 2 else (0, 0))
    shutil.rmtree(next(path for path in kept if path.parent.name == "student"))
    life = build.run()
    assert life.code == 0, life.stderr
    assert differences(build.out, whole[0].out) == []
    assert run("verify", build.out).returncode == 0
