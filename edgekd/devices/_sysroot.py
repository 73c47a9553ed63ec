"""The emulator's root folder: an arm64 Debian's Python with onnxruntime, for QEMU's user-mode emulation.

One more entry beside those of `_arm64`, whose packages and wheels it holds. It serves every core: what a core says of
itself comes from a small folder beside it (`face`), made for a run.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Literal

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import NullProgress, Progress
from edgekd.devices import _arm64, _counter

BUILD = "edgekd doctor --fix emulator"
WHO = "an aarch64 emulator"
TOOLS = {  # program: the Debian package that holds it
    "qemu-aarch64": "qemu-user",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
}
PYTHON = f"usr/bin/python{_arm64.PYTHON}"
_IMPORTS = "hashlib, json, platform, random, statistics, numpy.lib.npyio, onnxruntime"  # by what runs onboard
_PACKAGES = ("libgomp1", "libpython3-stdlib", "libstdc++6", "python3-minimal")
_ARMV8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2 = f"{_ARMV8_0} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"  # the last are dot products
# MIDR_EL1's part, variant and revision (Arm's Technical Reference Manuals) as QEMU sets them, and the kernel's flags
CORES = {
    "cortex-a35": (0xD04, 0, 4, _ARMV8_0),
    "cortex-a53": (0xD03, 0, 4, _ARMV8_0),
    "cortex-a57": (0xD07, 1, 0, _ARMV8_0),
    "cortex-a72": (0xD08, 0, 3, _ARMV8_0),
    "cortex-a76": (0xD0B, 4, 1, _ARMV8_2),
    "cortex-a78ae": (0xD42, 0, 1, f"{_ARMV8_2} uscat ilrcpc"),
    "neoverse-n1": (0xD0C, 4, 1, _ARMV8_2),
}


def state() -> tuple[Literal["ok", "missing", "stale"], str]:
    """Whether the root folder is there, and a sentence; `stale` was made for another onnxruntime, or is not whole.

    Looks at names alone, to answer at once; `open_sysroot` reads every byte.
    """
    place = _arm64.store().path("sysroot", _key())
    if (place / PYTHON).is_file():
        why_not = _counter.why_not()
        counts = f"no instruction counts: {why_not}" if why_not else "it counts instructions"
        return "ok", f"aarch64 Python with onnxruntime {_arm64.runtime()} in {place}; {counts}"
    if any(place.parent.glob(f"[!.]*/{PYTHON}")):
        return "stale", f"the emulator's files are not made for onnxruntime {_arm64.runtime()} by this edgekd"
    return "missing", "no aarch64 emulator yet; accuracy on ARM stays predicted"


def open_sysroot() -> Path:
    """The root folder for the installed onnxruntime. Raises EdgeKDError where it or a tool is not there."""
    _arm64.require(TOOLS, WHO)
    damaged = "the emulator's files are damaged: they are not those that were written"
    return _arm64.open_entry("sysroot", _key(), state(), damaged=damaged, build=BUILD)


def build_sysroot(progress: Progress | None = None) -> Path:
    """Fetch the packages and unpack them, or go on where a killed run stopped; the counter, where gcc is there.

    Raises EdgeKDError where a tool is missing or a package cannot be fetched, StoreError where the disk is full.
    """
    _arm64.require(TOOLS, WHO)
    progress = progress or NullProgress()
    progress.stage("emulator: aarch64 ONNX Runtime for checking models on ARM", 4)
    debs = _arm64.packages()
    progress.step(1, "Debian packages")
    wheels = _arm64.wheels()
    progress.step(2, "onnxruntime and numpy")
    root = _arm64.store().stage("sysroot", _key(), lambda folder: _unpack(folder, debs, wheels))
    progress.step(3, "root folder")
    try:
        _counter.build_counter(root)
        progress.step(4, "instruction counter")
    except EdgeKDError as error:  # all else works without it
        progress.step(4, "no instruction counter")
        progress.say(f"{error.message}; {error.fix}")
    return root


def face(place: Path, root: Path, cpu: str) -> None:
    """Make `place` what QEMU shows as the root: links into the root folder, and what this core says of itself.

    ONNX Runtime reads /proc/cpuinfo as ARM's kernels write it, and crashes over the host's. QEMU from 8.2 on writes
    it itself; before, it shows the file of its root folder.
    """
    for path in root.iterdir():
        if path.is_dir():
            (place / path.name).symlink_to(path)
    clock = "sys/devices/system/cpu/cpu0/cpufreq"
    files = {
        # for each CPU of the host, by its number: a program under QEMU may be moved to any of them
        "proc/cpuinfo": "\n".join(_cpuinfo(cpu, number) for number in range(os.cpu_count() or 1)),
        # in place of the host's own clock and heat: a core that is emulated has neither
        f"{clock}/scaling_governor": "",
        f"{clock}/scaling_cur_freq": "",
        f"{clock}/cpuinfo_max_freq": "0\n",
        "sys/class/thermal/none": "",
    }
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")


def _cpuinfo(cpu: str, number: int) -> str:
    part, variant, revision, features = CORES[cpu]
    return (
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: {variant:#x}\nCPU part\t: {part:#x}\nCPU revision\t: {revision}\n"
    )


def _key() -> dict[str, object]:
    return {
        "onnxruntime": _arm64.runtime(),
        "suite": _arm64.SUITE,
        "packages": _PACKAGES,
        "unused": [_arm64.UNUSED_PACKAGES.pattern, _arm64.UNUSED_FILES.pattern],
    }


def _unpack(root: Path, debs: Path, wheels: Path) -> None:
    for deb in _needed(debs):
        _arm64.unpack_deb(deb, root)
    _arm64.unpack_wheels(wheels, root)
    for path in [path for path in root.rglob("*") if not path.is_dir() or path.is_symlink()]:
        if _arm64.UNUSED_FILES.match(path.relative_to(root).as_posix()):
            path.unlink()
    for link in [path for path in root.rglob("*") if path.is_symlink()]:
        if not (link.exists() and link.resolve().is_relative_to(root.resolve())):
            link.unlink()  # it leads nowhere, or to a file of this machine's
    if not _arm64.compile_python(root):
        _compile_there(root)


def _compile_there(root: Path) -> None:
    """Byte code of what jobs import, by the emulated Python itself; with -I it writes whatever the environment says."""
    with tempfile.TemporaryDirectory(prefix="edgekd-emulator-") as place:
        face(Path(place), root, "cortex-a72")
        code = f"import sys; sys.path.append('{place}/{_arm64.PYTHON_PACKAGES}'); import {_IMPORTS}"
        _arm64.run(
            ["qemu-aarch64", "-L", place, "-cpu", "cortex-a72", f"{place}/{PYTHON}", "-I", "-S", "-c", code],
            "the emulated Python does not run",
            f"run `{BUILD}` again",
        )


def _needed(debs: Path) -> list[Path]:
    """The packages that Python and the wheels need, with all that they depend on."""
    files = {deb.name.partition("_")[0]: deb for deb in debs.glob("*.deb")}
    found: dict[str, Path] = {}
    ahead = list(_PACKAGES)
    while ahead:
        name = ahead.pop()
        if name in found or name not in files or _arm64.UNUSED_PACKAGES.match(name):
            continue
        found[name] = files[name]
        fields = _arm64.run(
            ["dpkg-deb", "--field", str(files[name]), "Depends", "Pre-Depends"],
            f"cannot read {files[name].name}",
            f"run `{BUILD}` again",
        )
        for line in fields.splitlines():
            ahead += re.findall(r"(?:^|[,|]) *([a-z0-9][a-z0-9+.-]+)", line.partition(":")[2])
    return sorted(found.values())
