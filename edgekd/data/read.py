"""From files to rows: CSV, TSV, JSON, Parquet, folders of such files or of texts, or a Hugging Face dataset.

A table is a list of `{column: value}` dicts, in file order. Errors name the file, the line and the way out.
"""

from __future__ import annotations

import re
import shlex
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekd.core import licences, plain_yaml
from edgekd.core.errors import DataError, listed
from edgekd.core.files import user_path
from edgekd.data import columnar, hub, limits, text_files, text_tables, unpacked
from edgekd.data.split_files import READERS, SPLIT_NAMES, is_table, split_files

Table = list[dict[str, Any]]
_MOST_LEFT_OUT = 32
# as `datasets` names them: where none was given, and where there is none of that name
_CONFIGURATIONS = re.compile(r"(?:available configs|Available): (\[[^\]]{0,100000}\])")


class ColumnsRead(NamedTuple):
    """Which columns of a source are read, by its own names, and which are left out."""

    input: str
    label: str  # empty where the rows have none
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values; of very many columns that are left out the first, and how many there are."""
        return {
            "input": self.input,
            "label": self.label or None,
            "left_out": list(self.left_out[:_MOST_LEFT_OUT]),
            "n_left_out": len(self.left_out),
        }


class NotedTable(list[dict[str, Any]]):
    """Rows, in words what is to be known of them, and how many columns without a name were left out.

    `columns` is set where a reader gives its rows other columns than the file's.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], notes: tuple[str, ...] = (), nameless: int = 0) -> None:
        super().__init__(rows)
        self.notes, self.nameless = notes, nameless
        self.columns: ColumnsRead | None = None


_DELIMITERS = {";": "semicolons", "\t": "tabs"}


def read_tables(source: str) -> dict[str, Table]:
    """Tables by split: `{"train": ..., "test": ...}`, or `{"all": ...}` for one file or an unsplit dataset.

    `source` is a file, a folder with tables named by split or with a folder of `.txt` files for each class, a saved
    Hugging Face dataset, or a hub id.
    Raises DataError for what is missing, empty, unreadable, not UTF-8 or of a kind we do not read.
    """
    path = user_path(source)
    if path.is_dir():
        saved = (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
        return _hugging_face(str(path), saved=True) if saved else _folder(path)
    if path.exists() or unpacked.kind_of(path) in READERS:
        return {"all": read_file(path)}
    return _hugging_face(source, saved=False)


def read_file(path: Path) -> NotedTable:
    """One file's rows, columns without a name left out. Raises DataError."""
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
    return _without_nameless(path, NotedTable(table, getattr(table, "notes", ())))


def _without_nameless(path: Path, table: NotedTable) -> NotedTable:
    """The table without columns that have no name: pandas' index, or what trailing delimiters make."""
    nameless = [name for name in table[0] if text_tables.NAMELESS.fullmatch(name)]
    if len(nameless) == len(table[0]):
        raise DataError(f"{path} names no column", fix="give a first line that names the columns")
    for row in table:
        for name in nameless:
            row.pop(name, None)
    if nameless:
        what = "a column" if len(nameless) == 1 else f"{len(nameless)} columns"
        table.notes += (f"{path.name}: {what} without a name left out",)
    table.nameless = len(nameless)
    return table


def _folder(folder: Path) -> dict[str, Table]:
    files = split_files(folder)
    if not files and text_files.holds_texts(folder):
        return {split: NotedTable(*read) for split, read in text_files.read_texts(folder).items()}
    if "train" not in files:
        raise DataError(
            f"{folder} has no training split",
            fix="name the files train.csv, validation.csv, test.csv (or .tsv, .jsonl, .parquet); or give one file, "
            "or a folder of .txt files for each class",
        )
    return {split: _joined(paths) for split, paths in files.items()}


def _joined(paths: list[Path]) -> NotedTable:
    """The rows of a split's files. Raises DataError where a file has other columns than the first."""
    tables = [read_file(path) for path in paths]
    columns = set(tables[0][0])
    for path, table in zip(paths, tables, strict=True):
        strange = sorted(columns ^ set(table[0]))
        if strange and not unpacked.kind_of(path).endswith(("json", "jsonl", "ndjson")):
            raise DataError(
                f"{paths[0]} and {path} differ in the columns {', '.join(map(limits.shown, strange[:4]))}",
                fix="keep files of one table, or give one of them",
            )
    notes = tuple(note for table in tables for note in table.notes)
    more = (f"and {len(notes) - 2} notes like this of other files",) if len(notes) > 3 else ()
    rows = NotedTable((row for table in tables for row in table), (notes[:2] + more) if more else notes)
    rows.nameless = max(table.nameless for table in tables)
    text_tables.with_all_columns(rows)
    return rows


def _text_table(path: Path) -> NotedTable:
    text = unpacked.text_of(path)
    kind = unpacked.kind_of(path)
    notes: tuple[str, ...] = (f"{path.name}: unpacked",) if path.suffix.lower() == ".gz" else ()
    if kind in (".csv", ".tsv"):
        delimiter, text = ("\t", text) if kind == ".tsv" else unpacked.delimiter_of(text)
        if kind == ".csv" and delimiter != ",":
            notes += (f"{path.name}: cells parted by {_DELIMITERS.get(delimiter, repr(delimiter))}",)
        return NotedTable(text_tables.delimited(path, text, delimiter), notes)
    read = text_tables.json_list if kind == ".json" else text_tables.json_lines
    return NotedTable(text_tables.with_all_columns(read(path, text)), notes)


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
        parts = hub_parts(source)
        try:
            hub.ask(parts[0], "dataset")
        except hub.Unknown as error:
            raise _not_loaded(
                source, f"there is no such file or folder, and on the Hugging Face hub: {error}"
            ) from error
        except hub.Unreachable as error:
            loaded, notes = _cached(source, str(error)), (hub.CACHED,)
        else:
            if card := hub.dataset_card(parts[0]):
                _check_card(card)
            loaded = _loaded(source, lambda: datasets.load_dataset(*parts))
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
        _check_configuration(source, error)
        raise _not_loaded(source, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def hub_parts(source: str) -> tuple[str, ...]:
    """The id of a dataset on the hub; and its configuration, where the source names one: `ORG/NAME:CONFIGURATION`."""
    return tuple(part for part in source.partition(":")[::2] if part)


def _check_configuration(source: str, error: Exception) -> None:
    """Raises DataError where a dataset has several configurations and none, or another, was named."""
    found = _CONFIGURATIONS.search(str(error))
    if found is None:
        return
    try:
        names = [str(name) for name in literal_eval(found[1])]
    except (ValueError, SyntaxError):  # a name with a bracket or a quote: the dataset's own words tell
        return
    name, *chosen = hub_parts(source)
    what = f"has no configuration {chosen[0]!r}" if chosen else f"has {len(names)} configurations (data sets)"
    raise DataError(
        f"{name} {what}: {listed([*map(repr, names)], most=20)}",
        fix=f"name one of them: --data {shlex.quote(f'{name}:{names[0]}')}",
    ) from error


def _cached(source: str, why: str) -> Any:
    """The copy of an earlier run: as `datasets` keeps it, or the dataset's files in the hub's cache."""
    import datasets

    parts = hub_parts(source)
    with hub.offline():
        folder = hub.cached(parts[0], "dataset")
        if folder is not None:
            _check_card(folder / "README.md")
        try:
            return datasets.load_dataset(*parts)
        except Exception as error:  # as above; there may still be a copy of the files
            _check_configuration(source, error)
            if folder is None:
                raise DataError(
                    f"cannot load the data {source!r}: there is no such file or folder, the Hugging Face hub could not "
                    f"be reached ({why}), and its cache on this machine has no copy",
                    fix="check the path or the id; fetch the dataset once where there is a network (a cached copy is "
                    "used from then on), or give a file",
                ) from error
        return _loaded(source, lambda: datasets.load_dataset(str(folder), *parts[1:]))


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
    """Numbers of a ClassLabel column become its names, in place: another order of classes then does no harm.

    So do those in the lists of a Sequence(ClassLabel).
    """
    import datasets

    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) and len(feature) == 1 else getattr(feature, "feature", None)
        if isinstance(feature, datasets.ClassLabel):
            for number, row in enumerate(table, start=1):
                row[column] = _class_name(row[column], feature.names, f"row {number}: the column {column!r}")
        elif isinstance(inner, datasets.ClassLabel):
            for number, row in enumerate(table, start=1):
                where = f"row {number}: the column {column!r}"
                values = row[column]
                hidden = values is None or list(values) == [-1]
                row[column] = None if hidden else [_class_name(value, inner.names, where) for value in values]


def _class_name(value: int | None, names: Sequence[str], where: str) -> str | None:
    """A class number's name; None where it is -1: the hub marks a row without a label so. Raises DataError."""
    if value in (None, -1):
        return None
    assert value is not None
    if not 0 <= value < len(names):
        raise DataError(
            f"{where} holds class {value}, and its file names {len(names)}",
            fix="write the file again with the names of all classes",
        )
    return names[value]
