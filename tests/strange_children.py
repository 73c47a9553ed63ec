"""Functions that end badly, to be called in a process of their own."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path


def hoard(mib):
    """Ask for so much memory."""
    return len(bytearray(mib << 20))


def hoard_in_c():
    """As C++ does it: a message of the library, and an end."""
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    sys.stderr.flush()
    os.abort()


def spin():
    while True:
        pass


def sleep():
    time.sleep(60)


def crash():
    ctypes.string_at(0)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def write_much(path, mib):
    with open(path, "wb") as stream:
        stream.truncate(mib << 20)
        stream.seek(mib << 20)
        stream.write(b"x")


def answer(text):
    """In place of the real answer."""
    Path(sys.argv[1]).with_name("result.json").write_text(text)
    os._exit(0)


def shout():
    """A line without end."""
    sys.stdout.write("x" * (3 << 20))
    return "done"


def core_and_path():
    import resource

    return {"core": resource.getrlimit(resource.RLIMIT_CORE)[0], "path": sys.path, "cwd": os.getcwd()}


def nest(depth):
    from edgekd.security import child

    return child.call("strange_children:be_killed", {}, timeout_s=10)


def number():
    return json.loads("1" * 50)


def threads():
    return {name: os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
