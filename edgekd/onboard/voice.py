"""Voice activity: whether a stretch of audio may hold speech, and where a long one is best cut.

Silence, hum and noise stay as they are for seconds; speech changes its spectrum several times a second, by much
(Ramirez et al. 2004 measure such a divergence from the noise's spectrum). It is a gate before the model, which hears
words in noise; what passes it may still be no speech.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1600  # samples of 100 ms: what is compared
_BANDS = 24
_FLOOR_DB = -100.0  # of full scale, of a band: below is silence
_APART_DB = 4.5  # of a block's spectrum from the usual one, mean over the bands
_LOUD_DB = -85.0  # of a block that may be a voice
_LEAST_BLOCKS = 2
_LAST = 0.4  # of a window: where a cut is looked for


def has_voice(audio: np.ndarray) -> bool:
    """Return whether samples (n,) at 16 kHz, in [-1, 1], may hold speech: 200 ms that differ from the rest."""
    levels = _levels(audio)
    if not len(levels):
        return False
    usual = np.median(levels, axis=0)
    apart = np.abs(levels - usual).mean(axis=1)
    loud = levels.max(axis=1) > _LOUD_DB
    return int((loud & (apart > _APART_DB)).sum()) >= _LEAST_BLOCKS


def windows(audio: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Yield where each window of at most `size` samples begins and ends: a longer audio is cut where it is quietest.

    >>> list(windows(np.zeros(10), 30))
    [(0, 10)]
    """
    begin = 0
    while len(audio) - begin > size:
        end = begin + cut(audio[begin : begin + size])
        yield begin, end
        begin = end
    yield begin, len(audio)


def cut(window: np.ndarray) -> int:
    """Return after how many of a full window's samples it is quietest, in its last part."""
    count = len(window) // BLOCK
    if count < 4:
        return len(window)
    powers = (window[: count * BLOCK].reshape(count, BLOCK).astype(np.float32) ** 2).mean(axis=1)
    pairs = powers[:-1] + powers[1:]
    first = int(count * (1 - _LAST))
    return (first + int(pairs[first:].argmin()) + 1) * BLOCK


def _levels(audio: np.ndarray) -> np.ndarray:
    """Levels in dB of each block of 100 ms by band, none below the floor: (blocks, _BANDS)."""
    count = len(audio) // BLOCK
    blocks = np.asarray(audio[: count * BLOCK], dtype=np.float32).reshape(count, BLOCK)
    spectrum = np.fft.rfft(blocks * np.hanning(BLOCK).astype(np.float32), axis=1)
    powers = (spectrum.real**2 + spectrum.imag**2)[:, 10:380]  # 100 to 3800 Hz
    edges = np.unique(np.geomspace(1, powers.shape[1], _BANDS + 1).astype(int)) - 1
    bands = np.add.reduceat(powers, edges[:-1], axis=1) if count else powers[:, :0]
    levels: np.ndarray = 10 * np.log10(np.maximum(bands / BLOCK**2, 10 ** (_FLOOR_DB / 10)))
    return levels
