"""Measure: the yardstick and every variant under ONNX Runtime, on the same held-out samples, in the same run.

The yardstick is the teacher; of one that only answers it is the student's own fp32.

The protocol: fixed threads, spinning off, fresh processes, variants interleaved sample by sample in random
order, the first model a second time as A/A control, warm-up until medians settle. Accuracy comes from runs of
one sample each, and the timed runs' outputs must be those, bit for bit. This is where the test split is read.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgekd.core import confidence
from edgekd.core import statistics as intervals
from edgekd.core.benchmark import AGAIN, Benchmark, Timed
from edgekd.core.confidence import Suggestion
from edgekd.core.errors import EdgeKDError
from edgekd.core.latency import percentile, quantiles
from edgekd.core.metrics import Change, Metric
from edgekd.core.model import Model
from edgekd.core.predictions import agreement, metric_input
from edgekd.core.predictions import statistics as statistics_of
from edgekd.core.protocols import (
    MULTI_LABEL,
    ComparedTask,
    CostlyTask,
    HearingTask,
    NamedTask,
    NumericTask,
    Progress,
    RankingTask,
    WritingTask,
    named,
)
from edgekd.core.registry import make
from edgekd.core.results import this_host
from edgekd.data.splits import Splits, truth_of
from edgekd.inference import against_answers
from edgekd.inference.predict import answers
from edgekd.onboard.runner import pack
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Prediction

SCHEMA = 5  # of what is kept
_COLD_STARTS = 3
_TIMED_S, _LEAST_TIMED = 10.0, 8  # of a slow teacher no more rows are timed than it answers in that, but so many
_PROCESS_S = 45.0  # of timing in one process: where an inference takes seconds, fewer rows still
_GUEST_RUNS = 3  # int8 sessions have two modes, some MiB apart: the highest counts


def measure(
    plan: Plan,
    splits: Splits,
    models: dict[str, tuple[Model, Path]],
    out: Path,
    progress: Progress,
    before_timing: Callable[[], object] = lambda: None,
    suggested: Mapping[str, Suggestion] = MappingProxyType({}),
) -> None:
    """Write `measured.json` into `out`.

    `models` maps a name to its graphs and the folder of its tokenizer or preprocessing; the first is the yardstick.
    Above the confidence `suggested` for it, chosen on the selection rows, a model's answers are judged once more.
    Nothing is timed before `before_timing` returns. Raises EdgeKDError where a timed output is not the accuracy run's.
    """
    task = named(plan.made_task, splits.classes)
    truth = truth_of(task, splits.test, splits.classes, labelled=splits.test_labelled)
    inputs = [row.input for row in splits.test]
    progress.stage("measure: the models on the held-out samples", 2 * len(models) + plan.measuring.processes)
    with tempfile.TemporaryDirectory(prefix="edgekd-measure-") as name:
        lab = _Lab(plan, task, Path(name), progress, truth)
        results: dict[str, dict[str, Any]] = {}
        for model, (graphs, folder) in models.items():
            samples = task.encode(folder, inputs, plan.student.survey.max_size)
            results[model] = lab.accuracy(model, graphs, samples)
        before_timing()
        for model, (graphs, _) in models.items():
            results[model] |= lab.footprint(model, graphs)
            results[model]["generation"] = lab.generation(model, graphs)
        latency = lab.latency({model: graphs for model, (graphs, _) in models.items()}, results)
    yardstick = next(iter(models))
    for model in models:
        results[model] |= latency[model] | _against(lab, results[yardstick], results[model], itself=model == yardstick)
        results[model]["speedup"] = latency[model]["ratio"]
        if results[model]["_recall"] is not None:
            results[model]["recall"] = results[model]["_recall"]
        own = results[model]["_confidence"], results[model]["_statistics"]
        results[model]["above"] = above(suggested[model], *own) if model in suggested else None
    counted = Counter(name for row in splits.test for name in row.names)
    names = task.label_names() if isinstance(task, NamedTask) else splits.classes
    said = {
        "yardstick": yardstick,
        "answers": against_answers.compare(
            plan, splits, task, truth, {model: values["_statistics"] for model, values in results.items()}
        ),
        "models": {model: _plain(values) for model, values in results.items()},
        "aa": latency["aa"],
        "baseline": linear_baseline(task, splits, plan.seed),
        "n_test": len(inputs),
        "host": asdict(this_host()),
        "threads": plan.target.threads,
        "classes": {name: counted[name] for name in names} if splits.test_labelled and counted else {},
    }
    (out / "measured.json").write_text(json.dumps(said, indent=1), encoding="utf-8")


def guest_memory(plan: Plan, splits: Splits, model: Model, folder: Path, out: Path) -> None:
    """Write `guest.json` into `out`: peak RSS of what ships in an arm64 guest, in MiB, as often as _GUEST_RUNS."""
    task = plan.made_task
    size = min(task.headline_size, plan.student.survey.max_size)
    with tempfile.TemporaryDirectory(prefix="edgekd-measure-") as name:
        inputs = Path(name, "headline.npz")
        samples = task.encode(folder, [row.input for row in splits.selection[:8]], plan.student.survey.max_size)
        pack([task.sized(samples, size)], inputs)
        peaks = []
        with make("devices", "guest", cpu=plan.target.emulator_cpu).up() as device:
            for _ in range(_GUEST_RUNS):
                found = Benchmark(device, plan.target.threads).footprint(model, inputs)
                peaks.append(found.peak_rss_mib[0])
            host = device.host
    (out / "guest.json").write_text(json.dumps({"peak_rss_mib": peaks, "host": host}), encoding="utf-8")


def read_measured(folder: Path) -> dict[str, Any]:
    """What `measure` wrote."""
    said: dict[str, Any] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    return said


def linear_baseline(task: Any, splits: Splits, seed: int) -> dict[str, Any] | None:
    """The task's linear classifier on the same labels: what a network must beat. None where there are no labels."""

    if not (splits.test_labelled and splits.train and task.baseline_recipe):
        return None
    rows = task.baseline(splits.train, splits.test, seed)
    return {
        "recipe": task.baseline_recipe,
        "metric_value": task.metric.value(rows),
        "metric_interval": list(task.metric.interval(rows)),
        "n": len(rows),
    }


def _against(lab: _Lab, teacher: dict[str, Any], model: dict[str, Any], *, itself: bool = False) -> dict[str, Any]:
    """Agreement with the teacher, the points won or lost, what is retained; of the `itself` all are exact."""
    agreed, own, theirs = model["_agreed"], model["_statistics"], teacher["_statistics"]
    gained = Change(0.0, 0.0, 0.0) if itself else lab.metric.lost(theirs, own)  # the teacher is worse by that much
    kept = intervals.Retained(1.0, 1.0, 1.0) if itself else lab.metric.retained(own, theirs)
    agreement = lab.task.fidelity.value(agreed)
    return {
        "agreement": agreement,
        "agreement_interval": [agreement] * 2 if itself else list(lab.task.fidelity.interval(agreed)),
        "difference_points": gained.points,
        "difference_interval": [gained.low, gained.high],
        "retained": kept.value,
        "retained_interval": [kept.low, kept.high],
    }


def above(suggestion: Suggestion, certain: np.ndarray[Any, Any], correct: np.ndarray[Any, Any]) -> dict[str, Any]:
    """How many inputs are answered with at least that confidence, and how many of the answers are right; both (n,)."""
    answered = certain >= suggestion.threshold
    right = correct[answered]
    return {
        "suggestion": suggestion._asdict(),
        "coverage": float(answered.mean()),
        "coverage_interval": list(intervals.share_interval(answered)),
        "accuracy": float(right.mean()) if len(right) else None,
        "accuracy_interval": list(intervals.share_interval(right)) if len(right) else None,
        "n": len(right),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("_")}


class _Lab:
    """One measuring session in one temporary folder."""

    def __init__(self, plan: Plan, task: Any, folder: Path, progress: Progress, truth: Any | None) -> None:
        self.plan, self.task, self.folder, self.progress, self.truth = plan, task, folder, progress, truth
        self.metric: Metric = task.fidelity if truth is None else task.metric
        self.device, self.threads, self.done = make("devices", "local"), plan.target.threads, 0
        self.reference: list[Prediction] | None = None  # what the first model, the teacher, says
        self.timed_rows = 0

    def step(self, note: str) -> None:
        self.done += 1
        self.progress.step(self.done, note)

    def accuracy(self, name: str, model: Model, samples: Sequence[Any]) -> dict[str, Any]:
        """Every test sample alone, at its own length; packs the timed samples and the memory probes on the way.

        Rows without labels are judged by what the first model, the teacher, says of them.
        """
        longest = self.plan.student.survey.max_size
        for size in {min(self.task.headline_size, longest), longest}:
            pack([self.task.sized(samples, size)], self.folder / f"{name}.{size}.npz")
        began = time.monotonic()
        said, hashes = answers(model, samples, threads=self.threads, keep=self.task.keep)
        if self.reference is None:
            self.reference = said
            slow = int(len(samples) * _TIMED_S / (time.monotonic() - began))
            self.timed_rows = min(_timed(self.plan, self.task), max(_LEAST_TIMED, slow))
        pack(_evenly(samples, self.timed_rows), self.folder / f"{name}.timed.npz")
        agreed = agreement(self.task, said, self.reference)
        rows = agreed if self.truth is None else statistics_of(self.task, said, self.truth)
        value = self.metric.value(rows)
        self.step(f"{name}: {self.metric.name} {self.metric.spell(value)} of {len(samples)}")
        return {
            "_agreed": agreed,
            "_statistics": rows,
            "_hashes": hashes,
            "metric_value": value,
            "metric_interval": list(self.metric.interval(rows)),
            "n": len(samples),
            "artifact_mib": model.size_mib,
            "outputs": self._compared(said),
            "ranking": self._ranking(said),
            **self._certainty(said, rows),
            **self._heard(said, samples),
            "_recall": self._recall(said, rows),
            **self._targets(said),
        }

    def _compared(self, said: list[Prediction]) -> list[dict[str, Any]]:
        """Each output beside the teacher's, where the task says more of it than its fidelity."""
        if not isinstance(self.task, ComparedTask) or self.reference is None:
            return []
        return [asdict(one) for one in self.task.compared(said, self.reference)]

    def _ranking(self, said: list[Prediction]) -> list[dict[str, Any]]:
        """How far rows have the same others near as by the teacher, where the task compares rows."""
        task: Any = self.task
        if not isinstance(task, RankingTask) or self.reference is None:
            return []
        ours, theirs = (metric_input(self.task, rows) for rows in (said, self.reference))
        return [asdict(one) for one in task.ranking(ours, theirs)]

    def _heard(self, said: list[Prediction], samples: Sequence[Any]) -> dict[str, Any]:
        """What a model that hears made of the recordings, and how long the timed ones are; of other tasks nothing."""
        if not isinstance(self.task, HearingTask):
            return {}
        seconds = [self.task.seconds(sample) for sample in _evenly(samples, self.timed_rows)]
        return {"hearing": self.task.heard(said), "_seconds": seconds}

    def _targets(self, said: list[Prediction]) -> dict[str, Any]:
        """Of each target that is a number its error in its unit, R2 and rank correlation; of other tasks nothing."""
        task: Any = self.task
        if self.truth is None or not isinstance(task, NumericTask):
            return {}
        names = self.plan.data.label_column.split(",")
        names = names if len(names) == self.truth.shape[1] else [*map(str, range(1, self.truth.shape[1] + 1))]
        return {"targets": task.figures(metric_input(self.task, said), self.truth, names)}

    def _recall(self, said: list[Prediction], correct: np.ndarray[Any, Any]) -> list[float | None] | None:
        """Of each class, label or kind of span the share that is right; None where labels are unknown."""
        if self.truth is None:
            return None
        outputs = metric_input(self.task, said)
        if isinstance(self.task, NamedTask):
            return self.task.recalls(outputs, self.truth)
        if self.task.problem_type == MULTI_LABEL:
            return confidence.label_recalls(outputs, self.truth)
        if not self.task.one_of_classes:
            return None
        return confidence.recalls(self.truth, correct, outputs.shape[1])

    def _certainty(self, said: list[Prediction], correct: np.ndarray[Any, Any]) -> dict[str, Any]:
        """How far its confidence can be believed; nothing is known of outputs that are not one of classes."""
        if not self.task.one_of_classes:
            return {"_confidence": None, "ece": None, "ece_interval": None}
        certain = confidence.certainty(metric_input(self.task, said))
        if self.truth is None:
            return {"_confidence": certain, "ece": None, "ece_interval": None}
        return {
            "_confidence": certain,
            "ece": confidence.expected_calibration_error(certain, correct),
            "ece_interval": list(confidence.calibration_interval(certain, correct)),
        }

    def footprint(self, name: str, model: Model) -> dict[str, Any]:
        """Peak RSS at the headline size and at the longest input, cold start: each in fresh processes."""
        longest = self.plan.student.survey.max_size
        sizes = [min(self.task.headline_size, longest), longest]
        inputs = [self.folder / f"{name}.{size}.npz" for size in sizes]
        runs = [Benchmark(self.device, self.threads).footprint(model, *inputs) for _ in range(_COLD_STARTS)]
        self.step(f"{name}: memory and cold start")
        peaks = [run.peak_rss_mib[0] for run in runs]
        return {
            "peak_rss_mib": statistics.median(peaks),
            "peak_rss_interval": [min(peaks), max(peaks)],
            "peak_rss_longest_mib": statistics.median(run.peak_rss_mib[1] for run in runs),
            "longest": longest,
            "cold_start_ms": statistics.median(run.cold_start_ms for run in runs if run.cold_start_ms is not None),
            "load_ms": statistics.median(run.load_ms for run in runs if run.load_ms is not None),
            "import_baseline_mib": statistics.median(run.baseline_mib for run in runs),
        }

    def generation(self, name: str, model: Model) -> list[dict[str, Any]] | None:
        """Tokens a second in reading and in writing, and memory, against the context; None where nothing is written."""
        if not isinstance(self.task, WritingTask):
            return None
        most = self.plan.teacher.architecture.get("max_tokens", self.plan.student.survey.max_size) - self.task.written
        contexts = [one for one in self.task.contexts if one <= most] or [max(1, most)]
        longest = self.plan.student.survey.max_size
        job = self.device.run(
            "generation",
            **model.job,
            inputs=str(self.folder / f"{name}.{longest}.npz"),
            threads=self.threads,
            contexts=contexts,
            written=self.task.written,
        )
        self.step(f"{name}: reading and writing at {', '.join(map(str, contexts))} tokens")
        found: list[dict[str, Any]] = job["contexts"]
        return found

    def latency(self, timed: dict[str, Model], results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Latency of all models, interleaved; `ratio` is the first model's median over the model's own."""
        import numpy as np

        models = {
            name: Timed(model, self.folder / f"{name}.timed.npz", self.task.keep) for name, model in timed.items()
        }
        first = next(iter(models))
        samples: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in (*models, AGAIN)}
        stages: dict[str, list[Mapping[str, float]]] = {name: [] for name in models}
        rows: Sequence[int] = ()
        own = self.plan.measuring
        timing = Benchmark(self.device, self.threads).processes(
            models, own.processes, rounds=own.rounds, seed=self.plan.seed, most_s=own.processes * _PROCESS_S
        )
        for found in timing:
            rows = found.rows
            for name, own_ms in found.stages_ms.items():
                stages.setdefault(name, []).append(own_ms)
            for name, turns in found.latency_ms.items():
                samples[name].append(np.array(turns))
                packed = _evenly(results[first if name == AGAIN else name]["_hashes"], self.timed_rows)
                if found.row_sha256[name] != [packed[row] for row in found.rows]:
                    raise EdgeKDError(
                        f"{name}: the timed run's outputs are not the accuracy run's",
                        fix="the model is not deterministic on this host; report its operators and this CPU",
                    )
            self.step("latency, interleaved")
        for name, values in results.items():
            if "hearing" in values:
                values["hearing"] |= hearing(samples[name], [values["_seconds"][row] for row in rows], stages[name])
        return {name: latency_figures(samples[name], samples[first], samples["aa"]) for name in samples}


def latency_figures(
    own_runs: Sequence[np.ndarray[Any, Any]],
    first_runs: Sequence[np.ndarray[Any, Any]],
    control_runs: Sequence[np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """A model's latency beside the first one's, whose A/A control decides what is resolvable.

    Each has one array a process: (runs, rows), in ms. The ratio's interval is over processes and over rows: the wider.
    """
    import numpy as np

    every, first, control = (np.concatenate(list(runs)) for runs in (own_runs, first_runs, control_runs))
    own = np.median(every, axis=0)  # one figure a row: the median over its repetitions, so that rows are independent
    ratio, low, high = speed_ratio(first_runs, own_runs)
    upper = {percent: percentile(percent, every, first, control) for percent in (90, 99)}
    return {
        "latency_p50_ms": float(np.median(own)),
        "latency_interval": list(intervals.interval(own, np.median)),
        "latency_p90_ms": upper[90].value,
        "latency_p99_ms": upper[99].value,
        "latency_notes": {str(percent): one.says for percent, one in upper.items()},
        "latency_quantiles_ms": quantiles(every),
        "latency_n": int(every.size),
        "ratio": ratio,
        "ratio_interval": [low, high],
    }


def hearing(
    runs: Sequence[np.ndarray[Any, Any]], seconds: Sequence[float], stages: Sequence[Mapping[str, float]]
) -> dict[str, float | None]:
    """How fast recordings are heard: latency over their length, and ms of each stage, the median over processes.

    `runs` has one array a process: (rounds, rows), in ms; `seconds` is each row's length.
    """
    import numpy as np

    row_ms = np.median(np.concatenate(list(runs)), axis=0)
    told: dict[str, float | None] = {
        "real_time_factor": float(row_ms.sum() / 1000 / sum(seconds)),
        "seconds_median": statistics.median(seconds),
    }
    for name in ("encoder", "first_token", "token"):
        known = [own[name] for own in stages if name in own]  # of recordings without a voice there are none
        told[f"{name}_ms"] = statistics.median(known) if known else None
    return told


def speed_ratio(
    first_runs: Sequence[np.ndarray[Any, Any]], own_runs: Sequence[np.ndarray[Any, Any]]
) -> tuple[float, float, float]:
    """The first model's median latency over a model's own, and a 95% interval that holds over processes and rows.

    Both have one array a process: (runs, rows), in ms. Of one process only its rows can tell.
    """
    import numpy as np

    def by_row(runs: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = np.median(np.concatenate(list(runs)), axis=0)
        return found

    ratio, low, high = intervals.paired_ratio(by_row(first_runs), by_row(own_runs))
    if len(own_runs) > 1:
        each = [
            intervals.paired_ratio(by_row([one]), by_row([own]))[0]
            for one, own in zip(first_runs, own_runs, strict=True)
        ]
        _, least, most = intervals.process_ratio(each)
        low, high = min(low, least), max(high, most)
    return ratio, low, high


def _timed(plan: Plan, task: Any) -> int:
    """Return how many of the held-out samples are timed: few where one inference takes seconds."""
    usual = plan.measuring.timed_samples
    return min(usual, task.timed_rows) if isinstance(task, CostlyTask) else usual


def _evenly(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows, evenly spaced: the timed samples, the same for every model."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]
