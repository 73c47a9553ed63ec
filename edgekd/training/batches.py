"""Batches that waste nothing on padding: rows of like length together, as many as fill a number of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.predictions import WORDS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from edgekd.core.protocols import Sample

_BUCKET = 16  # batches whose rows are sorted by length together


def sizes(samples: Sequence[Sample]) -> np.ndarray[Any, Any]:
    """What rows of one batch should share: a text's tokens; images and series are all of one size. (rows,)"""
    import numpy as np

    lengths: np.ndarray[Any, Any] | None = getattr(samples, "lengths", None)
    if lengths is not None:
        return lengths
    if not len(samples) or "input_ids" not in samples[0]:
        return np.ones(len(samples), dtype=np.int64)
    return np.array([sample["input_ids"].shape[1] for sample in samples])


def ordered(lengths: np.ndarray[Any, Any], size: int, seed: int) -> list[list[int]]:
    """Every row once: shuffled, sorted by length within buckets, cut into batches, the batches shuffled again.

    A batch holds no more padded tokens than `size` rows of the median length, but two rows in any case: batch norm has
    no variance to learn from one.
    """
    draw, most = random.Random(seed), tokens_of(lengths, size)  # noqa: S311
    rows = list(range(len(lengths)))
    draw.shuffle(rows)
    made: list[list[int]] = []
    for start in range(0, len(rows), size * _BUCKET):
        *whole, last = by_length(rows[start : start + size * _BUCKET], lengths, most)
        made += whole
        if len(last) == 1 and made:
            made[-1] += last
        else:
            made.append(last)
    draw.shuffle(made)
    return made


def tokens_of(lengths: np.ndarray[Any, Any], size: int) -> int:
    """The tokens of `size` rows of the median length."""
    import numpy as np

    return size * int(np.median(lengths)) if len(lengths) else 0


def by_length(rows: Sequence[int], lengths: np.ndarray[Any, Any], most: int) -> list[list[int]]:
    """The rows sorted by length and cut into batches of at most so many padded tokens, or of two rows.

    What a batch takes of memory is then the same however many rows there are.
    """
    made: list[list[int]] = [[]]
    for row in sorted(rows, key=lengths.__getitem__):
        if len(made[-1]) > 1 and (len(made[-1]) + 1) * lengths[row] > most:
            made.append([])
        made[-1].append(row)
    return made if made[0] else []


def padded(samples: Sequence[Sample], rows: Sequence[int], pad: int, device: torch.device) -> dict[str, Tensor]:
    """The rows as one batch, texts padded to the longest of them: (rows, ...) for each input."""
    import numpy as np
    import torch

    picked = [samples[row] for row in rows]
    batch = {}
    for name in (one for one in picked[0] if one != WORDS):  # those no network reads
        values = [sample[name] for sample in picked]
        longest = max(value.shape[1] for value in values)
        if any(value.shape[1] < longest for value in values):
            fill = pad if name == "input_ids" else 0
            values = [np.pad(value, ((0, 0), (0, longest - value.shape[1])), constant_values=fill) for value in values]
        batch[name] = torch.from_numpy(np.concatenate(values)).to(device)
    return batch
