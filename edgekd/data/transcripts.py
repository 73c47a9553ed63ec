"""Texts that were heard, held against what was said: word and character errors, and texts that go round in circles.

Before two texts are compared they are normalized as Whisper's own evaluation does it (Radford et al. 2022, appendix C):
case, punctuation, spelling and numbers are no errors. Errors are Levenshtein's, as jiwer counts them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ENGLISH = "en"
MOST_COMPRESSED = 2.4  # bytes of a text over those of it compressed: above, Whisper takes it for a loop
FEW = 300  # held-out recordings below which word errors are a smoke test
_LOOP_TIMES = 4  # an n-gram that follows itself so often is a loop: "no, no, no" is said, and so is "ha ha ha"
_LOOP_WORDS = 10  # the longest n-gram that is looked for


@lru_cache(maxsize=8)
def normalizer(language: str = ENGLISH) -> Callable[[str], str]:
    """Return Whisper's normalizer of English texts; of other languages, the one that knows no language."""
    if language == ENGLISH:
        from whisper_normalizer.english import EnglishTextNormalizer

        made: Callable[[str], str] = EnglishTextNormalizer()
    else:
        from whisper_normalizer.basic import BasicTextNormalizer

        made = BasicTextNormalizer()
    return lambda text: " ".join(made(text).split())


def errors(heard: Sequence[str], said: Sequence[str], language: str = ENGLISH) -> np.ndarray[Any, Any]:
    """Return per row word errors, words, character errors and characters: (rows, 4).

    `said` are the references, whose words and characters are counted. Rates are sums of errors over sums of these, so
    that a long text counts more; they may be above 1. Where a reference is empty all that was heard is an error.
    """
    import jiwer
    import numpy as np

    spelled = normalizer(language)
    rows = np.zeros((len(said), 4))
    for row, (own, reference) in enumerate(zip(heard, said, strict=True)):
        one, wanted = spelled(own), spelled(reference)
        if not wanted:
            rows[row] = len(one.split()), 0, len(one), 0
            continue
        words, letters = jiwer.process_words(wanted, one), jiwer.process_characters(wanted, one)
        for place, found in ((0, words), (2, letters)):
            rows[row, place] = found.substitutions + found.deletions + found.insertions
            rows[row, place + 1] = found.substitutions + found.deletions + found.hits
    return rows


def agreement(heard: Sequence[str], other: Sequence[str], language: str = ENGLISH) -> np.ndarray[Any, Any]:
    """Return per row how far two models heard the same words, from 0 to 1: (rows,).

    It is 1 less the word errors between them over the words of the longer text, so that it is the same both ways.
    """
    import jiwer
    import numpy as np

    spelled = normalizer(language)
    found = np.ones(len(other))
    for row, (own, reference) in enumerate(zip(heard, other, strict=True)):
        one, wanted = spelled(own), spelled(reference)
        if not one or not wanted:
            found[row] = float(one == wanted)
            continue
        both = jiwer.process_words(wanted, one)
        wrong = both.substitutions + both.deletions + both.insertions
        found[row] = 1 - wrong / max(len(one.split()), len(wanted.split()))
    return found


def compression_ratio(text: str) -> float:
    """Return a text's bytes over those of it compressed; 1 of an empty text."""
    raw = text.encode("utf-8", "replace")
    return len(raw) / len(zlib.compress(raw)) if raw else 1.0


def has_loop(text: str) -> bool:
    """Return whether up to ten words follow themselves four times, or the text compresses as loops do.

    >>> has_loop("no no no"), has_loop("thank you. " * 5), has_loop("the cat sat on the mat")
    (False, True, False)
    """
    words = text.lower().split()
    for size in range(1, min(_LOOP_WORDS, len(words) // _LOOP_TIMES) + 1):
        alike = 0  # words in a row that are the same as those `size` before them
        for at in range(size, len(words)):
            alike = alike + 1 if words[at] == words[at - size] else 0
            if alike >= size * (_LOOP_TIMES - 1):
                return True
    return compression_ratio(text) > MOST_COMPRESSED
