"""Whisper's log-mel spectrogram, in numpy: only the frames that hold audio are computed.

Frames of 25 ms, 10 ms apart, a periodic Hann window, powers summed by triangles on Slaney's mel scale, the logarithm
cut at 8 below the loudest (Radford et al. 2022, arXiv 2212.04356).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

RATE, SIZE, HOP = 16_000, 400, 160  # samples a second, of a frame, and between two frames
_LEAST, _RANGE = 1e-10, 8.0
_BLOCK = 512  # frames at once: memory stays small


def log_mel(audio: np.ndarray, mels: int, frames: int) -> np.ndarray:
    """Return the spectrogram of samples (n,) in [-1, 1], silence behind them: float32 (mels, frames).

    Audio beyond `frames` frames is cut.
    """
    audio = np.asarray(audio, dtype=np.float32)[: frames * HOP]
    held = min(frames, -(-(len(audio) + SIZE // 2) // HOP))  # those that reach into the audio
    half = SIZE // 2
    padded = np.zeros((frames if held == frames else held) * HOP + SIZE, dtype=np.float32)
    padded[half : half + len(audio)] = audio
    _mirror(padded, audio, half, frames * HOP)
    powers = np.empty((held, mels), dtype=np.float32)
    window, triangles = _window(), _triangles(mels)
    every = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    for first in range(0, held, _BLOCK):
        block = every[first : min(first + _BLOCK, held)]
        spectrum = np.fft.rfft(block * window, axis=1)
        powers[first : first + len(block)] = (spectrum.real**2 + spectrum.imag**2) @ triangles
    logs = np.log10(np.maximum(powers, _LEAST))
    loudest = logs.max() if held else np.float32(np.log10(_LEAST))
    if held < frames:
        loudest = max(loudest, np.float32(np.log10(_LEAST)))
    least = loudest - _RANGE
    found = np.full((mels, frames), (max(np.float32(np.log10(_LEAST)), least) + 4.0) / 4.0, dtype=np.float32)
    found[:, :held] = (np.maximum(logs, least).T + 4.0) / 4.0
    return found


def _mirror(padded: np.ndarray, audio: np.ndarray, half: int, whole: int) -> None:
    """Mirror the ends of the window into the padding, as the model was trained: its end where audio reaches it."""
    if len(audio) > 1:
        count = min(half, len(audio) - 1)
        padded[half - count : half] = audio[count:0:-1]
    end = half + whole
    for at in range(half):  # sample `whole + at` is that of `whole - 2 - at`
        source = whole - 2 - at
        if 0 <= source < len(audio) and end + at < len(padded):
            padded[end + at] = audio[source]


@lru_cache(maxsize=1)
def _window() -> np.ndarray:
    window: np.ndarray = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)).astype(np.float32)
    return window


@lru_cache(maxsize=4)
def _triangles(mels: int) -> np.ndarray:
    """The weight of each frequency in each band, each band's area the same: (SIZE // 2 + 1, mels)."""
    edges = _to_hertz(np.linspace(0.0, _to_mel(RATE / 2), mels + 2))
    bins = np.linspace(0.0, RATE / 2, SIZE // 2 + 1)
    rising = (bins[:, None] - edges[None, :-2]) / np.diff(edges)[:-1]
    falling = (edges[None, 2:] - bins[:, None]) / np.diff(edges)[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))
    found: np.ndarray = weights.astype(np.float32)
    return found


def _to_mel(hertz: float) -> float:
    """Slaney's scale: linear below 1000 Hz, logarithmic above."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000)) / float(np.log(6.4))


def _to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))
