"""onnxruntime and numpy for a board: wheels for its Python and C library, fetched here, so that it needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekd.core.errors import EdgeKDError
from edgekd.core.results import versions

_OLDEST_GLIBC = 17  # manylinux2014
_NUMPY_2 = (1, 19)  # the first onnxruntime that knows numpy 2


def fetch(told: dict[str, Any], ort_version: str | None, folder: Path) -> list[Path]:
    """Wheels for the board that told its `identity` and `libc`.

    Of onnxruntime `ort_version`; where None, this host's, or the newest before it that has a wheel for that Python.

    Raises EdgeKDError where no wheel fits the board or pip cannot fetch it.
    """
    here = versions("onnxruntime", "numpy")
    version = ort_version or here["onnxruntime"]
    wanted = f"onnxruntime{'==' if ort_version else '<='}{version}"
    identity = told["identity"]
    python = ".".join(identity["python"].split(".")[:2])
    libc, libc_version = told["libc"]
    who = f"Python {python}, {identity['arch']}, {f'{libc} {libc_version}' if libc else 'no glibc'}"
    if libc != "glibc":
        raise EdgeKDError(
            f"onnxruntime has wheels for glibc alone, and the board has {who}: it is musl, as of Alpine",
            fix="install a system with glibc there, such as Debian",
        )
    minor = int(libc_version.split(".")[1])
    platforms = [f"manylinux_2_{number}_{identity['arch']}" for number in range(minor, _OLDEST_GLIBC - 1, -1)]
    platforms.append(f"manylinux2014_{identity['arch']}")
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    numpy = "numpy<2" if release < _NUMPY_2 else f"numpy<={here['numpy']}"
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
        *(word for name in platforms for word in ("--platform", name)),
        "--dest", str(folder), wanted, numpy,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"pip ended with code {done.returncode}"])[-1]
        raise EdgeKDError(
            f"pip finds no wheel of {wanted} for the board ({who}): {why}",
            fix="check the network; where there is none for that Python or glibc, install a newer system on the board, "
                "or the packages by hand",
        )  # fmt: skip
    return sorted(folder.glob("*.whl"))
