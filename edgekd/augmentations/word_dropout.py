"""Word dropout: a text with some of its words left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar


@dataclass(frozen=True)
class WordDropout:
    """Leaves out a share of the words, at least one; one always stays. EDA, Wei and Zou 2019, arXiv 1901.11196."""

    share: float = 0.1

    modalities: ClassVar[tuple[str, ...]] = ("text",)

    def __call__(self, value: str, others: Sequence[str], random: Random) -> str:
        """Words are what spaces part; a text of one word stays as it is."""
        words = value.split()
        kept = max(1, min(len(words) - 1, round(len(words) * (1 - self.share))))
        return " ".join(words[place] for place in sorted(random.sample(range(len(words)), kept)))
