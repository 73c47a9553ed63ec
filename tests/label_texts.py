"""Sentences with several labels, or none, that a small model can learn: a word of each of them among filler."""

from __future__ import annotations

import random

from conftest import CLASSES, FILLER

LABELS = tuple(sorted(CLASSES))
LABELLED = tuple[str, tuple[str, ...]]


def label_texts(count: int, seed: int, share: float = 0.35) -> list[LABELLED]:
    """Distinct sentences, each with the labels whose words it holds: `share` of them each, sorted."""
    draw = random.Random(seed)
    made: dict[str, tuple[str, ...]] = {}
    while len(made) < count:
        held = tuple(label for label in LABELS if draw.random() < share)
        words = draw.sample(FILLER, draw.randint(3, 7))
        for label in held:
            words.insert(draw.randint(0, len(words)), draw.choice(CLASSES[label].split()))
        made[" ".join(words) + "?"] = held
    return list(made.items())


def joined(rows: list[LABELLED], mark: str = ";") -> list[tuple[str, str]]:
    """Rows as a table of separated text has them."""
    return [(text, mark.join(held) or "[]") for text, held in rows]
