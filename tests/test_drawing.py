"""Figures' arithmetic: axes, their ticks, labels that lie on nothing."""

import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report.drawing import Axis, Mark, placed, round_step

values = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=6)
BOUNDS = (0.0, 0.0, 800.0, 400.0)


@fast
@given(values, st.booleans(), st.integers(3, 9))
def test_an_axis_holds_its_values_in_their_order(found, zero, most):
    axis = Axis.of(found, 50, 250, zero=zero)
    places = [axis.at(value) for value in sorted(found)]
    assert places == sorted(places)
    assert all(50 <= place <= 250 for place in places)
    ticks = axis.ticks(most)
    assert all(axis.low <= tick <= axis.high * (1 + 1e-9) for tick in ticks)
    assert ticks == sorted(set(ticks))
    if not axis.log:
        assert len(ticks) <= most


def test_widely_differing_values_are_drawn_logarithmically():
    axis = Axis.of([1.0, 100.0], 0, 100)
    assert axis.log
    assert axis.at(10.0) - axis.at(1.0) == pytest.approx(axis.at(100.0) - axis.at(10.0), abs=0.02)
    assert not Axis.of([1.0, 7.9]).log
    assert not Axis.of([0.0, 100.0]).log, "a logarithm has no zero"
    assert axis.at(1e-9) == 0.0, "what lies outside is cut at the edge"


def test_one_value_alone_has_an_axis():
    assert Axis.of([0.0]).at(0.0) == 50.0
    assert Axis.of([3.0]).ticks(5)


@fast
@given(st.floats(1e-6, 1e6), st.integers(1, 12))
def test_a_step_is_round_and_cuts_into_few_pieces(width, most):
    step = round_step(width, most)
    assert width / step <= most * (1 + 1e-6)
    digits = f"{step:.6e}"
    assert digits[0] in "125"
    assert set(digits[2:8]) == {"0"}


def test_labels_keep_clear_of_circles_and_of_each_other():
    marks = [Mark(f"variant {at}", x, 200, 20, (x - 20, 180, x + 20, 220)) for at, x in enumerate((300, 330, 360, 390))]
    line = Mark("floor 90%", 0, 300, 0, (0, 300, 800, 300), "floor")
    labels = placed([line, *marks], BOUNDS)
    assert [label.mark for label in labels] == [line, *marks]
    boxes = [label.box for label in labels] + [mark.reach for mark in marks]
    for at, one in enumerate(boxes[:5]):
        for other in boxes[at + 1 :]:
            across, down = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
            assert across <= 0 or down <= 0, (one, other)
    assert all(min(box[:2]) >= 0 and box[2] <= 800 and box[3] <= 400 for box in boxes)


def test_a_label_stands_beside_its_circle_where_it_can():
    label = placed([Mark("alone", 100, 100, 10, (90, 90, 110, 110))], BOUNDS)[0]
    assert (label.anchor, label.leader) == ("start", None)
    assert label.at[0] == pytest.approx(117)
    edge = placed([Mark("at the edge", 790, 100, 10, (780, 90, 800, 110))], BOUNDS)[0]
    assert edge.anchor == "end"
