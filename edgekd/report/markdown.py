"""Foreign text in Markdown: it is shown as it was written, and forms no row, heading, link, picture or tag of its own.

Labels, names of teachers and data, nodes and what boards answer are written by others. Syntax: CommonMark 0.31 and
GitHub's tables and autolinks, https://github.github.com/gfm.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"  # of Persian and Indic words, and of emoji
_ANYWHERE = re.compile(
    r"""(?P<own>                           # what edgekd's own words hold stays:
        (?<!`)`edgekd(?:[ ][a-z-]+)*`(?!`)      # a command
      | \[[-+]?[\d.]+,[ ][-+]?[\d.]+\](?![(\[:])  # an interval
    )
    | [\\`*|\[~]             # escapes, code, emphasis, cells, links and pictures, struck text
    | <(?=[A-Za-z/!?])         # tags, comments and autolinks
    | &(?=\#?\w+;)             # entities
    | (?<![^\W_])_ | _(?![^\W_])   # emphasis; within a word it is none
    | (?:(?<=http)|(?<=https)|(?<=ftp)):(?=//) | (?<=www)\.   # addresses that become links unasked
    """,
    re.VERBOSE | re.IGNORECASE,
)
# what opens a heading, a quotation, a list or a rule where it stands first on a line
_FIRST = re.compile(r"[#>=]|[-+](?=[\s-]|$)")
_NUMBER = re.compile(r"(\d{1,9})(?=[.)](?:\s|$))")


def escaped(text: str) -> str:
    """The text as one line of Markdown that shows just that text. Characters that nobody sees are replaced."""
    seen = _ANYWHERE.sub(lambda found: found["own"] or f"\\{found[0]}", "".join(_visible(one) for one in text))
    seen = seen.lstrip()  # four spaces make code, one ends `**` before a name
    return f"\\{seen}" if _FIRST.match(seen) else _NUMBER.sub(r"\1\\", seen, count=1) if _NUMBER.match(seen) else seen


def escaped_values(values: Any) -> Any:
    """As `escaped`, every text in dictionaries, keys too, and in lists; other values are as they were."""
    if isinstance(values, str):
        return escaped(values)
    if isinstance(values, dict):
        return {escaped_values(key): escaped_values(value) for key, value in values.items()}
    return [escaped_values(one) for one in values] if isinstance(values, list | tuple) else values


def _visible(one: str) -> str:
    if one.isprintable() or one in _JOINERS:
        return one
    unseen = unicodedata.category(one) in ("Cf", "Cs")  # turns of direction, halves of characters
    return "\N{REPLACEMENT CHARACTER}" if unseen else " "
