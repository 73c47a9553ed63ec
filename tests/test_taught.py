"""Rows of a student that learns from its teacher's words: labels are for judging, and no row needs one."""

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.splits import Example
from edgekd.data.taught import split_taught


def clip(number):
    return np.random.default_rng(number).standard_normal(20).astype(np.float32)


def rows(count, *, first=0, labelled=True):
    return [Example(clip(first + number), f"line {first + number}" if labelled else None) for number in range(count)]


def of(splits):
    roles = ("train", "unlabelled", "selection", "calibration", "test")
    return {role: [row.content for row in getattr(splits, role)] for role in roles}


@pytest.mark.parametrize("labelled", [True, False])
def test_every_row_has_one_role_with_and_without_labels(labelled):
    given = rows(400, labelled=labelled)
    found = split_taught({"all": given}, labels=None, seed=0)
    contents = [content for role in of(found).values() for content in role]
    assert sorted(contents) == sorted(row.content for row in given)
    assert found.classes == ()
    assert found.test_labelled == found.selection_labelled == labelled
    assert len(found.train if labelled else found.unlabelled) > 200
    assert not (found.unlabelled if labelled else found.train)
    assert 50 < len(found.test) < 110


def test_given_splits_stay_what_they_are():
    given = {
        "train": rows(40),
        "validation": rows(12, first=100),
        "test": rows(10, first=200),
        "unlabelled": rows(30, first=300, labelled=False),
    }
    found = split_taught(given, labels=None, seed=0)
    counts = {role: len(contents) for role, contents in of(found).items()}
    assert counts == {"train": 40, "unlabelled": 30, "selection": 9, "calibration": 3, "test": 10}


def test_a_test_split_whose_rows_have_no_labels_is_judged_by_the_teacher():
    found = split_taught({"train": rows(40), "test": rows(10, first=200, labelled=False)}, labels=None, seed=0)
    assert not found.test_labelled
    assert len(found.test) == 10


def test_few_labels_are_kept_and_the_others_forgotten():
    found = split_taught({"train": rows(60), "test": rows(10, first=200)}, labels=5, seed=0)
    assert len(found.train) == 5
    assert len(found.unlabelled) > 20


def test_a_leak_is_refused_and_what_is_said_twice_is_told():
    given = {"train": rows(60), "test": rows(10)}
    with pytest.raises(DataError, match="also stand in training"):
        split_taught(given, labels=None, seed=0)
    again = [Example(clip(900 + number), f"line {number}") for number in range(10)]
    found = split_taught({"train": rows(60), "test": again}, labels=None, seed=0)
    assert any(note.endswith("test rows say what a training row says, too") for note in found.notes)


def test_rows_to_calibrate_on_are_in_no_other_role():
    given = rows(300)
    found = split_taught({"all": given}, labels=None, seed=0, calibration=rows(20, first=5000))
    assert len(found.calibration) == 20
    assert not {row.content for row in found.calibration} & {row.content for row in found.known}
    taken = split_taught({"all": given}, labels=None, seed=0)
    with pytest.raises(DataError, match="also stand in test"):
        split_taught({"all": given}, labels=None, seed=0, calibration=taken.test[:5])


def test_rows_with_labels_judge_where_few_have_them():
    found = split_taught({"all": rows(60) + rows(900, first=1000, labelled=False)}, labels=None, seed=0)
    assert found.selection_labelled
    assert found.test_labelled
    assert len(found.unlabelled) == 900


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="are needed"):
        split_taught({"all": rows(9)}, labels=None, seed=0)
