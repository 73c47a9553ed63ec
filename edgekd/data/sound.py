"""One recording decoded: WAV, FLAC, OGG or MP3 of any rate to 16 kHz mono, or the reason why it cannot be used.

What decodes is soundfile (libsndfile) and what resamples is soxr. Both read strangers' bytes in C: `edgekd.data.audio`
calls this in a process of its own, within limits.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekd.core import pointers
from edgekd.core.errors import counted
from edgekd.core.files import is_plain
from edgekd.data.silences import RATE, SILENT, is_silent

if TYPE_CHECKING:
    import numpy as np

    Samples = np.ndarray[Any, Any]

MOST_BYTES = 2 << 30  # of one encoded file
MOST_SECONDS = 4 * 3600
LEAST_SECONDS = 0.1
LEAST_RATE, MOST_RATE = 8000, 768_000
_MOST_CHANNELS = 2
_BLOCK = 1 << 18  # frames that are decoded at once
_CLIPPED = 0.999  # of full scale
_CLIPPED_SHARE = 0.01  # of the samples, from which a recording counts as clipped
_CANCELLED = 0.01  # of the channels' energy: a mean with less is the channels against each other
_AGAIN = "fetch or record it again"
_CONVERT = "save it as WAV, FLAC, OGG or MP3: ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav"
_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")  # as libsndfile calls them; it would try many others
_ANY_SIZE = (0xFFFFFFFF, 0x7FFFFFFF)  # of data in a WAV that was written into a pipe: nobody knew its length


class Unusable(Exception):
    """A recording that is left out: what is wrong with it, and what to do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(frozen=True)
class Recording:
    """What a file holds."""

    samples: Samples  # int16 (samples,) at 16 kHz
    clipped: bool  # whether at least 1% of it stands at full scale


def decode(source: Path) -> Recording:
    """Return a file's sound at 16 kHz, both channels' mean. Raises Unusable."""
    import numpy as np
    import soundfile
    import soxr

    begins, size = _begins(source)
    try:
        with soundfile.SoundFile(str(source)) as file:
            _check_kind(file)
            blocks, heard, clipped, mixed, apart = [], 0, 0, 0.0, 0.0
            stream = soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32")
            while len(values := file.read(_BLOCK, dtype="float32", always_2d=True)):
                heard += len(values)
                if heard > MOST_SECONDS * file.samplerate:
                    raise Unusable(
                        f"is longer than {MOST_SECONDS // 3600} hours", "cut it into files of an hour or less"
                    )
                if not np.isfinite(values).all():
                    raise Unusable("holds NaN or infinity", _AGAIN)
                mono = values.mean(axis=1)
                clipped += int((np.abs(values).max(axis=1) >= _CLIPPED).sum())
                mixed, apart = mixed + float((mono**2).sum()), apart + float((values**2).mean(axis=1).sum())
                blocks.append(_as_int16(stream.resample_chunk(mono)))
            blocks.append(_as_int16(stream.resample_chunk(np.zeros(0, np.float32), last=True)))
            _check_whole(file, heard, begins, size)
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip().rstrip(".") or "its data are damaged or cut"
        raise Unusable(f"cannot be decoded: {reason}", _AGAIN) from error
    samples = np.concatenate(blocks)
    if len(samples) < LEAST_SECONDS * RATE:
        raise Unusable(f"holds {len(samples) / RATE:.2f} s of sound, which is no word", "remove it")
    if apart > heard * SILENT**2 and mixed < _CANCELLED * apart:
        raise Unusable("is silent as one channel: its two channels cancel each other", "keep one channel of it")
    if is_silent(samples / np.float32(1 << 15)):
        raise Unusable("is silent", "remove it, or record it louder")
    return Recording(samples, clipped >= _CLIPPED_SHARE * heard)


def _as_int16(values: Samples) -> Samples:
    import numpy as np

    scaled: Samples = np.clip(np.rint(values * (1 << 15)), -(1 << 15), (1 << 15) - 1).astype(np.int16)
    return scaled


def _begins(source: Path) -> tuple[bytes, int]:
    """Return a file's first bytes and its size. Raises Unusable where it is of none of our formats."""
    try:
        if not is_plain(source):
            raise Unusable("is not there" if not source.exists() else "is no plain file", "give a file of its own")
        size = source.stat().st_size
        with source.open("rb") as stream:
            begins = stream.read(4096)
            last = _last_page(stream, size) if begins.startswith(b"OggS") else b""
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}", "check the path and its permissions") from error
    if not size:
        raise Unusable("is empty", _AGAIN)
    if size > MOST_BYTES:
        raise Unusable(f"has {size:,} bytes; at most {MOST_BYTES:,} are read", "cut it into files of an hour or less")
    if pointers.is_pointer(begins):
        raise Unusable(f"cannot be read: {pointers.REASON}", pointers.FIX)
    if not _is_audio(begins):
        raise Unusable("is no WAV, FLAC, OGG or MP3", _CONVERT)
    if begins.startswith(b"OggS") and not (len(last) > 5 and last[5] & 4):  # the flag of a stream's last page
        raise Unusable("is cut: its last page is missing", _AGAIN)
    return begins, size


def _is_audio(begins: bytes) -> bool:
    if begins[:4] in (b"RIFF", b"RF64"):
        return begins[8:12] == b"WAVE"
    return begins.startswith((b"fLaC", b"OggS", b"ID3")) or (begins[:1] == b"\xff" and begins[1:2] >= b"\xe0")


def _last_page(stream: BinaryIO, size: int) -> bytes:
    """Return an Ogg file's last page, at least its head."""
    stream.seek(max(0, size - (1 << 17)))
    tail = stream.read()
    return tail[max(0, tail.rfind(b"OggS")) :]


def _check_kind(file: Any) -> None:
    """Raise Unusable for what is no recording of speech."""
    if file.format not in _FORMATS:
        raise Unusable(f"is {file.format}, not WAV, FLAC, OGG or MP3", _CONVERT)
    if file.channels > _MOST_CHANNELS:
        raise Unusable(
            f"has {counted(file.channels, 'channel')}; one or two are taken",
            "keep the channel with the voice: ffmpeg -i FILE -af 'pan=mono|c0=c0' FILE.wav",
        )
    if not LEAST_RATE <= file.samplerate <= MOST_RATE:
        raise Unusable(
            f"has {file.samplerate:,} samples a second; {LEAST_RATE:,} to {MOST_RATE:,} are taken",
            f"record it at {RATE:,}: what a lower rate has lost no resampling brings back",
        )


def _check_whole(file: Any, heard: int, begins: bytes, size: int) -> None:
    """Raise Unusable where a header tells of more than there is."""
    declared = file.frames
    if file.format in ("WAV", "WAVEX"):
        length, at = _wav_data(begins)
        unfinished = length == 0 and size > at
        if unfinished:
            raise Unusable(
                f"says that it holds no sound, but {size - at:,} bytes follow: whoever wrote it did not finish",
                "write its header again: sox --ignore-length FILE FILE.wav",
            )
        if length and length not in _ANY_SIZE and size > at:
            declared = round(heard * length / max(1, min(length, size - at)))
    elif file.format == "MP3" and not any(mark in begins for mark in (b"Xing", b"Info", b"VBRI")):
        declared = heard  # without such a header its length is a guess
    if not heard:
        raise Unusable("holds no sound", _AGAIN)
    if declared > heard * 1.02 + 0.1 * file.samplerate:
        seconds = (heard / file.samplerate, declared / file.samplerate)
        raise Unusable("is cut: {:.1f} s are there of the {:.1f} s that its header tells of".format(*seconds), _AGAIN)


def _wav_data(begins: bytes) -> tuple[int | None, int]:
    """Return how many bytes of sound a WAV's header tells of (None: it is further on), and where they begin."""
    stream = io.BytesIO(begins)
    stream.seek(12)
    while len(head := stream.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            return length, stream.tell()
        stream.seek(length + length % 2, io.SEEK_CUR)
    return None, 0
