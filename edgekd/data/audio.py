"""Recordings and what is said in them, from folders, tables and Hugging Face datasets; decoded once, then kept.

A table's rows hold an `AudioClip` under `audio` and a text, or None, under `transcript`. Decoding is done by a process
of its own, within limits; what it writes are plain samples, which nothing has to decode again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgekd.core.errors import DataError, counted
from edgekd.core.files import user_path
from edgekd.data import limits
from edgekd.data.columns import find_column, find_label
from edgekd.data.decoded import LONGEST_SECONDS, decoded
from edgekd.data.media import AUDIO, holds_tables, read_folders
from edgekd.data.read import ColumnsRead, NotedTable, Table, read_tables
from edgekd.data.silences import FRAME, RATE, spans
from edgekd.store.store import Store, open_store

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

AUDIO_COLUMN, TRANSCRIPT = "audio", "transcript"
MAX_BROKEN = 0.05  # of the files, before we refuse
_FULL_SCALE = 1 << 15
_MOST_LISTED = 3  # of the reasons why files are left out


@dataclass(frozen=True)
class AudioClip:
    """A recording, or a piece of a long one: 16 kHz mono, inside a file of samples that reading it wrote."""

    samples: Path = field(repr=False, compare=False)
    first: int = field(compare=False)
    count: int
    sha256: str  # of its samples: the same sound in two files is one
    source: Path | None = field(default=None, repr=False, compare=False)  # the user's own file, for messages

    @property
    def content(self) -> str:
        """What it says: see `Example.content`."""
        return self.sha256

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.count / RATE

    def part(self, first: int, count: int) -> AudioClip:
        """Return a piece of it, in samples from its start. Raises DataError as `waveform` does."""
        raw = _raw(self.samples, self.first + first, count)
        return AudioClip(self.samples, self.first + first, count, sha256(raw).hexdigest(), self.source)


def read_audio(
    source: str, *, column: str | None = None, label: str | None = None, store: Store | None = None
) -> dict[str, NotedTable]:
    """Tables by split, or one called `all`. `column` and `label` name the columns of the recordings and the texts.

    Recordings longer than 30 s that have no text are cut at silences into rows of their own. Raises DataError for a
    source without recordings, and where more than 5% of them cannot be used; up to that they are left out, and the
    table's `notes` count them.
    """
    path, store = user_path(source), store or open_store()
    if path.is_dir() and not holds_tables(path, AUDIO):
        found = read_folders(path, column, label, AUDIO)
    else:
        root = path if path.is_dir() else path.parent
        found = {
            part: _with_paths(table, column, f"{source} ({part})" if part != "all" else source, root)
            for part, table in read_tables(source).items()
        }
    return _checked({part: _with_texts(*one, label, source) for part, one in found.items()}, source, store)


def waveform(clip: AudioClip | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the samples of a clip, float32 (samples,) at 16 kHz from -1 to 1; an array is that already.

    Raises DataError where what was read is gone.
    """
    import numpy as np

    if not isinstance(clip, AudioClip):
        return clip
    raw = np.frombuffer(_raw(clip.samples, clip.first, clip.count), dtype=np.int16)
    samples: np.ndarray[Any, Any] = raw.astype(np.float32) / np.float32(_FULL_SCALE)
    return samples


def cut(clip: AudioClip, seconds: float) -> list[AudioClip]:
    """Return pieces of at most so many seconds, cut at silences; a clip that is short enough is its only piece."""
    most = int(seconds * RATE) // FRAME * FRAME
    if clip.count <= most:
        return [clip]
    return [clip.part(first, count) for first, count in spans(waveform(clip), most)]


class Waveforms(Sequence["Sample"]):
    """Samples `{"audio": float32 (samples,)}` of clips, read when asked for; `lengths` tells how long each is."""

    def __init__(self, clips: Sequence[AudioClip | np.ndarray[Any, Any]]) -> None:
        self.clips = list(clips)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Samples of each: int64 (rows,)."""
        import numpy as np

        return np.array([one.count if isinstance(one, AudioClip) else len(one) for one in self.clips], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> Waveforms: ...
    def __getitem__(self, row: int | slice) -> Sample | Waveforms:
        if isinstance(row, slice):
            return Waveforms(self.clips[row])
        return {AUDIO_COLUMN: waveform(self.clips[row])}

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))


def _raw(file: Path, first: int, count: int) -> bytes:
    size = 2  # bytes of a sample
    try:
        with file.open("rb") as stream:
            stream.seek(first * size)
            raw = stream.read(count * size)
    except OSError:
        raw = b""
    if len(raw) < count * size:
        raise DataError("the decoded recordings are gone", fix="run the same command again: they are decoded again")
    return raw


def _with_paths(table: Table, column: str | None, source: str, root: Path) -> tuple[str, NotedTable]:
    """Return the recordings' column, and the table with its cells as paths or bytes. Raises DataError."""
    found = find_column(column, AUDIO.columns, list(table[0]), source, AUDIO.option, fix=AUDIO.fix)
    rows = []
    for number, row in enumerate(table, start=1):
        cell = row.get(found)
        if isinstance(cell, dict):  # Hugging Face's struct of a recording
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str) and cell.strip():
            cell = AUDIO.found(root, cell.strip())
        if not isinstance(cell, Path | bytes):
            raise DataError(
                f"{source}, row {number}: the column {found!r} holds {limits.shown(cell)}, no recording",
                fix="remove rows without a recording, or call the column of the recordings audio",
            )
        rows.append(row | {found: cell})
    noted = NotedTable(rows, getattr(table, "notes", ()))
    return found, noted


def _with_texts(column: str, table: NotedTable, label: str | None, source: str) -> NotedTable:
    """Return rows of `audio` and `transcript` alone; `columns` says what they are called in the source."""
    others = [name for name in table[0] if name != column]
    own = find_label(label, others, source, needed=False, usual=AUDIO.labels)
    rows = [
        {
            AUDIO_COLUMN: row[column],
            TRANSCRIPT: AUDIO.label(row.get(own), f"{source}, row {number}") if own else None,
        }
        for number, row in enumerate(table, start=1)
    ]
    made = NotedTable(rows, table.notes)
    made.columns = ColumnsRead(column, own, tuple(name for name in others if name != own))
    return made


def _checked(tables: Mapping[str, NotedTable], source: str, store: Store) -> dict[str, NotedTable]:
    """Return the tables with an AudioClip for each path or bytes; what cannot be used is left out and counted."""
    rows = [row for table in tables.values() for row in table]
    whole = [row[TRANSCRIPT] is not None for row in rows]
    file, told = decoded([row[AUDIO_COLUMN] for row in rows], whole, source, store)
    facts = iter(told)
    checked = {}
    for part, table in tables.items():
        kept: Table = []
        broken: list[tuple[str, Mapping[str, Any]]] = []
        counts: Counter[str] = Counter()
        for row in table:
            cell, fact = row[AUDIO_COLUMN], next(facts)
            if "error" in fact:
                broken.append((cell.name if isinstance(cell, Path) else "bytes in the table", fact))
                continue
            counts["clipped"] += fact["clipped"]
            counts["cut"] += len(fact["pieces"]) > 1
            counts["pieces"] += len(fact["pieces"]) if len(fact["pieces"]) > 1 else 0
            for piece in fact["pieces"]:
                clip = AudioClip(file, source=cell if isinstance(cell, Path) else None, **piece)
                counts["long"] += row[TRANSCRIPT] is not None and clip.seconds > LONGEST_SECONDS
                kept.append(row | {AUDIO_COLUMN: clip})
        notes = (*table.notes, *_broken(broken, len(table), source), *_notes(counts))
        if not kept:
            raise DataError(f"{source} holds no recording that can be used", fix="give recordings of speech")
        checked[part] = NotedTable(kept, notes)
        checked[part].columns = table.columns
    return checked


def _broken(broken: Sequence[tuple[str, Mapping[str, Any]]], total: int, source: str) -> tuple[str, ...]:
    """Return a note of files that are left out. Raises DataError where they are too many."""
    if not broken:
        return ()
    name, first = broken[0]
    reasons = Counter(fact["error"].partition(":")[0] for _, fact in broken)
    others = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(_MOST_LISTED))
    words = f"{name} {first['error']}" + (f"; all reasons: {others}" if len(broken) > 1 else "")
    if len(broken) > MAX_BROKEN * total:
        raise DataError(
            f"{len(broken)} of {counted(total, 'recording')} in {source} cannot be used: {words}",
            fix=f"{first['fix']}; up to 5% are left out and counted",
        )
    return (f"{len(broken)} of {counted(total, 'recording')} left out: {words}",)


def _notes(counts: Mapping[str, int]) -> tuple[str, ...]:
    notes = []
    if counts["cut"]:
        notes.append(
            f"{counted(counts['cut'], 'recording')} longer than {LONGEST_SECONDS:.0f} s without a transcript cut "
            "at silences into "
            f"{counts['pieces']} pieces"
        )
    if counts["long"]:
        notes.append(
            f"{counted(counts['long'], 'recording')} longer than {LONGEST_SECONDS:.0f} s with a transcript kept whole"
        )
    if counts["clipped"]:
        notes.append(
            f"{counted(counts['clipped'], 'clipped recording')} (1% of the samples or more at full scale): record "
            "with less "
            "gain, where you can"
        )
    return tuple(notes)
