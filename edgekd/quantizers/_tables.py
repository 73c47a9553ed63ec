"""Embedding tables in int8, for the recipes that leave activations in float."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def quantize_tables(model: Path, out: Path, *, keep: Sequence[str]) -> None:
    """Write the model with each Gather of a constant table reading int8 rows, one scale to a table.

    A Gather of int8 with a DequantizeLinear behind it is plain ONNX, within any opset from 10. (GatherBlockQuantized
    would ask for opset 21.)
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from edgekd.core.quiet import quiet
    from edgekd.quantizers._onnx import written

    with quiet(), written(model, out) as to:
        quantize_dynamic(
            model,
            to.file,
            use_external_data_format=to.apart,
            op_types_to_quantize=["Gather"],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
