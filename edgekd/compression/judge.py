"""Judge: what a variant is worth on the selection rows, beside the fp32 model of the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression import timing
from edgekd.compression.candidates import Candidate
from edgekd.compression.choose import FP32, Trial
from edgekd.core import statistics as intervals
from edgekd.core.benchmark import AGAIN, LEAST_ROWS, Benchmark, Timed
from edgekd.core.confidence import certainty, suggest_threshold
from edgekd.core.metrics import Change, Metric
from edgekd.core.model import Model
from edgekd.core.predictions import agreement, metric_input, statistics
from edgekd.core.protocols import GraphTask, named
from edgekd.core.registry import make
from edgekd.data.splits import Splits, truth_of
from edgekd.inference.predict import outputs
from edgekd.onboard.runner import pack
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample

_TIMED_ROWS, _ROUNDS = 20, 10
_MOST_S = 30.0  # that timing a trial may take: what may ship is timed again
_CONFIRMING_ROUNDS = 5  # in each of several processes


class Judge:
    """Measures candidates against `plain`, the fp32 model, and against what the reference model says of each row.

    `reference` holds its outputs on the selection rows. Rows are judged by their labels where these are known, else by
    agreement with the reference.
    """

    def __init__(
        self,
        plan: Plan,
        splits: Splits,
        task: Any,
        selection: Sequence[Sample],
        reference: Sequence[Prediction],
        plain: Model,
    ) -> None:
        self.plan, self.task, self.selection = plan, named(task, splits.classes), selection
        self.reference, self.plain = reference, plain
        self.truth = truth_of(task, splits.selection, splits.classes, labelled=splits.selection_labelled)
        self.metric: Metric = task.fidelity if self.truth is None else task.metric
        self._plain_score: np.ndarray[Any, Any] | None = None

    def fidelity(self, model: Model) -> tuple[list[Prediction], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """What the model says of the rows, how far it agrees with the reference, and its metric's statistics."""
        said = outputs(model, self.selection, threads=self.plan.target.threads, keep=self.task.keep)
        agreed = agreement(self.task, said, self.reference)
        return said, agreed, agreed if self.truth is None else statistics(self.task, said, self.truth)

    def trial(self, candidate: Candidate, model: Model) -> Trial:
        """All its figures."""
        said, agreed, score = self.fidelity(model)
        if self._plain_score is None:  # of a search that goes on, fp32's own trial lies in an earlier run
            self._plain_score = score if candidate.name == FP32 else self.fidelity(self.plain)[2]
        lost = self.metric.lost(score, self._plain_score)
        if candidate.name == FP32:  # it is the yardstick, not a sample of itself
            lost = Change(0.0, 0.0, 0.0)
        latency_ms, speed, peak = self._cost(model)
        certain = certainty(metric_input(self.task, said)) if self.task.one_of_classes else None
        suggestion = None if certain is None else suggest_threshold(certain, score)
        return Trial(
            name=candidate.name,
            said=candidate.words,
            kept=candidate.keep,
            agreement=self.task.fidelity.value(agreed),
            agreement_interval=self.task.fidelity.interval(agreed),
            drop_points=lost.points,
            drop_interval=(lost.low, lost.high),
            speed=speed[0],
            speed_interval=speed[1:],
            latency_ms=latency_ms,
            peak_rss_mib=peak,
            artifact_mib=model.size_mib,
            suggestion=suggestion._asdict() if suggestion else None,
            compared_with=self.plan.compared_with,
            by_low_end=isinstance(self.task, GraphTask),
        )

    def confirm(self, variants: Mapping[str, Model]) -> dict[str, timing.Speed]:
        """Speed over fp32 with its 95% interval over fresh processes, and median ms, by candidate.

        All are interleaved in each process with fp32 and with fp32 once more: that control's ratio is fp32's own.
        """
        rows, rounds = timing.effort(self.task, _TIMED_ROWS, _CONFIRMING_ROUNDS)
        models = {FP32: self.plain, **{name: model for name, model in variants.items() if name != FP32}}
        found = timing.speeds(
            make("devices", "local"),
            models,
            self.selection[:rows],
            threads=self.plan.target.threads,
            rounds=rounds,
            seed=self.plan.seed,
        )
        control = found.pop(AGAIN)._replace(ms=found[FP32].ms)
        return {**found, FP32: control}

    def _cost(self, model: Model) -> tuple[float, tuple[float, float, float], float]:
        """Median latency in ms, speed over fp32 with its interval (interleaved), peak RSS in MiB."""
        import numpy as np

        benchmark = Benchmark(make("devices", "local"), self.plan.target.threads)
        rows, rounds = timing.effort(self.task, _TIMED_ROWS, _ROUNDS)
        with tempfile.TemporaryDirectory(prefix="edgekd-trial-") as folder:
            timed, headline = Path(folder, "timed.npz"), Path(folder, "headline.npz")
            pack(list(self.selection[:rows]), timed)
            size = min(self.task.headline_size, self.plan.student.survey.max_size)
            pack([self.task.sized(self.selection, size)], headline)
            sides = {"float32": self.plain, "variant": model}
            models = {name: Timed(side, timed) for name, side in sides.items()}
            found = benchmark.time(models, rounds=rounds, seed=self.plan.seed, most_s=_MOST_S, least_rows=LEAST_ROWS)
            each = {name: np.median(np.array(turns), axis=0) for name, turns in found.latency_ms.items()}
            footprint = benchmark.footprint(model, headline)
        speed = intervals.paired_ratio(each["float32"], each["variant"])
        return float(np.median(each["variant"])), speed, footprint.peak_rss_mib[0]
