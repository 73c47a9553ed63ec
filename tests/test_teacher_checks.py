"""Teachers whose files belong together pass, whatever their tokenizer is; those put together from two are refused."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgekd.core.errors import TeacherError
from edgekd.teachers._checks import check_labels, check_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *"abcdefgh", "ab", "cd", "abcd"]
ROLES = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": {"content": "[SEP]", "lstrip": False}}
ROWS = len(PIECES)
BERT = {"model_type": "bert", "vocab_size": ROWS, "pad_token_id": 0}
EMBEDDINGS = {"bert.embeddings.word_embeddings.weight": [ROWS, 8]}


def _model(kind):
    numbers = {piece: number for number, piece in enumerate(PIECES)}
    merges = [("a", "b"), ("c", "d"), ("ab", "cd")]
    return {
        "WordPiece": lambda: models.WordPiece(numbers, unk_token="[UNK]"),
        "BPE": lambda: models.BPE(numbers, merges, unk_token="[UNK]"),
        "Unigram": lambda: models.Unigram([(piece, -1.0 * number) for piece, number in numbers.items()], unk_id=1),
    }[kind]()


def write(folder, kind, *, added=(), cls=2):
    """A folder with a tokenizer of that kind; `added` tokens stand behind its pieces."""
    tokenizer = Tokenizer(_model(kind))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(list(added))
    tokenizer.post_processor = {
        "WordPiece": processors.BertProcessing(("[SEP]", 3), ("[CLS]", cls)),
        "BPE": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", cls)),
        "Unigram": processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", 3)]
        ),
    }[kind]
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(ROLES))
    return folder


def why(folder, config, shapes=EMBEDDINGS):
    """What the refusal says."""
    with pytest.raises(TeacherError) as refusal:
        check_tokenizer(folder, config, shapes)
    return refusal.value


kinds = pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])


@kinds
def test_what_belongs_together_passes(tmp_path, kind):
    write(tmp_path, kind)
    check_tokenizer(tmp_path, BERT, EMBEDDINGS)
    check_tokenizer(tmp_path, BERT | {"cls_token_id": 2, "sep_token_id": 3}, EMBEDDINGS)
    check_tokenizer(tmp_path, BERT, {})  # a pickle, whose shapes are unknown
    padded = {"bert.embeddings.word_embeddings.weight": [ROWS + 1000, 8]}  # to a round number
    check_tokenizer(tmp_path, BERT | {"vocab_size": ROWS + 1000}, padded)


@kinds
def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path, kind):
    error = why(write(tmp_path, kind, added=["<user>"]), BERT)
    assert error.message == (
        f"the model and the tokenizer in {tmp_path} do not belong together: the tokenizer has ids up to {ROWS}, "
        f"the model embeddings of {ROWS} tokens"
    )
    assert error.fix == (
        "save the tokenizer that the model was trained with beside it: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
    )


@kinds
def test_a_model_with_many_more_tokens_than_the_tokenizer(tmp_path, kind):
    error = why(write(tmp_path, kind), BERT | {"vocab_size": 30522}, {"word_embeddings.weight": [30522, 8]})
    assert f"the tokenizer's ids end at {ROWS - 1}, the model has embeddings of 30522 tokens" in error.message


@kinds
@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"pad_token_id": 7}, "pad_token_id is 7 in config.json; the tokenizer has [PAD] at 0"),
        ({"pad_token_id": 2}, "pad_token_id is 2 in config.json"),
        ({"cls_token_id": 0}, "cls_token_id is 0 in config.json; the tokenizer has [CLS] at 2"),
        ({"sep_token_id": 102}, "sep_token_id is 102 in config.json; the tokenizer has [SEP] at 3"),
    ],
)
def test_special_ids_that_are_other_tokens(tmp_path, kind, changed, text):
    assert text in why(write(tmp_path, kind), BERT | changed).message


def test_ids_that_nobody_set_do_no_harm_where_padding_is_masked(tmp_path):
    """Multilingual MiniLM is a BERT with XLM-R's tokenizer: 0, BERT's default for padding, is that one's `<s>`."""
    write(tmp_path, "Unigram")
    roles = {"pad_token": "[UNK]", "cls_token": "[PAD]", "bos_token": "[MASK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    check_tokenizer(tmp_path, BERT | {"bos_token_id": 0, "eos_token_id": 2}, EMBEDDINGS)
    error = why(tmp_path, BERT | {"model_type": "xlm-roberta"})  # which counts its positions from the pad id on
    assert "pad_token_id is 0 in config.json; the tokenizer has [UNK] at 1" in error.message


@kinds
def test_a_post_processor_that_adds_other_ids(tmp_path, kind):
    error = why(write(tmp_path, kind, cls=9), BERT)
    assert error.message == (f"the tokenizer in {tmp_path} cannot be read: it adds [CLS] as 9, and has it at 2")


def test_a_vocabulary_of_lines(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    check_tokenizer(tmp_path, BERT, EMBEDDINGS)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<user>": ROWS}))
    assert f"the tokenizer has ids up to {ROWS}" in why(tmp_path, BERT).message
    check_tokenizer(tmp_path, BERT | {"model_type": "roberta"}, EMBEDDINGS)  # BERTweet's has counts in its lines


def test_a_vocabulary_beside_merges(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(PIECES)}))
    roberta = BERT | {"model_type": "roberta"}
    check_tokenizer(tmp_path, roberta, EMBEDDINGS)
    assert "has ids up to" in why(tmp_path, roberta | {"vocab_size": 9}, {}).message


def test_config_and_weights_of_two_models(tmp_path):
    error = why(write(tmp_path, "BPE"), BERT, {"roberta.embeddings.word_embeddings.weight": [50, 8]})
    assert error.message == (
        f"{tmp_path}/config.json names a vocabulary of {ROWS} tokens; the weights have embeddings of 50"
    )
    assert error.fix.startswith("take config.json and the weights from one and the same model")


@pytest.mark.parametrize("content", ["{", "[1]", '{"model": {}}', '{"model": {"vocab": [1, 2]}}', '{"model": 3}'])
def test_a_damaged_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    error = why(tmp_path, BERT)
    assert error.message.startswith(f"the tokenizer in {tmp_path} cannot be read: ")
    assert error.fix.startswith("save it again beside the model")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"id2label": {"0": "no", "1": "yes"}},
        {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
        {"id2label": {"0": "no", "1": "yes"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}},
        {"id2label": {"0": "crane", "1": "cat", "2": "crane"}, "label2id": {"crane": 2, "cat": 1}},
    ],
    ids=["nothing", "names alone", "both", "numbers that nobody named", "two classes of one name"],
)
def test_names_of_classes_that_are_no_contradiction(tmp_path, config):
    check_labels(config, tmp_path)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 1, "yes": 0}},
            "'no' is 0 in id2label and 1 in label2id",
        ),
        ({"id2label": {"1": "no", "2": "yes"}}, "id2label has the numbers [1, 2], not 0, 1, 2 ..."),
        ({"id2label": {"first": "no"}}, "they are not numbers with names, and names with numbers"),
        ({"id2label": ["no", "yes"]}, "they are not numbers with names, and names with numbers"),
    ],
)
def test_names_of_classes_that_give_no_one_order(tmp_path, config, text):
    with pytest.raises(TeacherError) as refusal:
        check_labels(config, tmp_path)
    assert refusal.value.message.startswith(f"id2label and label2id in {tmp_path}/config.json do not give one order")
    assert text in refusal.value.message
    assert "in the order of the model's outputs" in refusal.value.fix
