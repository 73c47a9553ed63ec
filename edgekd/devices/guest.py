"""A real arm64 Linux on this machine: full-system emulation of a board's core, for memory and outputs.

    with Guest(cpu="cortex-a72").up() as device:
        device.run("footprint", model=..., inputs=[...], threads=1)

What a process holds is an arm64 kernel's own answer. How long it takes is the emulator's, and is not returned.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from edgekd.core import external
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.core.protocols import Check, Progress
from edgekd.core.results import versions
from edgekd.devices import _arm64, _bounded, _guest_tar
from edgekd.devices import _guest_image as images
from edgekd.devices._answer import answer_of, check_outputs, no_answer, too_much
from edgekd.onboard import RUNNER_FILES

_ONBOARD = Path(__file__).parents[1] / "onboard"
_MODES = ("footprint", "predict", "facts")
_MOST_CONSOLE = 16 << 20  # bytes
_LEAST_MIB = 1024  # the archive, and its files beside it
_KILLED = 137  # a shell's code of a process that the kernel ended: the guest has no memory left
_TIMED_OUT = 143  # of one that busybox's timeout ended


@dataclass(frozen=True)
class Guest:
    """An arm64 guest with one `cpu` and `memory_mib`; a job may take `timeout_s`, booting `boot_s`.

    `cpu` is a core that QEMU knows, the profile's `emulator_cpu`. Raises UsageError for `max`, an invention of
    QEMU's with instructions that no board has, under which int8 kernels answered wrongly, and below 1024 MiB.
    """

    cpu: str = "cortex-a72"
    memory_mib: int = _LEAST_MIB
    timeout_s: float = 600.0
    boot_s: float = 120.0

    emulated: ClassVar[str] = "system"

    def __post_init__(self) -> None:
        if self.cpu == "max":
            raise UsageError("the guest's cpu must be a real core, not 'max'", fix="name one: cortex-a72, cortex-a76")
        if self.memory_mib < _LEAST_MIB:
            raise UsageError(
                f"an arm64 guest of {self.memory_mib} MiB cannot unpack its own files",
                fix=f"give it {_LEAST_MIB} MiB or more; what a model needs is measured, not limited",
            )

    @classmethod
    def available(cls) -> bool:
        """Whether this machine has a whole image and the tools to boot it; `edgekd doctor` says what is missing."""
        return not _arm64.missing(images.TOOLS) and images.state()[0] == "ok"

    @classmethod
    def checks(cls) -> tuple[Check, Check]:
        """For `edgekd doctor`: the tools, and the image; looks at names alone."""
        condition, said = images.state()
        return (
            _arm64.check_tools(
                "guest-tools",
                images.TOOLS,
                "QEMU, ssh, apt and dpkg are there",
                without="memory on ARM stays predicted",
            ),
            Check("guest", condition, said, "" if condition == "ok" else images.BUILD),
        )

    @classmethod
    def build(cls, progress: Progress | None = None) -> None:
        """Fetch packages and make the image, or go on where a killed run stopped.

        Raises EdgeKDError where a tool is missing or a package cannot be fetched, StoreError where the disk is full.
        """
        images.build_image(progress)

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """One job in a guest of its own; several are cheaper under one `up`."""
        with self.up() as device:
            return device.run(mode, **job)

    @contextlib.contextmanager
    def up(self) -> Iterator[Running]:
        """A booted guest for the length of the block; it ends with the block, or with this process.

        Raises EdgeKDError where QEMU, the image or the boot fails.
        """
        image = images.open_image()
        with tempfile.TemporaryDirectory(prefix="edgekd-guest-") as folder:
            console, port = Path(folder, "console.txt"), _free_port()
            command = self.command(image, console, port)
            with Path(folder, "qemu.txt").open("w+b") as said:
                # a session of its own: Ctrl-C reaches us alone, and we end it
                qemu = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
                )
                try:
                    # the console and what QEMU says grow as long as it runs: beyond this the kernel ends it
                    resource.prlimit(qemu.pid, resource.RLIMIT_FSIZE, (_MOST_CONSOLE, _MOST_CONSOLE))
                    yield Running(self, image, port, self._wait(qemu, console, said))
                finally:
                    qemu.kill()
                    qemu.wait()

    def command(self, image: images.Image, console: Path, port: int) -> list[str]:
        """QEMU's command line; setpriv has the kernel end it when this process dies, however it dies."""
        kernel = "console=ttyAMA0 quiet panic=-1"
        kernel += " transparent_hugepage=madvise"  # as Raspberry Pi's kernels; Debian says `always`
        kernel += " mitigations=off nokaslr"  # nobody attacks it, and each costs an emulated CPU much
        return [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "qemu-system-aarch64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-M",
            "virt",
            "-cpu",
            self.cpu,
            "-m",
            str(self.memory_mib),
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            f"file:{console}",
            "-kernel",
            str(image.kernel),
            "-initrd",
            str(image.root),
            "-append",
            kernel,
            "-netdev",
            f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ]

    def _wait(self, qemu: subprocess.Popen[bytes], console: Path, said: IO[bytes]) -> str:
        """Until the guest's sshd listens; the system that it says it is."""
        end = time.monotonic() + self.boot_s
        while time.monotonic() < end:
            lines = _bounded.end_of(console).splitlines()
            for line in lines:
                if line.startswith(images.READY) and line.endswith("pages"):
                    return _bounded.brief(line.removeprefix(images.READY).strip(": "))
            if qemu.poll() is not None:
                own = _bounded.end_of(Path(said.name))
                why = _bounded.last(own if own.strip() else "\n".join(lines))
                raise EdgeKDError(
                    f"QEMU ended while the guest booted: {why}",
                    fix="run it again; if the core is unknown, take one of `qemu-system-aarch64 -M virt -cpu help`",
                )
            time.sleep(0.05)
        raise EdgeKDError(
            f"the arm64 guest did not boot within {self.boot_s:.0f} s: {_bounded.last(chr(10).join(lines))}",
            fix="run it again when this machine has a core to spare",
        )


@dataclass(frozen=True)
class Running:
    """A guest that is up; made by `Guest.up`."""

    guest: Guest
    image: images.Image
    port: int
    system: str

    @property
    def host(self) -> str:
        """Where its figures are from, in one line: kernel, page size, core, runtime."""
        return f"{self.system}, {self.guest.cpu} under QEMU, onnxruntime {versions('onnxruntime')['onnxruntime']}"

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """The runner's answer to a `footprint`, `predict` or `facts` job; its times, which mean nothing here, are None.

        Raises RuntimeCannotLoad where ONNX Runtime refuses the model, EdgeKDError where the guest's memory or
        `timeout_s` does not suffice, UsageError for `time`.
        """
        if mode not in _MODES:
            raise UsageError(
                f"an emulated machine cannot do a {mode} run: its time is the emulator's",
                fix="measure latency on the device itself",
            )
        with tempfile.TemporaryDirectory(prefix="edgekd-job-") as name:
            folder = Path(name)
            place = f"/job/{uuid.uuid4().hex}"
            sent = self._pack(folder / "sent.tar", place, mode, job)
            run = _run(mode)
            self._exchange(sent, folder / "back.tar", place, run)
            out = folder / "out"
            out.mkdir()
            try:
                _guest_tar.unpack(folder / "back.tar", out)
            except ValueError as error:
                raise no_answer(f"{run} gave no answer that can be read: {error}") from error
            answer = _answer(mode, job, out, self.guest)
            if mode == "predict":
                check_outputs(out / "outputs.npz", mode, job, answer, run)
                shutil.move(out / "outputs.npz", job["outputs"])
        return answer | ({"load_ms": None, "cold_start_ms": None} if mode == "footprint" else {})

    def ssh(self, command: str) -> list[str]:
        """The command line that runs a shell command in the guest."""
        options = {
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.image.known_hosts,
            "HostKeyAlias": "edgekd-guest",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ServerAliveInterval": 30,
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-i", str(self.image.key), *words, "-p", str(self.port), "root@127.0.0.1", command]

    def _pack(self, tar: Path, place: str, mode: str, job: dict[str, Any]) -> Path:
        """The runner, the job and every file that it names, the paths as they will be in the guest."""
        files = {name: _ONBOARD / name for name in RUNNER_FILES}

        def there(path: Any) -> Any:
            if isinstance(path, list):
                return [there(each) for each in path]
            if isinstance(path, dict):
                return {name: there(each) for name, each in path.items()}
            own = f"{len(files)}"  # a folder of its own: a graph names its external data
            files.update({f"{own}/{file.name}": file for file in external.files(Path(path))})
            return f"{place}/{own}/{Path(path).name}"

        job = job | {"mode": mode, "provider": "CPUExecutionProvider"}
        for key in ("model", "inputs"):
            if key in job:
                job[key] = there(job[key])
        if mode == "footprint":
            job["started"] = 0.0
        elif mode == "predict":
            job["outputs"] = f"{place}/out/outputs.npz"
        (tar.parent / "job.json").write_text(json.dumps(job), encoding="utf-8")
        files["job.json"] = tar.parent / "job.json"
        with tarfile.open(tar, "w") as archive:
            for name, path in files.items():
                archive.add(path.resolve(), name)
        return tar

    def _exchange(self, sent: Path, back: Path, place: str, run: str) -> None:
        """One connection: files in, the runner's process, its answer out; its code is that of what went before `rm`."""
        script = (
            f"busybox mkdir -p {place}/out && cd {place} && busybox tar x && {{ "
            f"busybox timeout {self.guest.timeout_s:.0f} python3 runner.py job.json >out/answer.json 2>out/errors.txt; "
            f"echo $? >out/code && busybox tar c out; }}; code=$?; cd /; busybox rm -rf {place}; exit $code"
        )
        with sent.open("rb") as stdin:
            try:
                done = _bounded.run(
                    self.ssh(script),
                    timeout_s=self.guest.timeout_s + 120,
                    most=_guest_tar.MOST_BACK,
                    into=back,
                    stdin=stdin,
                )
            except subprocess.TimeoutExpired as error:
                raise _too_slow(self.guest) from error
        if done.too_much:
            raise too_much(run, done.too_much, _guest_tar.MOST_BACK)
        if done.returncode != 0:
            why = _bounded.last(done.stderr) if done.stderr.strip() else "the connection ended"
            raise EdgeKDError(
                f"the arm64 guest gave no answer: {why}",
                fix=f"run it again; with a large model, give the guest more memory than {self.guest.memory_mib} MiB",
            )


def _run(mode: str) -> str:
    return f"a {mode} run in the arm64 guest"


def _answer(mode: str, job: dict[str, Any], out: Path, guest: Guest) -> dict[str, Any]:
    said = (out / "code").read_text(errors="replace").strip()
    if not said.isascii() or not said.isdecimal():
        raise no_answer(f"{_run(mode)} gave no answer that can be read: its code is {_bounded.brief(said)}")
    code = int(said)
    if code == _TIMED_OUT:
        raise _too_slow(guest)
    if code == _KILLED:
        raise EdgeKDError(
            f"the model needs more memory than the arm64 guest has: {guest.memory_mib} MiB, its system among it",
            fix="give the guest more memory, or measure on the device itself",
        )
    if code != 0:
        last = _bounded.last(_bounded.end_of(out / "errors.txt"))
        raise RuntimeCannotLoad(
            f"ONNX Runtime's process for {_run(mode)} ended with code {code}: {last}",
            fix="run the same command again; if it repeats, the model is damaged",
        )
    with (out / "answer.json").open("rb") as file:
        stdout = file.read(_bounded.MOST_ANSWER + 1)
    return answer_of(stdout, mode, job | {"started": 0.0}, run=_run(mode), runtime="ONNX Runtime on arm64")


def _too_slow(guest: Guest) -> EdgeKDError:
    return EdgeKDError(
        f"a run in the arm64 guest took longer than {guest.timeout_s:.0f} s",
        fix="look for a loop in the model, give fewer inputs, or measure on the device itself",
    )


def _free_port() -> int:
    """A port of the loopback interface that was free a moment ago; QEMU ends at once where it no longer is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
