"""Whisper's tokenizer.json: held against the model, and written in the files that loaders look for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import limits
from edgekd.data.merges import completed

_TIMES = 1501  # timestamps, each .02 s
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_NEEDED = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|transcribe|>",
    "<|translate|>",
    "<|startofprev|>",
    "<|notimestamps|>",
)
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
_SPECIAL = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")


@dataclass(frozen=True)
class WhisperTokenizer:
    """A tokenizer.json that was checked: its content, and its special tokens' ids by their text."""

    content: Mapping[str, Any]
    ids: Mapping[str, int]

    @property
    def special(self) -> dict[str, int]:
        """The ids that configs name."""
        end = self.ids["<|endoftext|>"]
        start = self.ids["<|startoftranscript|>"]
        return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}

    @property
    def languages(self) -> dict[str, int]:
        """The languages' tokens and ids."""
        return {token: number for token, number in self.ids.items() if _LANGUAGE.fullmatch(token)}


def read(file: Path, vocabulary: int) -> WhisperTokenizer:
    """Read a tokenizer.json. Raises TeacherError where it is missing, no BPE, no Whisper's, or of another size."""
    if not file.exists():
        raise TeacherError(
            f"there is no {file}: CTranslate2's vocabulary alone has no merges to cut words with",
            fix="put the tokenizer.json of the same Whisper model beside model.bin",
        )
    content = read_object(file)
    model = content.get("model")
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise _unusable(file, "it is no BPE tokenizer")
    if not all(map(_is_merge, merges)):
        raise _unusable(file, "a merge is no pair of words")
    ids = _ids(content.get("added_tokens"), file)
    if any(type(number) is not int or not 0 <= number < vocabulary for number in (*vocab.values(), *ids.values())):
        raise _unusable(file, f"it has ids outside of the model's {vocabulary} tokens: it is another model's")
    if lacking := [token for token in _NEEDED if token not in ids]:
        raise _unusable(file, f"it has no token {lacking[0]}: it is no tokenizer of Whisper")
    named = max(*vocab.values(), *ids.values(), ids["<|notimestamps|>"] + _TIMES) + 1
    if named < vocabulary:  # of two Whispers one may know a language more: its timestamps lie elsewhere
        raise _unusable(file, f"it names {named} of the model's {vocabulary} tokens: it is another model's")
    return WhisperTokenizer(content, ids)


def write(tokenizer: WhisperTokenizer, vocabulary: int, out: Path) -> None:
    """Write the tokenizer's files into `out`, with the timestamps that CTranslate2's lacks."""
    first = tokenizer.ids["<|notimestamps|>"] + 1
    times = {f"<|{number * 0.02:.2f}|>": first + number for number in range(min(_TIMES, vocabulary - first))}
    new = [{"id": number, "content": text, **_PLAIN} for text, number in times.items() if text not in tokenizer.ids]
    added = sorted([*tokenizer.content["added_tokens"], *new], key=lambda token: int(token["id"]))
    model = tokenizer.content["model"]
    merges = [" ".join(pair) for pair in completed(model["vocab"], model["merges"])]
    whole = {**model, "merges": merges}
    write_json(out / "tokenizer.json", {**tokenizer.content, "added_tokens": added, "model": whole})
    write_json(out / "vocab.json", model["vocab"])
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    write_json(out / "added_tokens.json", {token["content"]: token["id"] for token in added})
    write_json(out / "special_tokens_map.json", _SPECIAL)
    settings: dict[str, object] = {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "model_max_length": 1024,
        "add_prefix_space": False,
        "errors": "replace",
        "clean_up_tokenization_spaces": True,
        **_SPECIAL,
        "added_tokens_decoder": {
            str(token["id"]): {"content": token["content"]}
            | {key: token.get(key, plain) for key, plain in _PLAIN.items()}
            for token in added
        },
    }
    write_json(out / "tokenizer_config.json", settings)


def _is_merge(pair: object) -> bool:
    """Whether a merge is written as `"a b"` or as `["a", "b"]`."""
    parts = pair.split(" ") if isinstance(pair, str) else pair
    return isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) and part for part in parts)


def _ids(added: object, file: Path) -> dict[str, int]:
    ids: dict[str, int] = {}
    for token in added if isinstance(added, list) else ():
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or type(token.get("id")) is not int:
            raise _unusable(file, "an added token has no content or no id")
        ids[token["content"]] = token["id"]
    return ids


def read_object(file: Path) -> Mapping[str, Any]:
    """Read a JSON object. Raises TeacherError for what is none."""
    try:
        content = limits.read_object(file)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair could not be written again
    except (OSError, ValueError) as error:
        raise _unusable(file, str(error)) from error
    return content


def write_json(file: Path, value: object) -> None:
    """Write a value as indented JSON."""
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _unusable(file: Path, why: str) -> TeacherError:
    return TeacherError(f"{file} cannot be used: {why}", fix="put the file of the same Whisper model there")
