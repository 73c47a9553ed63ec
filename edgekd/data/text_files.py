"""Texts out of `.txt` files: a folder for each class, the same by split, or a flat folder without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError, counted
from edgekd.data import limits, unpacked
from edgekd.data.split_files import SPLIT_NAMES, split_folders, visible

_UNLABELLED = ("unsup", *(name for name, split in SPLIT_NAMES.items() if split == "unlabelled"))  # IMDB's name first

Rows = list[dict[str, Any]]


def holds_texts(folder: Path) -> bool:
    """Whether there is a `.txt` file in it, or below it."""
    return any(_texts_below(folder))


def read_texts(folder: Path) -> dict[str, tuple[Rows, tuple[str, ...]]]:
    """Rows `{"text", "label"}` and notes by split, or as `all`.

    A text's label is its class folder's name. Raises DataError for a file that is empty or no text.
    """
    parts = {split: child for split, child in split_folders(folder).items() if holds_texts(child)}
    size = limits.Cells(folder)
    if "train" not in parts:
        return {"all": _classes(folder, size)}
    return {split: _classes(child, size) for split, child in parts.items()}


def _classes(folder: Path, size: limits.Cells) -> tuple[Rows, tuple[str, ...]]:
    flat = _texts_in(folder)
    rows: Rows = []
    nested = 0
    for child in visible(folder):
        files = _texts_below(child) if child.is_dir() else []
        label = None if child.name.lower() in _UNLABELLED else child.name
        nested += sum(file.parent != child for file in files)
        rows += [_row(file, label, size) for file in files]
    notes = [f"{folder}: {counted(nested, 'file')} in folders below a class folder: of that class"] if nested else []
    if not rows:
        rows = [_row(file, None, size) for file in flat]
    elif flat:
        notes.append(f"{folder}: {len(flat)} .txt files beside the class folders left out (the first: {flat[0].name})")
    return rows, tuple(notes)


def _row(file: Path, label: str | None, size: limits.Cells) -> dict[str, Any]:
    size.add(2)
    try:
        text = unpacked.text_of(file).strip()
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror or error}", fix="check the path and its permissions"
        ) from error
    if not text:
        raise DataError(f"{file} is empty", fix="remove the file, or write a text into it")
    return {"text": text, "label": label}


def _texts_in(folder: Path) -> list[Path]:
    return [file for file in visible(folder) if file.suffix.lower() == ".txt" and file.is_file()]


def _texts_below(folder: Path) -> list[Path]:
    inner = [child for child in visible(folder) if child.is_dir() and not child.is_symlink()]
    return _texts_in(folder) + [file for child in inner for file in _texts_below(child)]
