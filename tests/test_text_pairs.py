"""Two texts as one input: how they are read, tokenized, sized and changed, and which rows are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import loose_target, write_csv
from foreign_weights import LABELS, classifier
from transformers import AutoTokenizer

from edgekd.core.errors import DataError, UsageError
from edgekd.core.registry import make
from edgekd.data import vocabulary
from edgekd.data.augment import augment
from edgekd.data.given import read_given, read_inputs
from edgekd.data.pairs import Pair
from edgekd.data.splits import Example
from edgekd.plan.planning import Options, make_plan
from edgekd.store.store import Store

TEXT, SEVERAL = "text-classification", "multi-label-text-classification"
PAIRED = {"text_column": "premise", "text_pair_column": "hypothesis"}
HEADER = ("premise", "hypothesis", "label", "id")
COLOURS, ANIMALS = ("red", "green", "blue"), ("cat", "dog", "horse")


def rows(count: int) -> list[tuple[str, ...]]:
    """Distinct pairs of words that the tiny tokenizer knows."""
    words = [*COLOURS, *ANIMALS, "bread", "rice", "soup", "people"]
    pairs = [(f"what is the {one}", f"a {two} of that") for one in words for two in words]
    return [(one, two, LABELS[number % 3], str(number)) for number, (one, two) in enumerate(pairs)][:count]


def read(path: Path, task: str = TEXT, **columns: str):
    return read_given(make("tasks", task, **PAIRED | columns), str(path), None, classes=None, labelled=True)


def test_two_columns_become_one_input(tmp_path):
    given, columns, _ = read(write_csv(tmp_path / "rows.csv", rows(9), HEADER))
    first = given["all"][0]
    assert (first.input.first, first.input.second) == rows(1)[0][:2]
    assert first.label == LABELS[0]
    assert columns.read.as_dict() == {
        "input": "premise + hypothesis",
        "label": "label",
        "left_out": ["id"],
        "n_left_out": 1,
    }
    swapped = Example(Pair.of(first.input.second, first.input.first))
    assert first.content != swapped.content
    assert first.content == Example(Pair.of(first.input.first.upper(), first.input.second + ".")).content


def test_the_first_text_is_found_by_its_name(tmp_path):
    table = write_csv(tmp_path / "rows.csv", [row[:3] for row in rows(9)], ("question", "passage", "label"))
    task = make("tasks", TEXT, text_pair_column="passage")
    given, *_ = read_given(task, str(table), None, classes=None, labelled=True)
    assert given["all"][0].input.second == rows(1)[0][1]


def test_pairs_may_have_several_labels(tmp_path):
    path = tmp_path / "rows.jsonl"
    told = [{"premise": one, "hypothesis": two, "labels": [label]} for one, two, label, _ in rows(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    given, columns, _ = read(path, SEVERAL)
    assert given["all"][0].label == (LABELS[0],)
    assert isinstance(given["all"][0].input, Pair)
    assert columns.read.input == "premise + hypothesis"


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (("what", "", "a", "1"), {}, "row 10: one side of the pair is missing: the column 'hypothesis' holds ''"),
        (("  ", "is", "a", "1"), {}, "row 10: one side of the pair is missing: the column 'premise' holds '  '"),
        (("what", "is", "a", "1"), {"text_pair_column": "hypotheses"}, "has no column 'hypotheses'"),
        (("what", "is", "a", "1"), {"text_column": "premises"}, "has no column 'premises'"),
        (
            ("what", "is", "a", "1"),
            {"text_column": "hypothesis"},
            "both sides of each pair are the column 'hypothesis'",
        ),
    ],
)
def test_a_side_that_is_missing_is_refused(tmp_path, row, columns, message):
    path = write_csv(tmp_path / "rows.csv", [*rows(9), row], HEADER)
    with pytest.raises(DataError, match=message) as refusal:
        read(path, **columns)
    assert refusal.value.fix


@pytest.mark.parametrize(
    "columns",
    [
        {"text_pair_column": "label"},
        {"text_column": "label", "text_pair_column": "other"},
        {"text_pair_column": "kind", "label_column": "kind"},
    ],
)
@pytest.mark.parametrize("task", [TEXT, SEVERAL, "text-regression"])
def test_a_column_of_labels_is_no_side_of_a_pair(tmp_path, columns, task):
    file = tmp_path / "rows.csv"
    file.write_text("text,other,label,kind\none,two,0,1\nthree,four,1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="that column holds the labels") as told:
        make("tasks", task, **columns).read(str(file))
    assert ("--label-column" in told.value.fix) == ("label_column" not in columns)
    obeyed = make("tasks", task, **columns | {"label_column": "kind", "text_pair_column": "other"})
    assert list(obeyed.read(str(file))["all"][0])[-1] == "kind", "its fix"


def test_the_split_that_lacks_a_side_is_named(tmp_path):
    write_csv(tmp_path / "train.csv", rows(9), HEADER)
    write_csv(tmp_path / "test.csv", [(row[0], row[2]) for row in rows(9)], ("premise", "label"))
    with pytest.raises(DataError, match=r"\(test\) has no column 'hypothesis'"):
        read(tmp_path)


def test_more_inputs_have_both_columns(tmp_path):
    path = write_csv(tmp_path / "rows.csv", rows(9), HEADER)
    task = make("tasks", TEXT, **PAIRED)
    inputs, _ = read_inputs(task, str(path), column="premise + hypothesis")
    assert isinstance(inputs[0].input, Pair)
    alone = write_csv(tmp_path / "more.csv", [(row[0],) for row in rows(9)], ("premise",))
    with pytest.raises(DataError, match="has no column 'hypothesis'"):
        read_given(task, str(path), str(alone), classes=None, labelled=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("pairs") / "teacher")


def test_the_tokenizer_sees_both_as_it_does_elsewhere(folder):
    task = make("tasks", TEXT, **PAIRED)
    pairs = [Pair.of(one, two) for one, two, *_ in rows(4)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for sample, pair in zip(task.encode(folder, pairs, 32), pairs, strict=True):
        theirs = tokenizer(pair.first, pair.second, truncation=True, max_length=32, return_tensors="np")
        assert all(np.array_equal(sample[name], values) for name, values in theirs.items())
        assert sample["token_type_ids"].sum() == 5, "the second text's and its separator's"
        assert (sample["input_ids"] == 3).sum() == 2, "a separator behind each text"
    assert task.ordinary(folder, [*pairs[:1], "alone"]) == [rows(1)[0][:2], "alone"]
    [cut] = task.encode(folder, pairs[:1], 6)
    assert (cut["input_ids"] == 3).sum() == 2
    made = task.synthetic(list(task.encode(folder, pairs, 32)), 4, 0)
    assert all((sample["input_ids"] == 3).sum() == 2 for sample in made), "drawn inputs are pairs, too"


def test_lengths_and_vocabulary_are_those_of_both(folder, tmp_path):
    pairs = [Pair.of(one, two) for one, two, *_ in rows(20)]
    file = folder / "tokenizer.json"
    lengths, kept = vocabulary.survey(file, pairs)
    task = make("tasks", TEXT, **PAIRED)
    assert lengths == [sample["input_ids"].shape[1] for sample in task.encode(folder, pairs, 32)]
    assert vocabulary.surveyed(str(file), json.loads(json.dumps([[p.first, p.second] for p in pairs])), None) == (
        lengths,
        kept,
    )
    store = Store(tmp_path / "store")
    assert vocabulary.survey_kept(file, pairs, store, limit=None) == (lengths, kept)
    kept_of_pairs = {*(store.root / "survey").iterdir()}
    vocabulary.survey_kept(file, [*map(str, pairs)], store, limit=None)
    assert {*(store.root / "survey").iterdir()} > kept_of_pairs, "the same characters as one text are another question"


def test_copies_change_the_first_text():
    given = [Example(Pair.of(one, two), "food") for one, two, *_ in rows(20)]
    firsts, seconds = {row.input.first for row in given}, {row.input.second for row in given}
    for name in ("word_dropout", "word_swap"):
        copies = augment(given, [(make("augmentations", name), 2)], seed=0)
        assert copies, name
        assert {copy.input.second for copy in copies} <= seconds
        assert not any("¦" in copy.input.first for copy in copies)
        assert {copy.input.first for copy in copies} - firsts


def test_a_plan_names_both_columns(folder, tmp_path):
    data = write_csv(tmp_path / "rows.csv", rows(90), HEADER)
    said = {"task": TEXT, "teacher": str(folder), "data": str(data), "student": "none", **PAIRED}
    plan, splits = make_plan(Options(str(loose_target(tmp_path)), **said))
    assert plan.data.input_column == "premise + hypothesis"
    assert plan.data.columns["left_out"] == ["id"]
    assert all(isinstance(row.input, Pair) for row in splits.test)
    assert plan.student.survey.typical == 11, "both texts, and three special tokens"
    with pytest.raises(UsageError, match="--text-pair-column means nothing to token-classification"):
        make_plan(Options("rpi4", task="token-classification", text_pair_column="x"))
