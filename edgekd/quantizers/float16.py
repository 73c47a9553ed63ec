"""Half precision, for GPUs: weights and activations in float16, inputs and outputs as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core import external

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class Float16:
    """ONNX Runtime's float16 conversion, inputs and outputs kept in float32."""

    suffix: ClassVar[str] = "_fp16"
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
    least_opset: ClassVar[int] = 7
    least_ort: ClassVar[str] = "1.15.0"

    @classmethod
    def for_target(cls, target: Profile) -> Float16:
        """The same for every target."""
        return cls()

    def variants(self) -> tuple[dict[str, Any], ...]:
        """None: it has no options."""
        return ()

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the float16 model."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        # a path where shapes cannot be inferred in memory: one message is too small for the graph
        whole = str(model) if external.has_data(model) else onnx.load(model)
        half = OnnxModel(convert_float_to_float16(whole, keep_io_types=True, node_block_list=list(keep)))
        half.topological_sort()  # the conversion appends its casts at the end
        external.save(half.model, out)
