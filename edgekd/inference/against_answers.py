"""The student against a teacher that only answers: both on the held-out rows that the teacher was asked about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.metrics import Metric
from edgekd.data import answers
from edgekd.data.splits import Splits
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    import numpy as np

LEAST = 8  # rows, as of a test split: a figure on fewer would mean nothing


def compare(
    plan: Plan, splits: Splits, task: Any, truth: Any | None, models: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, Any] | None:
    """Return the teacher's metric, and each model's on the same rows, paired; None where too few have an answer.

    `models` are the metric's statistics of all held-out rows, (rows,) or (rows, k), by the model's name.
    """
    import numpy as np

    if plan.has_yardstick or truth is None:
        return None
    known = answers.read(Path(plan.teacher.folder))
    asked = [number for number, row in enumerate(splits.test) if row.input in known]
    if len(asked) < LEAST:
        return None
    metric: Metric = task.metric
    said = np.stack([known.logits(splits.test[number].input) for number in asked])
    theirs = task.statistics(said, truth[asked])
    return {
        "n": len(asked),
        "of": len(splits.test),
        "own_labels": not any(splits.test[number].input in known.labels for number in asked),
        "metric_value": metric.value(theirs),
        "metric_interval": list(metric.interval(theirs)),
        "models": {name: _against(metric, theirs, rows[asked]) for name, rows in models.items()},
    }


def _against(metric: Metric, theirs: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> dict[str, Any]:
    kept, gained = metric.retained(own, theirs), metric.lost(theirs, own)
    return {
        "metric_value": metric.value(own),
        "metric_interval": list(metric.interval(own)),
        "retained": kept.value,
        "retained_interval": [kept.low, kept.high],
        "difference_points": gained.points,
        "difference_interval": [gained.low, gained.high],
    }
