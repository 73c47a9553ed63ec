"""Metrics: one value knows the direction, the unit, and how rows become a figure with an interval."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core import statistics
from edgekd.core.metrics import ACCURACY, AGREEMENT, COSINE, Metric, micro_f1, of_report, ratio_of_sums, spell, unit_of
from edgekd.core.statistics import Retained

WER = Metric("wer", higher_is_better=False, reduce=ratio_of_sums)
PERPLEXITY = Metric(
    "perplexity",
    unit="perplexity",
    higher_is_better=False,
    reduce=lambda rows: np.exp(rows.sum(axis=-2)[..., 0] / rows.sum(axis=-2)[..., 1]),
)
F1 = Metric("f1", reduce=micro_f1)


def words(errors: list[float], count: int = 4) -> np.ndarray:
    return np.array([[one, count] for one in errors], dtype=float)


def test_a_mean_of_scores_gives_what_the_statistics_give() -> None:
    """No figure of a classifier changed when metrics became values."""
    draw = np.random.default_rng(0)
    own, teacher = (draw.random((2, 400)) < [[0.8], [0.9]]).astype(float)
    lost = ACCURACY.lost(own, teacher)
    assert tuple(lost) == tuple(100 * one for one in statistics.paired_difference(own, teacher))
    assert ACCURACY.interval(own) == statistics.share_interval(own)
    assert ACCURACY.retained(own, teacher) == statistics.retained(own, teacher)
    low, high = statistics.change_interval(own - teacher)
    assert ACCURACY.moved(own, teacher) == (float((own - teacher).mean()), low, high)
    seeds = np.stack([own, teacher])
    gain = statistics.seeded_difference(seeds[::-1], seeds)
    assert ACCURACY.gained_over_seeds(seeds[::-1], seeds) == pytest.approx(tuple(100 * one for one in gain))


def test_a_word_error_rate_by_hand() -> None:
    rows = words([0, 1, 2, 1])
    assert WER.value(rows) == pytest.approx(4 / 16)
    assert WER.value(words([8, 8])) == 2.0, "above 1"
    low, high = WER.interval(rows)
    assert low < 0.25 < high


def test_words_count_and_not_rows() -> None:
    rows = np.array([[0.0, 90.0], [10.0, 10.0]])
    assert WER.value(rows) == pytest.approx(0.1), "a mean over rows would say 0.5"


def test_less_is_better_turns_losses_and_what_is_retained_round() -> None:
    teacher, student = words([1, 0, 1, 0] * 20), words([1, 1, 1, 1] * 20)
    lost = WER.lost(student, teacher)
    assert lost.points == pytest.approx(12.5), "25% against 12.5%: worse, so points are lost"
    assert 0 < lost.low < lost.points < lost.high
    assert WER.lost(teacher, student).points == pytest.approx(-12.5)
    kept = WER.retained(student, teacher)
    assert kept.value == pytest.approx(0.5), "teacher over student"
    assert kept.low < 0.5 < kept.high < 1
    assert WER.retained(teacher, student).value == pytest.approx(2.0)
    assert WER.better(0.1, 0.2)
    assert ACCURACY.better(0.2, 0.1)
    assert (WER.sign, ACCURACY.sign) == (-1, 1)


def test_a_ratio_to_no_error_is_held_to_half_an_event() -> None:
    none, one = words([0] * 100, 10), words([1, *[0] * 99], 10)
    assert WER.retained(none, none).value == 1.0
    assert WER.retained(one, none).value == 1.0, "1 in 1,000 words is below half an event in 100 rows"
    many = words([4] * 100, 10)
    assert WER.retained(none, many).value == pytest.approx(0.4 / 0.005)
    assert WER.retained(many, none).value == pytest.approx(0.005 / 0.4)


def test_rows_that_all_agree_leave_open_what_was_not_seen() -> None:
    none = words([0] * 100)
    assert WER.interval(none) == (0.0, pytest.approx(0.03))
    assert WER.lost(none, none) == (0.0, pytest.approx(-3), pytest.approx(3))
    assert WER.moved(none, none) == (0.0, pytest.approx(-0.03), pytest.approx(0.03))
    kept = WER.retained(none, none)
    assert (kept.low, kept.high) == (pytest.approx(0.97), pytest.approx(1.03))
    still = WER.lost_further((none, none), (none, none))
    assert still == (0.0, pytest.approx(-3), pytest.approx(3))


def test_a_perplexity_is_the_exponential_of_a_sum_over_a_sum() -> None:
    rows = np.array([[np.log(8), 1.0], [np.log(2) * 3, 3.0]])
    assert PERPLEXITY.value(rows) == pytest.approx(np.exp((np.log(8) + 3 * np.log(2)) / 4))
    assert PERPLEXITY.spell(PERPLEXITY.value(rows)) == "2.83"
    assert PERPLEXITY.lost(rows * [[2.0, 1.0]], rows).points == pytest.approx(8 - 2 * 2**0.5), "a point is a unit"


def test_f1_is_micro_averaged_from_counts() -> None:
    rows = np.array([[2.0, 1.0, 0.0], [1.0, 0.0, 2.0]])  # right, extra, missed
    assert F1.value(rows) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert F1.value(np.zeros((3, 3))) == 1.0, "nothing to find, nothing found"
    assert F1.retained(rows, rows).value == 1.0


def test_models_are_paired_in_every_resample() -> None:
    """Rows differ widely, models by a constant: the interval of their difference has no width."""
    teacher = words(list(np.random.default_rng(0).integers(0, 40, 200)), count=40)
    student = teacher + np.array([1.0, 0.0])
    lost = WER.lost(student, teacher)
    assert (lost.low, lost.high) == pytest.approx((2.5, 2.5))


def test_a_share_of_rows_that_all_say_the_same_ends_at_one() -> None:
    right = np.tile([3.0, 0.0, 0.0], (100, 1))
    assert F1.interval(right) == (pytest.approx(0.97), 1.0)
    wrong = np.tile([0.0, 3.0, 3.0], (100, 1))
    assert F1.interval(wrong) == (0.0, pytest.approx(0.03))
    assert WER.interval(np.tile([2.0, 1.0], (100, 1)))[1] > 2.0, "errors have no such end"


def test_intervals_hold_what_they_promise() -> None:
    """95% intervals of a ratio of sums cover the truth in about 95 of 100 samples."""
    draw, covered = np.random.default_rng(1), 0
    for _ in range(100):
        count = draw.integers(1, 20, 150).astype(float)
        rows = np.stack([draw.binomial(count.astype(int), 0.2), count], axis=1)
        low, high = WER.interval(rows)
        covered += low <= 0.2 <= high
    assert covered >= 88


def test_points_lost_further_elsewhere() -> None:
    here, there = words([1, 1, 1, 1] * 10), words([2, 2, 2, 2] * 10)
    figure, low, high = WER.lost_further((there, here), (here, here))
    assert figure == pytest.approx(25.0), "from 25% to 50% there, while fp32 stayed"
    assert low <= figure <= high
    assert WER.moved(there, here)[0] == pytest.approx(0.25)


def test_what_is_retained_elsewhere_follows_the_direction() -> None:
    kept = Retained(0.8, 0.75, 0.85)
    assert ACCURACY.retained_elsewhere(kept, 0.9, -0.09, (-0.1, -0.08)).value == pytest.approx(0.7)
    assert WER.retained_elsewhere(kept, 0.1, 0.025, (0.02, 0.03)).value == pytest.approx(0.1 / (0.125 + 0.025))
    assert WER.retained_elsewhere(kept, 0.0, 0.1, (0.0, 0.2)) == kept
    better = WER.retained_elsewhere(Retained(1.0, 0.9, 1.1), 0.02, 0.0, (-0.03, 0.03))
    assert better.low == pytest.approx(1 - np.hypot(0.1, 0.6)), "to an error of .05; the other end is none at all"
    assert better.high > 1.1
    nothing = ACCURACY.retained_elsewhere(Retained(0.0, 0.0, 0.0), 0.5, 0.1, (0.05, 0.15))
    assert nothing.value == pytest.approx(0.2), "right on some rows there"


def test_seeds_and_rows_are_both_resampled() -> None:
    base, own = np.stack([words([2, 1] * 30)] * 3), np.stack([words([1, 1] * 30)] * 3)
    figure, low, high = WER.gained_over_seeds(base, own)
    assert figure == pytest.approx(12.5)
    assert 0 < low < figure < high
    rms = Metric("rms", unit="K", higher_is_better=False, reduce=lambda rows: (rows[..., 0] ** 2).mean(axis=-1) ** 0.5)
    flat = rms.gained_over_seeds(np.full((3, 60), 2.0), np.full((3, 60), 1.5))
    assert flat == pytest.approx((0.5, 0.5, 0.5)), "(seeds, rows) without a third axis"


def test_a_large_sample_is_resampled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = words([0, 1, 2, 1] * 50)
    whole = WER.interval(rows)
    monkeypatch.setattr("edgekd.core.metrics._CHUNK", 1000)
    assert WER.interval(rows) == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [(0.9, "fraction", "90.0%"), (0.9, "cosine", "0.9000"), (123.4, "perplexity", "123"), (None, "fraction", "–")],
)
def test_spelling(value: float | None, unit: str, words: str) -> None:
    assert spell(value, unit) == words


def test_a_report_from_before_is_read_by_what_its_name_stood_for() -> None:
    for metric in (ACCURACY, AGREEMENT, COSINE):
        old = {"summary": {"metric": metric.name}}
        assert of_report(old)["metric"] == metric.as_dict()
        assert unit_of(old["summary"]) == metric.unit
    assert of_report({"summary": {"metric": "accuracy"}})["fidelity"] == AGREEMENT.as_dict()
    told = {"metric": WER.as_dict(), "fidelity": AGREEMENT.as_dict()}
    assert of_report({"summary": {"metric": "wer"}, "quality": told}) == told
    assert unit_of({"metric": "perplexity", "metric_unit": "perplexity"}) == "perplexity"
