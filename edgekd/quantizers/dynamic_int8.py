"""Dynamic int8: weights quantized once, activations at each run. The usual choice for transformers on a CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile

_LOOKUPS = ("Gather", "EmbedLayerNormalization")


@dataclass(frozen=True)
class DynamicInt8:
    """Matrices per channel, embeddings per tensor. `reduce_range` keeps weights to 7 bits, where U8S8 saturates."""

    per_channel: bool = True
    reduce_range: bool = True
    weight_type: str = "int8"
    embeddings: bool = True  # False: lookup tables stay in float, and the file large
    smooth: float = 0.0  # how far wide channels of activations are made narrower (`_smooth`); takes calibration rows

    suffix: ClassVar[str] = "_quantized"
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)
    least_opset: ClassVar[int] = 11  # DynamicQuantizeLinear
    least_ort: ClassVar[str] = "1.15.0"

    @property
    def calibrates(self) -> bool:
        """Whether it takes rows: to smooth by them."""
        return self.smooth > 0

    @classmethod
    def for_target(cls, target: Profile) -> DynamicInt8:
        """With the profile's weight type, ranges and granularity."""
        return cls(target.per_channel, target.reduce_range, target.weight_type)

    def variants(self) -> tuple[dict[str, Any], ...]:
        """Smoothed, as it costs next to nothing; embeddings in float; where weights have 7 bits, unsigned ones of 8,
        which no kernel saturates on."""
        eight = ({"weight_type": "uint8", "reduce_range": False},) if self.reduce_range else ()
        return ({"smooth": 0.8}, {"smooth": 0.7}, *eight, {"embeddings": False})

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the candidate. Raises EdgeKDError where nothing was quantized, or there are no rows to smooth with."""
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.registry import IntegerOpsRegistry

        from edgekd.core.quiet import quiet
        from edgekd.quantizers._onnx import TYPES, kept_names, must_have, written
        from edgekd.quantizers._smooth import smooth
        from edgekd.quantizers._tied import share, untie

        with (
            tempfile.TemporaryDirectory(prefix="edgekd-dynamic-") as folder,
            quiet(),
            written(model, out) as to,
        ):
            if self.smooth:
                model = smooth(model, Path(folder, "smooth.onnx"), calibration, strength=self.smooth, keep=keep)
            model, tied = untie(model, Path(folder, "untied.onnx")) if self.embeddings else (model, ())
            quantize_dynamic(
                model,
                to.file,
                use_external_data_format=to.apart,
                op_types_to_quantize=[one for one in IntegerOpsRegistry if self.embeddings or one not in _LOOKUPS],
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType[TYPES[self.weight_type]],
                nodes_to_exclude=[*kept_names(keep), *(one.gather for one in tied)],
                # shape inference knows no fused operator
                extra_options={"DefaultTensorType": TensorProto.FLOAT, "EnableSubgraph": True},
            )
            share(to.file, tied)
        must_have(out, ("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"), recipe="dynamic_int8")
