"""The guest's image: a Linux kernel and a root file system of Debian and PyPI packages for arm64.

One more entry beside those of `_arm64`, whose packages and wheels it holds. Nothing is mounted: the root file system
is a cpio archive that the kernel unpacks into the guest's memory. It never leaves this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from edgekd.core.protocols import NullProgress, Progress
from edgekd.devices import _arm64

READY = "edgekd guest: ready"
BUILD = "edgekd doctor --fix guest"
WHO = "an arm64 guest"
TOOLS = {  # program: the Debian package that holds it
    "qemu-system-aarch64": "qemu-system-arm",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "setpriv": "util-linux",
}
_DRIVERS = ("virtio_pci", "virtio_net")
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
[ -d /{_arm64.PYTHON_PACKAGES}/numpy/__pycache__ ] || python3 - <<'PYTHON'
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


def state() -> tuple[Literal["ok", "missing", "stale"], str]:
    """Whether the image is there, and a sentence; `stale` was made for another onnxruntime, or is not whole.

    Looks at names alone, to answer at once; `open_image` reads every byte.
    """
    place = _arm64.store().path("image", _image_key())
    if all(path.is_file() for path in vars(Image.at(place)).values()):
        return "ok", f"arm64 image with onnxruntime {_arm64.runtime()} in {place}"
    if any(place.parent.glob("[!.]*/root.cpio")):
        return "stale", f"the arm64 image is damaged, or not made for onnxruntime {_arm64.runtime()} by this edgekd"
    return "missing", "no arm64 image yet; memory on ARM stays predicted"


def open_image() -> Image:
    """The image for the installed onnxruntime. Raises EdgeKDError where tools or the image are not there."""
    _arm64.require(TOOLS, WHO)
    damaged = "the arm64 image is damaged: its files are not those that were written"
    return Image.at(_arm64.open_entry("image", _image_key(), state(), damaged=damaged, build=BUILD))


def build_image(progress: Progress | None = None) -> Image:
    """Fetch the packages and make the image, or go on where a killed run stopped.

    Raises EdgeKDError where a tool is missing or a package cannot be fetched, StoreError where the disk is full.
    """
    _arm64.require(TOOLS, WHO)
    progress = progress or NullProgress()
    progress.stage("guest: an arm64 Linux for measuring memory", 3)
    debs = _arm64.packages()
    progress.step(1, "Debian packages")
    wheels = _arm64.wheels()
    progress.step(2, "onnxruntime and numpy")
    image = _arm64.store().stage("image", _image_key(), lambda folder: _assemble(folder, debs, wheels))
    progress.step(3, "image")
    return Image.at(image)


def _image_key() -> dict[str, object]:
    return {
        "onnxruntime": _arm64.runtime(),
        "suite": _arm64.SUITE,
        "packages": _arm64.PACKAGES,
        "files": _FILES,
        "drivers": _DRIVERS,
        "unused": [_arm64.UNUSED_PACKAGES.pattern, _arm64.UNUSED_FILES.pattern],
    }


def _assemble(folder: Path, debs: Path, wheels: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="edgekd-guest-", dir=folder.parent) as place:
        root, kernel = Path(place, "root"), Path(place, "kernel")
        for deb in sorted(debs.glob("*.deb")):
            if not _arm64.UNUSED_PACKAGES.match(deb.name):
                _arm64.unpack_deb(deb, kernel if deb.name.startswith("linux-image") else root)
        _arm64.unpack_wheels(wheels, root)
        image = Image.at(folder)
        shutil.copyfile(next(kernel.glob("boot/vmlinuz-*")), image.kernel)
        _configure(root, image)
        for number, driver in enumerate(_drivers(kernel)):
            shutil.copyfile(driver, root / "drivers" / f"{number:02}-{driver.name}")
        _arm64.compile_python(root)  # else `init` has the guest make it, at every boot
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
        _arm64.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edgekd-guest", "-f", str(key)],
            "cannot make a key",
            "see whether the disk is full",
        )
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
        if _arm64.UNUSED_FILES.match(name):
            continue
        if stat.S_ISLNK(mode):
            yield name, mode, os.readlink(path).encode()
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            yield name, mode, path.read_bytes() if stat.S_ISREG(mode) else b""
    yield "TRAILER!!!", 0, b""
