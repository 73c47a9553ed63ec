"""The guest's image: a Linux kernel and a root file system of Debian and PyPI packages for arm64.

Each step is an entry of a store under the user's cache folder: packages, wheels, then the image of both. A step
that was finished stays; one that was killed is done again. Nothing here needs root, and nothing is mounted: the
root file system is a cpio archive that the kernel unpacks into the guest's memory. It never leaves this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from platformdirs import user_cache_dir

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import Progress, Quiet
from edgekd.core.results import versions
from edgekd.core.store import Store

SUITE, PYTHON = "bookworm", "3.11"  # Debian's release, and the Python that it brings
PACKAGES = (
    "busybox-static", "libgomp1", "libpython3-stdlib", "libstdc++6", "linux-image-cloud-arm64", "openssh-server",
    "python3-minimal",
)  # fmt: skip
READY = "edgekd guest: ready"
BUILD = "edgekd doctor --fix guest"
_TOOLS = {  # program: the Debian package that holds it
    "qemu-system-aarch64": "qemu-system-arm", "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "apt-get": "apt", "dpkg-deb": "dpkg", "setpriv": "util-linux",
}  # fmt: skip
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_PYTHON_PACKAGES = "usr/lib/python3/dist-packages"
_DRIVERS = ("virtio_pci", "virtio_net")
# what dependencies bring for installing and configuring, which never happens here
_UNUSED_PACKAGES = re.compile(r"(coreutils|dpkg|initramfs-tools|klibc|libklibc|libperl|linux-base|perl|udev)")
_UNUSED_FILES = re.compile(
    r"usr/share/|usr/lib/[^/]+/gconv/"
    r"|usr/lib/python3/dist-packages/(numpy/.*tests|onnxruntime/(quantization|tools|transformers))/"
)
_FILES = {
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534::/run/sshd:/bin/false\n",
    "etc/group": "root:*:0:\nnogroup:*:65534:\n",
    "etc/ssh/sshd_config": """\
HostKey /etc/ssh/host_key
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
# in the archive every file belongs to root, whoever built it
StrictModes no
Subsystem sftp internal-sftp
""",
    "init": f"""\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /run/sshd
busybox mount -t devpts pts /dev/pts
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t tmpfs -o size=90% jobs /job
exec >/dev/console 2>&1
for driver in /drivers/*; do busybox insmod $driver; done
busybox ifconfig lo 127.0.0.1 up
busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
# a process that compiles what it imports holds 4 MiB more before its model comes: none may, nor the first
[ -d /{_PYTHON_PACKAGES}/numpy/__pycache__ ] || python3 - <<'PYTHON'
import hashlib, io, json, random, statistics, numpy, onnxruntime
file = io.BytesIO()
numpy.savez(file, x=1)
numpy.load(io.BytesIO(file.getvalue()))['x']
PYTHON
/usr/sbin/sshd
# the file comes once sshd listens
while ! [ -e /run/sshd.pid ]; do busybox usleep 20000; done
pages=$(busybox awk '/KernelPageSize/ {{print $2; exit}}' /proc/self/smaps)
echo "{READY}: Linux $(busybox uname -r), $pages KiB pages"
while :; do busybox sleep 1000; done
""",
}


@dataclass(frozen=True)
class Image:
    """What a guest boots from, and the keys by which it and its user know each other."""

    kernel: Path  # as Debian builds it
    root: Path  # the root file system, a cpio archive
    key: Path  # private: of the one who may log in
    known_hosts: Path  # the guest's public key, under the name `edgekd-guest`

    @classmethod
    def at(cls, folder: Path) -> Image:
        """The image whose files lie in this folder, there or not."""
        return cls(folder / "vmlinuz", folder / "root.cpio", folder / "key", folder / "known_hosts")


def missing_tools() -> tuple[str, ...]:
    """The programs that building and running a guest need and that this machine lacks."""
    return tuple(program for program in _TOOLS if shutil.which(program) is None)


def install_command(programs: tuple[str, ...]) -> str:
    """The command that installs the Debian packages of these programs."""
    packages = sorted({_TOOLS[program] for program in programs})
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def state() -> tuple[Literal["ok", "missing", "stale"], str]:
    """Whether the image is there, and a sentence; `stale` was made for another onnxruntime, or is not whole.

    Looks at names alone, to answer at once; `open_image` reads every byte.
    """
    place = _store().path("image", _image_key())
    if all(path.is_file() for path in vars(Image.at(place)).values()):
        return "ok", f"arm64 image with onnxruntime {_runtime()} in {place}"
    if any(place.parent.glob("*/root.cpio")):
        return "stale", f"the arm64 image is damaged, or not made for onnxruntime {_runtime()} by this edgekd"
    return "missing", "no arm64 image yet; memory on ARM stays predicted"


def open_image() -> Image:
    """The image for the installed onnxruntime. Raises EdgeKDError where tools or the image are not there."""
    if missing := missing_tools():
        raise EdgeKDError(f"an arm64 guest needs {', '.join(missing)}", fix=f"run `{install_command(missing)}`")
    condition, what = state()
    if condition == "ok" and not _store().has("image", _image_key()):
        condition, what = "stale", "the arm64 image is damaged: its files are not those that were written"
    if condition != "ok":
        raise EdgeKDError(what, fix=f"run `{BUILD}`: it fetches about 100 MB of packages, once")
    return Image.at(_store().path("image", _image_key()))


def build_image(progress: Progress | None = None) -> Image:
    """Fetch the packages and make the image, or go on where a killed run stopped.

    Raises EdgeKDError where a tool is missing or a package cannot be fetched, StoreError where the disk is full.
    """
    if missing := missing_tools():
        raise EdgeKDError(f"an arm64 guest needs {', '.join(missing)}", fix=f"run `{install_command(missing)}`")
    progress = progress or Quiet()
    progress.stage("guest: an arm64 Linux for measuring memory", 3)
    store = _store()
    debs = store.stage("packages", {"suite": SUITE, "packages": PACKAGES}, _fetch_debs)
    progress.step(1, "Debian packages")
    wheels = store.stage("wheels", {"onnxruntime": _runtime(), "python": PYTHON}, _fetch_wheels)
    progress.step(2, "onnxruntime and numpy")
    image = store.stage("image", _image_key(), lambda folder: _assemble(folder, debs, wheels))
    progress.step(3, "image")
    return Image.at(image)


def _store() -> Store:
    place = os.environ.get("EDGEKD_GUEST") or Path(user_cache_dir("edgekd"), "guest")
    return Store(Path(place).expanduser().absolute())


def _runtime() -> str:
    return versions("onnxruntime")["onnxruntime"]


def _image_key() -> dict[str, object]:
    return {"onnxruntime": _runtime(), "suite": SUITE, "packages": PACKAGES, "files": _FILES, "drivers": _DRIVERS,
            "unused": [_UNUSED_PACKAGES.pattern, _UNUSED_FILES.pattern]}  # fmt: skip


def _run(command: list[str], what: str, fix: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise EdgeKDError(f"{what}: {last}", fix=fix)
    return done.stdout


def debian_mirror(targets: str) -> str:
    """The mirror that apt is set up with, from `URI release` lines. Raises EdgeKDError where none is Debian's."""
    lines = [line.split() for line in targets.splitlines()]
    for release in (SUITE, "stable", "trixie", "oldstable", "forky", "testing", "sid", "bullseye"):
        for uri, *named in lines:
            if named == [release]:
                return uri  # every release lies on the same mirror
    raise EdgeKDError(
        "apt on this machine has no Debian mirror, and the guest is made of Debian packages",
        fix=f"add a mirror of Debian {SUITE} to apt's sources, or build the image on a Debian machine",
    )


def _fetch_debs(folder: Path) -> None:
    """The packages and all that they depend on, by apt with folders of its own: the machine's state stays."""
    fix = "check the network and apt's sources; what was finished is kept"
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
                   "apt cannot list its sources", fix)  # fmt: skip
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f" signed-by={keyring}" if keyring.exists() else ""
    with tempfile.TemporaryDirectory(prefix="edgekd-apt-") as place:
        apt = Path(place)
        for name in ("lists/partial", "archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()  # nothing is installed: every dependency comes
        (apt / "sources.list").write_text(f"deb [arch=arm64{signed}] {debian_mirror(targets)} {SUITE} main\n")
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root",
            "Dir::State": apt, "Dir::State::status": apt / "status", "Dir::State::lists": apt / "lists",
            "Dir::Cache": apt, "Dir::Cache::archives": apt / "archives", "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::SourceList": apt / "sources.list",
        }  # fmt: skip
        (apt / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        for words in (["update"], ["install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES]):
            _run(["apt-get", "--quiet", *words], f"apt-get {words[0]} for the arm64 guest failed", fix,
                 APT_CONFIG=str(apt / "apt.conf"))  # fmt: skip
        for deb in (apt / "archives").glob("*.deb"):
            shutil.move(deb, folder / deb.name)


def _fetch_wheels(folder: Path) -> None:
    """The installed onnxruntime for arm64, and the host's numpy or the newest before it that has a wheel."""
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    wanted = [f"onnxruntime=={_runtime()}", f"numpy<={versions('numpy')['numpy']}"]
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation",
          "cp", "--python-version", PYTHON, *platforms, "--dest", str(folder), *wanted],
         "pip cannot fetch the guest's wheels",
         f"check the network, and that {wanted[0]} has a wheel for Python {PYTHON} on aarch64")  # fmt: skip


def _assemble(folder: Path, debs: Path, wheels: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="edgekd-guest-", dir=folder.parent) as place:
        root, kernel = Path(place, "root"), Path(place, "kernel")
        for deb in sorted(debs.glob("*.deb")):
            if not _UNUSED_PACKAGES.match(deb.name):
                to = kernel if deb.name.startswith("linux-image") else root
                _run(["dpkg-deb", "--extract", str(deb), str(to)], f"cannot unpack {deb.name}", f"run `{BUILD}` again")
        for wheel in wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(root / _PYTHON_PACKAGES)
        image = Image.at(folder)
        shutil.copyfile(next(kernel.glob("boot/vmlinuz-*")), image.kernel)
        _configure(root, image)
        for number, driver in enumerate(_drivers(kernel)):
            shutil.copyfile(driver, root / "drivers" / f"{number:02}-{driver.name}")
        _compile(root)
        with image.root.open("wb") as archive:
            _write_cpio(root, archive)
        image.root.chmod(0o600)  # it holds the guest's own private key


def _configure(root: Path, image: Image) -> None:
    for name in ("dev", "drivers", "etc/ssh", "job", "proc", "root/.ssh", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "init").chmod(0o755)
    (root / "bin" / "sh").symlink_to("busybox")
    host_key = root / "etc" / "ssh" / "host_key"
    for key in (image.key, host_key):
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edgekd-guest", "-f", str(key)],
             "cannot make a key", "see whether the disk is full")  # fmt: skip
    shutil.move(image.key.with_suffix(".pub"), root / "root" / ".ssh" / "authorized_keys")
    public = host_key.with_suffix(".pub").read_text(encoding="utf-8")
    image.known_hosts.write_text(f"edgekd-guest {public}", encoding="utf-8")


def _drivers(kernel: Path) -> list[Path]:
    """The kernel's modules that the network needs, each after those that it depends on."""
    modules = {path.stem.replace("-", "_"): path for path in kernel.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        if name in modules and modules[name] not in ordered:
            depends = re.search(rb"\0depends=([^\0]*)\0", modules[name].read_bytes())
            for needed in depends[1].decode().split(",") if depends else ():
                add(needed.replace("-", "_"))
            ordered.append(modules[name])

    for driver in _DRIVERS:
        add(driver)
    return ordered


def _compile(root: Path) -> None:
    """Byte code beforehand, of this Python's release alone; else `init` has the guest make it, at every boot."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return
    import compileall
    import py_compile

    for folder in (f"usr/lib/python{PYTHON}", "usr/lib/python3"):
        compileall.compile_dir(root / folder, quiet=2, stripdir=str(root), prependdir="/",
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)  # fmt: skip


def _write_cpio(root: Path, archive: BinaryIO) -> None:
    """Everything under `root`, owned by root, in the kernel's format: Documentation/driver-api/early-userspace."""
    for number, (name, mode, content) in enumerate(_entries(root), start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        for part in (b"070701" + b"".join(b"%08x" % field for field in fields) + path, content):
            archive.write(part + b"\0" * (-(archive.tell() + len(part)) % 4))


def _entries(root: Path) -> Iterator[tuple[str, int, bytes]]:
    for path in sorted(root.rglob("*")):
        name, mode = path.relative_to(root).as_posix(), path.lstat().st_mode
        if _UNUSED_FILES.match(name):
            continue
        if stat.S_ISLNK(mode):
            yield name, mode, os.readlink(path).encode()
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            yield name, mode, path.read_bytes() if stat.S_ISREG(mode) else b""
    yield "TRAILER!!!", 0, b""
