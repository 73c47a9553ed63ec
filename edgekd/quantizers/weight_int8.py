"""Weights in eight bits by block, activations in float between matrices: little is lost, and little time is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class WeightInt8:
    """MatMulNBits with `block_size` weights of a column to a scale; not `symmetric`: and to a zero point."""

    block_size: int = 32  # a power of two from 16
    symmetric: bool = True
    embeddings: bool = True  # lookup tables in int8

    suffix: ClassVar[str] = "_quantized"
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider", "CUDAExecutionProvider")
    least_opset: ClassVar[int] = 10  # DequantizeLinear, of its tables
    least_ort: ClassVar[str] = "1.23.0"  # 8 bits: 1.22.0 runs them on x86-64 alone, 1.21.0 nowhere

    @classmethod
    def for_target(cls, target: Profile) -> WeightInt8:
        """The same for every target."""
        return cls()

    def variants(self) -> tuple[dict[str, Any], ...]:
        """Other block sizes."""
        return ({"block_size": 128},)

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the candidate. Raises EdgeKDError where the model has no matrix that it applies to."""
        from edgekd.quantizers._blocks import quantize_blocks

        quantize_blocks(
            model,
            out,
            bits=8,
            block_size=self.block_size,
            symmetric=self.symmetric,
            embeddings=self.embeddings,
            keep=keep,
            recipe="weight_int8",
        )
