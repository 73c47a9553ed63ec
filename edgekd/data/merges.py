"""Merges of a byte-pair tokenizer: those that its file lacks, put back where they belong.

Files of Whisper's tokenizer go round whose first merge was taken for a header: " the" then becomes " " and "the", which
no model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def pair_of(merge: str | Sequence[str]) -> tuple[str, str]:
    """Return both parts of a merge, which is written as `"a b"` or as `["a", "b"]`."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def completed(vocabulary: Mapping[str, int], merges: Sequence[str | Sequence[str]]) -> list[tuple[str, str]]:
    """Return the merges with those of two letters that the vocabulary has and no merge makes; ids order them.

    Of longer words nobody knows which parts they were made of; those stay as they are.

    >>> completed({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, ["ab c"])
    [('a', 'b'), ('ab', 'c')]
    """
    pairs = [pair_of(merge) for merge in merges]
    made = {left + right for left, right in pairs}
    lacking = [
        (number, word)
        for word, number in vocabulary.items()
        if len(word) == 2 and word not in made and set(word) <= vocabulary.keys()
    ]
    for number, word in sorted(lacking):
        later = (at for at, (left, right) in enumerate(pairs) if vocabulary.get(left + right, -1) > number)
        pairs.insert(next(later, len(pairs)), (word[0], word[1]))
    return pairs
