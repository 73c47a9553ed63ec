"""A Whisper of a few thousand random weights, as a Hugging Face folder, and recordings that nobody spoke."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
WORDS = 256  # bytes
IDS = {name: WORDS + at for at, name in enumerate(SPECIAL)}


def letters() -> list[str]:
    """How GPT-2's vocabulary spells each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def save_whisper(folder: Path, *, seconds: int = 2, multilingual: bool = True, seed: int = 0, **more: Any) -> Path:
    """A Whisper of width 16 whose window is so many seconds, with a vocabulary of bytes."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": WORDS + len(SPECIAL),
        "num_mel_bins": 8,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 48,
        "max_source_positions": 50 * seconds,
        "max_target_positions": 40,
    }
    end = IDS["<|endoftext|>"]
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    config = WhisperConfig(**sizes | ids | {"decoder_start_token_id": IDS["<|startoftranscript|>"]} | more)
    config.suppress_tokens = config.begin_suppress_tokens = None
    config.init_std = 0.3
    model = WhisperForConditionalGeneration(config)
    model.save_pretrained(folder)
    generation = {
        **ids,
        "decoder_start_token_id": IDS["<|startoftranscript|>"],
        "max_length": 40,
        "is_multilingual": multilingual,
        "no_timestamps_token_id": IDS["<|notimestamps|>"],
        "suppress_tokens": [1, 2, 3],
        "begin_suppress_tokens": [32, end],
    }
    if multilingual:
        generation["lang_to_id"] = {name: IDS[name] for name in ("<|en|>", "<|de|>")}
        generation["task_to_id"] = {name: IDS[f"<|{name}|>"] for name in ("transcribe", "translate")}
    _write(folder / "generation_config.json", generation)
    _write(folder / "vocab.json", {letter: number for number, letter in enumerate(letters())})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write(folder / "added_tokens.json", IDS)
    kinds = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, **kinds} for name, number in IDS.items()],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {letter: at for at, letter in enumerate(letters())}, "merges": []},
    }
    _write(folder / "tokenizer.json", tokenizer)
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "WhisperTokenizer", "model_max_length": 40, "eos_token": "<|endoftext|>"},
    )
    return folder


def babble(seconds: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """Harmonics through other formants five times a second, and pauses: float32 (samples,)."""
    random, rate = np.random.default_rng(seed), 16_000
    time = np.arange(int(seconds * rate)) / rate
    turns = np.repeat(random.integers(0, 4, int(seconds * 5) + 2), rate // 5)[: len(time)]
    formants = np.array([[1.0, 1.0], [350, 2200], [700, 1200], [500, 1700]])[turns]
    voice = np.zeros(len(time))
    for harmonic in range(1, 25):
        gain = np.exp(-(((harmonic * 130 - formants) / 120) ** 2)).sum(axis=1)
        voice += gain * np.sin(2 * np.pi * harmonic * 130 * time)
    swell = np.abs(np.sin(2 * np.pi * 2.5 * time)) * (turns > 0)
    return (0.1 * voice * swell + 0.001 * random.standard_normal(len(time))).astype(np.float32)


def write_wav(path: Path, audio: np.ndarray[Any, Any], rate: int = 16_000, channels: int = 1) -> Path:
    """Sixteen bits, the same in each channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        values = np.repeat((audio.clip(-1, 1) * 32767).astype("<i2"), channels)
        file.writeframes(values.tobytes())
    return path


def write_recordings(folder: Path, count: int, *, texts: bool = True) -> Path:
    """A folder of recordings, each with its text beside it."""
    folder.mkdir(parents=True)
    for row in range(count):
        write_wav(folder / f"{row:03}.wav", babble(0.8 + 0.1 * (row % 8), row))
        if texts:
            (folder / f"{row:03}.txt").write_text(f"word {row % 5} and word {row % 3}", encoding="utf-8")
    return folder


def _write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")
