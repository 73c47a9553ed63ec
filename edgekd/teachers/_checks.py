"""Whether the files of a text teacher belong together: config, weights, tokenizer, and the names of its classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.protocols import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from edgekd.core.registry import plugin, sibling_task
from edgekd.teachers import _files

# whose position embeddings are counted from the pad id on: another pad id shifts all of them
POSITIONS_FROM_PAD = ("camembert", "data2vec-text", "esm", "ibert", "mpnet", "roberta", "xlm-roberta")
_LINE_A_TOKEN = ("bert", "distilbert", "electra", "mpnet")  # types whose vocab.txt is that; others' has more columns
_SPARE_SHARE, _SPARE_ROWS = 0.05, 1000  # embeddings may be padded to a round number: beyond both they are another's
_EMBEDDINGS = "word_embeddings.weight"
_ROLES = ("pad", "bos", "eos", "cls", "sep")
_UNSAID = {"pad": 0, "bos": 0, "eos": 2}  # what transformers writes where nobody said anything

Tokens = dict[str, int]


def check_tokenizer(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> None:
    """Raises TeacherError where config, weights and tokenizer are not of one model. Loads no model.

    `shapes` are the weights' (of safetensors alone). A tokenizer that is no tokenizer.json, vocab.txt or vocab.json
    is not looked into.
    """
    rows = config.get("vocab_size")
    if not isinstance(rows, int):
        return  # refused by whoever reads the shape
    held = next((shape[0] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS) and shape), rows)
    if held != rows:
        raise TeacherError(
            f"{folder}/config.json names a vocabulary of {rows} tokens; the weights have embeddings of {held}",
            fix="take config.json and the weights from one and the same model: model.save_pretrained(folder)",
        )
    tokens, named = _tokens(folder, config)
    if not tokens:
        return
    largest = max(tokens.values())
    if largest >= rows:
        raise _strangers(folder, f"the tokenizer has ids up to {largest}, the model embeddings of {rows} tokens")
    if rows - (largest + 1) > max(_SPARE_ROWS, _SPARE_SHARE * rows):
        raise _strangers(folder, f"the tokenizer's ids end at {largest}, the model has embeddings of {rows} tokens")
    special = {tokens[token] for token in named["special"] if token in tokens}
    for role in _ROLES:
        said, token = config.get(f"{role}_token_id"), named["roles"].get(role)
        if not isinstance(said, int) or token not in tokens or said == tokens[token]:
            continue
        harmless = role != "pad" or config.get("model_type") not in POSITIONS_FROM_PAD  # padding is masked anyway
        if harmless and said == _UNSAID.get(role) and said in special:
            continue  # multilingual MiniLM: a BERT with XLM-R's tokenizer, and BERT's default for the pad id
        raise _strangers(
            folder, f"{role}_token_id is {said} in config.json; the tokenizer has {token} at {tokens[token]}"
        )


def check_labels(config: Mapping[str, Any], folder: Path) -> None:
    """Raises TeacherError where `id2label` and `label2id` contradict each other: which order holds is unknown.

    Names that only one of the two has (LABEL_0, where nobody set the other) contradict nothing.
    """
    named, numbered = config.get("id2label") or {}, config.get("label2id") or {}
    try:
        names = {int(number): str(name) for number, name in named.items()}
        numbers = {str(name): int(number) for name, number in numbered.items()}
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise _unordered(folder, "they are not numbers with names, and names with numbers") from error
    if sorted(names) != list(range(len(names))):
        raise _unordered(folder, f"id2label has the numbers {sorted(names)[:5]}, not 0, 1, 2 ...")
    for number, name in names.items():
        # of two classes with one name (ImageNet has two cranes) label2id can hold one
        if numbers.get(name, number) != number and names.get(numbers[name]) != name:
            raise _unordered(folder, f"{name!r} is {number} in id2label and {numbers[name]} in label2id")


def check_problem(
    config: Mapping[str, Any], outputs: int | None, source: Path, task: str, *, sigmoid: bool = False, said: bool = True
) -> None:
    """Raises TeacherError for a model whose outputs are of another kind than the task's: agreement would say nothing.

    A regressor or a cross-encoder gives one value, of which the largest is always the first; of several labels at once
    each is judged alone, of one class no output is. `outputs` is None where their number is not known; `sigmoid` says
    that the graph has one at its end. A task of several labels needs it `said`: nothing else tells such a model apart.
    """
    kind = config.get("problem_type")
    cross_encoder = config.get("sentence_transformers")
    functions = [config.get("sbert_ce_default_activation_function"), config.get("function_to_apply")]
    functions += [cross_encoder.get("activation_fn")] if isinstance(cross_encoder, dict) else []
    sigmoid = sigmoid or any(isinstance(one, str) and one.lower().endswith("sigmoid") for one in functions)
    if plugin("tasks", task).problem_type == REGRESSION:
        if kind in (SINGLE_LABEL, MULTI_LABEL):
            raise not_numbers(source, f"its config.json says problem_type {kind}", task)
        if said and kind is None and outputs != 1:
            raise not_numbers(source, f"its config.json says no problem_type, and it gives {outputs} values", task)
        return
    if plugin("tasks", task).problem_type == MULTI_LABEL:
        if kind in (SINGLE_LABEL, "regression"):
            raise not_labels(source, f"its config.json says problem_type {kind}", task)
        if outputs == 1:
            raise not_labels(source, "it gives one value", task)
        if said and kind is None and not sigmoid:
            raise not_labels(source, "its config.json says no problem_type", task)
        return
    if kind in (MULTI_LABEL, "regression"):
        raise not_classes(source, f"its config.json says problem_type {kind}", task)
    if outputs == 1:
        raise not_classes(source, "it gives one value, not a value for each class", task)
    if sigmoid:
        raise not_classes(source, "its config.json has a sigmoid over each label, not one class of several", task)


def not_classes(source: Path, why: str, task: str) -> TeacherError:
    """The error for a model that a task of one class a row cannot judge."""
    modality = plugin("tasks", task).modality
    other, numbers = (sibling_task(modality, kind) for kind in (MULTI_LABEL, REGRESSION))
    several = f"; a model of several labels at once is for --task {other}" if other else ""
    several += f"; one that gives numbers (scores, ratings) for --task {numbers}" if numbers else ""
    return TeacherError(
        f"{source} does not name one of several classes: {why}; agreement of largest outputs would say nothing of it",
        fix="give a model that was trained to name one of several classes (problem_type single_label_classification), "
        f"or an encoder with --task feature-extraction{several}"
        + ("" if other else "; scores and several labels at once are not supported yet"),
    )


def not_numbers(source: Path, why: str, task: str) -> TeacherError:
    """The error for a model that a task of numbers cannot judge."""
    other = sibling_task(plugin("tasks", task).modality, SINGLE_LABEL)
    return TeacherError(
        f"{source} does not give numbers: {why}",
        fix=f'set "problem_type": "{REGRESSION}" in its config.json if its outputs are numbers'
        + (f"; a model of one class a row is for --task {other}" if other else ""),
    )


def not_labels(source: Path, why: str, task: str) -> TeacherError:
    """The error for a model that a task of several labels a row cannot judge."""
    other = sibling_task(plugin("tasks", task).modality, SINGLE_LABEL)
    return TeacherError(
        f"{source} does not judge each of several labels by itself: {why}",
        fix=f'set "problem_type": "{MULTI_LABEL}" in its config.json if it was trained so (a sigmoid over each label)'
        + (f"; a model of one class a row is for --task {other}" if other else ""),
    )


def _tokens(folder: Path, config: Mapping[str, Any]) -> tuple[Tokens, dict[str, Any]]:
    """Token to id, added ones included; and the tokenizer's special tokens, all of them and by role.

    Empty where the folder's tokenizer is of a kind that is not looked into.
    """
    spec = _json(folder / "tokenizer.json")
    settings = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    roles = {role: _content(settings.get(f"{role}_token")) for role in _ROLES}
    special = {token for token in roles.values() if token}
    try:
        if spec:
            vocabulary = spec["model"]["vocab"]
            pieces = enumerate(vocabulary) if isinstance(vocabulary, list) else ()  # Unigram's: piece and score
            tokens = {piece[0]: number for number, piece in pieces} or dict(vocabulary)
            tokens |= {token["content"]: token["id"] for token in spec.get("added_tokens") or ()}
            special |= {token["content"] for token in spec.get("added_tokens") or () if token.get("special")}
            for token, number in _post_processed(spec.get("post_processor")):
                if tokens.setdefault(token, number) != number:
                    raise ValueError(f"it adds {token} as {number}, and has it at {tokens[token]}")
        elif (folder / "vocab.txt").exists() and config.get("model_type") in _LINE_A_TOKEN:
            lines = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
            tokens = {token: number for number, token in enumerate(lines)} | _json(folder / "added_tokens.json")
        else:
            tokens = _json(folder / "vocab.json")
            tokens |= _json(folder / "added_tokens.json") if tokens else {}
        tokens = {str(token): int(number) for token, number in tokens.items()}
    except (AttributeError, KeyError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    return tokens, {"roles": roles, "special": special}


def _post_processed(node: Any) -> Iterator[tuple[str, int]]:
    """Special tokens and ids as a post-processor adds them: `"ids": [101], "tokens": ["[CLS]"]`, `["[CLS]", 101]`."""
    if isinstance(node, dict):
        if isinstance(node.get("ids"), list):
            yield from zip(node["tokens"], node["ids"], strict=True)
        for key, value in node.items():
            if key in ("cls", "sep") and isinstance(value, list):
                yield value[0], value[1]
            else:
                yield from _post_processed(value)
    elif isinstance(node, list):
        for value in node:
            yield from _post_processed(value)


def _json(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises TeacherError for a damaged one."""
    try:
        return _files.read_json(file)
    except (OSError, ValueError) as error:
        raise _damaged(file.parent, f"{file.name}: {error}") from error


def _content(token: Any) -> str | None:
    """A special token as the files spell it: the word, or `{"content": word, ...}`."""
    said = token.get("content") if isinstance(token, dict) else token
    return said if isinstance(said, str) else None


def _damaged(folder: Path, why: str) -> TeacherError:
    return TeacherError(
        f"the tokenizer in {folder} cannot be read: {why}",
        fix="save it again beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
    )


def _strangers(folder: Path, why: str) -> TeacherError:
    return TeacherError(
        f"the model and the tokenizer in {folder} do not belong together: {why}",
        fix="save the tokenizer that the model was trained with beside it: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
    )


def _unordered(folder: Path, why: str) -> TeacherError:
    return TeacherError(
        f"id2label and label2id in {folder}/config.json do not give one order of classes: {why}",
        fix="set both in config.json to the classes in the order of the model's outputs: "
        '"id2label": {"0": "first", ...}, "label2id": {"first": 0, ...}',
    )
