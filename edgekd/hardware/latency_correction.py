"""Readings of real boards beside what was predicted for them: what later predictions for such a core are scaled by."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log
from pathlib import Path

from edgekd.core.files import is_plain, storage_error, write_file

LEAST_BAND = 0.25  # a calibrated prediction's, to either side: a reading is of one model, the next is another's


@dataclass(frozen=True)
class Reading:
    """One receipt from a real board, not emulated, and the uncalibrated prediction for the same model."""

    microarch: str
    clock_mhz: int  # the profile's, that the prediction was made with
    recipe: str
    predicted_ms: float
    measured_ms: float
    digest: str  # the receipt's
    cpu: str  # the device's own name

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured_ms / self.predicted_ms


@dataclass(frozen=True)
class Calibration:
    """What readings make of a prediction: factors for its value and for both ends of its band, and words."""

    factor: float
    low: float
    high: float
    says: str


def in_integers(recipe: str) -> bool:
    """Whether a model of that recipe computes in 8-bit integers; others compute in float."""
    return recipe.startswith(("dynamic_int8", "static_int8"))


def calibration(readings: Sequence[Reading], recipe: str) -> Calibration | None:
    """The geometric mean of the readings' ratios, of the recipe's own arithmetic where there are any; None of none.

    The band reaches from the least ratio to the largest, and LEAST_BAND to either side at least.
    """
    own = [one for one in readings if in_integers(one.recipe) == in_integers(recipe)] or list(readings)
    if not own:
        return None
    ratios = [one.ratio for one in own]
    factor = exp(sum(map(log, ratios)) / len(ratios))
    boards = ", ".join(sorted({one.cpu for one in own}))
    count = f"{len(own)} receipt" + ("s" if len(own) > 1 else "")
    return Calibration(
        factor,
        min(*ratios, factor * (1 - LEAST_BAND)),
        max(*ratios, factor * (1 + LEAST_BAND)),
        f"calibrated by {count} from {boards}",
    )


def load(root: Path, microarch: str) -> tuple[Reading, ...]:
    """The readings of a core that are kept under a store's root; none where there are none, or they are damaged."""
    try:
        file = _file(root, microarch)
        if not is_plain(file):
            return ()
        said = json.loads(file.read_text(encoding="utf-8"))
        found = tuple(Reading(**one) for one in said)
        return tuple(one for one in found if one.predicted_ms > 0 and one.measured_ms > 0)
    except (OSError, ValueError, TypeError):
        return ()


def keep(root: Path, reading: Reading) -> tuple[Reading, ...]:
    """Add a reading, at once; one of the same model and board takes the older one's place. Raises StoreError.

    Of two that add at the same time the second waits, so that none is lost.
    """
    from filelock import FileLock

    place = _file(root, reading.microarch)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            kept = (*(one for one in load(root, reading.microarch) if not _same(one, reading)), reading)
            write_file(place, json.dumps([asdict(one) for one in kept], indent=1))
    except OSError as error:
        raise storage_error(error, place) from error
    return kept


def _same(one: Reading, other: Reading) -> bool:
    """Whether both are of one model on one board."""
    return replace(one, measured_ms=other.measured_ms, digest=other.digest) == other


def _file(root: Path, microarch: str) -> Path:
    return root / "calibration" / (re.sub(r"[^a-z0-9]+", "-", microarch.lower()).strip("-") + ".json")
