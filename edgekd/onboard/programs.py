"""Programs by their names, and the one rule of what is kept of a model's outputs. It needs numpy alone.

A program turns one input into named arrays. Each is a file beside this one with a class `Program` of one interface:

    Program(sessions)       ONNX Runtime sessions by graph, in the model's order; where the program's name has options
                            behind a colon (`recurrent:stateN=state`), these come second
    .outputs                the names of what it gives
    .feed(sample)           what `run` takes of an input: made before anything is timed
    .run(None, feed)        one inference, and nothing else: what is timed (as a session's own `run` is called)
    .named(result)          its outputs by name, without a batch axis
    .counted(feed)          the same inference as a call without arguments, its inputs bound before

An output rule says what a run keeps: a mapping of output names to `as_is`, `mean` or `words`; one of these alone stands
for the first output, and None for all outputs as they are.
"""

from __future__ import annotations

import hashlib
import importlib
import runpy
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Union

import numpy as np

Array = np.ndarray
Keep = Union[Mapping[str, str], str, None]  # noqa: UP007  (evaluated on a board's Python 3.9)

DEFAULT = "forward"
PROGRAMS = ("forward", "causal", "recurrent", "seq2seq")  # each is the file of that name beside this one
RULES = ("as_is", "mean", "words")
WORDS = "words"  # of a sample: the word that each position is of, -1 of none; no graph takes it, the rule reads it


def load(name: str) -> Any:
    """Return the class of the program of that name, options left aside. Raises ValueError for one unknown here."""
    known, _, _ = name.partition(":")
    if known not in PROGRAMS:
        raise ValueError(f"the program {name!r:.60} is unknown here; known are: {', '.join(PROGRAMS)}")
    return _beside(known)["Program"]


def open_program(name: str, sessions: Mapping[str, Any]) -> Any:
    """Return the program of that name over these sessions. Raises ValueError for one that is unknown here."""
    _, _, options = name.partition(":")
    return load(name)(sessions, options) if options else load(name)(sessions)


def rules_of(keep: Keep, outputs: tuple[str, ...]) -> dict[str, str]:
    """Return the rule of each output that is kept. Raises ValueError for an output or a rule that there is not."""
    if keep is None:
        rules = dict.fromkeys(outputs, "as_is")
    else:
        rules = {outputs[0]: keep} if isinstance(keep, str) else dict(keep)
    if missing := [name for name in rules if name not in outputs]:
        raise ValueError(f"the model gives {', '.join(outputs)}, and no {missing[0]!r:.60}")
    if strange := [rule for rule in rules.values() if rule not in RULES]:
        raise ValueError(f"there is no output rule {strange[0]!r:.60}; there are: {', '.join(RULES)}")
    return rules


def kept(outputs: Mapping[str, Array], sample: Mapping[str, Array], rules: Mapping[str, str]) -> dict[str, Array]:
    """Return what the rules keep of one input's outputs, which have no batch axis; `sample` is that input.

    `as_is` keeps an array. `mean` makes one of (positions, ..., width) its mean (width,) over the positions that
    `attention_mask` holds, over all where there is no mask; one of a single axis has no positions. `words` makes one of
    (positions, ...) what it says at the first position of each word, (words, ...), by the sample's `words`. Raises
    ValueError for an output that is no array of numbers, or has other positions than the mask or the words.
    """
    found = {}
    for name, rule in rules.items():
        values = outputs[name]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise ValueError(f"the output {name} is no array of numbers")
        if rule == "mean":
            values = _mean(values, sample.get("attention_mask"), name)
        elif rule == "words":
            values = _at_words(values, sample.get(WORDS), name)
        found[name] = values
    return found


def first_positions(words: Array) -> Array:
    """Return the first position of each word, (words,), of the words that positions are of, ascending, -1 of none.

    A word that has no position of its own is where the word before it ends: a token may span several words.
    """
    places = np.flatnonzero(words >= 0)
    own = words[places]
    count = int(own[-1]) + 1 if len(own) else 0
    first = np.searchsorted(own, np.arange(count))
    absent = own[first] != np.arange(count)
    found: Array = places[np.maximum(first - absent, 0)]
    return found


def _at_words(values: Array, words: Array | None, name: str) -> Array:
    if words is None:
        raise ValueError(f"the output {name} is kept by words, and the input does not say which they are")
    if len(values) != words.size:
        raise ValueError(f"the output {name} has {len(values)} positions, the words {words.size}")
    found: Array = values[first_positions(words.ravel())]
    return found


def _mean(values: Array, mask: Array | None, name: str) -> Array:
    if values.ndim < 2:
        return values
    rows = values.reshape(-1, values.shape[-1])
    held = np.ones(len(rows)) if mask is None else mask.ravel()
    if len(held) != len(rows):
        raise ValueError(f"the output {name} has {len(rows)} positions, the attention_mask {len(held)}")
    weights = held[:, None].astype(values.dtype)
    mean: Array = (rows * weights).sum(axis=0) / weights.sum(axis=0).clip(1)
    return mean


def digest(prediction: Mapping[str, Array]) -> str:
    """Return the SHA-256 of one input's outputs: each one's name, type, shape and bytes."""
    hasher = hashlib.sha256()
    for name, values in prediction.items():
        hasher.update(_head(name, values.dtype, values.shape))
        hasher.update(values.tobytes())
    return hasher.hexdigest()


@lru_cache(maxsize=1024)
def _head(name: str, dtype: Any, shape: tuple[int, ...]) -> bytes:
    """What stands before an array's bytes; kept, since a timed run asks for it between two inferences."""
    return f"{name} {dtype.str} {shape}\n".encode()


@cache
def _beside(name: str) -> dict[str, Any]:
    """What the module of that name defines: of this package; elsewhere of the file itself, past every cache."""
    if __package__:
        return vars(importlib.import_module(f"{__package__}.{name}"))
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))
