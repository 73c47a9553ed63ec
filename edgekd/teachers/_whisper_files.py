"""The settings beside a Whisper: config.json and generation_config.json held against each other, and written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import clean

GENERATION = "generation_config.json"
_MOST = 1 << 20  # of any size: beyond is no Whisper
_SIZES = (
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "num_mel_bins",
    "vocab_size",
    "max_source_positions",
    "max_target_positions",
)
_TOKENS = ("decoder_start_token_id", "eos_token_id")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "no_timestamps_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_NAMED = ("lang_to_id", "task_to_id")
_FLAGS = ("is_multilingual", "return_timestamps")
_NUMBERS = ("max_length", "max_initial_timestamp_index", "num_beams", "prev_sot_token_id")
_WORDS = ("language", "task")
_REPAIR = "save the model and its processor again with transformers, or fetch the folder again"


def checked_config(folder: Path) -> dict[str, Any]:
    """Return config.json. Raises TeacherError for another model type, or sizes and tokens that cannot be."""
    config = _read(folder, "config.json")
    if config.get("model_type") != "whisper":
        raise TeacherError(
            f"the teacher {folder} is a model of the type {config.get('model_type')!r:.80}; speech is recognized by a "
            "Whisper",
            fix="give a folder or hub id of a Whisper model; edgekd import ct2 makes one of a CTranslate2 model",
        )
    for name in _SIZES:
        if not _is_number(config.get(name), 1, _MOST):
            raise _odd(folder / "config.json", name, config.get(name))
    for side in ("encoder", "decoder"):
        if config["d_model"] % config[f"{side}_attention_heads"]:
            raise _odd(folder / "config.json", f"{side}_attention_heads", config[f"{side}_attention_heads"])
    for name in _TOKENS:
        if not _is_number(config.get(name), 0, config["vocab_size"] - 1):
            raise _odd(folder / "config.json", name, config.get(name))
    if config.get("scale_embedding"):
        raise TeacherError(f"{folder}/config.json asks for scaled embeddings, which no Whisper has", fix=_REPAIR)
    return config


def checked_generation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what generation_config.json says of decoding; empty where there is none. Raises TeacherError.

    Keys that Whisper does not have are left out.
    """
    said = _read(folder, GENERATION)
    most, file = config["vocab_size"] - 1, folder / GENERATION
    found: dict[str, Any] = {}
    for name, value in said.items():
        if value is None:
            continue
        if name == "eos_token_id" and isinstance(value, list) and value:
            value = value[0]
        if name in _IDS or name == "prev_sot_token_id":
            well = _is_number(value, 0, most)
        elif name in _LISTS:  # -1 stands for the model's own list in old files
            well = isinstance(value, list) and all(_is_number(one, -1, most) for one in value)
        elif name in _NAMED:
            well = isinstance(value, dict) and all(_is_number(one, 0, most) for one in value.values())
        elif name in _FLAGS:
            well = isinstance(value, bool)
        elif name in _NUMBERS:
            well = _is_number(value, 1, _MOST)
        elif name in _WORDS:
            well = isinstance(value, str) and value.isprintable() and len(value) <= 80
        else:
            continue
        if not well:
            raise _odd(file, name, value)
        found[name] = [one for one in value if one >= 0] if name in _LISTS else value
    return found


def write_generation(folder: Path, config: Mapping[str, Any], out: Path) -> None:
    """Write how to generate, with the tokens that transformers asks for."""
    told = checked_generation(folder, config)
    own = {name: config[name] for name in ("bos_token_id", "pad_token_id", *_TOKENS) if config.get(name) is not None}
    _write(out / GENERATION, {**own, "max_length": config["max_target_positions"], **told})


def write_preprocessor(config: Mapping[str, Any], out: Path) -> None:
    """Write the sizes of the log-mel, as Hugging Face's feature extractor takes them."""
    seconds = config["max_source_positions"] // 50
    made = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": seconds,
        "n_samples": 16_000 * seconds,
        "nb_max_frames": 100 * seconds,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    _write(out / clean.PROCESSOR, made)


def _read(folder: Path, name: str) -> dict[str, Any]:
    found = clean.cleaned(lambda said, _: dict(said), folder, name)
    if found is None and name == "config.json":
        raise TeacherError(
            f"the teacher folder {folder} has no config.json",
            fix="give a folder saved by model.save_pretrained(folder)",
        )
    return dict(found or {})


def _is_number(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _odd(file: Path, name: str, value: object) -> TeacherError:
    return TeacherError(f"{file} says {name} is {value!r:.80}, which no Whisper has", fix=_REPAIR)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
