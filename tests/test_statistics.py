"""Intervals: they repeat, they cover, and pairing pays."""

import numpy as np
import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.statistics import interval, paired_difference, paired_ratio

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
    assert paired_difference(np.array(said), np.array(said)) == (0.0, 0.0, 0.0)


def test_a_difference_is_the_second_less_the_first_and_pairing_narrows_it():
    first = np.array([1, 0] * 50)
    second = first.copy()
    second[:10:2] = 0  # five of the hundred got worse
    value, low, high = paired_difference(first, second)
    assert value == pytest.approx(-0.05)
    assert low < value < high < 0
    assert high - low < (interval(first)[1] - interval(first)[0]) / 2
