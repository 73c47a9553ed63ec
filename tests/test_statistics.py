"""Intervals: they repeat, they cover, and pairing pays."""

import numpy as np
import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.statistics import (
    change_interval,
    interval,
    paired_difference,
    paired_ratio,
    process_ratio,
    retained,
    share_interval,
)

numbers = st.lists(st.floats(0.1, 100), min_size=2, max_size=30).map(np.array)


@fast
@given(values=numbers, seed=st.integers(0, 5))
def test_an_interval_lies_within_the_samples_and_repeats(values, seed):
    low, high = interval(values, seed=seed)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    assert interval(list(values), seed=seed) == (low, high)


def test_the_interval_covers_the_mean_about_as_often_as_it_claims():
    random = np.random.default_rng(0)
    runs = [interval(random.normal(3, 1, 40), seed=number) for number in range(100)]
    assert 88 <= sum(low <= 3 <= high for low, high in runs) <= 99


def test_the_interval_is_of_the_statistic_asked_for():
    values = np.array([1.0] * 30 + [1000.0])
    assert interval(values, np.median) == (1.0, 1.0)
    assert interval(values)[1] > 30


@fast
@given(values=numbers, factor=st.floats(0.1, 10))
def test_a_constant_ratio_has_no_spread(values, factor):
    assert paired_ratio(values * factor, values) == pytest.approx((factor, factor, factor))


@fast
@given(said=st.lists(st.booleans(), min_size=2, max_size=30))
def test_equal_models_do_not_differ(said):
    value, low, high = paired_difference(np.array(said), np.array(said))
    assert value == 0
    assert low < 0 < high, "rows that agree show that others are rare, not that there are none"


def test_a_difference_is_the_second_less_the_first_and_pairing_narrows_it():
    first = np.array([1, 0] * 50)
    second = first.copy()
    second[:20:2] = 0  # ten of the hundred got worse
    value, low, high = paired_difference(first, second)
    assert value == pytest.approx(-0.1)
    assert low < value < high < 0
    assert high - low < interval(first)[1] - interval(first)[0]


def test_twenty_of_twenty_is_not_certain():
    low, high = share_interval(np.ones(20))
    assert (round(low, 3), high) == (0.839, 1.0)
    assert share_interval(np.zeros(20)) == pytest.approx((0.0, 1 - low))
    assert share_interval(np.full(30, 0.9))[0] == pytest.approx(0.8), "scores that are all the same: rule of three"


def test_a_share_near_one_covers_the_truth_where_the_bootstrap_does_not():
    draw = np.random.default_rng(0)
    samples = [(draw.random(60) < 0.98).astype(float) for _ in range(400)]
    covered = [low <= 0.98 <= high for low, high in map(share_interval, samples)]
    of_bootstrap = [low <= 0.98 <= high for low, high in map(interval, samples)]
    assert np.mean(covered) > 0.9 > np.mean(of_bootstrap)


def test_a_few_rows_that_differ_cover_the_true_difference():
    draw = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        kinds = draw.choice([-1.0, 0.0, 1.0], size=80, p=[0.02, 0.97, 0.01])
        low, high = change_interval(kinds)
        covered.append(low <= -0.01 <= high)
    assert np.mean(covered) > 0.93


def test_what_is_retained_has_a_paired_interval_that_does_not_collapse():
    draw = np.random.default_rng(2)
    teacher = (draw.random(300) < 0.9).astype(float)
    same = retained(teacher, teacher)
    assert same.low < same.value == 1.0 < same.high
    student = np.where(draw.random(300) < 0.05, 0.0, teacher)
    kept = retained(student, teacher)
    assert kept.value == pytest.approx(student.mean() / teacher.mean())
    assert kept.low < kept.value < kept.high
    apart = share_interval(student)
    assert kept.high - kept.low < apart[1] - apart[0], "rows that both get right or wrong say nothing: pairing narrows"
    assert retained(student, np.zeros(300)) == (0.0, 0.0, 0.0)


def test_processes_count_and_not_their_rows():
    ratio, low, high = process_ratio([1.2, 0.9, 1.1, 0.95, 1.15])
    assert low < 1 < ratio < high
    assert process_ratio([2.0, 2.1, 1.9, 2.05, 1.95])[1] > 1.8
