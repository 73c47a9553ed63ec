"""Any Linux board that `ssh` reaches: the runner in a fresh process there, and nothing left behind.

    with Ssh.at("ssh://pi@rpi4").up() as device:
        device.run("time", models={...}, threads=1, rounds=5, seed=0)

The board needs python3 with numpy and onnxruntime. One connection serves all jobs of an `up`; what several jobs use is
sent once; where the connection is lost, the job at work is done again on a new one.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from edgekd.core import external
from edgekd.core.digests import file_sha256
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.devices import _board_packages
from edgekd.devices._answer import Form, Identity, answer_of, check_outputs
from edgekd.devices._bounded import last
from edgekd.devices._openssh import Address, Lost, Session, disk_full
from edgekd.onboard import RUNNER_FILES

_ONBOARD = Path(__file__).parents[1] / "onboard"
_PAUSES_S = (1.0, 2.0, 5.0, 12.0, 25.0)  # before each new connection: a board that starts again is back by then
_GRACE_S = 120.0  # for sending files and bringing outputs back, beside the job's own time
_Path = Annotated[str, Field(max_length=4096, pattern=r"^\P{Cc}*$")]


class _Told(Form):
    identity: Identity
    libc: list[_Path] | tuple[_Path, ...]
    folder: _Path
    installed: dict[_Path, _Path]


class _Installed(Form):
    installed: _Path


class _Job(Form):
    code: int
    over: bool
    said: str
    outputs: int
    errors: Annotated[str, Field(max_length=100000)]
    free_mib: Annotated[float, Field(ge=0, lt=1000000000000.0)]


_KILLED, _ILLEGAL = -9, -4  # a process's code where the kernel ended it
_WRITE = "write ssh://host, ssh://user@host or ssh://user@host:port"


class NoRuntime(EdgeKDError):
    """The board's Python cannot load numpy or onnxruntime."""


@dataclass(frozen=True)
class Ssh:
    """A board at `host`; user and port are those of the user's ssh configuration (or the file `config`) where None.

    `install` allows onnxruntime and numpy to be put into the user's cache folder there, where its python3 cannot load
    them: onnxruntime `ort_version`; where None this host's, or the newest before it that fits. `timeout_s`: of a job.
    `say` is told when a connection was lost and is made anew.
    Raises UsageError for a host or user that is no name, such as one that ssh would read as an option.
    """

    host: str
    user: str | None = None
    port: int | None = None
    install: bool = False
    ort_version: str | None = None
    config: Path | None = None
    provider: str = "CPUExecutionProvider"
    timeout_s: float = 1800.0
    say: Callable[[str], None] = field(default=lambda line: None, repr=False, compare=False)

    emulated: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name in (self.host, self.user):
            if name is not None and not re.fullmatch(r"(?!-)[\w.:%-]+", name):
                raise UsageError(f"{name!r} is no name of a board or of a user there", fix=_WRITE)

    @classmethod
    def at(cls, url: str, **options: Any) -> Ssh:
        """The board of a URL, `ssh://user@host:port`; user and port may be left out. Raises UsageError."""
        try:
            parts = urlsplit(url)
            if parts.password is not None:
                raise UsageError(
                    "an address of a board holds no password: it would show in receipts and logs",
                    fix="add your public key there with `ssh-copy-id`, and " + _WRITE,
                )
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is no address of a board: {error}", fix=_WRITE) from error
        bare = parts.hostname or ""
        at = parts.netloc.lower().rfind(bare)
        host = parts.netloc[at : at + len(bare)]  # as written: ssh's configuration tells capitals from small letters
        if parts.scheme != "ssh" or not host or parts.path.strip("/") or parts.query or parts.fragment or port == 0:
            raise UsageError(f"{url!r} is no address of a board", fix=_WRITE)
        return cls(host=host, user=parts.username or None, port=port, **options)

    @property
    def address(self) -> Address:
        """What the ssh program is told."""
        return Address(self.host, self.user, self.port, self.config)

    @contextlib.contextmanager
    def up(self) -> Iterator[Board]:
        """A connection for the length of the block. Raises EdgeKDError where there is none or the board lacks packages.

        When the block ends, however it ends, the board kills what works for it and removes its folder.
        """
        with self._connected() as board:
            board.ready()
            yield board

    def identity(self) -> dict[str, Any]:
        """What the board is, packages or not: `machine.identity()`, and `ort_version`, None where it loads none."""
        with self._connected() as board:
            try:
                board.ready()
            except NoRuntime:
                return {**board.told["identity"], "ort_version": None}
            return board.facts

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Board]:
        board = Board(self)
        try:
            board.connect()
            yield board
        finally:
            board.close()


@dataclass
class Board:
    """A board that is up; made by `Ssh.up`."""

    ssh: Ssh
    told: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    _session: Session | None = None
    _packages: str | None = None
    _left: list[str] = field(default_factory=list)
    _sent: set[str] = field(default_factory=set)

    @property
    def host(self) -> str:
        """Where its figures are from, in one line: core, architecture, runtime, address."""
        told = self.facts
        core = told["cpu"] if told["microarch"] in told["cpu"] else f"{told['cpu']}, {told['microarch']}"
        return (
            f"{core} ({told['arch']}, {told['cores']} cores), onnxruntime {told['ort_version']}, {self.ssh.address.url}"
        )

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """The runner's answer to a job of any mode, done again where the connection is lost.

        Raises RuntimeCannotLoad where ONNX Runtime refuses the model, EdgeKDError where the board fails otherwise.
        """
        for pause_s in _PAUSES_S:
            try:
                return self._once(mode, job)
            except Lost as lost:
                self.ssh.say(f"{lost.message}; trying again in {pause_s:.0f} s")
                self.close()
                time.sleep(pause_s)
        try:
            return self._once(mode, job)
        except Lost as lost:
            raise EdgeKDError(
                f"{lost.message}; it did not come back for a {mode} run within {sum(_PAUSES_S):.0f} s of trying",
                fix=lost.fix,
            ) from lost

    def connect(self) -> Session:
        """The connection, made where there is none; the first thing that it does is to remove what a lost one left."""
        if self._session is None:
            self._session = session = Session(self.ssh.address, self._left)
            self._left = [session.folder]
            self._sent.clear()
            told = session.ask({"do": "files"}, {name: _ONBOARD / name for name in RUNNER_FILES})
            self.told = session.held(told, _Told)
        return self._session

    def close(self) -> None:
        """End the connection, where there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def ready(self) -> None:
        """See that ONNX Runtime loads there, with packages that were put there where its own fail. Raises NoRuntime."""
        try:
            self.facts = self.run("facts")
        except NoRuntime:
            installed: dict[str, str] = self.told["installed"]  # the folder, by the version in it: one or none
            fits = [place for version, place in installed.items() if self.ssh.ort_version in (None, version)]
            if not fits and not self.ssh.install:
                raise
            self._packages = fits[0] if fits else self._install()
            self.facts = self.run("facts")

    def _install(self) -> str:
        with tempfile.TemporaryDirectory(prefix="edgekd-wheels-") as folder:
            wheels = _board_packages.fetch(self.told, self.ssh.ort_version, Path(folder))
            session = self.connect()
            answer = session.ask({"do": "install"}, {path.name: path for path in wheels})
        place: str = session.held(answer, _Installed)["installed"]
        return place

    def _once(self, mode: str, job: dict[str, Any]) -> dict[str, Any]:
        session = self.connect()
        outputs = job.get("outputs")
        there, files = _translated(job, session.folder)
        fresh = {name: path for name, path in files.items() if name not in self._sent}
        request = {
            "do": "job",
            "job": {"provider": self.ssh.provider, **there, "mode": mode},
            "packages": self._packages,
            "timeout_s": self.ssh.timeout_s,
        }
        answer = session.ask(
            request, fresh, timeout_s=self.ssh.timeout_s + _GRACE_S, outputs=Path(outputs) if outputs else None
        )
        self._sent |= set(fresh)
        said = self._judged(mode, job, session.held(answer, _Job))
        if outputs:
            check_outputs(Path(outputs), mode, job, said, f"a {mode} run on {self.ssh.address.url}")
        return said

    def _judged(self, mode: str, job: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        """What the runner said. Raises what the way in which it ended means."""
        url, code, errors = self.ssh.address.url, answer["code"], answer["errors"]
        refused = answer["said"][:2000] if '"refused"' in answer["said"][:2000] else ""
        if answer["over"]:
            raise EdgeKDError(
                f"a {mode} run on {url} took longer than {self.ssh.timeout_s:.0f} s",
                fix="look for a loop in the model, or give fewer inputs",
            )
        if "No space left" in refused + errors or (code > 0 and answer["free_mib"] < 1):
            raise disk_full(
                url, cannot_write="No space left on device", place=self.told["folder"], free_mib=answer["free_mib"]
            )
        if code == _KILLED or re.search(r"MemoryError|bad_alloc|Failed to allocate memory", refused + errors):
            whole = self.told["identity"]["memory_mib"]
            raise EdgeKDError(
                f"a {mode} run needs more memory than {url} has left; it has {whole} MiB in all",
                fix="end other programs there, or take a smaller model",
            )
        if code != 0 and (mode == "facts" or "import onnxruntime" in errors or "import numpy" in errors):
            raise _no_runtime(url, code, errors)
        if code != 0:
            raise RuntimeCannotLoad(
                f"ONNX Runtime's process for a {mode} run on {url} ended with code {code}: {last(errors)}",
                fix="run the same command again; if it repeats, the model or the onnxruntime there is damaged",
            )
        runtime = f"ONNX Runtime {self.facts.get('ort_version', '')} on {url}"
        return answer_of(answer["said"].encode(), mode, job, run=f"a {mode} run on {url}", runtime=runtime)


def _translated(job: dict[str, Any], folder: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """A job with the paths that its files will have there, and those files by name: one name for one content."""
    files: dict[str, Path] = {}  # by the names that they will have there

    def there(path: Any) -> Any:
        if isinstance(path, list):
            return [there(each) for each in path]
        if isinstance(path, dict):
            return {name: there(each) for name, each in path.items()}
        own = Path(path)
        if not external.has_data(own):
            name = file_sha256(own) + own.suffix
            files[name] = own
        else:  # which the graph names: both keep their names, in a folder of their own
            place = external.graph_sha256(own)
            files.update({f"{place}/{file.name}": file for file in external.files(own)})
            name = f"{place}/{own.name}"
        return f"{folder}/{name}"

    def spec(values: dict[str, Any]) -> dict[str, Any]:
        return {key: there(value) if key in ("model", "inputs") else value for key, value in values.items()}

    made = spec(job)
    if "models" in job:
        made["models"] = {name: spec(values) for name, values in job["models"].items()}
    if "outputs" in job:
        made["outputs"] = f"{folder}/out/outputs{Path(job['outputs']).suffix}"
    return made, files


def _no_runtime(url: str, code: int, errors: str) -> NoRuntime:
    """Why a Python there cannot load the packages."""
    end = last(errors)
    fix = "let edgekd put them there with `--install`: into ~/.cache/edgekd, beside the system's own"
    if missing := re.search(r"No module named '(numpy|onnxruntime)", errors):
        return NoRuntime(f"the python3 of {url} has no {missing[1]}", fix=fix)
    if newer := re.search(r"version [`'](GLIBC\w*_[\d.]+)' not found", errors):
        return NoRuntime(
            f"onnxruntime on {url} wants {newer[1]}, which the C library there does not have",
            fix="install a release that was built for an older system, or a newer system on the board",
        )
    if re.search(r"Error relocating|Error loading shared library|ld-linux", errors):
        return NoRuntime(
            f"onnxruntime on {url} was built for glibc, and the system there has another C library (musl): {end}",
            fix="install a system with glibc there, such as Debian: onnxruntime has no wheels for musl",
        )
    if code == _ILLEGAL or "baseline optimizations" in errors:
        return NoRuntime(
            f"onnxruntime on {url} has instructions that its core does not know, and dies of them on import",
            fix="install another release there; `known_bad_ort` of the target's profile lists those that fail",
        )
    return NoRuntime(f"the python3 of {url} cannot load onnxruntime (code {code}): {end}", fix=fix)
