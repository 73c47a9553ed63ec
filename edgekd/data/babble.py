"""A voice without words: what golden inputs and sizing hear where nobody's recording may be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd.data.silences import RATE

if TYPE_CHECKING:
    import numpy as np


def babble(seconds: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return what a voice without words might sound like: float32 (samples,).

    Each syllable is a glide of a larynx's harmonics through three formants, with a burst of noise before it.
    """
    import numpy as np

    whole = np.zeros(seconds * RATE, np.float32)
    at = 0
    while at < len(whole):
        length = int(random.uniform(0.12, 0.3) * RATE)
        time = np.arange(length) / RATE
        pitch = random.uniform(90, 180) * (1 + 0.15 * np.sin(2 * np.pi * random.uniform(1, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        formants = random.uniform((300, 900, 2300), (800, 2200, 3200))
        voice = np.zeros(length)
        for harmonic in range(1, 30):
            gain = sum(np.exp(-(((harmonic * pitch.mean() - one) / 150) ** 2)) for one in formants) + 0.02
            voice += gain * np.sin(harmonic * phase) / harmonic**0.5
        voice *= np.sin(np.pi * np.arange(length) / length)
        burst = random.standard_normal(length) * np.exp(-time / 0.015)
        sound = (0.08 * voice + 0.05 * burst).astype(np.float32)[: len(whole) - at]
        whole[at : at + len(sound)] += sound
        at += length + int(random.uniform(0.02, 0.12) * RATE)
    return whole.clip(-1, 1)
