"""What a language model's folder has beside weights and tokenizer: its chat template, and how it is to write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import clean
from edgekd.teachers import _chat_template

PROGRAM = "causal"
_GENERATION = "generation_config.json"
# of generation_config.json what says how to write: sizes and numbers, no files and no code
_KEPT = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_length",
)


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise TeacherError for a model of two halves, and for a chat template that is more than one."""
    if config.get("is_encoder_decoder"):
        raise TeacherError(
            f"the teacher {folder} is an encoder and a decoder ({config.get('model_type')!r:.60}); "
            "language models are decoders alone",
            fix="give a decoder-only model, such as Llama, Qwen, Mistral, Gemma or SmolLM",
        )
    _chat_template.of_folder(folder)


def write_files(folder: Path, out: Path) -> None:
    """Write the chat template and the settings of generation into `out`, beside the tokenizer."""
    _chat_template.write(_chat_template.of_folder(folder), out)
    said = clean.cleaned(_plain, folder, _GENERATION)
    if said:
        (out / _GENERATION).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _plain(said: Mapping[str, Any], _: Path) -> dict[str, Any]:
    return {key: said[key] for key in _KEPT if key in said and _is_number(said[key])}


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return all(type(one) is int for one in value)
    return type(value) in (int, float, bool)
