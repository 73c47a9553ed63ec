"""The text of a table's file: unpacked where it is gzip, decoded by its mark, and what parts its cells."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from itertools import islice
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.data.limits import MOST_BYTES, check_plain

_MOST_UNPACKED = min(MOST_BYTES, 1 << 30)  # bytes: a gzip file of a megabyte may unpack to a gigabyte
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_LOOKED_AT = 20  # rows behind the header that must have as many cells as it has


def kind_of(path: Path) -> str:
    """The suffix that says what the file holds, in lower case, that of packing aside: `.csv` of `a.CSV.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def stem_of(path: Path) -> str:
    """The name without its suffixes."""
    name = path.name.removesuffix(path.suffix) if path.suffix.lower() == ".gz" else path.name
    return Path(name).stem


def raw_of(path: Path) -> bytes:
    """The file's bytes, unpacked. Raises DataError where it is damaged or unpacks to too much; OSError."""
    check_plain(path)
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            raw = stream.read(_MOST_UNPACKED + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}", fix="fetch or pack the file again") from error
    if len(raw) > _MOST_UNPACKED:
        raise DataError(f"{path} unpacks to more than {_MOST_UNPACKED:,} bytes", fix="give fewer rows")
    return raw


def decoded(raw: bytes) -> str:
    """UTF-16 or UTF-32 by the mark that it begins with, else UTF-8. Raises UnicodeDecodeError."""
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8-sig")
    return raw.decode(encoding)


def delimiter_of(text: str) -> tuple[str, str]:
    """What parts the cells of a .csv, and the text without a first line `sep=;`.

    A comma, unless the header has none outside quotes and exactly one of semicolon and tab parts the header and the
    first rows into as many cells each.
    """
    first, end, rest = text.partition("\n")
    told = first.strip().strip('"')
    if told.lower().startswith("sep=") and len(told) == 5:
        return told[4], rest if end else ""
    others = [mark for mark in (";", "\t") if _parts(text, mark)]
    return (others[0] if len(others) == 1 and not _in_header(text, ",") else ","), text


def _in_header(text: str, delimiter: str) -> bool:
    return len(_rows(text, delimiter, 1)[0]) > 1


def _parts(text: str, delimiter: str) -> bool:
    rows = [row for row in _rows(text, delimiter, 1 + _LOOKED_AT) if row]
    return bool(rows) and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)


def _rows(text: str, delimiter: str, count: int) -> list[list[str]]:
    try:
        return list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), count)) or [[]]
    except csv.Error:
        return [[]]
