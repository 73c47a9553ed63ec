"""A corpus: which documents it holds, that no two splits share one, and what is refused; passages packed in one row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core import statistics
from edgekd.core.errors import DataError, TeacherError
from edgekd.core.metrics import BITS_PER_BYTE, NEXT_TOKEN
from edgekd.data import corpus, packed
from edgekd.data.corpus import read_corpus
from edgekd.data.splits import Example
from tests.helpers import fast
from tests.tiny_language import SENTENCES, save_tokenizer, text_of


def folder_of(path: Path, count: int = 20, sentences: int = 60) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (path / f"story-{number:02}.txt").write_text(text_of(number, sentences), encoding="utf-8")
    return path


def documents(tables: dict) -> dict[str, set[str]]:
    return {part: {row["document"] for row in table} for part, table in tables.items()}


def test_a_folder_is_split_by_document(tmp_path: Path) -> None:
    tables = read_corpus(str(folder_of(tmp_path / "stories")))
    held = documents(tables)
    assert set(held) == {"train", "validation", "test"}
    assert all(held.values())
    assert not held["train"] & held["test"] | held["train"] & held["validation"] | held["test"] & held["validation"]
    assert set.union(*held.values()) == {f"story-{number:02}.txt" for number in range(20)}
    texts = dict.fromkeys(held["train"], "")
    for row in tables["train"]:
        texts[row["document"]] += row["text"]
    assert texts == {name: (tmp_path / "stories" / name).read_text() for name in texts}, "passages lose nothing"
    assert any("split by document" in note for note in tables["train"].notes)


def test_the_split_depends_on_content_alone(tmp_path: Path) -> None:
    first = documents(read_corpus(str(folder_of(tmp_path / "a"))))
    more = folder_of(tmp_path / "b")
    (more / "new.txt").write_text(text_of(99, 60))
    second = documents(read_corpus(str(more)))
    assert all(first[part] <= second[part] for part in first), "one more document moves no other"


def test_documents_that_repeat_others_are_dropped_and_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "stories")
    (folder / "zz-copy.txt").write_text("  " + text_of(3, 60).upper())
    tables = read_corpus(str(folder))
    assert "1 documents dropped because they repeat another one" in tables["train"].notes
    assert "zz-copy.txt" not in set.union(*documents(tables).values())


def test_given_splits_stay_and_training_loses_what_is_held_out(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("validation", 20), ("test", 30)):
        for number in range(first, first + 10):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / f"{number}.txt").write_text(text_of(number, 30))
    (tmp_path / "train" / "again.md").write_text(text_of(31, 30))
    held = documents(read_corpus(str(tmp_path)))
    assert {name.partition("/")[0] for name in held["test"]} == {"test"}
    assert "test/31.txt" in held["test"]
    assert "train/again.md" not in held["train"]


def test_a_missing_split_is_carved_from_training(tmp_path: Path) -> None:
    folder_of(tmp_path / "train")
    folder_of(tmp_path / "test", 2)  # which training loses
    held = documents(read_corpus(str(tmp_path)))
    assert held["test"] == {"test/story-00.txt", "test/story-01.txt"}
    assert held["validation"]
    assert len(held["train"]) + len(held["validation"]) == 18


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "saved"])
def test_rows_of_a_table_are_documents(tmp_path: Path, suffix: str) -> None:
    import datasets

    rows = [{"id": number, "text": text_of(number, 30)} for number in range(12)] + [{"id": 12, "text": ""}]
    made = datasets.Dataset.from_list(rows)
    place = tmp_path / f"corpus.{suffix}"
    if suffix == "jsonl":
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "saved":
        made.save_to_disk(str(place))
    else:
        {"csv": made.to_csv, "parquet": made.to_parquet}[suffix](str(place))
    tables = read_corpus(str(place))
    assert set.union(*documents(tables).values()) == {f"all/{number}" for number in range(1, 13)}
    assert "1 documents without text left out" in tables["train"].notes
    assert tables["train"].columns.input == "text"
    assert tables["train"].columns.left_out == ("id",)


def test_one_file_holds_documents_between_separators(tmp_path: Path) -> None:
    place = tmp_path / "all.txt"
    place.write_text("\n<|endoftext|>\n".join(text_of(number, 20) for number in range(9)) + "\n<|endoftext|>\n")
    assert sum(map(len, documents(read_corpus(str(place))).values())) == 9


def test_one_document_is_refused_and_its_fix_works(tmp_path: Path) -> None:
    place = tmp_path / "novel.txt"
    place.write_text(text_of(1, 400))
    with pytest.raises(DataError, match="holds one document; at least 3") as caught:
        read_corpus(str(place))
    assert "<|endoftext|>" in caught.value.fix
    place.write_text("\n<|endoftext|>\n".join(text_of(number, 20) for number in range(3)))
    tables = read_corpus(str(place))
    assert {part: len(names) for part, names in documents(tables).items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert any("says little" in note for note in tables["train"].notes)


@pytest.mark.parametrize("content", ["", " \n\t\n", "<|endoftext|>\n<|endoftext|>\n"])
def test_a_corpus_without_text_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "none.txt").write_text(content)
    with pytest.raises(DataError, match=r"holds no text|holds one document|holds 0"):
        read_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(DataError):
        read_corpus(str(tmp_path))


def test_an_empty_folder_and_odd_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text file"):
        read_corpus(str(tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"text": ["a", "b"]}\n' * 4)
    with pytest.raises(DataError, match="row 1: the text column 'text' holds"):
        read_corpus(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_text('{"title": "a"}\n' * 4)
    with pytest.raises(DataError, match="no text column") as caught:
        read_corpus(str(tmp_path / "rows.jsonl"))
    assert "--text-column title" in caught.value.fix


def test_a_long_held_out_split_is_scored_in_part_over_all_its_documents(tmp_path: Path) -> None:
    tables = read_corpus(str(folder_of(tmp_path, 40, 600)))
    assert len(tables["test"]) == corpus.HELD_OUT_PASSAGES
    counts = [sum(row["document"] == name for row in tables["test"]) for name in documents(tables)["test"]]
    assert max(counts) - min(counts) <= 1
    assert any(note.startswith("test: 128 of the") for note in tables["train"].notes)


def test_of_many_held_out_documents_some_are_scored_whatever_their_order(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("validation", 20), ("test", 300)):
        rows = [{"text": text_of(number + 1000 * len(part), 2 + number // 60)} for number in range(count)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = read_corpus(str(tmp_path))
    assert len(tables["test"]) == len(documents(tables)["test"]) == 128
    assert max(int(name.partition("/")[2]) for name in documents(tables)["test"]) > 250, "not the first ones"
    assert len(tables["validation"]) == 20


@fast
@given(st.text(max_size=400), st.integers(4, 60))
def test_passages_joined_are_the_text(text: str, most: int) -> None:
    pieces = corpus.passages(text, most)
    assert "".join(pieces) == text
    assert all(piece.strip() for piece in pieces) or not text.strip()
    blank = sum(map(len, text.encode().split())) < len(text.encode())
    assert all(len(piece.encode()) <= most for piece in pieces) or blank or not text.isascii()


def test_tokens_of_passages_are_those_of_the_text(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path)
    text = text_of(5, 80)
    pieces = corpus.passages(text, 200)
    ids = [packed.encode(folder, [piece], 512)[0]["input_ids"][0, 1:] for piece in pieces]
    assert len(pieces) > 5
    np.testing.assert_array_equal(np.concatenate(ids), packed.encode(folder, [text], 10_000)[0]["input_ids"][0, 1:])


def test_a_text_begins_with_a_mark_and_is_never_cut(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path)
    [sample] = packed.encode(folder, [SENTENCES[0]], 64)
    assert sample["input_ids"].shape[0] == 1
    assert sample["input_ids"][0, 0] == 0
    with pytest.raises(DataError, match="above 4") as caught:
        packed.encode(folder, [SENTENCES[0]], 4)
    wanted = int(caught.value.fix.rpartition(" ")[2])
    assert packed.encode(folder, [SENTENCES[0]], wanted).lengths.tolist() == [wanted]
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": None, "bos_token": None}))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(TeacherError, match="neither a bos nor an eos"):
        packed.encode(folder, [SENTENCES[0]], 64)


def test_packed_rows_hold_every_sample_once(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    samples = [{"input_ids": draw.integers(1, 50, (1, int(size)))} for size in draw.integers(1, 40, 50)]
    samples.append({"input_ids": draw.integers(1, 50, (1, 90))})
    rows, held = packed.pack(samples, 64)
    assert sorted(number for numbers in held for number in numbers) == list(range(51))
    assert max(row["input_ids"].shape[1] for row in rows if row["input_ids"].shape[1] != 90) <= 64
    assert len(rows) <= 1.25 * sum(sample["input_ids"].shape[1] for sample in samples) / 64
    for row, numbers in zip(rows, held, strict=True):
        ends = np.flatnonzero(row["position_ids"][0] == 0)
        parts = np.split(row["input_ids"][0], ends[1:])
        for part, number in zip(parts, numbers, strict=True):
            np.testing.assert_array_equal(part, samples[number]["input_ids"][0])


def test_a_packed_row_says_what_its_passages_say_alone() -> None:
    """Nothing is seen across passages: not by attention, not by position."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **shape)).eval()
    draw = np.random.default_rng(1)
    samples = [{"input_ids": draw.integers(1, 50, (1, size))} for size in (5, 9, 3)]
    [row], _ = packed.pack(samples, 32)
    with torch.no_grad():
        together = model(**{name: torch.from_numpy(value) for name, value in row.items()}, use_cache=False).logits[0]
        alone = [model(torch.from_numpy(one["input_ids"]), use_cache=False).logits[0] for one in samples]
        leaking = model(torch.from_numpy(row["input_ids"]), use_cache=False).logits[0]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert (leaking - together).abs().max() > 1e-3, "without positions it would be seen"


def test_bits_per_byte_is_a_sum_over_a_sum() -> None:
    said = [
        {"nll": np.log([2.0, 2.0, 4.0]), "top": np.array([1, 2, 3]), "next": np.array([1, 2, 9])},
        {"nll": np.log([16.0]), "top": np.array([4]), "next": np.array([4])},
    ]
    rows = [Example("abcdef", "one"), Example("é", "two")]
    truth = corpus.truth(rows)
    assert truth.tolist() == [[6, 0], [2, 1]], "bytes of UTF-8, and the document"
    table = statistics.next_token_statistics(said, truth)
    assert table.tolist() == [[4, 6, 2, 3, 0], [4, 2, 1, 1, 1]]
    assert BITS_PER_BYTE.value(table) == pytest.approx(8 / 8), "a mean over rows would say 1.33"
    assert BITS_PER_BYTE.by_row(table).tolist() == pytest.approx([4 / 6, 2])
    agreed = statistics.next_token_agreement(said, [{**said[0], "top": np.array([1, 0, 3])}, said[1]])
    assert NEXT_TOKEN.value(agreed) == pytest.approx(3 / 4)
    other = [{**said[0], "next": np.array([1, 2]), "top": np.array([1, 2])}, said[1]]
    assert NEXT_TOKEN.value(statistics.next_token_agreement(said, other)) == pytest.approx(1 / 3)


def test_the_interval_is_by_document() -> None:
    """Passages of one document are drawn together: many of them are no more documents."""
    draw = np.random.default_rng(0)
    bits = draw.uniform(0.8, 1.4, 10)
    table = np.array([[100 * bits[row % 10], 100, 1, 2, row % 10] for row in range(400)])
    low, high = BITS_PER_BYTE.interval(table)
    ten = table[:10].copy()
    assert (low, high) == pytest.approx(BITS_PER_BYTE.interval(ten))
    alone = table.copy()
    alone[:, -1] = range(400)
    narrow = BITS_PER_BYTE.interval(alone)
    assert high - low > 4 * (narrow[1] - narrow[0])
    worse = table.copy()
    worse[:, 0] += 10
    lost = BITS_PER_BYTE.lost(worse, table)
    percent = 100 * 0.1 / BITS_PER_BYTE.value(table)
    assert lost.points == pytest.approx(percent)
    assert 0.8 * percent < lost.low < percent < lost.high
    gained = BITS_PER_BYTE.gained_over_seeds(np.stack([worse, worse]), np.stack([table, table]))
    assert gained[0] == pytest.approx(100 - 100 / (1 + percent / 100))
    assert 0 < gained[1] < gained[0] < gained[2]
    assert BITS_PER_BYTE.moved(worse, table) == pytest.approx((0.1, 0.1, 0.1))
    assert BITS_PER_BYTE.lost_further((worse, table), (table, table))[0] == pytest.approx(percent)
    same = BITS_PER_BYTE.lost(table, table)
    assert same.points == 0
    assert same.high == -same.low > 10, "ten documents leave 30% open"
    kept = BITS_PER_BYTE.retained(table, table)
    assert kept.low < 0.8 < 1.2 < kept.high, "ten documents that agree, and not 400"
