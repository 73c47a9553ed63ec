"""What the recipes share: which nodes they may touch, and the proof that they did something."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edgekd.core import external
from edgekd.core.errors import EdgeKDError

TYPES = {"int8": "QInt8", "uint8": "QUInt8"}  # a profile's word, and ONNX Runtime's QuantType


class Writing(NamedTuple):
    """Where a quantizer of ONNX Runtime writes, and whether in two files."""

    file: Path
    apart: bool


@contextmanager
def written(model: Path, out: Path) -> Iterator[Writing]:
    """Say how ONNX Runtime's quantizers write `out`: with weights apart where the model's are.

    They name such data otherwise than edgekd does, so that the graph is written again then.
    """
    if not external.has_data(model):
        yield Writing(out, apart=False)
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-quantize-", dir=out.parent) as folder:
        file = Path(folder, out.name)
        yield Writing(file, apart=True)
        external.save(external.load(file), out)


def products_of_activations(model: Path) -> list[str]:
    """Names of the matrix products without a constant side: attention's, which int8 ruins."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not constants & set(node.input)]


def kept_names(keep: Iterable[str]) -> list[str]:
    """The nodes to leave in float, and what ONNX Runtime calls a Gemm that it rewrites as MatMul and Add."""
    return [name for kept in keep for name in (kept, f"{kept}_MatMul")]


def has_operator(model: Path, operators: Sequence[str]) -> bool:
    """Whether the model holds an operator of one of these types."""
    import onnx

    return any(node.op_type in operators for node in onnx.load(model, load_external_data=False).graph.node)


def has_branches(model: Path) -> bool:
    """Whether a node of the model holds a graph of its own."""
    import onnx

    return any(external.inner_graphs(node) for node in onnx.load(model, load_external_data=False).graph.node)


def must_have(model: Path, operators: Sequence[str], *, recipe: str) -> None:
    """Raises EdgeKDError where the written model holds none of these operators: a silent no-op is an error."""
    if not has_operator(model, operators):
        raise EdgeKDError(
            f"{recipe} quantized nothing: the model has no operator that it applies to",
            fix="take the recipe out of the profile's recipes",
        )


def drop_unused(graph: Any) -> None:
    """Remove the nodes and constants that lead to no output, in place; what branches read counts as read."""
    wanted = _read(graph)
    while idle := [node for node in graph.node if not wanted & set(node.output)]:
        for node in idle:
            graph.node.remove(node)
        wanted = _read(graph)
    inputs = {one.name for one in graph.input}
    for tensor in [one for one in graph.initializer if one.name not in wanted | inputs]:
        graph.initializer.remove(tensor)


def _read(graph: Any) -> set[str]:
    """Return the names that a graph's nodes and outputs read, and those of the graphs inside it."""
    names = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    inner = (part for node in graph.node for part in external.inner_graphs(node))
    return names.union(*map(_read, inner))
