"""ONNX files whose weights may lie in a file beside them: external data, where one protobuf message cannot hold them.

edgekd writes the data of `NAME.onnx` into `NAME.onnx_data`, the name that optimum and transformers.js expect: whoever
has a graph's path knows its data's without reading the graph.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd.core.digests import file_sha256
from edgekd.core.errors import EdgeKDError

LARGEST_FILE = (1 << 31) - (1 << 20)  # bytes: protobuf's 2 GiB, less what the graph's own structure may take
_SUFFIX = "_data"
_LEAST = 1024  # bytes: smaller tensors stay in the graph, where shape inference reads them


def data_file(graph: Path) -> Path:
    """Return where a graph's external data lie, if it has any."""
    return graph.with_name(graph.name + _SUFFIX)


def has_data(graph: Path) -> bool:
    """Return whether a graph has external data."""
    return data_file(graph).is_file()


def files(graph: Path) -> tuple[Path, ...]:
    """Return a graph's file and, where it has some, its external data."""
    return (graph, data_file(graph)) if has_data(graph) else (graph,)


def graph_sha256(graph: Path) -> str:
    """Return the SHA-256 of a graph's file; with external data that of both files' hashes."""
    hashes = [file_sha256(file) for file in files(graph)]
    return hashes[0] if len(hashes) == 1 else sha256("\n".join(hashes).encode()).hexdigest()


def place_of(location: str, folder: Path) -> Path | None:
    """Return the file that holds external data; None for a place outside the folder, or behind a link."""
    named = bool(location) and "\x00" not in location and "\\" not in location
    if not named or Path(location).is_absolute() or ".." in Path(location).parts:
        return None
    home = folder.resolve()
    file = home / location
    return file if file.resolve() == file else None


def graphs(model: Any) -> Iterator[Any]:
    """Yield a model's graph and those inside its nodes: the bodies of loops and branches."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            waiting += inner_graphs(node)


def inner_graphs(node: Any) -> list[Any]:
    """Return the graphs that a node holds: of a Loop one, of an If two."""
    return [graph for one in node.attribute for graph in (*([one.g] if one.HasField("g") else ()), *one.graphs)]


def nodes(model: Any) -> Iterator[Any]:
    """Yield every node of a model, those of inner graphs and of local functions too."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and TensorProto of every constant: initializers, and attributes of nodes; of inner graphs too."""
    for graph in graphs(model):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in nodes(model):
        for attribute in node.attribute:
            for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
                yield node.output[0] if node.output else node.name, tensor


def load(graph: Path) -> Any:
    """Return an ONNX model with all its weights.

    Raises EdgeKDError where external data are missing, cut, or outside the graph's folder.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    _checked_places(model, graph)
    try:
        onnx.load_external_data_for_model(model, str(graph.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise EdgeKDError(
            f"the weights of {graph} cannot be read: {str(error).splitlines()[0]}",
            fix="fetch or export the model again, and compare its files' sizes",
        ) from error
    return model


def _checked_places(model: Any, graph: Path) -> set[Path]:
    """Return the files of a model's external data. Raises EdgeKDError where one is missing or outside the folder."""
    found: dict[str, Path] = {}
    for name, tensor in tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if location in found:
            continue
        file = place_of(location, graph.parent)
        if file is None:
            raise EdgeKDError(
                f"{graph} keeps the weight {name!r} in {location!r}: outside its folder, or behind a link",
                fix="put the data beside it as a plain file, and export the model again",
            )
        if not os.path.lexists(file):
            raise EdgeKDError(
                f"{graph} keeps its weights in {location!r}, which is not beside it",
                fix="copy both files into one folder, under the names that they had",
            )
        found[location] = file
    return set(found.values())


def fits(model: Any) -> bool:
    """Return whether one file holds the model."""
    weights = sum(len(tensor.raw_data) for graph in graphs(model) for tensor in graph.initializer)
    return weights <= LARGEST_FILE and model.ByteSize() <= LARGEST_FILE


def save(model: Any, graph: Path) -> Path:
    """Write an ONNX model to the file `graph`; where it is larger than one file may be, its weights beside it.

    The same model gives the same bytes. Weights that are written apart are gone from `model` then.
    """
    import onnx
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
    from onnx.external_data_helper import set_external_data

    beside = data_file(graph)
    beside.unlink(missing_ok=True)  # onnx appends to what is there
    if not fits(model):
        for part in graphs(model):
            for tensor in part.initializer:
                if len(tensor.raw_data) >= _LEAST:
                    set_external_data(tensor, beside.name)
    try:
        onnx.save(model, graph)
    except (EncodeError, ValueError) as error:
        raise EdgeKDError(
            f"{graph.name} cannot be written: {str(error).splitlines()[0]}",
            fix="export the model with its weights as initializers: those inside nodes stay in the graph's own file",
        ) from error
    return graph


def copy(graph: Path, out: Path) -> Path:
    """Copy a graph with its external data to the file `out`, under its name."""
    import onnx

    if not has_data(graph):
        shutil.copyfile(graph, out)
        return out
    if out.name == graph.name:
        shutil.copyfile(graph, out)
    else:
        model = onnx.load(graph, load_external_data=False)
        _point_to(model, data_file(out).name)
        onnx.save(model, out)
    shutil.copyfile(data_file(graph), data_file(out))
    return out


def settled(graph: Path, out: Path | None = None) -> Path:
    """Return a graph whose external data lie where `data_file` says: itself, or a copy `out` (else in its place).

    Whoever did not write it with `save` may have given its data other names. Raises as `load` does.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    places = _checked_places(model, graph)
    if places <= {data_file(graph).resolve()}:
        return graph
    whole = load(graph)
    written = save(whole, out or graph)
    if out is None:
        for place in places - {data_file(graph).resolve()}:
            place.unlink()
    return written


def _point_to(model: Any, location: str) -> None:
    """Give all external data of a model another place."""
    for _, tensor in tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
