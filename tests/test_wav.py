"""WAV files as a device reads them: every common form, and what is damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from tiny_whisper import babble

from edgekd.onboard import wav


def _riff(kind: int, bits: int, channels: int, rate: int, data: bytes, size: int | None = None) -> bytes:
    frame = bits // 8 * channels
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)
    told = len(data) if size is None else size
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", 16) + form + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    return b"RIFF" + struct.pack("<I", 0) + chunks + b"data" + struct.pack("<I", told) + data


def _encoded(audio: np.ndarray, kind: int, bits: int) -> bytes:
    if kind == 3:
        return audio.astype("<f4" if bits == 32 else "<f8").tobytes()
    if bits == 8:
        return (audio * 127 + 128).round().astype(np.uint8).tobytes()
    whole = (audio.astype(np.float64) * (2 ** (bits - 1) - 1)).round().astype(np.int64)
    if bits == 24:
        return b"".join(struct.pack("<i", int(one))[:3] for one in whole)
    return whole.astype(f"<i{bits // 8}").tobytes()


def _read(path: Path) -> np.ndarray:
    return np.concatenate(list(wav.blocks(path)))


@pytest.mark.parametrize(("kind", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_form_of_sample_is_the_same_audio(kind: int, bits: int, tmp_path: Path):
    audio = babble(0.3)
    (tmp_path / "a.wav").write_bytes(_riff(kind, bits, 1, 16_000, _encoded(audio, kind, bits)))
    assert np.abs(_read(tmp_path / "a.wav") - audio).max() < (0.01 if bits == 8 else 1e-4)


def test_channels_are_mixed(tmp_path: Path):
    both = np.stack([np.full(100, 0.5), *[np.full(100, -0.1)] * 7], axis=1).ravel()
    (tmp_path / "a.wav").write_bytes(_riff(1, 16, 8, 16_000, _encoded(both, 1, 16)))
    assert _read(tmp_path / "a.wav") == pytest.approx(np.full(100, (0.5 - 0.7) / 8), abs=1e-4)


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_every_rate_becomes_16_khz(rate: int, tmp_path: Path):
    time = np.arange(int(2.3 * rate)) / rate
    (tmp_path / "a.wav").write_bytes(_riff(1, 16, 1, rate, _encoded(0.5 * np.sin(2 * np.pi * 500 * time), 1, 16)))
    pieces = list(wav.blocks(tmp_path / "a.wav"))
    found = np.concatenate(pieces)
    assert abs(len(found) - 2.3 * 16_000) <= 1
    wanted = 0.5 * np.sin(2 * np.pi * 500 * np.arange(len(found)) / 16_000)
    inner = slice(800, -800)
    assert np.abs(found[inner] - wanted[inner]).max() < 0.01
    assert max(map(len, pieces)) < 40_000, "a long file is never held whole"


def test_what_lies_above_half_the_rate_is_filtered_away(tmp_path: Path):
    time = np.arange(48_000) / 48_000
    (tmp_path / "a.wav").write_bytes(_riff(1, 16, 1, 48_000, _encoded(0.5 * np.sin(2 * np.pi * 12_000 * time), 1, 16)))
    assert np.abs(_read(tmp_path / "a.wav")[800:-800]).max() < 0.01


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 10**6])
def test_a_header_that_was_never_finished_or_a_file_that_was_cut_is_read_as_far_as_it_goes(size: int, tmp_path: Path):
    audio = babble(0.3)
    (tmp_path / "a.wav").write_bytes(_riff(1, 16, 1, 16_000, _encoded(audio, 1, 16) + b"\1", size))
    assert len(_read(tmp_path / "a.wav")) == len(audio)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no WAV file"),
        (b"fLaC" + bytes(50), "no WAV file"),
        (_riff(1, 16, 1, 16_000, b"")[:15], "ends before"),
        (_riff(1, 16, 1, 16_000, b""), "no samples"),
        (_riff(85, 16, 1, 16_000, bytes(100)), "format 85"),
        (_riff(1, 12, 1, 16_000, bytes(100)), "12 bits"),
        (_riff(1, 16, 0, 16_000, bytes(100)), "0 channels"),
        (_riff(1, 16, 1, 0, bytes(100)), "0 samples a second"),
        (_riff(3, 32, 1, 16_000, np.full(9, np.nan, "<f4").tobytes()), "no numbers"),
        (b"RIFF\0\0\0\0WAVE" + b"data" + struct.pack("<I", 4) + bytes(4), "before their format"),
        (b"RIFF\0\0\0\0WAVE" + b"junk" + struct.pack("<I", 1 << 31), "longer than any"),
        (b"RIFF\0\0\0\0WAVE" + b"fmt " + struct.pack("<I", 4) + bytes(4), "cut short"),
    ],
)
def test_what_is_no_wav_file_is_refused_in_words(content: bytes, words: str, tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        _read(tmp_path / "a.wav")
