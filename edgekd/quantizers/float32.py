"""No quantization: what every other recipe must beat."""

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
class Float32:
    """The exported model as it is."""

    suffix: ClassVar[str] = ""
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = (
        "CPUExecutionProvider",
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
    )
    least_opset: ClassVar[int] = 7
    least_ort: ClassVar[str] = "1.15.0"

    @classmethod
    def for_target(cls, target: Profile) -> Float32:
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
        """A copy."""
        external.copy(model, out)
