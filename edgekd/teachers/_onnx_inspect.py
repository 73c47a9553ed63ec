"""What an ONNX file and the files beside it say of a teacher; read in a process of its own (`_onnx_apart`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core import licences
from edgekd.core.errors import TeacherError, counted
from edgekd.core.external import inner_graphs
from edgekd.core.protocols import MULTI_LABEL, REGRESSION
from edgekd.core.registry import plugin
from edgekd.data import clean, pixels, token_types
from edgekd.teachers import (
    _checks,
    _files,
    _onnx_checks,
    _onnx_graph,
    _sentence_files,
    _sentence_graph,
    _settings,
)
from edgekd.teachers._onnx_graph import Wiring, feed_of
from edgekd.teachers._sizes import number

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
BESIDE = clean.READ
_MOST_TOKENS = 512  # where neither config nor tokenizer says
_UNSAID_TOKENS = 10**6  # tokenizers without a limit write 10^30


def look(source: str, task: str, *, allow_loops: bool = False) -> dict[str, Any]:
    """What `OnnxModel.inspect` says of a plain file. Raises TeacherError as it does."""
    path = Path(source)
    feed = feed_of(task)
    model, data_files = _onnx_checks.read(path, allow_loops=allow_loops)
    wiring = _onnx_graph.wire(model, path, feed)
    if len(feed.gives) == 2:
        _check_end(model, path, wiring, task)
    folder = _folder(path, task)
    _files.check_folder(folder, *BESIDE, *licences.NAMES, "README.md")
    _settings.check(folder)
    if feed.output == _sentence_graph.TOKENS:
        _check_embedding(model, path, folder)
    config = read_json(folder / "config.json")
    _check_types(path, folder, wiring, config)
    classes = wiring.gives[1] if len(wiring.gives) == 2 else None
    loops = sum(1 for node in model.graph.node if inner_graphs(node))
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
    if loops:
        architecture["loops"] = loops
    return {
        "folder": str(folder),
        "ready": True,
        "architecture": architecture,
        "labels": _labels(config, folder, path, classes, task, wiring) if len(wiring.gives) == 2 else None,
        "sha256": _files.fingerprint(folder, [path, *data_files]),
        "licence": licences.of_teacher(folder),
        "checks": _checks_made(data_files, loops),
    }


def _check_embedding(model: Any, path: Path, folder: Path) -> None:
    """Raises TeacherError where the graph makes an embedding of its own, and nothing beside it says how."""
    name = _sentence_graph.OUTPUT
    if name not in {value.name for value in model.graph.output} or (folder / _sentence_files.MODULES).exists():
        return
    raise TeacherError(
        f"{path} gives a {name} of its own; edgekd makes one behind the tokens' outputs, and no "
        f"{_sentence_files.MODULES} in {folder} says how",
        fix=f"put {_sentence_files.MODULES} of its sentence-transformers folder there, with the folders that it "
        "names; or export the model without that output: the embedding is then the mean over tokens",
    )


def _check_types(path: Path, folder: Path, wiring: Wiring, config: Mapping[str, Any]) -> None:
    """Raises TeacherError where the graph takes token types, and neither tokenizer nor config gives any."""
    if token_types.TYPES not in wiring.inputs:
        return
    file = folder / "tokenizer_config.json"
    if not token_types.gives_types(token_types.with_types(read_json(file), config)):
        names = json.dumps(token_types.WITH_TYPES)
        raise TeacherError(
            f"{path} takes {token_types.TYPES}, and its tokenizer ({file}) does not give them",
            fix=f'set "model_input_names": {names} in {file}: the types are then zeros; or export the model without '
            "that input",
        )


def _checks_made(data_files: list[Path], loops: int) -> list[str]:
    """What was looked into, for the report."""
    return [
        "ONNX: parsed and checked in a process with limits on memory and time; operators, sizes and values of weights",
        f"external data: {', '.join(file.name for file in data_files)}, inside its folder"
        if data_files
        else "external data: none",
        f"loops and branches: {loops}, allowed by --allow-loops" if loops else "loops and branches: none",
    ]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises TeacherError for a damaged one."""
    try:
        return _files.read_json(file)
    except (OSError, ValueError) as error:
        raise TeacherError(f"cannot read {file}: {error}", fix="restore it, or save it again") from error


def _folder(path: Path, task: str) -> Path:
    """The file's folder, or the one above where the file lies in `onnx/`: where what prepares inputs lies.

    Raises TeacherError where it lies in neither.
    """
    places = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    modality = plugin("tasks", task).modality
    if modality == "series":
        return places[0]
    names, what, processor = (
        ((pixels.CONFIG,), "preprocessing", "AutoImageProcessor")
        if modality == "image"
        else (_VOCABULARIES, "tokenizer", "AutoTokenizer")
    )
    folder = next((place for place in places if any((place / name).exists() for name in names)), None)
    said = {} if folder is None else read_json(folder / "config.json") | read_json(folder / "tokenizer_config.json")
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
    if feed_of(task).is_text:
        rows = _onnx_graph.embedding_rows(model)
        vocabulary = {} if rows is None else {"vocabulary": rows}
        if rows is not None:
            _checks.check_tokenizer(folder, {"vocab_size": rows, **config}, {"word_embeddings.weight": [rows]})
        hidden = {"hidden": wiring.gives[2]} if len(wiring.gives) == 3 and wiring.gives[2] else {}
        return (
            {"max_tokens": _max_tokens(config, read_json(folder / "tokenizer_config.json"), folder)}
            | vocabulary
            | hidden
        )
    if plugin("tasks", task).modality == "image":
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


def _max_tokens(config: Mapping[str, Any], tokenizer: Mapping[str, Any], folder: Path) -> int:
    """The longest text that the model takes, special tokens counted."""
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _checks.POSITIONS_FROM_PAD:
        positions -= number(config, "pad_token_id", 1, folder) + 1  # these count positions from the pad id on
    told = [one for one in (positions, tokenizer.get("model_max_length")) if isinstance(one, int) and one > 0]
    return min([one for one in told if one < _UNSAID_TOKENS], default=_MOST_TOKENS)


def _check_end(model: Any, path: Path, wiring: Wiring, task: str) -> None:
    """Raises TeacherError where the outputs are probabilities of another kind than the task's, or cannot be undone."""
    if plugin("tasks", task).problem_type == REGRESSION:
        return  # a sigmoid or softmax gives numbers, too
    if plugin("tasks", task).problem_type != MULTI_LABEL:
        if _onnx_graph.ends_in_sigmoid(model, wiring.output):
            raise _checks.not_classes(path, "it ends in a sigmoid over each label", task)
        return
    if _onnx_graph.ends_in(model, wiring.output, ("LogSoftmax", "Softmax")):
        raise _checks.not_labels(path, "it ends in a softmax over all labels", task)
    if _onnx_graph.ends_in_sigmoid(model, wiring.output):
        raise TeacherError(
            f"{path} gives probabilities by a sigmoid that cannot be left out of its graph",
            fix="export it without the sigmoid, or with the sigmoid as its last operator: edgekd keeps the logits",
        )


def _labels(
    config: Mapping[str, Any], folder: Path, path: Path, classes: int | None, task: str, wiring: Wiring
) -> tuple[str, ...] | None:
    """Names of the classes, in the order of the outputs, as config.json has them; None where it has none."""
    named = config.get("id2label")
    known = len(named) if classes is None and isinstance(named, dict) and named else classes
    _checks.check_problem(config, known, path, task, sigmoid=bool(wiring.left_out == "Sigmoid"))
    if not named:
        return None
    _checks.check_labels(config, folder)
    if classes is not None and len(named) != classes:
        raise TeacherError(
            f"{folder}/config.json names {counted(len(named), 'label')}; {path} has {counted(classes, 'output')}",
            fix="set id2label and label2id in config.json to the classes the model was trained on, in order",
        )
    return tuple(str(named[key]) for key in sorted(named, key=int))
