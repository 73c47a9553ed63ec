"""Metrics: what quality is, as a value with a direction. A metric reduces statistics of rows to one figure.

Every accuracy, agreement, error rate and `retained` that is printed, and each interval beside one, is asked of its
metric here: nothing else knows whether more is better, or what a point is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd.core import statistics as intervals
from edgekd.core.statistics import Retained

if TYPE_CHECKING:
    import numpy as np

    Statistics = np.ndarray[Any, Any]  # one row of figures for each input: (rows, k), or (rows,) where k is 1

_CHUNK = 4_000_000  # values that a bootstrap gathers at once: 32 MB


class Change(NamedTuple):
    """By how many points one model is worse than another, and the 95% interval of that, paired by rows."""

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """A figure of quality.

    With no `reduce` it is the mean of scores from 0 to 1, one a row. Else `reduce` turns statistics (..., rows, k) into
    figures (...): errors over words, exp(loss over tokens), F1 from counts. A bootstrap resamples rows, then reduces;
    or groups of rows, such as the passages of one document, whose statistics it adds up first.
    """

    name: str
    unit: str = "fraction"  # fraction (written in percent), cosine (four digits), or the unit itself
    higher_is_better: bool = True
    of_teacher: str = ""  # where it is against the teacher itself, how a sentence begins: "agreement with"
    reduce: Callable[[Statistics], Statistics] | None = None
    relative: bool = False  # points are percent of the other model's figure: 3 more of 100 bits, not 3 bits
    max_drop: float | None = None  # points that quantization may lose where nobody says; None: the target profile's
    by_group: bool = False  # rows of one group are drawn together: its number is their statistics' last column

    @property
    def sign(self) -> int:
        """Return 1 where more is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def points(self) -> float:
        """Return how many points a whole unit has: 100 of a fraction or a cosine, else 1."""
        return 100.0 if self.unit in ("fraction", "cosine") else 1.0

    def value(self, rows: Statistics) -> float:
        """Return the figure of these rows."""
        return float(rows.mean()) if self.reduce is None else float(self.reduce(_columns(rows)))

    def by_row(self, rows: Statistics) -> Statistics:
        """Return the figure of each row by itself: (rows,)."""
        return rows if self.reduce is None else self.reduce(_columns(rows)[:, None, :])

    def interval(self, rows: Statistics) -> tuple[float, float]:
        """Return its 95% interval: Wilson's for hits, else the bootstrap's over rows."""
        if self.reduce is None:
            return intervals.share_interval(rows)
        figure = self.value(rows)
        low, high = _ends(self._resampled(rows)[0])
        if low == high:
            unseen = self._unseen(rows, figure)
            most = max(high, 1.0) if self.points == 100 and self.higher_is_better else inf  # a share is at most 1
            return max(0.0, low - unseen), min(high + unseen, most)
        return min(low, figure), max(high, figure)

    def lost(self, own: Statistics, other: Statistics) -> Change:
        """Return how many points `own` is worse than `other`, paired by rows."""
        if self.reduce is None:
            difference = intervals.paired_difference(*((own, other) if self.higher_is_better else (other, own)))
            return Change(*(self.points * one for one in difference))
        loss = self._points_lost(own, other)
        if not self.relative:
            return loss
        figure = float(self._percent_lost(self.value(own), self.value(other)))
        low, high = _ends(self._percent_lost(*self._resampled(own, other)))
        if (own == other).all():
            return Change(0.0, *(float(self._percent_of(end, self.value(other))) for end in (loss.low, loss.high)))
        return Change(figure, min(low, figure), max(high, figure))

    def retained(self, own: Statistics, teacher: Statistics) -> Retained:
        """Return what is left of the teacher's quality: own over teacher, or teacher over own where less is better.

        Of a teacher without any quality nothing can be kept: all three are 0. Where less is better a figure counts as
        half an event in all rows at least: one error more than none is no ratio to 0.
        """
        if self.reduce is None and self.higher_is_better:
            return intervals.retained(own, teacher)
        mine, theirs = self._resampled(own, teacher)
        least = 0.5 / len(self._drawn(own))
        value = self._ratio(self.value(own), self.value(teacher), least)
        ratios = [self._ratio(float(one), float(other), least) for one, other in zip(mine, theirs, strict=True)]
        low, high = _ends(ratios)
        if (own == teacher).all():
            unseen = intervals.RULE_OF_THREE / len(self._drawn(own))
            low, high = max(0.0, 1 - unseen), 1 + unseen
        return Retained(value, max(0.0, min(low, value)), max(high, value))

    def moved(self, there: Statistics, here: Statistics) -> tuple[float, float, float]:
        """Return by how much the figure of the same rows differs there from here, with its 95% interval."""
        if self.reduce is None:
            low, high = intervals.change_interval(there - here)
            return float((there - here).mean()), low, high
        lost = self._points_lost(there, here)
        to_value = self.sign / self.points
        ends = sorted((-to_value * lost.low, -to_value * lost.high))
        return -to_value * lost.points + 0.0, ends[0], ends[1]

    def lost_further(
        self, own: tuple[Statistics, Statistics], plain: tuple[Statistics, Statistics]
    ) -> tuple[float, float, float]:
        """Return how many more points `own` loses to `plain` there than here, with its 95% interval.

        Both hold statistics of the same rows, there and here.
        """
        if self.reduce is None:
            change = self.sign * ((plain[0] - own[0]) - (plain[1] - own[1]))
            low, high = intervals.change_interval(change)
            return self.points * float(change.mean()), self.points * low, self.points * high
        values = [self.value(rows) for rows in (*own, *plain)]

        def further(own_there: Any, own_here: Any, plain_there: Any, plain_here: Any) -> Any:
            if self.relative:
                return self._percent_lost(own_there, plain_there) - self._percent_lost(own_here, plain_here)
            return self.sign * self.points * ((plain_there - own_there) - (plain_here - own_here))

        figure = float(further(*values))
        low, high = _ends(further(*self._resampled(*own, *plain)))
        if low == high:
            unseen = self.points * self._unseen(own[0], values[0])
            unseen = float(self._percent_of(unseen, values[2])) if self.relative else unseen
            low, high = low - unseen, high + unseen
        return figure + 0.0, min(low, figure), max(high, figure)

    def retained_elsewhere(
        self, kept: Retained, teacher: float, change: float, change_interval: tuple[float, float]
    ) -> Retained:
        """Return what is retained where the metric is another by `change`; both spreads are in its interval."""
        if not teacher or not (kept.value or self.higher_is_better):
            return kept
        own = kept.value * teacher if self.higher_is_better else teacher / kept.value
        least = teacher / 1000
        value, one_end, other_end = (self._ratio(own + by, teacher, least) for by in (change, *change_interval))
        low, high = min(one_end, other_end, value), max(one_end, other_end, value)
        below, above = hypot(kept.value - kept.low, value - low), hypot(kept.high - kept.value, high - value)
        return Retained(value, max(0.0, value - below), value + above)

    def gained_over_seeds(self, base: Statistics, own: Statistics) -> tuple[float, float, float]:
        """Return how many points `own` is better than `base`, and its 95% interval over seeds and rows.

        Both are (seeds, rows) or (seeds, rows, k), paired in both.
        """
        if self.reduce is None:
            gain = intervals.seeded_difference(base, own)
            ends = [self.sign * self.points * one for one in gain]
            return ends[0], min(ends[1:]), max(ends[1:])
        import numpy as np

        reduce, draw = self.reduce, np.random.default_rng(0)
        base, own = (np.stack([self._drawn(seed) for seed in one]) for one in (base, own))
        seeds, rows = base.shape[:2]

        def gained(first: Statistics, second: Statistics) -> float:
            before, after = reduce(first).mean(), reduce(second).mean()
            return -float(self._percent_lost(after, before) if self.relative else self._lost(after, before))

        found = []
        for _ in range(intervals.RESAMPLES // 4):
            picked, at = draw.integers(0, seeds, seeds), draw.integers(0, rows, rows)
            found.append(gained(base[picked][:, at], own[picked][:, at]))
        figure = gained(base, own)
        low, high = _ends(found)
        return figure, min(low, figure), max(high, figure)

    def kept_says(self, own: float, teacher: float, kept: Retained, whom: str = "the teacher") -> str:
        """Return what is left of the teacher's quality in words; where less is better, which of the two is better.

        `whom` it is held against, where that is another than the teacher.
        """
        share = f"{kept.value:.1%} [{100 * kept.low:.1f}, {100 * kept.high:.1f}]"
        if self.higher_is_better:
            return f"keeps {share} of {whom}'s {self.name}"
        word = "better than" if kept.low > 1 else "worse than" if kept.high < 1 else "level with"
        both = f"{self.spell(own)} against {self.spell(teacher)}"
        return f"{word} {whom} by {self.name}, {both} (less is better): keeps {share} of its quality"

    def better(self, first: float, second: float) -> bool:
        """Return whether the first figure is the better one."""
        return self.sign * first > self.sign * second

    def spell(self, value: float | None) -> str:
        """Return a figure for reading: a fraction in percent, a cosine with four digits; a dash where there is none."""
        return spell(value, self.unit)

    def span(self, interval: Sequence[float]) -> str:
        """Return an interval for reading, in the figure's unit but without its sign."""
        return " to ".join(self.spell(end).removesuffix("%") for end in interval)

    def as_dict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "of_teacher": self.of_teacher,
        }

    def _points_lost(self, own: Statistics, other: Statistics) -> Change:
        """Return `lost` of a metric that reduces, in its own unit's points."""
        figure = float(self._lost(self.value(own), self.value(other)))
        low, high = _ends(self._lost(*self._resampled(own, other)))
        if (own == other).all():
            unseen = self.points * self._unseen(own, self.value(own))
            return Change(0.0, -unseen, unseen)
        return Change(figure, min(low, figure), max(high, figure))

    def _lost(self, own: Any, other: Any) -> Any:
        return self.sign * self.points * (other - own)

    def _percent_lost(self, own: Any, other: Any) -> Any:
        return self._percent_of(self.sign * (other - own), other)

    def _percent_of(self, part: Any, whole: Any) -> Any:
        """Return 100 times the ratio, 0 of nothing: of figures, or of arrays of them."""
        import numpy as np

        return np.divide(100 * np.asarray(part, dtype=float), whole, out=np.zeros(np.shape(part)), where=whole != 0)

    def _ratio(self, own: float, teacher: float, least: float) -> float:
        if self.higher_is_better:
            return own / teacher if teacher else 0.0
        return max(teacher, least) / max(own, least)

    def _unseen(self, rows: Statistics, figure: float) -> float:
        """Return what rows that all say the same leave open: the rule of three's share of a unit, or of the figure."""
        share = intervals.RULE_OF_THREE / len(self._drawn(rows))
        return share if self.points == 100 else share * max(1.0, abs(figure))

    def _drawn(self, rows: Statistics) -> Statistics:
        """Return what a bootstrap draws from, (rows, k): the rows, or the sum of each group's, (groups, k - 1)."""
        import numpy as np

        columns = _columns(rows)
        if not self.by_group:
            return columns
        groups, number = np.unique(columns[:, -1], return_inverse=True)
        sums: Statistics = np.zeros((len(groups), columns.shape[1] - 1))
        np.add.at(sums, number, columns[:, :-1])
        return sums

    def _resampled(self, *models: Statistics) -> list[Statistics]:
        """Return each model's figure in every resample, (resamples,); all models see the same rows in each."""
        import numpy as np

        reduce = self.reduce or _mean
        columns = [self._drawn(rows) for rows in models]
        count = len(columns[0])
        draw = np.random.default_rng(0)
        at_once = max(1, _CHUNK // max(1, columns[0].size))
        found: list[list[Statistics]] = [[] for _ in models]
        for first in range(0, intervals.RESAMPLES, at_once):
            picks = draw.integers(0, count, (min(at_once, intervals.RESAMPLES - first), count))
            for own, rows in zip(found, columns, strict=True):
                own.append(reduce(rows[picks]))
        return [np.concatenate(own) for own in found]


def _columns(rows: Statistics) -> Statistics:
    return rows[:, None] if rows.ndim == 1 else rows


def _mean(rows: Statistics) -> Statistics:
    mean: Statistics = rows[..., 0].mean(axis=-1)
    return mean


def _ends(figures: Sequence[float] | Statistics) -> tuple[float, float]:
    """Return the ends of the middle 95%; figures that are no numbers (a resample without a word) are left out."""
    import numpy as np

    known = np.asarray(figures, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 0.0
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def spell(value: float | None, unit: str) -> str:
    """Return a figure of that unit for reading; a dash where there is none.

    >>> spell(0.9, "fraction"), spell(0.9, "cosine"), spell(12.345, "perplexity")
    ('90.0%', '0.9000', '12.3')
    """
    if value is None:
        return "–"
    if unit == "fraction":
        return f"{value:.1%}"
    return f"{value:.4f}" if unit == "cosine" else f"{value:.3g}"


def ratio_of_sums(rows: Statistics) -> Statistics:
    """Reduce (..., rows, 2) to the first column's sum over the second's: word errors over words (WER)."""
    sums = rows.sum(axis=-2)
    ratio: Statistics = sums[..., 0] / sums[..., 1].clip(1e-300)
    return ratio


def word_error_rate(rows: Statistics) -> Statistics:
    """Reduce (..., rows, 4) of word errors, words, character errors and characters to word errors over words."""
    return ratio_of_sums(rows[..., :2])


def character_error_rate(rows: Statistics) -> Statistics:
    """Reduce the same (..., rows, 4) to character errors over characters."""
    return ratio_of_sums(rows[..., 2:])


def micro_f1(rows: Statistics) -> Statistics:
    """Reduce counts of true positives, false positives and false negatives, (..., rows, 3), to the micro-averaged F1.

    Where nothing is there to find and nothing was found it is 1.
    """
    import numpy as np

    right, extra, missed = np.moveaxis(rows.sum(axis=-2), -1, 0)
    whole = 2 * right + extra + missed
    f1: Statistics = np.where(whole > 0, 2 * right / np.maximum(whole, 1), 1.0)
    return f1


ACCURACY = Metric("accuracy")
AGREEMENT = Metric("agreement", of_teacher="agreement with")
COSINE = Metric("cosine", unit="cosine", of_teacher="cosine to")
MICRO_F1 = Metric("micro_f1", reduce=micro_f1)
DECISIONS = Metric("decision_f1", of_teacher="micro F1 to the decisions of", reduce=micro_f1)
BITS_PER_BYTE = Metric(
    "bits_per_byte",
    unit="bits per byte",
    higher_is_better=False,
    reduce=ratio_of_sums,
    relative=True,
    max_drop=3.0,
    by_group=True,
)
NEXT_TOKEN = Metric("next_token_agreement", of_teacher="next-token agreement with", reduce=ratio_of_sums)
# both of the same statistics: see `edgekd.data.transcripts.errors`
WER = Metric("word_error_rate", higher_is_better=False, reduce=word_error_rate)
CER = Metric("character_error_rate", higher_is_better=False, reduce=character_error_rate)
SAME_WORDS = Metric("word_agreement", of_teacher="word agreement with")
_OLDER = {one.name: one for one in (ACCURACY, AGREEMENT, COSINE)}  # that a report named without saying what they are


def unit_of(summary: Mapping[str, Any]) -> str:
    """Return the unit of a summary's metric; of an older one, that of what the name stood for."""
    told: str = summary.get("metric_unit") or _OLDER.get(summary["metric"], ACCURACY).unit
    return told


def of_report(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a report says of its `metric` and its `fidelity`; of an older one, what its metric's name stood for.

    >>> of_report({"summary": {"metric": "cosine"}})["fidelity"]["unit"]
    'cosine'
    """
    if told := report.get("quality"):
        return dict(told)
    metric = _OLDER.get(report["summary"]["metric"], ACCURACY)
    return {"metric": metric.as_dict(), "fidelity": (metric if metric.of_teacher else AGREEMENT).as_dict()}
