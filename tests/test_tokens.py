"""Token ids kept compactly: the same model inputs as the tokenizer's own, at a tenth of the bytes."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import texts

from edgekd.core.registry import make
from edgekd.data import tokens
from edgekd.data.tokens import Tokens, tokenize

TEXTS = [text for text, _ in texts(50, seed=7)]


def assert_samples(found, expected):
    """The same arrays under the same names, in the same order."""
    assert len(found) == len(expected)
    for sample, other in zip(found, expected, strict=True):
        assert list(sample) == list(other)
        for name, values in sample.items():
            np.testing.assert_array_equal(values, other[name], strict=True)


@pytest.mark.parametrize("longest", [64, 6])
@pytest.mark.parametrize("chunk", [1024, 7])
def test_what_models_get_is_what_the_tokenizer_says(tiny_teacher, monkeypatch, longest, chunk):
    from transformers import AutoTokenizer

    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    found = make("tasks", "text-classification").encode(tiny_teacher, iter(TEXTS), longest)
    said = AutoTokenizer.from_pretrained(tiny_teacher)(TEXTS, truncation=True, max_length=longest)
    expected = [{name: np.array([said[name][row]]) for name in said} for row in range(len(TEXTS))]
    assert_samples(found, expected)
    assert found.lengths.tolist() == [len(row) for row in said["input_ids"]]
    assert {name for name, values in found.columns.items() if isinstance(values, int)} == {
        "attention_mask",
        "token_type_ids",
    }


@pytest.mark.parametrize(
    "part", [slice(3, 9), slice(None, None, 4), slice(-5, None), slice(None, None, -1), slice(4, 2)]
)
def test_slices_share_the_values(tiny_teacher, part):
    whole = tokenize(tiny_teacher, TEXTS, 64)
    assert isinstance(whole[part], Tokens)
    assert_samples(whole[part], list(whole)[part])
    assert whole[part].lengths.tolist() == whole.lengths[part].tolist()
    assert whole[part].columns["input_ids"] is whole.columns["input_ids"]


def test_no_texts(tiny_teacher):
    assert list(tokenize(tiny_teacher, [], 64)) == []


def test_rows_outside(tiny_teacher):
    with pytest.raises(IndexError):
        tokenize(tiny_teacher, TEXTS, 64)[len(TEXTS)]


def test_inputs_that_differ_from_token_to_token_are_kept(monkeypatch, tmp_path):
    """A tokenizer whose types are no constant, as XLNet's, and an output that no model takes."""

    def encode(rows, pairs=None, **_):
        ids = [[len(word) for word in row.split()] for row in rows]
        types = [[0] * (len(row) - 1) + [2] for row in ids]
        return {"input_ids": ids, "token_type_ids": types, "special_tokens_mask": types}

    encode.model_input_names = ["input_ids", "token_type_ids"]
    monkeypatch.setattr("transformers.AutoTokenizer", SimpleNamespace(from_pretrained=lambda _, **__: encode))
    first, second = tokenize(tmp_path, ["a bb ccc", "dd"], 64)
    assert {name: values.tolist() for name, values in first.items()} == {
        "input_ids": [[1, 2, 3]],
        "token_type_ids": [[0, 0, 2]],
    }
    assert {name: values.tolist() for name, values in second.items()} == {
        "input_ids": [[2]],
        "token_type_ids": [[2]],
    }
    assert first["token_type_ids"].dtype == np.int64


def test_bytes_of_a_row(tiny_teacher):
    found = tokenize(tiny_teacher, TEXTS, 64)
    kept = sum(values.nbytes for values in found.columns.values() if not isinstance(values, int))
    assert kept + found.starts.nbytes + found.lengths.nbytes == 4 * found.lengths.sum() + 12 * len(TEXTS)
