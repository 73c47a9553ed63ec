"""The tokenizer of a GGUF file as Hugging Face's tokenizer.json: by what the file says, not by what is usual.

transformers' own conversion adds a BOS that the file forbids, splits no digits where the model's tokenizer does, and
decodes as SentencePiece does what is byte-level: onnxruntime-genai then knows no spaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError

# how texts are cut before pairs are merged, by `tokenizer.ggml.pre`: llama.cpp's table, in tokenizers' own words
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_WORDS = {**_BYTES, "use_regex": False}
_CLITICS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [_DIGITS, _BYTES],
    "starcoder": [_DIGITS, _BYTES],
    "llama-bpe": [_split(_CLITICS + r"\p{N}{1,3}" + _REST), _WORDS],
    "llama-v3": [_split(_CLITICS + r"\p{N}{1,3}" + _REST), _WORDS],
    "llama3": [_split(_CLITICS + r"\p{N}{1,3}" + _REST), _WORDS],
    "qwen2": [_split(_CLITICS + r"\p{N}" + _REST), _WORDS],
}
_WHOLE_WORDS = ("llama-bpe", "llama-v3", "llama3")  # a word that is a token is not merged up to it
_COMPOSED = ("qwen2",)  # whose texts are normalized to NFC
_CONTROL, _USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`
_ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # GGUF's word: transformers'
_KEY = "tokenizer.ggml."


def is_byte_level(metadata: Mapping[str, Any]) -> bool:
    """Return whether the file's tokenizer is a byte-level BPE, which `write` makes; others are left to transformers."""
    return metadata.get(f"{_KEY}model") == "gpt2"


def check(metadata: Mapping[str, Any], file: Path) -> None:
    """Raise TeacherError where the file's tokenizer is none, or would be a guess."""
    tokens = metadata.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not all(isinstance(one, str) for one in tokens) or len(tokens) < 2:
        raise _refused(file, "it holds no tokens")
    types = metadata.get(f"{_KEY}token_type")
    if types is not None and (not isinstance(types, list) or len(types) != len(tokens)):
        raise _refused(file, f"it has {len(tokens)} tokens and types of another number")
    for role in _ROLES:
        number = metadata.get(f"{_KEY}{role}_token_id")
        if number is not None and (type(number) is not int or not 0 <= number < len(tokens)):
            raise _refused(file, f"its {role} token is {number!r:.40} of {len(tokens)}")
    if not is_byte_level(metadata):
        return
    cut = metadata.get(f"{_KEY}pre", "gpt-2")
    if cut not in _CUTS:
        raise _refused(file, f"how it cuts texts ({cut!r:.60}) is not known here: {', '.join(_CUTS)} are")
    merges = metadata.get(f"{_KEY}merges")
    if not isinstance(merges, list) or not all(isinstance(one, str) and one.count(" ") == 1 for one in merges):
        raise _refused(file, "its merges are no pairs")
    known = set(tokens)
    if strange := next((one for one in merges if one.replace(" ", "") not in known), None):
        raise _refused(file, f"it merges {strange!r:.60} to no token of its own")


def write(metadata: Mapping[str, Any], out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json of a byte-level tokenizer into `out`."""
    tokens: Sequence[str] = metadata[f"{_KEY}tokens"]
    types: Sequence[int] = metadata.get(f"{_KEY}token_type") or [1] * len(tokens)
    cut = metadata.get(f"{_KEY}pre", "gpt-2")
    added = [
        _added(number, tokens[number], special=kind == _CONTROL)
        for number, kind in enumerate(types)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    steps = _CUTS[cut]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if cut in _COMPOSED else None,
        "pre_tokenizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": _post_processor(metadata, tokens),
        "decoder": {**_BYTES, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut in _WHOLE_WORDS,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [one.split(" ") for one in metadata[f"{_KEY}merges"]],
        },
    }
    named = roles(metadata)
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    settings = {
        "add_bos_token": bool(metadata.get(f"{_KEY}add_bos_token", False)),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context if type(context) is int else 10**9,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
    }
    for name, values in (
        ("tokenizer.json", spec),
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", named),
    ):
        (out / name).write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")


def roles(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by transformers' names: `bos_token`, `eos_token`, `unk_token`, `pad_token`."""
    tokens = metadata[f"{_KEY}tokens"]
    numbers = {role: metadata.get(f"{_KEY}{theirs}_token_id") for theirs, role in _ROLES.items()}
    return {f"{role}_token": tokens[number] for role, number in numbers.items() if number is not None}


def _post_processor(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Return what is put before each text: a BOS where the file says so, nothing where it does not."""
    number = metadata.get(f"{_KEY}bos_token_id")
    if not metadata.get(f"{_KEY}add_bos_token") or number is None:
        return {**_BYTES, "add_prefix_space": True}
    token = tokens[number]
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            first,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": token, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    return {"type": "Sequence", "processors": [{**_BYTES, "add_prefix_space": True}, template]}


def _added(number: int, token: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": special}


def _refused(file: Path, why: str) -> TeacherError:
    return TeacherError(
        f"the tokenizer in {file} cannot be used: {why}",
        fix="give the model as a Hugging Face folder with its own tokenizer.json",
    )
