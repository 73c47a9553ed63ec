"""Where long recordings are cut: at their quietest places, by energy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Samples = np.ndarray[Any, Any]

RATE = 16_000  # samples a second of all audio that is read
FRAME = RATE // 50  # samples whose energy is one figure: 20 ms
SILENT = 1e-3  # the largest sample of what holds no sound: 60 dB below full scale
_PAUSE = 10  # frames that a cut should lie in the middle of: 200 ms
_LEAST_SHARE = 0.4  # of the longest piece: no piece that is followed by another is shorter


def spans(samples: Samples, most: int) -> list[tuple[int, int]]:
    """Return (first, count) of pieces of at most `most` samples that together are the recording, (samples,) float32.

    Each cut is at the quietest 200 ms of what a piece may end in; of equally quiet places at the last. A recording
    that is short enough is one piece.
    """
    import numpy as np

    if len(samples) <= most:
        return [(0, len(samples))]
    frames = len(samples) // FRAME
    whole = samples[: frames * FRAME].reshape(frames, FRAME).astype(np.float32)
    energies = np.einsum("ij,ij->i", whole, whole)
    window = np.ones(_PAUSE, dtype=np.float32)
    around = np.convolve(np.pad(energies, _PAUSE // 2, mode="edge"), window, mode="same")[_PAUSE // 2 :][:frames]
    found, first, longest = [], 0, max(1, most // FRAME)
    while len(samples) - first > most:
        begin = first // FRAME
        least = begin + max(1, int(longest * _LEAST_SHARE))
        choices = around[least : begin + longest]
        at = least + len(choices) - 1 - int(np.argmin(choices[::-1])) if len(choices) else begin + longest
        found.append((first, at * FRAME - first))
        first = at * FRAME
    return [*found, (first, len(samples) - first)]


def is_silent(samples: Samples) -> bool:
    """Return whether no sample is louder than 60 dB below full scale."""
    import numpy as np

    return not len(samples) or float(np.abs(samples).max()) < SILENT
