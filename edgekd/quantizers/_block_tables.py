"""Embedding tables and tied projections in blocks of few bits: what the library's quantizers pass over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.quantizers._onnx import drop_unused

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_LEAST = 1 << 12  # values: a smaller table is not worth an operator
_DOMAIN = "com.microsoft"


def unfold_tied(model: Any) -> int:
    """Give each MatMul by a transposed constant a matrix of its own, in place; return how many there were.

    A projection that is tied to the embeddings is such a Transpose, which no quantizer looks behind.
    """
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = 0
    for node in graph.node:
        turned = makers.get(node.input[1]) if node.op_type == "MatMul" else None
        if turned is None or turned.op_type != "Transpose" or turned.input[0] not in constants or not _turns(turned):
            continue
        name = f"{turned.output[0]}.own"
        if name not in constants:
            matrix = np.ascontiguousarray(numpy_helper.to_array(constants[turned.input[0]]).T)
            constants[name] = numpy_helper.from_array(matrix, name)
            graph.initializer.append(constants[name])
        node.input[1], found = name, found + 1
    drop_unused(graph)
    return found


def share_tied(
    model: Any, *, bits: int, block_size: int, accuracy_level: int, keep: frozenset[str] = frozenset()
) -> int:
    """Let a table's Gather and the MatMul by its transpose read the same codes, in place; return how many tables.

    Such a table lies in the file once, as in float. Nodes named in `keep`, tables that others read as well, and rows
    that are no whole blocks stay.
    """
    found = 0
    for tied in _tied(model.graph, keep):
        table = tied.table
        width = table.shape[1]
        if table.dtype == "float32" and width % block_size == 0 and table.size >= _LEAST:
            _share(model.graph, tied, bits, block_size, accuracy_level)
            found += 1
    if found:
        _name_domain(model)
        drop_unused(model.graph)
    return found


@dataclass(frozen=True)
class _Tied:
    """A table, the one Gather that reads it, and the one MatMul by its transpose."""

    name: str
    table: Array
    gather: Any
    product: Any


def _tied(graph: Any, keep: frozenset[str]) -> list[_Tied]:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for name, tensor in constants.items():
        both = {node.op_type: node for node in readers.get(name, [])}
        if len(tensor.dims) != 2 or sorted(both) != ["Gather", "Transpose"] or len(readers[name]) != 2:
            continue
        gather, turned = both["Gather"], both["Transpose"]
        axis = next((one.i for one in gather.attribute if one.name == "axis"), 0)
        products = readers.get(turned.output[0], [])
        if axis or len(products) != 1 or products[0].op_type != "MatMul" or products[0].input[1] != turned.output[0]:
            continue
        if {gather.name, products[0].name} & keep or not _turns(turned):
            continue
        found.append(_Tied(name, numpy_helper.to_array(tensor), gather, products[0]))
    return found


def _share(graph: Any, tied: _Tied, bits: int, block_size: int, accuracy_level: int) -> None:
    """Write codes as (rows, blocks, bytes), which MatMulNBits takes, and a Gather of three axes as well."""
    import numpy as np
    from onnx import helper, numpy_helper

    name, (rows, width) = tied.name, tied.table.shape
    codes, scales = in_blocks(tied.table, bits, block_size)
    blob = packed(codes, bits).reshape(rows, width // block_size, -1)
    constants = {
        f"{name}_Q{bits}": blob,
        f"{name}_scales": scales[..., None],
        f"{name}_flat": np.array([-1], np.int64),
        f"{name}_width": np.array([width], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(values, key) for key, values in constants.items())
    gather, product = tied.gather, tied.product
    ids, found, label = gather.input[1], gather.output[0], f"{gather.name}_Q{bits}"
    inside = {"domain": _DOMAIN, "bits": bits, "block_size": block_size}
    before = [
        helper.make_node("Reshape", [f"{name}_scales", f"{name}_flat"], [f"{name}_scales_flat"], f"{label}/scales"),
        helper.make_node("Shape", [ids], [f"{label}/ids_shape"], f"{label}/ids_shape"),
        helper.make_node(
            "Concat", [f"{label}/ids_shape", f"{name}_width"], [f"{label}/shape"], f"{label}/shape", axis=0
        ),
        helper.make_node(
            "GatherBlockQuantized",
            [f"{name}_Q{bits}", ids, f"{name}_scales"],
            [f"{label}/blocks"],
            label,
            gather_axis=0,
            quantize_axis=2,
            **inside,
        ),
        helper.make_node("Reshape", [f"{label}/blocks", f"{label}/shape"], [found], f"{label}/rows"),
    ]
    more = {"accuracy_level": accuracy_level} if accuracy_level else {}
    made = helper.make_node(
        "MatMulNBits",
        [product.input[0], f"{name}_Q{bits}", f"{name}_scales_flat"],
        list(product.output),
        f"{product.name}_Q{bits}",
        K=width,
        N=rows,
        **inside,
        **more,
    )
    place = next(at for at, node in enumerate(graph.node) if node.name == gather.name and node.output[0] == found)
    graph.node.remove(graph.node[place])
    for number, node in enumerate(before):
        graph.node.insert(place + number, node)
    next(node for node in graph.node if node.output[:1] == made.output[:1]).CopyFrom(made)


def quantize_tables(model: Any, *, bits: int, block_size: int, keep: frozenset[str] = frozenset()) -> int:
    """Make each Gather of a constant float table a GatherBlockQuantized, in place; return how many there were.

    Nodes named in `keep`, tables that others read as well, and rows that are no whole blocks stay.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found = 0
    for node in graph.node:
        if node.op_type != "Gather" or node.name in keep or node.input[0] not in constants:
            continue
        table = numpy_helper.to_array(constants[node.input[0]])
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        fits = table.ndim == 2 and table.dtype == "float32" and axis == 0 and table.shape[1] % block_size == 0
        if not fits or table.size < _LEAST or readers[node.input[0]] > 1:
            continue
        codes, scales = in_blocks(table, bits, block_size)
        name = node.input[0]
        graph.initializer.append(numpy_helper.from_array(packed(codes, bits), f"{name}_Q{bits}"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))
        more = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
        inputs = [f"{name}_Q{bits}", node.input[1], f"{name}_scales"]
        made = helper.make_node(
            "GatherBlockQuantized", inputs, list(node.output), f"{node.name}_Q{bits}", domain=_DOMAIN, **more
        )
        node.CopyFrom(made)
        found += 1
    if found:
        _name_domain(model)
    drop_unused(graph)
    return found


def _turns(node: Any) -> bool:
    """Return whether a Transpose swaps the two axes of a matrix."""
    return [list(one.ints) for one in node.attribute] in ([[1, 0]], [])


def _name_domain(model: Any) -> None:
    from onnx import helper

    if not any(entry.domain == _DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))


def in_blocks(table: Array, bits: int, block_size: int) -> tuple[Array, Array]:
    """Return codes, uint8 (rows, width), and scales, float32 (rows, blocks): value = (code - 2 ** (bits - 1)) * scale.

    The value that is furthest from zero is exact, whatever its sign: it takes the lowest code, as in GGUF's Q4_0.
    """
    import numpy as np

    half = 1 << (bits - 1)
    blocks = table.reshape(len(table), -1, block_size)
    furthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    scales = (furthest / -half).astype(np.float32)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.clip(np.rint(blocks * inverse) + half, 0, 2 * half - 1).astype(np.uint8)
    return codes.reshape(table.shape), scales[..., 0]


def packed(codes: Array, bits: int) -> Array:
    """Return codes as the operator takes them: of four bits two to a byte, the first one low."""
    return codes if bits == 8 else codes[:, 0::2] | (codes[:, 1::2] << 4)
