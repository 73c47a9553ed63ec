"""More inputs out of those there are, made once and before the teacher is asked about them.

So its outputs are computed once and kept, and student and teacher see the same view of an input: "A good teacher is
patient and consistent", Beyer et al. 2022, arXiv 2106.05237.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from random import Random
from typing import Any

from edgekd.core.protocols import Augmentation
from edgekd.data.images import ChangedImage
from edgekd.data.pairs import Pair
from edgekd.data.splits import Example
from edgekd.data.tags import Tags

_LENDERS = 64  # other inputs that one input's copies may borrow from


def augment(
    rows: Sequence[Example],
    steps: Sequence[tuple[Augmentation, int]],
    seed: int,
    *,
    apart_from: Iterable[Example] = (),
) -> tuple[Example, ...]:
    """So many copies of each row by each augmentation; a copy has its row's label; none where it takes from other rows.

    The copies follow from the seed and from what the rows say, not from the rows' order. One that says what a row, a
    row of `apart_from` (the held-out roles) or another copy says is dropped. Texts and series (float32 arrays) are
    made here, images when they are decoded.
    """
    ordered = sorted(((row.content, row) for row in rows), key=lambda pair: pair[0])
    seen = {content for content, _ in ordered} | {row.content for row in apart_from}
    ring = [row.input for _, row in ordered]
    lenders = min(_LENDERS, len(ring) - 1)
    ring += ring[:lenders]
    made = []
    for augmentation, copies in steps:
        borrows = getattr(augmentation, "borrows", False)
        for place, (content, row) in enumerate(ordered, start=1):
            others = ring[place : place + lenders] if borrows else []  # neighbours by hash: as good as drawn
            for number in range(copies if others or not borrows else 0):
                key = sha256(f"{seed} {augmentation!r} {number} {content}".encode()).hexdigest()
                own_label = None if borrows or isinstance(row.label, Tags) else row.label  # other words, other tags
                copy = Example(_changed(row.input, augmentation, others, key), own_label)
                own = copy.content
                if own not in seen:
                    seen.add(own)
                    made.append(copy)
    return tuple(made)


def _changed(value: Any, augmentation: Augmentation, others: Sequence[Any], key: str) -> Any:
    random = Random(key)  # noqa: S311
    if isinstance(value, Pair):  # the first text of each: what they are held against stays
        firsts = [one.first if isinstance(one, Pair) else one for one in others]
        return value.changed(augmentation(value.first, firsts, random))
    if isinstance(value, str) or getattr(value, "dtype", None) == "float32":
        return augmentation(value, others, random)
    partner = random.choice(others) if others else None
    if partner is not None:
        key = sha256(f"{key} {Example(partner).identity}".encode()).hexdigest()
    return ChangedImage(value, partner, augmentation, key)
