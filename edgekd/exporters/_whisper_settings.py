"""What the program `seq2seq` must know of a Whisper model, from the files beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")


def settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the program's settings: prompt, suppressed tokens, sizes, vocabulary.

    As generation_config.json and the tokenizer say; where they say nothing of the language, it is detected.
    """
    generation = _json(folder / "generation_config.json")
    words = _json(folder / "vocab.json") or _json(folder / "tokenizer.json").get("model", {}).get("vocab", {})
    added = _json(folder / "added_tokens.json") or {
        one["content"]: one["id"] for one in _json(folder / "tokenizer.json").get("added_tokens", ())
    }
    ids = {**words, **added}
    languages = generation.get("lang_to_id") or {}
    multilingual = bool(generation.get("is_multilingual", bool(languages)))
    start = int(generation.get("decoder_start_token_id", config["decoder_start_token_id"]))
    prompt, language = [start], None
    if multilingual:
        asked = generation.get("language")
        language = next((one for one in (asked, f"<|{asked}|>") if one in languages), None)
        tasks = generation.get("task_to_id") or {}
        task = tasks.get(generation.get("task") or "transcribe", ids.get("<|transcribe|>"))
        prompt += [*([languages[language]] if language else []), *([task] if task is not None else [])]
    times = generation.get("no_timestamps_token_id", ids.get("<|notimestamps|>"))
    prompt += [int(times)] if times is not None else []
    end = generation.get("eos_token_id", config["eos_token_id"])
    plain = [word for word, _ in sorted(words.items(), key=lambda one: one[1])]
    return {
        "schema": 1,
        "mels": config["num_mel_bins"],
        "frames": 2 * config["max_source_positions"],
        "tokens": config["vocab_size"],
        "prompt": prompt,
        "language": language,
        "languages": languages if multilingual else {},
        "end": int(end[0] if isinstance(end, list) else end),
        "no_speech": next((ids[one] for one in _NO_SPEECH if one in ids), None),
        "suppress": list(generation.get("suppress_tokens") or []),
        "begin_suppress": list(generation.get("begin_suppress_tokens") or []),
        "max_tokens": min(int(generation.get("max_length", 448)), config["max_target_positions"]),
        "beams": int(generation.get("num_beams", 1)),
        "vocabulary": " ".join(plain),
    }


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
