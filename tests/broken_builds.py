"""Real builds that are killed, or find their disk full: what benchmarks and tests do to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from conftest import TINY, loose_target, save_teacher, texts, write_csv

from edgekd.core.seals import is_whole
from edgekd.onboard import verify

PAGE = 4096  # bytes: what a tmpfs takes for any part of it
ENTRY = re.compile(r"[0-9a-f]{32}")
_STAGE = re.compile(r"\s*\d+ s  (\[\d/7\] .*)")
# the command itself, but for its look at the free space: as if another program filled the disk right after it
_UNWARNED = "import edgekd.bundle.write as b; b.check_space = lambda *_: None; from edgekd.cli import main; main()"


@dataclass(frozen=True)
class Life:
    """One run of the command: its exit code, what it said, and when each stage began, in seconds from its start."""

    code: int
    stderr: str
    marks: tuple[tuple[float, str], ...]
    seconds: float

    @property
    def last(self) -> str:
        """The stage that it was in when it ended."""
        return self.marks[-1][1] if self.marks else "start"


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after that stage began, `start` for the process."""

    stage: str
    after_s: float


@dataclass(frozen=True)
class Build:
    """`edgekd build` of a tiny teacher to `out`, with a store of its own."""

    inputs: Path
    store: Path
    out: Path
    unwarned: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """With everything that timing could sway fixed: the same plan gives the same bytes."""
        return [
            sys.executable,
            *(("-c", _UNWARNED) if self.unwarned else ("-m", "edgekd")),
            "build",
            "--target",
            str(self.inputs / "loose.yaml"),
            "--teacher",
            str(self.inputs / "tiny-bert"),
            "--data",
            str(self.inputs / "things.csv"),
            "--out",
            str(self.out),
            *TINY,
            "--min-speedup",
            "0.2",
            "--force",
            "dynamic_int8",
        ]

    def run(self, kill: Moment | None = None, *, timeout_s: float = 500) -> Life:
        """To its end, or until `kill`."""
        environment = os.environ | {"EDGEKD_STORE": str(self.store), "OMP_NUM_THREADS": "1"} | self.environment
        began, said, marks = time.monotonic(), [], [(0.0, "start")]
        timer: threading.Timer | None = None
        with subprocess.Popen(
            self.command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        ) as process:
            if kill and kill.stage == "start":
                timer = _later(kill.after_s, process.pid)
            over = _later(timeout_s, process.pid)
            for line in process.stderr or ():
                said.append(line)
                if found := _STAGE.match(line):
                    marks.append((time.monotonic() - began, found[1]))
                    if kill and timer is None and found[1] == kill.stage:
                        timer = _later(kill.after_s, process.pid)
            process.wait()
            for one in (timer, over):
                if one is not None:
                    one.cancel()
        return Life(process.returncode, "".join(said), tuple(marks), time.monotonic() - began)


def inputs(folder: Path) -> Path:
    """The teacher, the data and the target of `Build`, in that folder."""
    write_csv(folder / "things.csv", texts(600, seed=1))
    save_teacher(folder / "tiny-bert")
    loose_target(folder)
    return folder


def moments(life: Life, count: int, random: Random) -> list[Moment]:
    """Moments of a whole run, uniformly drawn and in order, each told by the stage that it falls into."""
    drawn = sorted(random.uniform(0, life.seconds) for _ in range(count))
    found = []
    for at in drawn:
        began, stage = [mark for mark in life.marks if mark[0] <= at][-1]
        found.append(Moment(stage, at - began))
    return found


def _later(seconds: float, pid: int) -> threading.Timer:
    timer = threading.Timer(seconds, kill_all, [pid])
    timer.daemon = True
    timer.start()
    return timer


def kill_all(pid: int) -> None:
    """SIGKILL to a process and all below it, as a power cut does: children have sessions of their own."""
    family = [pid]
    for one in family:  # grows as it is read
        family += _children(one)
    for one in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


# what lies in a store and beside a bundle


def entries(store: Path) -> dict[str, Path]:
    """By `stage/key`, oldest first: every finished entry, whole or not."""
    found = [path for path in store.glob("*/*") if ENTRY.fullmatch(path.name) and path.is_dir()]
    found.sort(key=lambda path: path.stat().st_mtime_ns)
    return {path.relative_to(store).as_posix(): path for path in found}


def identities(store: Path) -> dict[str, tuple[int, ...]]:
    """By entry: what changes when it is made anew."""
    return {name: _identity(path) for name, path in entries(store).items()}


def _identity(entry: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_ino for file in sorted(entry.rglob("*")) if file.is_file())


def corrupt(store: Path) -> list[str]:
    """Entries that are not byte for byte what was written."""
    return [name for name, path in entries(store).items() if not is_whole(path)]


def litter(*folders: Path) -> list[str]:
    """What writers left behind: a folder for each stage, or bundle, that was begun and not ended."""
    return [path.name for folder in folders for path in folder.rglob(".*.new-*") if path.is_dir()]


def half_bundle(out: Path) -> list[str]:
    """What is wrong with the bundle in `out`; nothing where there is none, or a whole one."""
    if not out.exists():
        return []
    try:
        return list(verify.changed_files(out, json.loads((out / "manifest.json").read_text(encoding="utf-8"))))
    except (OSError, ValueError) as error:
        return [str(error)]


def artifact(out: Path) -> dict[str, Any]:
    """The hashes of the part that devices get."""
    files: dict[str, Any] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["artifact"]["files"]
    return files


def differences(out: Path, other: Path) -> list[str]:
    """The files of the artifact part that are not the same in two bundles; that there is none, where one is missing."""
    if missing := [str(place) for place in (out, other) if not (place / "manifest.json").exists()]:
        return [f"no bundle in {missing[0]}"]
    one, two = artifact(out), artifact(other)
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


# disks


def may_mount() -> str:
    """Empty where a tmpfs can be mounted, else why not."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "a small disk is a tmpfs, and mounting needs root: run this under `unshare --map-root-user --mount`"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"a tmpfs cannot be mounted here: {done.stderr.strip()}"


@contextlib.contextmanager
def disk(folder: Path, *, kib: int = 1 << 20) -> Iterator[Path]:
    """A disk of that size, mounted at `folder` for as long as the block."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,nr_inodes=0", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted disk: `ro`, `rw`, `size=64k`."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def used_kib(folder: Path) -> int:
    """What a tmpfs would take for a folder's files."""
    pages = sum(-(-path.stat().st_size // PAGE) for path in folder.rglob("*") if path.is_file())
    return pages * PAGE >> 10


def until(store: Path, name: str, other: Path) -> None:
    """Copy the entries of a finished store that were made before that one into another, in their order."""
    for entry, path in entries(store).items():
        if entry == name:
            return
        shutil.copytree(path, other / entry)


def elsewhere(build: Build, place: Path, **changes: Any) -> Build:
    """The same build with its store and its output in another place."""
    return replace(build, store=place / "store", out=place / "bundles" / "things-loose", **changes)
