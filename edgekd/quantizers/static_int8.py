"""Static int8 (QDQ): ranges of activations are set from calibration rows, not computed at run time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core import external
from edgekd.core.errors import EdgeKDError, UsageError, suggestion

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile


_PRODUCTS = ["MatMul", "Gemm", "Conv", "Gather"]
_BETWEEN = ["Clip", "Relu", "Add", "GlobalAveragePool"]


@dataclass(frozen=True)
class StaticInt8:
    """QDQ in front of matrix products with constant weights only: what comes out of them stays float, and so do
    attention's products of two activations.

    Between convolutions what lies between them is quantized too, so that values stay in int8 from one to the next.
    `every_operator` quantizes all that ONNX Runtime can, as its `quantize_static` does: it destroys a transformer
    without a warning, and is here to be diagnosed. `symmetric` is what TensorRT takes: zero points of 0, float biases.
    """

    per_channel: bool = True
    reduce_range: bool = True
    weight_type: str = "int8"
    activation_type: str = "uint8"
    symmetric: bool = False
    method: str = "minmax"  # or percentile, entropy
    percentile: float = 99.99  # of the values that stay unclipped, by that method
    calibration_rows: int = 128
    every_operator: bool = False

    suffix: ClassVar[str] = "_quantized"
    calibrates: ClassVar[bool] = True
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider", "TensorrtExecutionProvider")
    least_ort: ClassVar[str] = "1.15.0"

    def __post_init__(self) -> None:
        from edgekd.quantizers._calibration import METHODS

        if self.method not in METHODS:
            raise UsageError(
                f"static_int8 knows no calibration method {self.method!r}", fix=suggestion(self.method, METHODS)
            )

    @property
    def least_opset(self) -> int:
        """DequantizeLinear has an axis, for one scale a channel, from opset 13 on."""
        return 13 if self.per_channel else 10

    @classmethod
    def for_target(cls, target: Profile) -> StaticInt8:
        """With the profile's types, ranges and granularity; symmetric int8 in all eight bits for TensorRT."""
        if target.execution_provider == "TensorrtExecutionProvider":
            return cls(target.per_channel, reduce_range=False, activation_type="int8", symmetric=True)
        return cls(target.per_channel, target.reduce_range, target.weight_type, target.activation_type)

    def variants(self) -> tuple[dict[str, Any], ...]:
        """Ranges that clip outliers. Entropy is left out: it clips so much that it ruined every model that we tried."""
        return ({"method": "percentile"},)

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the candidate. Raises EdgeKDError where no calibration row is given, or nothing was quantized."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
        from onnxruntime.quantization.shape_inference import quant_pre_process

        from edgekd.core.quiet import quiet
        from edgekd.quantizers._calibration import calibrate
        from edgekd.quantizers._onnx import (
            TYPES,
            has_branches,
            has_operator,
            must_have,
            products_of_activations,
            written,
        )

        if has_branches(model):
            raise EdgeKDError(
                "static_int8 sees no ranges inside the branches of an If", fix="take another recipe for this graph"
            )
        if not len(calibration):
            raise EdgeKDError("static_int8 has no calibration rows", fix="give unlabelled or validation rows")
        with (
            tempfile.TemporaryDirectory(prefix="edgekd-static-") as folder,
            quiet(),
            written(model, out) as to,
        ):
            prepared = Path(folder, "prepared.onnx")
            quant_pre_process(
                str(model),
                str(prepared),
                skip_optimization=True,
                skip_symbolic_shape=True,
                save_as_external_data=to.apart,
                all_tensors_to_one_file=True,
                external_data_location=external.data_file(prepared).name,
            )
            convolves = has_operator(prepared, ["Conv"])
            operators = _PRODUCTS + (_BETWEEN if convolves else [])
            ranges = calibrate(
                prepared,
                calibration,
                rows=self.calibration_rows,
                method=self.method,
                percentile=self.percentile,
                operators=sorted({*QLinearOpsRegistry, *QDQRegistry}) if self.every_operator else operators,
                folder=cache or Path(folder),
            )
            quantize_static(
                prepared,
                to.file,
                calibration_cache_path=ranges,
                use_external_data_format=to.apart,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=None if self.every_operator else operators,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType[TYPES[self.weight_type]],
                activation_type=QuantType[TYPES[self.activation_type]],
                nodes_to_exclude=[*keep, *([] if self.every_operator else products_of_activations(prepared))],
                extra_options={
                    "ActivationSymmetric": self.symmetric,
                    "QuantizeBias": not self.symmetric,
                    "OpTypesToExcludeOutputQuantization": [] if convolves or self.every_operator else _PRODUCTS[:2],
                },
            )
        must_have(out, ["QuantizeLinear"], recipe="static_int8")
