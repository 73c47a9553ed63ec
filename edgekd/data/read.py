"""From files to rows: CSV, TSV, JSONL, Parquet, a folder of such files named by split, or a Hugging Face dataset.

A table is a list of `{column: value}` dicts, in file order. Errors name the file, the line and the way out.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekd.core import licences, plain_yaml
from edgekd.core.errors import DataError
from edgekd.core.files import user_path
from edgekd.data import columnar, hub, limits, unpacked

Table = list[dict[str, Any]]


class NotedTable(list[dict[str, Any]]):
    """Rows, and in words what is to be known of them."""

    def __init__(self, rows: Iterable[dict[str, Any]], notes: tuple[str, ...] = ()) -> None:
        super().__init__(rows)
        self.notes = notes


_LONGEST = 16 << 20  # characters of a cell, and of a line of JSON
READERS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_SHARD = re.compile(r"(.+?)-([0-9]{5})-of-([0-9]{5})")  # as the hub's dataset repositories name their files
SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "unlabelled": "unlabelled", "unlabeled": "unlabelled",
    "unsupervised": "unlabelled",
}  # fmt: skip


def read_tables(source: str) -> dict[str, Table]:
    """Tables by split: `{"train": ..., "test": ...}`, or `{"all": ...}` for one file or an unsplit dataset.

    `source` is a file, a folder with one file a split (or a saved Hugging Face dataset), or a hub id.
    Raises DataError for what is missing, empty, unreadable, not UTF-8 or of a kind we do not read.
    """
    path = user_path(source)
    if path.is_dir():
        saved = (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
        return _hugging_face(str(path), saved=True) if saved else _folder(path)
    if path.exists() or unpacked.kind_of(path) in READERS:
        return {"all": read_file(path)}
    return _hugging_face(source, saved=False)


def is_table(path: Path) -> bool:
    """Whether its name says that we read it as a table; text may be packed by gzip, Parquet packs itself."""
    return unpacked.kind_of(path) in READERS and not path.name.lower().endswith(".parquet.gz")


def read_file(path: Path) -> Table:
    """One file's rows. Raises DataError."""
    if not is_table(path):
        raise DataError(f"cannot tell what {path} is", fix=f"give a file that ends in one of {', '.join(READERS)}")
    limits.check_plain(path)
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", fix="give a file with a header line and rows")
        table = _parquet(path) if path.suffix.lower() == ".parquet" else _text_table(path)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}", fix="check the path and its permissions"
        ) from error
    if not table:
        raise DataError(f"{path} holds a header and no rows", fix="give a file with at least one row for each class")
    return table


def split_of(path: Path) -> str | None:
    """The split that a table's name tells, `train` of `train-00000-of-00002.parquet`; None where it tells none."""
    stem = unpacked.stem_of(path)
    shard = _SHARD.fullmatch(stem)
    return SPLIT_NAMES.get((shard[1] if shard else stem).lower()) if is_table(path) else None


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split: in the folder itself, else in its `data/`, as dataset repositories have them.

    Raises DataError for two files of a split that are no shards, and for shards that lack.
    """
    for place in (folder, folder / "data"):
        files: dict[str, list[Path]] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            split = split_of(path)
            if split:
                files.setdefault(split, []).append(path)
        if files:
            for split, paths in files.items():
                _check_shards(split, paths)
            return files
    return {}


def _check_shards(split: str, paths: list[Path]) -> None:
    shards = [_SHARD.fullmatch(unpacked.stem_of(path)) for path in paths]
    if len(paths) > 1 and not all(shards):
        raise DataError(f"{paths[0]} and {paths[1]} both name the {split} split", fix="keep one of them")
    numbers = [(int(shard[2]), int(shard[3])) for shard in shards if shard]
    if numbers and numbers != [(number, len(paths)) for number in range(len(paths))]:
        raise DataError(
            f"{paths[0].parent} holds {len(paths)} of the {numbers[0][1]} shards of the {split} split",
            fix="fetch the shards that lack, all of one version",
        )


def _folder(folder: Path) -> dict[str, Table]:
    files = split_files(folder)
    if "train" not in files:
        raise DataError(
            f"{folder} has no training split",
            fix="name the files train.csv, validation.csv, test.csv (or .tsv, .jsonl, .parquet); or give one file",
        )
    return {split: [row for path in paths for row in read_file(path)] for split, paths in files.items()}


def _text_table(path: Path) -> Table:
    raw = unpacked.raw_of(path)
    try:
        text = unpacked.decoded(raw)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8: line {line} holds byte 0x{raw[error.start]:02x}",
            fix=_convert(path, raw),
        ) from error
    if "\x00" in text:
        raise DataError(
            f"{path} holds NUL bytes: it is not a text file",
            fix=_convert(path, raw) if _is_wide(raw) else "give a CSV, TSV or JSONL text file",
        )
    kind = unpacked.kind_of(path)
    if kind == ".json":
        return _with_all_columns(_json_list(path, text))
    return _delimited(path, text) if kind in (".csv", ".tsv") else _with_all_columns(_json_lines(path, text))


def _with_all_columns(table: Table) -> Table:
    """The first row, by which columns are found, gets the keys of all rows: a label may lack in it."""
    if table:
        table[0] = dict.fromkeys(key for row in table for key in row) | table[0]
    return table


def _json_list(path: Path, text: str) -> Table:
    """A `.json` file: one list of objects, or, as some write it, one object a line."""
    if not text.lstrip().startswith("["):
        return _json_lines(path, text)
    try:
        rows = json.loads(text, object_pairs_hook=_once)
        size = limits.Cells(path)
        for number, row in enumerate(rows, start=1):
            size.add(limits.json_values(row))
            if not isinstance(row, dict):
                raise DataError(f"{path}, entry {number}: not a JSON object", fix="give a list of objects")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})", fix="give a list of objects, or .jsonl") from error
    if "\\u" in text and any(map(limits.has_odd_text, rows)):
        raise DataError(f"{path} holds half a character (a lone surrogate)", fix="write the text as UTF-8")
    table: Table = rows
    return table


_QUOTES = "quote cells that hold the delimiter, and escape quotes by doubling them"
_NO_QUOTES = "write one tab between two cells, and no tab inside a cell: .tsv has no quotes; .csv and .jsonl have"


def _is_wide(raw: bytes) -> bool:
    """Whether a third of the bytes or more is NUL, as in UTF-16 of mostly Latin letters."""
    return 3 * raw.count(b"\0") >= len(raw)


def _convert(path: Path, raw: bytes) -> str:
    """The command that writes the same text as UTF-8 beside the file."""
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encoding = "UTF-32"
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "UTF-16"
    elif _is_wide(raw):
        encoding = "UTF-16BE" if raw.startswith(b"\0") else "UTF-16LE"
    else:  # of these two every byte is a letter in the second only
        encoding = "WINDOWS-1252" if not set(raw) & set(b"\x81\x8d\x8f\x90\x9d") else "ISO-8859-1"
    new = path.with_name(f"utf8-{path.name}")
    return f"convert it first: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(new))}"


def _delimited(path: Path, text: str) -> Table:
    csv.field_size_limit(_LONGEST)
    tabs = unpacked.kind_of(path) == ".tsv"
    delimiter, text = ("\t", text) if tabs else unpacked.delimiter_of(text)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,  # TSV has no quoting (IANA)
        strict=True,
    )
    try:
        header = [name.strip() for name in next(reader, [])]
        name, times = next(iter(Counter(header).most_common(1)), ("", 1))
        if times > 1:
            raise DataError(
                f"{path} has {times} columns called {limits.shown(name)}", fix="rename them in the header line"
            )
        rows: Table = []
        size = limits.Cells(path)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells where the header names {len(header)}",
                    fix=_NO_QUOTES if path.suffix.lower() == ".tsv" else _QUOTES,
                )
            size.add(len(cells))
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", fix="check the quotes on that line") from error
    return rows


def _json_lines(path: Path, text: str) -> Table:
    rows: Table = []
    size = limits.Cells(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > _LONGEST:
            raise DataError(f"{path}, line {number}: {len(line):,} characters", fix="one JSON object a line")
        try:
            row = json.loads(line, object_pairs_hook=_once)
            size.add(limits.json_values(row))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})", fix="one JSON object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object", fix="one JSON object a line")
        if "\\u" in line and limits.has_odd_text(row):
            raise DataError(
                f"{path}, line {number}: it holds half a character (a lone surrogate)",
                fix="write the text as UTF-8: json.dumps(row, ensure_ascii=False)",
            )
        rows.append(row)
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ. Raises ValueError, since the last of two would win in silence."""
    made = dict(pairs)
    if len(made) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {limits.shown(name)} stands there twice")
    return made


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    limits.look_first("edgekd.data.columnar:parquet", path)
    try:
        columns = pyarrow.parquet.ParquetFile(path).read()
        table: Table = columns.to_pylist()
    except (pyarrow.ArrowException, ValueError, RecursionError) as error:
        raise columnar.unreadable(path, error) from error
    if b"huggingface" in (columns.schema.metadata or {}):  # a dataset's `to_parquet` says there what its numbers mean
        import datasets

        try:
            features = datasets.Features.from_arrow_schema(columns.schema)
        except Exception as error:  # whatever the library makes of notes that it did not write
            raise columnar.unreadable(path, error) from error
        _name_classes(table, features)
    return table


def _hugging_face(source: str, *, saved: bool) -> dict[str, Table]:
    """A saved dataset folder or a hub id. ClassLabel columns come out as their names."""
    import datasets

    datasets.disable_progress_bars()
    notes: tuple[str, ...] = ()
    if saved:
        limits.look_first("edgekd.data.columnar:saved", Path(source))
        loaded = _loaded(source, lambda: datasets.load_from_disk(source))
    else:
        try:
            hub.ask(source, "dataset")
        except hub.Unknown as error:
            raise _not_loaded(
                source, f"there is no such file or folder, and on the Hugging Face hub: {error}"
            ) from error
        except hub.Unreachable as error:
            loaded, notes = _cached(source, str(error)), (hub.CACHED,)
        else:
            if card := hub.dataset_card(source):
                _check_card(card)
            loaded = _loaded(source, lambda: datasets.load_dataset(source))
    splits = {"all": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    if len(splits) > 1 and not any(SPLIT_NAMES.get(name.lower()) == "train" for name in splits):
        raise DataError(f"{source} has the splits {sorted(splits)} and none called train", fix="rename one to train")
    tables: dict[str, Table] = {}
    for name, split in splits.items():
        key = "all" if len(splits) == 1 else SPLIT_NAMES.get(name.lower())
        if key is None:
            continue
        tables[key] = NotedTable(split.to_list(), notes if not tables else ())
        _name_classes(tables[key], split.features)
    return tables


def _loaded(source: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # whatever a foreign loader raises is the user's data not being readable
        raise _not_loaded(source, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _cached(source: str, why: str) -> Any:
    """The copy of an earlier run: as `datasets` keeps it, or the dataset's files in the hub's cache."""
    import datasets

    with hub.offline():
        folder = hub.cached(source, "dataset")
        if folder is not None:
            _check_card(folder / "README.md")
        try:
            return datasets.load_dataset(source)
        except Exception as error:  # as above; there may still be a copy of the files
            if folder is None:
                raise DataError(
                    f"cannot load the data {source!r}: there is no such file or folder, the Hugging Face hub could not "
                    f"be reached ({why}), and its cache on this machine has no copy",
                    fix="check the path or the id; fetch the dataset once where there is a network (a cached copy is "
                    "used from then on), or give a file",
                ) from error
        return _loaded(source, lambda: datasets.load_dataset(str(folder)))


def _check_card(card: Path) -> None:
    """Raises DataError for a dataset card whose YAML is more than plain: `datasets` reads it by a reader of its own."""
    try:
        if card.is_file() and card.stat().st_size <= licences.MOST_BYTES:
            licences.front_matter(card.read_text(encoding="utf-8-sig", errors="replace"))
        elif card.is_file():
            raise DataError(f"{card} has more than {licences.MOST_BYTES:,} bytes", fix="shorten the dataset card")
    except plain_yaml.PlainYamlError as error:
        raise DataError(f"{card} cannot be read: {error}", fix=error.fix) from error


def _not_loaded(source: str, reason: str) -> DataError:
    return DataError(
        f"cannot load the data {source!r}: {reason}",
        fix="give an existing file or folder, or the id of a dataset on the Hugging Face hub that you can reach",
    )


def _name_classes(table: Table, features: Mapping[str, Any]) -> None:
    """Numbers of a ClassLabel column become its names, in place: another order of classes then does no harm."""
    import datasets

    for column, feature in features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = dict(enumerate(feature.names))
            for number, row in enumerate(table, start=1):
                value = row[column]
                if value in (None, -1):  # the hub marks a row without a label by -1
                    row[column] = None
                elif value in names:
                    row[column] = names[value]
                else:
                    raise DataError(
                        f"row {number}: the column {column!r} holds class {value}, and its file names {len(names)}",
                        fix="write the file again with the names of all classes",
                    )
