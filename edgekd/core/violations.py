"""Violations: which budget or floor a figure does not meet. Decisions read the record, people read its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.core.errors import ArtifactTooLarge, BelowAccuracy, EdgeKDError, OverLatency, OverMemory

ERRORS: dict[str, type[EdgeKDError]] = {  # a target profile's key: the error, with its exit code, that refuses
    "memory_mib": OverMemory,
    "artifact_mib": ArtifactTooLarge,
    "latency_ms": OverLatency,
    "cold_start_ms": OverLatency,
    "max_drop_points": BelowAccuracy,
    "min_teacher_agreement": BelowAccuracy,
}
MIN_SPEEDUP = "min_speedup"  # asked for, not required: no error belongs to it


@dataclass(frozen=True)
class Violation:
    """A budget or floor that a figure does not meet. `text` is for readers: no decision is taken from it."""

    budget: str  # its key in the target profile, or min_speedup
    value: float  # in the budget's own unit
    limit: float
    kind: str  # of the value: measured or predicted
    text: str

    @property
    def error(self) -> type[EdgeKDError]:
        """Return the error that refuses it."""
        return ERRORS[self.budget]

    @property
    def refuses(self) -> bool:
        """Return whether nothing may be built in spite of it: a speedup or a predicted latency only warns."""
        return self.budget in ERRORS and not (self.budget == "latency_ms" and self.kind == "predicted")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Violation:
        """Return the record from plain values, as `asdict` gives them."""
        return cls(**values)
