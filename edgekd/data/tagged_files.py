"""Files whose words have tags: CoNLL's columns and CoNLL-U; other tables are read as everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError
from edgekd.core.files import user_path
from edgekd.data import limits, unpacked
from edgekd.data.read import NotedTable, Table, read_tables
from edgekd.data.split_files import SPLIT_NAMES, visible

TOKENS, TAGS = "tokens", "tags"
SUFFIXES = (
    ".conll",
    ".conllu",
    ".bio",
    ".iob",
    ".iob2",
    ".bioes",
    ".txt",
    ".train",
    ".testa",
    ".testb",
    ".dev",
    ".test",
)
_DOCUMENT = "-DOCSTART-"
_UNIVERSAL = ".conllu"
_FORM, _UPOS, _CELLS = 1, 3, 10  # of CoNLL-U
_SPACES = re.compile(r"[ \f\v]+")
_SPLITS = {**SPLIT_NAMES, "testa": "validation", "testb": "test"}  # as CoNLL-2003 calls them: eng.testa


def read_tagged(source: str) -> dict[str, Table]:
    """Return tables by split or as `all`: of CoNLL files with `tokens` and `tags`, of others with their own columns.

    Raises DataError for what cannot be read, and for a line that has other columns than the first.
    """
    path = user_path(source)
    if path.is_file() and unpacked.kind_of(path) in SUFFIXES:
        return {"all": read_columns(path)}
    if path.is_dir() and (files := _of_splits(path)):
        return {split: read_columns(file) for split, file in files.items()}
    return dict(read_tables(source))


def _of_splits(folder: Path) -> dict[str, Path]:
    """Return a folder's CoNLL files by split: `train.conll`, `eng.testb`; none where no file is called after train."""
    found: dict[str, Path] = {}
    for file in visible(folder):
        if not file.is_file() or unpacked.kind_of(file) not in SUFFIXES:
            continue
        names = unpacked.stem_of(file).lower(), unpacked.kind_of(file).removeprefix(".")
        words = [word for name in names for word in (name, *re.split(r"[._-]", name))]
        split = next((_SPLITS[word] for word in words if word in _SPLITS), None)
        if split is None:
            continue
        if split in found:
            raise DataError(f"{found[split]} and {file} both name the {split} split", fix="keep one of them")
        found[split] = file
    return found if "train" in found else {}


def read_columns(path: Path) -> NotedTable:
    """Return a CoNLL file's sentences: rows of `tokens` and, where there is more than one column, of `tags`.

    A word is its line's first cell and its tag the last; of CoNLL-U they are FORM and UPOS. Raises DataError.
    """
    limits.check_plain(path)
    try:
        text = unpacked.text_of(path)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}", fix="check the path and its permissions"
        ) from error
    universal = unpacked.kind_of(path) == _UNIVERSAL
    rows: list[dict[str, Any]] = []
    size = limits.Cells(path)
    tags = _tags_of_words(text)
    for lines in _sentences(text):
        cells = _universal(path, lines) if universal else _cells(path, lines, rows, tags)
        if not cells:
            continue
        size.add(2 * len(cells))
        row: dict[str, Any] = {TOKENS: [cell[0] for cell in cells]}
        if len(cells[0]) > 1:
            row[TAGS] = [cell[-1] for cell in cells]
        rows.append(row)
    if not rows:
        raise DataError(
            f"{path} holds no sentence", fix="give a word and its tag a line, and an empty line behind each sentence"
        )
    return NotedTable(rows)


def _sentences(text: str) -> Iterator[list[tuple[int, str]]]:
    """Yield each sentence's lines with their numbers."""
    own: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            own.append((number, line))
        elif own:
            yield own
            own = []
    if own:
        yield own


def _parted(line: str) -> list[str]:
    """Return a line's cells: parted by tabs where it has some, else by spaces; a no-break space is a word's."""
    return [cell.strip() for cell in line.split("\t")] if "\t" in line.strip() else _SPACES.split(line.strip())


def _tags_of_words(text: str) -> set[str]:
    """Return the last cells of lines that begin with another sign than #: no comment ends in one of them."""
    if not text.startswith("# ") and "\n# " not in text:
        return set()
    return {_parted(line)[-1] for line in text.split("\n") if line.strip() and not line.startswith("#")}


def _cells(path: Path, lines: list[tuple[int, str]], before: list[dict[str, Any]], tags: set[str]) -> list[list[str]]:
    """Return the cells of a sentence's lines, as many in each. Raises DataError."""
    found: list[list[str]] = []
    for number, line in lines:
        cells = _parted(line)
        is_word = cells[0] == "#" and len(cells) > 1 and cells[-1] in tags
        if cells[0] == _DOCUMENT or (not found and line.startswith("# ") and not is_word):
            continue  # a comment, as `# id 7` before a sentence
        if not all(cells):
            raise DataError(f"{path}, line {number}: an empty cell", fix="give a word and its tag on each line")
        found.append(cells)
        one_column = before and TAGS not in before[0]
        first = len(found[0])
        if len(cells) != first or (before and (first == 1) != one_column):
            wanted = first if len(cells) != first else 1 if one_column else 2
            counted = f"{len(cells)} column" + ("s" if len(cells) > 1 else "")
            raise DataError(
                f"{path}, line {number}: {counted} ({limits.shown(line.strip())}) where others have {wanted}"
                + (" or more" if wanted == 2 and len(cells) == 1 else ""),
                fix="give as many columns on each line: the word first, its tag last; O where it is nothing",
            )
    return found


def _universal(path: Path, lines: list[tuple[int, str]]) -> list[list[str]]:
    """Return FORM and UPOS of a sentence's words: not of comments, of several words in one, or of those left out."""
    found = []
    for number, line in lines:
        if line.startswith("#"):
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != _CELLS:
            raise DataError(
                f"{path}, line {number}: {len(cells)} cells where CoNLL-U has {_CELLS}", fix="part the cells by tabs"
            )
        if cells[0].isdecimal():
            found.append([cells[_FORM], cells[_UPOS]])
    return found
