"""A teacher that somebody already has as an ONNX file: it is compressed as it is, never trained."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import RuntimeCannotLoad, TeacherError, counted
from edgekd.core.files import is_plain, user_path
from edgekd.core.registry import plugin
from edgekd.data import clean
from edgekd.teachers import _onnx_apart, _onnx_inspect, _onnx_smoke, _sentence_graph, _sentences
from edgekd.teachers._onnx_graph import feed_of

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file with its tokenizer or preprocessing beside it. `timeout_s`: of a small one's first run."""

    timeout_s: float = 6.0  # with all that comes before it, `build` then refuses within 20 s on a busy machine, too
    allow_loops: bool = False

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the file says, which is read but not run; `architecture` holds what the graph takes and gives.

        Raises TeacherError for whatever cannot be compressed: see `_onnx_checks.read`, `_onnx_graph.wire`; for a
        tokenizer or preprocessing that is missing or another model's; for class names that are not the graph's; and
        where reading it meets the limits of `_onnx_apart`, or crashes.
        """
        path = user_path(source).absolute()
        feed_of(task)  # refuses a task that no graph serves
        if not is_plain(path):
            raise TeacherError(f"the teacher {path} is not a file", fix="give the path of the .onnx file")
        job = {"source": str(path), "task": task, "allow_loops": self.allow_loops}
        found: dict[str, Any] = _onnx_apart.call("_onnx_inspect:look", job, path, "be read")
        found["checks"] = tuple(found["checks"])
        found["labels"] = None if found["labels"] is None else tuple(found["labels"])
        if feed_of(task).output == _sentence_graph.TOKENS:
            folder = Path(found["folder"])
            config = _onnx_inspect.read_json(folder / "config.json")
            found["architecture"], notes = _sentences.described(found["architecture"], folder, config)
            found["checks"] += notes
        return found

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
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
        """Raise TeacherError where the data have other classes than the graph has outputs; rows may have no labels."""
        architecture = info["architecture"]
        known = architecture.get("classes")
        if classes and known is not None and len(classes) != known:
            raise TeacherError(
                f"the teacher {architecture['file']} tells {counted(known, 'class')} apart; the data have "
                f"{len(classes)}: "
                f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}",
                fix="give data with the classes that it was trained on, or name all of them as id2label in config.json",
            )

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Copy config, tokenizer or preprocessing to `out`, of those that lie beside the file; paths stay behind."""
        if feed_of(task).is_text:
            clean.write_tokenizer(folder, out)
        elif plugin("tasks", task).modality == "image":
            clean.write_processor(folder, out)
        clean.write_config(folder, out)
        cut = out / "tokenizer_config.json"
        if cut.exists() and "max_tokens" in architecture:  # where the ecosystem's loaders cut
            told = json.loads(cut.read_text(encoding="utf-8")) | {"model_max_length": architecture["max_tokens"]}
            cut.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if "sentence" in architecture:
            _sentences.write_files(folder, architecture, out)

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
        """Write the graph to the file `out`, under the task's names; `finish(graph, out)` does the writing.

        Raises TeacherError where it cannot be lifted to an opset that recipes need; where ONNX Runtime refuses it,
        does not end, or gives NaN; and where what was written says something else than the file.
        """
        import onnx

        path = folder / architecture["file"]
        with tempfile.TemporaryDirectory(prefix=".prepared-", dir=out.parent) as room:
            prepared = Path(room, "prepared.onnx")
            job = {"source": str(path), "task": task, "out": str(prepared), "loops": "loops" in architecture}
            names = _onnx_apart.call("_onnx_apart:prepare", job, path, "be prepared")
            graph = onnx.load(prepared)  # what the child wrote and checked
        if "sentence" in architecture:
            _sentences.append(folder, architecture, graph)
        finish(graph, out)
        job = names | {
            "original": str(path),
            "written": str(out),
            "shapes": _onnx_smoke.shapes(architecture),
            "tokens": architecture.get("vocabulary", 2),
        }
        _onnx_apart.call(
            "_onnx_smoke:compare",
            job,
            path,
            "run under ONNX Runtime",
            base_s=self.timeout_s,
            mib_per_s=_onnx_smoke.MIB_PER_S,
            fix=_onnx_smoke.FIX,
        )
