"""Any graph that somebody already has as an ONNX file, with its own inputs and outputs: compressed, never trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import RuntimeCannotLoad, TeacherError, counted
from edgekd.core.files import is_plain, user_path
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import plugin
from edgekd.teachers import _onnx_apart, _onnx_smoke

if TYPE_CHECKING:
    from edgekd.core.model import Model
    from edgekd.hardware.profile import Profile

_MODALITY = "array"
_ROW_S = 2.0  # of the first rows each, beside what a file of its size may take


@dataclass(frozen=True)
class ArrayGraph:
    """An ONNX file, or a folder that holds one. `timeout_s`: of a small one's first run."""

    timeout_s: float = 12.0
    allow_loops: bool = False

    @classmethod
    def serves(cls, source: str, task: str) -> bool:
        """Return whether the task takes any graph, and the source is an ONNX file."""
        return plugin("tasks", task).modality == _MODALITY

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the file says, which is read but not run; `architecture` holds its `ports`: inputs and outputs.

        Raises TeacherError for whatever cannot be compressed: see `_onnx_checks.read`; for inputs of texts; for
        operators that draw random numbers; and where reading it meets the limits of `_onnx_apart`, or crashes.
        """
        path = user_path(source).absolute()
        if path.is_dir():
            files = sorted(path.glob("*.onnx"))
            if len(files) != 1:
                raise TeacherError(
                    f"{path} holds {counted(len(files), '.onnx file')}" if files else f"{path} holds no .onnx file",
                    fix="give the path of one .onnx file",
                )
            path = files[0]
        if path.suffix.lower() != ".onnx" or not is_plain(path):
            raise TeacherError(f"the teacher {path} is no .onnx file", fix="give the path of an ONNX file")
        job = {"source": str(path), "allow_loops": self.allow_loops}
        found: dict[str, Any] = _onnx_apart.call("_array_graph:look", job, path, "be read")
        return found | {"checks": tuple(found["checks"]), "labels": tuple(found["labels"])}

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return `info`: a graph is what it is."""
        return info

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return `info`: a graph is what it is."""
        return info

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Raise RuntimeCannotLoad for an opset above the target's ceiling; a newer IR version is lowered instead."""
        file, opset = info["architecture"]["file"], info["architecture"]["opset"]
        if opset > target.max_opset:
            raise RuntimeCannotLoad(
                f"the teacher {file} has opset {opset}; the target {target.name} knows {target.max_opset}",
                fix=f"export it again with opset {target.max_opset}, or raise max_opset in the profile if the device's "
                "ONNX Runtime allows it",
            )

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Nothing: there are no classes."""

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """Raises TeacherError: a graph is not trained."""
        raise TeacherError(
            f"the teacher {architecture['file']} is an ONNX file, which cannot be trained",
            fix="compress it as it is: --student none",
        )

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Nothing lies beside the graph that it needs."""

    def training(self, rows: int) -> dict[str, Any]:
        """None: it is never trained."""
        return {}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """Nothing: no student learns from it."""
        return ()

    def export(
        self,
        folder: Path,
        architecture: Mapping[str, Any],
        task: str,
        out: Path,
        finish: Callable[[Any, Path], object],
    ) -> None:
        """Write the graph to the file `out`, its names as they are; `finish(graph, out)` does the writing."""
        import onnx

        path = folder / architecture["file"]
        names = [port["name"] for port in architecture["ports"]["outputs"]]
        with tempfile.TemporaryDirectory(prefix=".prepared-", dir=out.parent) as room:
            prepared = Path(room, "prepared.onnx")
            job = {"source": str(path), "out": str(prepared), "outputs": names, "loops": "loops" in architecture}
            _onnx_apart.call("_array_graph:prepare", job, path, "be prepared")
            graph = onnx.load(prepared)  # what the child wrote and checked
        finish(graph, out)

    def answers(
        self,
        folder: Path,
        architecture: Mapping[str, Any],
        program: str,
        inputs: Path,
        outputs: Sequence[str],
        out: Path,
    ) -> None:
        """Write what the file gives for packed rows to `out`. Raises TeacherError where it runs not, or gives NaN."""
        path = folder / architecture["file"]
        job = {
            "source": str(path),
            "inputs": str(inputs),
            "program": program,
            "outputs": list(outputs),
            "out": str(out),
        }
        self._run("answers", job, path)

    def compare(
        self, folder: Path, architecture: Mapping[str, Any], written: Model, inputs: Path, outputs: Sequence[str]
    ) -> None:
        """Raise TeacherError where what was written answers packed rows otherwise than the file, or neither answers."""
        path = folder / architecture["file"]
        job = {
            "original": str(path),
            "written": str(written.file),
            "inputs": str(inputs),
            "program": written.program,
            "outputs": list(outputs),
        }
        self._run("compare", job, path)

    def _run(self, function: str, job: dict[str, Any], path: Path) -> None:
        """Call a function of `_array_graph` that runs the file on rows, in a limited process."""
        _onnx_apart.call(
            f"_array_graph:{function}",
            job,
            path,
            "run under ONNX Runtime on the first rows",
            base_s=self.timeout_s + 8 * _ROW_S,
            mib_per_s=_onnx_smoke.MIB_PER_S,
            fix="give smaller rows, and a model that onnxruntime runs by itself; this one may be made to harm",
        )
