"""A stranger's ONNX file is parsed, converted and run in processes of their own, with limits on memory and time.

Protobuf, onnx's checker and converter, and ONNX Runtime are C++: a file made for it may crash them, never let them end,
or have them ask for any amount of memory.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from edgekd.core.cpus import usable_cpus, usable_memory
from edgekd.core.errors import TeacherError
from edgekd.core.protocols import REGRESSION
from edgekd.core.registry import plugin
from edgekd.security import child
from edgekd.teachers import _onnx_checks, _onnx_graph
from edgekd.teachers._onnx_graph import feed_of

_BASE_MIB, _FACTOR = 4096, 6  # of memory: whatever its size; and the file as bytes, parsed, checked, copied, as arrays
_READ_S, _READ_MIB_PER_S = 12.0, 10.0  # for a file of any size; of file for each second more, an eighth of the usual
_MOST_MIB = 2048  # of one protobuf message: more is refused anyway
_FIX = "give an undamaged model that onnxruntime runs by itself; this one may be made to harm"


def call(
    function: str,
    job: dict[str, Any],
    path: Path,
    what: str,
    *,
    base_s: float = _READ_S,
    mib_per_s: float = _READ_MIB_PER_S,
    fix: str = _FIX,
) -> Any:
    """A function of this package on the file `path`, in a limited process.

    It may take `base_s` (of the clock, and of each CPU), a second more for each `mib_per_s` of the file and the data
    beside it; and 4 GiB of memory and six times their size, at most what the machine has. Raises the function's own
    error; TeacherError, with this `fix`, where it meets a limit or crashes: the file cannot `what`.
    """
    size_mib = _size_mib(path)
    seconds = base_s + size_mib / mib_per_s
    machine_mib = usable_memory() >> 20
    limits = child.Limits(
        memory_mib=min(_BASE_MIB + _FACTOR * size_mib, machine_mib), cpu_s=max(1, int(seconds)) * usable_cpus()
    )
    try:
        return child.call(f"edgekd.teachers.{function}", job, timeout_s=seconds, limits=limits)
    except child.ChildError as error:
        raise TeacherError(f"{path} cannot {what}: {error.why}", fix=fix) from error


def _size_mib(path: Path) -> int:
    """MiB of the file, and of the plain files beside it, which may be its data."""
    beside = 0
    with contextlib.suppress(OSError):  # a folder that must not be listed
        beside = sum(one.stat().st_size for one in path.parent.iterdir() if one.is_file() and one != path)
    return min(_MOST_MIB, (path.stat().st_size + beside) >> 20)


def prepare(source: str, task: str, out: str, *, loops: bool) -> dict[str, Any]:
    """Write the graph under the task's names to the file `out` (in a child process); what comparing the two needs.

    Raises TeacherError where it cannot be lifted to an opset that recipes need.
    """
    import onnx
    from onnx.version_converter import ConvertError

    path, feed = Path(source), feed_of(task)
    model, _ = _onnx_checks.read(path, allow_loops=loops)
    wiring = _onnx_graph.wire(model, path, feed)
    try:
        graph = _onnx_graph.extract(model, wiring, feed)
    except (RuntimeError, ConvertError) as error:
        raise TeacherError(
            f"{path} has opset {_onnx_checks.opset(model)}, and cannot be lifted to {_onnx_graph.LEAST_OPSET}: "
            f"{str(error).splitlines()[0]}",
            fix=f"export it again with opset {_onnx_graph.LEAST_OPSET} or more",
        ) from error
    onnx.save(graph, out)
    return {
        "names": dict(wiring.inputs),
        "output": feed.output,
        "given": _onnx_graph.chosen(model, path, feed).name,
        "left_out": wiring.left_out,
        "gives": list(wiring.gives),
        "one_value": plugin("tasks", task).problem_type == REGRESSION,
    }
