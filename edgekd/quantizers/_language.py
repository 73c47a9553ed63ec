"""A language model in blocks of few bits: matrices, the tied projection, and the embeddings, each counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.core import external
from edgekd.core.errors import EdgeKDError


def quantize_language(
    model: Path,
    out: Path,
    *,
    bits: int,
    block_size: int,
    symmetric: bool,
    accuracy_level: int,
    table_bits: int,
    keep: Sequence[str],
    recipe: str,
) -> None:
    """Write the model with each MatMul of a constant matrix as MatMulNBits, each table as GatherBlockQuantized.

    A projection that is tied to the embeddings gets a matrix of its own first: nothing else makes it small. Raises
    EdgeKDError where nothing is left to do, or a large constant stayed in float that is not in `keep`.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    from edgekd.core.quiet import quiet
    from edgekd.quantizers._block_tables import quantize_tables, unfold_tied

    with quiet():
        loaded = external.load(model)
        matrices = _matrices(loaded)
        unfold_tied(loaded)
        quantize_tables(loaded, bits=table_bits, block_size=block_size, keep=frozenset(keep))
        quantizer = MatMulNBitsQuantizer(
            loaded,
            bits=bits,
            block_size=block_size,
            is_symmetric=symmetric,
            accuracy_level=accuracy_level or None,
            nodes_to_exclude=list(keep),
            op_types_to_quantize=("MatMul",),
        )
        quantizer.process()
        quantizer.model.topological_sort()
        made = quantizer.model.model
    _check(made, matrices, keep, recipe)
    external.save(made, out)


def _matrices(model: Any) -> int:
    """Return how many products with a constant matrix there are, tied ones among them."""
    constants = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    constants |= {
        node.output[0] for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in constants
    }
    return sum(node.op_type == "MatMul" and node.input[1] in constants for node in model.graph.node)


def _check(made: Any, matrices: int, keep: Sequence[str], recipe: str) -> None:
    """Raise EdgeKDError where the library passed over a matrix or a table without a word."""
    kinds = [node.op_type for node in made.graph.node]
    changed, left = (
        kinds.count("MatMulNBits"),
        len([name for name in keep if any(node.name == name for node in made.graph.node)]),
    )
    if not changed:
        raise EdgeKDError(
            f"{recipe} quantized nothing: the model has no product with a constant matrix",
            fix="take the recipe out of the profile's recipes",
        )
    if changed < matrices - left:
        raise EdgeKDError(
            f"{recipe} made {changed} of {matrices} matrices small; {left} were to stay",
            fix="take another block size: the rows of each matrix are to be whole blocks",
        )
