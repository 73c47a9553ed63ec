"""Benchmark: latency and memory of models on a device that is up. All figures of a build come from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.core.model import Model
    from edgekd.core.protocols import Running

MOST_S = 60.0  # of one process in which models are timed
LEAST_ROWS = 3  # that are timed, however long an inference takes: below, no median is worth the name
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
    stages_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # medians, of programs that tell them
    rows: Sequence[int] = ()  # which of the inputs were timed: fewer than there are where an inference takes seconds


@dataclass(frozen=True)
class Benchmark:
    """Measures on one device with that many threads. Raises what `Running.run` raises."""

    device: Running
    threads: int

    def footprint(self, model: Model, *inputs: Path) -> Footprint:
        """Run the model on files of packed inputs, one after the other, in one fresh process."""
        job = self.device.run("footprint", **model.job, inputs=[str(file) for file in inputs], threads=self.threads)
        return Footprint(tuple(job["peak_rss_mib"]), job["baseline_mib"], job["load_ms"], job["cold_start_ms"])

    def time(
        self,
        models: Mapping[str, Timed],
        *,
        rounds: int,
        seed: int,
        most_s: float = MOST_S,
        least_rows: int | None = None,
        rows: Sequence[int] | None = None,
    ) -> Timings:
        """Time the models in turn, in an order that the seed draws, in one fresh process.

        Where all would take more than `most_s` there are fewer rounds, but one, and with `least_rows` fewer rows, but
        so many. `rows` are those that an earlier process timed.
        """
        jobs = {name: timed.job for name, timed in models.items()}
        bounds = {"most_s": most_s, "least_rows": least_rows, "rows": None if rows is None else list(rows)}
        job = self.device.run("time", models=jobs, threads=self.threads, rounds=rounds, seed=seed, **bounds)
        return Timings(job["latency_ms"], job["row_sha256"], job.get("stages_ms", {}), tuple(job["rows"]))

    def processes(
        self, models: Mapping[str, Timed], count: int, *, rounds: int, seed: int, most_s: float = MOST_S
    ) -> Iterator[Timings]:
        """Time the models in `count` fresh processes, one after the other: the same rows in each.

        Where an inference takes long, rounds and rows are fewer, so that all processes together take about `most_s`;
        LEAST_ROWS in one round are timed whatever they take.
        """
        rows: Sequence[int] | None = None
        for number in range(count):
            found = self.time(
                models, rounds=rounds, seed=seed + number, most_s=most_s / count, least_rows=LEAST_ROWS, rows=rows
            )
            rows = found.rows
            yield found
