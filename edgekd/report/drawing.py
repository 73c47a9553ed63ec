"""The arithmetic of a figure: axes with their ticks, and labels that keep clear of what is drawn.

Lengths are in the units of the drawing: pixels, or percent of its width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, hypot, log10

Box = tuple[float, float, float, float]  # left, top, right, bottom

_WIDE = 8  # a range of more than so many times its low end is drawn with a logarithmic scale


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on a line from `start` to `end`; with `log`, equal ratios are equal lengths.

    >>> Axis(0, 200, 50, 250).at(100)
    150.0
    """

    low: float
    high: float
    start: float = 0.0
    end: float = 100.0
    log: bool = False

    @classmethod
    def of(cls, values: list[float], start: float = 0.0, end: float = 100.0, *, zero: bool = False) -> Axis:
        """An axis that holds these values: from 0 where `zero` is asked for, logarithmic where they differ widely.

        >>> Axis.of([1.0, 100.0]).log, Axis.of([1.0, 2.0], zero=True).low
        (True, 0.0)
        """
        low, high = min(values), max(values)
        if low > 0 and high > _WIDE * low:
            return cls(low / 1.25, high * 1.35, start, end, log=True)
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        return cls(0.0 if zero else low - margin, high + margin, start, end)

    def at(self, value: float) -> float:
        """The place of a value, cut at both ends."""
        if self.high <= self.low:  # all values are one: the middle
            return round((self.start + self.end) / 2, 2)
        value = min(max(value, self.low), self.high)
        part = (
            log10(value / self.low) / log10(self.high / self.low)
            if self.log
            else ((value - self.low) / (self.high - self.low))
        )
        return round(self.start + part * (self.end - self.start), 2)

    def ticks(self, most: int) -> list[float]:
        """At most so many round values between both ends.

        >>> Axis(0, 1.1).ticks(6), Axis(0.2, 300, log=True).ticks(5)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [1.0, 10.0, 100.0])
        """
        if self.high <= self.low:
            return [self.low]
        if not self.log:
            step = round_step(self.high - self.low, most - 1)
            first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
            return [round(at * step, 12) for at in range(first, last + 1)]
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            found = [part * 10.0**power for power in powers for part in parts]
            if len(found := [value for value in found if self.low <= value <= self.high]) <= most:
                break
        return found


def round_step(width: float, most: int) -> float:
    """The step of 1, 2 or 5 times a power of ten that cuts `width` into at most `most` pieces.

    >>> round_step(0.93, 5)
    0.2
    """
    power = 10.0 ** floor(log10(width / most))
    return next(part * power for part in (1, 2, 5, 10, 20) if width <= most * part * power * (1 + 1e-9))


@dataclass(frozen=True)
class Mark:
    """A circle, or with radius 0 a straight line that fills its `reach`; `reach` holds error bars too."""

    text: str
    x: float
    y: float
    r: float
    reach: Box
    style: str = ""
    letter: float = 7.0  # width of one


@dataclass(frozen=True)
class Label:
    """Words in their box; `anchor` as in SVG; `leader`: where a line from the circle meets a far box."""

    mark: Mark
    box: Box
    anchor: str
    leader: tuple[float, float] | None = None

    @property
    def at(self) -> tuple[float, float]:
        """Where SVG's text begins, ends or has its middle."""
        left, top, right, _ = self.box
        return {"start": left + 2, "middle": (left + right) / 2, "end": right - 2}[self.anchor], top + 12

    @property
    def root(self) -> tuple[float, float]:
        """Where the leader leaves the circle."""
        assert self.leader is not None, "only a far label has a leader"
        x, y, (end_x, end_y) = self.mark.x, self.mark.y, self.leader
        part = min(1.0, self.mark.r / (hypot(end_x - x, end_y - y) or 1.0))
        return round(x + part * (end_x - x), 1), round(y + part * (end_y - y), 1)


def placed(marks: Sequence[Mark], bounds: Box) -> list[Label]:
    """A label for each mark, in their order: the cheapest place by distance and by what lies beneath it."""
    taken = [box for mark in marks for box in _drawn(mark)]
    labels: list[Label] = []
    for mark in marks:
        tries = [
            (cost + _dear(label, taken, bounds, labels), at, label) for at, (cost, label) in enumerate(_tries(mark))
        ]
        best = min(tries, key=lambda one: one[:2])[2]
        labels.append(best)
        taken.append(best.box)
        taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in _along(best)]
    return labels


def _drawn(mark: Mark) -> list[Box]:
    left, top, right, bottom = mark.reach
    if not mark.r:
        return [(left - 2, top - 2, right + 2, bottom + 2)]
    x, y, r = mark.x, mark.y, mark.r
    return [(x - r, y - r, x + r, y + r), (left, y - 3, right, y + 3), (x - 3, top, x + 3, bottom)]


def _tries(mark: Mark) -> Iterator[tuple[float, Label]]:
    """Places for a label and what each costs: along a line, or in eight directions at growing distance."""
    left, top, right, bottom = mark.reach
    width, high = len(mark.text) * mark.letter + 4, 16
    if not mark.r and right > left:  # lying
        for at, (x, anchor) in enumerate(((right - width, "end"), (left + 4, "start"))):
            for cost, y in enumerate((top - 18, top + 3)):
                yield at + cost, Label(mark, (x, y, x + width, y + high), anchor)
    elif not mark.r:
        for at, y in enumerate((top, bottom - 20)):
            for cost, (x, anchor) in enumerate(((left - width - 4, "end"), (left + 4, "start"))):
                yield at + cost, Label(mark, (x, y, x + width, y + high), anchor)
    else:
        for far in (5, 14, 24, 42, 64, 90, 120):
            for turn, (dx, dy) in enumerate(_AROUND):
                x = (
                    mark.x - width / 2
                    if not dx
                    else (right + far if dx > 0 else left - far - width)
                    if not dy
                    else (mark.x + dx * (mark.r + far) - (width if dx < 0 else 0))
                )
                y = (
                    mark.y
                    if not dy
                    else (bottom + far + 6 if dy > 0 else top - far - 6)
                    if not dx
                    else mark.y + dy * (mark.r + far)
                ) - high / 2
                box = (x, y, x + width, y + high)
                end = min(max(mark.x, x), x + width), min(max(mark.y, y), y + high)
                anchor = "middle" if not dx else "start" if dx > 0 else "end"
                yield far * (0.5 if dx else 0.8) + turn / 10, Label(mark, box, anchor, end if far > 5 else None)


_AROUND = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (0.8, 0.8), (-0.8, -0.8), (-0.8, 0.8))


def _dear(label: Label, taken: Sequence[Box], bounds: Box, labels: Sequence[Label]) -> float:
    """What is wrong with a place: outside of the drawing, on other things, a leader that crosses words."""
    left, top, right, bottom = label.box
    cost = 1e6 if left < bounds[0] or top < bounds[1] or right > bounds[2] or bottom > bounds[3] else 0.0
    for other in taken:
        across, down = min(right, other[2]) - max(left, other[0]), min(bottom, other[3]) - max(top, other[1])
        if across > 0 and down > 0:
            cost += 50 + across * down
    for x, y in _along(label):
        cost += 60 * sum(box[0] < x < box[2] and box[1] < y < box[3] for box in (other.box for other in labels))
    return cost


def _along(label: Label) -> list[tuple[float, float]]:
    """Points of a label's leader; none where it has none."""
    if label.leader is None:
        return []
    (x, y), (end_x, end_y) = (label.mark.x, label.mark.y), label.leader
    return [(x + part / 16 * (end_x - x), y + part / 16 * (end_y - y)) for part in range(1, 17)]
