"""What tasks share whose rows are of one class each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.tensors import NO_LABEL
from edgekd.data.splits import Example

if TYPE_CHECKING:
    import numpy as np


def truth(rows: Sequence[Example], classes: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the class numbers of rows, (rows,), NO_LABEL where unknown. Raises KeyError for one of no class."""
    import numpy as np

    numbers: dict[Any, int] = {None: NO_LABEL} | {name: number for number, name in enumerate(classes)}
    return np.array([numbers[row.label] for row in rows], dtype=np.int64)


def baseline(
    train: Sequence[Example], test: Sequence[Example], guesses: Callable[[], Iterable[Any]]
) -> np.ndarray[Any, Any]:
    """Return per test row 1.0 where a linear model's guess is its label, else 0.0: (rows,).

    `guesses` trains the model and gives a class name a test row. Where all training rows have one class, that is it.
    """
    import numpy as np

    known = {row.label for row in train}
    named = guesses() if len(known) > 1 else [*known] * len(test)
    return np.array([guess == row.label for guess, row in zip(named, test, strict=True)], dtype=float)
