"""Embedding tables in int8, the rest in float: most of a small text model's memory for almost none of its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class EmbeddingsInt8:
    """Each Gather of a constant table reads int8 rows and makes floats of them: one scale to a table."""

    suffix: ClassVar[str] = "_quantized"
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider", "CUDAExecutionProvider")
    least_opset: ClassVar[int] = 10  # DequantizeLinear
    least_ort: ClassVar[str] = "1.15.0"

    @classmethod
    def for_target(cls, target: Profile) -> EmbeddingsInt8:
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
        """Write the candidate. Raises EdgeKDError where the model has no such table."""
        from edgekd.quantizers._onnx import must_have
        from edgekd.quantizers._tables import quantize_tables

        quantize_tables(model, out, keep=keep)
        must_have(out, ["DequantizeLinear"], recipe="embeddings_int8")
