"""Who may see which row where labels name no classes: a student learns what its teacher hears, and labels judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.core.errors import DataError, counted
from edgekd.data.leaks import check_calibration, distinct, few_leaks, outside, two_labels
from edgekd.data.splits import CALIBRATION_SHARE, LEAST, Example, Splits, enough, held_back, place_of
from edgekd.data.untrained import LEAST_ROWS, carved, others, told


def split_taught(
    given: dict[str, list[Example]], *, labels: int | None, seed: int, calibration: Sequence[Example] = ()
) -> Splits:
    """Divide rows of `all`, or of named splits; no row needs a label.

    A given test split stays as it is; else about 20% by content hash: those with labels, or up to 2,000 without. A
    given validation split selects and calibrates; else 15% of the other rows, up to 1,000, are held back for that, of
    those with labels where there are at least 30.
    `labels` keeps that many in training. Where `calibration` is given, no row is held back for it. Raises DataError
    where more than 5% of the test or validation rows also stand in training, any of `calibration` in test or
    selection, or too little is left.
    """
    notes = two_labels(given)
    validation = distinct(given.get("validation", []), set(), notes, "repeated validation row", "dropped")
    rows = [row for part in ("all", "train", "unlabelled") for row in given.get(part, [])]
    rows = distinct(rows, set(), notes, "repeated row", "dropped")
    if "test" in given:
        test, labelled = told(given["test"], notes)
    else:
        test, labelled = carved(others(validation, rows), notes)
        rows = others(test, rows)
    few_leaks([*rows, *validation], test, "test")
    rows, validation = outside(test, "test", notes, rows, validation)
    few_leaks(rows, validation, "validation")
    (rows,) = outside(validation, "validation", notes, rows)
    if not validation:
        free = others(calibration, rows)
        known = [row for row in free if row.label is not None]  # where there are some, they tell more
        validation, _ = held_back(known if len(known) >= LEAST_ROWS else free, seed, notes)
        rows = others(validation, rows)
    rows = others(calibration, rows)
    cut = 0 if calibration else int(len(validation) * CALIBRATION_SHARE)
    calibrating, selection = list(calibration) or validation[:cut], validation[cut:]
    check_calibration(calibrating, test, "test")
    check_calibration(calibrating, selection, "selection")
    judged = labelled and bool(selection) and all(row.label is not None for row in selection)
    rows = _with_labels(rows, labels, notes)
    _enough(rows, selection, test)
    notes += _said_in_both(rows, test)
    return Splits(
        train=tuple(row for row in rows if row.label is not None),
        unlabelled=tuple(row for row in rows if row.label is None),
        selection=tuple(selection) if judged else tuple(replace(row, label=None) for row in selection),
        calibration=tuple(calibrating),
        test=tuple(test),
        classes=(),
        selection_labelled=judged,
        test_labelled=labelled,
        notes=tuple(notes),
    )


def _with_labels(rows: Sequence[Example], labels: int | None, notes: list[str]) -> list[Example]:
    """The rows, no more than so many of them with their labels: the first by content hash."""
    labelled = sorted((row for row in rows if row.label is not None), key=place_of)
    if labels is None or labels >= len(labelled):
        return list(rows)
    kept = {row.content for row in labelled[:labels]}
    notes.append(
        f"{counted(labels, 'label')} kept; {counted(len(labelled) - labels, 'training row')} became unlabelled"
    )
    return [row if row.content in kept else replace(row, label=None) for row in rows]


def _said_in_both(rows: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """A note where test rows have labels that training rows have, too: what was said, again."""
    known = {row.label for row in rows if row.label is not None}
    shared = sum(row.label in known for row in test if row.label is not None)
    return [f"{shared} of {len(test)} test rows say what a training row says, too"] if shared else []


def _enough(rows: Sequence[Example], selection: Sequence[Example], test: Sequence[Example]) -> None:
    if len(rows) < LEAST["training"]:
        raise DataError(
            f"too few rows are left after splitting: {counted(len(rows), 'training row')}; at least "
            f"{LEAST['training']} are needed",
            fix="give more rows; they need no labels",
        )
    enough(selection=selection, test=test)
