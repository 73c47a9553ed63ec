"""Class orders that differ are found by what a teacher says; bad teachers, few rows and one-sided data are no proof."""

import numpy as np
import pytest
from helpers import fast
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekd.core.errors import TeacherError
from edgekd.data.orders import class_order_doubt, class_order_error

NAMES = [f"class {number}" for number in range(50)]


def rows(count, classes, *, right=0.9, order=None, seed=0):
    """What a teacher says that is right that often, its classes in this order; and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    said = np.where(random.random(count) < right, labels, random.integers(0, classes, count))
    return (np.argsort(order)[said] if order is not None else said), labels


@fast
@given(classes=st.integers(2, 12), seed=st.integers(0, 999), right=st.floats(0.75, 1))
def test_another_order_is_found_and_a_right_one_never_doubted(classes, seed, right):
    order = np.random.default_rng(seed).permutation(classes)
    said, labels = rows(60 * classes, classes, right=right, seed=seed)
    assert class_order_doubt(said, labels, NAMES[:classes]) is None
    assume((order == np.arange(classes)).mean() < 0.3)  # else enough stays right to be no doubt
    said, labels = rows(60 * classes, classes, right=right, order=order, seed=seed)
    doubt = class_order_doubt(said, labels, NAMES[:classes])
    assert doubt["order"] == [NAMES[number] for number in order]
    assert doubt["accuracy"] == pytest.approx((said == labels).mean())
    assert doubt["reordered"] == pytest.approx((order[said] == labels).mean(), abs=0.02)
    assert all(
        NAMES[number] == given and order[number] == NAMES.index(meant) for number, given, meant in doubt["swapped"]
    )


def test_many_classes():
    order = np.roll(np.arange(50), 1)
    doubt = class_order_doubt(*rows(1000, 50, order=order), NAMES)
    assert doubt["order"] == [NAMES[number] for number in order]


@pytest.mark.parametrize(("count", "classes"), [(30, 50), (40, 20), (100, 50), (30, 2), (1000, 50)])
def test_a_teacher_that_knows_nothing_is_no_proof(count, classes):
    for seed in range(20):
        assert class_order_doubt(*rows(count, classes, right=0.0, seed=seed), NAMES[:classes]) is None


def test_a_teacher_that_always_says_one_class_is_no_proof():
    labels = np.array([0] * 8 + [1] * 92)
    assert class_order_doubt(np.zeros(100, dtype=int), labels, NAMES[:2]) is None


def test_fewer_than_thirty_labelled_rows_say_nothing():
    said, labels = rows(30, 2, right=1.0, order=[1, 0])
    assert class_order_doubt(said, labels, NAMES[:2])["rows"] == 30
    assert class_order_doubt(said[1:], labels[1:], NAMES[:2]) is None
    labels[0] = -100  # a row without a label
    assert class_order_doubt(said, labels, NAMES[:2]) is None
    assert class_order_doubt([], [], NAMES[:2]) is None


def test_classes_that_nobody_says_stay_in_their_place():
    said, labels = rows(60, 2, right=1.0, order=[1, 0])
    doubt = class_order_doubt(said, labels, NAMES[:5])
    assert doubt["order"] == ["class 1", "class 0", "class 2", "class 3", "class 4"]
    assert len(doubt["swapped"]) == 2


def test_the_error_names_the_figures_and_the_order():
    labels = np.arange(40) % 2
    doubt = class_order_doubt(np.where(np.arange(40) < 38, 1 - labels, labels), labels, ["no", "yes"])
    error = class_order_error("sentiment", doubt)
    assert isinstance(error, TeacherError)
    assert error.message == (
        "the classes of the teacher sentiment stand in another order than the labels': on 40 labelled rows it "
        "is right 5.0% of the time, re-ordered 95.0% (output 0 is named 'no' and means 'yes'; output 1 is named 'yes' "
        "and means 'no')"
    )
    assert error.fix == (
        "if the labels are class numbers, give names instead; else set id2label and label2id in the teacher's "
        "config.json to this order: 'yes', 'no'"
    )
