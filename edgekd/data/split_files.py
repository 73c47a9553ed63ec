"""Which files of a folder belong to which split: by name, in shards, in a folder for each split, in `data/`."""

from __future__ import annotations

import re
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.core.files import is_plain
from edgekd.data import unpacked

READERS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
    "unsupervised": "unlabelled",
}
# as the hub's dataset repositories name their files; older ones end in a part of the content's hash
_SHARD = re.compile(r"(.+?)-([0-9]{5})-of-([0-9]{5})(-[0-9a-f]{8,})?")
_PART = re.compile(r"(.+?)[-_.](?:part[-_.]?)?[0-9]{1,6}")  # a part whose name does not tell how many there are


def is_table(path: Path) -> bool:
    """Whether its name says that we read it as a table; text may be packed by gzip, Parquet packs itself."""
    return unpacked.kind_of(path) in READERS and not path.name.lower().endswith(".parquet.gz")


def is_metadata(path: Path) -> bool:
    """Whether it describes the images around it, as Hugging Face's imagefolder names that file."""
    return is_table(path) and unpacked.stem_of(path).lower() == "metadata"


def visible(folder: Path) -> list[Path]:
    """Return the files and folders in the folder, in order of names; hidden ones aside.

    Raises DataError for a name that is not UTF-8, which can be neither a label nor a part of a report; for a pipe, a
    device, a socket, and a link that leads nowhere: its rows would be lost without a word.
    """
    found = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    for child in found:
        try:
            child.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"the folder {folder} holds a name that is not UTF-8: {child.name!r}",
                fix="rename it to letters of UTF-8 and run the same command again",
            ) from error
        if not (is_plain(child) or child.is_dir()):
            what = "is a link that leads nowhere" if child.is_symlink() and not child.exists() else "is no plain file"
            raise DataError(
                f"{child} {what}", fix="remove it, or put the file itself in its place, and run the same command again"
            )
    return found


def split_of(path: Path) -> str | None:
    """The split that a table's name tells, `train` of `train-00000-of-00002.parquet`; None where it tells none."""
    stem = unpacked.stem_of(path)
    part = _SHARD.fullmatch(stem) or _PART.fullmatch(stem)
    return SPLIT_NAMES.get((part[1] if part else stem).lower()) if is_table(path) else None


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders named after a split. Raises DataError for two of one split."""
    folders: dict[str, Path] = {}
    for child in visible(folder):
        split = SPLIT_NAMES.get(child.name.lower()) if child.is_dir() else None
        if split in folders:
            raise _twice(folders[split], child, split)
        if split:
            folders[split] = child
    return folders


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The tables of each split: in the folder, else in its `data/`, else in the one folder below that has some.

    A split's tables lie beside each other, or in a folder of the split's name. Raises DataError for two files of a
    split that are no parts of one table, for shards that lack, and for several data sets (configurations).
    """
    places = [folder, folder / "data"]
    for place in places:
        files = _splits_in(place)
        if files:
            return files
    below = [child for place in places if place.is_dir() for child in visible(place) if child.is_dir()]
    found = {child: files for child in below if (files := _splits_in(child))}
    if len(found) > 1:
        names = [str(child.relative_to(folder)) for child in found]
        raise DataError(
            f"{folder} holds {len(found)} data sets: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}",
            fix=f"give the folder of one of them: {next(iter(found))}",
        )
    return next(iter(found.values()), {})


def _splits_in(place: Path) -> dict[str, list[Path]]:
    """The tables in the folder whose names tell a split, and those in folders named after one."""
    files: dict[str, list[Path]] = {}
    if not place.is_dir():
        return files
    for path in sorted(place.iterdir()):
        split = split_of(path)
        if split:
            files.setdefault(split, []).append(path)
    for split, paths in files.items():
        _check_shards(split, paths, named=True)
    for split, child in split_folders(place).items():
        parts = [path for path in visible(child) if is_table(path) and not is_metadata(path)]
        if parts and split in files:
            raise _twice(files[split][0], child, split)
        if parts:
            _check_shards(split, parts, named=False)
            files[split] = parts
    return files


def _twice(first: Path, second: Path, split: str) -> DataError:
    return DataError(f"{first} and {second} both name the {split} split", fix="keep one of them")


def _check_shards(split: str, paths: list[Path], *, named: bool) -> None:
    """Raises DataError where files `named` after a split are no parts of one table, and where shards lack."""
    stems = [unpacked.stem_of(path) for path in paths]
    shards = [_SHARD.fullmatch(stem) for stem in stems]
    if named and len(paths) > 1 and not all(shards) and not (all(map(_PART.fullmatch, stems)) and not any(shards)):
        raise _twice(paths[0], paths[1], split)
    numbers = [(int(shard[2]), int(shard[3])) for shard in shards if shard]
    if numbers and numbers != [(number, len(paths)) for number in range(len(paths))]:
        raise DataError(
            f"{paths[0].parent} holds {len(paths)} of the {numbers[0][1]} shards of the {split} split",
            fix="fetch the shards that lack, all of one version",
        )
