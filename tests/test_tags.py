"""Tags and the spans that they spell, the files that hold them, and what is wrong with some of these files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tagged_texts import as_bioes, as_spans, sentences, write_conll, write_jsonl, write_tokens

from edgekd.core import predictions
from edgekd.core.errors import DataError
from edgekd.core.registry import make
from edgekd.data.given import read_given
from edgekd.data.splits import Example, check_labels, split
from edgekd.data.strata import strata
from edgekd.data.tags import Span, Tags, Words, bio_classes, continued, in_scheme, kinds_of, spans_of
from edgekd.data.untrained import split_untrained
from edgekd.onboard import programs, verify

TASK = "token-classification"
ROWS = sentences(40, seed=3)
RECORDED = json.loads((Path(__file__).parent / "golden" / "spans.json").read_text())
BIO = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def read(path: Path, **columns: str):
    return read_given(make("tasks", TASK, **columns), str(path), None, classes=None, labelled=True)[0]


# spans


def test_spans_are_those_that_seqeval_finds():
    for case in RECORDED["cases"]:
        assert spans_of(case["tags"].split()) == [Span(*one) for one in case["spans"]], case["tags"]


def test_figures_are_those_of_seqeval():
    names = sorted({tag for case in RECORDED["cases"] for tag in (*case["tags"].split(), *case["said"].split())})
    task = make("tasks", TASK).named(names)
    number = {name: place for place, name in enumerate(names)}
    truth = [np.array([number[tag] for tag in case["tags"].split()]) for case in RECORDED["cases"]]
    said = [np.array([number[tag] for tag in case["said"].split()]) for case in RECORDED["cases"]]
    outputs = [{"logits": np.eye(len(names))[row]} for row in said]
    rows = task.statistics(outputs, truth)
    assert task.metric.value(rows) == pytest.approx(RECORDED["micro_f1"])
    assert dict(zip(task.label_names(), task.recalls(outputs, truth), strict=True)) == pytest.approx(RECORDED["recall"])
    low, high = task.metric.interval(rows)
    assert low < RECORDED["micro_f1"] < high


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("B-A I-A O B-B", "B-A I-A O B-B"),
        ("S-A O B-A I-A E-A", "B-A O B-A I-A I-A"),
        ("U-A O B-A I-A L-A", "B-A O B-A I-A I-A"),
        ("I-A I-A I-B O", "B-A I-A B-B O"),
        ("O I-A", "O B-A"),
        ("NOUN VERB O-X NOUN", "NOUN VERB O NOUN"),
    ],
)
def test_any_scheme_is_read_as_bio(given, wanted):
    assert Tags.of(given.split()) == tuple(wanted.split())


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        ("O B-A I-A", "B-A I-A I-A O B-A B-A"),
        ("O B-A I-A E-A S-A", "B-A I-A E-A O S-A S-A"),
        ("O B-A I-A L-A U-A", "B-A I-A L-A O U-A U-A"),
        ("O I-A", "I-A I-A I-A O I-A I-A"),
        ("O A", "A A A O A A"),
        ("B-A I-A", "B-A I-A I-A None B-A B-A"),
    ],
)
def test_labels_are_told_in_the_scheme_of_the_model(classes, wanted):
    tags = Tags(["B-A", "I-A", "I-A", "O", "B-A", "B-A"])
    assert [str(tag) for tag in in_scheme(tags, classes.split())] == wanted.split()


def test_a_words_later_pieces_continue_it():
    assert [continued(tag, BIO) for tag in ("B-PER", "I-PER", "O")] == ["I-PER", "I-PER", "O"]
    assert continued("B-PER", ["O", "B-PER"]) == "B-PER", "a model without such a tag repeats the first"
    assert continued("S-PER", ["O", "S-PER", "B-PER", "I-PER", "E-PER"]) == "I-PER"


def test_a_model_gets_both_tags_of_each_kind():
    assert bio_classes([Tags(("B-LOC",)), Tags(("B-PER", "I-PER"))]) == BIO
    assert bio_classes([Tags(("NOUN", "VERB"))]) == ("NOUN", "VERB")
    assert kinds_of(BIO) == ("LOC", "PER")


# files


FORMS = {
    "tokens": lambda folder: write_tokens(folder / "rows.jsonl", ROWS),
    "conll": lambda folder: write_conll(folder / "rows.conll", ROWS),
    "text file": lambda folder: write_conll(folder / "rows.txt", ROWS),
    "bioes": lambda folder: write_tokens(folder / "rows.jsonl", [(words, as_bioes(tags)) for words, tags in ROWS]),
    "spans": lambda folder: write_jsonl(folder / "rows.jsonl", [as_spans(*row) for row in ROWS]),
    "doccano": lambda folder: write_jsonl(
        folder / "rows.jsonl",
        [
            {"text": row["text"], "label": [[one["start"], one["end"], one["label"]] for one in row["spans"]]}
            for row in (as_spans(*row) for row in ROWS)
        ],
    ),
    "cells": lambda folder: write_jsonl(
        folder / "rows.jsonl", [{"sentence": " ".join(words), "word_labels": ",".join(tags)} for words, tags in ROWS]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_rows(form, tmp_path):
    rows = read(FORMS[form](tmp_path))["all"]
    assert [(str(row.input), row.label) for row in rows] == [(" ".join(words), tuple(tags)) for words, tags in ROWS]
    places = [row.input.places for row in rows]
    assert [[text[a:b] for a, b in own] for text, own in zip((row.input for row in rows), places, strict=True)] == [
        words for words, _ in ROWS
    ]


def test_a_dataset_with_class_labels_is_read_by_their_names(tmp_path):
    import datasets

    names = list(BIO)
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
    )
    rows = [{"tokens": words, "ner_tags": [names.index(tag) for tag in tags]} for words, tags in ROWS]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    assert [row.label for row in read(tmp_path / "rows.parquet")["all"]] == [tuple(tags) for _, tags in ROWS]


def test_tags_as_numbers_are_the_teachers(tmp_path):
    rows = [{"tokens": words, "tags": [BIO.index(tag) for tag in tags]} for words, tags in ROWS]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    given, *_ = read_given(make("tasks", TASK), str(path), None, classes=BIO, labelled=True)
    assert [row.label for row in given["all"]] == [tuple(tags) for _, tags in ROWS]


def test_splits_are_files_of_a_folder(tmp_path):
    for name in ("eng.train", "eng.testa", "eng.testb"):
        write_conll(tmp_path / name, ROWS)
    assert set(read(tmp_path)) == {"train", "validation", "test"}


def test_conll_u_has_its_own_columns(tmp_path):
    path = tmp_path / "rows.conllu"
    lines = ["# text = It's", "1-2\tIt's" + "\t_" * 8, "1\tIt\tit\tPRON" + "\t_" * 6, "2\t's\tbe\tAUX" + "\t_" * 6]
    path.write_text("\n".join(lines) + "\n\n")
    [row] = read(path)["all"]
    assert (str(row.input), row.label) == ("It 's", ("PRON", "AUX"))


def test_rows_without_tags_are_unlabelled(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "Ann, hi", "spans": None}, {"text": "Oslo", "spans": []}])
    one, other = read(path)["all"]
    assert one.label is None
    assert [one.input[a:b] for a, b in one.input.places] == ["Ann", ",", "hi"]
    assert other.label == ("O",)
    words = tmp_path / "words.conll"
    words.write_text("Ann\nhi\n\nOslo\n")
    rows, *_ = read_given(make("tasks", TASK), str(words), None, classes=None, labelled=False)
    assert [(str(row.input), row.label) for row in rows["all"]] == [("Ann hi", None), ("Oslo", None)]


def test_words_that_nobody_sees_are_left_out(tmp_path):
    row = {"tokens": ["Ann", "\u200b", "hi"], "tags": ["B-PER", "I-PER", "O"]}
    [one] = read(write_jsonl(tmp_path / "rows.jsonl", [row]))["all"]
    assert one.label == ("B-PER", "O")
    assert len(one.input.places) == 2


BAD = {
    "ragged columns": ("rows.conll", "Ann X B-PER\nhi O\n", "line 2: 2 columns .* where others have 3"),
    "a word without a tag": ("rows.conll", "Ann B-PER\nhi O\n\nOslo\n", "line 4: 1 column "),
    "no sentence": ("rows.conll", "\n\n", "holds no sentence"),
    "CoNLL-U of nine cells": ("rows.conllu", "1\tIt" + "\t_" * 7 + "\n", "line 1: 9 cells where CoNLL-U has 10"),
    "fewer tags than words": ('{"tokens": ["a", "b"], "tags": ["O"]}', "row 1: 1 tag for 2 words"),
    "a hidden tag": ('{"tokens": ["a", "b"], "tags": ["O", -100]}', "row 1: the word 'b' has no tag"),
    "a word that is a number": ('{"tokens": ["a", 3], "tags": ["O", "O"]}', "row 1: the word 3 is no text"),
    "a word that is missing": ('{"tokens": ["a", null], "tags": ["O", "O"]}', "row 1: the word None is no text"),
    "a word that is nought": ('{"tokens": [0, "a"], "tags": ["O", "O"]}', "row 1: the word 0 is no text"),
    "no word": ('{"tokens": [], "tags": []}', "row 1: it holds no word"),
    "an empty text": ('{"text": " ", "spans": []}', "row 1: the text is"),
    "overlapping spans": (
        '{"text": "New York City", "spans": [[0, 8, "LOC"], [4, 13, "LOC"]]}',
        r"row 1: the spans 'New York' \(LOC\) and 'York City' \(LOC\) overlap",
    ),
    "a span beyond the text": ('{"text": "Oslo", "spans": [[0, 9, "LOC"]]}', "does not lie in its text of 4 char"),
    "a span that ends before it starts": ('{"text": "Oslo", "spans": [[3, 2, "LOC"]]}', "does not lie in its text"),
    "a negative start": ('{"text": "Oslo", "spans": [[-4, 4, "LOC"]]}', "does not lie in its text"),
    "a span of space": ('{"text": "a b", "spans": [[1, 2, "LOC"]]}', "a span of white space alone"),
    "a span without a kind": ('{"text": "Oslo", "spans": [{"start": 0, "end": 4}]}', "is no span"),
    "a start of words": ('{"text": "Oslo", "spans": [["0", "4", "LOC"]]}', "is no span"),
    "spans as a number": ('{"text": "Oslo", "spans": 7}', "7 is neither tags nor spans"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_rows_are_refused_by_their_place(what, tmp_path):
    *name, content, message = BAD[what]
    path = tmp_path / (name[0] if name else "rows.jsonl")
    path.write_text(content)
    with pytest.raises(DataError, match=message) as refusal:
        read(path)
    assert refusal.value.fix


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# id 7\tdomain=en\nAnn _ _ B-PER\n", ["Ann"]),
        ("# doc7\nAnn B-PER\n", ["Ann"]),
        ("# NN I O\nAnn NP I B-PER\nhi UH I O\n", ["#", "Ann", "hi"]),
        ("# O\nAnn B-PER\nhi O\n", ["#", "Ann", "hi"]),
        ("10\u00a0km O\nAnn B-PER\n", ["10\u00a0km", "Ann"]),
    ],
)
def test_comments_and_words_are_told_apart(content, words, tmp_path):
    (tmp_path / "rows.conll").write_text(content, encoding="utf-8")
    [row] = read(tmp_path / "rows.conll")["all"]
    assert [row.input[start:end] for start, end in row.input.places] == words
    assert len(row.label) == len(words)


def test_a_text_in_brackets_is_a_text(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "[1, 2]", "spans": [[1, 2, "NUM"]]}])
    assert read(path)["all"][0].label == ("O", "B-NUM", "O", "O", "O")


def test_the_fix_of_overlapping_spans_works(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "New York City", "spans": [[0, 8, "LOC"]]}])
    assert read(path)["all"][0].label == ("B-LOC", "I-LOC", "O"), "one of them was kept"


# rows by role


def examples(rows, seed=0):
    return [Example(Words.joined(words), Tags.of(tags)) for words, tags in rows]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("empty", [Tags(["O", "O"]), ()])
def test_test_rows_without_a_span_or_label_are_refused_and_the_fix_works(trained, empty):
    some = Tags(["B-PER", "O"]) if isinstance(empty, Tags) else ("PER",)
    other = Tags(["O", "B-LOC"]) if isinstance(empty, Tags) else ("LOC",)
    classes = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC") if isinstance(empty, Tags) else ("PER", "LOC")

    def cut(test, validation=some):
        given = {"train": 20 * [some] + 20 * [other], "validation": 12 * [validation], "test": 12 * [test]}
        rows = {
            part: [Example(Words.joined([part, str(n)]), label) for n, label in enumerate(labels)]
            for part, labels in given.items()
        }
        return (
            split(rows, labels=None, seed=0, classes=classes)
            if trained
            else split_untrained(rows, seed=0, classes=classes)
        )

    with pytest.raises(DataError, match=r"none of the 12 labelled test rows has a (span|label)") as refusal:
        cut(empty)
    assert "give test rows of which some have" in refusal.value.fix
    assert cut(some).selection_labelled
    by_agreement = cut(some, validation=empty)
    assert not by_agreement.selection_labelled, "F1 of nothing picks nothing"
    assert {row.label for row in by_agreement.selection} == {None}
    if not trained:
        assert not cut(None).test_labelled


def test_kinds_of_spans_go_through_splits_and_strata():
    rows = [*sentences(200, seed=5), (["Mars", "is", "far"], ["B-STAR", "O", "O"])]
    splits = split({"all": examples(rows)}, labels=60, seed=0)
    assert splits.classes == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-STAR", "I-STAR")
    assert "STAR" in {kind for row in splits.train for kind in row.names}, "the one row of its kind trains"
    assert not any("every training row" in note or "one label alone" in note for note in splits.notes)
    labels = [row.label for row in splits.train]
    assert set(strata([*labels, Tags(("O",))])) == {"LOC", "PER", "STAR", ""}
    assert strata([Tags(("B-A", "I-A", "B-B")), Tags(("B-A",))]) == ["B", "A"]


def test_tags_that_the_teacher_does_not_know_are_refused():
    with pytest.raises(DataError, match="have labels that the teacher does not know: 'PER'") as refusal:
        check_labels({"all": examples(ROWS)}, ("O", "B-LOC", "I-LOC"), who="the teacher does not know")
    assert "'LOC'" in refusal.value.fix
    check_labels({"all": examples(ROWS)}, ("O", "S-LOC", "S-PER"), who="the teacher does not know")
    given = {"all": [Example(Words.joined(words), Tags("O" * len(words))) for words, _ in ROWS]}
    with pytest.raises(DataError, match=r"no word of .* training rows is in a span"):
        split(given, labels=None, seed=0)


# what a model says of words


def test_a_words_tag_is_that_of_its_first_piece():
    words = np.array([[-1, 0, 0, 1, 3, -1]])
    values = np.arange(12.0).reshape(6, 2)
    kept = programs.kept({"logits": values}, {"words": words}, {"logits": "words"})["logits"]
    assert kept[:, 0].tolist() == [2.0, 6.0, 6.0, 8.0], "a word without a piece is where the one before it ends"
    assert programs.WORDS == predictions.WORDS
    assert verify.RULES == programs.RULES
    with pytest.raises(ValueError, match="does not say which they are"):
        programs.kept({"logits": values}, {}, {"logits": "words"})
    with pytest.raises(ValueError, match="has 5 positions, the words 6"):
        programs.kept({"logits": values[1:]}, {"words": words}, {"logits": "words"})


def logits(*rows: str, classes=BIO):
    return [{"logits": np.eye(len(classes))[[classes.index(tag) for tag in row.split()]]} for row in rows]


def test_agreement_is_of_spans_whoever_says_them():
    task = make("tasks", TASK).named(BIO)
    reference = logits("B-PER I-PER O", "O O")
    assert task.agrees(reference, reference).tolist() == [[1, 0, 0], [0, 0, 0]]
    assert task.agrees(logits("O O O", "O O"), reference).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert task.agrees(logits("B-PER O O", "O B-LOC"), reference).tolist() == [[0, 1, 1], [0, 1, 0]]
    nobody = make("tasks", TASK)
    assert nobody.agrees(logits("B-PER O O", "O O"), reference).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert (task.finds(reference), task.finds(logits("O O"))) == (1, 0)


def test_words_of_a_text_that_was_cut_are_missed():
    task = make("tasks", TASK).named(BIO)
    truth = task.truth([Example(Words.joined(["Ann", "in", "Oslo"]), Tags(("B-PER", "O", "B-LOC")))], BIO)
    assert task.statistics(logits("B-PER O"), truth).tolist() == [[1, 0, 1]]
    flat, wanted = predictions.by_word(logits("B-PER O"), truth, "logits")
    assert (len(flat), wanted.tolist()) == (2, [3, 0])


def test_the_baseline_is_a_dictionary():
    task = make("tasks", TASK).named(BIO)
    train, test = examples(sentences(200, seed=5)), examples(ROWS)
    f1 = task.metric.value(task.baseline(train, test, 0))
    assert 0.9 < f1 <= 1.0, "each word of these texts has one tag"
    assert task.metric.value(task.baseline(examples([(["x"], ["O"])]), test, 0)) == 0.0
