"""What an answer says: a class, or why it says none."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from edgekd.data.columns import row_label
from edgekd.data.splits import Label
from edgekd.labelling.client import Reply

Outcome = Literal["label", "refused", "truncated", "malformed", "off_list", "too_long"]
OUTCOMES: tuple[str, ...] = ("label", "refused", "truncated", "malformed", "off_list", "too_long")
_QUOTES = " \t\r\n\"'`*_.,:;!()[]{}<>“”‘’«»"
_THOUGHTS = ("think", "thinking", "reasoning")  # tags of models that reason aloud
_SEVERAL = ("labels", "classes", "categories", "label")
_SUBJECTS, _BETWEEN = "label|class|category|answer", r"[\s\"'*]*"
_MOST_CHARACTERS = 64 << 10


@dataclass(frozen=True)
class Answer:
    """The outcome, the label where it is one, and whether it came in the `strict` form that was asked for."""

    outcome: Outcome
    label: Label | None = None
    strict: bool = True


class Reader:
    """Reads answers that name one of the classes; or `several` of them, or none."""

    def __init__(self, classes: Iterable[str], *, several: bool = False) -> None:
        self._several = several
        self._exact = {name: name for name in classes}
        folded = Counter(map(_folded, self._exact))
        self._folded = {_folded(name): name for name in self._exact if folded[_folded(name)] == 1}
        words = "|".join(re.escape(name) for name in sorted(self._exact, key=len, reverse=True))
        self._told = re.compile(
            rf"\b(?:label|class|category|answer)\b[\s\"'*]*(?:is|:|=)[\s\"'*]*({words})(?!\w)", re.I
        )

    def read(self, reply: Reply) -> Answer:
        """What the reply says.

        A JSON object with a label counts; else a class's name alone, in all or on a line of its own at either end, or
        behind words like `the label is`. A class that is merely mentioned does not: "this is not spam".
        """
        if reply.refusal or reply.finish == "content_filter":
            return Answer("refused")
        content = _without_thoughts(reply.content[:_MOST_CHARACTERS]).strip()
        if self._several:
            return self._names(content, reply.finish)
        found = _label_in(content)
        if found is not None:
            name = self._class(found)
            if name is not None:
                return Answer("label", name, strict=content.startswith("{") and content.endswith("}"))
            return Answer("off_list")
        if reply.finish == "length":
            return Answer("truncated")
        if not content:
            return Answer("malformed")
        name = self._loosely(content)
        if name is not None:
            return Answer("label", name, strict=False)
        return Answer("off_list" if len(content.split()) <= 4 and "{" not in content else "malformed", strict=False)

    def _names(self, content: str, finish: str) -> Answer:
        """The names in the first JSON object that lists some, or in a list alone."""
        found = _list_in(content)
        if found is None:
            return Answer("truncated" if finish == "length" else "malformed")
        names = [self._class(name) for name in found]
        if None in names:
            return Answer("off_list")
        strict = content.startswith("{") and content.endswith("}")
        return Answer("label", tuple(sorted({name for name in names if name})), strict=strict)

    def _class(self, text: str) -> str | None:
        return self._exact.get(text.strip()) or self._folded.get(_folded(text))

    def _loosely(self, content: str) -> str | None:
        lines = [line for line in content.splitlines() if line.strip()]
        said = {self._class(text) for text in (content, lines[0], lines[-1], *self._told.findall(content))} - {None}
        return said.pop() if len(said) == 1 else None


def _without_thoughts(content: str) -> str:
    """What stands behind the thoughts; nothing where they did not end."""
    for tag in _THOUGHTS:
        content = content.rpartition(f"</{tag}>")[2]
        if content.lstrip().startswith(f"<{tag}>"):
            return ""
    return content


def _folded(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)  # one letter may be written as one sign or as two
    folded = " ".join(unicodedata.normalize("NFC", composed.casefold()).split())
    return folded.strip(_QUOTES) or folded


def _list_in(content: str) -> list[str] | None:
    """The names of the first JSON object in it that lists labels, or of a list beside other words."""
    decoder, begun = json.JSONDecoder(), 0
    for start in [found.start() for found in re.finditer(r"[\[{]", content)][:8]:
        if start < begun:
            continue  # inside of what was read
        try:
            value, begun = decoder.raw_decode(content, start)
        except (ValueError, RecursionError):
            continue
        listed = next((value[key] for key in _SEVERAL if key in value), None) if isinstance(value, dict) else value
        if isinstance(listed, list) and all(isinstance(name, str | int | float) for name in listed):
            return [name if isinstance(name, str) else str(row_label(name)) for name in listed]
    return None


def _label_in(content: str) -> str | None:
    """The label of the first JSON object in it that has one."""
    decoder = json.JSONDecoder()
    for start in [found.start() for found in re.finditer(r"\{", content)][:8]:
        try:
            value: Any = decoder.raw_decode(content, start)[0]
        except (ValueError, RecursionError):
            continue
        for key in ("label", "class", "category"):
            label = value.get(key) if isinstance(value, dict) else None
            if isinstance(label, str | int | float):
                return row_label(label) if not isinstance(label, str) else label  # 1.0 is the class 1
    return None
