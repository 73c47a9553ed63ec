"""What a student of a language model learns from: packed rows of a corpus, and what its teacher says of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekd.core.errors import EdgeKDError, counted
from edgekd.core.registry import make
from edgekd.core.tensors import NO_LABEL, Outputs, Targets, TopLogits
from edgekd.data.packed import next_tokens, pack
from edgekd.plan.plan import LossTerm
from edgekd.store.shards import Reader, Writer
from edgekd.training import batches, engine
from edgekd.training.language import kept_logits
from edgekd.training.language.cut import run

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Progress, Sample

    Array = np.ndarray[Any, Any]

_SHARD_ROWS = 64
_AT_ONCE = 2  # rows that the teacher reads together: its logits of all tokens are in memory


def rows_of(samples: Sequence[Sample], size: int, tokens: int | None, seed: int) -> list[Sample]:
    """Return packed rows of at most `size` tokens of the samples, shuffled; of `tokens` in all, where that is given."""
    order = list(range(len(samples)))
    Random(seed).shuffle(order)  # noqa: S311
    chosen: list[Sample] = []
    seen = 0
    for number in order:
        if tokens is not None and seen >= tokens:
            break
        chosen.append(samples[number])
        seen += chosen[-1]["input_ids"].shape[1]
    return pack(chosen, size)[0]


def ask_teacher(teacher: Any, rows: Sequence[Sample], tokens: Tensor | None, out: Path, progress: Progress) -> None:
    """Write what the teacher says of each token of packed rows of the student's tokens into the folder `out`.

    `tokens` are the teacher's ids of the student's, ascending; None where they are the same.
    """
    writer = Writer(out, _SHARD_ROWS)
    device = engine.device()
    teacher.to(device)
    progress.stage("teach: the teacher reads the corpus", len(rows))
    for start in range(writer.done, len(rows), _AT_ONCE):
        numbers = list(range(start, min(start + _AT_ONCE, len(rows))))
        with engine.autocast(device):
            said = teacher_log_probabilities(teacher, batches.padded(rows, numbers, 0, device), tokens)
        for place, number in enumerate(numbers):
            length = rows[number]["input_ids"].shape[1]
            writer.append({"top": kept_logits.keep(said[place, :length])})
        progress.step(numbers[-1] + 1)
    writer.close()
    teacher.to("cpu")


def teacher_log_probabilities(teacher: Any, batch: Mapping[str, Tensor], tokens: Tensor | None) -> Tensor:
    """Return the teacher's log probabilities of the student's tokens: (batch, tokens, student's vocabulary).

    Those of tokens that the student has not are left out, and lack to a sum of one.
    """
    with torch.no_grad():
        if tokens is None:
            return run(teacher, batch).float().log_softmax(dim=-1)
        its = {**batch, "input_ids": tokens.to(batch["input_ids"].device)[batch["input_ids"]]}
        logits = run(teacher, its).float()
        whole = logits.logsumexp(dim=-1, keepdim=True)
        return logits[..., tokens.to(logits.device)] - whole


class Pupil(torch.nn.Module):
    """`pupil(batch, rows)` is the weighted sum of the losses of packed rows; what passages end with is not scored."""

    def __init__(self, model: Any, rows: Sequence[Sample], terms: Sequence[LossTerm], answers: Path | None) -> None:
        super().__init__()
        self.model, self.rows = model, rows
        self.reader = None if answers is None else Reader(answers)
        self.weights = [term.weight for term in terms]
        self.losses = [make("losses", term.name, **term.options) for term in terms]

    def forward(self, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
        """The objective, a scalar."""
        ids, positions = (batch[name].cpu().numpy() for name in ("input_ids", "position_ids"))
        labels = torch.from_numpy(next_tokens(ids, positions)).to(batch["input_ids"].device)
        scored = labels != NO_LABEL
        with engine.autocast(batch["input_ids"].device):
            logits = run(self.model, batch).float()
        student = Outputs(logits=logits[scored])
        targets = Targets(self._teacher(rows, scored), labels[scored])
        total = torch.zeros((), device=logits.device)
        for loss, weight in zip(self.losses, self.weights, strict=True):
            total = total + weight * loss(student, targets)
        return total

    def _teacher(self, rows: list[int], scored: Tensor) -> Outputs | None:
        if self.reader is None:
            return None
        said = kept_logits.read(self._kept(rows, scored.cpu().numpy()), self.model.config.vocab_size)
        top = TopLogits(
            said.values.to(scored.device), said.classes.to(scored.device), said.rest.to(scored.device), said.count
        )
        return Outputs(logits=torch.empty(0), top=top)

    def _kept(self, rows: list[int], scored: Array) -> Array:
        """Return what was kept of the scored tokens, end to end: (scored, k)."""
        import numpy as np

        assert self.reader is not None
        found = self.reader.rows(rows)["top"]
        return np.concatenate([one[mask[: len(one)]] for one, mask in zip(found, scored, strict=True)])


def check_rows(rows: Sequence[Sample]) -> None:
    """Raise EdgeKDError where there is next to nothing to learn from."""
    if len(rows) < 4:
        raise EdgeKDError(
            f"the corpus gives {counted(len(rows), 'row')} to learn from",
            fix="give more text, or shorter rows: --max-tokens 256",
        )
