"""Floors: the one rule by which accuracy is held against what was asked for, here and on the target's kernels.

A floor is held by the figure itself, not by an end of its interval, on all rows that the figure is of: `min_retained`
on the held-out rows, `max_drop_points` and `min_teacher_agreement` on the selection rows. Of any graph
(`--task tensors`), whose rows are few, the low end of its fidelity's interval is the figure. On other kernels that
figure is moved by what changed there on the rows that were asked, if there were enough of them. The interval stands
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """One floor and the figure that is held against it. A limit (`at_most`) is a floor from above."""

    name: str  # the profile's or plan's: min_retained, max_drop_points, min_teacher_agreement
    asked: float
    value: float
    interval: tuple[float, float] | None = None  # the figure's, 95%; None where none is known
    at_most: bool = False

    @property
    def held(self) -> bool:
        """Whether the figure itself keeps it."""
        return self.value <= self.asked if self.at_most else self.value >= self.asked

    @property
    def clear(self) -> bool:
        """Whether its whole interval keeps it, or breaks it."""
        return self.interval is None or self.interval[1] <= self.asked or self.interval[0] >= self.asked

    def as_dict(self) -> dict[str, object]:
        """As `report.json` carries it."""
        return {
            "name": self.name,
            "asked": self.asked,
            "value": self.value,
            "interval": list(self.interval) if self.interval else None,
            "held": self.held,
            "clear": self.clear,
        }
