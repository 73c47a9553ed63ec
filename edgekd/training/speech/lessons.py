"""Lessons: what a teacher wrote about each recording, kept on disk, and the batches that a student learns from.

A lesson is the transcript's tokens where the teacher can follow it, else the teacher's own; its largest logits at each;
and the encoder's states, where the student's encoder is the teacher's: that is then run once for each recording and
never again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgekd.core.errors import DataError, UsageError, counted
from edgekd.core.memory import give_back
from edgekd.core.tensors import NO_LABEL, Outputs, Targets, TopLogits
from edgekd.data.audio import AudioClip, cut, waveform
from edgekd.data.silences import RATE
from edgekd.data.splits import Example
from edgekd.store.shards import Reader, Writer
from edgekd.training.speech import pseudo_labels
from edgekd.training.speech.pseudo_labels import FOLLOWED, KEPT, LEAST_FOLLOWED, REASONS, Rules, Written

if TYPE_CHECKING:
    import numpy as np
    import torch

    from edgekd.core.protocols import Progress, Sample

    Array = np.ndarray[Any, Any]
    Features = Callable[[Array], Array]  # samples (n,) to log-mel (mels, frames)

TOP = 64  # logits that are kept of each token
_BATCH = 16
_SHARD_ROWS = 64
_LEAST_KEPT = 0.2  # of the recordings: a teacher that is trusted less often does not know this speech
_EARLY = 1.25  # how much longer than the rest the first rows may be before all are judged by them
SAID = "said.json"
SCHEMA = 2  # of lessons, and of what makes a text one that can be trusted


@dataclass(frozen=True)
class Heard:
    """How a teacher listens: its network, its rules, its log-mel, and how its tokens are read and texts made tokens."""

    model: Any
    rules: Rules
    features: Features
    text: Callable[[Sequence[int]], str]
    window_s: int
    tokens: Callable[[str], list[int]] | None = None  # of a text; None where transcripts are not to be learned
    encoder: Any = None  # the model's, or another that is the same

    def __post_init__(self) -> None:
        if self.encoder is None:
            object.__setattr__(self, "encoder", self.model.model.encoder)


def pieces(rows: Sequence[Example], window_s: int) -> list[Example]:
    """Return the rows, those longer than the window cut at silences: a piece of a recording has no transcript."""
    found = []
    for row in rows:
        clips = cut(row.input, window_s) if isinstance(row.input, AudioClip) else [row.input]
        found += [row] if len(clips) == 1 else [Example(clip) for clip in clips]
    return found


def write_lessons(
    heard: Heard,
    rows: Sequence[Example],
    out: Path,
    *,
    states: bool,
    limit_mib: float,
    progress: Progress,
    before: int = 0,
) -> None:
    """Write a lesson for each of the rows, which fit the window, into the folder `out`; whole shards of it are kept.

    Lessons that cannot be trusted are empty. Raises UsageError where they pass the limit on disk, DataError where the
    teacher knows this speech too little.
    """
    writer = Writer(out, _SHARD_ROWS)
    for start in range(writer.done, len(rows), _BATCH):
        for lesson in _written(heard, rows[start : start + _BATCH], states=states):
            writer.append(lesson)
        done = min(len(rows), start + _BATCH)
        _hold_to(limit_mib, out, done, len(rows))
        give_back()
        progress.step(before + done)
    writer.close()
    told = Counter(int(one["reason"][0]) for one in _all(Reader(out), "reason"))
    (out / SAID).write_text(json.dumps({REASONS[reason]: count for reason, count in sorted(told.items())}))
    good = sum(told[reason] for reason in KEPT)
    if rows and good < _LEAST_KEPT * len(rows):
        raise DataError(
            f"of {counted(len(rows), 'recording')} the teacher's text of {good} can be trusted: "
            + ", ".join(f"{count} {REASONS[reason]}" for reason, count in told.most_common()),
            fix="give a teacher of the recordings' language, or recordings of speech",
        )


def transcribed(models: Mapping[str, Heard], rows: Sequence[Example]) -> dict[str, list[str]]:
    """Return what each model writes about each of the rows, which fit their window; encoders that are one run once."""
    order = sorted(range(len(rows)), key=lambda row: _seconds(rows[row]))  # a batch takes as long as its longest text
    texts = {name: [""] * len(rows) for name in models}
    for start in range(0, len(rows), _BATCH):
        places = order[start : start + _BATCH]
        sounds = [waveform(rows[place].input) for place in places]
        encoded: dict[int, torch.Tensor] = {}
        for name, heard in models.items():
            key = id(heard.encoder)
            if key not in encoded:
                encoded[key] = _states(heard, sounds)
            seconds = [len(sound) / RATE for sound in sounds]
            for place, one in zip(
                places, pseudo_labels.write(heard.model, encoded[key], seconds, heard.rules), strict=True
            ):
                texts[name][place] = heard.text(one.tokens(heard.rules.end))
        give_back()
    return texts


def _seconds(row: Example) -> float:
    return row.input.seconds if isinstance(row.input, AudioClip) else len(row.input) / RATE


def _states(heard: Heard, sounds: Sequence[Array]) -> torch.Tensor:
    """Return the encoder's states of a batch: (batch, positions, width)."""
    import numpy as np
    import torch

    spectrograms = torch.from_numpy(np.stack([heard.features(sound) for sound in sounds]))
    with torch.no_grad():
        states: torch.Tensor = heard.encoder(spectrograms).last_hidden_state
    return states


def _written(heard: Heard, rows: Sequence[Example], *, states: bool) -> Iterator[dict[str, Array]]:
    """Yield the lesson of each row of a batch."""
    import numpy as np
    import torch

    sounds = [waveform(row.input) for row in rows]
    encoded = _states(heard, sounds)
    judged = _followed(heard, rows, encoded)
    rest = [row for row in range(len(rows)) if row not in judged]
    if rest:
        written = pseudo_labels.write(
            heard.model, encoded[rest], [len(sounds[row]) / RATE for row in rest], heard.rules
        )
        texts = [heard.text(one.tokens(heard.rules.end)) for one in written]
        reasons = pseudo_labels.judge(written, texts, [_transcript(rows[row]) for row in rest])
        judged |= dict(zip(rest, zip(written, reasons, strict=True), strict=True))
    for row, own in enumerate(encoded):
        one, reason = judged[row]
        good = reason in KEPT
        values, classes, others = _top(torch.stack(one.logits) if good else encoded.new_zeros((0, heard.rules.size)))
        lesson = {
            "reason": np.array([reason], dtype=np.int32),
            "begin": np.array([one.begin], dtype=np.int32),
            "ids": np.array(one.ids if good else [], dtype=np.int32),
            "top": values.half().numpy(),
            "top_classes": classes.int().numpy(),
            "rest": others.half().numpy(),
        }
        yield lesson | ({"states": own[: len(own) * good].half().numpy()} if states else {})


def _followed(heard: Heard, rows: Sequence[Example], encoded: torch.Tensor) -> dict[int, tuple[Written, int]]:
    """Return by row the transcripts that the teacher can follow."""
    if heard.tokens is None:
        return {}
    texts = {row: heard.tokens(text) for row, one in enumerate(rows) if (text := _transcript(one))}
    texts = {
        row: ids for row, ids in texts.items() if ids and len(ids) + len(heard.rules.prompt) + 2 <= heard.rules.most
    }
    if not texts:
        return {}
    followed = pseudo_labels.follow(heard.model, encoded[list(texts)], list(texts.values()), heard.rules)
    return {
        row: (one, FOLLOWED) for row, one in zip(texts, followed, strict=True) if one.log_probability >= LEAST_FOLLOWED
    }


def _transcript(row: Example) -> str | None:
    return row.label if isinstance(row.label, str) and row.label.strip() else None


def _top(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the largest logits (n, TOP), their classes, and the one logit (n, 1) that all others have instead."""
    import torch

    count = min(TOP, logits.shape[-1] - 1)
    values, classes = logits.topk(count, dim=-1)
    others = torch.logsumexp(logits.scatter(-1, classes, -math.inf), dim=-1, keepdim=True)
    return values, classes, others - math.log(logits.shape[-1] - count)


def _hold_to(limit_mib: float, out: Path, done: int, rows: int) -> None:
    mib = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
    whole = max(mib, mib * rows / done / _EARLY)
    if whole > limit_mib:
        raise UsageError(
            f"what the teacher wrote about {rows} recordings takes {whole:,.3g} MiB on disk or more, above "
            f"{limit_mib:g}",
            fix=f"allow it (--cache-mib {math.ceil(1.5 * whole)}), or give fewer recordings",
        )


def _all(reader: Reader, name: str) -> Iterator[dict[str, Array]]:
    for start in range(0, len(reader), _SHARD_ROWS):
        rows = reader.rows(list(range(start, min(start + _SHARD_ROWS, len(reader)))), only=[name])
        yield from ({name: value} for value in rows[name])


class Lessons(Sequence["Sample"]):
    """Samples of lessons that can be trusted, read when asked for; `targets` gives what a batch is trained towards.

    A sample is `decoder_input_ids` and `attention_mask` (1, n), and `states` (1, positions, width) or, of lessons
    without states, `input_features` (1, mels, frames).
    """

    def __init__(self, folder: Path, rows: Sequence[Example], features: Features, vocabulary: int) -> None:
        import numpy as np

        self.reader, self.features, self.vocabulary = Reader(folder), features, vocabulary
        reasons = [int(one["reason"][0]) for one in _all(self.reader, "reason")]
        self.places = [place for place, reason in enumerate(reasons) if reason in KEPT]
        self.rows = rows
        self.with_states = "states" in self.reader.names
        sizes = np.array([len(one["ids"]) - 1 for one in _all(self.reader, "ids")], dtype=np.int64)
        self.lengths = sizes[self.places]  # tokens of each: (rows,)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> list[Sample]: ...
    def __getitem__(self, row: int | slice) -> Sample | list[Sample]:
        import numpy as np

        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        place = self.places[row]
        read = self.reader.rows([place])
        ids = read["ids"][0].astype(np.int64)[None, :-1]
        sample = {"decoder_input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self.with_states:
            return sample | {"states": read["states"][0].astype(np.float32)[None]}
        return sample | {"input_features": self.features(waveform(self.rows[place].input))[None]}

    def targets(self, rows: Sequence[int]) -> Targets:
        """Return the teacher's logits and the tokens that came, padded to the longest: (batch, positions, ...)."""
        import torch

        read = self.reader.rows([self.places[row] for row in rows])
        longest = max(len(ids) for ids in read["ids"]) - 1
        labels = torch.full((len(rows), longest), NO_LABEL)
        mask = torch.zeros((len(rows), longest), dtype=torch.bool)
        for number, ids in enumerate(read["ids"]):
            labels[number, : len(ids) - 1] = torch.from_numpy(ids[1:].astype("int64"))
            mask[number, : len(ids) - 1] = True
        top = TopLogits(
            _stacked(read["top"], longest).float(),
            _stacked(read["top_classes"], longest).long(),
            _stacked(read["rest"], longest).float()[..., 0],
            self.vocabulary,
        )
        return Targets(Outputs(logits=torch.empty(0), mask=mask, top=top), labels)


def _stacked(values: Sequence[Array], longest: int) -> torch.Tensor:
    import numpy as np
    import torch

    whole = np.zeros((len(values), longest, *values[0].shape[1:]), dtype=values[0].dtype)
    for place, value in enumerate(values):
        whole[place, : len(value)] = value
    return torch.from_numpy(whole)
