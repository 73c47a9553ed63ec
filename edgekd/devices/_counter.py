"""The counter of executed instructions: `_instructions.c`, a plug-in of QEMU's, compiled here where gcc is."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from edgekd.core.digests import file_sha256
from edgekd.core.errors import EdgeKDError
from edgekd.devices import _arm64

_SOURCE = Path(__file__).with_name("_instructions.c")
_NAME = "instructions.so"
_PROGRAM = "lib/ld-linux-aarch64.so.1"  # the smallest there is
_GCC = "apt-get install --no-install-recommends gcc libc6-dev"
_BUILD = "edgekd doctor --fix emulator"


def why_not() -> str:
    """Why no instructions can be counted here, with the way out; empty where they can. Looks at names alone."""
    if (_place() / _NAME).is_file():
        return ""
    if shutil.which("gcc") is None:
        return f"there is no gcc; run `{_GCC}`, then `{_BUILD}`"
    return f"the counter is not compiled; run `{_BUILD}`"


def open_counter() -> Path:
    """The compiled plug-in. Raises EdgeKDError where it is not there."""
    if reason := why_not():
        problem, _, fix = reason.partition("; ")
        raise EdgeKDError(f"instructions cannot be counted: {problem}", fix=fix)
    return _place() / _NAME


def build_counter(root: Path) -> None:
    """Compile it and try it on a program of the root folder. Raises EdgeKDError where gcc or QEMU does not take it."""

    def produce(folder: Path) -> None:
        if shutil.which("gcc") is None:
            raise EdgeKDError("counting instructions needs gcc", fix=f"run `{_GCC}`, then `{_BUILD}` again")
        _arm64.run(
            ["gcc", "-O2", "-shared", "-fPIC", "-o", str(folder / _NAME), str(_SOURCE)],
            "gcc cannot compile the instruction counter",
            f"run `{_GCC}`, then `{_BUILD}` again",
        )
        _arm64.run(
            ["qemu-aarch64", *options(folder / _NAME, Path(os.devnull)), str(root / _PROGRAM), "--version"],
            "QEMU does not take the instruction counter",
            "install QEMU 6, 7 or 8, as Debian 12 has it: later ones speak to plug-ins otherwise",
        )

    _arm64.store().stage("instructions", _key(), produce)


def options(plugin: Path, out: Path) -> list[str]:
    """QEMU's options for counting instructions into the file `out`; a comma would end a path."""
    return ["-plugin", "{},out={}".format(*(str(path).replace(",", ",,") for path in (plugin, out)))]


def _place() -> Path:
    return _arm64.store().path("instructions", _key())


def _key() -> dict[str, object]:
    return {"source": file_sha256(_SOURCE), "machine": platform.machine()}
