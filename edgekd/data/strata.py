"""Strata: which rows are picked so that every class, or every label of several, has its share among them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from edgekd.core.errors import listed
from edgekd.data.numbers import Numbers, bins
from edgekd.data.tags import Tags

if TYPE_CHECKING:
    from edgekd.data.splits import Example, Label

SEPARATORS = ("|", ";", ",")  # of several labels in a cell: the first that stands in any cell parts them all
_NO_NAME = ""  # the stratum of rows whose label is none of the names; no name is empty


def strata(labels: Sequence[Label | None]) -> list[str]:
    """Return the stratum of each row: its class; of several labels, or kinds of spans, the rarest; of numbers a tenth.

    >>> strata(["a", "b"]), strata([("a", "b"), ("a",), ()])
    (['a', 'b'], ['b', 'a', ''])
    """
    if labels and all(isinstance(label, Numbers) for label in labels):
        return bins(labels)
    sets = [label.kinds if isinstance(label, Tags) else label for label in labels]
    counts = Counter(name for label in sets if isinstance(label, tuple) for name in set(label))
    return [
        min(label, key=lambda name: (counts[name], name), default=_NO_NAME) if isinstance(label, tuple) else str(label)
        for label in sets
    ]


def in_every_row(rows: Sequence[Example]) -> list[str]:
    """Return notes where all rows with several labels share one, or have but one: another task may be meant."""
    sets = [
        set(row.names) for row in rows if isinstance(row.label, tuple) and not isinstance(row.label, Tags | Numbers)
    ]
    if sets and all(len(one) == 1 for one in sets):
        return ["each training row has one label alone: a task of one class a row decides between them"]
    shared = set.intersection(*sets) if sets else set()
    return [f"the label {name!r} is in every training row: it will be in every answer" for name in sorted(shared)]


def joined(rows: Sequence[Example]) -> list[str]:
    """Return a note where several classes are others of them joined: rows with several labels, read as one class a row.

    Nothing is said of rows whose labels were read as several.
    """
    classes = sorted({row.label for row in rows if isinstance(row.label, str)})
    for mark in SEPARATORS:
        alone = {name for name in classes if mark not in name}
        both = [name for name in classes if mark in name and {part.strip() for part in name.split(mark)} <= alone]
        if len(both) > 1:
            return [
                f"{len(both)} classes are others joined by {mark!r} ({listed([*map(repr, both)], most=3)}): where a "
                "row may have several labels, a task for that reads them apart"
            ]
    return []


def stratified(rows: Sequence[Example], count: int, seed: int, *, spare: int = 0) -> list[Example]:
    """Return `count` of the rows, each class by its share and with at least one row; the same for the same seed.

    Fewer than classes: one row of each class. `spare` rows of each class are never taken. Of rows with several labels
    each label has its share, and at least one row.
    """
    numbers = all(isinstance(row.label, Numbers) for row in rows)
    if any(isinstance(row.label, tuple) for row in rows) and not numbers:
        return _of_label_sets(rows, count, seed, spare)
    groups: dict[str, list[Example]] = defaultdict(list)
    for name, row in zip(strata([row.label for row in rows]), rows, strict=True):
        groups[name].append(row)
    random = Random(seed)  # noqa: S311
    for name in sorted(groups):
        random.shuffle(groups[name])
    most = {name: len(group) - spare for name, group in groups.items()}
    wanted = {name: len(group) * count / len(rows) for name, group in groups.items()}
    taken = {name: min(most[name], max(1, int(wanted[name]))) for name in groups}
    count = min(max(count, sum(most[name] > 0 for name in groups)), sum(most.values()))

    def step(by: int) -> None:
        """Take one row more (or less) of the class that is furthest below (or above) its share."""
        able = [name for name in groups if (taken[name] < most[name] if by > 0 else taken[name] > 1)]
        taken[max(able, key=lambda name: (by * (wanted[name] - taken[name]), name))] += by

    while sum(taken.values()) < count:
        step(1)
    while sum(taken.values()) > count:
        step(-1)
    picked = [row for name in sorted(groups) for row in groups[name][: taken[name]]]
    random.shuffle(picked)
    return picked


def _of_label_sets(rows: Sequence[Example], count: int, seed: int, spare: int) -> list[Example]:
    """Return about `count` rows by iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), rarest labels first.

    More than `count` where it takes more to have every label that has a row to give; fewer where `spare` forbids more.
    """
    names = [tuple(dict.fromkeys(row.names)) or (_NO_NAME,) for row in rows]  # spans of one kind: it counts once
    held = Counter(name for own in names for name in own)
    most = {name: number - spare for name, number in held.items()}
    wanted = {name: min(most[name], max(1, round(number * count / len(rows)))) for name, number in held.items()}
    random = Random(seed)  # noqa: S311
    order = list(range(len(rows)))
    random.shuffle(order)
    holders: dict[str, list[int]] = defaultdict(list)
    for row in order:
        for name in names[row]:
            holders[name].append(row)
    decided, taken, has = set[int](), list[int](), Counter[str]()

    def take(row: int) -> bool:
        if any(has[name] >= most[name] for name in names[row]):
            return False
        taken.append(row)
        has.update(names[row])
        return True

    for name in sorted(held, key=lambda one: (held[one], one)):
        for row in holders[name]:
            if row not in decided and has[name] < wanted[name]:
                take(row)
            decided.add(row)
    chosen = set(taken)
    for row in order:  # rarest labels first leaves the number of rows to chance: more rows, or fewer
        if len(taken) < count and row not in chosen:
            take(row)
    left_out: set[int] = set()
    for row in reversed(taken):
        if len(taken) - len(left_out) > count and all(has[name] > 1 for name in names[row]):
            left_out.add(row)
            has.subtract(names[row])
    picked = [row for row in taken if row not in left_out]
    random.shuffle(picked)
    return [rows[row] for row in picked]
