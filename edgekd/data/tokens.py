"""Texts as token ids: four bytes a token while they wait, model inputs when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgekd.core.predictions import WORDS
from edgekd.data import clean
from edgekd.data.pairs import sides

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

_CHUNK = 1024  # texts that are tokenized together: a tokenizer's own result is a hundred times what we keep


@dataclass(frozen=True, eq=False)
class Tokens(Sequence["Sample"]):
    """Model inputs of texts, unpadded: each row is a Sample of int64 arrays (1, tokens).

    `columns` holds each input's values of all texts end to end, int32 (all tokens,); or one number, where they all are
    that: a mask of ones, types of zero. Slices share the values.
    """

    columns: Mapping[str, Array | int]
    starts: Array  # (rows,): where each text begins
    lengths: Array  # (rows,): its tokens

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> Tokens: ...
    def __getitem__(self, row: int | slice) -> Sample | Tokens:
        import numpy as np

        if isinstance(row, slice):
            return Tokens(self.columns, self.starts[row], self.lengths[row])
        start, tokens = self.starts[row], self.lengths[row]
        return {
            name: np.full((1, tokens), values, dtype=np.int64)
            if isinstance(values, int)
            else values[None, start : start + tokens].astype(np.int64)
            for name, values in self.columns.items()
        }

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))


@lru_cache(maxsize=2)
def tokenizer_of(folder: Path, _state: object) -> Any:
    """The folder's tokenizer, loaded once: each load leaves some MiB behind, and rows are asked for in many parts."""
    with clean.tokenizer(folder) as loaded:
        return loaded


def tokenize(folder: Path, texts: Sequence[Any], max_tokens: int, *, words: bool = False) -> Tokens:
    """The texts as the folder's tokenizer cuts them, each at most `max_tokens` long, special tokens counted.

    With `words`, of texts that know theirs (`tags.Words`), rows have the word of each token, too, -1 of none.
    """
    import numpy as np

    tokenizer = tokenizer_of(folder, clean.state(folder))
    parts: dict[str, list[Array]] = {"input_ids": []}
    lengths: list[int] = []
    for start in range(0, len(texts), _CHUNK):
        few = texts[start : start + _CHUNK]
        encoded = tokenizer(*sides(few), truncation=True, max_length=max_tokens, return_offsets_mapping=words)
        lengths += map(len, encoded["input_ids"])
        for name in (name for name in encoded if name in tokenizer.model_input_names):
            parts.setdefault(name, []).append(np.fromiter(chain.from_iterable(encoded[name]), dtype=np.int32))
        if words:
            numbers = map(_word_numbers, encoded["offset_mapping"], (text.places for text in few))
            parts.setdefault(WORDS, []).append(np.concatenate([*numbers]).astype(np.int32))
    columns = {name: _compact(np.concatenate(values), name) for name, values in parts.items()} if lengths else {}
    sizes = np.array(lengths, dtype=np.int32)
    return Tokens(columns, np.cumsum(sizes, dtype=np.int64) - sizes, sizes)


def _word_numbers(offsets: Sequence[tuple[int, int]], places: Sequence[tuple[int, int]]) -> Array:
    """Return the first word that each token has a character of, -1 of none: (tokens,)."""
    import numpy as np

    first, behind = np.array(offsets).reshape(-1, 2).T
    starts, ends = np.array(places).reshape(-1, 2).T
    number = np.searchsorted(ends, first, side="right")
    inside = (number < len(ends)) & (first < behind) & (starts[np.minimum(number, len(ends) - 1)] < behind)
    found: Array = np.where(inside, number, -1)
    return found


def _compact(values: Array, name: str) -> Array | int:
    """One number where that says all; ids stay as they are, for whoever looks for them."""
    same = name != "input_ids" and len(values) and values.min() == values.max()
    return int(values[0]) if same else values
