"""Words of a text, a tag for each of them, and the spans that tags spell: BIO, BIOES, BILOU, IO or no scheme."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

OUTSIDE = "O"
_PREFIXED = re.compile(r"([BIEOSLUM])-(.+)")
_SAME = {"L": "E", "U": "S", "M": "I"}  # BILOU's and BMES's letters for what BIOES calls otherwise
_WORD = re.compile(r"\w+|[^\w\s]+")
_Prefixes = tuple[str, ...]
_ALONE: _Prefixes = ("S", "U", "B", "I")  # by place in a span: as the schemes spell it, the most telling first
_FIRST: _Prefixes = ("B", "I")
_INSIDE: _Prefixes = ("I", "M")
_LAST: _Prefixes = ("E", "L", "I", "M")


class Span(NamedTuple):
    """A run of words, from `start` up to but not including `end`, that are one thing of a kind."""

    start: int
    end: int
    kind: str


class Words(str):
    """A text that knows where its words are: `places` holds each one's first character and the one behind its last."""

    places: tuple[tuple[int, int], ...]

    @classmethod
    def at(cls, text: str, places: Iterable[tuple[int, int]]) -> Words:
        """Return the text with words at these places, ascending."""
        made = cls(text)
        made.places = tuple(places)
        return made

    @classmethod
    def joined(cls, words: Sequence[str]) -> Words:
        """Return the words with one space between two of them."""
        places, start = [], 0
        for word in words:
            places.append((start, start + len(word)))
            start += len(word) + 1
        return cls.at(" ".join(words), places)

    @classmethod
    def of_text(cls, text: str, borders: Iterable[int] = ()) -> Words:
        """Return a text cut into words: letters and digits, or signs; and wherever a word has one of the `borders`.

        >>> text = Words.of_text("Ann, 7-up", borders=[8])
        >>> [text[start:end] for start, end in text.places]
        ['Ann', ',', '7', '-', 'u', 'p']
        """
        if isinstance(text, Words):
            return text
        cuts = set(borders)
        places = []
        for found in _WORD.finditer(text):
            ends = [found.start(), *(at for at in range(found.start() + 1, found.end()) if at in cuts), found.end()]
            places += list(pairwise(ends))
        return cls.at(text, places)


class Tags(tuple[str, ...]):
    """A label of kind tags: one tag for each word of a text, in their order; spans as BIO, other tags as they are."""

    __slots__ = ()

    @classmethod
    def of(cls, tags: Iterable[str]) -> Tags:
        """Return tags of any scheme in BIO.

        >>> Tags.of(["S-PER", "O", "I-LOC", "E-LOC", "NOUN"])
        ('B-PER', 'O', 'B-LOC', 'I-LOC', 'NOUN')
        """
        given = tuple(tags)
        made = [OUTSIDE if _PREFIXED.fullmatch(tag) else tag for tag in given]
        for start, end, kind in spans_of(given):
            if _PREFIXED.fullmatch(given[start]):
                made[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        return cls(made)

    @classmethod
    def of_spans(cls, spans: Iterable[Span], words: int) -> Tags:
        """Return the tags of so many words; spans do not overlap."""
        made = [OUTSIDE] * words
        for start, end, kind in spans:
            made[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        return cls(made)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each of its spans is of."""
        return tuple(span.kind for span in spans_of(self))


def parted(tag: str) -> tuple[str, str]:
    """Return a tag's prefix, as BIOES calls it, and its kind; a tag of no scheme is a span of its own.

    >>> parted("U-PER"), parted("O"), parted("NOUN")
    (('S', 'PER'), ('O', ''), ('S', 'NOUN'))
    """
    found = _PREFIXED.fullmatch(tag)
    if found is None:
        return (OUTSIDE, "") if tag == OUTSIDE else ("S", tag)
    prefix = _SAME.get(found[1], found[1])
    return (OUTSIDE, "") if prefix == OUTSIDE else (prefix, found[2])


def spans_of(tags: Iterable[str]) -> list[Span]:
    """Return the spans that tags spell, read as conlleval and seqeval do: a kind that changes begins another span.

    >>> spans_of(["B-PER", "I-PER", "I-LOC", "O", "B-LOC", "B-LOC"])
    [Span(start=0, end=2, kind='PER'), Span(start=2, end=3, kind='LOC'), Span(start=4, end=5, kind='LOC'), \
Span(start=5, end=6, kind='LOC')]
    """
    found: list[Span] = []
    start, before, kind = 0, OUTSIDE, ""
    place = -1
    for place, tag in enumerate(tags):
        prefix, own = parted(tag)
        begins = prefix in ("B", "S") or before in (OUTSIDE, "E", "S") or own != kind
        if before != OUTSIDE and (prefix == OUTSIDE or begins):
            found.append(Span(start, place, kind))
        if prefix != OUTSIDE and begins:
            start = place
        before, kind = prefix, own
    if before != OUTSIDE:
        found.append(Span(start, place + 1, kind))
    return found


def kinds_of(classes: Iterable[str]) -> tuple[str, ...]:
    """Return what spans of these tags may be of, sorted."""
    return tuple(sorted({kind for _, kind in map(parted, classes) if kind}))


def bio_classes(labels: Iterable[Tags]) -> tuple[str, ...]:
    """Return the tags that a model for such labels needs: of each kind of span both, so that any length can be said."""
    seen = {tag for label in labels for tag in label}
    spans = {kind for prefix, kind in map(parted, seen) if prefix in ("B", "I")}
    both = [f"{prefix}-{kind}" for kind in sorted(spans) for prefix in "BI"]
    alone = sorted(tag for tag in seen if parted(tag)[0] == "S")
    return (*([OUTSIDE] if OUTSIDE in seen or spans else []), *both, *alone)


def in_scheme(tags: Tags, classes: Sequence[str]) -> list[str | None]:
    """Return the tags as a model with these classes spells them; None for a word that it has no tag for.

    >>> in_scheme(Tags(["B-PER", "I-PER", "O"]), ["O", "B-PER", "I-PER", "E-PER", "S-PER"])
    ['B-PER', 'E-PER', 'O']
    """
    known = set(classes)
    made: list[str | None] = [OUTSIDE if OUTSIDE in known else None] * len(tags)
    for start, end, kind in spans_of(tags):
        for place in range(start, end):
            inner = _FIRST if place == start else _LAST if place == end - 1 else _INSIDE
            usual = _ALONE if end - start == 1 else inner
            wanted = [f"{prefix}-{kind}" for prefix in (*usual, "I", "B", "S")] + [kind]
            made[place] = next((tag for tag in wanted if tag in known), None)
    return made


def continued(tag: str, classes: Iterable[str]) -> str:
    """Return the tag of a word's later pieces: inside what its first piece begins, where the model has such a tag.

    >>> continued("B-PER", ["O", "B-PER", "I-PER"]), continued("NOUN", ["NOUN"])
    ('I-PER', 'NOUN')
    """
    prefix, kind = parted(tag)
    inside = f"I-{kind}"
    return inside if prefix in ("B", "S") and _PREFIXED.fullmatch(tag) and inside in classes else tag
