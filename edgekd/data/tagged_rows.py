"""Rows of a table as words with tags: lists of tokens and tags, or a text and spans by its characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.core.errors import DataError, counted
from edgekd.data.columns import find_column, values_of
from edgekd.data.limits import shown
from edgekd.data.splits import Example
from edgekd.data.tags import Span, Tags, Words

TOKEN_NAMES = ("tokens", "words")
TEXT_NAMES = ("text", "sentence", "content", "source_text", "full_text", "document", "input")
TAG_NAMES = (
    "ner_tags",
    "tags",
    "labels",
    "label",
    "ner",
    "pos_tags",
    "upos",
    "pos",
    "word_labels",
    "bio_labels",
    "mbert_bio_labels",
)
SPAN_NAMES = ("spans", "entities", "annotations", "privacy_mask")
_START = ("start", "start_offset", "begin", "start_char")
_END = ("end", "end_offset", "end_char", "stop")
_KIND = ("label", "type", "entity", "entity_group", "entity_type", "tag", "class", "category")
_NO_TAG = (None, "", -1, -100)  # the last two as datasets and training scripts mark a word that does not count
_FORMS = 'tags as ["O", "B-PER"], one for each word; or spans as {"start": 0, "end": 4, "label": "PER"}, by characters'


def find_input(given: str | None, present: Sequence[str], source: str) -> str:
    """Return the column of the words or the text. Raises DataError, naming the columns there are."""
    return find_column(given, (*TOKEN_NAMES, *TEXT_NAMES), list(present), source, "text")


def find_tags(given: str | None, present: Sequence[str], source: str, *, needed: bool) -> str:
    """Return the column of the tags or spans; empty where there is none and none is `needed`. Raises DataError."""
    usual = (*SPAN_NAMES, *TAG_NAMES)
    if not needed and given is None and not {name.lower() for name in present} & set(usual):
        return ""
    return find_column(given, usual, list(present), source, "label")


def example(value: Any, label: Any, where: str) -> Example:
    """Return a row of words, or of a text; its label is `Tags`, or None where there is none. Raises DataError."""
    words = values_of(value) if not isinstance(value, str) or value.lstrip().startswith("[") else None
    if isinstance(value, str) and words is not None and not all(isinstance(one, str) for one in words):
        words = None  # a text such as "[1]", not a list of words
    missing = label is None or (isinstance(label, str) and not label.strip())
    if words is not None:
        return _of_words(words, None if missing else label, where)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where}: the text is {shown(value)}",
            fix="remove rows without text, or name another column with --text-column",
        )
    listed = None if missing else values_of(label)
    if listed is None and not missing:
        if not isinstance(label, str):
            raise _no_labels(label, where)
        return _of_words(value.split(), label.split() if " " in label.strip() else label.split(","), where)
    if listed is None:
        return Example(Words.of_text(value))
    if listed and all(isinstance(one, str) for one in listed):
        return _of_words(value.split(), listed, where)
    spans = _placed([_span(one, value, where) for one in listed], value, where)
    text = Words.of_text(value, [border for start, end, _ in spans for border in (start, end)])
    found = _by_words(spans, text)
    if len(found) < len(spans):
        raise DataError(f"{where}: a span holds no word", fix="remove spans of white space alone")
    return _visible(text, Tags.of_spans(found, len(text.places)), where)


def _of_words(words: Sequence[Any], label: Any, where: str) -> Example:
    """A row of words with as many tags. Raises DataError."""
    if strange := [one for one in words if not isinstance(one, str)]:
        raise DataError(f"{where}: the word {shown(strange[0])} is no text", fix="give words as texts")
    if label is None:
        return _visible(Words.joined(words), None, where)
    tags = values_of(label) if not isinstance(label, str) else (values_of(label) or label.split())
    if tags is None or any(isinstance(one, Mapping | list | tuple) for one in tags):
        raise _no_labels(label, where)
    if len(tags) != len(words):
        raise DataError(
            f"{where}: {counted(len(tags), 'tag')} for {counted(len(words), 'word')}",
            fix="give one tag for each word; O where it is nothing",
        )
    untold = next((word for word, tag in zip(words, tags, strict=True) if tag in _NO_TAG), None)
    if untold is not None:
        raise DataError(
            f"{where}: the word {shown(untold)} has no tag",
            fix="give each word one, O where it is nothing; or leave the row's tags out: it is unlabelled then",
        )
    return _visible(Words.joined(words), [str(one).strip() for one in tags], where)


def _visible(text: Words, tags: Sequence[str] | None, where: str) -> Example:
    """The row without words that have no letter to see: tokenizers leave them out. Raises DataError for no words."""
    kept = [place for place, (start, end) in enumerate(text.places) if any(map(_is_seen, text[start:end]))]
    if not kept:
        raise DataError(f"{where}: it holds no word", fix="remove rows without words")
    places = [text.places[place] for place in kept]
    label = None if tags is None else Tags.of(tags[place] for place in kept)
    return Example(Words.at(str(text), places), label)


def _is_seen(letter: str) -> bool:
    return not letter.isspace() and unicodedata.category(letter) not in ("Cc", "Cf", "Cn", "Co", "Cs")


def _span(one: Any, text: str, where: str) -> tuple[int, int, str]:
    """A span's first character, the one behind its last, and its kind. Raises DataError."""
    if isinstance(one, Mapping):
        start, end, kind = (next((one[name] for name in names if name in one), None) for names in (_START, _END, _KIND))
        kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    else:
        values = list(one) if isinstance(one, list | tuple) else []
        start, end, kind = values if len(values) == 3 else (None, None, None)
    if isinstance(start, float) and start.is_integer() and isinstance(end, float) and end.is_integer():
        start, end = int(start), int(end)  # as Parquet and pandas may have them
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(kind, str) or not kind.strip():
        raise DataError(f"{where}: {shown(one)} is no span", fix=f"give {_FORMS}")
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"{where}: the span {start} to {end} ({kind}) does not lie in its text of {len(text)} characters",
            fix="count characters of the text from 0; the end is the one behind the last",
        )
    return start, end, kind.strip()


def _placed(spans: Sequence[tuple[int, int, str]], text: str, where: str) -> list[tuple[int, int, str]]:
    """The spans in order, without white space at their ends. Raises DataError where two of them overlap."""
    ordered: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(set(spans)):
        inner = text[start:end]
        start, end = start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())
        if start >= end:
            raise DataError(f"{where}: a span of white space alone ({kind})", fix="remove it")
        if ordered and start < ordered[-1][1]:
            last = ordered[-1]
            raise DataError(
                f"{where}: the spans {shown(text[last[0] : last[1]])} ({last[2]}) and {shown(text[start:end])} "
                f"({kind}) overlap: a word has one tag",
                fix="keep one of them, or give the kinds in files of their own",
            )
        ordered.append((start, end, kind))
    return ordered


def _by_words(spans: Sequence[tuple[int, int, str]], text: Words) -> list[Span]:
    """The spans by words; every border of a span is one of a word."""
    starts = {start: place for place, (start, _) in enumerate(text.places)}
    ends = {end: place + 1 for place, (_, end) in enumerate(text.places)}
    return [Span(starts[start], ends[end], kind) for start, end, kind in spans if start in starts and end in ends]


def _no_labels(label: Any, where: str) -> DataError:
    return DataError(f"{where}: {shown(label)} is neither tags nor spans", fix=f"give {_FORMS}")
