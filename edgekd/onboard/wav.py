"""WAV files as a model takes them, block by block: one channel at 16 kHz, in numpy. However long, little is held.

Integers of 8, 16, 24 and 32 bits, floats of 32 and 64, any number of channels, rates from 1 to 768 kHz. A file that
ends early is read as far as it goes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import ceil, gcd
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np

RATE = 16_000
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ZEROS = 16  # crossings of the resampling filter to either side
_MOST_CHANNELS, _RATES = 256, (1000, 768_000)
_LARGEST_CHUNK = 1 << 20  # of those before the samples


def blocks(path: Path) -> Iterator[np.ndarray]:
    """Yield the samples of a WAV file, float32 (n,) in [-1, 1], about a second at a time.

    Raises OSError, and ValueError in words for what is no WAV file that can be read, or holds no samples.
    """
    with path.open("rb") as file:
        kind, bits, channels, rate, size = _header(file)
        yield from resampled(_samples(file, kind, bits, channels, rate, size), rate)


def resampled(pieces: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Yield the same audio at 16 kHz: a windowed sinc, its cutoff below both rates' halves."""
    if rate == RATE:
        yield from pieces
        return
    up, down = RATE // gcd(RATE, rate), rate // gcd(RATE, rate)
    table, half = _filter(up, down)
    held = np.zeros(half, np.float32)
    first, done, total = -half, 0, 0  # the place of `held` in the input; outputs so far; inputs so far
    for values, real in _and_end(pieces, half):
        total += real
        held = np.concatenate([held, values])
        reach = first + len(held) - half  # the last input that an output may lie at, and one more
        count = max(0, -(-reach * up // down) - done)
        if not real:
            count = min(count, max(0, ceil(total * up / down) - done))
        if count:
            at = np.arange(done, done + count, dtype=np.int64) * down
            own = at // up - first - half
            rows = held[own[:, None] + np.arange(2 * half + 1)[None, :]]
            yield np.einsum("ij,ij->i", rows, table[at % up]).astype(np.float32)
            done += count
        keep = max(0, done * down // up - half - first)
        held, first = held[keep:], first + keep


def _and_end(pieces: Iterator[np.ndarray], half: int) -> Iterator[tuple[np.ndarray, int]]:
    for piece in pieces:
        yield piece, len(piece)
    yield np.zeros(half + 1, np.float32), 0


def _filter(up: int, down: int) -> tuple[np.ndarray, int]:
    """The weights of the inputs around each of the `up` places between two of them: (up, 2 * half + 1)."""
    cutoff = min(1.0, up / down) * 0.95
    half = ceil(_ZEROS / cutoff)
    away = np.arange(-half, half + 1)[None, :] - (np.arange(up) / up)[:, None]
    window = np.cos(np.pi * np.clip(away / (half + 1), -1, 1) / 2) ** 2
    weights = cutoff * np.sinc(cutoff * away) * window
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32), half


def _header(file: BinaryIO) -> tuple[int, int, int, int, int]:
    """Format, bits, channels, rate and how many bytes of samples follow. Raises ValueError."""
    start = file.read(12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:12] != b"WAVE":
        raise ValueError("it is no WAV file: convert it, for example `ffmpeg -i FILE -ar 16000 -ac 1 clip.wav`")
    told: Optional[tuple[int, int, int, int]] = None  # noqa: UP045
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it ends before its samples begin")
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            if told is None:
                raise ValueError("its samples come before their format")
            return _checked(*told, size)
        if size > _LARGEST_CHUNK:
            raise ValueError("it has a chunk before its samples that is longer than any")
        content = file.read(size + size % 2)
        if name == b"fmt ":
            if len(content) < 16:
                raise ValueError("its format is cut short")
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if kind == _EXTENSIBLE and len(content) >= 26:
                kind = struct.unpack("<H", content[24:26])[0]
            told = (kind, bits, channels, rate)


def _checked(kind: int, bits: int, channels: int, rate: int, size: int) -> tuple[int, int, int, int, int]:
    if (kind, bits) not in ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)):
        raise ValueError(f"its samples are of format {kind} with {bits} bits; integers and floats are read")
    if not 0 < channels <= _MOST_CHANNELS or not _RATES[0] <= rate <= _RATES[1]:
        raise ValueError(f"it has {channels} channels at {rate} samples a second")
    return kind, bits, channels, rate, size


def _samples(file: BinaryIO, kind: int, bits: int, channels: int, rate: int, size: int) -> Iterator[np.ndarray]:
    """The mean of all channels, a second at a time. Raises ValueError where there is no sample, or one is no number."""
    frame = bits // 8 * channels
    left = size if 0 < size < 0xFFFF_FFF0 else 1 << 62  # unfinished or endless headers: to the end of the file
    found = False
    while left >= frame:
        raw = file.read(min(left, rate * frame))
        raw = raw[: len(raw) // frame * frame]
        if not raw:
            break
        left -= len(raw)
        values = _numbers(raw, kind, bits).reshape(-1, channels).mean(axis=1, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds samples that are no numbers")
        found = True
        yield values
    if not found:
        raise ValueError("it holds no samples")


def _numbers(raw: bytes, kind: int, bits: int) -> np.ndarray:
    if kind == _FLOAT:
        return np.frombuffer(raw, "<f4" if bits == 32 else "<f8").astype(np.float32)
    if bits == 8:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if bits == 24:
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = (parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) >> 8
        return whole.astype(np.float32) / (1 << 23)
    return np.frombuffer(raw, f"<i{bits // 8}").astype(np.float32) / np.float32(1 << (bits - 1))
