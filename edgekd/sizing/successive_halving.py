"""Try out: several shapes that fit are trained briefly, and the better half goes on, until one is left.

What a shape can learn no figure on paper tells; a short run on the same rows tells some of it. Successive halving,
Jamieson and Talwalkar 2016. Scores come from the selection rows, never from the test's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekd.sizing.costs import Cost


@dataclass(frozen=True)
class Tried:
    """One short run: its metric on the selection rows, or how far the shape agreed with the teacher."""

    words: str
    epochs: int
    score: float


def halve(
    finalists: Sequence[Cost], epochs: int, score: Callable[[Cost, int], float], sign: int = 1
) -> tuple[Cost, tuple[Tried, ...]]:
    """Return the finalist that is left, and every run. `score` trains a shape for so many epochs.

    A `sign` of -1 says that less is better.

    Each round has twice the epochs of the one before; the last that needs a decision has half of a whole training.
    Equals go to the more capable shape, which comes first.

    >>> from types import SimpleNamespace as Shape
    >>> best, runs = halve([Shape(words="wide"), Shape(words="deep")], 8, lambda shape, n: shape.words == "deep")
    >>> best.words, [(run.words, run.epochs) for run in runs]
    ('deep', [('wide', 4), ('deep', 4)])
    """
    left, runs = list(finalists), []
    rounds = (len(left) - 1).bit_length()
    for number in range(rounds):
        length = max(1, epochs >> (rounds - number))
        scores = {id(cost): score(cost, length) for cost in left}
        runs += [Tried(cost.words, length, scores[id(cost)]) for cost in left]
        left = sorted(left, key=lambda cost: -sign * scores[id(cost)])[: (len(left) + 1) // 2]
    return left[0], tuple(runs)
