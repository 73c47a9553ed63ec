"""What every arm64 system here is made of: Debian's packages and the installed onnxruntime's wheels, kept in one store.

The arm64 guest and the emulator take them from the same entries, so that whoever has the one has the other in seconds.
Each step is an entry of a store under the user's cache folder: one that was finished stays, one that was killed is
done again. Nothing here needs root, and nothing leaves this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from platformdirs import user_cache_dir

from edgekd.core.errors import EdgeKDError
from edgekd.core.files import user_path
from edgekd.core.protocols import Check
from edgekd.core.results import versions
from edgekd.store.store import Store

SUITE, PYTHON = "bookworm", "3.11"  # Debian's release, and the Python that it brings
PACKAGES = (  # of the guest, the emulator's among them: one fetch serves both
    "busybox-static",
    "libgomp1",
    "libpython3-stdlib",
    "libstdc++6",
    "linux-image-cloud-arm64",
    "openssh-server",
    "python3-minimal",
)
PYTHON_PACKAGES = "usr/lib/python3/dist-packages"
# what dependencies bring for installing and configuring, which never happens here
UNUSED_PACKAGES = re.compile(r"(coreutils|dpkg|initramfs-tools|klibc|libklibc|libperl|linux-base|perl|udev)")
UNUSED_FILES = re.compile(
    r"usr/share/|usr/lib/[^/]+/gconv/"
    r"|usr/lib/python3/dist-packages/(numpy/.*tests|onnxruntime/(quantization|tools|transformers))/"
)
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")


def store() -> Store:
    """Where the parts lie: `$EDGEKD_GUEST`, else `guest` in the user's cache folder."""
    place = os.environ.get("EDGEKD_GUEST") or Path(user_cache_dir("edgekd"), "guest")
    return Store(user_path(place).absolute(), every_version=True)  # keys hold all that the parts are made of


def runtime() -> str:
    """The version of onnxruntime that is installed here, and so there."""
    return versions("onnxruntime")["onnxruntime"]


def missing(tools: Iterable[str]) -> tuple[str, ...]:
    """Those of these programs that this machine lacks."""
    return tuple(program for program in tools if shutil.which(program) is None)


def install_command(programs: Iterable[str], tools: Mapping[str, str]) -> str:
    """The command that installs the Debian packages of these programs; `tools` says which package holds which."""
    packages = sorted({tools[program] for program in programs})
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def require(tools: Mapping[str, str], who: str) -> None:
    """Raise EdgeKDError, with the command that installs them, where one of these programs is not there."""
    if absent := missing(tools):
        raise EdgeKDError(f"{who} needs {', '.join(absent)}", fix=f"run `{install_command(absent, tools)}`")


def check_tools(name: str, tools: Mapping[str, str], found: str, *, without: str) -> Check:
    """The same for `edgekd doctor`: `found` where all are there, else what is absent, and what is so `without` it."""
    if absent := missing(tools):
        return Check(name, "missing", f"no {', '.join(absent)}; {without}", install_command(absent, tools))
    return Check(name, "ok", found)


def run(command: list[str], what: str, fix: str, **environment: str) -> str:
    """What a program prints. Raises EdgeKDError with `what` and the last thing it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise EdgeKDError(f"{what}: {last}", fix=fix)
    return done.stdout


def packages() -> Path:
    """The folder of the Debian packages, fetched where they are not there yet."""
    return store().stage("packages", {"suite": SUITE, "packages": PACKAGES}, _fetch_debs)


def wheels() -> Path:
    """The folder of the wheels, likewise."""
    return store().stage("wheels", {"onnxruntime": runtime(), "python": PYTHON}, _fetch_wheels)


def open_entry(step: str, key: Mapping[str, object], state: tuple[str, str], *, damaged: str, build: str) -> Path:
    """The folder of a finished step; `state` says what its names alone show, every byte is read here.

    Raises EdgeKDError, with the command that makes it, where it is not there or, in the words `damaged`, not whole.
    """
    condition, what = state
    if condition == "ok" and not store().has(step, dict(key)):
        condition, what = "stale", damaged
    if condition != "ok":
        raise EdgeKDError(what, fix=f"run `{build}`: it fetches about 100 MB of packages, once")
    return store().path(step, dict(key))


def unpack_deb(deb: Path, root: Path) -> None:
    """A package's files under `root`; its scripts are not run."""
    run(
        ["dpkg-deb", "--extract", str(deb), str(root)],
        f"cannot unpack {deb.name}",
        "see whether the disk is full, then run the same command again",
    )


def unpack_wheels(folder: Path, root: Path) -> None:
    """The wheels' files, where Debian's Python looks for them."""
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(root / PYTHON_PACKAGES)


def compile_python(root: Path) -> bool:
    """Byte code beforehand: a process that compiles what it imports is slow under an emulator, and holds more memory.

    False, and nothing done, where this Python is of another release, whose byte code that one cannot read.
    """
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return False
    import compileall
    import py_compile

    for folder in (f"usr/lib/python{PYTHON}", "usr/lib/python3"):
        compileall.compile_dir(
            root / folder,
            quiet=2,
            stripdir=str(root),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    return True


def debian_mirror(targets: str) -> str:
    """The mirror that apt is set up with, from `URI release` lines. Raises EdgeKDError where none is Debian's."""
    lines = [line.split() for line in targets.splitlines()]
    for release in (SUITE, "stable", "trixie", "oldstable", "forky", "testing", "sid", "bullseye"):
        for uri, *named in lines:
            if named == [release]:
                return uri  # every release lies on the same mirror
    raise EdgeKDError(
        "apt on this machine has no Debian mirror, and guest and emulator are made of Debian packages",
        fix=f"add a mirror of Debian {SUITE} to apt's sources, or run it on a Debian machine",
    )


def _fetch_debs(folder: Path) -> None:
    """The packages and all that they depend on, by apt with folders of its own: the machine's state stays."""
    fix = "check the network and apt's sources; what was finished is kept"
    targets = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        "apt cannot list its sources",
        fix,
    )
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f" signed-by={keyring}" if keyring.exists() else ""
    with tempfile.TemporaryDirectory(prefix="edgekd-apt-") as place:
        apt = Path(place)
        for name in ("lists/partial", "archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()  # nothing is installed: every dependency comes
        (apt / "sources.list").write_text(f"deb [arch=arm64{signed}] {debian_mirror(targets)} {SUITE} main\n")
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "root",
            "Dir::State": apt,
            "Dir::State::status": apt / "status",
            "Dir::State::lists": apt / "lists",
            "Dir::Cache": apt,
            "Dir::Cache::archives": apt / "archives",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::SourceList": apt / "sources.list",
        }
        (apt / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        for words in (["update"], ["install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES]):
            run(
                ["apt-get", "--quiet", *words],
                f"apt-get {words[0]} for arm64 failed",
                fix,
                APT_CONFIG=str(apt / "apt.conf"),
            )
        for deb in (apt / "archives").glob("*.deb"):
            shutil.move(deb, folder / deb.name)


def _fetch_wheels(folder: Path) -> None:
    """The installed onnxruntime for arm64, and the host's numpy or the newest before it that has a wheel."""
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    wanted = [f"onnxruntime=={runtime()}", f"numpy<={versions('numpy')['numpy']}"]
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--implementation",
            "cp",
            "--python-version",
            PYTHON,
            *platforms,
            "--dest",
            str(folder),
            *wanted,
        ],
        "pip cannot fetch the wheels for aarch64",
        f"check the network, and that {wanted[0]} has a wheel for Python {PYTHON} on aarch64",
    )
