"""A teacher that somebody already has as an ONNX file: it is compressed as it is, never trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import child
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, TeacherError, suggestion
from edgekd.data import pixels
from edgekd.teachers import _checks, _files, _onnx_checks, _onnx_graph, _onnx_smoke
from edgekd.teachers._onnx_graph import FEEDS, Wiring

if TYPE_CHECKING:
    from edgekd.core.profile import Profile

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_BESIDE = (
    *_VOCABULARIES, "merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json",
    "config.json", pixels.CONFIG,
)  # fmt: skip
_WITH_PATHS = ("config.json", "tokenizer_config.json")
_PATHS = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file")
_MOST_TOKENS = 512  # where neither config nor tokenizer says
_UNSAID_TOKENS = 10**6  # tokenizers without a limit write 10^30


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file with its tokenizer or preprocessing beside it. `timeout_s` ends a model that never answers."""

    timeout_s: float = 300.0

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the file says, which is read but not run; `architecture` holds what the graph takes and gives.

        Raises TeacherError for whatever cannot be compressed: see `_onnx_checks.read`, `_onnx_graph.wire`; for a
        tokenizer or preprocessing that is missing or another model's; and for class names that are not the graph's.
        """
        path = Path(source).expanduser().absolute()
        if task not in FEEDS:
            raise TeacherError(f"an ONNX file cannot be a teacher of {task}", fix=suggestion(task, FEEDS))
        feed = FEEDS[task]
        model, data_files = _onnx_checks.read(path)
        wiring = _onnx_graph.wire(model, path, feed)
        folder = _folder(path, task)
        config = _json(folder / "config.json")
        classes = wiring.gives[1] if len(wiring.gives) == 2 else None
        sizes = {"opset": _onnx_checks.opset(model), "ir_version": model.ir_version, "operators": len(model.graph.node)}
        architecture: dict[str, Any] = {
            "model_type": "onnx",
            "file": path.relative_to(folder).as_posix(),
            "inputs": dict(wiring.inputs),
            "output": wiring.output,
            **sizes,
            "parameters": _onnx_graph.parameters(model),
            **_sizes(model, path, folder, task, wiring, config),
        }
        if classes is not None:
            architecture["classes"] = classes
        return {
            "folder": str(folder),
            "ready": True,
            "architecture": architecture,
            "labels": _labels(config, folder, path, classes) if len(wiring.gives) == 2 else None,
            "sha256": _files.fingerprint(folder, [path, *data_files], _BESIDE),
            "licence": _files.licence(folder),
        }

    def check_target(self, found: Mapping[str, Any], target: Profile) -> None:
        """Raises RuntimeCannotLoad for an opset above the target's ceiling; a newer IR version is lowered instead."""
        file, opset = found["architecture"]["file"], found["architecture"]["opset"]
        if opset > target.max_opset:
            raise RuntimeCannotLoad(
                f"the teacher {file} has opset {opset}; the target {target.name} knows {target.max_opset}",
                fix=f"export it again with opset {target.max_opset}, or raise max_opset in the profile if the device's "
                "ONNX Runtime allows it",
            )

    def check_classes(self, found: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Raises TeacherError where the data have other classes than the graph has outputs; rows may have no labels."""
        architecture = found["architecture"]
        known = architecture.get("classes")
        if classes and known is not None and len(classes) != known:
            raise TeacherError(
                f"the teacher {architecture['file']} tells {known} classes apart; the data have {len(classes)}: "
                f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}",
                fix="give data with the classes that it was trained on, or name all of them as id2label in config.json",
            )

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """Raises TeacherError: a graph is not trained."""
        raise TeacherError(
            f"the teacher {architecture['file']} is an ONNX file, which cannot be trained",
            fix="compress it as it is (--student none), or give the model's Hugging Face folder",
        )

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Copy config, tokenizer or preprocessing to `out`, of those that lie beside the file; paths stay behind."""
        for name in (name for name in _BESIDE if (folder / name).is_file()):
            if name not in _WITH_PATHS:
                shutil.copyfile(folder / name, out / name)
                continue
            said = {key: value for key, value in _json(folder / name).items() if key not in _PATHS}
            if name == "tokenizer_config.json" and "max_tokens" in architecture:
                said["model_max_length"] = architecture["max_tokens"]  # where the ecosystem's loaders cut
            (out / name).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

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
        """Write the graph to the file `out`, under the task's names; `finish(graph, out)` does the writing.

        Raises TeacherError where it cannot be lifted to an opset that recipes need; where ONNX Runtime refuses it,
        does not end, or gives NaN; and where what was written says something else than the file.
        """
        from onnx.version_converter import ConvertError

        path, feed = folder / architecture["file"], FEEDS[task]
        model, _ = _onnx_checks.read(path)
        wiring = _onnx_graph.wire(model, path, feed)
        try:
            graph = _onnx_graph.extract(model, wiring, feed)
        except (RuntimeError, ConvertError) as error:
            raise TeacherError(
                f"{path} has opset {architecture['opset']}, and cannot be lifted to {_onnx_graph.LEAST_OPSET}: "
                f"{str(error).splitlines()[0]}",
                fix=f"export it again with opset {_onnx_graph.LEAST_OPSET} or more",
            ) from error
        finish(graph, out)
        job = {
            "original": str(path), "written": str(out), "names": dict(wiring.inputs), "output": feed.output,
            "given": _onnx_graph.chosen(model, path, feed).name, "softmax": wiring.softmax,
            "shapes": _onnx_smoke.shapes(architecture), "gives": list(wiring.gives),
            "tokens": architecture.get("vocabulary", 2),
        }  # fmt: skip
        try:
            child.call("edgekd.teachers._onnx_smoke:compare", job, timeout_s=self.timeout_s)
        except TeacherError:
            raise
        except EdgeKDError as error:  # it died, or did not end
            raise TeacherError(
                f"{path} does not run under ONNX Runtime: {error.message}",
                fix="give a model that onnxruntime runs by itself within minutes",
            ) from error


def _folder(path: Path, task: str) -> Path:
    """The file's folder, or the one above where the file lies in `onnx/`: where what prepares inputs lies.

    Raises TeacherError where it lies in neither.
    """
    places = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    if task == "time-series-classification":
        return places[0]
    names, what, processor = (
        ((pixels.CONFIG,), "preprocessing", "AutoImageProcessor")
        if task == "image-classification"
        else (_VOCABULARIES, "tokenizer", "AutoTokenizer")
    )
    folder = next((place for place in places if any((place / name).is_file() for name in names)), None)
    said = {} if folder is None else _json(folder / "config.json") | _json(folder / "tokenizer_config.json")
    if folder is None or (what == "tokenizer" and not {"model_type", "tokenizer_class"} & said.keys()):
        needed = ", ".join(names) if folder is None else "tokenizer_config.json with tokenizer_class, or config.json"
        raise TeacherError(
            f"{path} has no {what} beside it ({needed} in {' or '.join(map(str, places))})",
            fix=f"save it beside the file: {processor}.from_pretrained(...).save_pretrained(folder)",
        )
    return folder


def _sizes(
    model: Any, path: Path, folder: Path, task: str, wiring: Wiring, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What the task's survey asks of a teacher: tokens, an image's side, a series' shape."""
    if FEEDS[task].is_text:
        rows = _onnx_graph.embedding_rows(model)
        vocabulary = {} if rows is None else {"vocabulary": rows}
        if rows is not None:
            _checks.check_tokenizer(folder, {"vocab_size": rows, **config}, {"word_embeddings.weight": [rows]})
        hidden = {"hidden": wiring.gives[2]} if len(wiring.gives) == 3 and wiring.gives[2] else {}
        return {"max_tokens": _max_tokens(config, _json(folder / "tokenizer_config.json"))} | vocabulary | hidden
    if task == "image-classification":
        return _image_sizes(path, folder, wiring)
    _, steps, channels = wiring.takes
    return {"shape": {key: size for key, size in (("steps", steps), ("channels", channels)) if size is not None}}


def _image_sizes(path: Path, folder: Path, wiring: Wiring) -> dict[str, Any]:
    _, channels, height, width = wiring.takes
    if channels not in (None, 1, 3):
        order = "(batch, height, width, channels)" if width in (1, 3) else f"{channels} channels"
        raise TeacherError(
            f"{path} takes images as {order}; edgekd feeds (batch, channels, height, width), of 1 or 3 channels",
            fix="export it with channels first: torch does so, tf2onnx with --inputs-as-nchw",
        )
    told = pixels.read_config(folder)
    side, read = pixels.side_of(told, folder), pixels.channels_of(told)
    wanted, made = (channels or read, height or side, width or side), (read, side, side)
    if wanted != made:
        raise TeacherError(
            f"{path} takes images of {_by(wanted)}; the {pixels.CONFIG} beside it makes {_by(made)}",
            fix=f"set size, crop_size and image_mean in {pixels.CONFIG} to the model's",
        )
    return {"max_size": side, "channels": read}


def _by(sizes: tuple[int, int, int]) -> str:
    return " x ".join(map(str, sizes))


def _max_tokens(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    """The longest text that the model takes, special tokens counted."""
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _checks.POSITIONS_FROM_PAD:
        positions -= int(config.get("pad_token_id", 1)) + 1  # these count positions from the pad id on
    told = [one for one in (positions, tokenizer.get("model_max_length")) if isinstance(one, int) and one > 0]
    return min([one for one in told if one < _UNSAID_TOKENS], default=_MOST_TOKENS)


def _labels(config: Mapping[str, Any], folder: Path, path: Path, classes: int | None) -> tuple[str, ...] | None:
    """Names of the classes, in the order of the outputs, as config.json has them; None where it has none."""
    if classes == 1:
        raise TeacherError(f"{path} gives one value, not a value for each class", fix="give a model that classifies")
    named = config.get("id2label")
    if not named:
        return None
    _checks.check_labels(config, folder)
    if classes is not None and len(named) != classes:
        raise TeacherError(
            f"{folder}/config.json names {len(named)} labels; {path} has {classes} outputs",
            fix="set id2label and label2id in config.json to the classes the model was trained on, in order",
        )
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises TeacherError for a damaged one."""
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return dict(said.items())
    except (OSError, ValueError, AttributeError) as error:
        raise TeacherError(f"cannot read {file}: {error}", fix="restore it, or save it again") from error
