"""Splits: disjoint by content, nothing lost but what the notes count, and DESIGN's contract on labels and leaks."""

import re
from collections import Counter

import pytest
from helpers import fast
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekd.core.errors import DataError
from edgekd.data.splits import Example, split, stratified

LABELS = "abc"
ROLES = ("train", "unlabelled", "selection", "calibration", "test")
SPELLINGS = ("Where is {0} hidden?", "where is {0}, hidden", "  WHERE\tIS {0} ... hidden")


def rows(count, *, start=0, labels=LABELS):
    """Distinct rows; labels go round, None where `labels` is empty."""
    numbers = range(start, start + count)
    return [Example(SPELLINGS[0].format(n), labels[n % len(labels)] if labels else None) for n in numbers]


def contents(found):
    return [row.content for row in found]


def dropped(splits):
    return sum(int(re.match(r"\d+", note)[0]) for note in splits.notes if " dropped" in note)


def assert_disjoint(splits):
    seen = Counter(content for role in ROLES for content in set(contents(getattr(splits, role))))
    assert not [content for content, roles in seen.items() if roles > 1]


@st.composite
def repetitive(draw, start, count):
    """Rows of which some repeat others in another spelling; some have no label."""
    made = rows(count, start=start)
    again = draw(st.lists(st.tuples(st.integers(start, start + count - 1), st.sampled_from(SPELLINGS)), max_size=40))
    made += [Example(spelling.format(n), LABELS[n % 3]) for n, spelling in again]
    made += rows(draw(st.integers(0, 30)), start=start + count, labels="")
    return draw(st.permutations(made))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("What IS this?", "what is\tthis", True),
        ("What's this", "what s this", False),
        ("Maße", "Masse", False),
        ("caf\u00e9", "cafe\u0301", True),
        ("C++", "C", False),
        ("C++", "C#", False),
        ("a < b", "a > b", False),
        ("2 + 2", "2 - 2", False),
        ("fine :)", "fine :(", False),
        ("fine \U0001f600", "fine \U0001f622", False),
        ("\u0915\u093f", "\u0915\u0940", False),  # Devanagari ki and kii: the vowel signs differ
        ("\u0e01\u0e48\u0e32", "\u0e01\u0e49\u0e32", False),  # Thai: the tone marks differ
        ("m\u00e1", "m\u00e0", False),  # Vietnamese
        ("\u05e9\u05c1", "\u05e9\u05c2", False),  # Hebrew shin and sin
        ("\u0643\u064e\u062a\u0628", "\u0643\u064f\u062a\u0628", False),  # Arabic short vowels
        ("x\u00b2", "x2", False),
        ("wait...", "wait", False),
        ("no!!", "no", False),
        ("naïve", "naive", False),
        ("?!", " ?! ", True),
        ("?!", "!?", False),
        ("12", "1 2", False),
    ],
)
def test_content_folds_case_space_and_a_final_mark_alone(first, second, same):
    assert (Example(first, "a").content == Example(second, "b").content) is same


@fast
@given(given_rows=repetitive(0, 120), seed=st.integers(0, 9))
def test_one_file_is_split_without_loss_or_leak(given_rows, seed):
    splits = split({"all": given_rows}, labels=None, seed=seed)
    assert_disjoint(splits)
    assert sum(splits.counts.values()) + dropped(splits) == len(given_rows)
    for role in ROLES:
        assert len(set(contents(getattr(splits, role)))) == splits.counts[role]
    assert splits.classes == ("a", "b", "c")
    other = split({"all": given_rows[::-1]}, labels=None, seed=seed + 1)
    assert set(contents(splits.test)) == set(contents(other.test)), "content decides, neither order nor seed"


@fast
@given(
    train=repetitive(0, 60),
    validation=st.sets(st.integers(60, 95), min_size=20),
    shared=st.integers(0, 1),
    test=st.integers(40, 60),
    leaks=st.integers(0, 2),
)
def test_given_splits_stay_as_they_are(train, validation, shared, test, leaks):
    given_rows = {
        "train": train,
        "validation": [row for n in sorted(validation) for row in rows(1, start=n)] + rows(shared, start=30),
        "test": rows(test, start=200) + rows(leaks),
    }
    splits = split(given_rows, labels=None, seed=0)
    assert_disjoint(splits)
    assert list(splits.test) == given_rows["test"], "the test split is never touched"
    assert sorted(contents(splits.calibration + splits.selection)) == sorted(contents(given_rows["validation"]))
    # a labelled row is in training, once, unless another split holds its content
    elsewhere = set(contents(given_rows["test"] + given_rows["validation"]))
    seen_first = dict.fromkeys(contents(train))
    labelled = {row.content for row in {row.content: row for row in reversed(train)}.values() if row.label}
    assert contents(splits.train) == [c for c in seen_first if c in labelled and c not in elsewhere]
    assert any(note.endswith("dropped from training: in test, too") for note in splits.notes) == (leaks > 0)


@pytest.mark.parametrize("leaks", [1, 2])
def test_a_leak_is_dropped_from_training_or_refused_above_five_percent(leaks):
    again = [Example(row.input.upper(), row.label) for row in rows(leaks, start=100)]
    given_rows = {"train": rows(60) + again, "validation": rows(9, start=200), "test": rows(20, start=100)}
    if leaks == 1:
        splits = split(given_rows, labels=None, seed=0)
        assert splits.notes == ("1 row dropped from training: in test, too",)
        assert splits.counts == {"train": 60, "unlabelled": 0, "selection": 7, "calibration": 2, "test": 20}
        return
    with pytest.raises(DataError) as refusal:
        split(given_rows, labels=None, seed=0)
    assert refusal.value.message == (
        "2 of 20 distinct test rows also stand in training (texts with case, space and the final mark folded): "
        "a figure on this test split would mean nothing"
    )
    assert refusal.value.fix.startswith("remove repeated rows before splitting, or give one file")


@pytest.mark.parametrize("with_test", [True, False])
@pytest.mark.parametrize("shared", [1, 2])
def test_validation_rows_in_training_are_dropped_there_or_refused_above_five_percent(shared, with_test):
    again = [Example(row.input.upper(), row.label) for row in rows(shared, start=200)]
    given_rows = {"train": rows(120) + again * 2, "validation": rows(20, start=200)}
    given_rows |= {"test": rows(20, start=300)} if with_test else {}
    if shared == 1:
        splits = split(given_rows, labels=None, seed=0)
        assert splits.notes[-1] == "1 row dropped from training: in validation, too"
        assert contents(splits.calibration + splits.selection) == contents(given_rows["validation"])
        assert splits.counts["train"] + splits.counts["test"] == 120 + 20 * with_test
        assert_disjoint(splits)
        return
    with pytest.raises(DataError) as refusal:
        split(given_rows, labels=None, seed=0)
    assert refusal.value.message == (
        "2 of 20 distinct validation rows also stand in training (texts with case, space and the final mark folded): "
        "a figure on this validation split would mean nothing"
    )
    assert (
        refusal.value.fix
        == "remove repeated rows before splitting, or give one file and let edgekd split it by content"
    )


def test_unlabelled_rows_may_repeat_validation_rows_and_are_dropped():
    given_rows = {"train": rows(60), "validation": rows(20, start=100), "test": rows(20, start=200)}
    splits = split(given_rows | {"unlabelled": rows(30, start=105, labels="")}, labels=None, seed=0)
    assert splits.notes == ("15 rows dropped from training: in validation, too",)
    assert splits.counts["unlabelled"] == 15
    assert_disjoint(splits)


def test_a_validation_split_is_carved_from_training():
    splits = split({"train": rows(90), "test": rows(20, start=100)}, labels=None, seed=0)
    assert splits.notes == ("no validation split: 9 rows carved from training, stratified",)
    assert splits.counts == {"train": 81, "unlabelled": 0, "selection": 7, "calibration": 2, "test": 20}
    assert splits.selection_labelled
    assert {row.label for row in splits.selection + splits.calibration} == set(LABELS)
    assert_disjoint(splits)


def test_a_test_split_is_carved_by_content():
    splits = split({"train": rows(120), "unlabelled": rows(40, start=500, labels="")}, labels=None, seed=0)
    assert f"no test split: {len(splits.test)} training rows became it, by content hash" in splits.notes
    assert sum(splits.counts.values()) == 160
    assert_disjoint(splits)


@pytest.mark.parametrize("unlabelled", [0, 300])
def test_labels_keeps_that_many(unlabelled):
    given_rows = {"train": rows(150), "test": rows(20, start=1000), "unlabelled": rows(unlabelled, start=2000)}
    splits = split(given_rows, labels=60, seed=0)
    assert "60 labels kept, stratified; 90 training rows became unlabelled" in splits.notes
    held_out = 0 if unlabelled else 2  # of each class: with few unlabelled rows, selection uses labelled ones
    assert Counter(row.label for row in splits.train) == dict.fromkeys(LABELS, 20 - held_out)
    assert not any(row.label for row in splits.unlabelled)
    assert_disjoint(splits)
    assert sum(splits.counts.values()) == 170 + unlabelled
    assert split(given_rows, labels=60, seed=1).train != splits.train
    assert split(given_rows, labels=60, seed=0) == splits


@pytest.mark.parametrize(
    "given_rows",
    [{"all": rows(1000)}, {"train": rows(400), "validation": rows(30, start=500), "test": rows(20, start=600)}],
    ids=["one file", "given splits"],
)
def test_labels_counts_every_label_outside_the_test_split(given_rows):
    splits = split(given_rows, labels=60, seed=0)
    seen = splits.train + splits.unlabelled + splits.selection + splits.calibration
    assert sum(row.label is not None for row in seen) == len(splits.train) == 60
    assert not splits.selection_labelled
    assert_disjoint(splits)


def test_a_given_validation_split_is_not_trained_on_however_many_rows_are_unlabelled():
    given_rows = {"train": rows(60), "validation": rows(9, start=100), "test": rows(20, start=200)}
    splits = split(given_rows | {"unlabelled": rows(300, start=1000, labels="")}, labels=None, seed=0)
    assert splits.counts == {"train": 60, "unlabelled": 300, "selection": 7, "calibration": 2, "test": 20}
    assert splits.selection_labelled


def test_many_unlabelled_rows_are_held_back_for_selection_and_calibration():
    loose = rows(1000, start=2000, labels="")
    given_rows = {"train": rows(60), "test": rows(20, start=1000), "unlabelled": loose}
    splits = split(given_rows, labels=None, seed=0)
    assert splits.counts == {"train": 60, "unlabelled": 850, "selection": 113, "calibration": 37, "test": 20}
    assert not splits.selection_labelled
    assert splits.notes == (
        "150 unlabelled rows held back: 113 for selection (by agreement with the teacher), 37 for calibration",
    )
    assert_disjoint(splits)
    assert split(given_rows | {"unlabelled": loose[::-1]}, labels=None, seed=0) == splits


def test_repeated_unlabelled_rows_are_counted():
    given_rows = {"train": rows(60), "test": rows(20, start=1000), "unlabelled": rows(10, start=300) * 2 + rows(5)}
    splits = split(given_rows, labels=None, seed=0)
    assert "15 unlabelled rows dropped: another says the same" in splits.notes
    assert splits.counts["unlabelled"] == 10


@fast
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6), count=st.integers(2, 80), seed=st.integers(0, 99))
def test_stratified_keeps_count_and_every_class(sizes, count, seed):
    pool = [Example(f"row {label} {n}", str(label)) for label, size in enumerate(sizes) for n in range(size)]
    assume(min(sizes) * count >= len(pool))  # no class is owed less than one row
    kept = stratified(pool, count, seed)
    assert len(kept) == len(set(kept)) == min(count, len(pool))
    share = min(1, count / len(pool))
    found = Counter(row.label for row in kept)
    assert all(abs(found[str(label)] - size * share) < 1 for label, size in enumerate(sizes))
    assert stratified(pool, count, seed) == kept


def test_what_rounding_leaves_over_goes_to_the_class_that_lost_most():
    pool = [Example(f"row {n}", "a" if n < 8 else "b") for n in range(15)]
    assert Counter(row.label for row in stratified(pool, 7, seed=0)) == {"a": 4, "b": 3}  # owed 3.7 and 3.3


USABLE = {"train": rows(60), "validation": rows(9, start=100), "test": rows(20, start=200)}


@pytest.mark.parametrize(
    ("changed", "classes", "problem", "fix"),
    [
        (
            {"train": rows(60, labels="a")},
            None,
            "all 60 training rows have one class, 'a'",
            "give rows of at least two classes, or name the right column with --label-column",
        ),
        (
            {"train": rows(60, labels="")},
            None,
            "no training row has a label",
            "give labelled rows, or name the column: --label-column",
        ),
        (
            {"test": rows(20, start=200, labels="ax")},
            None,
            "the test rows have labels that no training row has: 'x'",
            "use the labels 'a', 'b', 'c'",
        ),
        (
            {"validation": rows(14, start=100, labels="qrstuvw")},
            None,
            "the validation rows have labels that no training row has: 'q', 'r', 's', 't', 'u' and 2 more",
            "use the labels 'a', 'b', 'c'",
        ),
        (
            {},
            ["b", "a"],
            "the training rows have labels that the teacher does not know: 'c'",
            "use the labels 'a', 'b'; or give a base model as teacher, which is fine-tuned on your labels",
        ),
        (
            {"train": rows(7)},
            None,
            "too few rows are left after splitting: 7 training rows; at least 8 are needed",
            "give more rows; a figure on so few would mean nothing",
        ),
        (
            {"validation": rows(4, start=100)},
            None,
            "too few rows are left after splitting: 3 selection rows; at least 4 are needed",
            "give more rows; a figure on so few would mean nothing",
        ),
        (
            {"test": rows(7, start=200)},
            None,
            "too few rows are left after splitting: 7 test rows; at least 8 are needed",
            "give more rows; a figure on so few would mean nothing",
        ),
    ],
)
def test_rows_that_prove_nothing_are_refused(changed, classes, problem, fix):
    with pytest.raises(DataError) as refusal:
        split(USABLE | changed, labels=None, seed=0, classes=classes)
    assert (refusal.value.message, refusal.value.fix) == (problem, fix)


def test_a_ready_teacher_keeps_the_order_of_its_classes():
    assert split(USABLE, labels=None, seed=0, classes=["c", "a", "d", "b"]).classes == ("c", "a", "d", "b")


def test_the_digest_covers_every_row_and_its_role():
    usual = split(USABLE, labels=None, seed=0)
    assert split(USABLE, labels=None, seed=7).digest == usual.digest
    others = [
        split(USABLE | {"test": rows(21, start=200)}, labels=None, seed=0),
        split(USABLE | {"train": [*rows(59), Example(rows(60)[-1].input, "a")]}, labels=None, seed=0),
        split(USABLE, labels=None, seed=0, classes=["b", "a", "c"]),
    ]
    assert len({usual.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize("named", [True, False])
def test_one_text_with_two_labels_is_told_with_an_example(named):
    given_rows = [*rows(200), Example("row twice", "a"), Example("Row  twice.", "b")]
    given_rows = {"train": given_rows, "test": rows(20, start=300)} if named else {"all": given_rows}
    notes = split(given_rows, labels=None, seed=0).notes
    assert "1 input has more than one label ('row twice': 'a', 'b'): the first of a split counts" in notes
