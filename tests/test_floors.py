"""Floors: held by the figure itself, by one rule, here and where the target's kernels moved it."""

from types import SimpleNamespace

import pytest
from helpers import profile

from edgekd.compression.choose import FEWEST, OnTarget, Trial, floors, violations
from edgekd.core.floors import Floor
from edgekd.core.metrics import ACCURACY
from edgekd.core.statistics import Retained
from edgekd.report import compose

KEPT = Retained(0.95, 0.92, 0.98)


@pytest.mark.parametrize(
    ("value", "interval", "held", "clear"),
    [
        (0.91, (0.85, 0.95), True, False),
        (0.89, (0.85, 0.95), False, False),
        (0.90, (0.88, 0.92), True, False),
        (0.95, (0.92, 0.98), True, True),
        (0.80, (0.75, 0.85), False, True),
        (0.95, None, True, True),
    ],
)
def test_a_floor_is_held_by_the_figure_not_by_an_end(value, interval, held, clear):
    floor = Floor("min_retained", 0.9, value, interval)
    assert (floor.held, floor.clear) == (held, clear)
    assert floor.as_dict() == {
        "name": "min_retained",
        "asked": 0.9,
        "value": value,
        "interval": list(interval) if interval else None,
        "held": held,
        "clear": clear,
    }


@pytest.mark.parametrize(
    ("value", "interval", "held", "clear"),
    [
        (1.0, (0.0, 2.0), True, False),
        (1.1, (0.0, 2.2), False, False),
        (0.5, (0.1, 0.9), True, True),
        (3.0, (2.0, 4.0), False, True),
        (-2.0, (-3.0, -1.0), True, True),
    ],
)
def test_a_limit_is_a_floor_from_above(value, interval, held, clear):
    floor = Floor("max_drop_points", 1.0, value, interval, at_most=True)
    assert (floor.held, floor.clear) == (held, clear)


@pytest.mark.parametrize(
    ("change", "span", "value"), [(0.0, (0.0, 0.0), 0.95), (-0.08, (-0.12, -0.04), 0.85), (0.04, (0.0, 0.08), 1.0)]
)
def test_other_kernels_move_what_is_kept_with_both_spreads(change, span, value):
    there = ACCURACY.retained_elsewhere(KEPT, 0.8, change, span)
    assert there.value == pytest.approx(value)
    assert there.low <= value <= there.high
    assert there.high - there.low >= KEPT.high - KEPT.low - 1e-9
    half = (span[1] - span[0]) / 2 / 0.8
    assert there.value - there.low == pytest.approx((0.03**2 + half**2) ** 0.5)


def test_what_moves_it_never_goes_below_nothing_nor_divides_by_nothing():
    assert ACCURACY.retained_elsewhere(Retained(0.05, 0.0, 0.1), 0.5, -0.02, (-0.5, 0.4)).low == 0.0
    assert ACCURACY.retained_elsewhere(KEPT, 0.0, -0.1, (-0.2, 0.0)) == KEPT


def test_min_retained_is_held_in_both_places_by_the_same_rule():
    """On the target's kernels 6 points of 80 are gone: the upper end would still let it through."""
    plan = SimpleNamespace(min_retained=0.9, metric=ACCURACY)
    [here] = compose._held(plan, KEPT, 0.8, {"held_out": None})
    assert (here.name, here.held, here.interval) == ("min_retained", True, (0.92, 0.98))
    held_out = {"moved": -0.06, "moved_interval": [-0.15, 0.03]}
    here, there = compose._held(plan, KEPT, 0.8, {"held_out": held_out})
    assert here.held
    assert (there.name, there.held, there.clear) == ("min_retained_on_target", False, False)
    assert there.value == pytest.approx(0.875)
    assert there.interval[1] > 0.9


def trial(drop, agreement):
    return Trial(
        "dynamic_int8",
        agreement,
        drop,
        2.0,
        1.0,
        1.0,
        1.0,
        drop_interval=(drop - 1, drop + 1),
        agreement_interval=(agreement - 0.05, agreement + 0.05),
    )


@pytest.mark.parametrize(
    ("drop", "agreement", "broken"),
    [
        (1.0, 0.90, []),
        (1.01, 0.90, ["max_drop_points"]),
        (1.0, 0.899, ["min_teacher_agreement"]),
        (2.0, 0.5, ["max_drop_points", "min_teacher_agreement"]),
    ],
)
@pytest.mark.parametrize("there", [False, True], ids=["here", "on the target"])
def test_the_selection_rows_floors_are_held_where_the_kernels_are_the_targets(drop, agreement, broken, there):
    target = profile(max_drop_points=1.0, min_teacher_agreement=0.9, memory_mib=100, artifact_mib=100, latency_ms=100)
    one = trial(drop, agreement)
    if there:
        found = OnTarget(
            n=FEWEST,
            agreement=agreement,
            agreement_interval=(0.0, 1.0),
            drop_points=drop,
            drop_interval=(-9.0, 9.0),
            flips=0,
            largest_difference=0.0,
            cost=None,
        )
        one = Trial("dynamic_int8", 1.0, 0.0, 2.0, 1.0, 1.0, 1.0, on_target=found)
    assert [floor.name for floor in floors(one, target) if not floor.held] == broken
    assert [violation.budget for violation in violations(one, target)] == broken
