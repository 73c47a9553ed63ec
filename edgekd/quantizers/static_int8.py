"""Static int8 (QDQ): ranges of activations are set from calibration rows, not computed at run time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.errors import EdgeKDError

if TYPE_CHECKING:
    from edgekd.core.profile import Profile
    from edgekd.core.protocols import Sample


_PRODUCTS = ["MatMul", "Gemm", "Conv", "Gather"]
_BETWEEN = ["Clip", "Relu", "Add", "GlobalAveragePool"]


@dataclass(frozen=True)
class StaticInt8:
    """QDQ around matrix products with constant weights only: attention's products of two activations stay float.

    Quantizing every operator of a transformer destroys it without a warning. Between convolutions it is the other way
    round: what lies between them is quantized too, so that values stay in int8 from one to the next.
    """

    per_channel: bool = True
    reduce_range: bool = True
    weight_type: str = "int8"
    activation_type: str = "uint8"
    calibration_rows: int = 128

    suffix: ClassVar[str] = "_quantized"
    calibrates: ClassVar[bool] = True

    @classmethod
    def for_target(cls, target: Profile) -> StaticInt8:
        """With the profile's types, ranges and granularity."""
        return cls(target.per_channel, target.reduce_range, target.weight_type, target.activation_type)

    def quantize(self, model: Path, out: Path, calibration: Sequence[Sample]) -> None:
        """Write the candidate. Raises EdgeKDError where no calibration row is given, or nothing was quantized."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        from edgekd.core.quiet import quiet
        from edgekd.quantizers._onnx import Reader, has_operator, must_have, products_of_activations

        if not calibration:
            raise EdgeKDError("static_int8 has no calibration rows", fix="give unlabelled or validation rows")
        types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
        with tempfile.TemporaryDirectory(prefix="edgekd-static-") as folder, quiet():
            prepared = Path(folder, "prepared.onnx")
            quant_pre_process(str(model), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                out,
                Reader(prepared, calibration[: self.calibration_rows]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_PRODUCTS + (_BETWEEN if has_operator(prepared, "Conv") else []),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=types[self.weight_type],
                activation_type=types[self.activation_type],
                nodes_to_exclude=products_of_activations(prepared),
            )
        must_have(out, ("QuantizeLinear",), recipe="static_int8")
