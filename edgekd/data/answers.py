"""Answers of a teacher that only answers, as `edgekd label` keeps them: probabilities of the classes for each row.

An answer with log-probabilities is soft already. One that names a class alone is smoothed by what is known of such
answers: rows with a label of their own that the teacher was asked about show which class is meant where it names one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError
from edgekd.data.splits import Label

if TYPE_CHECKING:
    import numpy as np

PROVENANCE = "provenance.json"
SPLITS = ("train", "validation", "test")
TEXT, LABEL, LABELLED_BY, PROBABILITIES = "text", "label", "labelled_by", "probabilities"
GIVEN_LABEL, ANSWER, ANSWER_PROBABILITIES = "given_label", "answer", "answer_probabilities"
LEAST = 1e-4  # probability of a class: a server gives its likeliest tokens alone, and no logit is infinite
_TRUST, _TRUST_ROWS = 0.9, 10  # of an answer before any is checked: as if of so many rows so many were right
_LARGEST = 64 << 20  # bytes of provenance.json
_FIX = "give the folder that edgekd label wrote, whole"


@dataclass(frozen=True)
class Answers:
    """What a teacher said. `soft` and `hard` are of all rows that it was asked about, by their text."""

    classes: tuple[str, ...]
    soft: Mapping[str, Mapping[str, float]]
    hard: Mapping[str, Label]
    checked: Counter[tuple[str, str]] = field(default_factory=Counter)  # how often a class was named for a row of one
    decided: Counter[tuple[str, bool, bool]] = field(default_factory=Counter)  # of several labels a row each label:
    # how often it was there, or not, where it was named, or not
    several: bool = False  # whether a row may have several labels, or none
    labels: frozenset[str] = frozenset()  # rows whose label is the answer: nobody else labelled them

    def __contains__(self, text: object) -> bool:
        return text in self.hard

    def logits(self, text: str, label: Label | None = None) -> np.ndarray[Any, Any]:
        """Return what a network that says the same would give: (classes,); of several labels a row above 0 is there."""
        import numpy as np

        found = self.probabilities(text, label)
        logits: np.ndarray[Any, Any] = np.log(found / (1 - found)) if self.several else np.log(found)
        return logits

    def probabilities(self, text: str, label: Label | None = None) -> np.ndarray[Any, Any]:
        """Return the probabilities of the classes, (classes,), which sum to 1; of several labels each has its own.

        Of a row that the teacher was not asked about they are its `label`'s; without one all are alike.
        """
        import numpy as np

        if self.several:
            return self._each(text, label)
        known = self.soft.get(text)
        if known is not None:
            return self._scaled([known.get(name, 0.0) for name in self.classes])
        named = self.hard.get(text)
        if isinstance(named, str):
            return self.smoothed(named)
        if label is None:
            return np.full(len(self.classes), 1 / len(self.classes))
        return self._scaled([float(name == label) for name in self.classes])

    def smoothed(self, named: str) -> np.ndarray[Any, Any]:
        """Return how probable each class is where the teacher named this one: (classes,).

        Counts of the checked rows, and as many made-up rows as there are classes, spread as its answers are right.
        """
        right = sum(count for (label, answer), count in self.checked.items() if label == answer)
        trust = (right + _TRUST * _TRUST_ROWS) / (self.checked.total() + _TRUST_ROWS)
        others = (1 - trust) / max(1, len(self.classes) - 1)
        made_up = [trust if name == named else others for name in self.classes]
        counted = [self.checked[name, named] for name in self.classes]
        return self._scaled([count + len(self.classes) * share for count, share in zip(counted, made_up, strict=True)])

    def _each(self, text: str, label: Label | None) -> np.ndarray[Any, Any]:
        """How probable each label of a row is by itself: by the checked rows, with a prior of some made-up ones."""
        import numpy as np

        said = self.hard.get(text)
        if said is None and label is None:
            return np.full(len(self.classes), 0.5)
        if said is None:
            return np.array([1 - LEAST if name in (label or ()) else LEAST for name in self.classes])
        found = []
        for name in self.classes:
            named = name in said
            there, absent = (self.decided[name, has, named] for has in (True, False))
            prior = _TRUST if named else 1 - _TRUST
            found.append((there + _TRUST_ROWS * prior) / (there + absent + _TRUST_ROWS))
        each: np.ndarray[Any, Any] = np.clip(np.array(found), LEAST, 1 - LEAST)
        return each

    def _scaled(self, values: Sequence[float]) -> np.ndarray[Any, Any]:
        import numpy as np

        raised = np.maximum(np.array(values) / sum(values), LEAST)
        scaled: np.ndarray[Any, Any] = raised / raised.sum()
        return scaled


def read(folder: Path) -> Answers:
    """Return the answers in a folder that `edgekd label` wrote. Raises TeacherError where it is none, or damaged."""
    told_of = provenance(folder)
    classes, several = tuple(map(str, told_of["classes"])), bool(told_of.get("several_labels"))
    soft: dict[str, dict[str, float]] = {}
    hard: dict[str, Label] = {}
    checked: Counter[tuple[str, str]] = Counter()
    decided: Counter[tuple[str, bool, bool]] = Counter()
    labels: set[str] = set()
    for split in SPLITS:
        for row in _rows(folder / f"{split}.jsonl"):
            by_teacher = row.get(LABELLED_BY) == "api"
            answer, told = (row[LABEL], PROBABILITIES) if by_teacher else (row.get(ANSWER), ANSWER_PROBABILITIES)
            named = _label(answer, classes, several=several)
            if named is None:
                continue  # it was not asked about, or the answer named no class
            hard[row[TEXT]] = named
            if by_teacher:
                labels.add(row[TEXT])
            if row.get(told):
                soft[row[TEXT]] = {str(name): float(value) for name, value in row[told].items()}
            own = _label(row.get(GIVEN_LABEL) if by_teacher else row[LABEL], classes, several=several)
            if own is None or split == "test":  # what the test rows' labels say may change no training
                continue
            if isinstance(own, str) and isinstance(named, str):
                checked[own, named] += 1
            else:
                decided.update((name, name in own, name in named) for name in classes)
    return Answers(classes, soft, hard, checked, decided, several, frozenset(labels))


def _label(value: Any, classes: Sequence[str], *, several: bool) -> Label | None:
    """A row's label as it is kept: one of the classes, or several of them, or none; None where it is no label."""
    if several:
        known = isinstance(value, list) and all(name in classes for name in value)
        return tuple(sorted(value)) if known else None
    return value if isinstance(value, str) and value in classes else None


def provenance(folder: Path) -> dict[str, Any]:
    """Return what the folder says of teacher, terms, prompt and figures. Raises TeacherError where it says nothing."""
    path = folder / PROVENANCE
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not (said["teacher"]["model"] and said["teacher"]["provider"] and len(said["classes"]) > 1):
            raise ValueError("it names no teacher, or no classes")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TeacherError(f"{folder} holds no answers of a teacher: {path.name}: {reason}", fix=_FIX) from error
    return said


def digest(folder: Path) -> str:
    """Return the SHA-256 over the rows with their answers."""
    total = sha256()
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        total.update(path.read_bytes() if path.exists() else b"")
        total.update(b"\0")
    return total.hexdigest()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line)
                if not isinstance(row[TEXT], str) or LABEL not in row:
                    raise ValueError("a row without text or label")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise TeacherError(f"{path}, line {number}: {error}", fix=_FIX) from error
            yield row
