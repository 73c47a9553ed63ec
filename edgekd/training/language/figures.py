"""Figures of a student and its control on held-out documents, each with its interval by document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekd.core.metrics import BITS_PER_BYTE, Metric
from edgekd.training.language import scores

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def of_arms(teacher: Array, found: Mapping[str, scores.Scores]) -> dict[str, Any]:
    """Return each arm's figures on the held-out documents with intervals by document, and the difference."""
    metrics: dict[str, tuple[Metric, str]] = {
        "bits_per_byte": (BITS_PER_BYTE, "bits"),
        "next_token_agreement": (scores.AGREEMENT, "agreed"),
        "kl_to_teacher": (scores.DIVERGENCE, "divergence"),
    }

    def figure(metric: Metric, rows: Array) -> dict[str, Any]:
        return {"value": metric.value(rows), "interval": list(metric.interval(rows)), "unit": metric.unit}

    arms = {
        arm: {name: figure(metric, getattr(own, part)) for name, (metric, part) in metrics.items()}
        for arm, own in found.items()
    }
    told: dict[str, Any] = {"teacher": {"bits_per_byte": figure(BITS_PER_BYTE, teacher)}, "arms": arms}
    told["documents"], told["passages"] = len(set(teacher[:, -1].tolist())), len(teacher)
    if len(found) == 2:
        own, other = found.values()
        told["gained_over_labels_alone"] = {
            name: _gained(metric, getattr(own, part), getattr(other, part)) for name, (metric, part) in metrics.items()
        }
    return told


def _gained(metric: Metric, own: Array, other: Array) -> dict[str, Any]:
    """Return by how much the first is better, in the metric's own unit, points of a share; paired by document."""
    change, low, high = metric.moved(own, other)
    factor = metric.sign * metric.points
    ends = sorted((factor * low, factor * high))
    return {"value": factor * change, "interval": ends, "unit": "points" if metric.points == 100 else metric.unit}
