"""Word swap: a text some of whose words come from other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar


@dataclass(frozen=True)
class WordSwap:
    """Replaces a share of the words, at least one, by words of other texts. UDA, Xie et al. 2020, arXiv 1904.12848."""

    share: float = 0.2

    modalities: ClassVar[tuple[str, ...]] = ("text",)
    borrows: ClassVar[bool] = True

    def __call__(self, value: str, others: Sequence[str], random: Random) -> str:
        """Words are what spaces part; each new one is of a text of its own. A text of one word stays as it is."""
        words = value.split()
        count = min(len(words) - 1, max(1, round(len(words) * self.share)))
        for place in random.sample(range(len(words)), count):
            words[place] = random.choice(random.choice(others).split())
        return " ".join(words)
