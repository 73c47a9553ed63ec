"""Augmentations: what a copy may be, that it follows from its row and the seed, and that it is new."""

from random import Random

import numpy as np
import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekd.core.registry import make, names, plugin
from edgekd.data import images, pixels
from edgekd.data.augment import augment
from edgekd.data.images import ChangedImage, ImageFile, decode, is_grey, read_images, sides
from edgekd.data.splits import Example

TEXT, IMAGE, SERIES = "text-classification", "image-classification", "time-series-classification"
TASK_OF = {"text": TEXT, "image": IMAGE, "series": SERIES}
OF_TASK = [(name, TASK_OF[one]) for name in names("augmentations") for one in plugin("augmentations", name).modalities]
WORDS = [
    "what",
    "who",
    "where",
    "is",
    "was",
    "the",
    "capital",
    "river",
    "city",
    "year",
    "country",
    "how",
    "far",
    "long",
]

of_images = pytest.mark.parametrize("name", [name for name, task in OF_TASK if task == IMAGE])
of_series = pytest.mark.parametrize("name", [name for name, task in OF_TASK if task == SERIES])
of_texts = pytest.mark.parametrize("name", [name for name, task in OF_TASK if task == TEXT])
every = pytest.mark.parametrize(("name", "task"), OF_TASK)
texts = st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), min_size=1, max_size=30).map(
    " ".join
)


def inputs_of(task, count=12):
    random = np.random.default_rng(5)
    if task == TEXT:
        return [" ".join(random.choice(WORDS, 9)) + f" {number}" for number in range(count)]
    if task == IMAGE:
        return [random.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(count)]
    return [random.normal(3, 2, (40, 2)).astype(np.float32) for _ in range(count)]


def rows_of(task, count=12):
    """Every third without a label."""
    labels = ("a", "b", None)
    return [Example(value, labels[number % 3]) for number, value in enumerate(inputs_of(task, count))]


def said(rows):
    return sorted((row.content, str(row.label)) for row in rows)


def made(name, value, others, seed=0):
    return make("augmentations", name)(value, others, Random(seed))


@every
def test_a_copy_is_new_and_of_its_kind_and_the_input_stays(name, task):
    first, *others = inputs_of(task)
    kept = first if task == TEXT else first.copy()
    copies = [made(name, first, others, seed) for seed in range(20)]
    if task == TEXT:
        assert all(isinstance(copy, str) and copy.split() for copy in copies)
        assert first not in copies
    else:
        assert np.array_equal(first, kept)
        assert {(copy.shape, copy.dtype) for copy in copies} == {(first.shape, first.dtype)}
        assert not any(np.array_equal(copy, first) for copy in copies)
        assert np.array_equal(copies[3], made(name, first, others, 3))
    distinct = {copy if task == TEXT else copy.tobytes() for copy in copies}
    assert len(distinct) > 5, "seeds make different copies"


@every
def test_one_that_does_not_borrow_needs_no_others(name, task):
    first, *others = inputs_of(task)
    if not getattr(plugin("augmentations", name), "borrows", False):
        assert np.array_equal(made(name, first, [], 1), made(name, first, others, 1))


@every
def test_copies_keep_their_rows_labels_and_repeat_nothing(name, task):
    rows = rows_of(task)
    copies = augment(rows, [(make("augmentations", name), 3)], seed=0)
    contents = {copy.content for copy in copies}
    assert len(contents) == len(copies)
    assert not contents & {row.content for row in rows}
    assert len(copies) > 2 * len(rows)
    for label in ("a", "b", None):
        of_label = augment([row for row in rows if row.label == label], [(make("augmentations", name), 3)], seed=0)
        borrows = getattr(plugin("augmentations", name), "borrows", False)
        assert {copy.label for copy in of_label} == {None if borrows else label}


@every
def test_copies_follow_from_seed_and_content_not_from_order(name, task):
    rows, steps = rows_of(task), [(make("augmentations", name), 2)]
    assert said(augment(rows, steps, seed=1)) == said(augment(rows[::-1], steps, seed=1))
    assert said(augment(rows, steps, seed=1)) != said(augment(rows, steps, seed=2))


@pytest.mark.parametrize(("name", "task"), [("word_dropout", TEXT), ("flip_crop", IMAGE), ("jitter", SERIES)])
def test_a_rows_copies_do_not_depend_on_other_rows(name, task):
    rows, steps = rows_of(task), [(make("augmentations", name), 2)]
    assert set(said(augment(rows[:4], steps, seed=1))) <= set(said(augment(rows, steps, seed=1)))


@every
def test_one_row_alone_borrows_nothing(name, task):
    borrows = getattr(plugin("augmentations", name), "borrows", False)
    copies = augment(rows_of(task, 1), [(make("augmentations", name), 2)], seed=0)
    assert len(copies) == (0 if borrows else 2)


def test_steps_add_up_and_nothing_makes_nothing():
    rows = rows_of(SERIES)
    jitter, scale = make("augmentations", "jitter"), make("augmentations", "scale")
    both = augment(rows, [(jitter, 1), (scale, 2)], seed=0)
    assert said(both) == said(augment(rows, [(jitter, 1)], seed=0) + augment(rows, [(scale, 2)], seed=0))
    assert len(both) == 3 * len(rows)
    assert augment(rows, [], seed=0) == augment([], [(jitter, 1)], seed=0) == augment(rows, [(jitter, 0)], seed=0) == ()


def test_a_copy_that_says_what_a_held_out_row_says_is_dropped():
    rows, steps = rows_of(TEXT), [(make("augmentations", "word_dropout"), 4)]
    free = augment(rows, steps, seed=0)
    held = [Example(free[0].input.upper() + " ?", "b"), Example(free[7].input, "a")]  # folded: case, punctuation
    assert said(augment(rows, steps, seed=0, apart_from=held)) == said([*free[1:7], *free[8:]])


def test_copies_of_short_texts_that_equal_each_other_are_one():
    (row,) = rows = [Example("two words", "a")]
    copies = augment(rows, [(make("augmentations", "word_dropout"), 9)], seed=0)
    assert {copy.input for copy in copies} == {"two", "words"}
    assert len(copies) == 2
    assert row == Example("two words", "a")
    assert augment([Example("word")], [(make("augmentations", "word_dropout"), 9)], seed=0) == ()


# texts


@of_texts
@fast
@given(value=texts, others=st.lists(texts, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_texts_are_never_empty_and_hold_only_words_that_were_there(name, value, others, seed):
    copy = made(name, value, others, seed).split()
    assert copy
    assert set(copy) <= {word for text in (value, *others) for word in text.split()}
    assert set(copy) & set(value.split())


@fast
@given(value=texts, seed=st.integers(0, 99), share=st.floats(0, 1))
def test_word_dropout_keeps_the_order_and_all_but_a_share(value, seed, share):
    words = value.split()
    copy = make("augmentations", "word_dropout", share=share)(value, [], Random(seed)).split()
    rest = iter(words)
    assert all(word in rest for word in copy), "a subsequence"
    if len(words) > 1:
        assert len(copy) == max(1, min(len(words) - 1, round(len(words) * (1 - share))))


@fast
@given(count=st.integers(2, 40), seed=st.integers(0, 99))
def test_word_swap_changes_a_share_of_the_places(count, seed):
    copy = made("word_swap", " ".join(["own"] * count), ["other words", "more"], seed).split()
    assert len(copy) == count
    assert sum(word != "own" for word in copy) == min(count - 1, max(1, round(count * 0.2)))


def test_splice_by_hand():
    assert made("splice", "a b c d e", ["1 2 3 4 5 6"]) == "a b c 4 5 6"
    first, second = np.zeros((5, 1), np.float32), np.ones((5, 1), np.float32)
    assert made("splice", first, [second])[:, 0].tolist() == [0, 0, 0, 1, 1]


# images


@of_images
@fast
@given(height=st.integers(1, 9), width=st.integers(1, 9), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_an_image_of_any_size_keeps_it(name, height, width, channels, seed):
    random = np.random.default_rng(seed)
    own, other = (
        random.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in ((height, width), (width + 2, 3))
    )
    copy = made(name, own, [other], seed)
    assert (copy.shape, copy.dtype) == (own.shape, np.uint8)


@fast
@given(seed=st.integers(0, 999))
def test_flip_crop_and_shift_only_move_what_is_there(seed):
    image = np.arange(200, dtype=np.uint8).reshape(10, 20, 1)
    for name in ("flip_crop", "shift"):
        copy = made(name, image, [], seed)
        assert set(copy.ravel().tolist()) <= set(image.ravel().tolist())
        inner = copy[1:-1, 2:-2, 0].astype(int)  # no edge reaches further than a tenth
        assert (np.diff(inner, axis=0) == 20).all()
        steps = set(np.diff(inner, axis=1).ravel().tolist())
        assert steps == {1} or (steps == {-1} and name == "flip_crop")


def test_flip_crop_mirrors_about_half():
    image = np.arange(100, dtype=np.uint8).reshape(1, 100, 1)
    mirrored = [
        made("flip_crop", image, [], seed)[0, 50, 0] > made("flip_crop", image, [], seed)[0, 60, 0]
        for seed in range(100)
    ]
    assert 30 < sum(mirrored) < 70


def test_brightness_by_hand():
    image = np.array([[[0], [100], [250]]], dtype=np.uint8)
    factors = set()
    for seed in range(50):
        black, grey, light = made("brightness", image, [], seed).ravel().tolist()
        assert black == 0
        assert 60 <= grey <= 90 or 110 <= grey <= 140
        assert light == 255 or light == pytest.approx(grey * 2.5, abs=2)
        factors.add(grey > 100)
    assert factors == {True, False}


def test_mix_lies_between_both_and_nearer_its_own():
    own, other = np.full((6, 4, 1), 40, np.uint8), np.full((3, 9, 1), 240, np.uint8)
    values = {int(value) for seed in range(50) for value in np.unique(made("mix", own, [other], seed))}
    assert min(values) >= 40 + 200 * 0.1 - 1
    assert max(values) <= 40 + 200 * 0.5 + 1
    first, second = np.zeros((5, 2), np.float32), np.ones((5, 2), np.float32)
    assert 0.1 <= made("mix", first, [second]).max() <= 0.5


def image_folder(folder, count=8):
    for number, pixel_values in enumerate(inputs_of(IMAGE, count)):
        (folder / "ab"[number % 2]).mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixel_values).save(folder / "ab"[number % 2] / f"{number}.png")
    return folder


@of_images
def test_images_are_opened_only_when_a_copy_is_decoded(name, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    table = read_images(str(image_folder(tmp_path / "images")))["all"]
    opened, open_one = [], images._opened
    monkeypatch.setattr(images, "_opened", lambda source: opened.append(source) or open_one(source))
    rows = [Example(row["image"], row["label"]) for row in table]
    (copy, *rest) = augment(rows, [(make("augmentations", name), 2)], seed=0)
    assert isinstance(copy.input.source, ImageFile)
    assert sides(copy.input) == (20, 24)
    assert not is_grey(copy.input)
    assert len({each.identity for each in [*rows, copy, *rest]}) == 3 * len(rows)
    assert opened == [], "to make, name and compare copies no image is opened"
    first = decode(copy.input, 3)
    assert len(opened) == (2 if plugin("augmentations", name) is plugin("augmentations", "mix") else 1)
    assert np.array_equal(first, decode(copy.input, 3)), "a copy is the same each time"
    assert not np.array_equal(first, decode(copy.input.source, 3))
    assert decode(copy.input, 1).shape == (20, 24, 1)


@of_images
def test_teacher_and_student_see_the_same_view(name):
    grey = [Example(image[..., 0]) for image in inputs_of(IMAGE)]
    (copy, *_) = augment(grey, [(make("augmentations", name), 1)], seed=0)
    assert is_grey(copy.input)
    assert np.array_equal(decode(copy.input, 3), decode(copy.input, 1).repeat(3, axis=2))


def test_a_copy_that_borrows_is_grey_only_where_both_are():
    colour, grey = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    mix = make("augmentations", "mix")
    assert [is_grey(ChangedImage(grey, partner, mix, "0")) for partner in (None, grey, colour)] == [True, True, False]
    assert not is_grey(ChangedImage(colour, grey, mix, "0"))


def test_copies_are_prepared_as_images_are(tmp_path):
    pixels.write_config(tmp_path, 16, mean=(0.5,) * 3, std=(0.5,) * 3)
    rows = rows_of(IMAGE, 4)
    copies = augment(rows, [(make("augmentations", "flip_crop"), 1), (make("augmentations", "mix"), 1)], seed=0)
    lazy = pixels.prepare(tmp_path, [copy.input for copy in copies], decode)
    eager = pixels.prepare(tmp_path, [decode(copy.input, 3) for copy in copies], decode)
    assert lazy.images.shape == (8, 3, 16, 16)
    assert np.array_equal(lazy.images, eager.images)


# series


@of_series
@fast
@given(steps=st.integers(8, 60), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_series_of_any_size_keeps_it_and_stays_finite(name, steps, channels, seed):
    own, other = np.random.default_rng(seed).normal(0, 1e4, (2, steps, channels)).astype(np.float32)
    copy = made(name, own, [other], seed)
    assert (copy.shape, copy.dtype) == (own.shape, np.float32)
    assert np.isfinite(copy).all()
    reach = max(np.abs(own).max(), np.abs(other).max())
    assert np.abs(copy).max() < 2 * reach


def test_jitter_is_a_share_of_each_channels_deviation():
    random = np.random.default_rng(0)
    series = (random.normal(size=(4000, 3)) * [1, 50, 0] + [0, 9, 7]).astype(np.float32)
    noise = made("jitter", series, []) - series
    assert noise.std(axis=0).tolist() == pytest.approx([0.1, 5, 0], rel=0.1)
    assert (noise[:, 2] == 0).all()


def test_scale_keeps_the_mean_and_the_form():
    series = inputs_of(SERIES)[0]
    for seed in range(30):
        copy = made("scale", series, [], seed)
        factor = copy.std(axis=0) / series.std(axis=0)
        assert copy.mean(axis=0) == pytest.approx(series.mean(axis=0), abs=1e-4)
        assert factor[0] == pytest.approx(factor[1], rel=1e-4)
        assert 0.05 - 1e-4 <= abs(factor[0] - 1) <= 0.2 + 1e-4


@fast
@given(seed=st.integers(0, 999))
def test_shift_of_a_series_repeats_its_edge(seed):
    series = np.arange(50, dtype=np.float32)[:, None]
    copy = made("shift", series, [], seed)[:, 0]
    distance = 25 - int(copy[25])
    assert 1 <= abs(distance) <= 5
    assert np.array_equal(copy, (np.arange(50) - distance).clip(0, 49))
