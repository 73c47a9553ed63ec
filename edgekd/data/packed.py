"""Passages as token ids for language models: each behind a mark of its beginning, several packed into one row.

In a packed row nothing is seen across passages: positions begin again with each, and transformers masks attention by
them where it keeps no cache (`use_cache=False`, no attention mask).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError, TeacherError
from edgekd.core.tensors import NO_LABEL
from edgekd.data import clean
from edgekd.data.limits import shown
from edgekd.data.tokens import Tokens, tokenizer_of

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

_CHUNK = 1024  # texts that are tokenized together
_OPEN = 64  # packed rows that a passage may still go to: the search stays short, and little room is left over


def encode(folder: Path, texts: Iterable[str], max_size: int) -> Tokens:
    """Return each text's tokens behind the tokenizer's bos (else eos) token: `input_ids`, int64 (1, tokens).

    So every byte of the text belongs to a token that is foreseen. Raises DataError for a text of more than `max_size`
    tokens: cut, its bytes would count and its tokens would not.
    """
    import numpy as np

    tokenizer = tokenizer_of(folder, clean.state(folder))
    first = _beginning(tokenizer, folder)
    several = list(texts)
    parts: list[Array] = []
    lengths: list[int] = []
    for start in range(0, len(several), _CHUNK):
        batch = several[start : start + _CHUNK]
        for text, ids in zip(batch, tokenizer(batch, add_special_tokens=False)["input_ids"], strict=True):
            if len(ids) + 1 > max_size:
                raise DataError(
                    f"a passage has {len(ids) + 1} tokens, its mark counted, above {max_size}: {shown(text)}",
                    fix=f"allow more, as far as the model's context does: --max-tokens {len(ids) + 1}",
                )
            parts.append(np.array([first, *ids], dtype=np.int32))
            lengths.append(len(ids) + 1)
    sizes = np.array(lengths, dtype=np.int32)
    columns = {"input_ids": np.concatenate(parts)} if parts else {}
    return Tokens(columns, np.cumsum(sizes, dtype=np.int64) - sizes, sizes)


def _beginning(tokenizer: Any, folder: Path) -> int:
    for number in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number)
    raise TeacherError(
        f"the tokenizer in {folder} names neither a bos nor an eos token: nothing marks where a text begins",
        fix='name one in tokenizer_config.json: "eos_token": "<|endoftext|>"',
    )


def pack(samples: Sequence[Sample], size: int) -> tuple[list[Sample], list[list[int]]]:
    """Return rows of at most `size` tokens, `input_ids` and `position_ids` (1, tokens), and whose samples each holds.

    A sample goes to the first open row with room for it. One that is longer than `size` is a row of its own.
    """
    import numpy as np

    held: list[list[int]] = []
    room: list[int] = []
    for number, sample in enumerate(samples):
        tokens = sample["input_ids"].shape[1]
        place = next((one for one in range(max(0, len(room) - _OPEN), len(room)) if room[one] >= tokens), None)
        if place is None:
            place = len(room)
            held.append([])
            room.append(size)
        held[place].append(number)
        room[place] -= tokens
    rows: list[Sample] = []
    for numbers in held:
        ids = [samples[number]["input_ids"] for number in numbers]
        positions = [np.arange(one.shape[1], dtype=np.int64)[None] for one in ids]
        rows.append({"input_ids": np.concatenate(ids, axis=1), "position_ids": np.concatenate(positions, axis=1)})
    return rows, held


def next_tokens(input_ids: Array, position_ids: Array) -> Array:
    """Return the token that each position of packed rows is to foresee, NO_LABEL at a passage's end: (rows, tokens).

    >>> import numpy as np
    >>> next_tokens(np.array([[1, 7, 8, 1, 9]]), np.array([[0, 1, 2, 0, 1]])).tolist()
    [[7, 8, -100, 9, -100]]
    """
    import numpy as np

    wanted = np.full_like(input_ids, NO_LABEL)
    wanted[:, :-1] = np.where(position_ids[:, 1:] > 0, input_ids[:, 1:], NO_LABEL)
    return wanted
