"""Pseudo-labels: what a teacher writes about recordings nobody has written down, kept where it can be trusted.

After Distil-Whisper (Gandhi et al. 2023, arXiv 2311.00430): the teacher's own tokens are learned from, with its largest
logits at each of them; a text that disagrees with a transcript that is known, loops or is unlikely is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.data.transcripts import errors, has_loop

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

GOOD, EMPTY, UNFINISHED, LOOP, UNLIKELY, DISAGREES = range(6)  # why a text is left out; the first: it is not
REASONS = ("kept", "nothing was heard", "never ended", "loops", "unlikely", "disagrees with the transcript")
LEAST_LOG_PROBABILITY = -1.0  # the mean of a token's, below which a text is a guess: Whisper's own threshold
MOST_ERRORS = 0.34  # of the transcript's words: one of three
_TOKENS_A_SECOND, _TOKENS_MORE = 8, 12  # nobody speaks faster: who goes on is in a loop


@dataclass(frozen=True)
class Rules:
    """How a model begins and ends a text, and what it may not say, as its program's settings tell."""

    prompt: tuple[int, ...]
    languages: tuple[int, ...]  # ids of which the likeliest follows the first of the prompt; none where that is known
    end: int
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    most: int  # tokens, with the prompt
    size: int  # of the vocabulary

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Rules:
        """From the settings of the program `seq2seq`."""
        detects = not settings["language"]
        return cls(
            prompt=tuple(settings["prompt"]),
            languages=tuple((settings["languages"] or {}).values()) if detects else (),
            end=settings["end"],
            suppress=tuple(settings["suppress"]),
            begin_suppress=tuple(settings["begin_suppress"]),
            most=settings["max_tokens"],
            size=settings["tokens"],
        )


@dataclass(frozen=True)
class Written:
    """One text: all ids with its prompt and its end, and the logits that each was chosen by, but the first."""

    ids: list[int]
    begin: int  # of the text in it: the length of the prompt
    ended: bool
    log_probability: float  # the mean of a token's
    logits: list[torch.Tensor]  # (vocabulary,), one less than ids

    def tokens(self, end: int) -> list[int]:
        """Return the text's tokens alone."""
        return [one for one in self.ids[self.begin :] if one != end]


def write(model: Any, states: torch.Tensor, seconds: Sequence[float], rules: Rules) -> list[Written]:
    """Return what the decoder writes about a batch of encoder states (batch, positions, width), greedily."""
    import torch

    count = len(states)
    step = _Stepper(model, states)
    first = step(torch.full((count, 1), rules.prompt[0]))  # (batch, 1, vocabulary)
    logits = [first]
    opened = [[rules.prompt[0]] for _ in range(count)]
    rest = [list(rules.prompt[1:]) for _ in range(count)]
    if rules.languages:
        among = torch.tensor(rules.languages)
        found = among[first[:, 0, among].argmax(dim=-1)].tolist()
        rest = [[language, *own] for language, own in zip(found, rest, strict=True)]
    if rest[0]:
        logits.append(step(torch.tensor(rest)))
    opened = [own + more for own, more in zip(opened, rest, strict=True)]
    return _go_on(step, torch.cat(logits, dim=1), opened, seconds, rules)


def _go_on(
    step: _Stepper, logits: torch.Tensor, opened: list[list[int]], seconds: Sequence[float], rules: Rules
) -> list[Written]:
    """Take the likeliest token after token until each row has ended, or goes on for too long."""
    import torch

    count, begin = len(opened), len(opened[0])
    most = [min(rules.most, begin + round(_TOKENS_A_SECOND * one) + _TOKENS_MORE) for one in seconds]
    barred = torch.zeros(logits.shape[-1])
    barred[list(rules.suppress)] = -torch.inf
    barred_first = barred.clone()
    barred_first[list(rules.begin_suppress)] = -torch.inf
    ids, kept = [list(own) for own in opened], [list(own.unbind()) for own in logits]
    totals, alive = [0.0] * count, [True] * count
    while any(alive):
        allowed = logits[:, -1] + (barred_first if len(ids[alive.index(True)]) == begin else barred)
        scores = allowed.log_softmax(dim=-1)
        best = scores.argmax(dim=-1)
        for row in (row for row in range(count) if alive[row]):
            ids[row].append(int(best[row]))
            totals[row] += float(scores[row, best[row]])
            alive[row] = ids[row][-1] != rules.end and len(ids[row]) < most[row]
        if any(alive):
            logits = step(best[:, None])
            for row in (row for row in range(count) if alive[row]):
                kept[row].append(logits[row, -1])
    return [
        Written(own, begin, own[-1] == rules.end, total / max(1, len(own) - begin), kept[row])
        for row, (own, total) in enumerate(zip(ids, totals, strict=True))
    ]


def judge(written: Sequence[Written], texts: Sequence[str], transcripts: Sequence[str | None]) -> list[int]:
    """Return of each text why it is left out: GOOD where it is not. `transcripts` are what is known to be said."""
    found = []
    for one, text, known in zip(written, texts, transcripts, strict=True):
        if not text.strip():
            found.append(EMPTY)
        elif not one.ended:
            found.append(UNFINISHED)
        elif has_loop(text):
            found.append(LOOP)
        elif one.log_probability < LEAST_LOG_PROBABILITY:
            found.append(UNLIKELY)
        elif known is not None and _disagrees(text, known):
            found.append(DISAGREES)
        else:
            found.append(GOOD)
    return found


def _disagrees(text: str, known: str) -> bool:
    wrong, words = errors([text], [known])[0, :2]
    return bool(wrong > MOST_ERRORS * words)


class _Stepper:
    """The decoder over one batch of states, its cache kept between two steps."""

    def __init__(self, model: Any, states: torch.Tensor) -> None:
        self.model, self.states = model, states
        self.cache: Any = None

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits behind each of the ids (batch, n): (batch, n, vocabulary)."""
        import torch

        with torch.no_grad():
            said = self.model(
                encoder_outputs=(self.states,), decoder_input_ids=ids, past_key_values=self.cache, use_cache=True
            )
        self.cache = said.past_key_values
        logits: torch.Tensor = said.logits
        return logits
