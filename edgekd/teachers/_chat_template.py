"""The chat template of a language model: a program in Jinja, read and checked here, run by the clients of a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import clean

FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
_KEY = "chat_template"
_MOST = 256 << 10  # characters; the longest in use have some 10,000
_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own tags, which Jinja does not know
_FORBIDDEN = ("attr", "map", "lipsum", "cycler", "joiner", "self")  # ways to what the template was not given


def of_folder(folder: Path) -> str | None:
    """Return a folder's template; None where it has none. Raises TeacherError where it is more than a template."""
    content = clean.read_checked(folder, FILE)
    if content is not None:
        return checked(_text(content, folder / FILE), folder / FILE)
    content = clean.read_checked(folder, SETTINGS)
    if content is None:
        return None
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError):
        return None  # refused by whoever reads the tokenizer
    said = settings.get(_KEY) if isinstance(settings, dict) else None
    if isinstance(said, list):  # several by name
        said = next(
            (one.get("template") for one in said if isinstance(one, Mapping) and one.get("name") == "default"), None
        )
    return checked(said, folder / SETTINGS) if isinstance(said, str) else None


def checked(template: str, source: Path) -> str:
    """Return the template. Raises TeacherError where it is no Jinja, or reaches for what a template needs not."""
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > _MOST:
        raise _refused(source, f"it has {len(template):,} characters")
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_MARKS.sub("", template))
    except (TemplateSyntaxError, RecursionError) as error:
        raise _refused(source, f"it is no Jinja: {str(error).splitlines()[0][:200]}") from error
    for kind in (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends):
        if any(True for _ in tree.find_all(kind)):
            raise _refused(source, f"it has {kind.__name__.lower()}, which loads other files")
    for node in tree.find_all((nodes.Getattr, nodes.Filter, nodes.Name, nodes.Const)):
        word = _word(node)
        if word is not None and (word.startswith("__") or "__" in word or _reaches(node, word)):
            raise _refused(source, f"line {node.lineno} reaches for {word[:60]!r}")
    return template


def write(template: str | None, out: Path) -> None:
    """Write the template where clients look for it: a file of its own, and tokenizer_config.json."""
    if template is None:
        return
    (out / FILE).write_text(template, encoding="utf-8")
    file = out / SETTINGS
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    text = json.dumps(settings | {_KEY: template}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def _word(node: Any) -> str | None:
    """Return what a node names: an attribute, a filter, a variable, or a text."""
    value = next((getattr(node, name) for name in ("attr", "name", "value") if hasattr(node, name)), None)
    return value if isinstance(value, str) else None


def _reaches(node: Any, word: str) -> bool:
    kind = type(node).__name__
    if kind == "Getattr":
        return word.startswith("_") or word in ("mro", "format_map")
    return kind in ("Filter", "Name") and word in _FORBIDDEN and not (kind == "Filter" and word == "map")


def _text(content: bytes, source: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _refused(source, "it is no UTF-8") from error


def _refused(source: Path, why: str) -> TeacherError:
    return TeacherError(
        f"the chat template in {source} is not taken: {why}",
        fix=f"remove it ({FILE}, and {_KEY!r} in {SETTINGS}): the model is compressed without; or give one that only "
        "puts messages and special tokens together",
    )
