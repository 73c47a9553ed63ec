"""The system's `ssh` program: its command line, a session with `board.py` at the far end, what its refusals mean."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.core.receipt import Words
from edgekd.devices._answer import MOST_OUTPUTS, Form, held, parse
from edgekd.devices._bounded import MOST_ANSWER, Ends, last
from edgekd.onboard import board

LEAST_PYTHON = (3, 9)
_CONNECT_S = 10
_END_S = 5.0  # that ssh may take to end once its far end has gone
_ANSWER_S = 60.0  # for a board's first word
_LONGEST_LINE = 1 << 16  # bytes of what a login shell prints that are taken as one line
_NOISE_LINES = 1000  # that a login shell may print before the board's first word
# exits 3 where the Python is too old to read the program that follows on stdin
_BOOT = (
    f"import sys; sys.version_info < {LEAST_PYTHON} and (sys.stderr.write(sys.version.split()[0]), sys.exit(3)); "
    "exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"
)
_TOO_OLD, _NOT_FOUND, _NOT_RUN, _SSH_FAILED = 3, 127, 126, 255
_Size = Annotated[int, Field(ge=0, le=MOST_OUTPUTS)]
_Mib = Annotated[float, Field(ge=0, lt=1e12)]


class _Settled(Form):
    folder: Annotated[str, Field(max_length=4096, pattern=r"^/\P{Cc}*$")]


class _CannotWrite(Form):
    cannot_write: Words
    place: Words
    free_mib: _Mib


_HAND = "then connect once by hand with `{ssh}`"


class Lost(EdgeKDError):
    """No connection, for a reason that may pass: the board starts again, the network is down, it is not there yet."""


@dataclass(frozen=True)
class Address:
    """Where `ssh` connects to. What is None is as the user's ssh configuration (or the file `config`) has it."""

    host: str
    user: str | None = None
    port: int | None = None
    config: Path | None = None

    @property
    def url(self) -> str:
        """As users write it: `ssh://pi@rpi4:2222`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{f'{self.user}@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    def words(self) -> list[str]:
        """The command that logs in by hand."""
        config = ["-F", str(self.config)] if self.config else []
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", *config, *port, f"{self.user}@{self.host}" if self.user else self.host]

    def command(self) -> list[str]:
        """The command line whose far end is a Python that runs `board.py`, sent to it first of all.

        Raises EdgeKDError without `ssh`, UsageError for an ssh configuration that it does not understand.
        """
        if shutil.which("ssh") is None:
            raise EdgeKDError("there is no ssh program here", fix="run `apt-get install openssh-client`")
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": _CONNECT_S,
            "ServerAliveInterval": 15,
            "ServerAliveCountMax": 4,
            "LogLevel": "ERROR",
            "ControlMaster": "no",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "RemoteCommand": "none",
        }
        if self._trusts_anyone():
            options["StrictHostKeyChecking"] = "accept-new"  # new boards as the user wishes, changed ones never
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        ssh, *rest = self.words()
        return [ssh, "-T", *words, *rest, f"exec python3 -c {shlex.quote(_BOOT)}"]

    def _trusts_anyone(self) -> bool:
        """Whether the user's configuration takes any key of a host, even one that changed."""
        ssh, *rest = self.words()
        asked = subprocess.run([ssh, "-G", *rest], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            raise UsageError(
                f"ssh refuses its configuration: {_last(asked.stderr)}",
                fix="correct that file; `ssh -G` followed by the host checks it",
            )
        return bool(re.search(r"^stricthostkeychecking (false|no|off)$", asked.stdout, re.MULTILINE))


class Session:
    """One connection: requests go to `board.py`, answers come back. Ends what it started on the board when closed.

    Raises, at any step, Lost where the connection is gone and EdgeKDError where trying again would not help.
    """

    def __init__(self, address: Address, remove: Iterable[str] = ()) -> None:
        self.address = address
        command = address.command()
        # a session of its own: Ctrl-C reaches us alone, and we end it
        self._ssh = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._ssh.stdin is not None
        assert self._ssh.stdout is not None
        assert self._ssh.stderr is not None
        self._to, self._from = self._ssh.stdin, self._ssh.stdout
        self._errors = Ends(self._ssh.stderr, self._ssh.kill)
        self.folder = ""
        try:
            program = Path(board.__file__).read_bytes()
            with self._watched(_ANSWER_S):
                self._send(f"{len(program)}\n".encode() + program)
                if not any(self._from.readline(_LONGEST_LINE).endswith(board.MARK) for _ in range(_NOISE_LINES)):
                    raise self._ended(met=False)
            settled = self.ask({"do": "settle", "remove": list(remove)})
            self.folder = self.held(settled, _Settled)["folder"]
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        request: dict[str, Any],
        files: dict[str, Path] | None = None,
        *,
        timeout_s: float = 600.0,
        outputs: Path | None = None,
    ) -> dict[str, Any]:
        """The board's answer to a request; `files` go with it, by name; what it outputs is written to `outputs`."""
        there = files or {}
        sizes = [(name, path.stat().st_size) for name, path in there.items()]
        with self._watched(timeout_s):
            self._send(json.dumps(request | {"files": sizes}).encode() + b"\n")
            for path in there.values():
                with path.open("rb") as file:
                    while piece := file.read(1 << 20):
                        self._send(piece)
            answer = self._line()
            if "outputs" in answer:
                self._bring(held(answer["outputs"], _Size, f"{self._who} told no size of its outputs"), outputs)
        if "cannot_write" in answer:
            self.held(answer, _CannotWrite)
            wanted_mib = sum(size for _, size in sizes) / 2**20
            raise disk_full(self.address.url, wanted_mib=wanted_mib, **answer)
        return answer

    def held(self, answer: dict[str, Any], form: Any) -> dict[str, Any]:
        """The answer where it has that form. Raises EdgeKDError that names the board."""
        values: dict[str, Any] = held(answer, form, f"{self._who} gave no answer that can be used")
        return values

    @property
    def _who(self) -> str:
        return f"the board {self.address.url}"

    def _line(self) -> dict[str, Any]:
        line = self._from.readline(MOST_ANSWER + 1)
        if not line.endswith(b"\n") and len(line) <= MOST_ANSWER:
            raise self._ended()
        try:
            return parse(line)
        except ValueError as error:
            held(None, str, f"{self._who} gave no answer that can be read ({error})")
            raise

    def _bring(self, size: int, outputs: Path | None) -> None:
        """Read so many bytes, into the file where there is one."""
        with outputs.open("wb") if outputs else contextlib.nullcontext() as file:
            while size:
                piece = self._from.read(min(size, 1 << 20))
                if not piece:
                    raise self._ended()
                size -= len(piece)
                if file:
                    file.write(piece)

    def close(self) -> None:
        """End the connection; the board kills what works for it and removes its folder before it lets go."""
        with contextlib.suppress(OSError):
            self._to.close()
        try:
            self._ssh.wait(timeout=20)
        except subprocess.TimeoutExpired:
            pass  # the network is gone; the board's own end of it will notice
        finally:
            self._ssh.kill()
            self._ssh.wait()
            self._from.close()
            self._errors.join(timeout=5)
            if self._ssh.stderr:
                self._ssh.stderr.close()

    @contextlib.contextmanager
    def _watched(self, timeout_s: float) -> Iterator[None]:
        """Ends the connection where what is done in this block takes longer: reading then ends, too."""
        watch = threading.Timer(timeout_s, self._ssh.kill)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _send(self, content: bytes) -> None:
        try:
            self._to.write(content)
            self._to.flush()
        except OSError as error:  # a broken pipe
            raise self._ended(met=bool(self.folder)) from error

    def _ended(self, *, met: bool = True) -> EdgeKDError:
        """Why the session is over; `met`: whether the board had answered before."""
        with contextlib.suppress(OSError):
            self._to.close()
        try:
            code = self._ssh.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:  # its far end says nothing more, and stays
            self._ssh.kill()
            code = self._ssh.wait()
        said = self._errors.text()
        if met:
            return Lost(f"the connection to {self.address.url} was lost: {_last(said)}", fix=_REACH)
        if code == _SSH_FAILED:
            return refusal(said, self.address)
        return _no_python(code, said, self.address)


def refusal(said: str, address: Address) -> EdgeKDError:
    """What OpenSSH means, where it gave up before the board answered: Lost where a later try may succeed."""
    by_hand = _HAND.format(ssh=shlex.join(address.words()))
    if "IDENTIFICATION HAS CHANGED" in said:
        where = re.search(r"Offending \S+ key in (.+):(\d+)", said)
        line = f"line {where[2]} of {where[1]}" if where else "the known_hosts file"
        removes = re.search(r"ssh-keygen .*-R .+", said)
        command = removes[0].strip() if removes else f"ssh-keygen -R {shlex.quote(address.host)}"
        return EdgeKDError(
            f"the host key of {address.url} is not the one in {line}: another machine answers, or this is an attack",
            fix=f"only if you know that the board was set up anew: run `{command}`, {by_hand} and compare the new key",
        )
    if "Host key verification failed" in said or "requested strict checking" in said:
        return EdgeKDError(
            f"ssh does not know the host key of {address.url}",
            fix=f"make sure which board it is, {by_hand} and accept its key",
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return EdgeKDError(
            f"{address.url} lets nobody in with the keys that ssh has here: {_last(said)}",
            fix="add your public key there with `ssh-copy-id`, or name the user and the key in ~/.ssh/config; "
            "passwords are never asked for",
        )
    if "Could not resolve hostname" in said:
        return Lost(
            f"no machine is called {address.host!r}: {_last(said)}",
            fix="check its spelling, give its IP address, or name it in ~/.ssh/config",
        )
    if "Connection refused" in said:
        return Lost(
            f"{address.url} refuses connections: nothing listens there",
            fix="start its ssh server (`systemctl enable --now ssh` on the board), or name the right port",
        )
    if re.search(r"timed out|No route to host|unreachable|Host is down", said):
        return Lost(f"{address.url} cannot be reached: {_last(said)}", fix=_REACH)
    return Lost(f"ssh could not connect to {address.url}: {_last(said)}", fix=f"see what is wrong, {by_hand}")


def disk_full(url: str, *, cannot_write: str, place: str, free_mib: float, wanted_mib: float = 0.0) -> EdgeKDError:
    """The refusal of a board that cannot write what it was sent, or what a job has it write."""
    folder = place.partition(f"/{board.PREFIX}")[0]
    wanted = f"{wanted_mib:.0f} MiB " if wanted_mib >= 1 else ""
    return EdgeKDError(
        f"cannot write {wanted}to {folder} of {url}: {cannot_write}, {free_mib:.0f} MiB free",
        fix=f"free space in {folder} there, or have its ssh server name another folder (`SetEnv TMPDIR=...` in its "
        "sshd_config)",
    )


def _no_python(code: int, said: str, address: Address) -> EdgeKDError:
    least = ".".join(map(str, LEAST_PYTHON))
    if code == _TOO_OLD:
        return EdgeKDError(
            f"the python3 of {address.url} is {_last(said)}; edgekd's runner needs {least} or newer",
            fix="install a newer system there, or make `python3` of its PATH a newer one",
        )
    if code in (_NOT_FOUND, _NOT_RUN) or re.search(r"not found", said, re.IGNORECASE):
        return EdgeKDError(
            f"there is no python3 on {address.url}: {_last(said)}",
            fix=f"install Python {least} or newer there (`apt-get install python3`)",
        )
    return EdgeKDError(
        f"{address.url} let us in and gave no answer (code {code}): {_last(said)}",
        fix=f"see whether `{shlex.join(address.words())} python3 --version` works",
    )


def _last(said: str) -> str:
    return last(said).removeprefix("ssh: ")


_REACH = "see that the board runs and that this machine reaches it (`ping`), then run the same command again"
