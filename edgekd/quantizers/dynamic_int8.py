"""Dynamic int8: weights quantized once, activations at each run. The usual choice for transformers on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from edgekd.core.profile import Profile
    from edgekd.core.protocols import Sample


@dataclass(frozen=True)
class DynamicInt8:
    """Matrices per channel, embeddings per tensor. `reduce_range` keeps weights to 7 bits, where U8S8 saturates."""

    per_channel: bool = True
    reduce_range: bool = True
    weight_type: str = "int8"

    suffix: ClassVar[str] = "_quantized"
    calibrates: ClassVar[bool] = False

    @classmethod
    def for_target(cls, target: Profile) -> DynamicInt8:
        """With the profile's weight type, ranges and granularity."""
        return cls(target.per_channel, target.reduce_range, target.weight_type)

    def quantize(self, model: Path, out: Path, calibration: Sequence[Sample]) -> None:
        """Write the candidate. Raises EdgeKDError where nothing was quantized."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from edgekd.core.quiet import quiet
        from edgekd.quantizers._onnx import must_have

        with quiet():
            quantize_dynamic(
                model,
                out,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType.QInt8 if self.weight_type == "int8" else QuantType.QUInt8,
            )
        must_have(out, ("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"), recipe="dynamic_int8")
