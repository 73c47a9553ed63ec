"""A language model's weights and embeddings in blocks of eight bits: a third of its size for next to no loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class BlockInt8:
    """MatMulNBits and GatherBlockQuantized with `block_size` weights to a scale.

    `accuracy_level` 4 quantizes activations to int8 inside the operator, 0 leaves them in float: slower, and on some
    models other tokens (onnxruntime issue 29849).
    """

    block_size: int = 32  # a power of two from 16
    accuracy_level: int = 4

    suffix: ClassVar[str] = "_quantized"
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider", "CUDAExecutionProvider")
    least_opset: ClassVar[int] = 10
    least_ort: ClassVar[str] = "1.23.0"  # GatherBlockQuantized of uint8; of 8 bits MatMulNBits as well

    @classmethod
    def for_target(cls, target: Profile) -> BlockInt8:
        """Return the same for every target."""
        return cls()

    def variants(self) -> tuple[dict[str, Any], ...]:
        """Return activations in float between matrices."""
        return ({"accuracy_level": 0},)

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the candidate. Raises EdgeKDError where a matrix or a table that it applies to stayed in float."""
        from edgekd.quantizers._language import quantize_language

        quantize_language(
            model,
            out,
            bits=8,
            table_bits=8,
            block_size=self.block_size,
            accuracy_level=self.accuracy_level,
            keep=keep,
            recipe="block_int8",
        )
