"""Pseudo-labels: what a teacher writes about recordings nobody has written down, kept where it can be trusted.

After Distil-Whisper (Gandhi et al. 2023, arXiv 2311.00430): the teacher's own tokens are learned from, with its largest
logits at each of them; a text that disagrees with a transcript that is known, loops or is unlikely is left out. Where
the teacher can follow a transcript, the transcript's tokens are learned instead: it knows more, and takes one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.data.transcripts import errors, has_loop
from edgekd.onboard.decoding import loop, unlooped

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

GOOD, EMPTY, UNFINISHED, LOOP, UNLIKELY, DISAGREES, FOLLOWED = range(7)  # why a text is left out
REASONS = ("kept", "nothing was heard", "never ended", "loops", "unlikely", "disagrees with the transcript", "followed")
KEPT = (GOOD, FOLLOWED)  # what the teacher wrote, and a transcript
LEAST_LOG_PROBABILITY = -1.0  # the mean of a token's, below which a text is a guess: Whisper's own threshold
# of a transcript's token: below, other words were said, or in another way than the teacher writes
LEAST_FOLLOWED = -2.5
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
    looped: bool = False  # it was ended in a loop, which stands in it once, as on a device

    def tokens(self, end: int) -> list[int]:
        """Return the text's tokens alone."""
        return [one for one in self.ids[self.begin :] if one != end]


def write(model: Any, states: torch.Tensor, seconds: Sequence[float], rules: Rules) -> list[Written]:
    """Return what the decoder writes about a batch of encoder states (batch, positions, width), greedily."""
    import torch

    step = _Stepper(model, states)
    first, opened = _opened(step, len(states), rules)
    logits = [first]
    if len(opened[0]) > 1:
        logits.append(step(torch.tensor([own[1:] for own in opened])))
    return _go_on(step, torch.cat(logits, dim=1), opened, seconds, rules)


def follow(model: Any, states: torch.Tensor, texts: Sequence[Sequence[int]], rules: Rules) -> list[Written]:
    """Return texts that are known, of tokens, as the decoder follows them: its logits before each, in one pass."""
    import torch

    step = _Stepper(model, states)
    first, opened = _opened(step, len(states), rules)
    whole = [[*own, *text, rules.end] for own, text in zip(opened, texts, strict=True)]
    longest = max(map(len, whole))
    padded = torch.tensor([[*ids, *[rules.end] * (longest - len(ids))] for ids in whole])
    logits = torch.cat([first, step(padded[:, 1:-1])], dim=1)
    found = []
    for row, ids in enumerate(whole):
        begin, own = len(opened[row]), logits[row, : len(ids) - 1]
        chosen = own[begin - 1 :].log_softmax(dim=-1).gather(1, padded[row, begin : len(ids), None])
        found.append(Written(ids, begin, True, float(chosen.mean()), list(own.unbind())))
    return found


def _opened(step: _Stepper, count: int, rules: Rules) -> tuple[torch.Tensor, list[list[int]]]:
    """Return the logits behind the first token (batch, 1, vocabulary), and the prompt of each row with its language."""
    import torch

    first = step(torch.full((count, 1), rules.prompt[0]))
    rest = [list(rules.prompt[1:]) for _ in range(count)]
    if rules.languages:
        among = torch.tensor(rules.languages)
        found = among[first[:, 0, among].argmax(dim=-1)].tolist()
        rest = [[language, *own] for language, own in zip(found, rest, strict=True)]
    return first, [[rules.prompt[0], *own] for own in rest]


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
    totals, alive, cycles = [0.0] * count, [True] * count, [0] * count
    while any(alive):
        allowed = logits[:, -1] + (barred_first if len(ids[alive.index(True)]) == begin else barred)
        scores = allowed.log_softmax(dim=-1)
        best = scores.argmax(dim=-1)
        for row in (row for row in range(count) if alive[row]):
            ids[row].append(int(best[row]))
            totals[row] += float(scores[row, best[row]])
            cycles[row] = loop(ids[row][begin:])  # as on a device: it ends the text
            alive[row] = ids[row][-1] != rules.end and len(ids[row]) < most[row] and not cycles[row]
        if any(alive):
            logits = step(best[:, None])
            for row in (row for row in range(count) if alive[row]):
                kept[row].append(logits[row, -1])
    found = []
    for row, (own, total) in enumerate(zip(ids, totals, strict=True)):
        kept_ids = own[:begin] + unlooped(own[begin:], cycles[row]) if cycles[row] else own
        likely = total / max(1, len(own) - begin)
        found.append(Written(kept_ids, begin, own[-1] == rules.end, likely, kept[row], bool(cycles[row])))
    return found


def judge(written: Sequence[Written], texts: Sequence[str], transcripts: Sequence[str | None]) -> list[int]:
    """Return of each text why it is left out: GOOD where it is not. `transcripts` are what is known to be said."""
    found = []
    for one, text, known in zip(written, texts, transcripts, strict=True):
        if not text.strip():
            found.append(EMPTY)
        elif one.looped or has_loop(text):
            found.append(LOOP)
        elif not one.ended:
            found.append(UNFINISHED)
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
