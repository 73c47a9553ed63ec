"""Sentences with names of people and places that a small model can learn to find, in every form that people have."""

from __future__ import annotations

import json
import random
from pathlib import Path

FIRST = ["Ann", "Bob", "Carla", "Dieter", "Eve", "Farouk", "Greta", "Hans"]
LAST = ["Smith", "Jones", "Mueller", "Rossi"]
PLACES = ["Paris", "Rome", "New York", "San Marino", "Oslo", "Bonn"]
FILLER = [
    *("met", "saw", "in", "the", "near", "at", "with", "on"),
    *("when", "walked", "to", "and", "then", "home", "town", "people", "like"),
]
Tagged = tuple[list[str], list[str]]


def sentence(draw: random.Random) -> Tagged:
    """Words and their tags in BIO."""
    words: list[str] = []
    tags: list[str] = []
    for _ in range(draw.randint(2, 4)):
        filler = draw.sample(FILLER, draw.randint(1, 4))
        words, tags = words + filler, tags + ["O"] * len(filler)
        kind = draw.random()
        if kind < 0.4:
            name = [draw.choice(FIRST), *([draw.choice(LAST)] if draw.random() < 0.5 else [])]
            words, tags = words + name, tags + ["B-PER", "I-PER"][: len(name)]
        elif kind < 0.8:
            place = draw.choice(PLACES).split()
            words, tags = words + place, tags + ["B-LOC", "I-LOC"][: len(place)]
    return words, tags


def sentences(count: int, seed: int) -> list[Tagged]:
    """Distinct sentences."""
    draw = random.Random(seed)
    made: dict[str, Tagged] = {}
    while len(made) < count:
        words, tags = sentence(draw)
        made[" ".join(words)] = (words, tags)
    return list(made.values())


def as_bioes(tags: list[str]) -> list[str]:
    """BIO as BIOES."""
    after = [*tags[1:], "O"]
    ends = [not later.startswith("I-") for later in after]
    last = {"B": "S", "I": "E"}
    return [tag if tag == "O" or not end else f"{last[tag[0]]}{tag[1:]}" for tag, end in zip(tags, ends, strict=True)]


def as_spans(words: list[str], tags: list[str]) -> dict[str, object]:
    """A text and spans by its characters."""
    spans: list[dict[str, object]] = []
    at = 0
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("B-"):
            spans.append({"start": at, "end": at + len(word), "label": tag[2:]})
        elif tag.startswith("I-"):
            spans[-1]["end"] = at + len(word)
        at += len(word) + 1
    return {"text": " ".join(words), "spans": spans}


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tokens(path: Path, rows: list[Tagged]) -> Path:
    """Lines of JSON, each with tokens and tags."""
    return write_jsonl(path, [{"tokens": words, "ner_tags": tags} for words, tags in rows])


def write_conll(path: Path, rows: list[Tagged]) -> Path:
    """CoNLL-2003's form: word, two columns that nobody asks for, tag."""
    blocks = ["\n".join(f"{word} X Y {tag}" for word, tag in zip(*row, strict=True)) for row in rows]
    path.write_text("-DOCSTART- -X- -X- O\n\n" + "\n\n".join(blocks) + "\n", encoding="utf-8")
    return path
