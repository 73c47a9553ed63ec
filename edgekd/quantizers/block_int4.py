"""A language model's weights and embeddings in blocks of four bits: a fifth of its size, and some loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.errors import EdgeKDError

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class BlockInt4:
    """MatMulNBits and GatherBlockQuantized with `block_size` weights to a scale.

    `accuracy_level` 4 quantizes activations to int8 inside the operator, 0 leaves them in float: slower, and on some
    models other tokens (onnxruntime issue 29849).
    """

    block_size: int = 32  # a power of two from 16
    accuracy_level: int = 4
    table_bits: int = 8  # of embeddings and a projection that is tied to them: 8 or 4
    compensate: bool = False  # later columns make up for the errors of earlier ones, on calibration inputs (GPTQ)

    suffix: ClassVar[str] = "_q4"
    calibrates: ClassVar[bool] = True
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider", "CUDAExecutionProvider")
    least_opset: ClassVar[int] = 10
    least_ort: ClassVar[str] = "1.23.0"  # GatherBlockQuantized of uint8; of 8 bits MatMulNBits as well

    @classmethod
    def for_target(cls, target: Profile) -> BlockInt4:
        """Return the same for every target."""
        return cls()

    def variants(self) -> tuple[dict[str, Any], ...]:
        """Return activations in float between matrices; then compensation, which loses more than rounding on some."""
        return ({"accuracy_level": 0}, {"compensate": True})

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the candidate. Raises EdgeKDError without rows, or where a matrix stayed in float."""
        from edgekd.quantizers._language import quantize_language

        if self.compensate and not len(calibration):
            raise EdgeKDError("block_int4 has no calibration rows", fix="give unlabelled or validation rows")
        quantize_language(
            model,
            out,
            bits=4,
            table_bits=self.table_bits,
            block_size=self.block_size,
            accuracy_level=self.accuracy_level,
            keep=keep,
            recipe="block_int4",
            rows=calibration if self.compensate else (),
            cache=cache,
        )
