"""Where each of several labels is decided: chosen for micro F1, and folded into the head so that one half decides."""

import itertools

import numpy as np
import pytest
import torch

from edgekd.core.errors import EdgeKDError
from edgekd.core.recall import best_constant, constant_f1, recall_says
from edgekd.core.thresholds import best_thresholds, choose_thresholds, decided_f1, thresholds_say
from edgekd.training import models


def made(rows=400, offsets=(0.0, -2.0, 1.5), rates=(0.4, 0.15, 0.5), seed=0):
    """Logits of labels that are decided well only off one half, and the labels."""
    random = np.random.default_rng(seed)
    truth = (random.random((rows, len(rates))) < rates).astype(np.int64)
    return (2 * truth - 1) * 1.2 + random.normal(size=truth.shape) + np.array(offsets), truth


def test_the_best_thresholds_are_those_that_a_search_of_all_finds():
    random = np.random.default_rng(3)
    for seed in range(20):
        logits, truth = made(rows=14, offsets=(1.0, -1.0), rates=(0.4, 0.3), seed=seed)
        if not truth.any(axis=0).all():
            continue
        found = best_thresholds(logits, truth, np.array([True, True]))
        places = [np.concatenate([column - 1e-9, [0.0]]) for column in logits.T]
        best = max(decided_f1(logits > np.array(pair), truth) for pair in itertools.product(*places))
        assert decided_f1(logits > found, truth) == pytest.approx(best)
        shuffled = random.permutation(14)
        again = best_thresholds(logits[shuffled], truth[shuffled], np.array([True, True]))
        np.testing.assert_array_equal(again, found)


def test_thresholds_move_towards_where_labels_are_and_help_on_other_rows():
    logits, truth = made()
    chosen = choose_thresholds(logits, truth)
    assert chosen.moved
    assert chosen.f1_after > chosen.f1_before
    assert abs(chosen.logits[1] + 2) < 1
    assert abs(chosen.logits[2] - 1.5) < 1
    fresh, labels = made(seed=9)
    assert decided_f1(fresh > chosen.logits, labels) > decided_f1(fresh > 0, labels) + 0.05


def test_where_one_half_is_right_it_stays():
    random = np.random.default_rng(1)
    truth = (random.random((300, 2)) < 0.5).astype(np.int64)
    chosen = choose_thresholds((2.0 * truth - 1) * 3, truth)
    assert chosen.logits == (0.0, 0.0)
    assert "no other thresholds held" in thresholds_say({**vars(chosen), "fitted_on": "labels"})


def test_a_rare_label_and_one_of_every_row_keep_one_half():
    logits, truth = made(offsets=(-2.0, -2.0, -2.0), rates=(0.4, 0.0, 1.0))
    truth[:9, 1] = 1
    chosen = choose_thresholds(logits, truth)
    assert chosen.kept_half == (1, 2)
    assert chosen.logits[1:] == (0.0, 0.0)
    assert chosen.logits[0] < -0.5
    says = thresholds_say({**vars(chosen), "fitted_on": "labels"})
    assert says.endswith("2 labels keep one half: too few rows to choose by.")
    assert "1 of 3 labels were chosen on 400 selection rows by their labels" in says


@pytest.mark.parametrize("rows", [0, 1, 39])
def test_too_few_rows_choose_nothing(rows):
    logits, truth = made(rows=max(rows, 1))
    assert not choose_thresholds(logits[:rows], truth[:rows]).moved


def test_noise_moves_no_threshold_that_only_its_own_rows_like():
    moved = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        truth = (random.random((60, 3)) < 0.5).astype(np.int64)
        chosen = choose_thresholds((2 * truth - 1) * 4 + random.normal(size=truth.shape), truth, seed=seed)
        moved += chosen.moved
    assert moved <= 2


def test_folded_in_one_half_decides():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Linear(5, 3))
    model.config = type("Config", (), {"num_labels": 3})()
    inputs = torch.randn(50, 8)
    thresholds = (0.7, -0.2, 0.0)
    before = model(inputs) > torch.tensor(thresholds)
    models.fold_thresholds(model, thresholds)
    assert torch.equal(model(inputs) > 0, before)
    bare = torch.nn.Sequential(torch.nn.Linear(8, 3, bias=False))
    bare.config = model.config
    with pytest.raises(EdgeKDError, match="with a bias: thresholds cannot be folded"):
        models.fold_thresholds(bare, thresholds)


def test_the_best_constant_answer():
    assert constant_f1([8, 2, 0], 10) == (0.8, (0,))
    assert constant_f1([0, 0], 10) == (0.0, ())
    random = np.random.default_rng(0)
    for _ in range(20):
        truth = (random.random((30, 5)) < random.random(5)).astype(int)
        every = [np.array(one) for one in itertools.product([False, True], repeat=5)]
        best = max(decided_f1(np.tile(one, (30, 1)), truth) for one in every if one.any() or not truth.any())
        assert constant_f1(truth.sum(axis=0), 30)[0] == pytest.approx(best)
    told = best_constant({"a": 8, "b": 2}, 10, (0.5, 0.9))
    assert told == {"labels": ["a"], "share": 0.8, "beaten": False}
    [says] = recall_says({"most_frequent": told})
    assert "to answer 'a' always has a micro F1 of 80.0%" in says
    assert recall_says({"most_frequent": best_constant({"a": 8}, 10, (0.95, 1.0))}) == []
    assert best_constant({"a": 0}, 10, (0.0, 0.1)) is None
