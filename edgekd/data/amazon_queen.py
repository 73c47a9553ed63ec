"""The acted lines of Flight of the Amazon Queen, as Debian carries the game, written as folders of recordings.

One file holds all: a table of names, places and sizes, then the files themselves. Speech is MP3; what is said stands
in the dialogues (`.DOG`), whose format is that of the interpreter ScummVM (`engines/queen/talk.cpp`).
"""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.data.limits import check_plain

TEST_LINES, VALIDATION_LINES = 400, 200  # at least; whole dialogues
_MAGIC, _COUNT_AT, _ENTRY, _NAME = b"QTBL", 13, 21, 12
_BANK, _LEVELS_AT, _LEVEL = 20, 32, 96  # bytes of a dialogue's header, before its levels, and of a level
_OFFSETS_AT = 22  # where the place of the other person's lines stands
_MARK = re.compile(r"\*(?:[0-9]{1,2}|[A-Z]{2})")  # a pose or a turn of the head: it cuts a line into recordings
_SPEECH = re.compile(r"[0-9A-Z_]+\.SB")
_FIX = "fetch the package again: apt-get download flight-of-the-amazon-queen"


@dataclass(frozen=True)
class Line:
    """One recording with what is said in it; both are empty where that is unknown."""

    name: str
    dialogue: str
    text: str


def write_queen(source: Path, folder: Path) -> None:
    """Write `train`, `validation`, `test` and `unlabelled` folders of MP3 with a `metadata.csv` in each.

    Dialogues are of one split each, by the SHA-256 of their names; held-out lines that say what a training line says
    are left out. Recordings whose text is unknown are unlabelled. Raises DataError for another file.
    """
    check_plain(source)
    raw = source.read_bytes()
    files = read_table(raw)
    lines = read_lines(raw, files)
    for split, rows in _splits(lines).items():
        place = folder / split
        place.mkdir(parents=True)
        with (place / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("file_name", "transcript", "dialogue"))
            for line in rows:
                name = f"{line.name.removesuffix('.SB').lower()}.mp3"
                start, size = files[line.name]
                (place / name).write_bytes(raw[start : start + size])
                writer.writerow((name, line.text, line.dialogue))


def read_table(raw: bytes) -> dict[str, tuple[int, int]]:
    """Return where each file begins and how long it is, by its name. Raises DataError for what is no such table."""
    if not raw.startswith(_MAGIC) or len(raw) < _COUNT_AT + 2:
        raise DataError("this is no file of Flight of the Amazon Queen: it does not begin with QTBL", fix=_FIX)
    (count,) = struct.unpack_from(">H", raw, _COUNT_AT)
    files = {}
    for number in range(count):
        at = _COUNT_AT + 2 + number * _ENTRY
        if at + _ENTRY > len(raw):
            raise DataError(f"the table names {count} files and ends after {number}", fix=_FIX)
        name = raw[at : at + _NAME].rstrip(b"\0 ").decode("ascii", "replace")
        start, size = struct.unpack_from(">II", raw, at + _NAME + 1)
        if start + size > len(raw):
            raise DataError(f"the file {name!r} of the table lies beyond the end", fix=_FIX)
        files[name] = (start, size)
    return files


def read_lines(raw: bytes, files: Mapping[str, tuple[int, int]]) -> list[Line]:
    """Return every recording there is, in order of names. Raises DataError for a dialogue that is cut."""
    known: dict[str, set[tuple[str, str]]] = {}
    for name in sorted(files):
        if name.endswith(".DOG"):
            start, size = files[name]
            try:
                for recording, text in _spoken(raw[start + _BANK : start + size]):
                    known.setdefault(recording, set()).add((name.removesuffix(".DOG"), text))
            except (struct.error, IndexError) as error:
                raise DataError(f"the dialogue {name} is cut", fix=_FIX) from error
    found = []
    for name in sorted(one for one in files if _SPEECH.fullmatch(one)):
        told = known.get(name, set())
        dialogue, text = next(iter(told)) if len(told) == 1 else ("", "")  # one name for two lines: nobody knows which
        found.append(Line(name, dialogue, text))
    return found


def _spoken(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the recording's name and the words of each part of each line of one dialogue."""
    levels, _, talk, joe_lines, lines = struct.unpack_from(">5h", data)
    (others_at,) = struct.unpack_from(">H", data, _OFFSETS_AT)
    for who, at, count in (("J", _LEVELS_AT + abs(levels) * _LEVEL, joe_lines), ("P", others_at, lines)):
        for key, text in _strings(data, at, count):
            prefix = f"{talk:02d}{abs(key):04X}{who}"
            for part, words in enumerate(_MARK.split(text), start=1):
                if words.strip():
                    yield f"{prefix}{part:X}.SB", " ".join(words.split())


def _strings(data: bytes, at: int, count: int) -> Iterator[tuple[int, str]]:
    """Yield number and text of so many strings; each begins at a multiple of 4."""
    for _ in range(count):
        if at + 5 > len(data):
            return  # the tables count some that are not there
        (key,) = struct.unpack_from(">h", data, at + 2)
        length = data[at + 4]
        text = data[at + 5 : at + 5 + length].decode("cp437", "replace")
        at += 5 + length
        at += -at % 4
        yield key, text


def _splits(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Return the lines by split, whole dialogues together."""
    dialogues: dict[str, list[Line]] = {}
    for line in lines:
        if line.text:
            dialogues.setdefault(line.dialogue, []).append(line)
    splits: dict[str, list[Line]] = {"test": [], "validation": [], "train": []}
    for name in sorted(dialogues, key=lambda one: sha256(one.encode()).hexdigest()):
        if len(splits["test"]) < TEST_LINES:
            splits["test"] += dialogues[name]
        elif len(splits["validation"]) < VALIDATION_LINES:
            splits["validation"] += dialogues[name]
        else:
            splits["train"] += dialogues[name]
    said = {_plain(line.text) for line in splits["train"]}
    for held in ("test", "validation"):
        splits[held] = [line for line in splits[held] if _plain(line.text) not in said]
    return splits | {"unlabelled": [line for line in lines if not line.text]}


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))
