"""What may be claimed of a model's certainty, of its classes, of an effect; a temperature that an export carries."""

import numpy as np
import pytest
import torch
import transformers
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core import confidence
from edgekd.core.errors import EdgeKDError
from edgekd.core.registry import make
from edgekd.training import models


def drawn(rows, temperature, classes=4, seed=0):
    """Labels drawn from logits, and the logits as a model says them that is `temperature` times too sure."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(rows, classes))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random((rows, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return logits * temperature, labels, chances


# calibration


def test_the_error_by_hand():
    certain = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([1.0, 0.0, 1.0, 1.0])
    # the bin of .95: |.5 - .95| of half the rows; the bin of .55: |1 - .55| of the other half
    assert confidence.expected_calibration_error(certain, correct) == pytest.approx(0.45)
    assert confidence.expected_calibration_error(np.ones(3), np.ones(3)) == 0


def test_an_edge_belongs_to_the_bin_below():
    assert confidence._bin(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 14 / 15, 1.0])).tolist() == [0, 0, 1, 13, 14]


@fast
@given(certain=st.lists(st.floats(0, 1), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_the_error_lies_between_the_mean_gap_and_one(certain, seed):
    certain = np.array(certain)
    correct = np.random.default_rng(seed).integers(0, 2, len(certain)).astype(float)
    error = confidence.expected_calibration_error(certain, correct)
    assert abs(correct.mean() - certain.mean()) - 1e-9 <= error <= 1


@pytest.mark.parametrize("too_sure", [0.0, 0.05, 0.15])
def test_the_interval_holds_the_true_error_nearly_always(too_sure):
    random = np.random.default_rng(1)
    held = 0
    for seed in range(20):
        certain = random.uniform(0.4, 1.0, 300)
        correct = (random.random(300) < certain - too_sure).astype(float)
        low, high = confidence.calibration_interval(certain, correct, seed=seed)
        assert low <= confidence.expected_calibration_error(certain, correct) <= high
        held += low <= too_sure <= high
    assert held >= 16


# temperature


@fast
@given(temperature=st.floats(0.3, 4), seed=st.integers(0, 99), soft=st.booleans())
def test_the_fitted_temperature_is_the_one_that_was_put_in(temperature, seed, soft):
    logits, labels, chances = drawn(1500, temperature, seed=seed)
    found = confidence.fit_temperature(logits, chances if soft else labels)
    assert found == pytest.approx(temperature, rel=1e-3 if soft else 0.25)


def test_a_temperature_helps_a_model_that_is_too_sure():
    logits, labels, _ = drawn(600, 3.0)
    said = confidence.temperature_that_helps(logits, labels)
    assert said.temperature == pytest.approx(3.0, rel=0.2)
    assert said.n == 600
    assert said.ece_after < said.ece_before / 3
    before = confidence.expected_calibration_error(confidence.certainty(logits), logits.argmax(1) == labels)
    assert said.ece_before == pytest.approx(before)


def test_against_the_teachers_probabilities_it_learns_their_softness():
    logits, _, chances = drawn(400, 0.5)
    said = confidence.temperature_that_helps(logits, chances)
    assert said.temperature == pytest.approx(0.5, rel=1e-3)
    assert said.ece_after < 1e-3 < said.ece_before


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((*drawn(39, 3.0)[:2],), id="too few rows"),
        pytest.param((np.eye(4)[np.arange(200) % 4], np.arange(200) % 4), id="every row right: no end"),
        pytest.param((np.random.default_rng(0).normal(size=(200, 4)) * 9, np.arange(200) % 4), id="no skill: no end"),
    ],
)
def test_where_rows_do_not_say_the_logits_stay(rows):
    said = confidence.temperature_that_helps(*rows)
    assert said.temperature == 1.0
    assert said.ece_before == said.ece_after


def test_a_calibrated_model_is_left_nearly_as_it_is():
    for seed in range(10):
        assert confidence.temperature_that_helps(*drawn(500, 1.0, seed=seed)[:2]).temperature == pytest.approx(
            1, rel=0.2
        )


def text_model(kind, **sizes):
    config = transformers.AutoConfig.for_model(kind, vocab_size=50, num_labels=3, pad_token_id=0, **sizes)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODELS = {
    "bert": lambda: text_model("bert", **BERT),
    "roberta": lambda: text_model("roberta", **BERT),
    # as wide as there are classes: the layer before the last fits as well
    "distilbert": lambda: text_model("distilbert", dim=3, n_layers=1, n_heads=1, hidden_dim=16),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **BERT)
    ).eval(),
    "conv1d": lambda: make(
        "students",
        "conv1d",
        width=8,
        depth=2,
        kernel=3,
        stride=2,
        separable=False,
        dilated=True,
        steps=32,
        channels=1,
        classes=3,
    ).random(),
}
INPUTS = {
    "vit": lambda: {"pixel_values": torch.randn(5, 3, 8, 8)},
    "conv1d": lambda: {"past_values": torch.randn(5, 32, 1)},
}


@pytest.mark.parametrize("name", MODELS)
def test_folding_divides_the_logits_exactly(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    inputs = INPUTS.get(name, lambda: {"input_ids": torch.randint(1, 50, (5, 7))})()
    with torch.no_grad():
        before = model(**inputs).logits
        models.fold_temperature(model, 2.0)  # halving loses no bit
        assert torch.equal(model(**inputs).logits, before / 2)
        models.fold_temperature(model, 0.65)
        torch.testing.assert_close(model(**inputs).logits, before / 1.3, rtol=1e-5, atol=1e-6)


def test_a_head_without_a_linear_layer_is_refused():
    model = torch.nn.Conv1d(2, 3, 1)
    model.config = transformers.PretrainedConfig(num_labels=3)
    with pytest.raises(EdgeKDError) as caught:
        models.fold_temperature(model, 2.0)
    assert caught.value.message == ("no linear layer of Conv1d gives 3 logits: a temperature cannot be folded into it")
    assert caught.value.fix == "give a student whose head ends in a linear layer"


# threshold


def test_the_threshold_by_hand():
    """Three levels of 40: all right, three of four, none. A level counts with a standard error to spare."""
    certain = np.repeat([0.9, 0.7, 0.5], 40)
    correct = np.concatenate([np.ones(40), np.tile([1.0, 1, 1, 0], 10), np.zeros(40)])
    assert confidence.lowest_threshold(certain, correct, 0.8) == 0.501
    assert confidence.lowest_threshold(certain, correct, 0.95) == 0.701
    assert confidence.lowest_threshold(certain, correct, 0.5) == 0.0
    assert confidence.lowest_threshold(certain, correct, 0.99) is None, "40 of 40 do not show 99%"


def test_a_handful_of_lucky_answers_is_no_threshold():
    certain = np.linspace(0.5, 1.0, 200)
    correct = np.concatenate([np.zeros(190), np.ones(10)])
    assert confidence.suggest_threshold(certain, correct) is None


def test_what_is_promised_is_held_out():
    """Certainty says nothing of being right: whatever half is looked at, no threshold comes through the other."""
    draw = np.random.default_rng(0)
    found = [
        confidence.suggest_threshold(draw.random(200), (draw.random(200) < 0.9).astype(float), seed=seed)
        for seed in range(50)
    ]
    assert sum(one is not None for one in found) <= 2
    certain = draw.random(4000)
    correct = (draw.random(4000) < certain).astype(float)  # calibrated: right as often as it says
    told = confidence.suggest_threshold(certain, correct)
    assert told is not None
    assert told.accuracy >= 0.95
    assert 0.88 < told.threshold < 0.99
    assert told.coverage == pytest.approx((certain >= told.threshold).mean(), abs=0.02)


@fast
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80),
    wanted=st.sampled_from([0.5, 0.95]),
)
def test_a_suggestion_keeps_its_promise_or_there_is_none(rows, wanted):
    certain, correct = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=float)
    found = confidence.suggest_threshold(certain, correct, wanted)
    if len(rows) < 40:
        assert found is None
    if found is not None:
        assert found.accuracy >= wanted
        assert (certain >= found.threshold).sum() >= 2 * confidence.FEWEST_ROWS


# classes


def test_classes_from_the_greatest_loss_to_the_greatest_gain_and_few_rows_last():
    counts = {"same": 10, "lost": 10, "rare": 4, "won": 8, "none": 0, "less": 5}
    said = confidence.class_gains(counts, [0.5, 0.9, 1.0, 0.5, None, 0.8], [0.5, 0.6, 0.0, 0.75, None, 0.6])
    assert [row["name"] for row in said["rows"]] == ["lost", "less", "same", "won", "rare", "none"]
    assert [row["name"] for row in said["worst"]] == ["lost", "less"], "a class that lost nothing is no worst one"
    assert [row["name"] for row in said["best"]] == ["won"]
    assert said["rows"][0]["difference"] == pytest.approx(-30)
    assert [row["few"] for row in said["rows"]] == [False] * 4 + [True] * 2
    assert said["rows"][-1]["difference"] is None


def test_three_of_many_are_named():
    names = [f"c{number}" for number in range(9)]
    said = confidence.class_gains(dict.fromkeys(names, 10), [0.5] * 9, [number / 8 for number in range(9)])
    assert [row["name"] for row in said["worst"]] == ["c0", "c1", "c2"]
    assert [row["name"] for row in said["best"]] == ["c8", "c7", "c6"]


def test_recall_of_a_class_without_rows_is_unknown():
    assert confidence.recalls([0, 0, 2], np.array([1.0, 0.0, 1.0]), 4) == [0.5, None, 1.0, None]


# words


@pytest.mark.parametrize(
    ("low", "high", "difference", "seeds", "says"),
    [
        (1.2, 5.0, 3.1, 5, "the teacher helped by +3.1 points [+1.2, +5.0], 5 seeds"),
        (-1.0, 2.0, 0.4, 5, "no effect shown (+0.4 points [-1.0, +2.0], 5 seeds)"),
        (0.0, 2.0, 1.0, 1, "no effect shown (+1.0 points [+0.0, +2.0], 1 seed)"),
        (-5.0, -1.2, -3.1, 3, "the teacher hurt by -3.1 points [-5.0, -1.2], 3 seeds"),
    ],
)
def test_what_evidence_allows_to_claim(low, high, difference, seeds, says):
    effect = {"difference": difference, "low": low, "high": high, "seeds": seeds}
    assert confidence.evidence_says(effect) == says


def test_without_evidence_it_says_how_to_get_some():
    assert confidence.evidence_says(None) == "not asked for: --evidence 5"


def test_a_suggestion_in_words():
    figure = {"value": 0.8, "interval": (0.75, 0.85)}
    said = {
        "suggestion": {"threshold": 0.61, "coverage": 0.82, "accuracy": 0.951},
        "judged_by": "labels",
        "wanted": 0.95,
        "coverage": figure,
        "accuracy": figure | {"value": 0.94},
    }
    assert confidence.threshold_says(said, 0.88, 400) == (
        "Suggested: answer where the top class's probability is at least 0.610. That is 80.0% (75.0 to 85.0) of the "
        "held-out samples, and 94.0% (75.0 to 85.0) of those answers are right; of all answers 88.0% are. "
        "Chosen on one half of 400 selection rows; on the other 95.1% of the answers are right, 95% wanted."
    )
    needless = said | {"suggestion": {"threshold": 0.0, "coverage": 1.0, "accuracy": 0.97}}
    assert confidence.threshold_says(needless, 0.96, 400) == (
        "No confidence threshold is needed: on half of 400 selection rows 97.0% of the answers are right, 95% wanted."
    )
    assert confidence.threshold_says({"suggestion": None}, 0.9, 1) == (
        "No confidence threshold is suggested: none gave 95% on selection rows that it was not chosen on."
    )


def test_a_temperature_in_words():
    said = {"temperature": 1.43, "fitted_on": "labels", "n": 412, "ece_before": 0.061, "ece_after": 0.023}
    assert confidence.scaling_says(said) == (
        "Temperature 1.43 is folded into the last layer, fitted on 412 selection rows' labels: held out, it brought "
        "ECE from 6.1% to 2.3% there."
    )
    assert confidence.scaling_says(said | {"temperature": 1.0, "fitted_on": "teacher"}) == (
        "No temperature helped on 412 selection rows' teacher probabilities: the logits are as they were trained."
    )
    assert confidence.scaling_says(None) == ""
