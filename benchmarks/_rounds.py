"""Speeds of many models side by side: rounds in several sets of fresh processes, measured again while A/A is unstable.

Where a model lies in a process's memory moves its speed by percents, so processes are the samples, not rounds. The
A/A control is the fp32 model a second time: how far its speed is from 1 is what this host adds to every other speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.core.statistics import process_ratio, share_interval

REFERENCE, AA, OURS = "ORT fp32", "fp32 again", "edgekd"
AA_LIMIT = 0.01  # a control further from 1 makes the run unstable, as in the report of a build

Times = Mapping[str, Sequence[float]]  # median ms of each set of processes, by name


def mean_with_interval(scores: Any) -> dict[str, Any]:
    """Give the mean of scores (rows,) from 0 to 1 with its 95% interval: Wilson's for hits."""
    return {"value": float(np.mean(scores)), "interval": list(share_interval(scores))}


def speed_over(times: Times, name: str, other: str) -> dict[str, Any]:
    """Give how much faster `name` is than `other`, with its 95% interval over processes (two at least)."""
    ratios = np.asarray(times[other]) / np.asarray(times[name])
    value, low, high = process_ratio(list(ratios))
    return {"value": value, "interval": [low, high]}


def speeds(times: Times) -> dict[str, dict[str, Any]]:
    """Give, by name, ms, `speedup` over the reference and, where ours ran, `over_ours`."""
    found: dict[str, dict[str, Any]] = {}
    for name, ms in times.items():
        found[name] = {"ms": float(np.median(ms)), "speedup": speed_over(times, name, REFERENCE)}
        if OURS in times:
            found[name]["over_ours"] = speed_over(times, name, OURS)
    return found


def off_by(figures: Mapping[str, Any]) -> float | None:
    """Give how far the A/A control's speed is from 1; None where no speed was measured."""
    control = figures.get(AA, {})
    return abs(control["speedup"]["value"] - 1) if "speedup" in control else None


def is_unstable(figures: Mapping[str, Any]) -> bool:
    """Whether the A/A control calls the speeds of these figures, by name, unstable."""
    off = off_by(figures)
    return off is not None and off > AA_LIMIT


def until_stable(measure: Callable[[], dict[str, Any]], tries: int) -> tuple[dict[str, Any], int]:
    """Measure until A/A calls it stable, `tries` times at most; give the figures and how many tries it took.

    Where none is stable the last stands: choosing among them would favour luck.
    """
    taken = 1
    figures = measure()
    while is_unstable(figures) and taken < tries:
        figures, taken = measure(), taken + 1
    return figures, taken


def ahead_of_us(lengths: Mapping[str, Mapping[str, Any]]) -> list[str] | None:
    """Name who is faster than ours, clear of noise, at equal or better fidelity; None where ours did not run.

    A length whose speeds are unstable names nobody: what it shows is not clear of noise.
    """
    if not all(OURS in rows for rows in lengths.values()):
        return None
    return [
        f"{name} at {length}"
        for length, rows in lengths.items()
        if not is_unstable(rows)
        for name, one in rows.items()
        if name not in (OURS, REFERENCE, AA)
        and "over_ours" in one
        and one["fidelity"]["value"] >= rows[OURS]["fidelity"]["value"]
        and one["over_ours"]["interval"][0] > 1
    ]
