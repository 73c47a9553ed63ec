"""Licences: what a folder says of its own, in words; the SPDX expression in such words; what to keep in mind of them.

Words are what plans and reports carry: `apache-2.0 (as its model card says)`. Files are foreign: few, small and
plain ones are read, and no link is followed out of the folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd.core import plain_yaml
from edgekd.core.files import user_path

NAMES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
MOST_FILES, MOST_BYTES = 10, 256 << 10
_LONGEST_NAME = 200  # with what stands before it within the 255 bytes of a name
_MOST_LETTERS = 120  # of a card's own words
_TEXTS = (  # what a licence's text begins with or must contain: its SPDX id, or its name where it has none
    (r"apache license\s+version 2\.0", "Apache-2.0"),
    (r"mozilla public license,? version 2\.0", "MPL-2.0"),
    (r"creative commons attribution-noncommercial-noderivatives 4\.0", "CC-BY-NC-ND-4.0"),
    (r"creative commons attribution-noncommercial-sharealike 4\.0", "CC-BY-NC-SA-4.0"),
    (r"creative commons attribution-noncommercial 4\.0|attribution-noncommercial 4\.0", "CC-BY-NC-4.0"),
    (r"creative commons attribution-sharealike 4\.0|attribution-sharealike 4\.0", "CC-BY-SA-4.0"),
    (r"creative commons attribution 4\.0|attribution 4\.0 international", "CC-BY-4.0"),
    (r"cc0 1\.0 universal", "CC0-1.0"),
    (r"gnu affero general public license\s+version 3", "GNU AGPL 3"),  # only, or any later: the text does not say
    (r"gnu lesser general public license\s+version 3", "GNU LGPL 3"),
    (r"gnu general public license\s+version 3", "GNU GPL 3"),
    (r"gnu general public license\s+version 2", "GNU GPL 2"),
    (r"gemma (terms of use|is provided under)", "Gemma Terms of Use"),
    (r"llama [\d.]+ community license", "Llama Community License"),
    (r"redistribution and use in source and binary forms.*neither the name", "BSD-3-Clause"),
    (r"redistribution and use in source and binary forms", "BSD-2-Clause"),
    (r"permission is hereby granted, free of charge", "MIT"),
)
_TERMS = (  # a licence's words, and what they ask of whoever passes a model on
    (
        r"\bgemma\b",
        "Gemma's terms: a model made from it may be passed on only with those terms and their use "
        "restrictions, a copy of them and a notice",
    ),
    (
        r"\bllama[\d.]*\b",
        "Llama's community licence: a model made from it carries its notice and its name, and large "
        "services need Meta's leave",
    ),
    (r"\bcc[- ]?by[-a-z]*-nd\b|no ?derivat", "no derivatives: a model made from it may not be passed on"),
    (r"\bcc[- ]?by-nc\b|non-?commercial", "no commercial use"),
    (r"\bresearch\b", "for research use"),
    (r"never redistributed", "its rows are not passed on: golden inputs that are real rows would be"),
    (r"rail\b", "use restrictions of an OpenRAIL licence go with every model made from it"),
    (r"gpl", "a copyleft licence: whether it reaches a model made from it is for your counsel"),
)
_UNSTATED = ("not stated in", "none stated")


def of_teacher(folder: Path) -> str:
    """What a teacher's folder says of its licence, in words; that it says nothing where it does not."""
    return _said(folder, "its model card", "its {}") or (
        "not stated in the teacher's folder" + _unread(folder / "README.md")
    )


def of_data(source: str) -> str:
    """What lies beside data says of their licence, in words: a dataset card, its description, a licence file.

    `source` is a file, a folder or a hub id, whose card is not fetched.
    """
    path = user_path(source)
    if not path.exists():
        return f"not read here: see the dataset's card, {_plain(source)}"
    folder = path if path.is_dir() else path.parent
    return _said(folder, "the card beside the data", "{} beside the data") or (
        "not stated: the data are yours" + _unread(folder / "README.md")
    )


def spdx(words: str) -> str | None:
    """The SPDX expression that such words begin with, such as `Apache-2.0`; None where they name none."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(words.partition(" (")[0]))
    except InvalidLicenseExpression:
        return None


def terms(words: str) -> str:
    """What to keep in mind before passing on a model made from something under such a licence; empty for nothing."""
    asked = next((what for pattern, what in _TERMS if re.search(pattern, words.casefold())), "")
    if words.startswith(_UNSTATED):
        return "it is not stated: ask before you pass the model on" + (f"; {asked}" if asked else "")
    return asked


def files(folder: Path) -> list[Path]:
    """Licence files of a folder: regular ones of at most 256 KiB, at most ten, in order. No link is followed.

    But for those of a Hugging Face cache, whose files are links into the same repository's `blobs`.
    """
    if not folder.is_dir():
        return []
    found = {path.name: path for pattern in NAMES for path in folder.glob(pattern)}
    return [path for _, path in sorted(found.items()) if _is_plain(path)][:MOST_FILES]


def _said(folder: Path, card: str, file: str) -> str:
    if named := _of_card(folder / "README.md") or _of_info(folder / "dataset_info.json"):
        return f"{named} (as {card} says)"
    for path in files(folder):
        if not path.name.upper().startswith("NOTICE"):
            known = _recognised(_text(path))
            return (
                f"{known} (as {file.format(_plain(path.name))} says)"
                if known
                else (f"its own terms (see {file.format(_plain(path.name))})")
            )
    return ""


def _of_card(card: Path) -> str:
    """`license` of a card's front matter; of `other` its `license_name`. Several are joined by commas."""
    try:
        return _named(front_matter(_text(card)))
    except plain_yaml.PlainYamlError:
        return ""


def front_matter(text: str) -> Any:
    """The YAML between the dashes that a card begins with; None without. Raises PlainYamlError."""
    parts = re.split(r"^---[ \t\r]*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return None
    return plain_yaml.read(parts[1], first_line=1 + parts[0].count("\n"))


def _unread(card: Path) -> str:
    """Why a card's front matter cannot be read, in brackets; empty where it can."""
    try:
        front_matter(_text(card))
    except plain_yaml.PlainYamlError as error:
        return f" ({card.name} cannot be read: {_plain(str(error))})"
    return ""


def _of_info(file: Path) -> str:
    """`license` of what `datasets` saves beside a data set."""
    try:
        return _named(json.loads(_text(file) or "null"))
    except (ValueError, RecursionError):
        return ""


def _named(values: Any) -> str:
    if not isinstance(values, dict):
        return ""
    given = values.get("license")
    if given == "other" and isinstance(values.get("license_name"), str):
        given = values["license_name"]
    told = [_plain(one) for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]
    return ", ".join(one for one in told[:5] if one)


def _plain(words: str) -> str:
    """Foreign words on one line, without control characters, brackets or markup, and not too many."""
    return " ".join(re.sub(r"[^\w .,+:/'-]", " ", words).split())[:_MOST_LETTERS]


def _recognised(text: str) -> str:
    flat = " ".join(text.split()).casefold()
    return next((name for pattern, name in _TEXTS if re.search(pattern, flat)), "")


def _text(path: Path) -> str:
    """A small plain file's text; empty where there is none."""
    if not _is_plain(path):
        return ""
    with path.open("rb") as stream:
        return stream.read(MOST_BYTES).decode("utf-8-sig", "replace")


def _is_plain(path: Path) -> bool:
    if path.is_symlink():
        target, repository = path.resolve(), path.parent.resolve().parents
        if len(repository) < 2 or target.parent != repository[1] / "blobs":
            return False
    return path.is_file() and path.stat().st_size <= MOST_BYTES and os.access(path, os.R_OK)


def copied_names(paths: list[Path], prefix: str) -> Iterator[tuple[Path, str]]:
    """Each file with the name that it gets in a bundle: plain letters, and no two that differ only in case."""
    taken: set[str] = set()
    for path in paths:
        name = prefix + re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:_LONGEST_NAME]
        if name.casefold() not in taken:
            taken.add(name.casefold())
            yield path, name
