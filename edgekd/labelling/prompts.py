"""Prompts: a template, the classes, examples from training. What is the same for all rows comes first, so that servers
can keep it; the row comes last, as a JSON string in a message of its own, so that what it says stays data."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from edgekd.core.errors import UsageError, listed
from edgekd.core.files import is_plain, user_path
from edgekd.data.columns import row_label
from edgekd.data.splits import Example

_FOLDER = Path(__file__).parent / "templates"
_CLASSES, _TEXT, _RULE = "{{classes}}", "{{text}}", "---"
_MOST_BYTES = 256 << 10  # of a template or a file of classes
_MOST_CLASSES = 1000
_BREAKS = ("Cc", "Zl", "Zp", "Cs")  # kinds of signs that are no part of a name: control, new line, half a character
_A_MESSAGE, _A_REQUEST = 16, 96  # tokens that a server's own chat template may add
_ROOM = 48  # tokens of an answer beside the label's
_A_NAME, _MOST_ROOM = 4, 1024  # tokens around a name in a list; of a list of names at most
Message = dict[str, str]


@dataclass(frozen=True)
class Template:
    """The words around the classes and the row; `source` says whose they are."""

    system: str
    user: str
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 of its text."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """As a file has it."""
        return f"{self.system}\n{_RULE}\n{self.user}\n"


@dataclass(frozen=True)
class Prompt:
    """What is asked of each row: template, classes with what they mean (maybe nothing), and examples."""

    template: Template
    classes: dict[str, str]
    shots: tuple[Example, ...] = ()
    several: bool = False  # whether a row may have several labels, or none

    @cached_property
    def constant(self) -> tuple[Message, ...]:
        """The messages that all rows share."""
        lines = [f"- {name}: {meaning}" if meaning else f"- {name}" for name, meaning in self.classes.items()]
        made: list[Message] = [{"role": "system", "content": self.template.system.replace(_CLASSES, "\n".join(lines))}]
        for shot in self.shots:
            made.append({"role": "user", "content": self.row(shot.input)})
            said = {"labels": list(shot.names)} if self.several else {"label": shot.label}
            made.append({"role": "assistant", "content": json.dumps(said, ensure_ascii=False)})
        return tuple(made)

    def row(self, text: str) -> str:
        """The last message: the text as a JSON string, whose end no text can forge."""
        return self.template.user.replace(_TEXT, json.dumps(text, ensure_ascii=False))

    def messages(self, text: str) -> list[Message]:
        """All messages, the row's last."""
        return [*self.constant, {"role": "user", "content": self.row(text)}]

    @cached_property
    def schema(self) -> dict[str, object]:
        """The strict JSON schema of an answer, as `response_format` takes it."""
        name = {"type": "string", "enum": list(self.classes)}
        asked = {"labels": {"type": "array", "items": name}} if self.several else {"label": name}
        form = {"type": "object", "properties": asked, "required": list(asked), "additionalProperties": False}
        return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": form}}

    @cached_property
    def _constant_bound(self) -> int:
        said = sum(len(message["content"].encode("utf-8", "replace")) + _A_MESSAGE for message in self.constant)
        return said + len(json.dumps(self.schema, ensure_ascii=False).encode()) + _A_REQUEST + _A_MESSAGE

    def bound(self, text: str) -> int:
        """The most tokens that the prompt of a row can have: a token has at least one byte."""
        return self._constant_bound + len(self.row(text).encode("utf-8", "replace"))

    @cached_property
    def answer_tokens(self) -> int:
        """Tokens that the longest answer in the form asked for needs at most."""
        lengths = [len(name.encode()) + _A_NAME for name in self.classes]
        return min(_MOST_ROOM, sum(lengths)) + _ROOM if self.several else max(lengths) - _A_NAME + _ROOM

    def key(self, model: str, text: str, turn: int) -> bytes:
        """What tells a request from others: the model, every message, and how often this was asked before."""
        said = "\0".join((model, self.digest, self.row(text)))
        return sha256(said.encode("utf-8", "surrogatepass")).digest()[:16] + bytes([turn])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that rows share."""
        return sha256(json.dumps([*self.constant, self.template.user]).encode()).hexdigest()


def tasks() -> list[str]:
    """Return the tasks that there are templates of."""
    return sorted(path.stem for path in _FOLDER.glob("*.txt"))


def template(task: str, file: Path | None) -> Template:
    """The user's template, or the task's own. Raises UsageError for a task without one, and for a file that is none."""
    if task not in tasks():
        raise UsageError(
            f"edgekd label asks for the labels of a text; the task {task} has no prompts yet",
            fix=f"give --task {listed(tasks())}, or label the rows elsewhere and give them to edgekd build as --data",
        )
    if file is None:
        text, source = (_FOLDER / f"{task}.txt").read_text(encoding="utf-8"), "edgekd's own"
    else:
        text, source = _read(file, "template"), file.name
    system, rule, user = text.strip().partition(f"\n{_RULE}\n")
    wrong = (
        f"no line of {_RULE} alone parts what all rows share from the row"
        if not rule
        else f"{_CLASSES} stands {system.count(_CLASSES)} times in the first part"
        if system.count(_CLASSES) != 1
        else f"{_TEXT} stands {user.count(_TEXT)} times in the last part, {system.count(_TEXT)} in the first"
        if user.count(_TEXT) != 1 or _TEXT in system
        else ""
    )
    if wrong:
        raise UsageError(
            f"the template {source}: {wrong}",
            fix=f"write {_CLASSES} once before the line {_RULE}, and {_TEXT} once behind it: docs/labelling.md",
        )
    return Template(system.strip(), user.strip(), source)


def classes(given: str | None, gold: Sequence[str]) -> dict[str, str]:
    """Names and meanings: `a,b,c`, a file, or the labels that rows have already. Raises UsageError.

    A file is a JSON object `{"name": "what it means"}`, or has a line `name: what it means` for each class.
    """
    path = user_path(given) if given else None
    if given is None:
        found = dict.fromkeys(gold, "")
    elif path is not None and (is_plain(path) or path.suffix in (".json", ".txt")):
        found = _named(_parsed(path), str(path))
    else:
        found = _named([(name, "") for name in given.split(",")], "--classes")
    if not 2 <= len(found) <= _MOST_CLASSES:
        raise UsageError(
            f"{len(found)} classes to choose from" if given or found else "no row has a label that tells the classes",
            fix=f"name 2 to {_MOST_CLASSES}: --classes positive,negative; or a file with lines `name: meaning`",
        )
    strange = sorted(set(gold) - set(found))
    if strange:
        raise UsageError(
            f"rows have labels that --classes does not name: {listed([*map(repr, strange)], most=5)}",
            fix="name all classes, as the rows spell them; or leave --classes out",
        )
    return found


def _named(pairs: Sequence[tuple[str, str]], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, meaning in pairs:
        label = row_label(name, where)
        looks = _as_read(label or "")
        if label is None or not looks or looks in seen or any(unicodedata.category(one) in _BREAKS for one in label):
            raise UsageError(
                f"{where}: the class {name.strip()!r} is empty, is named twice, or differs by capitals alone or by "
                "signs that nobody sees",
                fix="give each class a name of its own, on one line",
            )
        seen.add(looks)
        found[label] = " ".join(meaning.split())
    return found


def _as_read(name: str) -> str:
    """A name as a reader tells it from others: without signs that show nothing, composed, in small letters."""
    shown = "".join(one for one in name if unicodedata.category(one) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", shown).casefold()).strip()


def _parsed(path: Path) -> list[tuple[str, str]]:
    text = _read(path, "classes")
    if not text.lstrip().startswith("{"):
        return [(line.partition(": ")[0], line.partition(": ")[2]) for line in text.splitlines() if line.strip()]
    try:
        pairs = list(json.loads(text).items())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}", fix='write {"name": "what it means", ...}') from error
    if not all(isinstance(meaning, str) for _, meaning in pairs):
        raise UsageError(f"{path}: a class's meaning is no text", fix='write {"name": "what it means", ...}')
    return pairs


def _read(path: Path, what: str) -> str:
    path = user_path(path)
    try:
        if not is_plain(path) or path.stat().st_size > _MOST_BYTES:
            raise UsageError(
                f"cannot read the {what} {path}: there is no plain file of at most {_MOST_BYTES >> 10} KiB",
                fix="check the path",
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the {what} {path}: {error}", fix="give a text file in UTF-8") from error
