"""Recordings decoded in a process of its own, within limits, and kept: plain samples, decoded once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd.core.cpus import usable_cpus, usable_memory
from edgekd.core.errors import DataError
from edgekd.core.results import versions
from edgekd.data import limits
from edgekd.data.silences import RATE, spans
from edgekd.security import child
from edgekd.store.store import Store

LONGEST_SECONDS = 30.0  # of a piece: the window of Whisper
SAMPLES = "samples.i16"
_FACTS = "facts.json"
_BASE_S, _S_PER_MIB = 60.0, 4.0  # of CPU: FLAC of silence unpacks to hours
_PATIENCE = 5  # times that, in seconds on the clock: other processes may be busy
_BASE_MIB = 3072  # for decoding a recording of the longest length


def decoded(
    cells: Sequence[Path | bytes], whole: Sequence[bool], source: str, store: Store
) -> tuple[Path, list[dict[str, Any]]]:
    """Return the file of all samples and what is to be known of each recording; kept by files' names, sizes and times.

    Of a recording that is not to be `whole` these are its pieces of at most 30 s: `first`, `count` and `sha256` of
    each, and whether it is `clipped`; of one that cannot be used the `error` and its `fix`. Raises DataError.
    """
    key = {
        "audio": [[*_stamp(cell), kept] for cell, kept in zip(cells, whole, strict=True)],
        "seconds": LONGEST_SECONDS,
        "facts": 1,
        "versions": versions("soundfile", "soxr"),
    }

    def produce(out: Path) -> None:
        encoded = out / "encoded"
        encoded.mkdir()
        files = []
        for number, (cell, kept) in enumerate(zip(cells, whole, strict=True)):
            place = cell if isinstance(cell, Path) else encoded / f"{number:08d}"
            if isinstance(cell, bytes):
                place.write_bytes(cell)
            files.append({"path": str(place.absolute()), "whole": kept})
        _call(files, out, source)
        for place in encoded.iterdir():
            place.unlink()
        encoded.rmdir()

    folder = store.stage("audio", key, produce)
    facts: list[dict[str, Any]] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return folder / SAMPLES, facts


def _call(files: Sequence[Mapping[str, Any]], out: Path, source: str) -> None:
    """Decode in a process of its own. Raises DataError, naming the file that it ended at."""
    size_mib = sum(Path(one["path"]).stat().st_size for one in files if Path(one["path"]).is_file()) / 2**20
    seconds = _BASE_S + _S_PER_MIB * size_mib
    memory_mib = min(usable_memory() >> 20, _BASE_MIB + (limits.MOST_BYTES >> 20))
    at = 0

    def follow(line: str) -> None:
        nonlocal at
        at = int(line) if line.isdecimal() else at

    try:
        child.call(
            "edgekd.data.decoded:decode_all",
            {"files": files, "out": str(out)},
            timeout_s=_PATIENCE * seconds,
            said=follow,
            limits=child.Limits(memory_mib=memory_mib, cpu_s=int(seconds) * usable_cpus()),
        )
    except child.ChildError as error:
        raise DataError(
            f"{source} cannot be decoded: at {Path(files[at]['path']).name} {error.why}",
            fix="remove that file, or save it again as WAV",
        ) from error


def _stamp(cell: Path | bytes) -> tuple[str, ...]:
    """Return what tells a file from another without reading it; see `images`."""
    if isinstance(cell, bytes):
        return (sha256(cell).hexdigest(),)
    try:
        state = cell.stat()
    except (OSError, ValueError):
        return (str(cell),)
    return str(cell.absolute()), *map(str, (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))


def decode_all(files: Sequence[Mapping[str, Any]], out: str) -> None:
    """Write the samples of all files into one, and what is to be known of each: the work of the process that decodes.

    A file that is not `whole` and longer than LONGEST_SECONDS is cut. Raises DataError where they are too many hours.
    """
    import numpy as np

    from edgekd.data import sound

    facts: list[dict[str, Any]] = []
    total = 0
    with Path(out, SAMPLES).open("wb") as stream:
        for number, one in enumerate(files):
            print(number, flush=True)  # noqa: T201  (a line that the parent reads: which file it was, should this one end)
            try:
                recording = sound.decode(Path(one["path"]))
            except sound.Unusable as error:
                facts.append({"error": error.reason, "fix": error.fix})
                continue
            values = recording.samples
            most = len(values) if one["whole"] else int(LONGEST_SECONDS * RATE)
            parts = spans(values.astype(np.float32), most)
            pieces = [
                {
                    "first": total + first,
                    "count": count,
                    "sha256": sha256(values[first : first + count].tobytes()).hexdigest(),
                }
                for first, count in parts
                if one["whole"] or len(parts) == 1 or values[first : first + count].any()
            ]
            total += len(values)
            if total * values.itemsize > limits.MOST_BYTES:
                hours = limits.MOST_BYTES / values.itemsize / RATE / 3600
                raise DataError(f"the recordings are longer than {hours:.0f} hours together", fix="give fewer of them")
            stream.write(values.tobytes())
            facts.append({"pieces": pieces, "clipped": recording.clipped})
    Path(out, _FACTS).write_text(json.dumps(facts), encoding="utf-8")
