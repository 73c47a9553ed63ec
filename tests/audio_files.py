"""Recordings for tests: tones in place of voices, in every format that is read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def voice(seconds: float, rate: int = RATE, *, pitch: float = 220.0, loud: float = 0.3) -> np.ndarray:
    """A tone that no other pitch gives: float32 (samples,)."""
    return (loud * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(values: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """The bytes of a file of that format."""
    stream = io.BytesIO()
    soundfile.write(stream, values, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def save(file: Path, values: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> Path:
    """A file of that format; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(values, rate, kind, subtype))
    return file


def speak(folder: Path, count: int, *, seconds: float = 0.2) -> list[Path]:
    """Recordings that all differ: a.wav, b.wav and so on."""
    return [save(folder / f"{number:03d}.wav", voice(seconds, pitch=200 + 7 * number)) for number in range(count)]
