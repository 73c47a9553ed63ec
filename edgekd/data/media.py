"""Folders of images or recordings: by class, by split, flat, and with `metadata.csv` as Hugging Face has it.

A recording's text stands in such a table, or in a `.txt` file of its name beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from shlex import quote
from typing import Any

from edgekd.core.errors import DataError
from edgekd.data.columns import (
    AUDIO_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    TRANSCRIPT_NAMES,
    find_column,
    find_label,
    row_label,
    row_text,
)
from edgekd.data.limits import check_plain, shown
from edgekd.data.read import NotedTable, read_file
from edgekd.data.split_files import is_metadata, is_table, split_files, split_folders, visible

MAX_MISSING = 0.05  # of the files that a metadata file names, before we refuse
_MOST_TEXT = 1 << 20  # bytes of a text beside a recording
_NO_TEXTS = (
    "readme",
    "license",
    "licence",
    "copying",
    "copyright",
    "changelog",
    "notes",
)  # names of files about others


@dataclass(frozen=True)
class Media:
    """A kind of files that are inputs: how they are called, and whether their labels are classes or texts."""

    word: str  # one of them
    words: str
    option: str  # that names their column
    suffixes: tuple[str, ...]
    columns: tuple[str, ...]  # usual names of the files' column
    labels: tuple[str, ...]  # usual names of the labels' column
    fix: str = ""  # where no option names their column
    texts: bool = False  # labels are what is said: no folder's name is one, a `.txt` file beside may be

    def label(self, value: Any, where: str = "the data") -> str | None:
        """Return a cell as a label; None for a row without one. Raises DataError for what is none."""
        return row_text(value, where) if self.texts else row_label(value, where)

    def found(self, folder: Path, name: str) -> Path:
        """Return the file that a table calls so: below `folder`, or its `clips`; a suffix of ours may be left out."""
        places = [folder / name, folder / "clips" / name] if self.texts else [folder / name]
        more = [place.with_name(place.name + suffix) for place in places for suffix in self.suffixes]
        try:
            return next((place for place in (*places, *more[: len(more) * self.texts]) if place.is_file()), places[0])
        except (OSError, ValueError):  # a name that no file can have
            return places[0]


IMAGES = Media(
    "image",
    "images",
    "image",
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    IMAGE_NAMES,
    LABEL_NAMES,
)
AUDIO = Media(
    "recording",
    "recordings",
    "audio",
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    AUDIO_NAMES,
    TRANSCRIPT_NAMES,
    fix="call the column of the recordings audio",
    texts=True,
)


@dataclass
class _Metadata:
    """What metadata files say of a folder's files, by path; `columns` are all of theirs but that of the file names."""

    files: list[Path] = field(default_factory=list)
    rows: dict[str, tuple[Path, dict[str, Any]]] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    label: str = ""  # the column of the labels, where there is one
    missing: int = 0  # files that they name and that are not there
    texts: dict[str, str | None] = field(default_factory=dict)  # what stands beside a recording, by the file's path
    lonely: int = 0  # texts without a recording


def holds_tables(folder: Path, media: Media = IMAGES) -> bool:
    """Whether it is a saved dataset, or tables named by split; media in a split's folder make it one of media."""
    saved = (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists()
    if saved:
        return True
    if any(next(_media_below(child, media), None) for child in split_folders(folder).values()):
        return any(file.parent == folder for files in split_files(folder).values() for file in files)
    return bool(split_files(folder))


def read_folders(
    folder: Path, column: str | None, label: str | None, media: Media = IMAGES
) -> dict[str, tuple[str, NotedTable]]:
    """The files' column and the rows by split, or as `all`; a class's files may lie in folders below its own.

    Labels are those of a `metadata.csv`, `.jsonl` or `.parquet` where one names them, else the folders' names; texts
    may stand beside the recordings, or in a table of any name. `column` and `label` name the columns in it. Raises
    DataError where folder and metadata contradict each other.
    """
    place = folder
    if (
        "train" not in split_folders(folder)
        and (folder / "data").is_dir()
        and "train" in split_folders(folder / "data")
    ):
        place = folder / "data"  # as dataset repositories have it
    metadata = _metadata(folder, media, column, label)
    if media.texts:
        _read_texts(folder, media, metadata)
    name = column if column and metadata.files else media.option
    notes = _strays(folder, media)
    if metadata.missing:
        notes += (f"{metadata.files[0].name} names {metadata.missing} {media.words} that are not there",)
    if metadata.lonely:
        notes += (f"{metadata.lonely} .txt files without a recording of their name left out",)
    parts = split_folders(place)
    if "train" not in parts:
        return {"all": (name, _rows(folder, media, name, metadata, notes))}
    left_out = [child.name for child in visible(place) if child.is_dir() and child not in parts.values()]
    if left_out:
        notes += (f"{place}: folders that name no split left out: {', '.join(left_out[:4])}",)
    tables = {}
    for split, child in parts.items():
        tables[split] = (name, _rows(child, media, name, metadata, notes))
        notes = ()
    return tables


def _rows(folder: Path, media: Media, name: str, metadata: _Metadata, notes: tuple[str, ...]) -> NotedTable:
    """The rows of a folder with a folder for each class; files beside those have no label."""
    found: list[tuple[Path, str | None]] = [(file, None) for file in _media_in(folder, media)]
    for child in visible(folder):
        if child.is_dir():
            found += [(file, None if media.texts else child.name) for file in _media_below(child, media)]
    if not found:
        raise DataError(
            f"{folder} holds no {media.words} ({', '.join(media.suffixes)})",
            fix="give a folder of recordings, or a table that names them"
            if media.texts
            else f"give a folder with a folder of {media.words} per class",
        )
    _check_classes(found, media, metadata)
    column = metadata.label or media.labels[0]
    rows, unlisted = [], 0
    for file, kind in found:
        _, said = metadata.rows.get(normpath(file), (None, None))
        described = said is not None or any(one.parent in file.parents for one in metadata.files)
        unlisted += described and said is None
        row = dict.fromkeys(metadata.columns) | ({column: kind} if not (metadata.label and described) else {})
        row |= said or {}
        if (text := metadata.texts.get(normpath(file))) and not media.label(row.get(column), str(file)):
            row[column] = text
        rows.append(row | {name: file})
    return NotedTable(rows, (*notes, *_notes(folder, media, found, metadata, unlisted)))


def _notes(
    folder: Path, media: Media, found: list[tuple[Path, str | None]], metadata: _Metadata, unlisted: int
) -> list[str]:
    """What is to be known of a folder's labels, in words."""
    notes = []
    if nested := sum(kind is not None and file.parent.parent != folder for file, kind in found):
        notes.append(f"{folder}: {nested} {media.words} in folders below a class folder are of that class")
    if metadata.label and any(kind for _, kind in found):
        notes.append(f"{folder}: labels are those of {metadata.files[0].name}, not the folders' names")
    if unlisted:
        notes.append(
            f"{folder}: {unlisted} {media.words} that {metadata.files[0].name} does not name"
            + (" have no label" if metadata.label and not media.texts else "")
        )
    return notes


def _check_classes(found: list[tuple[Path, str | None]], media: Media, metadata: _Metadata) -> None:
    """Raises DataError for a file in the folder of one class that its metadata gives to another."""
    if not metadata.label or media.texts:
        return
    known = {row_label(said.get(metadata.label), str(file)) for file, said in metadata.rows.values()}
    kinds = {kind for _, kind in found}
    for file, kind in found:
        source, said = metadata.rows.get(normpath(file), (file, {}))
        label = row_label(said.get(metadata.label), str(source))
        if kind and label not in (None, kind) and (kind in known or label in kinds):
            raise DataError(
                f"{source} calls {file.name} {shown(label)}, and it lies in the folder {shown(kind)}: {file}",
                fix=f"move the {media.word} or correct the label; where the folders mean nothing: "
                f"--data {quote(str(source))}",
            )


def _metadata(folder: Path, media: Media, column: str | None, label: str | None) -> _Metadata:
    """All metadata files of the folder and those below. Raises DataError for one that is not usable."""
    made = _Metadata()
    missing: list[str] = []
    for source in _files_below(folder):
        if not _describes(source, media):
            continue
        table = read_file(source)
        name = find_column(
            column, ("file_name", *media.columns), list(table[0]), str(source), media.option, fix=media.fix
        )
        others = [one for one in table[0] if one != name]
        own = find_label(label if label in others else None, others, str(source), needed=False, usual=media.labels)
        if made.files and own != made.label:
            raise DataError(
                f"{made.files[0]} and {source} have their labels in different columns",
                fix=f"call them alike: {media.labels[0]}",
            )
        made.files.append(source)
        made.label = own
        made.columns |= dict.fromkeys(others)
        for number, row in enumerate(table, start=1):
            cell = row.pop(name)
            if not isinstance(cell, str) or not cell.strip():
                raise DataError(
                    f"{source}, row {number}: the column {name!r} holds {shown(cell)}",
                    fix=f"name {'an' if media.word[0] in 'aeiou' else 'a'} {media.word} in each row",
                )
            file = normpath(media.found(source.parent, cell.strip()))
            if not Path(file).is_file():
                missing.append(file)
            first, said = made.rows.setdefault(file, (source, row))
            if media.label(said.get(own), str(first)) != media.label(row.get(own), f"{source}, row {number}"):
                raise DataError(f"{first} and {source} give {cell} two labels", fix="keep the row that is right")
    made.missing = len(missing)
    if len(missing) > MAX_MISSING * len(made.rows):
        raise DataError(
            f"{made.files[0]} names {len(missing)} {media.words} that are not there (the first: {missing[0]})",
            fix="add them, or remove their rows; paths are relative to the metadata file",
        )
    return made


def _read_texts(folder: Path, media: Media, metadata: _Metadata) -> None:
    """Read the texts that stand beside recordings, in place. Raises DataError where more than 5% have none beside them.

    Files such as README.txt are about others and passed over.
    """
    files = list(_files_below(folder))
    beside = {normpath(file.with_suffix("")): normpath(file) for file in files if file.suffix.lower() in media.suffixes}
    lonely = []
    for file in files:
        if file.suffix.lower() != ".txt" or file.stem.lower() in _NO_TEXTS:
            continue
        recording = beside.get(normpath(file.with_suffix("")))
        if recording is None:
            lonely.append(file)
            continue
        check_plain(file, _MOST_TEXT)
        try:
            metadata.texts[recording] = media.label(file.read_text(encoding="utf-8-sig"), str(file))
        except OSError as error:
            raise DataError(
                f"cannot read {file}: {error.strerror or error}", fix="check the path and its permissions"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is no UTF-8 text: {error.reason}", fix="save it as UTF-8") from error
    metadata.lonely = len(lonely)
    if metadata.texts and len(lonely) > MAX_MISSING * len(metadata.texts):
        raise DataError(
            f"{len(lonely)} .txt files in {folder} have no recording of their name (the first: {lonely[0]})",
            fix="add the recordings, or remove these files; README.txt and the like are passed over",
        )


def _describes(file: Path, media: Media) -> bool:
    """Whether a table describes the files around it: called metadata, or of any name where it is texts that lack."""
    return is_table(file) if media.texts else is_metadata(file)


def _strays(folder: Path, media: Media) -> tuple[str, ...]:
    """A note of tables that lie among the files."""
    strays = [file for file in _files_below(folder) if is_table(file) and not _describes(file, media)]
    if not strays:
        return ()
    return (
        f"{len(strays)} tables among the {media.words} not read; for labels from one: --data {quote(str(strays[0]))}",
    )


def _media_in(folder: Path, media: Media) -> list[Path]:
    return [file for file in visible(folder) if file.suffix.lower() in media.suffixes and file.is_file()]


def _media_below(folder: Path, media: Media) -> Iterator[Path]:
    """Files of a class: also of the folders inside its own, such as one a camera or a day."""
    yield from (file for file in _files_below(folder) if file.suffix.lower() in media.suffixes)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder, then of those inside it; links to folders aside."""
    children = visible(folder)
    yield from (child for child in children if child.is_file())
    for child in children:
        if child.is_dir() and not child.is_symlink():
            yield from _files_below(child)
