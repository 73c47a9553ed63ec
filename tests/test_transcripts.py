"""Word and character errors: normalized as Whisper's are, sums over sums, and texts that go round in circles."""

import numpy as np
import pytest

from edgekd.core.metrics import CER, WER
from edgekd.data.transcripts import agreement, compression_ratio, errors, has_loop, normalizer


def test_errors_are_sums_over_sums_and_not_a_mean_of_rates():
    rows = errors(["a b c d", "x"], ["a b c d", "y"])
    assert rows[:, :2].tolist() == [[0, 4], [1, 1]]
    assert WER.value(rows) == pytest.approx(1 / 5)  # the mean of both rates would be one half


def test_case_punctuation_spelling_and_numbers_are_no_errors():
    rows = errors(["Mr. Smith's colour: twenty-five dollars, [laughs] uh, OK!"], ["mister Smith's color $25 ok"])
    assert rows[0, 0] == 0


@pytest.mark.parametrize(
    ("heard", "said", "wrong", "words"),
    [
        ("the cat", "the cat sat", 1, 3),  # left out
        ("the cat sat down", "the cat sat", 1, 3),  # put in
        ("the hat sat", "the cat sat", 1, 3),  # changed
        ("", "the cat sat", 3, 3),
        ("you", "", 1, 0),
        ("", "", 0, 0),
        ("you", "(laughs)", 1, 0),  # nothing is left of it
    ],
)
def test_each_kind_of_error_counts_once(heard, said, wrong, words):
    assert errors([heard], [said])[0, :2].tolist() == [wrong, words]


def test_a_rate_may_be_above_one_and_less_is_better():
    rows = errors(["a b c d e f"], ["a"])
    assert WER.value(rows) == 5.0
    assert not WER.higher_is_better
    assert WER.better(0.1, 0.2)
    assert WER.spell(5.0) == "500.0%"


def test_character_errors_stand_beside_word_errors():
    rows = errors(["the hat sat"], ["the cat sat"])
    assert rows[0].tolist() == [1, 3, 1, 11]
    assert CER.value(rows) == pytest.approx(1 / 11)


def test_the_interval_is_by_clip_and_holds_the_figure():
    draw = np.random.default_rng(0)
    said = [" ".join(f"word{draw.integers(99)}" for _ in range(8)) for _ in range(60)]
    heard = [" ".join("wrong" if draw.random() < 0.2 else word for word in text.split()) for text in said]
    rows = errors(heard, said)
    low, high = WER.interval(rows)
    assert 0.1 < low < WER.value(rows) < high < 0.3
    change = WER.lost(rows, errors(said, said))
    assert change.points == pytest.approx(100 * WER.value(rows))
    assert 0 < change.low < change.high


def test_other_languages_keep_their_words():
    assert normalizer("de")("Größe, Straße: 5") == "größe straße 5"
    assert errors(["größe"], ["Größe!"], "de")[0, 0] == 0


def test_agreement_is_the_same_both_ways_and_of_two_empty_texts_whole():
    one, other = ["a b c d", "", "a", ""], ["a b", "", "", "a"]
    assert agreement(one, other).tolist() == [0.5, 1.0, 0.0, 0.0]
    assert agreement(other, one).tolist() == [0.5, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "text", ["you you you you", "I am here. " * 4, "so " + "he said that she " * 4, "aaaaaaaa" * 30]
)
def test_a_loop_is_told(text):
    assert has_loop(text)


@pytest.mark.parametrize("text", ["", "no, no, no!", "he said that he said that she said", "row row row your boat"])
def test_what_people_say_is_no_loop(text):
    assert not has_loop(text)


def test_compression_tells_repetition_that_words_do_not():
    assert compression_ratio("ab" * 400) > 10
    assert compression_ratio("") == 1.0
