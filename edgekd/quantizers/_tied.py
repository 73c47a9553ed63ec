"""Embeddings that are tied to the projection: what looks them up reads the projection's quantized weights.

A table that a Gather reads and a Gemm multiplies by lies in a file once. Recipes would quantize it twice, each in its
own way, or leave one of them in float: for a small model of a large vocabulary that is a third of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core import external
from edgekd.quantizers._onnx import drop_unused

_OWN = "_turned"  # follows the table's name: the projection's own matrix


@dataclass(frozen=True)
class Tied:
    """A table of (rows, width), the Gather that reads it, and the Gemm by its transpose."""

    table: str
    gather: str
    product: str
    rows: int
    width: int

    @property
    def matrix(self) -> str:
        """The name of the projection's matrix (width, rows) once it has one of its own."""
        return self.table + _OWN


def untie(model: Path, out: Path) -> tuple[Path, tuple[Tied, ...]]:
    """Write the model with a matrix of its own for each projection that is tied to a table; where none is, nothing.

    Return which file to go on with, and what was tied.
    """
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    found = _find(graph)
    if not found:
        return model, ()
    whole = external.load(model)
    from onnx import numpy_helper

    tables = {one.name: one for one in whole.graph.initializer}
    by_name = {node.name: node for node in whole.graph.node}
    for one in found:
        node = by_name[one.product]
        matrix = numpy_helper.to_array(tables[one.table]).T.copy()
        whole.graph.initializer.append(numpy_helper.from_array(matrix, one.matrix))
        node.input[1] = one.matrix
        for attribute in node.attribute:
            if attribute.name == "transB":
                attribute.i = 0
    external.save(whole, out)
    return out, found


def share(out: Path, tied: tuple[Tied, ...]) -> None:
    """Let each Gather of a table read what the projection's matrix was quantized to; the tables go.

    Where a recipe left the projection in float, they share a table again.
    """
    if not tied:
        return
    model = external.load(out)
    for one in tied:
        _share(model, one)
    drop_unused(model.graph)
    external.save(model, out)


def _find(graph: Any) -> tuple[Tied, ...]:
    tables = {one.name: tuple(one.dims) for one in graph.initializer if len(one.dims) == 2}
    gathers = {
        node.input[0]: node.name
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in tables and not _number(node, "axis")
    }
    return tuple(
        Tied(node.input[1], gathers[node.input[1]], node.name, *tables[node.input[1]])
        for node in graph.node
        if node.op_type == "Gemm"
        and node.input[1] in gathers
        and _number(node, "transB")
        and not _number(node, "transA")
    )


def _number(node: Any, name: str) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), 0)


def _share(model: Any, one: Tied) -> None:
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    at, gather = next((at, node) for at, node in enumerate(graph.node) if node.name == one.gather)
    blocks = next(
        (node for node in graph.node if node.op_type == "MatMulNBits" and node.name.startswith(one.product)), None
    )
    write = _Lookup(gather, one)
    if blocks is not None and _number(blocks, "bits") == 8 and len(blocks.input) < 4:
        write.from_blocks(blocks, weights[blocks.input[1]].dims)
    elif blocks is None and f"{one.matrix}_quantized" in weights:
        write.from_integers(weights)
    elif blocks is None and one.matrix in weights:
        write.from_floats()
    else:
        return
    graph.node.remove(gather)
    for number, node in enumerate(write.nodes):
        graph.node.insert(at + number, node)
    graph.initializer.extend(write.constants)


class _Lookup:
    """The nodes that take a Gather's place: rows of integers, made floats."""

    def __init__(self, gather: Any, one: Tied) -> None:
        self.one, self.name, self.ids, self.output = one, gather.name, gather.input[1], gather.output[0]
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def from_blocks(self, product: Any, dims: Any) -> None:
        """Of MatMulNBits in eight bits: uint8 (rows, blocks, size) around 128, and a scale for each block."""
        rows, blocks, _ = dims
        flat = self._op("Reshape", [self.ids, self._ints("flat", -1)], "ids")
        codes = self._op("Gather", [product.input[1], flat], "codes", axis=0)
        values = self._op("Sub", [self._op("Cast", [codes], "values", to=1), self._float("middle", 128.0)], "centred")
        scales = self._op("Reshape", [product.input[2], self._ints("blocks", rows, blocks, 1)], "scales")
        self._finish(values, self._op("Gather", [scales, flat], "own_scales", axis=0))

    def from_integers(self, weights: Any) -> None:
        """Of MatMulInteger: int8 or uint8 (width, rows), with one scale, or one for each row."""
        from onnx import numpy_helper

        name = self.one.matrix
        flat = self._op("Reshape", [self.ids, self._ints("flat", -1)], "ids")
        codes = self._op("Gather", [f"{name}_quantized", flat], "codes", axis=1)
        values = self._op("Cast", [self._op("Transpose", [codes], "turned", perm=[1, 0])], "values", to=1)
        by_row = numpy_helper.to_array(weights[f"{name}_scale"]).size > 1
        if numpy_helper.to_array(weights[f"{name}_zero_point"]).any():
            middle = self._op("Cast", [self._of_rows(f"{name}_zero_point", flat, by_row, "middles")], "middle", to=1)
            values = self._op("Sub", [values, middle], "centred")
        self._finish(values, self._of_rows(f"{name}_scale", flat, by_row, "own_scales"))

    def from_floats(self) -> None:
        """Of a matrix that a recipe left in float: (width, rows)."""
        flat = self._op("Reshape", [self.ids, self._ints("flat", -1)], "ids")
        columns = self._op("Gather", [self.one.matrix, flat], "columns", axis=1)
        self._reshape(self._op("Transpose", [columns], "turned", perm=[1, 0]))

    def _of_rows(self, source: str, flat: str, by_row: bool, name: str) -> str:
        """One value for each id: (ids, 1); or the one that all share."""
        if not by_row:
            return source
        column = self._op("Reshape", [source, self._ints("column", -1, 1)], f"{name}/column")
        return self._op("Gather", [column, flat], name, axis=0)

    def _finish(self, values: str, scales: str) -> None:
        self._reshape(self._op("Mul", [values, scales], "scaled"))

    def _reshape(self, rows: str) -> None:
        shape = self._op("Shape", [self.ids], "shape")
        whole = self._op("Concat", [shape, self._ints("width", self.one.width)], "whole", axis=0)
        self._op("Reshape", [rows, whole], "", output=self.output)

    def _op(self, kind: str, inputs: list[str], name: str, *, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        own = f"{self.name}/{name}" if name else self.name
        self.nodes.append(helper.make_node(kind, inputs, [output or own], own, **attributes))
        return output or own

    def _ints(self, name: str, *values: int) -> str:
        import numpy as np

        return self._constant(name, np.array(values, np.int64))

    def _float(self, name: str, value: float) -> str:
        import numpy as np

        return self._constant(name, np.array(value, np.float32))

    def _constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        own = f"{self.name}/{name}"
        if own not in {one.name for one in self.constants}:
            self.constants.append(numpy_helper.from_array(values, own))
        return own
