"""Timing: models side by side in several fresh processes, each of which is one sample of a speed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd.compression.choose import PROCESSES
from edgekd.core import statistics as intervals
from edgekd.core.benchmark import Benchmark, Timed
from edgekd.core.model import Model
from edgekd.core.protocols import CostlyTask
from edgekd.onboard.runner import pack

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

_COSTLY_ROUNDS = 2
_MOST_S = 90.0  # of all processes together


def effort(task: object, rows: int, rounds: int) -> tuple[int, int]:
    """Return how many rows are timed in how many rounds: fewer of a task of which one inference takes seconds."""
    if isinstance(task, CostlyTask):
        return min(rows, task.timed_rows), min(rounds, _COSTLY_ROUNDS)
    return rows, rounds


class Speed(NamedTuple):
    """Speed over the first model with its 95% interval over processes, and median ms."""

    value: float
    low: float
    high: float
    ms: float


def speeds(
    device: Any, models: Mapping[str, Model], samples: Sequence[Sample], *, threads: int, rounds: int, seed: int
) -> dict[str, Speed]:
    """Give each model's speed over the first, from PROCESSES fresh processes in which all are interleaved.

    Under AGAIN stands the first model's over itself: what this host's noise alone makes of a speed. Where a session
    lies in memory moves it by percents, so a process is one sample: its ratio of medians over rows.
    """
    import numpy as np

    ms: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="edgekd-timing-") as folder:
        inputs = Path(folder, "timed.npz")
        pack(list(samples), inputs)
        timed = {name: Timed(model, inputs) for name, model in models.items()}
        benchmark = Benchmark(device, threads)
        for found in benchmark.processes(timed, PROCESSES, rounds=rounds, seed=seed, most_s=_MOST_S):
            for name, turns in found.latency_ms.items():
                ms.setdefault(name, []).append(float(np.median(np.median(np.array(turns), axis=0))))
    first = np.array(ms[next(iter(models))])
    return {
        name: Speed(*intervals.process_ratio((first / np.array(own)).tolist()), float(np.median(own)))
        for name, own in ms.items()
    }
