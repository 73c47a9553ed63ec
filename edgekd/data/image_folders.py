"""Folders of images: one for each class, the same by split, flat, and with `metadata.csv` as Hugging Face has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from shlex import quote
from typing import Any

from edgekd.core.errors import DataError
from edgekd.data.columns import IMAGE_NAMES, find_column, find_label, row_label
from edgekd.data.limits import shown
from edgekd.data.read import NotedTable, read_file
from edgekd.data.split_files import is_metadata, is_table, split_files, split_folders, visible

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_MISSING = 0.05  # of the images that a metadata file names, before we refuse


@dataclass
class _Metadata:
    """What metadata files say of images, by path; `columns` are all of theirs but that of the file names."""

    files: list[Path] = field(default_factory=list)
    rows: dict[str, tuple[Path, dict[str, Any]]] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    label: str = ""  # the column of the labels, where there is one
    missing: int = 0  # images that they name and that are not there


def holds_tables(folder: Path) -> bool:
    """Whether it is a saved dataset, or tables named by split; images in a split's folder make it one of images."""
    saved = (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists()
    if saved:
        return True
    if any(next(_images_below(child), None) for child in split_folders(folder).values()):
        return any(file.parent == folder for files in split_files(folder).values() for file in files)
    return bool(split_files(folder))


def read_folders(folder: Path, column: str | None, label: str | None) -> dict[str, tuple[str, NotedTable]]:
    """The images' column and the rows by split, or as `all`; a class's images may lie in folders below its own.

    Labels are those of a `metadata.csv`, `.jsonl` or `.parquet` where one names them, else the folders' names.
    `column` and `label` name the columns in it. Raises DataError where folder and metadata contradict each other.
    """
    place = folder
    if (
        "train" not in split_folders(folder)
        and (folder / "data").is_dir()
        and "train" in split_folders(folder / "data")
    ):
        place = folder / "data"  # as dataset repositories have it
    metadata = _metadata(folder, column, label)
    name = column if column and metadata.files else "image"
    notes = _strays(folder)
    if metadata.missing:
        notes += (f"{metadata.files[0].name} names {metadata.missing} images that are not there",)
    parts = split_folders(place)
    if "train" not in parts:
        return {"all": (name, _classes(folder, name, metadata, notes))}
    left_out = [child.name for child in visible(place) if child.is_dir() and child not in parts.values()]
    if left_out:
        notes += (f"{place}: folders that name no split left out: {', '.join(left_out[:4])}",)
    tables = {}
    for split, child in parts.items():
        tables[split] = (name, _classes(child, name, metadata, notes))
        notes = ()
    return tables


def _classes(folder: Path, name: str, metadata: _Metadata, notes: tuple[str, ...]) -> NotedTable:
    """The rows of a folder with a folder for each class; images beside those have no label."""
    found: list[tuple[Path, str | None]] = [(file, None) for file in _images_in(folder)]
    for child in visible(folder):
        if child.is_dir():
            found += [(file, child.name) for file in _images_below(child)]
    if not found:
        raise DataError(
            f"{folder} holds no images ({', '.join(SUFFIXES)})", fix="give a folder with a folder of images per class"
        )
    _check_classes(found, metadata)
    nested = sum(kind is not None and file.parent.parent != folder for file, kind in found)
    rows, unlisted = [], 0
    for file, kind in found:
        _, said = metadata.rows.get(normpath(file), (None, None))
        described = said is not None or any(one.parent in file.parents for one in metadata.files)
        unlisted += described and said is None
        own = kind if not (metadata.label and described) else None
        row = dict.fromkeys(metadata.columns) | ({} if metadata.label else {"label": own}) | (said or {})
        if metadata.label and not described:
            row[metadata.label] = kind
        rows.append(row | {name: file})
    if nested:
        notes += (f"{folder}: {nested} images in folders below a class folder are of that class",)
    if metadata.label and any(kind for _, kind in found):
        notes += (f"{folder}: labels are those of {metadata.files[0].name}, not the folders' names",)
    if unlisted:
        notes += (
            f"{folder}: {unlisted} images that {metadata.files[0].name} does not name"
            + (" have no label" if metadata.label else ""),
        )
    return NotedTable(rows, notes)


def _check_classes(found: list[tuple[Path, str | None]], metadata: _Metadata) -> None:
    """Raises DataError for an image in the folder of one class that its metadata gives to another."""
    if not metadata.label:
        return
    known = {row_label(said.get(metadata.label), str(file)) for file, said in metadata.rows.values()}
    kinds = {kind for _, kind in found}
    for file, kind in found:
        source, said = metadata.rows.get(normpath(file), (file, {}))
        label = row_label(said.get(metadata.label), str(source))
        if kind and label not in (None, kind) and (kind in known or label in kinds):
            raise DataError(
                f"{source} calls {file.name} {shown(label)}, and it lies in the folder {shown(kind)}: {file}",
                fix=f"move the image or correct the label; where the folders mean nothing: --data {quote(str(source))}",
            )


def _metadata(folder: Path, column: str | None, label: str | None) -> _Metadata:
    """All metadata files of the folder and those below. Raises DataError for one that is not usable."""
    made = _Metadata()
    missing: list[str] = []
    for source in _files_below(folder):
        if not is_metadata(source):
            continue
        table = read_file(source)
        name = find_column(column, ("file_name", *IMAGE_NAMES), list(table[0]), str(source), "image")
        others = [one for one in table[0] if one != name]
        own = find_label(label if label in others else None, others, str(source), needed=False)
        if made.files and own != made.label:
            raise DataError(
                f"{made.files[0]} and {source} have their labels in different columns", fix="call them alike: label"
            )
        made.files.append(source)
        made.label = own
        made.columns |= dict.fromkeys(others)
        for number, row in enumerate(table, start=1):
            cell = row.pop(name)
            if not isinstance(cell, str) or not cell.strip():
                raise DataError(
                    f"{source}, row {number}: the column {name!r} holds {shown(cell)}", fix="name an image in each row"
                )
            file = normpath(source.parent / cell.strip())
            if not Path(file).is_file():
                missing.append(file)
            first, said = made.rows.setdefault(file, (source, row))
            if row_label(said.get(own)) != row_label(row.get(own)):
                raise DataError(f"{first} and {source} give {cell} two labels", fix="keep the row that is right")
    made.missing = len(missing)
    if len(missing) > MAX_MISSING * len(made.rows):
        raise DataError(
            f"{made.files[0]} names {len(missing)} images that are not there (the first: {missing[0]})",
            fix="add them, or remove their rows; paths are relative to the metadata file",
        )
    return made


def _strays(folder: Path) -> tuple[str, ...]:
    """A note of tables that lie among the images."""
    strays = [file for file in _files_below(folder) if is_table(file) and not is_metadata(file)]
    if not strays:
        return ()
    return (f"{len(strays)} tables among the images not read; for labels from one: --data {quote(str(strays[0]))}",)


def _images_in(folder: Path) -> list[Path]:
    return [file for file in visible(folder) if file.suffix.lower() in SUFFIXES and file.is_file()]


def _images_below(folder: Path) -> Iterator[Path]:
    """Images of a class: also of the folders inside its own, such as one a camera or a day."""
    yield from (file for file in _files_below(folder) if file.suffix.lower() in SUFFIXES)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder, then of those inside it; links to folders aside."""
    children = visible(folder)
    yield from (child for child in children if child.is_file())
    for child in children:
        if child.is_dir() and not child.is_symlink():
            yield from _files_below(child)
