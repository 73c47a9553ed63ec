"""A board's core without the board: the aarch64 ONNX Runtime under QEMU's user-mode emulation, for outputs.

    with Qemu(cpu="cortex-a72").up() as device:
        device.run("predict", model=..., inputs=..., outputs=..., threads=1)

What a model answers is what it answers on that core: its kernels run, instruction by instruction. How long it takes and
what it holds are the emulator's own, so such jobs are refused; how many instructions it executes is counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError, suggestion
from edgekd.core.protocols import Check, Progress
from edgekd.devices import _arm64, _counter, _sysroot
from edgekd.devices._bounded import Done, last, run
from edgekd.security.signing import read_limited, why

_LARGEST_COUNTS = 1 << 20  # bytes
_Counts = dict[str, Annotated[int, Field(ge=0)]]
_RUNNER = Path(__file__).parents[1] / "onboard" / "runner.py"
_REFUSED = {  # mode: why, and where to do it instead
    "time": ("its time is the emulator's", "measure latency on the device itself"),
    "footprint": (
        "its memory is the emulator's",
        "measure memory in the arm64 guest (`edgekd doctor --fix guest`), or on the device itself",
    ),
}
_CRASHES: dict[int, str] = {  # by signal
    signal.SIGILL: "illegal instruction",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGBUS: "bus error",
}
_ENVIRONMENT = {  # of the host's only the PATH; and no work that an emulator would take seconds for
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": f"/{_arm64.PYTHON_PACKAGES}",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True)
class Qemu:
    """An emulated `cpu`, the profile's `emulator_cpu`; a job may take `timeout_s`.

    Raises UsageError for a core that is not known, among them `max`, an invention of QEMU's with instructions that no
    board has, under which int8 kernels answered wrongly.
    """

    cpu: str = "cortex-a72"
    timeout_s: float = 1800.0

    emulated: ClassVar[str] = "user"

    def __post_init__(self) -> None:
        if self.cpu not in _sysroot.CORES:
            raise UsageError(
                f"the emulator's cpu must be a core that boards have, not {self.cpu!r}",
                fix=suggestion(self.cpu, _sysroot.CORES),
            )

    @classmethod
    def cores(cls) -> tuple[str, ...]:
        """The cores that may be asked for."""
        return tuple(_sysroot.CORES)

    @classmethod
    def available(cls) -> bool:
        """Whether this machine has the tools and the files to emulate; `edgekd doctor` says what is missing."""
        return not _arm64.missing(_sysroot.TOOLS) and _sysroot.state()[0] == "ok"

    @classmethod
    def counts(cls) -> str:
        """Why no instructions can be counted on this machine, with the way out; empty where they can."""
        return _counter.why_not()

    @classmethod
    def checks(cls) -> tuple[Check, Check]:
        """For `edgekd doctor`: the tools, and the files; looks at names alone."""
        condition, said = _sysroot.state()
        return (
            _arm64.check_tools(
                "emulator-tools",
                _sysroot.TOOLS,
                "QEMU's user-mode emulation, apt and dpkg are there",
                without="accuracy on ARM stays predicted",
            ),
            Check("emulator", condition, said, "" if condition == "ok" else _sysroot.BUILD),
        )

    @classmethod
    def build(cls, progress: Progress | None = None) -> None:
        """Fetch packages and unpack them, or go on where a killed run stopped.

        Raises EdgeKDError where a tool is missing or a package cannot be fetched, StoreError where the disk is full.
        """
        _sysroot.build_sysroot(progress)

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """One job; several are cheaper under one `up`."""
        with self.up() as device:
            return device.run(mode, **job)

    @contextlib.contextmanager
    def up(self) -> Iterator[Running]:
        """The emulator for the length of the block. Raises EdgeKDError where its tools or files are not there."""
        root = _sysroot.open_sysroot()
        version = _arm64.run(["qemu-aarch64", "--version"], "qemu-aarch64 does not run", "install qemu-user again")
        with tempfile.TemporaryDirectory(prefix="edgekd-emulator-") as place:
            _sysroot.face(Path(place), root, self.cpu)
            yield Running(self, Path(place), version.split("version ")[-1].split()[0])


@dataclass(frozen=True)
class Running:
    """An emulator that is up; made by `Qemu.up`. Several threads may run jobs at once."""

    qemu: Qemu
    root: Path
    version: str  # QEMU's

    @property
    def host(self) -> str:
        """Where its figures are from, in one line: core, emulator, runtime."""
        return f"{self.qemu.cpu} under QEMU {self.version} in user mode, onnxruntime {_arm64.runtime()}"

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """The runner's answer to a `predict`, `answers`, `facts` or `count` job.

        `count` gives, for each model, `instructions` and `classes`, both per inference, by class. Raises UsageError
        for a job whose figures would be the emulator's, RuntimeCannotLoad where ONNX Runtime refuses the model or does
        not run on this core, EdgeKDError where `timeout_s` does not suffice or no answer comes.
        """
        if mode in _REFUSED:
            reason, fix = _REFUSED[mode]
            raise UsageError(f"an emulated core cannot do a {mode} run: {reason}", fix=fix)
        if mode == "count" and job["threads"] != 1:
            raise UsageError(
                f"instructions are counted on one thread, not on {job['threads']}",
                fix="count with threads=1: more threads execute the same, and some to wait",
            )
        with tempfile.TemporaryDirectory(prefix="edgekd-job-") as folder:
            path, counted = Path(folder, "job.json"), Path(folder, "counted")
            path.write_text(json.dumps(job | {"mode": mode, "provider": "CPUExecutionProvider"}), encoding="utf-8")
            options = _counter.options(_counter.open_counter(), counted) if mode == "count" else []
            answer = self._answer(mode, job, self.python([str(_RUNNER), str(path)], options))
            return self._per_inference(answer["n"], counted) if mode == "count" else answer

    def python(self, arguments: list[str], options: Sequence[str] = ()) -> Done:
        """Run Python with these arguments on the emulated core; `options` are QEMU's. Raises as `run` does."""
        # setpriv has the kernel end it when this process dies, however it dies; a crash leaves no core file
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "prlimit",
            "--core=0",
            "qemu-aarch64",
            "-L",
            str(self.root),
            "-cpu",
            self.qemu.cpu,
            *options,
            str(self.root / _sysroot.PYTHON),
            "-S",
            "-s",
            *arguments,
        ]
        try:
            done = run(command, timeout_s=self.qemu.timeout_s, env=_ENVIRONMENT | {"PATH": os.environ["PATH"]})
        except subprocess.TimeoutExpired as error:
            raise EdgeKDError(
                f"a run on the emulated {self.qemu.cpu} took longer than {self.qemu.timeout_s:.0f} s",
                fix="give fewer inputs, look for a loop in the model, or run it on the device itself",
            ) from error
        if done.too_much:
            from edgekd.devices._answer import too_much

            raise too_much(f"a run on the emulated {self.qemu.cpu}", done.too_much)
        if "Could not load plugin" in done.stderr:
            raise EdgeKDError(
                f"QEMU {self.version} does not take the instruction counter",
                fix=f"run `{_sysroot.BUILD}`, which says why",
            )
        if "unable to find CPU model" in done.stderr:
            raise EdgeKDError(f"QEMU {self.version} knows no {self.qemu.cpu}", fix="install a newer QEMU")
        if crash := _CRASHES.get(-done.returncode):
            raise RuntimeCannotLoad(
                f"onnxruntime {_arm64.runtime()} does not run on {self.qemu.cpu}: {crash}",
                fix="install another version of onnxruntime; the profile's known_bad_ort is the place to note this one",
            )
        return done

    def _answer(self, mode: str, job: dict[str, Any], done: Done) -> dict[str, Any]:
        from edgekd.devices._answer import answer_of, check_outputs

        said = f"a {mode} run on the emulated {self.qemu.cpu}"
        if done.returncode != 0:
            raise EdgeKDError(
                f"{said} ended with code {done.returncode}: {last(done.stderr)}",
                fix=f"run the same command again; if it repeats, run `{_sysroot.BUILD}`",
            )
        answer = answer_of(done.stdout, mode, job, run=said, runtime=f"ONNX Runtime on {self.qemu.cpu}")
        if "outputs" in job:
            check_outputs(Path(job["outputs"]), mode, job, answer, said)
        return answer

    def _per_inference(self, rows: dict[str, int], counted: Path) -> dict[str, Any]:
        """What the counter wrote, a line a model in the runner's order, over each model's rows."""
        from edgekd.devices._answer import held, parse

        what = f"the instruction counter of {self.qemu.cpu} gave no counts that can be used"
        answer = {}
        try:
            lines = [parse(line) for line in read_limited(counted, _LARGEST_COUNTS).splitlines()]
        except (OSError, ValueError) as error:
            raise EdgeKDError(f"{what}: {why(error)}", fix=f"run `{_sysroot.BUILD}`") from error
        held(lines, Annotated[list[_Counts], Field(min_length=len(rows), max_length=len(rows))], what)
        for (name, n), line in zip(rows.items(), lines, strict=True):
            classes = {kind: count / n for kind, count in line.items()}
            answer[name] = {"instructions": sum(classes.values()), "classes": classes}
        return answer
