"""The program `forward`: a model's graphs in their order, each once; what the last one gives is the prediction.

A graph takes its inputs by name: from the sample, and from what the graphs before it gave.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_MADE_UP = re.compile(r"_dim_\d+$|^unk__\d+$")  # how exporters call an axis that nobody named


class Program:
    """One model, opened: see `programs.py` for the interface."""

    def __init__(self, sessions: Mapping[str, Any]) -> None:
        self._graphs = [
            (name, session, [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()])
            for name, session in sessions.items()
        ]
        _, self._last, _, last = self._graphs[-1]
        self.outputs = tuple(last)
        self._batched = batched(self._last)  # the axes that each output has at least
        # of one graph the runtime's own call: nothing of ours is in what is timed
        self.run: Callable[[None, Any], Any] = self._last.run if len(self._graphs) == 1 else self._run

    def feed(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs that the graphs take of a sample. Raises ValueError where one comes from nowhere."""
        taken: dict[str, Any] = {}
        given: set[str] = set()
        for graph, _, inputs, outputs in self._graphs:
            for name in inputs:
                if name in given:
                    continue
                if name not in sample:
                    raise ValueError(
                        f"the graph {graph} takes {name}; the inputs are {', '.join(sample)}"
                        + (f", earlier graphs give {', '.join(sorted(given))}" if given else "")
                    )
                taken[name] = sample[name]
            given.update(outputs)
        return taken

    def _run(self, _: None, feed: Mapping[str, Any]) -> Any:
        values, result = dict(feed), []
        for _graph, session, inputs, outputs in self._graphs:
            result = session.run(None, {name: values[name] for name in inputs})
            values.update(zip(outputs, result))  # noqa: B905  (`strict` is not for a board's Python 3.9)
        return result

    def named(self, result: Any) -> dict[str, Any]:
        """Return the outputs by name, without their batch axis, which has the size 1 where there is one."""
        found = {}
        for name, least, values in zip(self.outputs, self._batched, result):  # noqa: B905
            if least and type(values) is not list:  # as ONNX Runtime gives what is no tensor
                shape = values.shape
                found[name] = values[0] if len(shape) >= least and shape[0] == 1 else values
            else:
                found[name] = values
        return found

    def counted(self, feed: Mapping[str, Any]) -> Callable[[], object]:
        """Return one inference as a call; of one graph with bound inputs, so that all it does is the runtime's."""
        if len(self._graphs) > 1:
            return partial(self._run, None, feed)
        binding = self._last.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name in self.outputs:
            binding.bind_output(name)
        return partial(self._last.run_with_iobinding, binding)


def batched(session: Any) -> list[int]:
    """Return for each output how many axes it has at least where its first one is the batch; 0 where that is none.

    It is the batch where it has the size 1 on paper, or is called as an input's first axis. One that is called
    otherwise counts as the batch where it stands before other axes and the inputs' batch is free, unless the graph
    calls another output's as its inputs': then names mean something, and this is a number that depends on the input.
    """
    firsts = [one.shape[0] for one in session.get_inputs() if one.shape]
    free = {first for first in firsts if not isinstance(first, int)}
    names = {first for first in free if first}
    shapes = [one.shape for one in session.get_outputs()]
    telling = any(shape and shape[0] in names for shape in shapes)
    found = []
    for shape in shapes:
        if not shape:  # unknown, or a scalar's
            found.append(2)
        elif isinstance(shape[0], int):
            found.append(int(shape[0] == 1))
        elif shape[0] in names:
            found.append(1)
        else:
            made_up = not shape[0] or _MADE_UP.search(shape[0]) is not None
            found.append(2 if free and len(shape) > 1 and (made_up or not telling) else 0)
    return found
