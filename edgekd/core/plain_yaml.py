"""The one reader of YAML: plain mappings, lists and scalars, of bounded size and depth.

A stranger's YAML can stand for gigabytes by aliases, take minutes by merge keys, and name Python types by tags. None of
that is read. What is no plain null, boolean or decimal number is text: dates, `1:30`, `0x1F` and `.inf` too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST_BYTES = 256 << 10  # a shipped profile has three thousand; a model card's front matter may list many results
_DEEPEST = 32
_WORDS: dict[str, bool | None] = dict.fromkeys(("true", "yes", "on"), True)
_WORDS |= dict.fromkeys(("false", "no", "off"), False) | {"null": None}
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None}
for _form in (str, str.capitalize, str.upper):
    _CONSTANTS |= {_form(word): value for word, value in _WORDS.items()}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]{1,3})?")
_LONGEST_NUMBER = 40  # letters: float() of megabytes of digits takes its time


class PlainYamlError(ValueError):
    """YAML that is damaged or more than plain; the message names the line, `fix` the way out."""

    def __init__(self, reason: str, line: int, fix: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.fix = fix


def read(raw: bytes | str, *, first_line: int = 1) -> Any:
    """The value of one YAML document; keys are text. Raises PlainYamlError.

    `first_line` is the line of the file that the text begins in.
    """
    if len(raw) > MOST_BYTES:
        raise PlainYamlError(f"more than {MOST_BYTES:,} bytes", first_line, "keep what is needed, without the rest")
    text = raw if isinstance(raw, str) else _decoded(raw, first_line)
    return _Reader(text, first_line).document()


def scalar(text: str) -> Any:
    """What a value means without quotes: null, a boolean, a finite decimal number, or text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= _LONGEST_NUMBER:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text) and math.isfinite(number := float(text)):
            return number
    return text


def _decoded(raw: bytes, first_line: int) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + raw[: error.start].count(b"\n")
        reason = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise PlainYamlError(reason, line, "save the file as UTF-8") from error


class _Reader:
    """A document from the parser's events: the parser makes no values, so it cannot be made to make many."""

    def __init__(self, text: str, first_line: int) -> None:
        self.text, self.first_line, self.depth = text, first_line, 0

    def document(self) -> Any:
        self.events = self._checked()
        next(self.events)  # of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self.events))
        next(self.events)  # of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refusal(after, "a second document begins", "keep one: remove what follows `---`")
        return value

    def _checked(self) -> Iterator[Any]:
        """The parser's events, none of which is more than plain."""
        try:
            events: Iterator[Any] = yaml.parse(self.text, Loader=yaml.SafeLoader)
            for event in events:
                if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                    sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
                    raise self._refusal(
                        event,
                        f"{sign}{event.anchor[:40]} is an anchor's name or its alias",
                        "write the value out wherever it is wanted; quote text that begins with & or *",
                    )
                if getattr(event, "tag", None):
                    raise self._refusal(
                        event, f"{event.tag[:40]} is a tag", "leave it out; quote text that begins with !"
                    )
                if isinstance(event, yaml.DocumentStartEvent) and (event.version or event.tags):
                    raise self._refusal(event, "a directive", "remove the line that begins with %")
                yield event
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = self.first_line + (mark.line if mark else 0)
            raise PlainYamlError(str(error.problem or error.context), line, "correct that line") from error
        except yaml.reader.ReaderError as error:
            line = self.first_line + self.text[: error.position].count("\n")
            reason = f"the character {chr(error.character)!a}, which YAML does not allow"
            raise PlainYamlError(reason, line, "remove it") from error
        except (ValueError, OverflowError) as error:  # of the scanner: \UFFFFFFFF is no character
            if isinstance(error, PlainYamlError):
                raise
            raise PlainYamlError(str(error), self.first_line, "correct the escapes in its quotes") from error

    def _value(self, event: Any) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else scalar(event.value)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._refusal(event, f"nested deeper than {_DEEPEST} levels", "write it flat: `key: value` lines")
        mapping = isinstance(event, yaml.MappingStartEvent)
        value = self._mapping() if mapping else self._sequence()
        self.depth -= 1
        return value

    def _sequence(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event))
        return items

    def _mapping(self) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refusal(event, "a key that is no word", "write `key: value`; quote text with brackets")
            key = event.value
            if key == "<<" and not event.style:
                raise self._refusal(event, "<< is a merge key", "write the keys out that it stands for")
            if key in items:
                raise self._refusal(event, f"the key {key[:40]!r} stands there a second time", "keep one of them")
            items[key] = self._value(next(self.events))
        return items

    def _refusal(self, event: Any, reason: str, fix: str) -> PlainYamlError:
        return PlainYamlError(reason, self.first_line + event.start_mark.line, fix)
