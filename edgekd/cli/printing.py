"""Text on its way to the terminal: the one place where it leaves, and where foreign text loses its power over it.

Column names, labels, nodes, file names and what boards answer are written by others. Control characters in them move
the cursor, hide lines or turn their order around; they are shown as escapes instead.
"""

from __future__ import annotations

import json
import math
import os
import sys
import unicodedata
from typing import Any, TextIO

import click

_JOINERS = "\u200c\u200d"  # of Persian and Indic words, and of emoji
_KEPT = "\n\t"


class OutputLostError(Exception):
    """Stdout takes no more: its disk is full, or nobody reads it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.closed = isinstance(cause, BrokenPipeError)


def visible(text: str) -> str:
    r"""The text with control characters, turns of direction and other unseen ones as `\x1b` or `\u202e`.

    Ends of line and tabs stay.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_escaped(one) if _is_unseen(one) else one for one in text)


def one_line(text: str) -> str:
    r"""As `visible`; ends of line and tabs become `\n` and `\t` too: a name must not forge a line of its own."""
    return "".join(_escaped(one) if one in _KEPT else one for one in visible(text))


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print to stdout, or to stderr. Raises OutputLostError where stdout takes no more; what stderr loses is lost."""
    stream = sys.stderr if err else sys.stdout
    try:
        click.echo(_encodable(visible(text), stream), err=err, nl=nl)
    except OSError as error:
        _let_go(stream)
        if not err:
            raise OutputLostError(error) from error


def print_json(value: Any) -> None:
    """One JSON object on stdout. Numbers that JSON does not have (NaN, infinity) become null."""
    if sys.stdout is None:
        raise OutputLostError(OSError("it is closed"))
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    echo("".join(_json_escaped(one) if _is_unseen(one) else one for one in text))


def _is_unseen(one: str) -> bool:
    """Whether a terminal would obey it or show nothing: controls, formats, halves of characters, line separators."""
    if one.isascii():
        return not (one.isprintable() or one in _KEPT)
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") and one not in _JOINERS


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii") if one.isascii() else ascii(one)[1:-1]


def _json_escaped(one: str) -> str:
    return json.dumps(one)[1:-1] if ord(one) != 127 else "\\u007f"


def _encodable(text: str, stream: TextIO | None) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def written() -> bool:
    """Whether all that was printed to stdout got there; what did not is let go of."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _let_go(sys.stdout)
        return False
    return True


def _let_go(stream: TextIO) -> None:
    """What could not be written must not be tried again when the interpreter ends: that would be a traceback."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # of a stream without a file
        return


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
