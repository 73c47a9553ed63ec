"""The text of a table's file: unpacked where it is gzip, decoded by its mark, and what parts its cells."""

from __future__ import annotations

import csv
import gzip
import io
import shlex
import zlib
from itertools import islice
from pathlib import Path
from unicodedata import category

from edgekd.core.errors import DataError
from edgekd.data.limits import MOST_BYTES, check_plain

_MOST_UNPACKED = min(MOST_BYTES, 1 << 30)  # bytes: a gzip file of a megabyte may unpack to a gigabyte
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")  # Unicode's categories: control, unassigned, private, half of a pair
_PROBED = 4096  # characters
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


def text_of(path: Path) -> str:
    """The file's text, unpacked and decoded. Raises DataError for what is no text, with the way to UTF-8; OSError."""
    raw = raw_of(path)
    try:
        text = decoded(raw)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8: line {line} holds byte 0x{raw[error.start]:02x}", fix=_convert(path, raw)
        ) from error
    if "\x00" in text:
        raise DataError(f"{path} holds NUL bytes: it is not a text file", fix="give a text file, in UTF-8")
    return text


def decoded(raw: bytes) -> str:
    """UTF-16 or UTF-32 by the mark that it begins with, or where its NUL bytes tell it; else UTF-8.

    Raises UnicodeDecodeError.
    """
    marked = next((name for mark, name in _MARKS if raw.startswith(mark)), None)
    if marked is None and b"\0" in raw:
        wide = _without_mark(raw)
        if wide is not None:
            return wide
    return raw.decode(marked or "utf-8-sig")


def _without_mark(raw: bytes) -> str | None:
    """The text of UTF-16 or UTF-32 without a mark; None where the bytes are text in none of them.

    Text has line ends, hardly ever a NUL or another control character, and no character that Unicode does not know.
    """
    for encoding in _WIDE:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        odd = any(category(letter) in _NO_TEXT and letter not in "\t\r\n" for letter in text[:_PROBED])
        if not odd and "\0" not in text and "\n" in text:
            return text
    return None


def _convert(path: Path, raw: bytes) -> str:
    """The command that writes the same text as UTF-8 beside the file."""
    marked = next((name.upper() for mark, name in _MARKS if raw.startswith(mark)), None)
    # of these two every byte is a letter in the second only
    single = "WINDOWS-1252" if not set(raw) & set(b"\x81\x8d\x8f\x90\x9d") else "ISO-8859-1"
    source, name = shlex.quote(str(path)), f"utf8-{path.name}"
    if path.suffix.lower() == ".gz":
        source, name = f"<(gzip -dc {source})", name[: -len(".gz")]
    new = shlex.quote(str(path.with_name(name)))
    return f"convert it first: iconv -f {marked or single} -t UTF-8 {source} > {new}"


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
