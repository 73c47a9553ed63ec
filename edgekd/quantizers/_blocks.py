"""Weight-only quantization: matrices in blocks of few bits, each block with its scale (MatMulNBits)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekd.core import external

_INT8_ACTIVATIONS = 4  # `accuracy_level` of the kernel: it quantizes activations too, block by block


def quantize_blocks(
    model: Path,
    out: Path,
    *,
    bits: int,
    block_size: int,
    symmetric: bool,
    embeddings: bool,
    keep: Sequence[str],
    recipe: str,
) -> None:
    """Write the model with each MatMul of a constant matrix, and each plain Gemm, as MatMulNBits.

    With `embeddings` its lookup tables are int8.

    Raises EdgeKDError where there is none. Opset and IR version stay: the operator is of ONNX Runtime's own domain.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    from edgekd.core.quiet import quiet
    from edgekd.quantizers._onnx import kept_names, must_have
    from edgekd.quantizers._tables import quantize_tables
    from edgekd.quantizers._tied import share, untie

    with tempfile.TemporaryDirectory(prefix="edgekd-blocks-") as folder, quiet():
        small = Path(folder, "tables.onnx")
        model, tied = untie(model, Path(folder, "untied.onnx")) if embeddings and bits == 8 else (model, ())
        if embeddings:
            quantize_tables(model, small, keep=[*keep, *(one.gather for one in tied)])
        plain = ONNXModel(external.load(small if embeddings else model))
        plain.replace_gemm_with_matmul()  # the quantizer passes over Gemm without a word
        plain.clean_initializers()
        quantizer = MatMulNBitsQuantizer(
            plain.model,
            bits=bits,
            block_size=block_size,
            is_symmetric=symmetric,
            accuracy_level=_INT8_ACTIVATIONS,
            nodes_to_exclude=kept_names(keep),
            op_types_to_quantize=("MatMul",),
        )
        quantizer.process()
        quantizer.model.topological_sort()
        external.save(quantizer.model.model, out)
        share(out, tied)
    must_have(out, ["MatMulNBits"], recipe=recipe)
