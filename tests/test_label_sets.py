"""Rows with several labels: every form that people have, what is refused, and who gets which row."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data import columns
from edgekd.data.given import _by_number, _hide, class_names
from edgekd.data.label_sets import NAMES, Form, LabelSetTable, read, with_label_sets
from edgekd.data.leaks import two_labels
from edgekd.data.read import read_tables
from edgekd.data.splits import Example, split
from edgekd.data.strata import joined, strata, stratified
from edgekd.data.untrained import split_untrained

SETS = [("a", "b"), ("a",), (), ("b", "c"), None]


def table_of(cells: list[object], name: str = "labels") -> dict[str, list[dict[str, object]]]:
    return {"all": [{"text": f"row {number}", name: cell} for number, cell in enumerate(cells)]}


def labels_of(tables: dict[str, list[dict[str, object]]], given: str | None = None) -> list[tuple[str, ...] | None]:
    made = with_label_sets(tables, given)
    [table] = made.values()
    column = next(name for name in table[0] if name != "text")
    return [read(row[column], getattr(table, "form", None), f"row {n}") for n, row in enumerate(table, start=1)]


@pytest.mark.parametrize(
    "cells",
    [
        [["b", "a"], ["a"], [], ["c", "b", "b"], None],
        [("a", "b"), ("a",), (), ("b", "c"), float("nan")],
        [np.array(["a", "b"]), np.array(["a"]), np.array([]), np.array(["b", "c"]), None],
        ["['a', 'b']", '["a"]', "[]", "['b' 'c']", ""],
        ["('b', 'a')", "('a',)", "()", "{'c', 'b'}", ""],
        ["a;b", "a", "[]", "c; b", ""],
        ["a, b", "a", "[]", "b,c", "  "],
        ["b|a", "a", "[]", "b|c|", None],
    ],
    ids=["lists", "tuples", "arrays", "spelt", "spelt by Python", "semicolons", "commas", "bars"],
)
def test_lists_and_separated_text(cells):
    found = labels_of(table_of(cells))
    assert found[:2] + found[3:] == SETS[:2] + SETS[3:]
    assert found[2] == ()


def test_one_separator_parts_all_cells_and_the_plan_says_which():
    made = with_label_sets(table_of(["food, drink;travel", "food, drink", "travel"]), None)["all"]
    assert isinstance(made, LabelSetTable)
    assert next(read(row["labels"], made.form, "") for row in made) == ("food, drink", "travel")
    assert made.notes == ("labels of 'labels': text parted by ';'; an empty cell is no label, [] is none of them",)


def test_columns_of_zeros_and_ones_one_for_each_label(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,text,toxic,insult,never\n7,x,1,0,0\n8,y,0.0,0,0\n9,z,true,1,0\n10,w,,,\n11,v,-1,-1,-1\n")
    made = with_label_sets(read_tables(str(path)), None)["all"]
    assert list(made[0]) == ["id", "text", "toxic, insult, never (0 or 1)"]
    found = [read(row["toxic, insult, never (0 or 1)"], made.form, "") for row in made]
    assert found == [("toxic",), (), ("insult", "toxic"), None, None]
    assert made.notes == ("labels: a column of zeros and ones for each, 3 of them", "labels that no row has: 'never'")
    named = with_label_sets(read_tables(str(path)), "insult, toxic")["all"]
    assert list(named[0]) == ["id", "text", "never", "insult, toxic (0 or 1)"]


def test_a_label_column_comes_before_columns_of_zeros_and_ones():
    rows = {"all": [{"text": "x", "label": "a|b", "new": 0, "old": 1}, {"text": "y", "label": "a", "new": 1, "old": 0}]}
    made = with_label_sets(rows, None)["all"]
    assert [read(row["label"], made.form, "") for row in made] == [("a", "b"), ("a",)]


def test_brackets_that_belong_to_names_stay():
    assert labels_of(table_of(["[a];[b]", "[b]", "(other)", "{c};a"])) == [
        ("[a]", "[b]"),
        ("[b]",),
        ("(other)",),
        ("a", "{c}"),
    ]


def test_a_list_longer_than_python_spells_is_read():
    names = [f"label number {number}" for number in range(9000)]
    assert labels_of(table_of([json.dumps(names), '["b"]'])) == [tuple(sorted(names)), ("b",)]


def test_a_column_of_a_usual_name_that_is_one_of_several_marks():
    rows = {
        "all": [
            {"text": "x", "toxic": 1, "target": 0, "more": "[b"},
            {"text": "y", "toxic": 0, "target": 1, "more": "c"},
        ]
    }
    made = with_label_sets(rows, None)["all"]
    assert [read(row["toxic, target (0 or 1)"], made.form, "") for row in made] == [("toxic",), ("target",)]


def test_a_split_that_lacks_a_column_is_refused_with_the_fix_that_works():
    row = {"text": "x", "a": 1, "b": 0, "c": 1}
    rows = {"train": [row], "test": [{name: row[name] for name in ("text", "a", "b")}], "unlabelled": [{"text": "y"}]}
    with pytest.raises(DataError, match="the split 'test' has no column 'c'") as refusal:
        with_label_sets(rows, None)
    made = with_label_sets(rows, refusal.value.fix.rpartition(" ")[2])
    assert [list(made[part][0]) for part in made] == [
        ["text", "c", "a, b (0 or 1)"],
        ["text", "a, b (0 or 1)"],
        ["text"],
    ]


@pytest.mark.parametrize(
    "cells",
    [
        [[0, 1, 1], [0, 0, 0], [1.0, 0.0, 0.0]],
        ["[0 1 1]", "[0, 0, 0]", "[1. 0. 0.]"],
        [[False, True, True]],
        ["[false, true, true]", "[false, false, false]"],
        [["0", "1", "1"], ["0", "0", "0"], ["1", "0", "0"]],
    ],
)
def test_vectors_of_zeros_and_ones(cells):
    assert labels_of(table_of(cells))[:3] == [("1", "2"), (), ("0",)][: len(cells)]
    assert labels_of(table_of([[0, 1, 1], [-1, -1, -1]]))[1] is None


def test_lists_of_class_numbers_are_no_vectors():
    assert labels_of(table_of([[0, 1], [1], [2]])) == [("0", "1"), ("1",), ("2",)]
    assert labels_of(table_of([[1], [0], [1]])) == [("1",), ("0",), ("1",)]
    assert labels_of(table_of([[0, 1], [1, 0]])) == [("1",), ("0",)], "of one length: no row has both by chance"


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([[0, 1, 1], [0, 1]], "row 2: the label has 2 values where others have 3"),
        ([[0, 1, 1], [0, -1, 1]], "row 2: '1' is -1, neither 0 nor 1"),
        ([["a", ["b"]], ["c"]], "row 1: the label is .* lists in a list"),
        ([{"a": 1}, ["b"]], "row 1: the label is .* an object"),
        ([["a", None], ["b"]], "row 1: of the labels .* one has no name"),
        (['["a", null]'], "row 1: of the labels .* one has no name"),
        (["{'a': 1}", "['b']"], "row 1: the label is .* an object"),
        (["a", "[b, a]"], "row 2: the label is .* brackets around what is no list"),
        (["{a,b}", "{b}"], "row 1: the label is .* brackets around what is no list"),
        (['["a"]', "[b, a]"], "row 2: the label is .* brackets around what is no list"),
        (["array(['a', 'b'], dtype=object)"], "row 1: the label is .* brackets around"),
        (["[0 1 ... 1]", "[1 1 ... 1]"], "row 1: the label is .* middle was left out"),
        ([[0.3, 0.9], [1.0, 0.0]], "row 1: the label is .* where 0.3 is neither a name nor 0 or 1"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_row(cells, why):
    with pytest.raises(DataError, match=why):
        labels_of(table_of(cells))


def test_a_column_with_another_value_is_refused_by_name():
    rows = {"all": [{"text": "x", "a": 1, "b": 0}, {"text": "y", "a": "2", "b": 1}]}
    made = with_label_sets(rows, "a,b")["all"]
    with pytest.raises(DataError, match="line 2: 'a' is '2', neither 0 nor 1"):
        read(made[1]["a, b (0 or 1)"], made.form, "line 2")
    assert with_label_sets(rows, None) == rows, "of itself it is no column of labels"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", "saved"])
def test_files_that_hold_lists_and_classes_by_number(tmp_path, suffix):
    import datasets

    feature = datasets.Sequence(datasets.ClassLabel(names=["a", "b", "c"]))
    numbers = [[0, 1], [0], [], [2, 1], [-1]]
    features = datasets.Features({"text": datasets.Value("string"), "labels": feature})
    made = datasets.Dataset.from_dict({"text": [f"row {n}" for n in range(5)], "labels": numbers}, features=features)
    path = tmp_path / f"rows{suffix}"
    if suffix == "saved":
        made.save_to_disk(path)
    elif suffix == ".parquet":
        made.to_parquet(path)
    else:
        rows = [{"text": f"row {n}", "labels": None if one is None else [*one]} for n, one in enumerate(SETS)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert labels_of(read_tables(str(path))) == SETS


def test_a_class_number_beyond_the_names_is_refused(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    features = datasets.Features({"labels": datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))})
    made = datasets.Dataset.from_dict({"labels": [[0], [1]]}, features=features)
    made.to_parquet(tmp_path / "rows.parquet")
    known = pyarrow.parquet.read_table(tmp_path / "rows.parquet").schema
    worse = pyarrow.Table.from_arrays([pyarrow.array([[0], [5]], type=known.field("labels").type)], schema=known)
    pyarrow.parquet.write_table(worse, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"row 2: the column 'labels' holds class 5, and its file names 2"):
        read_tables(str(tmp_path / "rows.parquet"))


def test_usual_names_are_taken_in_order():
    assert NAMES.index("labels") < NAMES.index("tags") < NAMES.index("label")
    assert labels_of(table_of([["a"], ["b"]], "Genres")) == [("a",), ("b",)]
    assert read("a;b", None, "") == ("a", "b")
    assert read("a;b", Form("text", ","), "") == ("a;b",)


def test_one_class_a_row_refuses_lists_and_names_the_task_for_them(monkeypatch):
    with pytest.raises(DataError, match="not one class") as refusal:
        columns.row_label(["a", "b"], "row 3", "series")
    assert "split them into one task a label" in refusal.value.fix
    monkeypatch.setattr(columns, "sibling_task", lambda modality, kind: f"{kind} of {modality}")
    with pytest.raises(DataError) as refusal:
        columns.row_label(["a", "b"], "row 3", "text")
    assert refusal.value.fix.endswith("another task: --task multi_label_classification of text")


def rows(count: int, *sets: tuple[str, ...]) -> list[Example]:
    return [Example(f"text number {n} of many", sets[n % len(sets)]) for n in range(count)]


def with_rare(count: int, rare: int) -> list[Example]:
    made = rows(count, ("often",), ("often", "second"), ())
    return [Example(row.input, ("rare", *row.names)) if n < rare else row for n, row in enumerate(made)]


def held(picked: list[Example]) -> Counter[str]:
    return Counter(name for row in picked for name in row.names)


@pytest.mark.parametrize("seed", range(5))
def test_each_label_has_its_share_and_a_rare_one_its_row(seed):
    pool = with_rare(300, 3)
    picked = stratified(pool, 60, seed)
    assert len(picked) == 60 == len(set(picked))
    assert held(picked)["rare"] >= 1
    assert abs(held(picked)["often"] - 40) <= 3
    assert abs(held(picked)["second"] - 20) <= 3
    assert abs(sum(not row.names for row in picked) - 20) <= 3
    assert stratified(pool, 60, seed) == picked
    few = stratified(pool, 2, seed)
    assert held(few).keys() == {"rare", "often", "second"}
    spared = stratified(pool, 60, seed, spare=1)
    assert held(spared)["rare"] <= 2


def test_strata_are_the_rarest_labels():
    assert strata([("a", "b"), ("a",), (), ("a", "b"), ("a",), ("c", "b")]) == ["b", "a", "", "b", "a", "c"]


def test_a_label_that_stands_in_held_out_rows_alone_comes_to_training():
    pool = with_rare(400, 1)
    by_place = sorted(pool, key=lambda row: row.content)
    pool = [Example(row.input, ("unseen", *row.names)) if row is by_place[0] else row for row in pool]
    splits = split({"all": pool}, labels=None, seed=0)
    assert splits.classes == ("often", "rare", "second", "unseen")
    assert "unseen" in held(list(splits.train))
    assert any("moved to training: no training row had a label of theirs" in note for note in splits.notes)
    one_class = [Example(row.input, "unseen" if row is by_place[0] else "ab"[n % 2]) for n, row in enumerate(pool)]
    assert split({"all": one_class}, labels=None, seed=0).classes


def test_splits_keep_none_of_them_apart_from_unknown():
    pool = rows(300, ("a",), ("a", "b"), ()) + [Example(f"nobody knows {n}") for n in range(30)]
    splits = split({"all": pool}, labels=None, seed=0)
    assert () in {row.label for row in splits.train} & {row.label for row in splits.test}
    assert all(row.label is None for row in splits.unlabelled)
    fewer = split({"all": pool}, labels=40, seed=0)
    assert len(fewer.train) == 40
    assert not fewer.selection_labelled
    assert {row.label for row in fewer.train} == {("a",), ("a", "b"), ()}
    assert fewer.digest != splits.digest


def test_unknown_names_and_one_label_alone_are_refused():
    named = {"train": rows(60, ("a",), ("b",), ()), "test": rows(20, ("a", "z"))}
    with pytest.raises(DataError, match="the test rows have labels that no training row has: 'z'"):
        split(
            {**named, "test": [Example(f"other {n}", row.label) for n, row in enumerate(named["test"])]},
            labels=None,
            seed=0,
        )
    for only, words in ((("a",), "one label, 'a'"), ((), "no label")):
        with pytest.raises(DataError, match=words) as refusal:
            split({"all": rows(100, only, ())}, labels=None, seed=0)
        assert "at least two labels" in refusal.value.fix


def test_a_label_in_every_row_is_told():
    splits = split({"all": rows(200, ("a", "b"), ("a", "c"))}, labels=None, seed=0)
    assert "the label 'a' is in every training row: it will be in every answer" in splits.notes


def test_one_label_in_each_row_is_told():
    splits = split({"all": rows(200, ("a",), ("b",))}, labels=None, seed=0)
    assert "each training row has one label alone: a task of one class a row decides between them" in splits.notes


def test_classes_that_are_others_joined_are_told():
    one = [Example(f"text {n}", name) for n, name in enumerate(["a", "b", "c", "a;b", "b; c"] * 40)]
    [note] = [note for note in split({"all": one}, labels=None, seed=0).notes if "joined" in note]
    assert note.startswith("2 classes are others joined by ';' ('a;b', 'b; c')")
    assert joined([Example("x", name) for name in ("a", "a;b", "a;c", "R, S")]) == []
    assert joined([Example("x", ("a", "a;b", "b", "b;a"))]) == []


def test_nothing_trained_takes_label_sets_too():
    splits = split_untrained({"all": rows(200, ("a",), ("a", "b"), ())}, seed=0, classes=("a", "b", "c"))
    assert splits.test_labelled
    assert splits.classes == ("a", "b", "c")
    with pytest.raises(DataError, match="labels that the teacher does not know: 'b'"):
        split_untrained({"all": rows(200, ("a",), ("a", "b"))}, seed=0, classes=("a", "c"))


def test_one_text_with_two_sets_is_told():
    twice = [Example("one text", ("a", "b")), Example("One  text", ("a",)), Example("one text.", ())]
    [note] = two_labels({"train": twice})
    assert (
        note
        == "1 input has more than one set of labels ('one text': 'a' + 'b', 'a', none): the first of a split counts"
    )


def test_numbers_become_a_teachers_names_and_hidden_labels_none():
    numbered = [Example("x", ("0", "2")), Example("y", ()), Example("z")]
    assert [row.label for row in _by_number(numbered, ("toxic", "insult", "abuse"))] == [("abuse", "toxic"), (), None]
    given = {"train": [Example("x", ("a",))], "test": [Example("y", ("-1",)), Example("z", ("-1",))]}
    assert _hide(given, ())
    assert [row.label for row in given["test"]] == [None, None]
    assert class_names({"all": [Example("x", ("10", "9")), Example("y", ("2",))]}) == ("2", "9", "10")


def test_the_order_for_an_emulated_core_has_each_label_early():
    from edgekd.emulation.evaluate import stratified_order

    pool = with_rare(60, 6)
    order = stratified_order([row.label for row in pool], None, seed=0)
    assert "rare" in held([pool[row] for row in order[:12]])
    assert sorted(order) == list(range(60))


def test_readers_do_not_look_at_labels_that_nobody_asks_for(tmp_path: Path):
    assert with_label_sets({"all": [{"text": "x"}]}, "tags") == {"all": [{"text": "x"}]}
    assert with_label_sets({"all": [{"text": "x", "a": 1}, {"text": "y", "a": 0}]}, None)["all"][0] == {
        "text": "x",
        "a": 1,
    }
