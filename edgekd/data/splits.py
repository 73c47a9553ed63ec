"""Who may see which row: training, selection, calibration and test, disjoint by content.

Content means the text after folding case, space and punctuation: a question asked twice is one question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from random import Random

from edgekd.core.errors import DataError
from edgekd.core.results import digest

_WORDS = re.compile(r"\w+")
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1  # of a single file, by content hash
MAX_LEAK = 0.05  # of the test rows that also stand in training, before we refuse
HELD_BACK_SHARE, HELD_BACK_MOST = 0.15, 1000  # of the unlabelled rows, for selection and calibration
FEW_UNLABELLED = 200  # fewer than this are not worth holding back: selection then uses labelled validation rows


@lru_cache(maxsize=1 << 20)
def _content(text: str) -> str:
    folded = " ".join(_WORDS.findall(text.casefold())) or text.strip()
    return sha256(folded.encode()).hexdigest()


@dataclass(frozen=True)
class Example:
    """One input and, where known, its label. Text tasks hold the text itself."""

    input: str
    label: str | None = None

    @property
    def content(self) -> str:
        """SHA-256 of the folded text."""
        return _content(self.input)


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
    notes: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """SHA-256 over every row and its role."""
        roles = (self.train, self.unlabelled, self.selection, self.calibration, self.test)
        return digest([[[row.input, row.label] for row in role] for role in roles] + [list(self.classes)])

    @property
    def counts(self) -> dict[str, int]:
        """Rows by role."""
        roles = ("train", "unlabelled", "selection", "calibration", "test")
        return {role: len(getattr(self, role)) for role in roles}


def split(
    given: dict[str, list[Example]], *, labels: int | None, seed: int, classes: Sequence[str] | None = None
) -> Splits:
    """Divide rows as DESIGN's contract says. `given` has `all`, or named splits; `labels` keeps that many, stratified.

    Raises DataError where a class is alone, a label is unknown to a ready teacher (`classes`), the test split leaks
    by more than 5%, or too little is left.
    """
    notes: list[str] = []
    if "all" in given:
        given = _by_content(given["all"], notes)
    train = [row for row in given["train"] if row.label is not None]
    loose = [row for row in given["train"] if row.label is None] + [
        replace(row, label=None) for row in given.get("unlabelled", [])
    ]
    validation, test = given.get("validation", []), given.get("test", [])
    if not test:
        parts = _by_content([*given["train"]], notes, validation=False)
        train, test = [row for row in parts["train"] if row.label is not None], parts["test"]
        loose = [row for row in parts["train"] if row.label is None] + list(given.get("unlabelled", []))
        notes.append(f"no test split: {len(test)} training rows became it, by content hash")
    test = [row for row in test if row.label is not None]
    held = {row.content for row in test}
    train, loose, validation = _without_leaks(train, loose, validation, held, notes)
    known = _classes(train, validation, test, classes)
    if labels is not None and labels < len(train):
        kept = stratified(train, labels, seed)
        chosen = {id(row) for row in kept}
        loose = [replace(row, label=None) for row in train if id(row) not in chosen] + loose
        notes.append(f"{len(kept)} labels kept, stratified; {len(train) - len(kept)} training rows became unlabelled")
        train = kept
    distinct = _distinct(loose, {row.content for row in train})
    if len(distinct) < len(loose):
        notes.append(f"{len(loose) - len(distinct)} unlabelled rows dropped because they repeat another row")
    loose = distinct
    labelled = labels is None
    if validation and not labelled:
        validation = [replace(row, label=None) for row in validation]
        notes.append("validation rows keep no labels either: selection is by agreement with the teacher")
    elif not validation and len(loose) >= FEW_UNLABELLED:
        return _held_back_unlabelled(train, loose, test, known, seed, notes)
    elif not validation:
        labelled = True
        validation = stratified(train, max(len(known), round(len(train) * VALIDATION_SHARE)), seed)
        chosen = {id(row) for row in validation}
        train = [row for row in train if id(row) not in chosen]
        notes.append(f"no validation split: {len(validation)} rows carved from training, stratified")
    calibration, selection = validation[: len(validation) // 3], validation[len(validation) // 3 :]
    _enough(train, selection, test)
    return Splits(
        tuple(train), tuple(loose), tuple(selection), tuple(calibration), tuple(test), known, labelled, tuple(notes)
    )


def stratified(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` of the rows, each class by its share and with at least one row; the same for the same seed."""
    groups: dict[str | None, list[Example]] = defaultdict(list)
    for row in rows:
        groups[row.label].append(row)
    random = Random(seed)  # noqa: S311
    for name in sorted(groups, key=str):
        random.shuffle(groups[name])
    share = count / len(rows)
    taken = {name: min(len(group), max(1, int(len(group) * share))) for name, group in groups.items()}
    # what rounding left over goes to the classes that lost most by it
    by_loss = sorted(groups, key=lambda name: (taken[name] - len(groups[name]) * share, str(name)))
    for name in by_loss * 2:
        if sum(taken.values()) >= count:
            break
        taken[name] += taken[name] < len(groups[name])
    picked = [row for name in sorted(groups, key=str) for row in groups[name][: taken[name]]]
    random.shuffle(picked)
    return picked[: max(count, len(groups))]


def _by_content(rows: list[Example], notes: list[str], *, validation: bool = True) -> dict[str, list[Example]]:
    distinct = _distinct(rows, set())
    if len(distinct) < len(rows):
        notes.append(f"{len(rows) - len(distinct)} repeated rows dropped")
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for row in distinct:
        place = int(row.content[:8], 16) / 16**8
        if row.label is not None and place < TEST_SHARE:
            parts["test"].append(row)
        elif row.label is not None and validation and place < TEST_SHARE + VALIDATION_SHARE:
            parts["validation"].append(row)
        else:
            parts["train"].append(row)
    if validation:
        sizes = " / ".join(f"{len(part)} {name}" for name, part in parts.items())
        notes.append(f"one file, split by content hash: {sizes}")
    return parts


def _distinct(rows: list[Example], seen: set[str]) -> list[Example]:
    seen = set(seen)
    kept = []
    for row in rows:
        if row.content not in seen:
            seen.add(row.content)
            kept.append(row)
    return kept


def _without_leaks(
    train: list[Example], loose: list[Example], validation: list[Example], held: set[str], notes: list[str]
) -> tuple[list[Example], list[Example], list[Example]]:
    leaked = {row.content for row in train + validation} & held
    if len(leaked) > MAX_LEAK * max(1, len(held)):
        raise DataError(
            f"{len(leaked)} of {len(held)} distinct test rows also stand in training (case, space and punctuation "
            "folded): a figure on this test split would mean nothing",
            fix="remove repeated rows before splitting, or give one file and let edgekd split it by content",
        )
    clean = [[row for row in rows if row.content not in held] for rows in (train, loose, validation)]
    dropped = len(train) + len(loose) + len(validation) - sum(map(len, clean))
    if dropped:
        notes.append(f"{dropped} rows dropped from training because they also stand in test")
    inside = {row.content for row in clean[2]}
    without = [row for row in clean[0] if row.content not in inside]
    if len(without) < len(clean[0]):
        notes.append(f"{len(clean[0]) - len(without)} training rows dropped because they also stand in validation")
    return without, [row for row in clean[1] if row.content not in inside], clean[2]


def _classes(
    train: list[Example], validation: list[Example], test: list[Example], known: Sequence[str] | None
) -> tuple[str, ...]:
    counts = Counter(row.label for row in train if row.label is not None)
    if not train:
        raise DataError("no training row has a label", fix="give labelled rows, or name the column: --label-column")
    if len(counts) < 2:
        raise DataError(
            f"all {len(train)} training rows have one class, {next(iter(counts))!r}",
            fix="give rows of at least two classes, or name the right column with --label-column",
        )
    allowed = set(known) if known is not None else set(counts)
    for where, rows in (("training", train), ("validation", validation), ("test", test)):
        strange = sorted({row.label for row in rows if row.label is not None} - allowed)
        if strange:
            who = "the teacher does not know" if known is not None else "no training row has"
            raise DataError(
                f"the {where} rows have labels that {who}: {', '.join(map(repr, strange[:5]))}"
                + (f" and {len(strange) - 5} more" if len(strange) > 5 else ""),
                fix=f"use the labels {', '.join(map(repr, sorted(allowed)[:8]))}"
                + (" ..." if len(allowed) > 8 else "")
                + ("; or give a base model as teacher, which is fine-tuned on your labels" if known else ""),
            )
    return tuple(known) if known is not None else tuple(sorted(counts))


def _held_back_unlabelled(
    train: list[Example],
    loose: list[Example],
    test: list[Example],
    classes: tuple[str, ...],
    seed: int,
    notes: list[str],
) -> Splits:
    count = min(HELD_BACK_MOST, max(FEW_UNLABELLED // 2, round(len(loose) * HELD_BACK_SHARE)))
    shuffled = sorted(loose, key=lambda row: sha256(f"{seed}:{row.content}".encode()).hexdigest())
    calibration = shuffled[: count // 4]
    selection = shuffled[count // 4 : count]
    notes.append(
        f"{count} unlabelled rows held back: {len(selection)} for selection (by agreement with the teacher), "
        f"{len(calibration)} for calibration"
    )
    _enough(train, selection, test)
    return Splits(
        tuple(train), tuple(shuffled[count:]), tuple(selection), tuple(calibration), tuple(test), classes, False,
        tuple(notes),
    )  # fmt: skip


def _enough(train: Sequence[Example], selection: Sequence[Example], test: Sequence[Example]) -> None:
    for rows, least, what in ((train, 8, "training"), (selection, 4, "selection"), (test, 8, "test")):
        if len(rows) < least:
            raise DataError(
                f"only {len(rows)} {what} rows are left after splitting; at least {least} are needed",
                fix="give more rows; a figure on so few would mean nothing",
            )
