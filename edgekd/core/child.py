"""Call a function in a fresh process: `call("edgekd.sizing:search", {...})`.

Used where the parent must stay free of torch, or must not be harmed by a foreign model: the child has its
own memory, and a time limit. Arguments and result are JSON; an EdgeKDError comes back as itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.core import errors
from edgekd.core.quiet import hush


def call(
    function: str, arguments: dict[str, Any], *, timeout_s: float, said: Callable[[str], None] = lambda line: None
) -> Any:
    """The function's result. Lines that it prints are passed to `said` as they come.

    Raises the function's own EdgeKDError; EdgeKDError where the child dies or outlives `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        job = Path(folder, "job.json")
        job.write_text(json.dumps({"function": function, "arguments": arguments}), encoding="utf-8")
        package_root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH")))),
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "edgekd.core.child", str(job)]
        with (
            Path(folder, "stderr").open("w+b") as err,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=err, env=environment, text=True, start_new_session=True
            ) as child,
        ):
            timer = threading.Timer(timeout_s, _kill, [child])
            timer.start()
            try:
                for line in child.stdout or ():
                    said(line.rstrip())
                child.wait()
            except BaseException:
                _kill(child)
                raise
            finally:
                timed_out = not timer.is_alive() and child.returncode != 0
                timer.cancel()
            err.seek(0)
            last = err.read().decode(errors="replace").strip().splitlines()[-3:]
        result = Path(folder, "result.json")
        if not result.exists():
            why = f"took longer than {timeout_s:.0f} s" if timed_out else f"ended with code {child.returncode}"
            raise errors.EdgeKDError(
                f"the child process for {function} {why}: {' | '.join(last) or 'it said nothing'}",
                fix="close programs that use much memory and run the same command again: finished stages are kept",
            )
        answer = json.loads(result.read_text(encoding="utf-8"))
    if "error" in answer:
        raise getattr(errors, answer["kind"])(answer["error"], fix=answer["fix"])
    return answer["result"]


def _kill(child: subprocess.Popen[str]) -> None:
    """End the child and whatever it started: a grandchild would hold the pipe open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _main(job: Path) -> None:
    hush()
    request = json.loads(job.read_text(encoding="utf-8"))
    module, _, name = request["function"].partition(":")
    try:
        answer = {"result": getattr(importlib.import_module(module), name)(**request["arguments"])}
    except errors.EdgeKDError as error:
        answer = {"kind": type(error).__name__, "error": error.message, "fix": error.fix}
    partial = job.with_name("result.tmp")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.replace(job.with_name("result.json"))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
