"""Trimmed vocabularies: the data's own texts keep their pieces, unseen words are spelled, ids and rules stay right."""

import json
import random

import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from edgekd.data.vocabulary import kept_ids, survey, trim_tokenizer

KINDS = ("WordPiece", "BPE", "ByteLevel", "Unigram")
LETTERS = "abcdefghij"
# special tokens stand behind pieces that no text uses, so that trimming must renumber them
HEAD = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[unused3]", "[SEP]"]
SPECIAL = [token for token in HEAD if "unused" not in token]
_random = random.Random(5)
_WORDS = ["".join(_random.choices(LETTERS, weights=range(10, 0, -1), k=_random.randint(1, 8))) for _ in range(60)]
CORPUS = [" ".join(_random.choices(_WORDS, k=8)) for _ in range(40)] + [LETTERS, LETTERS[::-1]]
sentences = st.lists(st.sampled_from(CORPUS), min_size=1, max_size=6)
words = st.text(LETTERS, min_size=1, max_size=12)


def _trained(kind):
    model, trainer = {
        "WordPiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer),
        "BPE": (models.BPE(unk_token="[UNK]"), trainers.BpeTrainer),
        "ByteLevel": (models.BPE(), trainers.BpeTrainer),
        "Unigram": (models.BPE(), trainers.BpeTrainer),  # its own trainer is not deterministic
    }[kind]
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = {
        "WordPiece": pre_tokenizers.Whitespace(),
        "BPE": pre_tokenizers.Whitespace(),
        "ByteLevel": pre_tokenizers.ByteLevel(add_prefix_space=True),
        "Unigram": pre_tokenizers.Metaspace(),
    }[kind]
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if kind == "ByteLevel" else {}
    size = 400 if kind == "ByteLevel" else 150
    tokenizer.train_from_iterator(CORPUS, trainer(vocab_size=size, show_progress=False, **options))
    return tokenizer


def _with_head(kind):
    """A trained tokenizer with `HEAD` before its pieces and a post-processor that names special tokens by id."""
    tokenizer = _trained(kind)
    spec = json.loads(tokenizer.to_str())["model"]
    if kind == "Unigram":
        # scores that floats hold exactly: equal paths stay equal
        scored = [(piece, -(4 + number / 64) * (1 + (len(piece) == 1))) for number, piece in enumerate(spec["vocab"])]
        model = models.Unigram([(piece, -20.0) for piece in HEAD] + scored, unk_id=3)
    else:
        vocabulary = {piece: number for number, piece in enumerate(HEAD)}
        vocabulary |= {piece: number + len(HEAD) for piece, number in spec["vocab"].items()}
        merges = {"merges": [tuple(pair) for pair in spec["merges"]]} if "merges" in spec else {}
        model = type(tokenizer.model)(vocabulary, **merges, unk_token="[UNK]")
    tokenizer.model = model
    tokenizer.add_special_tokens(SPECIAL)
    ids = {token: HEAD.index(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = {
        "WordPiece": processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])),
        "BPE": processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=list(ids.items())
        ),
        "ByteLevel": processors.RobertaProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])),
        "Unigram": processors.Sequence(
            [processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=list(ids.items()))]
        ),
    }[kind]
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def original(request, tmp_path_factory):
    file = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    _with_head(request.param).save(str(file))
    return file


def trimmed(file, texts, limit=None):
    """The tokenizer before, after, and the ids that were kept."""
    kept = kept_ids(file, texts, limit=limit)
    trim_tokenizer(file, kept, file.with_name("trimmed.json"))
    return Tokenizer.from_file(str(file)), Tokenizer.from_file(str(file.with_name("trimmed.json"))), kept


@fast
@given(texts=sentences)
def test_the_texts_keep_their_pieces(original, texts):
    before, after, kept = trimmed(original, texts)
    assert kept == sorted(set(kept))
    assert after.get_vocab_size() == len(kept) < before.get_vocab_size()
    for text in texts:
        old, new = before.encode(text), after.encode(text)
        assert new.tokens == old.tokens
        assert [kept[id_] for id_ in new.ids] == old.ids
        assert (new.tokens[0], new.tokens[-1]) == ("[CLS]", "[SEP]")


@fast
@given(texts=sentences, word=words, limit=st.none() | st.integers(0, 60))
def test_unseen_words_are_spelled_rather_than_lost(original, texts, word, limit):
    _, after, _ = trimmed(original, texts, limit)
    pieces = after.encode(word, add_special_tokens=False).tokens
    assert "[UNK]" not in pieces
    assert "".join(piece.removeprefix("##").strip("Ġ▁") for piece in pieces) == word


def test_an_unknown_character_is_still_unknown(original):
    before, after, kept = trimmed(original, CORPUS)
    old, new = (tokenizer.encode(f"{CORPUS[0]} é") for tokenizer in (before, after))
    assert old.tokens != before.encode(CORPUS[0]).tokens
    assert [kept[id_] for id_ in new.ids] == old.ids


def test_special_tokens_move_with_their_ids(original):
    before, after, kept = trimmed(original, CORPUS[:1])
    assert [after.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3]
    assert not any(after.token_to_id(token) for token in HEAD if token not in SPECIAL)
    spec = json.loads(after.to_str())
    assert {token["content"]: token["id"] for token in spec["added_tokens"]} == {
        token: kept.index(before.token_to_id(token)) for token in SPECIAL
    }


def test_a_limit_keeps_the_most_frequent_pieces(original):
    seldom, often = CORPUS[:4], CORPUS[4:6]
    before, _, kept = trimmed(original, seldom + often * 50, limit=0)
    indispensable = len(kept)
    assert all(len(before.id_to_token(id_).removeprefix("##")) == 1 for id_ in kept if id_ >= len(HEAD))
    pieces = set(before.encode_batch(often)[0].ids + before.encode_batch(often)[1].ids) - set(kept)
    few = kept_ids(original, seldom + often * 50, limit=indispensable + len(pieces))
    assert pieces <= set(few) < set(kept_ids(original, seldom + often * 50))


def test_truncation_and_padding_of_the_file_hide_nothing(original):
    tokenizer = Tokenizer.from_file(str(original))
    lengths = [len(tokenizer.encode(text).ids) for text in CORPUS]
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(original.with_name("short.json")))
    assert survey(original.with_name("short.json"), CORPUS) == (lengths, kept_ids(original, CORPUS))


def test_a_model_that_cannot_be_trimmed_stays_whole(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    before, after, kept = trimmed(tmp_path / "tokenizer.json", ["a"])
    assert kept == [0, 1, 2, 3]
    assert json.loads(after.to_str()) == json.loads(before.to_str())
