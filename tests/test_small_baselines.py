"""The linear model beside the network, on rows that scikit-learn would refuse."""

from dataclasses import replace

import numpy as np
import pytest

from edgekd.core.registry import make
from edgekd.data.splits import Example, Splits
from edgekd.inference.benchmark import linear_baseline

TEXT = make("tasks", "text-classification")


def splits(rows: list[tuple[object, str]], test: int = 4) -> Splits:
    examples = tuple(Example(value, label) for value, label in rows)
    classes = tuple(sorted({label for _, label in rows}))
    return Splits(examples, (), (), (), examples[:test], classes, selection_labelled=False)


@pytest.mark.parametrize("pair", [(":)", ":("), ("a", "b"), ("我", "他"), ("1", "2"), ("😀", "😡"), ("+", "-")])
def test_texts_of_signs_or_single_letters_have_a_baseline(pair: tuple[str, str]) -> None:
    said = linear_baseline(TEXT, splits([(f"{text} " * 3, text) for text in pair] * 8), seed=0)
    assert said
    assert said["metric_value"] == 1.0


@pytest.mark.parametrize("task", ["text-classification", "image-classification", "time-series-classification"])
def test_rows_of_one_class_have_a_baseline_that_says_that_class(task: str) -> None:
    rows = splits([(np.zeros((10, 2), np.float32) if task != "text-classification" else "some words", "a")] * 6)
    rows = replace(rows, test=(*rows.test[:3], replace(rows.test[0], label="b")))
    said = linear_baseline(make("tasks", task), rows, seed=0)
    assert said
    assert said["metric_value"] == 0.75


def test_one_test_row_has_a_baseline_with_an_interval() -> None:
    said = linear_baseline(TEXT, splits([("good film", "a"), ("bad film", "b")] * 8, test=1), seed=0)
    assert said
    assert said["metric_value"] == 1.0
    assert said["n"] == 1
