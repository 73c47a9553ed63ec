"""Splice: the beginning of one input, the end of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar


@dataclass(frozen=True)
class Splice:
    """The first half of a text's words or a series' steps, and the second half of another's.

    CutMix along one axis, Yun et al. 2019, arXiv 1905.04899.
    """

    modalities: ClassVar[tuple[str, ...]] = ("text", "series")
    borrows: ClassVar[bool] = True

    def __call__(self, value: Any, others: Sequence[Any], random: Random) -> Any:
        """A text, or a series float32 (steps, channels). The larger half is the first."""
        other = random.choice(others)
        if isinstance(value, str):
            words, ending = value.split(), other.split()
            return " ".join(words[: (len(words) + 1) // 2] + ending[(len(ending) + 1) // 2 :])
        import numpy as np

        cut = (len(value) + 1) // 2
        return np.concatenate([value[:cut], other[cut:]])
