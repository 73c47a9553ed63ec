"""The program `recurrent`: one graph, run step by step; what it gives as its next state it is fed at the next step.

Its name says which output feeds which input: `recurrent:stateN=state`, as in a query of the web. An input that a sample
gives with one axis more than the graph takes has a value for each step; another is the same at each. A state that the
sample does not give starts at zero. Outputs are stacked, a step a row; states are not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

_TYPES = {"float": "float32", "double": "float64"}  # ONNX Runtime's words that are not numpy's
_SCALARS = 1  # axes of an output that is stacked as it is, with the batch that it may have


class Program:
    """One model, opened: see `programs.py` for the interface."""

    def __init__(self, sessions: Mapping[str, Any], options: str = "") -> None:
        if len(sessions) != 1:
            raise ValueError(f"it has {len(sessions)} graphs; one is run step by step")
        self._session = next(iter(sessions.values()))
        self._inputs = {one.name: one for one in self._session.get_inputs()}
        every = [one.name for one in self._session.get_outputs()]
        self._pairs = dict(parse_qsl(options, strict_parsing=True, max_num_fields=64))
        for output, name in self._pairs.items():
            if output not in every or name not in self._inputs:
                raise ValueError(f"no output {output!r:.60} feeds an input {name!r:.60}")
        self._told = [name for name in every if name not in self._pairs]
        self._names = [*self._told, *self._pairs]
        if not self._told:
            raise ValueError("every output feeds back: nothing is told")
        self.outputs = tuple(self._told)
        self.run: Callable[[None, Any], Any] = self._run

    def feed(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of each step, and the first state. Raises ValueError where one is missing or unlike."""
        same: dict[str, Any] = {}
        stepped: dict[str, Any] = {}
        states = set(self._pairs.values())
        for name, port in self._inputs.items():
            if name not in sample and name in states:
                same[name] = _zeros(port)
            elif name not in sample:
                raise ValueError(f"the graph takes {name}; the inputs are {', '.join(sample)}")
            elif sample[name].ndim == len(port.shape) + 1 and name not in states:
                stepped[name] = sample[name]
            else:
                same[name] = sample[name]
        counts = {len(values) for values in stepped.values()}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(f"the inputs have {sorted(counts)} steps")
        count = counts.pop() if counts else 1
        steps = [{name: values[at] for name, values in stepped.items()} for at in range(count)]
        return {"same": same, "steps": steps}

    def _run(self, _: None, feed: Mapping[str, Any]) -> Any:
        values, run, names = dict(feed["same"]), self._session.run, self._names
        told = len(self._told)
        found = []
        for step in feed["steps"]:
            values.update(step)
            result = run(names, values)
            found.append(result[:told])
            for at, name in enumerate(self._pairs.values(), told):
                values[name] = result[at]
        return found

    def named(self, result: Any) -> dict[str, Any]:
        """Return the outputs by name, stacked over the steps: (steps, ...), without a batch axis of 1."""
        found = {}
        for at, name in enumerate(self._told):
            shapes = {step[at].shape for step in result}
            if len(shapes) > 1:
                raise ValueError(f"the output {name} has other shapes from step to step")
            stacked = np.stack([step[at] for step in result])
            found[name] = stacked[:, 0] if stacked.ndim > _SCALARS and stacked.shape[1] == 1 else stacked
        return found

    def counted(self, feed: Mapping[str, Any]) -> Callable[[], object]:
        """Return one inference as a call."""
        return partial(self._run, None, feed)


def _zeros(port: Any) -> Any:
    """A state's first value: sizes that are free are 1."""
    kind = port.type.partition("(")[2].rstrip(")")
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in port.shape]
    return np.zeros(shape, dtype=_TYPES.get(kind, kind))
