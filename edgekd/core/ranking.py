"""Ranking: whether a model's embeddings find the same texts near as its teacher's do, on held-out texts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.metrics import Metric

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

NEAREST = 10  # texts that a search shows
MOST_TEXTS = 2000  # that are ranked against each other: there are as many cosines as the square of that
SPEARMAN, RECALL, NDCG = "spearman", f"recall_at_{NEAREST}", f"ndcg_at_{NEAREST}"


@dataclass(frozen=True)
class Ranking:
    """One figure: the mean over texts, each a query among all others, with its 95% interval over texts."""

    name: str
    value: float
    low: float
    high: float
    n: int


def ranking(outputs: Array, reference: Array) -> tuple[Ranking, ...]:
    """Return how far embeddings (texts, width) rank each text's others as the reference's, of any width, do.

    `spearman` is the rank correlation of a text's cosines to all others; `recall_at_10` the share of the reference's
    ten nearest among the own ten nearest; `ndcg_at_10` (Järvelin and Kekäläinen 2002) has the reference's cosines as
    gains, so that a near miss counts less than a far one. Empty for fewer than 12 texts.
    """
    if len(outputs) < NEAREST + 2:
        return ()
    rows = by_text(outputs[:MOST_TEXTS], reference[:MOST_TEXTS])
    return tuple(Ranking(name, float(one.mean()), *Metric(name).interval(one), len(one)) for name, one in rows.items())


def by_text(outputs: Array, reference: Array) -> dict[str, Array]:
    """Return the three figures of each text: (texts,) each."""
    import numpy as np
    from scipy.stats import rankdata

    own, theirs = (_others(_cosines(values)) for values in (outputs, reference))
    ranks, wanted = (rankdata(values, axis=1) for values in (own, theirs))
    ranks, wanted = (values - values.mean(axis=1, keepdims=True) for values in (ranks, wanted))
    spread = np.sqrt((ranks**2).sum(axis=1) * (wanted**2).sum(axis=1))
    spearman = (ranks * wanted).sum(axis=1) / np.where(spread > 0, spread, 1.0)
    first, best = (np.argsort(-values, axis=1, kind="stable")[:, :NEAREST] for values in (own, theirs))
    found = np.array([len(np.intersect1d(one, other)) for one, other in zip(first, best, strict=True)]) / NEAREST
    discount = 1 / np.log2(np.arange(NEAREST) + 2)
    gains = theirs.clip(min=0.0)
    reached, most = ((np.take_along_axis(gains, places, axis=1) * discount).sum(axis=1) for places in (first, best))
    return {SPEARMAN: spearman, RECALL: found, NDCG: np.where(most > 0, reached / np.where(most > 0, most, 1.0), 1.0)}


def _cosines(values: Array) -> Array:
    import numpy as np

    values = np.asarray(values, dtype=np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    units = values / np.where(lengths > 0, lengths, 1.0)
    found: Array = units @ units.T
    return found


def _others(cosines: Array) -> Array:
    """Each text's cosines to all others: (texts, texts - 1)."""
    count = len(cosines)
    found: Array = cosines.ravel()[1:].reshape(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
    return found
