"""Tokens from an encoder's states, one after the other: greedy or with beams, the cache kept between two runs.

The graph is a merged decoder as Hugging Face optimum names its inputs and outputs: without a cache at first, and then
with the keys and values that it gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LONGEST_CYCLE = 40  # tokens of a phrase that is taken for a loop where it is repeated
REPEATS, LOOPED = 4, 12  # a loop: so many times, and so many tokens in all
_PAST, _PRESENT = "past_key_values.", "present."


class Decoder:
    """The merged decoder over one encoder output; `step` goes on where the last one ended."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._past = [one.name for one in session.get_inputs() if one.name.startswith(_PAST)]
        shapes = {one.name: one.shape for one in session.get_inputs()}
        self._empty = {name: np.zeros((1, shapes[name][1], 0, shapes[name][3]), np.float32) for name in self._past}
        self._grows = [name for name in self._past if ".decoder." in name]
        self._feed: dict[str, Any] = {}

    def start(self, states: np.ndarray) -> None:
        """Begin on other states, (1, positions, width), with an empty cache."""
        self._feed = {"encoder_hidden_states": states, "use_cache_branch": np.array([False]), **self._empty}

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Return the scores behind each of the tokens (beams, n): float32 (beams, n, vocabulary)."""
        cached = bool(self._feed["use_cache_branch"][0])
        kept = self._grows if cached else self._past
        names = ["logits", *(name.replace(_PAST, _PRESENT) for name in kept)]
        result = self._session.run(names, {"input_ids": tokens, **self._feed})
        self._feed.update(zip(kept, result[1:]))  # noqa: B905  (`strict` is not for a board's Python 3.9)
        self._feed["use_cache_branch"] = np.array([True])
        logits: np.ndarray = result[0]
        return logits

    def choose(self, beams: np.ndarray) -> None:
        """Go on with these beams of the last step, in this order: the keys and values of the others are dropped."""
        for name in self._grows:
            self._feed[name] = np.ascontiguousarray(self._feed[name][beams])


class Rules:
    """Which tokens may come: `suppress` never, `begin_suppress` not as the first."""

    def __init__(self, vocabulary: int, suppress: Sequence[int], begin_suppress: Sequence[int]) -> None:
        self._always = _barred(vocabulary, suppress)
        self._first = _barred(vocabulary, [*suppress, *begin_suppress])

    def __call__(self, logits: np.ndarray, *, first: bool) -> np.ndarray:
        """Return the scores (..., vocabulary) with those of barred tokens at minus infinity."""
        allowed: np.ndarray = logits + (self._first if first else self._always)
        return allowed


def greedy(
    decoder: Decoder, logits: np.ndarray, rules: Rules, *, end: int, most: int, score: bool = False
) -> tuple[list[int], float, bool]:
    """Return the likeliest token after token, from the `logits` (vocabulary,) behind the prompt until `end`.

    And the mean log-probability of each with the end's (0 unless it is asked for by `score`: it takes time), and
    whether it was a loop, which ends it: what was repeated stands in it once.
    """
    tokens: list[int] = []
    total = 0.0
    while True:
        allowed = rules(logits, first=not tokens)
        best = int(allowed.argmax())
        total += _log_probability(allowed, best) if score else 0.0
        if best == end:
            break
        tokens.append(best)
        if cycle := loop(tokens):
            return unlooped(tokens, cycle), total / len(tokens), True
        if len(tokens) >= most:
            break
        logits = decoder.step(np.array([[best]], dtype=np.int64))[0, -1]
    return tokens, total / (len(tokens) + 1), False


def beam_search(
    decoder: Decoder, logits: np.ndarray, rules: Rules, *, end: int, most: int, beams: int
) -> tuple[list[int], float, bool]:
    """Return the same of the likeliest of several beginnings that are kept at each step.

    A finished one is worth its log-probability over its length; none that is unfinished may overtake it in the end.
    """
    vocabulary = logits.shape[-1]
    first = _log_softmax(rules(logits, first=True))
    order = first.argsort()[::-1][:beams]
    done: list[tuple[float, list[int]]] = []
    alive = [(float(first[one]), [int(one)]) for one in order if one != end]
    if order[0] == end:
        done.append((float(first[end]), []))
    if not alive:
        return [], done[0][0], False
    picked = np.zeros(len(alive), dtype=np.int64)
    for length in range(2, most + 1):
        decoder.choose(picked)
        last = np.array([[tokens[-1]] for _, tokens in alive], dtype=np.int64)
        scores = _log_softmax(rules(decoder.step(last)[:, -1], first=False))
        totals = (scores + np.array([[total] for total, _ in alive])).ravel()
        best = np.argpartition(totals, -2 * beams)[-2 * beams :]
        going: list[tuple[float, list[int]]] = []
        origins: list[int] = []
        for one in best[totals[best].argsort()[::-1]]:
            origin, token = divmod(int(one), vocabulary)
            total, tokens = float(totals[one]), alive[origin][1]
            if token == end:
                done.append((total / length, tokens))
            elif len(going) < beams:
                going.append((total, [*tokens, token]))
                origins.append(origin)
        if going and (cycle := loop(going[0][1])):  # the others would go on beside it
            score, tokens = max([*done, (going[0][0] / length, going[0][1])])
            looped = tokens is going[0][1]
            return unlooped(tokens, cycle) if looped else tokens, score, looped
        enough = len(done) >= beams and (not going or going[0][0] / length <= max(done)[0])
        if enough or not going:
            break
        alive, picked = going, np.array(origins, dtype=np.int64)
    else:
        done += [(total / len(tokens), tokens) for total, tokens in alive]
    score, tokens = max(done)
    return tokens, score, False


def loop(tokens: Sequence[int]) -> int:
    """Return the length of the phrase that the tokens end in again and again; 0 where there is none.

    >>> loop([5, 1, 2, 3] + [1, 2, 3] * 3), loop([1, 2, 3, 1, 2, 3])
    (3, 0)
    """
    count = len(tokens)
    for cycle in range(1, min(LONGEST_CYCLE, count // REPEATS) + 1):
        whole = max(REPEATS, -(-LOOPED // cycle)) * cycle
        if whole <= count and tokens[-1] == tokens[-1 - cycle]:
            tail = tokens[count - whole :]
            if tail[cycle:] == tail[:-cycle]:
                return cycle
    return 0


def unlooped(tokens: Sequence[int], cycle: int) -> list[int]:
    """Return the tokens with the phrase of that length that they end in standing there once.

    >>> unlooped([5, 1, 2, 1, 2, 1, 2], 2)
    [5, 1, 2]
    """
    kept = list(tokens)
    while len(kept) >= 2 * cycle and kept[-cycle:] == kept[-2 * cycle : -cycle]:
        del kept[-cycle:]
    return kept


def _barred(vocabulary: int, tokens: Sequence[int]) -> np.ndarray:
    mask = np.zeros(vocabulary, dtype=np.float32)
    mask[[one for one in tokens if 0 <= one < vocabulary]] = -np.inf
    return mask


def _log_probability(logits: np.ndarray, token: int) -> float:
    largest = logits[token]
    return -float(np.log(np.exp(logits - largest).sum()))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def probability(logits: np.ndarray, token: int) -> float:
    """Return the share that the softmax of scores (vocabulary,) gives a token."""
    return float(np.exp(_log_softmax(logits)[token]))


def likeliest(logits: np.ndarray, tokens: Mapping[str, int]) -> int:
    """Return the one of these tokens that the scores (vocabulary,) say most of."""
    ids = list(tokens.values())
    return ids[int(logits[ids].argmax())]
