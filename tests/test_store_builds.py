"""Eight real builds of one plan at once on one fresh store; then the same from a store that can only be read."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from conftest import TINY, loose_target, run

from edgekd.store.entries import kept

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
EIGHT = 8


@pytest.fixture(scope="module")
def builds(tiny_teacher, tiny_data, tmp_path_factory):
    """The store, the eight bundles, what each said on stderr, and the command's arguments but for --out."""
    folder = tmp_path_factory.mktemp("eight")
    target = loose_target(folder)
    arguments = ["build", "--target", target, "--teacher", tiny_teacher, "--data", tiny_data, *TINY]
    environment = os.environ | {"EDGEKD_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    outs = [folder / f"bundle-{number}" for number in range(EIGHT)]
    with contextlib.ExitStack() as open_until_the_end:
        running = []
        for out in outs:
            command = [sys.executable, "-m", "edgekd", *map(str, arguments), "--out", str(out)]
            errors = open_until_the_end.enter_context(out.with_suffix(".stderr").open("w"))
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment))
            open_until_the_end.callback(running[-1].wait)
            open_until_the_end.callback(running[-1].kill)
        for process, out in zip(running, outs, strict=True):
            assert process.wait(timeout=1200) == 0, out.with_suffix(".stderr").read_text()
    return folder / "store", outs, [out.with_suffix(".stderr").read_text() for out in outs], arguments


def test_each_stage_is_made_once(builds, record_property):
    store, _, said, _ = builds
    entries = Counter(one.stage for one in kept(store))
    assert {"size", "teacher", "outputs", "student", "export-student", "compress", "measure"} <= set(entries)
    assert entries.pop("cost") >= 2, "the teacher and each shape that was measured"
    assert set(entries.values()) == {1}, "one entry a stage"
    assert not any(one.is_work for one in kept(store))
    for began in (
        "size: measure finalists",
        "teach: train the teacher",
        "teach: the teacher's",
        "distill: the student learns",
        "compress: search over recipes",
        "measure: the models on the held-out samples",
    ):
        assert sum(f"] {began}" in text for text in said) == 1, began
    assert not any("damaged" in text or "Traceback" in text for text in said)
    waited = sum("waits for another build that makes it (process " in text for text in said)
    record_property("builds that said whom they wait for", waited)
    assert waited >= 5
    assert not [path for path in store.rglob("*") if ".new-" in path.name]


def test_all_get_identical_artifacts(builds, record_property):
    _, outs, _, _ = builds
    manifests = [json.loads((out / "manifest.json").read_text(encoding="utf-8")) for out in outs]
    assert len({json.dumps(manifest["artifact"], sort_keys=True) for manifest in manifests}) == 1
    listed = manifests[0]["artifact"]["files"]
    assert any(name.startswith("onnx/") for name in listed)
    for out in outs[1:]:
        for name in listed:
            assert (out / name).read_bytes() == (outs[0] / name).read_bytes(), name
    differing = sorted(
        path.relative_to(outs[0]).as_posix()
        for path in outs[0].rglob("*")
        if path.is_file() and len({(out / path.relative_to(outs[0])).read_bytes() for out in outs}) > 1
    )
    record_property("files of the evidence that differ", differing)
    assert set(differing) <= {"manifest.json", *manifests[0]["evidence"]["files"]}
    assert not [path for path in outs[0].parent.iterdir() if ".new-" in path.name], "no litter beside the bundles"
    assert run("verify", outs[-1]).returncode == 0


def test_builds_of_one_plan_into_one_folder_end_well(builds, tmp_path):
    """Whoever comes second finds the same bundle there, and leaves it alone."""
    store, outs, _, arguments = builds
    command = [sys.executable, "-m", "edgekd", *map(str, arguments), "--out", str(tmp_path / "out")]
    environment = os.environ | {"EDGEKD_STORE": str(store)}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert run("verify", tmp_path / "out").returncode == 0
    again, first = (
        json.loads((out / "manifest.json").read_text(encoding="utf-8")) for out in (tmp_path / "out", outs[0])
    )
    assert again["artifact"] == first["artifact"]


def test_a_finished_plan_is_read_from_a_store_that_can_only_be_read(builds, tmp_path):
    store, outs, _, arguments = builds
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    done = subprocess.run(["mount", "--bind", str(copy), str(copy)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(copy)], check=True)
        environment = {"EDGEKD_STORE": str(copy), "EDGEKD_STORE_MIB": "1"}
        done = run(*arguments, "--out", tmp_path / "out", env=environment)
        assert done.returncode == 0, done.stderr
        again = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
        first = json.loads((outs[0] / "manifest.json").read_text(encoding="utf-8"))
        assert again["artifact"] == first["artifact"]
        other = run(*arguments, "--seed", "1", "--out", tmp_path / "other", env=environment)
        assert other.returncode == 1
        assert "Read-only file system" in other.stderr
        assert "fix: make it readable and writable, or point $EDGEKD_STORE" in other.stderr
        assert "Traceback" not in other.stderr
    finally:
        subprocess.run(["umount", "--lazy", str(copy)], check=True)


def test_a_build_that_is_over_the_cap_keeps_what_it_used(builds, tmp_path):
    store, _, _, arguments = builds
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    unused = copy / "student" / ("0" * 32)
    shutil.copytree(next(one.path for one in kept(copy) if one.stage == "student"), unused)
    os.utime(unused / ".seal.json", (0, 0))
    done = run(*arguments, "--out", tmp_path / "out", env={"EDGEKD_STORE": str(copy), "EDGEKD_STORE_MIB": "0.5"})
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"store: \d+ least recently used results removed, [\d.]+ MiB \(\$EDGEKD_STORE_MIB is 0.5\): ", done.stderr
    )
    assert not unused.exists()
    left = {one.stage for one in kept(copy)}
    assert {"teacher", "student", "compress", "measure"} <= left
    assert "are in use, more than $EDGEKD_STORE_MIB = 0.5" in done.stderr
