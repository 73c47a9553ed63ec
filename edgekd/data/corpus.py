"""A corpus: documents of plain text, split by document, as passages that a language model learns from or is scored on.

Documents are files of a folder, rows of a table, or parts of one file between lines of `<|endoftext|>`. All passages of
a document play one role: a model that has seen a novel's first half is no stranger to its second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError
from edgekd.core.files import user_path
from edgekd.data import limits, unpacked
from edgekd.data.columns import find_column
from edgekd.data.read import ColumnsRead, NotedTable, Table, read_tables
from edgekd.data.split_files import split_files, split_folders, visible
from edgekd.data.splits import TEST_SHARE, VALIDATION_SHARE, Example, place_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SEPARATOR = "<|endoftext|>"  # on a line by itself: where a document of a plain file ends, as GPT-2's corpora write it
TEXT, DOCUMENT = "text", "document"  # the columns of the tables that are read
PASSAGE_BYTES = 1024  # of UTF-8: at most so many tokens of any tokenizer that falls back on bytes
HELD_OUT_PASSAGES = 128  # of each of validation and test, spread over their documents: each is scored by every variant
_SUFFIXES = (".txt", ".text", ".md")
_NAMES = (TEXT, "content", "body", "article", "story", "document", "page", "sentence")
_LEAST_DOCUMENTS = 3  # one each to learn from, to select by and to test on
_FEW_DOCUMENTS = 8  # held out: fewer leave the interval by document to chance
_HELD_OUT = {"test": TEST_SHARE, "validation": VALIDATION_SHARE}
_SPACE = re.compile(r"\s+")
_ALSO = "; or give a folder with a file for each document, or a .jsonl file with a row for each"


@dataclass(frozen=True)
class Document:
    """One text that is held out whole or not at all."""

    name: str
    text: str

    @property
    def content(self) -> str:
        """SHA-256 of what it says, case and space folded: documents that agree in it are one."""
        return Example(self.text).content


def read_corpus(source: str, text_column: str | None = None) -> dict[str, NotedTable]:
    """Return tables `train`, `validation` and `test` of passages `{"text", "document"}`; no two share a document.

    `source` is a text file, a folder of them (in folders by split, where there are), or whatever `read_tables` takes,
    whose rows are documents. Documents that repeat others are left out, and told. Without a split 20% of the documents
    test and 10% validate, by the hash of their content. Raises DataError for a corpus without text, and for
    fewer than 3 documents.
    """
    given, notes, columns = _documents(source, text_column)
    if not any(given.values()):
        raise DataError(f"{source} holds no text", fix="give a file or folder with documents of plain text")
    parts = _divided(_distinct(given, notes), source, notes)
    tables = {part: NotedTable(_rows(documents, held=part in _HELD_OUT)) for part, documents in parts.items()}
    for part in _HELD_OUT:
        whole = sum(len(passages(document.text)) for document in parts[part])
        if len(tables[part]) < whole:
            notes.append(
                f"{part}: {len(tables[part])} of the {whole} passages of {len(parts[part])} documents are scored"
            )
        if len(parts[part]) < _FEW_DOCUMENTS:
            notes.append(f"{part}: {len(parts[part])} documents alone: an interval by document says little")
    tables["train"].notes = tuple(notes)
    tables["train"].columns = columns
    return tables


def examples(table: Table) -> list[Example]:
    """Return a table's passages as examples; the label of each is its document's name."""
    return [Example(row[TEXT], row[DOCUMENT]) for row in table]


def truth(rows: Sequence[Example]) -> Array:
    """Return what the predictions of these passages are held against: bytes and document's number, int64 (rows, 2)."""
    import numpy as np

    numbers = {name: number for number, name in enumerate(sorted({str(row.label) for row in rows}))}
    found = [(len(row.input.encode()), numbers[str(row.label)]) for row in rows]
    return np.array(found, dtype=np.int64).reshape(len(rows), 2)


def passages(text: str, most: int = PASSAGE_BYTES) -> list[str]:
    """Cut a text into pieces of at most `most` bytes of UTF-8, which joined are the text again.

    A piece ends before white space where there is any, at a line's end where there is one in its second half: tokens
    of the pieces are then those of the text. A rest of less than a quarter of a piece is shared with the piece before.

    >>> passages("one two three", most=8)
    ['one two', ' three']
    """
    pieces: list[str] = []
    start, left = 0, len(text.encode())
    while left > most:
        limit = most if left >= 1.25 * most else left // 2 + 1
        piece = _first_piece(text[start : start + limit], limit)
        pieces.append(piece)
        start, left = start + len(piece), left - len(piece.encode())
    rest = text[start:]
    return [*pieces, rest] if rest.strip() or not pieces else [*pieces[:-1], pieces[-1] + rest]


def _first_piece(text: str, limit: int) -> str:
    """Return the beginning of at most so many bytes, at least one character: up to white space where there is some."""
    room = text.encode()[:limit].decode(errors="ignore") or text[:1]
    spaces = [(one.start(), "\n" in one[0]) for one in _SPACE.finditer(room) if room[: one.start()].strip()]
    lines = [place for place, ends_line in spaces if ends_line and place > len(room) // 2]
    places = lines or [place for place, _ in spaces]
    return room[: places[-1]] if places else room


def _rows(documents: Sequence[Document], *, held: bool) -> list[dict[str, str]]:
    """Return the passages of documents; of those held out a part, as many of each as the longest allow."""
    if held and len(documents) > HELD_OUT_PASSAGES:  # by the hash: in a file they may stand by kind
        documents = sorted(documents, key=lambda one: one.content)[:HELD_OUT_PASSAGES]
    rows = [[{TEXT: piece, DOCUMENT: one.name} for piece in passages(one.text)] for one in documents]
    if not held:
        return [row for several in rows for row in several]
    kept: list[dict[str, str]] = []
    turn = 0
    while len(kept) < HELD_OUT_PASSAGES and any(turn < len(several) for several in rows):
        kept += [several[turn] for several in rows if turn < len(several)]
        turn += 1
    return kept[:HELD_OUT_PASSAGES]


def _distinct(given: Mapping[str, Sequence[Document]], notes: list[str]) -> dict[str, list[Document]]:
    """Return the documents by split, each content once: held-out splits keep theirs, training loses it."""
    seen: set[str] = set()
    kept: dict[str, list[Document]] = {}
    dropped: dict[str, int] = {}
    for part in sorted(given, key=("test", "validation").__contains__, reverse=True):
        own = [one for one in given[part] if one.text.strip()]
        if empty := len(given[part]) - len(own):
            notes.append(f"{empty} documents without text left out")
        kept[part] = []
        for document in own:
            if document.content in seen:
                dropped[part] = dropped.get(part, 0) + 1
            else:
                seen.add(document.content)
                kept[part].append(document)
    for part, count in dropped.items():
        where = "" if part == "all" else f" of {part}"
        notes.append(f"{count} documents{where} dropped because they repeat another one")
    return kept


def _divided(given: dict[str, list[Document]], source: str, notes: list[str]) -> dict[str, list[Document]]:
    """Return the documents as train, validation and test; what lacks is carved from the training documents."""
    train = [one for part in ("all", "train", "unlabelled") for one in given.get(part, [])]
    parts = {part: list(given.get(part, [])) for part in _HELD_OUT}
    lacking = [part for part in _HELD_OUT if not parts[part]]
    count = len(train) + sum(map(len, parts.values()))
    if len(train) <= len(lacking):
        what = "one document" if count == 1 else f"{count} documents"
        raise DataError(
            f"{source} holds {what}; at least {_LEAST_DOCUMENTS} are needed: to learn from, to select by and to test on"
            ", held out by document",
            fix=f"put a line {SEPARATOR} between the documents of a file{_ALSO}",
        )
    ordered = sorted(train, key=lambda one: one.content)  # so by `place_of`, too
    for part in lacking:
        share = sum(_HELD_OUT[one] for one in lacking[: lacking.index(part) + 1])
        inside = [one for one in ordered if place_of(Example(one.text)) < share]
        room = len(ordered) - 1 - len(lacking[lacking.index(part) + 1 :])  # the others get one each
        parts[part] = (inside or ordered[:1])[:room]
        ordered = ordered[len(parts[part]) :]
    if lacking:
        sizes = ", ".join(f"{len(parts[part])} {part}" for part in lacking)
        notes.append(f"split by document, by the hash of its content: {len(ordered)} train, {sizes}")
    held = {one.content for one in ordered}
    return {"train": [one for one in train if one.content in held], **parts}


def _documents(source: str, text_column: str | None) -> tuple[dict[str, list[Document]], list[str], ColumnsRead | None]:
    """Return the documents by split, or as `all`, notes, and the columns of a table."""
    path = user_path(source)
    if path.is_file() and unpacked.kind_of(path) in _SUFFIXES:
        _without_columns(source, text_column)
        return {"all": _of_file(path)}, [], None
    saved = any((path / name).exists() for name in ("dataset_dict.json", "dataset_info.json"))
    if path.is_dir() and not saved and not split_files(path):
        _without_columns(source, text_column)
        parts = {split: _below(child) for split, child in split_folders(path).items()}
        if "train" in parts:
            return {split: _of_files(path, files) for split, files in parts.items()}, [], None
        files = _below(path)
        if not files:
            raise DataError(
                f"{path} holds no text file ({', '.join(_SUFFIXES)}) and no table named by split",
                fix="give a folder with a file for each document, or a file of rows with a text column",
            )
        return {"all": _of_files(path, files)}, [], None
    return _of_tables(read_tables(source), source, text_column)


def _without_columns(source: str, text_column: str | None) -> None:
    """Raise DataError where a column of plain text is named."""
    if text_column is not None:
        raise DataError(
            f"{source} is plain text, which has no column {limits.shown(text_column)}",
            fix="leave --text-column out, or give a table",
        )


def _of_tables(
    tables: Mapping[str, Table], source: str, text_column: str | None
) -> tuple[dict[str, list[Document]], list[str], ColumnsRead]:
    first = tables.get("train") or tables["all"]
    column = find_column(text_column, _NAMES, list(first[0]), source, "text")
    parts: dict[str, list[Document]] = {}
    for part, table in tables.items():
        parts[part] = []
        for number, row in enumerate(table, start=1):
            text = row.get(column)
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"{source} ({part}), row {number}: the text column {column!r} holds {limits.shown(text)}",
                    fix="name the column that holds the text: --text-column NAME",
                )
            parts[part].append(Document(f"{part}/{number}", text or ""))
    notes = [note for table in tables.values() for note in getattr(table, "notes", ())]
    return parts, notes, ColumnsRead(column, "", tuple(name for name in first[0] if name != column))


def _of_files(folder: Path, files: Iterable[Path]) -> list[Document]:
    """Return the documents of files, each named by its place below the folder."""
    return [
        Document(f"{file.relative_to(folder)}{one.name.removeprefix(file.name)}", one.text)
        for file in files
        for one in _of_file(file)
    ]


def _of_file(file: Path) -> list[Document]:
    """Return the documents of a text file, which a line with the separator parts."""
    try:
        text = unpacked.text_of(file)
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror or error}", fix="check the path and its permissions"
        ) from error
    texts = [part.strip("\r\n") for part in re.split(rf"(?m)^[ \t]*{re.escape(SEPARATOR)}[ \t]*$", text)]
    if len(texts) == 1:
        return [Document(file.name, texts[0])]
    return [Document(f"{file.name}#{number}", part) for number, part in enumerate(texts, start=1) if part.strip()]


def _below(folder: Path) -> list[Path]:
    """Return the text files in the folder and below it, in order of names."""
    return list(_walked(folder))


def _walked(folder: Path) -> Iterator[Path]:
    for child in visible(folder):
        if child.is_dir() and not child.is_symlink():
            yield from _walked(child)
        elif child.is_file() and unpacked.kind_of(child) in _SUFFIXES:
            yield child
