"""What may be claimed: of a model's own certainty, of its classes, of an effect between seeds. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd.core.statistics import RESAMPLES

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BINS = 15
WANTED = 0.95  # of the answers above a suggested threshold, the share that is to be right
COLDEST, HOTTEST = 0.1, 10.0  # bounds of a temperature
FEWEST_ROWS = 20  # that a half, or the answers above a threshold, must have to be judged by
FEWEST_OF_CLASS = 5  # test rows of a class, below which its recall says nothing


def certainty(logits: Array, temperature: float = 1.0) -> Array:
    """The top class's probability: (rows, classes) to (rows,)."""
    import numpy as np
    from scipy.special import softmax

    found: Array = softmax(np.asarray(logits, dtype=float) / temperature, axis=1).max(axis=1)
    return found


def expected_calibration_error(confidence: Array, correct: Array) -> float:
    """How far confidence and accuracy lie apart, from 0 to 1, over equal-width bins. Guo et al. 2017, 1706.04599.

    Both (rows,): the top class's probability, and 1.0 where it is right (or the probability that it is).
    """
    return _error(_bin(confidence), correct - confidence)


def calibration_interval(confidence: Array, correct: Array, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of that error: the basic bootstrap's, never without the error itself.

    The error of a sample is above the model's own, the more so the fewer the rows: a percentile interval would often
    miss the truth. Its lower end is 0 where a perfectly calibrated model would show as much in one sample of forty
    (consistency resampling, Broecker and Smith 2007).
    """
    import numpy as np

    random, rows = np.random.default_rng(seed), len(confidence)
    bins, gaps = _bin(confidence), correct - confidence
    error = _error(bins, gaps)
    picks = (random.integers(0, rows, rows) for _ in range(RESAMPLES))
    low, high = np.percentile([_error(bins[pick], gaps[pick]) for pick in picks], (2.5, 97.5))
    perfect = [_error(bins, (random.random(rows) < confidence) - confidence) for _ in range(RESAMPLES)]
    lower = 0.0 if error <= np.percentile(perfect, 97.5) else min(error, max(0.0, 2 * error - high))
    return float(lower), float(max(error, 2 * error - low))


def _bin(confidence: Array) -> Array:
    """The bin of each row; an edge belongs to the bin below it."""
    import numpy as np

    found: Array = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return found


def _error(bins: Array, gaps: Array) -> float:
    import numpy as np

    return float(np.abs(np.bincount(bins, gaps, BINS)).sum() / len(gaps))


@dataclass(frozen=True)
class Scaling:
    """A temperature, and the calibration error without and with it, on rows that it was not fitted on."""

    temperature: float  # 1.0: none helps
    n: int  # rows
    ece_before: float
    ece_after: float


def fit_temperature(logits: Array, targets: Array) -> float:
    """What to divide logits (rows, classes) by, from 0.1 to 10, for the least negative log likelihood.

    `targets` are class numbers (rows,) or probabilities (rows, classes). Guo et al. 2017.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    # convex in 1 / temperature, so that there is one minimum along the logarithm too
    found = minimize_scalar(
        lambda log: _surprise(logits, targets, np.exp(log)).mean(),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def temperature_that_helps(logits: Array, targets: Array, seed: int = 0) -> Scaling:
    """A temperature fitted on all rows, if fitted on either half it betters likelihood and ECE of the other; else 1.

    Against probabilities, being right is the probability that the targets give to the top class. No temperature is
    found of fewer than 40 rows, nor where the likelihood knows no end (every row right) within the bounds.
    """
    import numpy as np

    rows = len(logits)
    top = logits.argmax(axis=1)
    right = targets[np.arange(rows), top] if targets.ndim == 2 else (targets == top).astype(float)
    before = expected_calibration_error(certainty(logits), right)
    none = Scaling(1.0, rows, before, before)
    if rows < 2 * FEWEST_ROWS:
        return none
    order = np.random.default_rng(seed).permutation(rows)
    halves = order[: rows // 2], order[rows // 2 :]
    scaled = np.array(logits, dtype=float)
    for fitted, judged in (halves, halves[::-1]):
        scaled[judged] /= fit_temperature(logits[fitted], targets[fitted])
    after = expected_calibration_error(certainty(scaled), right)
    likelier = _surprise(scaled, targets).mean() < _surprise(logits, targets).mean()
    temperature = fit_temperature(logits, targets)
    if not (likelier and after < before and COLDEST * 1.01 < temperature < HOTTEST / 1.01):
        return none
    return Scaling(temperature, rows, before, after)


def _surprise(logits: Array, targets: Array, temperature: float = 1.0) -> Array:
    """Negative log likelihood of each row: (rows,)."""
    import numpy as np
    from scipy.special import log_softmax

    said = log_softmax(np.asarray(logits, dtype=float) / temperature, axis=1)
    found: Array = -(targets * said).sum(axis=1) if targets.ndim == 2 else -said[np.arange(len(said)), targets]
    return found


class Suggestion(NamedTuple):
    """Answer where the confidence is at least `threshold`: that share of the rows, of which that share is right.

    Both shares are of rows that the threshold was not chosen on.
    """

    threshold: float
    coverage: float
    accuracy: float


def suggest_threshold(confidence: Array, correct: Array, wanted: float = WANTED, *, seed: int = 0) -> Suggestion | None:
    """A threshold whose answers are right as often as `wanted` on rows that it was not chosen on; else None.

    Both (rows,), never of test rows. Chosen on one half of the rows: the smallest, in thousandths, whose accuracy is
    `wanted` by a standard error at least. Judged on the other half, of which the shares are: none is suggested where
    fewer than 20 rows lie above it there, or fewer than `wanted` of them are right, or there are fewer than 40 rows.
    Selective classification, Geifman and El-Yaniv 2017, arXiv 1705.08500.
    """
    import numpy as np

    rows = len(confidence)
    if rows < 2 * FEWEST_ROWS:
        return None
    shuffled = np.random.default_rng(seed).permutation(rows)
    chosen, judged = shuffled[: rows // 2], shuffled[rows // 2 :]
    threshold = lowest_threshold(confidence[chosen], correct[chosen], wanted)
    if threshold is None:
        return None
    answered = confidence[judged] >= threshold
    right = correct[judged][answered]
    if len(right) < FEWEST_ROWS or right.mean() < wanted:
        return None
    return Suggestion(threshold, float(answered.mean()), float(right.mean()))


def lowest_threshold(confidence: Array, correct: Array, wanted: float) -> float | None:
    """The smallest threshold, in thousandths, above which `wanted` are right by a standard error at least; or None.

    Both (rows,). The lower end of Wilson's interval of one standard error decides; at least 20 rows must lie above.
    """
    import numpy as np

    order = np.argsort(confidence)
    right = np.concatenate([np.cumsum(correct[order][::-1])[::-1], [0.0]])  # from each row up
    thresholds = np.arange(1000) / 1000
    first = np.searchsorted(confidence[order], thresholds)
    answered = len(confidence) - first
    n = np.maximum(answered, 1)
    share = right[first] / n
    least = (share + 1 / (2 * n) - np.sqrt((share * (1 - share) + 1 / (4 * n)) / n)) / (1 + 1 / n)  # Wilson, z = 1
    reached = np.flatnonzero((answered >= FEWEST_ROWS) & (least >= wanted))
    return float(thresholds[reached[0]]) if len(reached) else None


def recalls(labels: Sequence[int], correct: Array, classes: int) -> list[float | None]:
    """The share of each class's rows that is right; None for a class without rows."""
    import numpy as np

    rows = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, correct, classes)
    return [float(hit / n) if n else None for hit, n in zip(right, rows, strict=True)]


def label_recalls(outputs: Array, truth: Array) -> list[float | None]:
    """The same of several labels a row: of each the share of its rows in which it is decided, its logit above 0."""
    import numpy as np

    found, there = ((np.asarray(outputs) > 0) & (truth == 1)).sum(axis=0), (truth == 1).sum(axis=0)
    return [float(hit / n) if n else None for hit, n in zip(found, there, strict=True)]


def class_gains(counts: Mapping[str, int], teacher: Sequence[Any], shipped: Sequence[Any]) -> dict[str, Any]:
    """Each class from the greatest loss to the greatest gain in points, those of few rows last; three names of each.

    `counts` holds each class's test rows by name; the two models' `recalls` are in the same order.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "n": n,
            "teacher": before,
            "shipped": after,
            "few": n < FEWEST_OF_CLASS,
            "difference": 100 * (after - before) if n else None,
        }
        for (name, n), before, after in zip(counts.items(), teacher, shipped, strict=True)
    ]
    rows.sort(key=lambda row: (row["few"], row["difference"] or 0.0, -row["n"]))
    sure = [row for row in rows if not row["few"]]
    return {
        "rows": rows,
        "worst": [row for row in sure[:3] if row["difference"] < 0],
        "best": [row for row in sure[:-4:-1] if row["difference"] > 0],
        "fewest": FEWEST_OF_CLASS,
    }


def evidence_says(effect: Mapping[str, Any] | None, *, distilled: bool = True) -> str:
    """What `{difference, low, high, seeds}`, in points with and without the teacher, allows to claim."""
    if not distilled:
        return "nothing was distilled: the teacher itself was compressed"
    if effect is None:
        return "not asked for: --evidence 5"
    difference, low, high = effect["difference"], effect["low"], effect["high"]
    seeds = f"{effect['seeds']} seed" + ("s" if effect["seeds"] != 1 else "")
    figures = f"{difference:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        return f"the teacher helped by {figures}, {seeds}"
    if high < 0:
        return f"the teacher hurt by {figures}, {seeds}"
    return f"no effect shown ({figures}, {seeds})"


def threshold_says(said: Mapping[str, Any], overall: float, rows: int) -> str:
    """A suggested threshold in words: what it gives on held-out samples, and that it was chosen on other rows.

    `said` is the report's `confidence`; `overall` how many of all answers are right; `rows` the selection rows. Where
    `tested_by` is the teacher, those answers count as right that are the teacher's.
    """
    if said["suggestion"] is None:
        missed = said.get("missed")
        if missed:
            return (
                f"No confidence threshold is suggested: the one that the selection rows gave delivers "
                f"{_percent(missed)} on the held-out samples, {said['wanted']:.0%} wanted."
            )
        return (
            f"No confidence threshold is suggested: none gave {said.get('wanted', WANTED):.0%} on selection rows that "
            "it was not chosen on."
        )
    threshold, _, accuracy = (said["suggestion"][key] for key in Suggestion._fields)
    right = "right" if said["judged_by"] == "labels" else "the teacher's too"
    tested = "right" if said.get("tested_by", "labels") == "labels" else "the teacher's too"
    chosen = f"{accuracy:.1%} of the answers are {right}, {said['wanted']:.0%} wanted"
    if threshold == 0:
        return f"No confidence threshold is needed: on half of {rows} selection rows {chosen}."
    return (
        f"Suggested: answer where the top class's probability is at least {threshold:.3f}. That is "
        f"{_percent(said['coverage'])} of the held-out samples, and {_percent(said['accuracy'])} of those answers are "
        f"{tested}; of all answers {overall:.1%} are. Chosen on one half of {rows} selection rows; on the other "
        f"{chosen}."
    )


def scaling_says(scaling: Mapping[str, Any] | None) -> str:
    """A student's confidence.json in words; empty where there is none."""
    if scaling is None:
        return ""
    rows = f"{scaling['n']} selection rows' {'labels' if scaling['fitted_on'] == 'labels' else 'teacher probabilities'}"
    if scaling["temperature"] == 1:
        return f"No temperature helped on {rows}: the logits are as they were trained."
    return (
        f"Temperature {scaling['temperature']:.2f} is folded into the last layer, fitted on {rows}: held out, it "
        f"brought ECE from {scaling['ece_before']:.1%} to {scaling['ece_after']:.1%} there."
    )


def _percent(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "none"
    low, high = figure["interval"]
    return f"{figure['value']:.1%} ({100 * low:.1f} to {100 * high:.1f})"
