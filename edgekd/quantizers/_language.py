"""A language model in blocks of few bits: matrices, the tied projection, and the embeddings, each counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import external
from edgekd.core.errors import EdgeKDError

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample


def quantize_language(
    model: Path,
    out: Path,
    *,
    bits: int,
    table_bits: int,
    block_size: int,
    accuracy_level: int,
    keep: Sequence[str],
    recipe: str,
    rows: Sequence[Sample] = (),
    cache: Path | None = None,
) -> None:
    """Write the model with each MatMul of a constant matrix as MatMulNBits, each table as GatherBlockQuantized.

    Tables, and projections that are tied to one, take `table_bits`; a tied pair shares its codes. With `rows`, what
    the graph is fed, codes make up for each other's errors on these (GPTQ) and are kept in the folder `cache`; without,
    each is rounded. Raises EdgeKDError where nothing is left to do, or a large constant stayed in float that is not in
    `keep`.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    from edgekd.core.quiet import quiet
    from edgekd.quantizers._block_tables import quantize_tables, share_tied, unfold_tied
    from edgekd.quantizers._onnx import kept_names

    with quiet():
        plain = ONNXModel(external.load(model))
        plain.replace_gemm_with_matmul()  # the quantizer passes over Gemm without a word
        plain.clean_initializers()
        loaded, kept = plain.model, kept_names(keep)
        matrices = _matrices(loaded)
        stays = frozenset(kept)
        share_tied(loaded, bits=table_bits, block_size=block_size, accuracy_level=accuracy_level, keep=stays)
        unfold_tied(loaded)
        quantize_tables(loaded, bits=table_bits, block_size=block_size, keep=stays)
        if len(rows):
            _compensate(model, loaded, rows, stays, _How(bits, block_size, accuracy_level, cache))
        quantizer = MatMulNBitsQuantizer(
            loaded,
            bits=bits,
            block_size=block_size,
            is_symmetric=True,
            accuracy_level=accuracy_level or None,
            nodes_to_exclude=kept,
            op_types_to_quantize=("MatMul",),
        )
        quantizer.process()
        quantizer.model.topological_sort()
        made = quantizer.model.model
    _check(made, matrices, kept, recipe)
    external.save(made, out)


@dataclass(frozen=True)
class _How:
    bits: int
    block_size: int
    accuracy_level: int
    cache: Path | None


def _compensate(model: Path, graph: Any, rows: Sequence[Sample], keep: frozenset[str], how: _How) -> None:
    """Make each MatMul whose rows are whole blocks a MatMulNBits of GPTQ's codes, in place.

    `model` is the fp32 file.
    """
    from onnx import helper, numpy_helper

    from edgekd.quantizers import _gptq
    from edgekd.quantizers._block_tables import packed
    from edgekd.quantizers._onnx import drop_unused

    bits, block_size = how.bits, how.block_size
    constants = {tensor.name: tensor for tensor in graph.graph.initializer if len(tensor.dims) == 2}
    fit = [
        node
        for node in graph.graph.node
        if node.op_type == "MatMul" and node.name not in keep and node.input[1] in constants
    ]
    fit = [node for node in fit if constants[node.input[1]].dims[0] % block_size == 0]
    matrices = [_gptq.Matrix(node.name, node.input[0], constants[node.input[1]]) for node in fit]
    known = _gptq.kept_codes(model, matrices, rows, bits=bits, block_size=block_size, cache=how.cache)
    more = {"accuracy_level": how.accuracy_level} if how.accuracy_level else {}
    for node in fit:
        codes, scales = known[node.name]
        names = [f"{node.input[1]}_Q{bits}", f"{node.input[1]}_scales"]
        blob = packed(codes, bits).reshape(len(codes), codes.shape[1] // block_size, -1)
        graph.graph.initializer.append(numpy_helper.from_array(blob, names[0]))
        graph.graph.initializer.append(numpy_helper.from_array(scales.reshape(-1), names[1]))
        made = helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            list(node.output),
            f"{node.name}_Q{bits}",
            domain="com.microsoft",
            K=codes.shape[1],
            N=len(codes),
            bits=bits,
            block_size=block_size,
            **more,
        )
        node.CopyFrom(made)
    drop_unused(graph.graph)
    if fit and not any(entry.domain == "com.microsoft" for entry in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _matrices(model: Any) -> int:
    """Return how many products with a constant matrix there are, tied ones among them."""
    constants = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    constants |= {
        node.output[0] for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in constants
    }
    return sum(node.op_type == "MatMul" and node.input[1] in constants for node in model.graph.node)


def _check(made: Any, matrices: int, keep: Sequence[str], recipe: str) -> None:
    """Raise EdgeKDError where the library passed over a matrix or a table without a word."""
    changed = sum(node.op_type == "MatMulNBits" for node in made.graph.node)
    left = sum(node.op_type == "MatMul" and node.name in keep for node in made.graph.node)
    if not changed:
        raise EdgeKDError(
            f"{recipe} quantized nothing: the model has no operator that it applies to",
            fix="take the recipe out of the profile's recipes",
        )
    if changed < matrices - left:
        raise EdgeKDError(
            f"{recipe} made {changed} of {matrices} matrices small; {left} were to stay",
            fix="take another block size: the rows of each matrix are to be whole blocks",
        )
