"""The Brown corpus as plain text: its files hold `word/tag` tokens, parted by blanks, a sentence a line."""

from __future__ import annotations

import re
from pathlib import Path

from edgekd.core.errors import DataError

_FILE = re.compile(r"c[a-r][0-9]{2}")  # a document: category, number
_DOCUMENTS = 500
_NO_SPACE_BEFORE = re.compile(r" ([,.;:?!)\]}%]|'s\b|n't\b)")
_NO_SPACE_BEHIND = re.compile(r"([(\[{$]) ")
_QUOTES = {"``": "“", "''": "”"}


def write_brown(source: Path, folder: Path) -> None:
    """Write each of the 500 documents as a text file, its tags left out. Raises DataError where some are missing."""
    files = sorted(file for file in source.iterdir() if _FILE.fullmatch(file.name))
    if len(files) != _DOCUMENTS:
        raise DataError(f"{source} holds {len(files)} documents of the {_DOCUMENTS}", fix="fetch the package again")
    for file in files:
        text = plain(file.read_text(encoding="latin-1"))
        (folder / f"{file.name}.txt").write_text(text + "\n", encoding="utf-8")


def plain(tagged: str) -> str:
    """Return the text of tagged lines; paragraphs are parted by a blank line.

    >>> plain("\\tThe/at jury/nn said/vbd ,/, ``/`` no/rb ''/'' ./.\\n\\n\\tIt/pps ended/vbd ./.")
    'The jury said, “no”.\\nIt ended.'
    """
    lines = [_sentence(line) for line in tagged.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line)).strip()


def _sentence(line: str) -> str:
    words = [token.rpartition("/")[0] or token for token in line.split()]
    text = " ".join(_QUOTES.get(word, word) for word in words)
    text = re.sub(r"“ ", "“", re.sub(r" ”", "”", text))
    return _NO_SPACE_BEHIND.sub(r"\1", _NO_SPACE_BEFORE.sub(r"\1", text))
