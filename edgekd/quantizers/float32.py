"""No quantization: what every other recipe must beat."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from edgekd.core.profile import Profile
    from edgekd.core.protocols import Sample


@dataclass(frozen=True)
class Float32:
    """The exported model as it is."""

    suffix: ClassVar[str] = ""
    calibrates: ClassVar[bool] = False

    @classmethod
    def for_target(cls, target: Profile) -> Float32:
        """The same for every target."""
        return cls()

    def quantize(self, model: Path, out: Path, calibration: Sequence[Sample]) -> None:
        """A copy."""
        shutil.copyfile(model, out)
