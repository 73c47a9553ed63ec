"""Does edgekd's jobs on a board: the far end of `edgekd/devices/ssh.py`, on the standard library alone.

It travels as text to a `python3 -c` of the board, answers on stdout, and lives as long as its stdin: when the
connection ends, however it ends, the job at work is killed and the folder of the connection is removed. What comes in
is a line of JSON, `{"do": ..., "files": [[name, size], ...], ...}`, and the bytes of those files, end to end; what goes
out is a line of JSON and, where it says `outputs`, as many bytes.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = b"edgekd board:\n"  # what a login shell prints comes before it
PREFIX = "edgekd-board-"
_PIECE = 1 << 20
_DAY_S = 24 * 3600
_MOST_SAID = 33 << 20  # bytes of a runner's answer, a MiB more than is taken of it
_IN, _OUT = sys.stdin.buffer, sys.stdout.buffer


def main() -> None:
    """Serve one connection from its first byte to its last."""
    _OUT.write(MARK)
    _OUT.flush()
    made: list[Path] = []

    def settle(request: dict[str, Any]) -> dict[str, Any]:
        answer = _settle(request)
        made.append(Path.cwd())
        return answer

    does: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "settle": settle,
        "files": _identity,
        "job": _job,
        "install": _install,
    }
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))  # by way of what follows
    try:
        with contextlib.suppress(EOFError, BrokenPipeError):
            while line := _IN.readline():
                request = json.loads(line)
                try:
                    _take(request.get("files", ()))
                    answer = does[request["do"]](request)
                except OSError as error:
                    answer = _cannot_write(error)
                _reply(answer)
    finally:
        for folder in made:
            _remove(folder)


def _take(files: list[tuple[str, int]]) -> None:
    """Write the bytes that follow to these files; all of them are read, even where the disk is full."""
    trouble = None
    for name, size in files:
        left = size
        while left:
            piece = _IN.read(min(left, _PIECE))
            if not piece:
                raise EOFError
            try:
                if trouble is None:
                    Path(name).parent.mkdir(exist_ok=True)
                    with Path(name).open("wb" if left == size else "ab") as file:
                        file.write(piece)
            except OSError as error:
                trouble = error
                with contextlib.suppress(OSError):
                    Path(name).unlink()
            left -= len(piece)
    if trouble is not None:
        raise trouble


def _reply(answer: dict[str, Any]) -> None:
    _OUT.write(json.dumps(answer).encode() + b"\n")
    if answer.get("outputs"):
        with next(Path("out").iterdir()).open("rb") as file:
            shutil.copyfileobj(file, _OUT, _PIECE)
    _OUT.flush()


def _cannot_write(error: OSError) -> dict[str, Any]:
    place = Path(error.filename or ".").absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**20
    return {"cannot_write": error.strerror or str(error), "place": str(there), "free_mib": free}


def _settle(request: dict[str, Any]) -> dict[str, Any]:
    """A folder for this connection, where there is most room; what lost connections left behind goes."""
    places = [os.environ["TMPDIR"]] if "TMPDIR" in os.environ else ["/tmp", "/var/tmp"]  # noqa: S108
    for left in request["remove"]:
        _remove(Path(left))
    for place in places:
        for left in glob.glob(f"{place}/{PREFIX}*"):
            with contextlib.suppress(OSError):
                told = os.stat(left)
                old = told.st_uid == os.getuid() and told.st_mtime < time.time() - _DAY_S
                if old and not _living(Path(left)):
                    _remove(Path(left))
    usable = [place for place in places if os.access(place, os.W_OK | os.X_OK)] or places[:1]
    roomy = max(usable, key=lambda place: shutil.disk_usage(place).free)
    os.chdir(os.path.realpath(tempfile.mkdtemp(prefix=PREFIX, dir=roomy)))  # whoever works in it, stands in it
    return {"folder": str(Path.cwd())}


def _identity(_: dict[str, Any]) -> dict[str, Any]:
    """What this board is, and what its Python can load; `machine.py` has come by now."""
    sys.path.insert(0, str(Path.cwd()))
    import machine

    told: dict[str, Any] = machine.identity()
    versions = [info.name.split("-")[1] for info in _packages().glob("onnxruntime-*.dist-info")]
    return {
        "identity": told,
        "libc": platform.libc_ver(),
        "folder": str(Path.cwd()),
        "installed": {version: str(_packages()) for version in versions},
    }


def _free_mib() -> float:
    return shutil.disk_usage(".").free / 2**20


def _packages() -> Path:
    """Where `--install` puts packages for this Python."""
    return Path("~/.cache/edgekd").expanduser() / f"onboard-cp{sys.version_info[0]}{sys.version_info[1]}"


def _install(request: dict[str, Any]) -> dict[str, Any]:
    """Unpack wheels (they are zip files) beside the board's own packages, none of which changes."""
    place = _packages()
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{place.name}.new-", dir=place.parent))
    try:
        for name, _ in request["files"]:
            zipfile.ZipFile(name).extractall(fresh)
            Path(name).unlink()
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return {"installed": str(place)}


def _job(request: dict[str, Any]) -> dict[str, Any]:
    """The runner in a fresh process, until it ends, its time is over, or nobody waits for it any more."""
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    job = request["job"]
    environment = os.environ | ({"PYTHONPATH": request["packages"]} if request["packages"] else {})
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # writes to the pipe
    if job["mode"] == "footprint":
        job["started"] = time.time()  # this board's clock, as a cold start is told by
    Path("job.json").write_text(json.dumps(job), encoding="utf-8")
    with open("said", "wb") as said, open("errors", "wb") as errors:
        command = [sys.executable, "runner.py", "job.json"]
        runner = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=errors, env=environment)
        try:
            ready, _, _ = select.select([_IN, woken], [], [], request["timeout_s"])
            if _IN in ready:  # nothing is sent while a job runs: the connection has ended
                raise EOFError
            over = not ready
        finally:
            runner.kill()  # does nothing where it has ended
            runner.wait()
            signal.set_wakeup_fd(-1)
            os.close(woken)
            os.close(wake)
    lines = _end_of("said", _MOST_SAID).strip().splitlines()
    sizes = [path.stat().st_size for path in Path("out").iterdir()]
    return {
        "code": runner.returncode,
        "over": over,
        "said": lines[-1] if lines else "",
        "outputs": sum(sizes),
        "errors": _end_of("errors", 8000),
        "free_mib": _free_mib(),
    }


def _end_of(name: str, most: int) -> str:
    """The last bytes of a file, as text: what a runner says may be longer than this board's memory."""
    with open(name, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(most).decode("utf-8", "replace")


def _living(folder: Path) -> list[int]:
    """Other processes that work in this folder."""
    found = []
    for link in glob.glob("/proc/[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(folder) and link.split("/")[2] != str(os.getpid()):
                found.append(int(link.split("/")[2]))
    return found


def _remove(folder: Path) -> None:
    for process in _living(folder):
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
