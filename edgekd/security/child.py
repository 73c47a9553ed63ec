"""Call a function in a fresh process: `call("edgekd.sizing:search", {...})`.

Used where the parent must stay free of torch, or must not be harmed by a foreign model: the child has its
own memory, and a time limit. Arguments and result are JSON; an EdgeKDError comes back as itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from edgekd.core import errors
from edgekd.core.quiet import silence_libraries

_MOST_RESULT = 256 << 20  # bytes of JSON that a child may answer with
_MOST_LINE = 1 << 16  # characters that are taken as one line of its output
_LAST = 8192  # bytes of what it said at its end
_AGAIN = "close programs that use much memory and run the same command again: finished stages are kept"
_REPORT = "run the same command again: finished stages are kept; where it ends so again, report it with these words"
_SIGNALS = {
    signal.SIGSEGV: "it crashed", signal.SIGBUS: "it crashed", signal.SIGILL: "it crashed",
    signal.SIGFPE: "it crashed", signal.SIGABRT: "it gave up",
}  # fmt: skip
_NO_MEMORY = (
    "MemoryError",
    "bad_alloc",
    "can't allocate memory",
    "Cannot allocate memory",
    "Failed to allocate memory",
)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Limits:
    """What a child may use: MiB of memory (its data: heap, stacks and private mappings), and seconds of CPU.

    No file that it writes may be larger than its memory.
    """

    memory_mib: int
    cpu_s: int


class ChildError(errors.EdgeKDError):
    """A child that ended without an answer; `limit` says by what: memory, cpu, time, signal, code or answer.

    `why` is the message without the function's name, for whoever says what the child was at.
    """

    def __init__(self, message: str, *, fix: str, limit: str = "code", why: str = "") -> None:
        super().__init__(message, fix=fix)
        self.limit, self.why = limit, why or message


def call(
    function: str,
    arguments: dict[str, Any],
    *,
    timeout_s: float,
    said: Callable[[str], None] = lambda line: None,
    limits: Limits | None = None,
) -> Any:
    """The function's result. Lines that it prints are passed to `said` as they come.

    Raises the function's own EdgeKDError; ChildError where the child dies, outlives `timeout_s` or meets its `limits`.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        job = Path(folder, "job.json")
        request = {"function": function, "arguments": arguments, "limits": asdict(limits) if limits else None}
        job.write_text(json.dumps(request | {"parent": os.getpid()}), encoding="utf-8")
        package_root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH")))),
            "TOKENIZERS_PARALLELISM": "false",
        }
        # -P: the folder that the command is run in may be a stranger's, with a numpy.py in it
        command = [sys.executable, "-P", "-m", "edgekd.security.child", str(job)]
        timed_out = threading.Event()
        with (
            Path(folder, "stderr").open("w+b") as err,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=environment, text=True,
                errors="replace", start_new_session=True,
            ) as child,
        ):  # fmt: skip
            timer = threading.Timer(timeout_s, _end, [child, timed_out])
            timer.start()
            try:
                while child.stdout and (line := child.stdout.readline(_MOST_LINE)):
                    said(line.rstrip())
                child.wait()
            except BaseException:
                _kill(child)
                raise
            finally:
                timer.cancel()
            last = _tail(err)
        answer = _answer(Path(folder, "result.json"))
    if answer is None or child.returncode:
        seconds = timeout_s if timed_out.is_set() else None
        raise _death(function, child.returncode, seconds, limits, last)
    if "error" in answer:
        raise _own(answer)
    return answer["result"]


def _answer(file: Path) -> dict[str, Any] | None:
    """What the child wrote; None where that is nothing that can be read."""
    try:
        if file.stat().st_size > _MOST_RESULT:
            return None
        answer = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(answer, dict) and ("result" in answer or {"kind", "error", "fix"} <= answer.keys())
    return answer if whole else None


def _own(answer: dict[str, Any]) -> errors.EdgeKDError:
    """The error that the child raised, of its own kind where that is one of ours."""
    if answer["kind"] == ChildError.__name__:
        return ChildError(str(answer["error"]), fix=str(answer["fix"]), limit=str(answer.get("limit", "code")))
    kind = getattr(errors, str(answer["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.EdgeKDError)):
        kind = errors.EdgeKDError
    return kind(str(answer["error"]), fix=str(answer["fix"]))


def _death(
    function: str, code: int, timed_out_s: float | None, limits: Limits | None, last: list[str]
) -> errors.EdgeKDError:
    """In plain words, which limit the child met, or how else it ended."""
    number = signal.Signals(-code) if code < 0 and -code in set(signal.Signals) else None
    words = " | ".join(last)
    if timed_out_s is not None:
        why, limit = f"took longer than {timed_out_s:.0f} s", "time"
    elif number == signal.SIGXCPU:
        why, limit = f"took more than {f'{limits.cpu_s} s' if limits else 'its share'} of CPU time", "cpu"
    elif number == signal.SIGKILL:
        why, limit = "was killed, most likely because the machine ran out of memory", "memory"
    elif any(word in words for word in _NO_MEMORY):
        why = f"needs more than the {limits.memory_mib} MiB of memory it may use" if limits else "ran out of memory"
        limit = "memory"
    elif number is not None:
        why, limit = f"ended by {number.name}: {_SIGNALS.get(number, 'something stopped it')}", "signal"
    elif code == 0:
        why, limit = "gave no answer that can be read", "answer"
    else:
        why, limit = f"ended with code {code}", "code"
    if limit in ("time", "signal", "code", "answer"):
        why += f": {words or 'it said nothing'}"
    fix = _AGAIN if limit == "memory" else _REPORT
    return ChildError(f"the child process for {function} {why}", fix=fix, limit=limit, why=f"its child process {why}")


def _tail(stream: IO[bytes]) -> list[str]:
    """The last three lines of what it said."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _LAST))
    return [line[:300] for line in stream.read().decode(errors="replace").strip().splitlines()[-3:]]


def _end(child: subprocess.Popen[str], timed_out: threading.Event) -> None:
    timed_out.set()
    _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    """End the child and whatever it started: a grandchild would hold the pipe open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _stay_within(limits: Limits) -> None:
    """Set this process's limits; what it starts inherits them."""
    size = limits.memory_mib << 20
    for kind, most in (
        (resource.RLIMIT_DATA, (size, size)),  # AS would count what is only mapped: libraries, weights on disk
        (resource.RLIMIT_FSIZE, (size, size)),
        (resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1)),
        (resource.RLIMIT_CORE, (0, 0)),
    ):
        highest = resource.getrlimit(kind)[1]
        capped = [one if highest == resource.RLIM_INFINITY else min(one, highest) for one in most]
        resource.setrlimit(kind, (capped[0], capped[1]))
    with contextlib.suppress(OSError):  # not on every system; where memory runs out, the child goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _die_with(parent: int) -> None:
    """End this process when its parent ends: nobody is left to take the answer."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            sys.exit(1)


def _main(job: Path) -> None:
    request = json.loads(job.read_text(encoding="utf-8"))
    _die_with(request["parent"])
    limits = Limits(**request["limits"]) if request["limits"] else None
    if limits:
        _stay_within(limits)
    silence_libraries()
    module, _, name = request["function"].partition(":")
    answer: dict[str, Any]
    try:
        answer = {"result": getattr(importlib.import_module(module), name)(**request["arguments"])}
        text = json.dumps(answer)
    except errors.EdgeKDError as error:
        answer = {"kind": type(error).__name__, "error": error.message, "fix": error.fix}
        answer |= {"limit": error.limit} if isinstance(error, ChildError) else {}
        text = json.dumps(answer)
    except MemoryError:
        sys.exit("MemoryError")  # the parent finds the words
    partial = job.with_name("result.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(job.with_name("result.json"))


if __name__ == "__main__":
    importlib.import_module("edgekd.security.child")._main(
        Path(sys.argv[1])
    )  # whose classes are those that others import
