"""Fidelity: how near a model's outputs are to those of the graph that it was made from, output by output.

The worst output decides. A cosine alone says too little: of one value it is always 1, and where an output holds boxes
in pixels beside scores below 1 it sees the boxes alone, while every score may be 0. So a row's error is held against
its signal, or a share of what the signal usually is; and values of other sizes along an axis are looked at apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.metrics import Metric
from edgekd.core.ports import CLASSES, WHOLE, Port

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Predictions

    Array = np.ndarray[Any, Any]

QUIET_SHARE = 0.1  # of an output's usual size: a row that is smaller is held against that, not against itself
_MOST_SLICES = 512  # along an axis that is looked at for values of other sizes
_NEARLY_ALL = 0.9  # share of one value, by which a model that says nothing else would pass floors
_APART = 100.0  # times between the largest values of two groups of slices
_LEAST_SHARE, _LEAST_PEAK = 1e-4, 1e-2  # a group of smaller values is noise
_LIMIT_DB = 120.0


def worst_column(rows: Array) -> Array:
    """Reduce fidelities (..., rows, outputs) to the mean over rows of the output that has the lowest."""
    lowest: Array = rows.mean(axis=-2).min(axis=-1)
    return lowest


WORST_OUTPUT = Metric("fidelity", unit="cosine", of_teacher="fidelity of the worst output to", reduce=worst_column)


@dataclass(frozen=True)
class OutputFidelity:
    """One output of one model beside the original's, over all rows."""

    name: str
    fidelity: float
    cosine: float | None  # None of whole numbers and classes
    sqnr_db: float | None
    largest_difference: float | None  # None where shapes differ
    agreement: float | None  # of classes and whole numbers: the share of places with the same one
    parts: int  # groups of slices that were looked at apart


def by_row(outputs: Predictions, reference: Predictions, ports: Sequence[Port]) -> Array:
    """Return each row's fidelity from 0 to 1, a column for each output or part of one: (rows, columns).

    `ports` are the outputs that count. Raises nothing: another shape, or a value that is no number, is 0.
    """
    import numpy as np

    columns = []
    for port in ports:
        own, other = ([row[port.name] for row in rows] for rows in (outputs, reference))
        columns += _columns(own, other, port)
    return np.stack(columns, axis=1)


def told(outputs: Predictions, reference: Predictions, ports: Sequence[Port]) -> tuple[OutputFidelity, ...]:
    """Return of each output its fidelity, cosine, SQNR in dB and largest difference; of classes the agreement."""
    found = []
    for port in ports:
        name = port.name
        own, other = ([row[name] for row in rows] for rows in (outputs, reference))
        columns = _columns(own, other, port)
        same = all(one.shape == two.shape for one, two in zip(own, other, strict=True))
        largest = _largest(own, other) if same else None
        whole = _is_whole(port, other)
        fidelity = min(float(column.mean()) for column in columns)
        if whole or port.kind == CLASSES:
            found.append(OutputFidelity(name, fidelity, None, None, largest, fidelity, len(columns)))
            continue
        cosine, sqnr = _cosine_and_sqnr(own, other) if same else (None, None)
        found.append(OutputFidelity(name, fidelity, cosine, sqnr, largest, None, len(columns)))
    return tuple(found)


def _columns(own: Sequence[Array], other: Sequence[Array], port: Port) -> list[Array]:
    """The fidelity of each row, (rows,): one for the output, or one for each of its parts."""

    pairs = list(zip(own, other, strict=True))
    if _is_whole(port, other):
        return _agreements(pairs)
    if port.kind == CLASSES:
        return _agreements([(_chosen(one, port.axis, none=-1), _chosen(two, port.axis, none=-2)) for one, two in pairs])
    parts = parts_of(other)
    return [_near([(part_of(one, part), part_of(two, part)) for one, two in pairs]) for part in parts]


def _is_whole(port: Port, rows: Sequence[Array]) -> bool:
    return port.kind == WHOLE or (bool(len(rows)) and rows[0].dtype.kind in "biu")


def _same(own: Array, other: Array) -> float:
    if own.shape != other.shape:
        return 0.0
    return float((own == other).mean()) if own.size else 1.0


def _chosen(scores: Array, axis: int, *, none: int) -> Array:
    """Return where the largest score along the axis stands; `none` alone where a score is no number."""
    import numpy as np

    if scores.ndim < -axis or np.isnan(scores).any() or (scores.size == 0 and scores.shape[axis] == 0):
        return np.array(none)
    chosen: Array = scores.argmax(axis=axis)
    return chosen


def _agreements(pairs: Sequence[tuple[Array, Array]]) -> list[Array]:
    """Return the share of equal values of each row; and, where one value is nearly all, the same of the others.

    A model that finds nothing gives that one value everywhere, and is right in most places. A row without other values
    counts as the others do on average.
    """
    import numpy as np

    columns = [np.array([_same(one, two) for one, two in pairs])]
    values = np.concatenate([two.ravel() for _, two in pairs]) if pairs else np.zeros(0)
    if not values.size:
        return columns
    usual = np.partition(values, values.size // 2)[values.size // 2]  # the median: what is nearly all is that
    if not _NEARLY_ALL <= float((values == usual).mean()) < 1:
        return columns
    others = [(one, two, two != usual) for one, two in pairs]
    found = [
        (float((one[rare] == two[rare]).mean()) if one.shape == two.shape else 0.0) if rare.any() else np.nan
        for one, two, rare in others
    ]
    return [*columns, np.where(np.isnan(found), np.nanmean(found), found)]


def _near(pairs: Sequence[tuple[Array, Array]]) -> Array:
    """Of each row one less half its error's power over the signal's, not below 0.

    Of two vectors of one length that is their cosine; where one is longer it is less. The signal of a quiet row counts
    as QUIET_SHARE of what it usually is.
    """
    import numpy as np

    wide = [(own.astype(np.float64), other.astype(np.float64)) for own, other in pairs]
    power = np.array([_mean_square(other) for _, other in wide])
    usual = float(power.mean()) if len(power) else 0.0
    found = np.zeros(len(wide))
    for row, (own, other) in enumerate(wide):
        if own.shape != other.shape:
            continue
        known = np.isfinite(other)  # what the original gives as infinity, a mask, is no signal
        error = _mean_square(np.where(known, own - np.where(known, other, 0), 0))
        signal = max(power[row], QUIET_SHARE**2 * usual)
        found[row] = 1.0 if error == 0 else max(0.0, 1 - error / (2 * signal)) if signal and error == error else 0.0
    return found


def _mean_square(values: Array) -> float:
    import numpy as np

    finite = np.where(np.isfinite(values), values, 0) if not np.isnan(values).any() else values
    return float((finite**2).mean()) if values.size else 0.0


Part = tuple[int, "np.ndarray[Any, Any]"] | None  # an axis and the slices along it; None: all values


def part_of(values: Array, part: Part) -> Array:
    """Return that part of an array; all of it where it has no such axis."""
    if part is None or values.ndim <= part[0] or values.shape[part[0]] <= int(part[1].max()):
        return values
    return values.take(part[1], axis=part[0])


def parts_of(rows: Sequence[Array]) -> list[Part]:
    """Return groups of slices along one axis, their largest values far from each other's: pixels, and scores.

    That axis has the same size in all rows, at most _MOST_SLICES. Where no axis parts them, all values are one part.
    """
    import numpy as np

    best: list[Part] = [None]
    widest = 1.0
    for axis in range(rows[0].ndim) if rows and rows[0].ndim > 1 else ():
        sizes = {row.shape[axis] for row in rows if row.ndim == rows[0].ndim}
        if len(sizes) != 1 or not 1 < next(iter(sizes)) <= _MOST_SLICES or any(not row.size for row in rows):
            continue
        others = tuple(one for one in range(rows[0].ndim) if one != axis)
        peaks = np.max([np.abs(np.nan_to_num(row, posinf=0, neginf=0)).max(axis=others) for row in rows], axis=0)
        groups = _groups(peaks)
        if len(groups) < 2:
            continue
        between = float(peaks[groups[0]].min() / max(peaks[groups[-1]].max(), 1e-30))
        if between > widest:
            best, widest = [(axis, group) for group in groups], between
    return best


def _groups(peaks: Array) -> list[Array]:
    """Indices by the size of their peaks, the largest first, cut where the next is _APART times smaller."""
    import numpy as np

    order = np.argsort(-peaks, kind="stable")
    top = float(peaks[order[0]])
    kept = [at for at in order if peaks[at] >= max(_LEAST_SHARE * top, min(_LEAST_PEAK, _LEAST_PEAK * top))]
    groups: list[list[int]] = []
    for at in kept:
        if not groups or peaks[groups[-1][-1]] > _APART * peaks[at]:
            groups.append([])
        groups[-1].append(int(at))
    return [np.sort(np.array(group)) for group in groups]


def _largest(own: Sequence[Array], other: Sequence[Array]) -> float | None:
    import numpy as np

    found = 0.0
    for one, two in zip(own, other, strict=True):
        both = np.isfinite(one) & np.isfinite(two)
        if (both != np.isfinite(two)).any():
            return None
        apart = np.abs(np.where(both, one, 0).astype(np.float64) - np.where(both, two, 0).astype(np.float64))
        found = max(found, float(apart.max()) if apart.size else 0.0)
    return found


def _cosine_and_sqnr(own: Sequence[Array], other: Sequence[Array]) -> tuple[float | None, float | None]:
    """The mean of the rows' cosines; the signal's power over the error's, of all rows together."""
    import numpy as np

    signal = error = 0.0
    cosines = []
    for one, two in zip(own, other, strict=True):
        known = np.isfinite(two)
        left, right = (np.where(known, values, 0).astype(np.float64).ravel() for values in (one, two))
        signal, error = signal + float(right @ right), error + float((left - right) @ (left - right))
        length = float(np.sqrt((left @ left) * (right @ right)))
        cosines.append(float(left @ right) / length if length else float(not left.any() and not right.any()))
    if not math.isfinite(error):
        return None, None
    ratio = _LIMIT_DB if not error else -_LIMIT_DB if not signal else 10 * math.log10(signal / error)
    return float(np.mean(cosines)), round(max(-_LIMIT_DB, min(_LIMIT_DB, ratio)), 2)
