"""Who may see which row: training, selection, calibration and test, disjoint by content.

Content means a text after folding case, space and the mark that ends its sentence (a question asked twice is one
question), an image's decoded pixels, or an array's values.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

from edgekd.core.digests import digest
from edgekd.core.errors import DataError, counted
from edgekd.core.protocols import LabelledTask, Task
from edgekd.data.leaks import check_calibration, distinct, few_leaks, outside, two_labels
from edgekd.data.numbers import Numbers, check_numbers
from edgekd.data.strata import in_every_row, joined, stratified
from edgekd.data.tags import Tags, bio_classes, kinds_of

# one mark behind a letter, digit or vowel sign: not the "!!" or the ":)" that a text may end in
_SENTENCE_END = re.compile(r"(?<=[^\s!-/:-@\[-`{-~.?!。？！।؟])\s?[.?!。？！।؟]$")
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1  # of a single file, by content hash
CALIBRATION_SHARE = 0.25  # of the validation or held-back rows; the rest selects
HELD_BACK_SHARE, HELD_BACK_MOST = 0.15, 1000  # of the unlabelled rows, for selection and calibration
TEACHER_KNOWS_NOT = "the teacher does not know"
_OR_A_BASE = "; or give a base model as teacher, which is fine-tuned on your labels"
LEAST = {"training": 8, "selection": 4, "test": 8}
# one name; or several, sorted, each once: an empty tuple is none of them; or `Tags`, one for each word; or `Numbers`
Label = str | tuple[str, ...]
FEW_UNLABELLED = 200  # fewer than this are not worth holding back: selection then uses labelled validation rows


@lru_cache(maxsize=1 << 20)
def _folded(text: str) -> str:
    # lower, not casefold: German "Maße" (measures) is not "Masse" (mass). NFC, not NFKC: "x²" is not "x2".
    folded = _SENTENCE_END.sub("", " ".join(unicodedata.normalize("NFC", text.lower()).split()))
    return sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Example:
    """One input and, where known, its label: a text, an image, a recording, or a series (an array)."""

    input: Any
    label: Label | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names in its label, of tags the kind of each span; none where that is unknown, or none of them."""
        if self.label is None:
            return ()
        if isinstance(self.label, Numbers):
            return ()
        if isinstance(self.label, Tags):
            return self.label.kinds
        return self.label if isinstance(self.label, tuple) else (self.label,)

    @property
    def content(self) -> str:
        """SHA-256 of what the input says: rows that agree in it are the same row."""
        if isinstance(self.input, str):
            return _folded(self.input)
        return getattr(self.input, "content", "") or self.identity  # an image file, or a recording, knows its own

    @property
    def identity(self) -> str:
        """The input itself, or the SHA-256 of its bytes: what keys of the store are made of."""
        if isinstance(self.input, str):
            return self.input
        own: str | None = getattr(self.input, "sha256", None)  # an image file knows its own
        return own or sha256(f"{self.input.dtype}{self.input.shape}".encode() + self.input.tobytes()).hexdigest()


@dataclass(frozen=True)
class Splits:
    """All rows by role, disjoint by content; `notes` says, in words, what was dropped or carved.

    `selection` picks among variants (agreement with the teacher, and accuracy where its labels are known);
    `calibration` sets ranges of static quantization; `test` is read once, at the end.
    """

    train: tuple[Example, ...]
    unlabelled: tuple[Example, ...]
    selection: tuple[Example, ...]
    calibration: tuple[Example, ...]
    test: tuple[Example, ...]
    classes: tuple[str, ...]
    selection_labelled: bool
    test_labelled: bool = True
    notes: tuple[str, ...] = field(default=())
    golden: tuple[Example, ...] = field(default=())  # of the file that `--golden` names
    augmented: tuple[Example, ...] = field(default=())  # changed copies of the training inputs, with their labels

    @property
    def known(self) -> tuple[Example, ...]:
        """The rows that are held back from nothing: labelled ones first."""
        return self.train + self.unlabelled

    @property
    def digest(self) -> str:
        """SHA-256 over every row and its role."""
        roles = (self.train, self.unlabelled, self.selection, self.calibration, self.test)
        return digest([[[row.identity, row.label] for row in role] for role in roles] + [list(self.classes)])

    @property
    def counts(self) -> dict[str, int]:
        """Rows by role."""
        roles = ("train", "unlabelled", "selection", "calibration", "test")
        return {role: len(getattr(self, role)) for role in roles}


def truth_of(task: Task, rows: Sequence[Example], classes: Sequence[str], *, labelled: bool) -> Any | None:
    """Return what outputs of these rows are held against, as the task has it; None where they carry no labels."""
    return task.truth(rows, classes) if labelled and isinstance(task, LabelledTask) else None


def split(
    given: dict[str, list[Example]],
    *,
    labels: int | None,
    seed: int,
    classes: Sequence[str] | None = None,
    calibration: Sequence[Example] = (),
) -> Splits:
    """Divide rows as DESIGN's contract says. `given` has `all`, or named splits; `labels` keeps that many, stratified.

    Where `calibration` is given, no row is held back for that.

    Raises DataError where a class is alone, a label is unknown to a ready teacher (`classes`), more than 5% of the
    test or validation rows also stand in training, any of `calibration` in test or selection, or too little is left.
    """
    notes = two_labels(given)
    train, loose, validation, test = _roles(given, notes)
    train, loose, validation = _without_leaks(train, loose, validation, test, notes)
    known = _classes(train, classes)
    roles = {"training": train, "validation": validation, "test": test}
    if classes is None:
        check_labels(roles, known, who="no training row has")
    else:
        check_labels(roles, known, who=TEACHER_KNOWS_NOT, otherwise=_OR_A_BASE)
    if labels is not None and labels < len(train):
        kept = stratified(train, labels, seed)
        chosen = {row.content for row in kept}
        loose = [replace(row, label=None) for row in train if row.content not in chosen] + loose
        notes.append(
            f"{counted(len(kept), 'label')} kept, stratified; {counted(len(train) - len(kept), 'training row')} "
            "became unlabelled"
        )
        train = kept
    notes += [*in_every_row(train), *joined(train)]
    labelled = True
    check_test_names(test)
    if validation and not name_any(validation):
        labelled, validation = False, [replace(row, label=None) for row in validation]
        notes.append("no validation row has a label or span: selection is by agreement with the teacher")
    elif validation and labels is not None:
        labelled, validation = False, [replace(row, label=None) for row in validation]
        notes.append("validation rows keep no labels either: selection is by agreement with the teacher")
    elif not validation and len(loose) >= min(FEW_UNLABELLED, 2 * len(train)):
        labelled = False
        validation, loose = held_back(loose, seed, notes)
    elif not validation:
        validation = stratified(train, max(len(known), round(len(train) * VALIDATION_SHARE)), seed, spare=1)
        chosen = {row.content for row in validation}
        train = [row for row in train if row.content not in chosen]
        notes.append(f"no validation split: {counted(len(validation), 'row')} carved from training, stratified")
    cut = 0 if calibration else int(len(validation) * CALIBRATION_SHARE)
    selection = validation[cut:]
    check_calibration(calibration, test, "test")
    check_calibration(calibration, selection, "selection")
    enough(training=train, selection=selection, test=test)
    return Splits(
        tuple(train),
        tuple(loose),
        tuple(selection),
        tuple(calibration or validation[:cut]),
        tuple(test),
        known,
        labelled,
        notes=tuple(notes),
    )


def _roles(given: dict[str, list[Example]], notes: list[str]) -> tuple[list[Example], ...]:
    """Labelled training rows, rows without labels, validation and test rows, each row once within its role."""
    if "all" in given:
        given = _by_content(given["all"], notes)
    validation = distinct(given.get("validation", []), set(), notes, "repeated validation row", "dropped")
    loose = [row for row in validation if row.label is None]
    validation = [row for row in validation if row.label is not None]
    source, told = given["train"], given.get("test", [])
    test = [row for row in told if row.label is not None]
    if len(test) < len(told):
        notes.append(f"{counted(len(told) - len(test), 'test row')} without a label left out")
    if not test:
        inside = {row.content for row in validation}
        parts = _by_content([row for row in source if row.content not in inside], notes, validation=False)
        source = parts["train"] + [row for row in source if row.content in inside]  # those leave it below, counted
        test = parts["test"]
        became = (
            "no test row has a label: {} training rows became the test split"
            if told
            else ("no test split: {} training rows became it")
        )
        notes.append(f"{became.format(len(test))}, by content hash")
    source = distinct(source, set(), notes, "repeated training row", "dropped")
    train = [row for row in source if row.label is not None]
    loose = [row for row in source if row.label is None] + loose
    loose += [replace(row, label=None) for row in given.get("unlabelled", [])]
    seen = {row.content for row in train}
    return (
        train,
        distinct(loose, seen, notes, "unlabelled row", "dropped: another says the same"),
        validation,
        test,
    )


def place_of(row: Example) -> float:
    """Where a row's content stands between 0 and 1: what decides its role in one file, whatever else is there."""
    return int(row.content[:8], 16) / 16**8


def _by_content(rows: list[Example], notes: list[str], *, validation: bool = True) -> dict[str, list[Example]]:
    rows = distinct(rows, set(), notes, "repeated row", "dropped")
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        place = place_of(row)
        if row.label is not None and place < TEST_SHARE:
            parts["test"].append(row)
        elif row.label is not None and validation and place < TEST_SHARE + VALIDATION_SHARE:
            parts["validation"].append(row)
        else:
            parts["train"].append(row)
    _known_in_training(parts, notes)
    if validation:
        sizes = " / ".join(f"{len(part)} {name}" for name, part in parts.items())
        notes.append(f"one file, split by content hash: {sizes}")
    return parts


def _known_in_training(parts: dict[str, list[Example]], notes: list[str]) -> None:
    """Give training, in place, one row of each of several labels that stands in validation or test alone.

    A label of few rows is the rule where a row has several; of one class a row it is refused instead.
    """
    known = {name for row in parts["train"] for name in row.names}
    moved = 0
    for part in ("validation", "test"):
        for row in sorted(parts[part], key=place_of, reverse=True):
            if isinstance(row.label, tuple) and not known.issuperset(row.names):  # numbers have no names
                parts[part].remove(row)
                parts["train"].append(row)
                known.update(row.names)
                moved += 1
    if moved:
        notes.append(f"{counted(moved, 'held-out row')} moved to training: no training row had a label of theirs")


def _without_leaks(
    train: list[Example], loose: list[Example], validation: list[Example], test: list[Example], notes: list[str]
) -> tuple[list[Example], list[Example], list[Example]]:
    """Training, unlabelled and validation rows that stand in no split held out from them."""
    few_leaks(train + validation, test, "test")
    train, loose, validation = outside(test, "test", notes, train, loose, validation)
    few_leaks(train, validation, "validation")
    train, loose = outside(validation, "validation", notes, train, loose)
    return train, loose, validation


def _classes(train: list[Example], known: Sequence[str] | None) -> tuple[str, ...]:
    counts = Counter(name for row in train for name in row.names)
    if not train:
        raise DataError("no training row has a label", fix="give labelled rows, or name the column: --label-column")
    if tagged := [row.label for row in train if isinstance(row.label, Tags)]:
        if not counts:
            raise DataError(
                f"no word of {len(train)} training rows is in a span",
                fix="give rows with spans, or name the right column with --label-column",
            )
        return tuple(known) if known is not None else bio_classes(tagged)
    if isinstance(train[0].label, Numbers):
        names = check_numbers(train, known)
        return tuple(known) if known is not None else names
    if len(counts) < 2:
        what, others = ("label", "labels") if isinstance(train[0].label, tuple) else ("class", "classes")
        raise DataError(
            f"all {counted(len(train), 'training row')} have "
            + (f"one {what}, {next(iter(counts))!r}" if counts else "no label"),
            fix=f"give rows of at least two {others}, or name the right column with --label-column",
        )
    return tuple(known) if known is not None else tuple(sorted(counts))


def label_names(rows: Sequence[Example], classes: Sequence[str]) -> set[str]:
    """Return the names that labels of these rows may have where a model has these classes: of tags kinds of spans."""
    tagged = any(isinstance(row.label, Tags) for row in rows)
    return set(kinds_of(classes) if tagged else classes)  # whatever scheme labels and model have


def check_labels(
    roles: Mapping[str, Sequence[Example]], classes: Sequence[str], *, who: str, otherwise: str = ""
) -> None:
    """Raises DataError, with `who` does not know them, for labels that are none of the classes."""
    allowed = label_names([row for rows in roles.values() for row in rows], classes)
    for where, rows in roles.items():
        strange = sorted({name for row in rows for name in row.names} - allowed)
        whose = "the rows" if where == "all" else f"the {where} rows"
        if strange:
            raise DataError(
                f"{whose} have labels that {who}: {', '.join(map(repr, strange[:5]))}"
                + (f" and {len(strange) - 5} more" if len(strange) > 5 else ""),
                fix=f"use the labels {', '.join(map(repr, sorted(allowed)[:8]))}"
                + (" ..." if len(allowed) > 8 else "")
                + otherwise,
            )


def held_back(loose: list[Example], seed: int, notes: list[str]) -> tuple[list[Example], list[Example]]:
    """Rows for selection and calibration, and those that stay for training."""
    least = min(FEW_UNLABELLED, len(loose)) // 2
    count = min(HELD_BACK_MOST, max(least, round(len(loose) * HELD_BACK_SHARE)))
    shuffled = sorted(loose, key=lambda row: sha256(f"{seed}:{row.content}".encode()).hexdigest())
    calibrating = int(count * CALIBRATION_SHARE)
    labelled = all(row.label is not None for row in shuffled[:count])
    notes.append(
        f"{counted(count, 'row' if labelled else 'unlabelled row')} held back: {count - calibrating} for selection "
        f"(by {'their labels' if labelled else 'agreement with the teacher'}), {calibrating} for calibration"
    )
    return shuffled[:count], shuffled[count:]


def name_any(rows: Sequence[Example]) -> bool:
    """Return whether the label of any row says something: of several labels and of tags it may be empty."""
    return any(row.names or isinstance(row.label, Numbers) for row in rows)


def check_test_names(test: Sequence[Example]) -> None:
    """Raises DataError for labelled test rows that all are without a label, or span: F1 would be of nothing."""
    if test and not name_any(test):
        what = "span" if isinstance(test[0].label, Tags) else "label"
        raise DataError(
            f"none of the {len(test)} labelled test rows has a {what}: F1 would be of nothing",
            fix=f"give test rows of which some have a {what}; or, with --student none, rows without the column",
        )


def enough(**roles: Sequence[Example]) -> None:
    """Raises DataError where too few rows are left of training, selection or test."""
    for what, rows in roles.items():
        if len(rows) < LEAST[what]:
            raise DataError(
                f"too few rows are left after splitting: {counted(len(rows), f'{what} row')}; at least "
                f"{LEAST[what]} are needed",
                fix="give more rows; a figure on so few would mean nothing",
            )
