"""Versus: bundles of one task timed against each other, interleaved in one run, with a paired verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import statistics as intervals
from edgekd.core.benchmark import AGAIN, Benchmark, Timed
from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.core.latency import AA_LIMIT, is_stable
from edgekd.core.metrics import unit_of
from edgekd.core.protocols import Progress, Sample
from edgekd.core.receipt import remark
from edgekd.onboard.bench import FOOTPRINTS, PROTOCOLS, TIMED_ROWS
from edgekd.onboard.runner import pack
from edgekd.receipts import trust
from edgekd.receipts.shipped import DataFile, Shipped, device_at, open_bundle

if TYPE_CHECKING:
    import numpy as np

_ROUNDS = 5  # in each process: golden inputs are few, and a verdict is wanted
_PROCESS_S = 60.0  # of timing in one process: where an inference takes seconds, fewer rows are timed
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Side:
    """One bundle of the comparison. Latency and memory are of this run, the metric is of the bundle's own report."""

    label: str
    name: str
    recipe: str
    metric: str
    metric_unit: str
    metric_value: float | None
    p50_ms: float
    peak_rss_mib: float
    artifact_mib: float


@dataclass(frozen=True)
class Verdict:
    """One bundle against the first. `ratio` is the first's median over its own: above 1 it is faster."""

    label: str
    ratio: float
    low: float
    high: float
    verdict: str  # faster, slower, or no difference shown
    says: str


@dataclass(frozen=True)
class Comparison:
    """All sides, and the verdict of each but the first against the first."""

    sides: tuple[Side, ...]
    verdicts: tuple[Verdict, ...]
    aa: float  # the first bundle against itself: ratio of medians
    stable: bool
    rows: int
    rows_of: str
    runs: int
    host: str
    remark: str  # what is to be kept in mind of that host's time, or empty

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


def compare(
    folders: Sequence[Path],
    progress: Progress,
    *,
    device: str = "local",
    full: bool = False,
    data: DataFile | None = None,
    install: bool = False,
) -> Comparison:
    """Time bundles on one device, row by row in random order.

    Raises UsageError for fewer than two bundles, other tasks or an emulated device, EdgeKDError for a damaged bundle.
    """
    if not 2 <= len(folders) <= len(_LETTERS):
        raise UsageError("a comparison takes two bundles at least", fix="give two or more: edgekd compare A B")
    sides = dict(zip(_LETTERS, map(open_bundle, folders), strict=False))
    first = sides["A"]
    for label, one in sides.items():
        _check_comparable(first, label, one)
    name, opened = device_at(device, first.of.target, install=install, timed=True, say=progress.say)
    if name == "local":
        for one in sides.values():
            trust.check_ends(one.folder, one.of.manifest)
    processes = PROTOCOLS["full" if full else "quick"][0]
    progress.stage(f"compare on {name}", processes + FOOTPRINTS * len(sides))
    with tempfile.TemporaryDirectory(prefix="edgekd-compare-") as place, opened.up() as running:
        inputs = _inputs(sides, data, Path(place))
        models = {label: Timed(one.model, inputs[label]) for label, one in sides.items()}
        lab = _Lab(Benchmark(running, first.of.target["threads"]), models, progress)
        latency, peaks, host = lab.latency(processes), lab.memory(), running.host
    rows = next(iter(latency.values())).shape[1]
    return _found(sides, latency, peaks, rows_of=data.source if data else "", rows=rows, host=host)


def _check_comparable(first: Shipped, label: str, one: Shipped) -> None:
    if one.task != first.task:
        raise UsageError(
            f"A is for {first.task}, {label} for {one.task}: their times say nothing of each other",
            fix="compare bundles of one task",
        )
    session = ("threads", "execution_provider")
    if any(one.of.target[key] != first.of.target[key] for key in session):
        told = " and ".join(f"{side.of.target['threads']} ({side.of.target['name']})" for side in (first, one))
        raise UsageError(
            f"A and {label} are built for other sessions: threads {told}, or another provider",
            fix="compare bundles whose profiles have the same threads and execution_provider",
        )


def _inputs(sides: dict[str, Shipped], data: DataFile | None, place: Path) -> dict[str, Path]:
    """The same rows for each bundle: a user's, encoded by its own files; else samples of the same sizes."""
    found = {}
    rows = data.rows(sides["A"], labelled=False, most=TIMED_ROWS) if data else None
    sizes = _sizes(sides)
    for label, one in sides.items():
        samples: Sequence[Sample]
        if rows is not None:
            samples = one.encoded(rows)
        elif sizes is None:
            samples = [one.golden()[0]] * len(sides["A"].golden())
        else:
            own, task = one.golden(), one.made_task()
            samples = [task.sized(own, size) for size in sizes]
        found[label] = place / f"{label}.npz"
        pack(list(samples), found[label])
    return found


def _sizes(sides: dict[str, Shipped]) -> list[int] | None:
    """Sizes of A's golden inputs, none longer than each bundle takes; None where graphs have one size of their own.

    The size is what differs from input to input; of texts it is their tokens, also where all have as many.
    """
    golden = sides["A"].golden()
    axis = ("input_ids", 1) if "input_ids" in golden[0] else _varying(golden)
    if axis is None:
        return None
    most = min(one.survey.max_size for one in sides.values())
    return [min(most, sample[axis[0]].shape[axis[1]]) for sample in golden]


def _varying(samples: Sequence[Sample]) -> tuple[str, int] | None:
    """Return the first array and the axis of it whose length differs from sample to sample; None where none does."""
    for name, first in samples[0].items():
        for axis in range(first.ndim):
            if len({sample[name].shape[axis] for sample in samples}) > 1:
                return name, axis
    return None


class _Lab:
    """One device that runs all sides."""

    def __init__(self, benchmark: Benchmark, models: dict[str, Timed], progress: Progress) -> None:
        self.benchmark, self.models, self.progress, self.done = benchmark, models, progress, 0

    def _step(self, note: str) -> None:
        self.done += 1
        self.progress.step(self.done, note)

    def latency(self, processes: int) -> dict[str, np.ndarray[Any, Any]]:
        """Each side's latencies in ms and A's again as `aa`: (processes * rounds, rows)."""
        import numpy as np

        turns: dict[str, list[Sequence[float]]] = {name: [] for name in (*self.models, AGAIN)}
        most_s = processes * _PROCESS_S
        for timed in self.benchmark.processes(self.models, processes, rounds=_ROUNDS, seed=0, most_s=most_s):
            for name, found in turns.items():
                found += timed.latency_ms[name]
            if timed.row_sha256[AGAIN] != timed.row_sha256["A"]:
                raise EdgeKDError("A answers the same inputs unlike twice", fix="report its operators and this CPU")
            self._step("latency, interleaved")
        return {name: np.array(found) for name, found in turns.items()}

    def memory(self) -> dict[str, float]:
        """The highest peak RSS of fresh processes, in MiB, by turns."""
        peaks: dict[str, list[float]] = {name: [] for name in self.models}
        for _ in range(FOOTPRINTS):
            for name, timed in self.models.items():
                peaks[name].append(self.benchmark.footprint(timed.model, timed.inputs).peak_rss_mib[0])
                self._step(f"{name}: memory")
        return {name: max(found) for name, found in peaks.items()}


def _found(
    sides: dict[str, Shipped],
    latency: dict[str, np.ndarray[Any, Any]],
    peaks: dict[str, float],
    *,
    rows: int,
    rows_of: str,
    host: str,
) -> Comparison:
    import numpy as np

    each = {name: np.median(turns, axis=0) for name, turns in latency.items()}  # a figure a row
    control = intervals.paired_ratio(each["A"], each[AGAIN])
    return Comparison(
        sides=tuple(_side(label, one, float(np.median(each[label])), peaks[label]) for label, one in sides.items()),
        verdicts=tuple(verdict(label, each["A"], each[label], control) for label in sides if label != "A"),
        aa=control[0],
        stable=is_stable(control[0]),
        rows=rows,
        rows_of=f"rows of {Path(rows_of).name}" if rows_of else "inputs of the sizes of A's golden ones",
        runs=int(latency["A"].size),
        host=host,
        remark=remark(host),
    )


def _side(label: str, one: Shipped, p50_ms: float, peak_rss_mib: float) -> Side:
    summary = one.report["summary"]
    return Side(
        label=label,
        name=one.name,
        recipe=one.of.manifest["recipe"],
        metric=summary["metric"],
        metric_unit=unit_of(summary),
        metric_value=summary["shipped"]["metric_value"],
        p50_ms=p50_ms,
        peak_rss_mib=peak_rss_mib,
        artifact_mib=one.model.size_mib,
    )


def verdict(
    label: str, first: np.ndarray[Any, Any], own: np.ndarray[Any, Any], control: tuple[float, float, float]
) -> Verdict:
    """Whether a side is faster than the first; both (rows,), in ms. `control`: the first's A/A ratio and interval.

    The paired interval is widened by as much as the same model differs from itself, by 1% at least.
    """
    ratio, low, high = intervals.paired_ratio(first, own)
    apart = 1 + max(AA_LIMIT, *(abs(value - 1) for value in control))
    low, high = low / apart, high * apart
    if low <= 1 <= high:
        return Verdict(
            label,
            ratio,
            low,
            high,
            "no difference shown",
            f"{label} against A: no difference shown ({ratio:.2f}x [{low:.2f}, {high:.2f}])",
        )
    word = "faster" if ratio > 1 else "slower"
    times, least, most = (ratio, low, high) if ratio > 1 else (1 / ratio, 1 / high, 1 / low)
    return Verdict(label, ratio, low, high, word, f"{label} is {word} than A by {times:.2f}x [{least:.2f}, {most:.2f}]")
