"""Benchmark: latency and memory of models on a device that is up. All figures of a build come from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.core.model import Model
    from edgekd.core.protocols import Running

MOST_S = 60.0  # of one process in which models are timed
AGAIN = "aa"  # how the runner names its first model's second copy


@dataclass(frozen=True)
class Footprint:
    """What one fresh process takes, above its import baseline; times are None where they would mean nothing."""

    peak_rss_mib: tuple[float, ...]  # one for each file of inputs
    baseline_mib: float
    load_ms: float | None
    cold_start_ms: float | None


@dataclass(frozen=True)
class Timed:
    """A model and the packed inputs that it is timed on; `keep` is its task's output rule, None for all as they are."""

    model: Model
    inputs: Path
    keep: Mapping[str, str] | None = None

    @property
    def job(self) -> dict[str, Any]:
        """What the runner is told of it."""
        rule = {} if self.keep is None else {"keep": dict(self.keep)}
        return self.model.job | {"inputs": str(self.inputs)} | rule


@dataclass(frozen=True)
class Timings:
    """What one process measured of models that took turns; under AGAIN stands the first model once more."""

    latency_ms: Mapping[str, Sequence[Sequence[float]]]  # of each model: (rounds, rows)
    row_sha256: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of each row's outputs


@dataclass(frozen=True)
class Benchmark:
    """Measures on one device with that many threads. Raises what `Running.run` raises."""

    device: Running
    threads: int

    def footprint(self, model: Model, *inputs: Path) -> Footprint:
        """Run the model on files of packed inputs, one after the other, in one fresh process."""
        job = self.device.run("footprint", **model.job, inputs=[str(file) for file in inputs], threads=self.threads)
        return Footprint(tuple(job["peak_rss_mib"]), job["baseline_mib"], job["load_ms"], job["cold_start_ms"])

    def time(self, models: Mapping[str, Timed], *, rounds: int, seed: int) -> Timings:
        """Time the models in turn, in an order that the seed draws, in one fresh process.

        There are fewer rounds, but one, where all would take more than `MOST_S`.
        """
        jobs = {name: timed.job for name, timed in models.items()}
        job = self.device.run("time", models=jobs, threads=self.threads, rounds=rounds, seed=seed, most_s=MOST_S)
        return Timings(job["latency_ms"], job["row_sha256"])
