"""How many CPUs and how much memory this process may use, and how many threads libraries start because of it.

The host's own numbers are not the answer: a scheduler's affinity, a container or a batch system may grant less.
The limits of control groups are described in the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# How often a waiting OpenMP thread of libgomp looks before it sleeps: docs/decisions/0027-waiting-threads.md
SPIN_COUNT = 1000
_THREAD_COUNTS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")  # oneDNN, MKL and OpenBLAS follow the first
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: its affinity, and no more than its control groups' quotas, rounded up.

    `root` is where `proc` and `sys` lie. At least 1.
    """
    # not every system has affinities
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(root, "cpu") if (quota := _quota(group)) is not None]
    return max(1, min([allowed, *quotas]))


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, and no more than its control groups' limits."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for group in _groups(root, "memory") if (limit := _memory_limit(group)) is not None]
    return min([total, *limits])


def set_thread_defaults() -> None:
    """Tell libraries that are loaded later, here and in child processes, how many threads to start and how they wait.

    Variables that the user has set are left alone. A runtime that is loaded already keeps what it read.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    for name in _THREAD_COUNTS:
        if name not in os.environ:
            os.environ[name] = str(usable_cpus())


def _quota(group: Path) -> int | None:
    """CPUs that a group grants, rounded up; None where it sets no limit, or none can be read."""
    try:
        if words := _words(group / "cpu.max"):
            granted, period = words[0], words[1] if len(words) > 1 else "100000"
            return None if granted == "max" else _rounded_up(int(granted), int(period))
        quota, period_us = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
        return _rounded_up(int(quota[0]), int(period_us[0])) if quota and period_us else None
    except ValueError:
        return None


def _rounded_up(granted: int, period: int) -> int | None:
    """Version 1 writes -1 for no limit."""
    return max(1, -(-granted // period)) if granted > 0 and period > 0 else None


def _memory_limit(group: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        words = _words(group / name)
        if words and words[0].isdecimal() and int(words[0]) > 0:
            return int(words[0])
    return None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's groups, from its own up to the hierarchy's top: each may limit what is below."""
    paths = _memberships(root, controller)
    for top, point, version in _mounts(root, controller):
        if version not in paths:
            continue
        path = paths[version]
        # a container may see the host's path, of which only a part is mounted
        below = path.removeprefix(top.rstrip("/")) if path == top or path.startswith(top.rstrip("/") + "/") else ""
        parts = [part for part in below.split("/") if part]
        if ".." in parts:  # the group lies outside this process's namespace
            parts = []
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(point.lstrip("/"), *parts[:depth])


def _memberships(root: Path, controller: str) -> dict[int, str]:
    """The path of this process's group in version 2, and in the hierarchy of version 1 that has the controller."""
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths[2] = path
        elif controller in controllers.split(","):
            paths[1] = path
    return paths


def _mounts(root: Path, controller: str) -> Iterator[tuple[str, str, int]]:
    """Top of the hierarchy that is mounted, where, and its version, as /proc/self/mountinfo has them (proc(5))."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        top, point = (_unescaped(field) for field in fields[3:5])
        if kind[0] == "cgroup2":
            yield top, point, 2
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            yield top, point, 1


def _unescaped(field: str) -> str:
    """The kernel writes a space in a path as `\\040`."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    """A small file of the kernel's; empty where there is none, or it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
