"""Who may see which row where nothing is trained: some test, some pick among variants, some calibrate.

Labels are no need: without them a variant is held against the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from edgekd.core.errors import DataError, counted
from edgekd.data.leaks import check_calibration, distinct, few_leaks, outside, two_labels
from edgekd.data.splits import (
    LEAST,
    TEACHER_KNOWS_NOT,
    TEST_SHARE,
    Example,
    Splits,
    check_labels,
    check_test_names,
    enough,
    name_any,
    place_of,
)

LEAST_ROWS = 30  # of all roles together
TEST_MOST = 2000  # of rows without labels: their agreement is then known within 2 points
MOST = 500  # rows that select, and as many that calibrate
_SHARE = 1 / 3  # of the rows that do not test, where there are few: for selection, and as many to calibrate


def split_untrained(
    given: dict[str, list[Example]], *, seed: int, classes: Sequence[str] | None, calibration: Sequence[Example] = ()
) -> Splits:
    """Divide rows of `all`, or of named splits; a given test or validation split stays as it is.

    Else about 20% test, by content hash: all those with labels, or up to 2,000 without. Of the others a third selects
    and a third calibrates, up to 500 each; all but what `calibration` holds, where it is given.
    Test rows without labels are left out where others have some. `classes` are the teacher's; without any (of
    embeddings) no label is read. They are None where labels name no classes: then each is what it is.

    Raises DataError for labels that the teacher does not know, more than 5% of test rows that also stand in training
    or validation, any of `calibration` in test or validation, or fewer than 30 rows.
    """
    notes: list[str] = []
    if classes is not None and not classes:
        given = {part: [replace(row, label=None) for row in rows] for part, rows in given.items()}
    notes += two_labels(given)
    if classes is not None:
        check_labels(given, classes, who=TEACHER_KNOWS_NOT, otherwise="; or give the rows without labels")
    validation = distinct(given.get("validation", []), set(), notes, "repeated validation row", "dropped")
    rows = [row for part in ("all", "train", "unlabelled") for row in given.get(part, [])]
    rows = distinct(rows, set(), notes, "repeated row", "dropped")
    _enough_rows(len(rows) + len(validation) + len(given.get("test", [])))
    if "test" in given:
        test, labelled = told(given["test"], notes)
        few_leaks([*given.get("train", []), *validation], test, "test")
        rows, validation = outside(test, "test", notes, rows, validation)
    else:
        test, labelled = carved(others(validation, rows), notes)
        rows = others(test, rows)
    rows = others(validation, rows)
    check_calibration(calibration, test, "test")
    check_calibration(calibration, validation, "selection")
    free = sorted(others(calibration, rows), key=lambda row: _order(row, seed, labelled))
    count = min(MOST, int(len(free) * _SHARE))
    selection = validation or free[:count]
    calibrating = list(calibration) or (free[:count] if validation else free[count : 2 * count])
    rest = others([*selection, *calibrating], rows)
    judged = labelled and all(row.label is not None for row in selection) and name_any(selection)
    if labelled:
        check_test_names(test)
    notes.append(
        f"nothing is trained: {len(selection)} rows select "
        f"({'by their labels' if judged else 'by agreement with the teacher'}), {len(calibrating)} calibrate"
    )
    enough(selection=selection, test=test)
    return Splits(
        train=tuple(row for row in rest if row.label is not None),
        unlabelled=tuple(row for row in rest if row.label is None),
        selection=tuple(selection) if judged else tuple(replace(row, label=None) for row in selection),
        calibration=tuple(calibrating),
        test=tuple(test),
        classes=tuple(classes or ()),
        selection_labelled=judged,
        test_labelled=labelled,
        notes=tuple(notes),
    )


def _enough_rows(count: int) -> None:
    if count < LEAST_ROWS:
        raise DataError(
            f"only {counted(count, 'row')}: at least {LEAST_ROWS} are needed to test, to select and to calibrate",
            fix="give more rows; they need no labels",
        )


def told(test: list[Example], notes: list[str]) -> tuple[list[Example], bool]:
    """The given test rows, and whether they have labels: either all of them, or none."""
    known = [row for row in test if row.label is not None]
    if len(known) < LEAST["test"]:
        return [replace(row, label=None) for row in test], False
    if len(known) < len(test):
        notes.append(f"{counted(len(test) - len(known), 'test row')} without a label left out")
    return known, True


def carved(rows: list[Example], notes: list[str]) -> tuple[list[Example], bool]:
    """The same where no rows are given for it: the same labelled rows that a distilled student is tested on."""
    ordered = sorted(rows, key=lambda row: row.content)  # so by `place_of`, too
    inside = [row for row in ordered if place_of(row) < TEST_SHARE]
    test = [row for row in inside if row.label is not None]
    labelled = len(test) >= LEAST["test"]
    if not labelled:
        test = [replace(row, label=None) for row in ordered[: min(TEST_MOST, max(LEAST["test"], len(inside)))]]
    notes.append(
        f"no test split: {len(test)} rows became it, by content hash"
        + ("" if labelled else "; without labels, they tell how far a variant agrees with the teacher")
    )
    known = sum(row.label is not None for row in rows)
    if known and not labelled:
        few = sum(row.label is not None for row in inside)
        notes.append(
            f"{counted(known, 'label')} not used: {few} fell among the test rows, and a figure takes {LEAST['test']}; "
            "name a test split of its own, or give more labelled rows, to have labels judge"
        )
    return test, labelled


def others(held: Sequence[Example], rows: Sequence[Example]) -> list[Example]:
    """Return the rows whose content none of `held` has."""
    inside = {row.content for row in held}
    return [row for row in rows if row.content not in inside]


def _order(row: Example, seed: int, labelled: bool) -> tuple[bool, str]:
    """Shuffled by content; rows with labels first, where selection can use them."""
    return labelled and row.label is None, sha256(f"{seed}:{row.content}".encode()).hexdigest()
