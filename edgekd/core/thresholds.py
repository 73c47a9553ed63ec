"""Above which logit each of several labels is decided: chosen for the micro F1 of rows that nothing is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.confidence import FEWEST_ROWS

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FEWEST_POSITIVES = 10  # rows with a label, and as many without it, below which it keeps one half
_ROUNDS = 50  # Dinkelbach's method needs about five


@dataclass(frozen=True)
class Thresholds:
    """A logit for each label, above which it is decided; 0 is a probability of one half."""

    logits: tuple[float, ...]
    positives: tuple[int, ...]  # rows with the label, of those that they were chosen on
    n: int  # these rows
    f1_before: float  # with one half for all, and below with thresholds of the other half of the rows
    f1_after: float
    kept_half: tuple[int, ...]  # labels of too few rows to choose by

    @property
    def moved(self) -> bool:
        """Return whether any label is decided elsewhere than at one half."""
        return any(self.logits)


def choose_thresholds(logits: Array, truth: Array, *, seed: int = 0) -> Thresholds:
    """Return the thresholds of most micro F1, if chosen on either half they better that of the other; else one half.

    Both (rows, labels), `truth` 0 or 1. A label keeps one half where fewer than 10 rows have it, or lack it, and all do
    where there are fewer than 40 rows. Pillai, Fumera, Roli 2013, Pattern Recognition 46.
    """
    import numpy as np

    rows, labels = truth.shape
    positives = truth.sum(axis=0)
    able = np.minimum(positives, rows - positives) >= FEWEST_POSITIVES
    before = decided_f1(logits > 0, truth)
    after, chosen = before, np.zeros(labels)
    if rows >= 2 * FEWEST_ROWS and able.any():
        order = np.random.default_rng(seed).permutation(rows)
        halves = order[: rows // 2], order[rows // 2 :]
        decided = np.zeros_like(truth, dtype=bool)
        for fitted, judged in (halves, halves[::-1]):
            decided[judged] = logits[judged] > best_thresholds(logits[fitted], truth[fitted], able)
        after = decided_f1(decided, truth)
        if after > before:
            chosen = best_thresholds(logits, truth, able)
    return Thresholds(
        logits=tuple(map(float, chosen)),
        positives=tuple(map(int, positives)),
        n=rows,
        f1_before=before,
        f1_after=after,
        kept_half=tuple(map(int, np.flatnonzero(~able))),
    )


def best_thresholds(logits: Array, truth: Array, able: Array) -> Array:
    """Return for each label that is `able` to have one the logit of most micro F1 of all labels, else 0: (labels,).

    Micro F1 is a ratio of sums over labels: for a given F1 each label's best threshold is its own (Dinkelbach 1967).
    """
    import numpy as np

    chosen = np.zeros(logits.shape[1])
    f1 = decided_f1(logits > chosen, truth)
    sides = [_sides(logits[:, label], truth[:, label]) if able[label] else None for label in range(len(chosen))]
    for _ in range(_ROUNDS):
        tried = np.array([0.0 if one is None else _best(one, f1) for one in sides])
        value = decided_f1(logits > tried, truth)
        if value <= f1:
            break
        chosen, f1 = tried, value
    return chosen


def decided_f1(decided: Array, truth: Array) -> float:
    """Return the micro F1 of decisions, both (rows, labels)."""
    right = int((decided & (truth == 1)).sum())
    whole = int(decided.sum()) + int((truth == 1).sum())
    return 2 * right / whole if whole else 1.0


def thresholds_say(chosen: Mapping[str, Any] | None) -> str:
    """Return in words how labels are decided, from a student's confidence.json; None where nothing was trained."""
    if chosen is None:
        return (
            "Each label is decided at a probability of one half, as the model came: nothing was trained, so no "
            "threshold was moved."
        )
    by = "their labels" if chosen["fitted_on"] == "labels" else "what the teacher decides of them"
    rows = f"{chosen['n']} selection rows by {by}"
    moved = sum(map(bool, chosen["logits"]))
    if not moved:
        return f"Each label is decided at a probability of one half: no other thresholds held on {rows}."
    few = len(chosen["kept_half"])
    kept = f" {few} {'label keeps' if few == 1 else 'labels keep'} one half: too few rows to choose by." if few else ""
    return (
        f"The thresholds of {moved} of {len(chosen['logits'])} labels were chosen on {rows}, and folded into the last "
        f"layer: a label is decided at a probability of one half, in every client. On rows that they were not chosen "
        f"on they brought micro F1 from {chosen['f1_before']:.1%} to {chosen['f1_after']:.1%}.{kept}"
    )


def _sides(scores: Array, truth: Array) -> tuple[Array, Array, Array]:
    """Return the places a label's threshold may take, how many rows lie above each, and how many of them have it."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the last row above each place
    above, below = ranked[ends], np.append(ranked[1:], ranked[-1] - 1.0)[ends]
    places = np.where((below <= 0) & (above > 0), 0.0, (above + below) / 2)
    return places, ends + 1, found[ends]


def _best(sides: tuple[Array, Array, Array], f1: float) -> float:
    """Return the place of most gain at this F1; of equal ones the nearest to one half."""
    import numpy as np

    places, above, right = sides
    gains = 2 * right - f1 * above
    best = places[gains >= gains.max() - 1e-9]
    return float(best[np.abs(best).argmin()])
