"""The program `causal`: a language model over its cache. It scores a text token by token, and writes on.

The graph takes `input_ids`, `attention_mask`, `position_ids` and `past_key_values.N.key` and `.value`, and gives
`logits` and `present.N.key` and `.value`, as Hugging Face exports it. A text is read in chunks, so that memory follows
the chunk's logits and not the text's. Where the graph has `num_logits_to_keep` (0: all), writing asks for the last
position's logits alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray
Choose = Callable[[Array], int]  # from the last position's logits (vocabulary,) to a token id

OUTPUTS = ("nll", "top", "next", "tokens")
SCORED, READ = 64, 128  # tokens of a chunk where every position's logits are wanted, and where the last one's are
KEEP = "num_logits_to_keep"
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)$")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Program:
    """One model, opened: see `programs.py` for the interface.

    Of a sample's `input_ids` (1, n) it gives `nll` (n - 1,), the negative log-likelihood of each token behind the first
    in nats; `top`, the most likely token at each of these positions; `next`, the one that came; and `tokens`, what it
    writes greedily behind the text: as many as `new_tokens` (1,) says, none where the sample has no such input.
    """

    def __init__(self, sessions: Mapping[str, Any]) -> None:
        if len(sessions) != 1:
            raise ValueError(f"the program causal runs one graph, not {', '.join(sessions)}")
        self.session = next(iter(sessions.values()))
        self.inputs = {one.name: one for one in self.session.get_inputs()}
        past = [name for name in self.inputs if _PAST.match(name)]
        others = sorted(set(self.inputs) - set(past) - {"input_ids", "attention_mask", "position_ids"})
        if "input_ids" not in self.inputs or not past or others:
            raise ValueError(
                "the graph is no language model with a cache: it takes "
                + (f"{', '.join(others)[:200]}" if others else "no past_key_values")
            )
        self._cache = {name: name.replace("past_key_values", "present") for name in past}
        given = {one.name for one in self.session.get_outputs()}
        if missing := {"logits", *self._cache.values()} - given:
            raise ValueError(f"the graph gives no {sorted(missing)[0]}")
        self.outputs = OUTPUTS
        self._last_only = KEEP in {one.name for one in self.session.get_overridable_initializers()}

    def feed(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `run` takes of a sample. Raises ValueError where it has no text of two tokens."""
        if "input_ids" not in sample:
            raise ValueError(f"the program causal takes input_ids; the inputs are {', '.join(sample)}")
        ids = np.asarray(sample["input_ids"], dtype=np.int64).reshape(1, -1)
        if ids.shape[1] < 2:
            raise ValueError("a text has two tokens at least: the first one predicts the second")
        count = int(np.asarray(sample["new_tokens"]).reshape(-1)[0]) if "new_tokens" in sample else 0
        return {"input_ids": ids, "new_tokens": count}

    def run(self, _: None, feed: Mapping[str, Any]) -> list[Array]:
        """Score the text, then write behind it: the arrays of `outputs`, in that order."""
        state = State(self)
        ids = feed["input_ids"]
        count = ids.shape[1]
        nll, top = np.empty(count - 1, np.float32), np.empty(count - 1, np.int64)
        logits = np.empty((0, 0), np.float32)
        for first in range(0, count, SCORED):
            logits = state.extend(ids[:, first : first + SCORED])
            end = min(first + len(logits), count - 1)
            if end > first:
                nll[first:end], top[first:end] = scored(logits[: end - first], ids[0, first + 1 : end + 1])
        written = np.empty(feed["new_tokens"], np.int64)
        for place in range(len(written)):
            if place:
                logits = state.extend(written[None, place - 1 : place])
            written[place] = logits[-1].argmax()
        return [nll, top, ids[0, 1:], written]

    def whole(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        """Return what the graph takes of a text that is read in one run: for a look inside it, on no device."""
        ids = feed["input_ids"]
        count = ids.shape[1]
        fed = {
            "input_ids": ids,
            "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count)[None],
        }
        empty = {name: _empty(self.inputs[name]).numpy() for name in self._cache}
        return {name: values for name, values in fed.items() if name in self.inputs} | empty

    def named(self, result: Sequence[Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        return dict(zip(self.outputs, result))  # noqa: B905  (`strict` is not for a board's Python 3.9)

    def counted(self, feed: Mapping[str, Any]) -> Callable[[], object]:
        """Return one inference as a call."""
        return partial(self.run, None, feed)

    def generate(self, ids: Sequence[int], choose: Choose | None = None) -> Iterator[int]:
        """Yield the tokens that follow these, for ever: the caller stops at its end token, or at a length.

        `choose` takes one of the logits (vocabulary,); without it the most likely is taken.
        """
        choose = choose or greedy
        state, unread = State(self), np.asarray(ids, np.int64).reshape(1, -1)
        if not unread.shape[1]:
            raise ValueError("there is nothing to go on from: give one token at least")
        while True:
            for first in range(0, unread.shape[1], READ):
                logits = state.extend(unread[:, first : first + READ], last=True)
            token = choose(logits[-1])
            yield token
            unread = np.array([[token]], np.int64)


class State:
    """A text as far as it was read: the cache, which stays with the runtime, and its length."""

    def __init__(self, program: Program) -> None:
        self.program, self.length = program, 0
        self._past = {name: _empty(program.inputs[name]) for name in program._cache}

    def extend(self, ids: Array, *, last: bool = False) -> Array:
        """Read these tokens (1, n): their logits (n, vocabulary), or (1, vocabulary) of the `last` one alone."""
        program, count = self.program, ids.shape[1]
        fed = {"input_ids": np.ascontiguousarray(ids)}
        if "attention_mask" in program.inputs:
            fed["attention_mask"] = np.ones((1, self.length + count), np.int64)
        if "position_ids" in program.inputs:
            fed["position_ids"] = np.arange(self.length, self.length + count, dtype=np.int64)[None]
        if last and program._last_only:
            fed[KEEP] = np.array(1, np.int64)
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in fed.items()}
        wanted = ["logits", *program._cache.values()]
        logits, *present = program.session.run_with_ort_values(wanted, values | self._past)
        self._past = dict(zip(program._cache, present))  # noqa: B905
        self.length += count
        found: Array = logits.numpy()[0]
        return found[-1:] if last else found


def speeds(program: Program, ids: Sequence[int], contexts: Sequence[int], written: int) -> list[dict[str, float]]:
    """Return what reading so many tokens and writing some behind them takes, for each of the contexts.

    `read_tokens_per_cpu_s` and `written_tokens_per_cpu_s` count the CPU time of all threads of this process;
    `first_token_ms` is the time on the clock from the text to its first token.
    """
    list(islice(program.generate(ids[: min(contexts)]), 2))  # whatever is set up on the first run
    found = []
    for context in contexts:
        text = np.resize(np.asarray(ids, np.int64), context)
        writing = program.generate(text.tolist())
        began, cpu = time.perf_counter(), time.process_time()
        next(writing)
        first_ms, read_s = (time.perf_counter() - began) * 1000, time.process_time() - cpu
        cpu = time.process_time()
        for _ in range(written):
            next(writing)
        written_s = time.process_time() - cpu
        found.append(
            {
                "context": context,
                "first_token_ms": first_ms,
                "read_tokens_per_cpu_s": context / max(read_s, 1e-9),
                "written_tokens_per_cpu_s": written / max(written_s, 1e-9),
            }
        )
    return found


def scored(logits: Array, wanted: Array) -> tuple[Array, Array]:
    """Return the negative log-likelihood in nats of the `wanted` ids, and the most likely ones: both (positions,)."""
    logits = logits.astype(np.float32, copy=False)
    top = logits.argmax(axis=-1)
    rows = np.arange(len(wanted))
    highest = logits[rows, top]
    total = np.exp(logits - highest[:, None]).sum(axis=-1, dtype=np.float64)
    return (np.log(total) + highest - logits[rows, wanted]).astype(np.float32), top


def greedy(logits: Array) -> int:
    """Return the most likely id of logits (vocabulary,)."""
    return int(logits.argmax())


def sampler(*, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Choose:
    """Return what draws an id of logits (vocabulary,): of the `top_k` most likely (0: of all) those that make `top_p`.

    Raises ValueError for a temperature or a share that is out of range.
    """
    if not temperature > 0 or not 0 < top_p <= 1 or top_k < 0:
        raise ValueError("temperature is above 0, top_p above 0 and at most 1, top_k 0 or more")
    random = np.random.default_rng(seed)

    def draw(logits: Array) -> int:
        order = np.argsort(-logits, kind="stable")[: top_k or None]
        scaled = logits[order].astype(np.float64) / temperature
        shares = np.exp(scaled - scaled[0])
        shares /= shares.sum()
        count = int(np.searchsorted(shares.cumsum(), top_p)) + 1
        shares = shares[:count] / shares[:count].sum()
        return int(order[random.choice(len(shares), p=shares)])

    return draw


def _empty(of: Any) -> Any:
    """Return an empty cache of an input of the graph, (1, heads, 0, width), as the runtime holds it."""
    _, heads, _, width = of.shape
    if not (isinstance(heads, int) and isinstance(width, int)) or of.type not in _TYPES:
        raise ValueError(f"the graph's {of.name} is no cache of so many heads of so many values")
    return ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, 0, width), _TYPES[of.type]))
