"""Percentiles of latency, given only where the host can resolve them, and the words for where it cannot.

A high percentile needs samples that reach it, and a host whose own noise does not make it: the same model, timed a
second time in the same run (the A/A control), must show the same median, the same percentile and the same lower ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

AA_LIMIT = 0.01  # medians of a model and of its control further apart are called unstable
NEEDED = {90: 44, 99: 459}  # samples, of which one at least lies above the percentile in 99 of 100 runs
AGREEMENT = 0.10  # of the percentile of a model and of its control
_NOT = "not resolvable on this host"


def is_stable(aa: float) -> bool:
    """Whether medians of a model and of its control, whose ratio this is, are within AA_LIMIT of each other."""
    return max(aa, 1 / aa) - 1 <= AA_LIMIT


def aa_ratio(first: np.ndarray[Any, Any], control: np.ndarray[Any, Any]) -> float:
    """The control's median latency over the model's; both (runs, rows): medians over rows of each row's median."""
    import numpy as np

    return float(np.median(np.median(control, axis=0)) / np.median(np.median(first, axis=0)))


@dataclass(frozen=True)
class Percentile:
    """A percentile of single timed runs in ms; `value` is None where `says` tells why."""

    percent: int
    value: float | None
    n: int
    says: str


def percentile(
    percent: int,
    every: np.ndarray[Any, Any],
    first: np.ndarray[Any, Any],
    control: np.ndarray[Any, Any],
) -> Percentile:
    """The 90th or 99th percentile of a model's single runs, where `first` and its A/A `control` agree.

    They must agree on the median, on this percentile and on those below it: a high one alone may agree by luck.
    All are latencies in ms of one interleaved run, (runs, rows); `first` may be the model itself.
    """
    import numpy as np

    n, needed = int(every.size), NEEDED[percent]
    if n < needed:
        return Percentile(percent, None, n, f"{_NOT}: p{percent} takes {needed} samples, these are {n}")
    if not is_stable(aa_ratio(first, control)):
        return Percentile(percent, None, n, f"{_NOT}: the A/A control is unstable")
    for each in (each for each in NEEDED if each <= percent):
        apart = float(np.percentile(control, each) / np.percentile(first, each)) - 1
        if abs(apart) > AGREEMENT:
            says = f"{_NOT}: the same model's p{each} differs by {abs(apart):.0%} from itself, {AGREEMENT:.0%} allowed"
            return Percentile(percent, None, n, says)
    return Percentile(percent, float(np.percentile(every, percent)), n, f"of {n} single runs")


def quantiles(every: np.ndarray[Any, Any]) -> list[float]:
    """Percentiles 0 to 100 of single timed runs, in ms: 101 values, ascending."""
    import numpy as np

    return [float(value) for value in np.percentile(every, np.arange(101))]


def held_to(values: Mapping[str, Any], percent: int) -> tuple[float, str]:
    """The latency in ms that a budget at that percentile is held against, and what it is, in words.

    `values` has latency_p50_ms, latency_p90_ms, latency_p99_ms, and `latency_notes` by percentile. The median stands in
    for a percentile that is not resolvable, and the words say so.
    """
    if percent == 50:
        return values["latency_p50_ms"], "median latency"
    value = values.get(f"latency_p{percent}_ms")
    if value is not None:
        return value, f"p{percent} latency"
    note = values.get("latency_notes", {}).get(str(percent), _NOT)
    return values["latency_p50_ms"], f"median latency (p{percent}: {note})"
