"""Which column of a table holds what, by its name where the user does not say."""

from __future__ import annotations

import json
import re
import shlex
from ast import literal_eval
from collections.abc import Sequence
from typing import Any

from edgekd.core.errors import DataError, listed, suggestion
from edgekd.core.protocols import MULTI_LABEL
from edgekd.core.registry import sibling_task
from edgekd.data.limits import shown

IMAGE_NAMES = ("image", "img", "image_path", "path", "file", "file_name", "filename", "pixels")
AUDIO_NAMES = ("audio", "audio_path", "audio_filepath", "file_name", "filename", "path", "file", "wav", "clip")
TRANSCRIPT_NAMES = ("transcript", "transcription", "text", "sentence", "normalized_text", "label")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent", "sentiment", "fine_label")
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")  # not 007: leading zeros tell codes apart
_POWER = re.compile(r"[+-]?[0-9](\.[0-9]*)?[eE][+-]?[0-9]{1,2}")  # as UCR's files write 1: 1.0000000e+00
_ARRAY = re.compile(r"\[[\s\d.,+-]*\]")  # a NumPy array's text, which has no commas
_WORDS = re.compile(r"\[\s*(?:(?:'[^']*'|\"[^\"]*\")\s*)+\]")  # the same of words
_MOST_TEXT = 100_000  # characters of a transcript
_LONGEST = 100_000  # characters of a list that Python spelt; of JSON as many as there are


def find_column(
    given: str | None, usual: Sequence[str], present: list[str], source: str, what: str, *, fix: str = ""
) -> str:
    """The column that is given, or the first usual name that is there. Raises DataError, naming the columns.

    `fix` is what to do where no option names such a column.
    """
    if given is not None:
        if given not in present:
            raise DataError(f"{source} has no column {given!r}", fix=suggestion(given, present))
        return given
    by_name = {name.lower(): name for name in present}
    found = [by_name[name] for name in usual if name in by_name]
    if not found:
        raise DataError(
            f"{source} has no {what} column by a usual name; its columns are {listed([*map(repr, present)])}",
            fix=_separate(present)
            or fix
            or f"name it: --{what}-column {shlex.quote(present[0]) if present else 'NAME'}",
        )
    return found[0]


def _separate(present: list[str]) -> str:
    """What to do where the header is one cell that another delimiter would cut; else nothing."""
    if len(present) != 1 or not set(present[0]) & set(";|\t"):
        return ""
    return "separate the columns by commas, or by tabs in a file that ends in .tsv"


def find_label(
    given: str | None, present: list[str], source: str, *, needed: bool = True, usual: Sequence[str] = LABEL_NAMES
) -> str:
    """The label's column; empty where there is none by a usual name and none is `needed`. Raises DataError."""
    if not needed and given is None and not {name.lower() for name in present} & set(usual):
        return ""
    return find_column(given, usual, present, source, "label")


def row_text(value: Any, where: str = "the data") -> str | None:
    """A cell as what is said in a recording, its spaces single; None for a row without a text (empty, None, NaN).

    Raises DataError, naming `where`, for a cell that is no text and no number, or longer than anybody speaks.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or (isinstance(value, float) and value != value):
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise DataError(f"{where}: the transcript is {shown(value)}, not a text", fix="give the words that are said")
    text = " ".join(str(value).split())
    if len(text) > _MOST_TEXT:
        raise DataError(
            f"{where}: the transcript has {len(text):,} characters; at most {_MOST_TEXT:,} are taken",
            fix="cut the recording and its transcript into parts",
        )
    return text or None


def row_label(value: Any, where: str = "the data", modality: str = "") -> str | None:
    """A cell as a class name, by the one rule of all readers; None for a row without a label (empty, None, NaN).

    `0`, `0.0`, `"0"` and `"0.0"` are the class `0`; True, `"True"` and `"true"` are `true`. Space around is dropped.
    Raises DataError, naming `where`, for a cell that holds several values: a list, an array, an object; it names the
    task of several labels a row that inputs of that `modality` have.
    """
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list | tuple | set | frozenset | dict) or (
        isinstance(value, str) and spelt(value) is not None
    ):
        raise DataError(
            f"{where}: the label is {shown(value)}, which is several values or an object, not one class",
            fix=f"give one class a row, as a name or a number; {_of_several(modality)}",
        )
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "nan", "<na>"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    if _WHOLE.fullmatch(text):
        whole = text.partition(".")[0].removeprefix("+")
        return "0" if whole == "-0" else whole
    if _POWER.fullmatch(text) and float(text).is_integer():
        return str(int(float(text)))
    return text


def _of_several(modality: str) -> str:
    """What to do with several labels a row."""
    if task := sibling_task(modality, MULTI_LABEL):
        return f"several labels a row are another task: --task {task}"
    return "several labels a row (multi-label, multi-hot) are not supported here: split them into one task a label"


def values_of(value: Any) -> list[Any] | None:
    """Return the values of a list, an array, or a text that spells one; None of anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    found = spelt(value) if isinstance(value, str) else None
    if isinstance(found, set):  # which has no order
        return sorted(map(str, found))
    return None if found is None or isinstance(found, dict) else list(found)


def spelt(text: str) -> list[Any] | tuple[Any, ...] | set[Any] | dict[Any, Any] | None:
    """Return the list or object that a text spells, as JSON, Python and NumPy write it into a cell; else None."""
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "{}", "()"):
        return None
    if _ARRAY.fullmatch(text):
        return [_number(part) for part in re.split(r"[\s,]+", text[1:-1]) if part]
    if _WORDS.fullmatch(text):
        return [one or other for one, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = literal_eval(text) if len(text) <= _LONGEST else None
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    return value if isinstance(value, list | tuple | set | dict) else None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
