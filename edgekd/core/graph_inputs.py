"""What each graph of a model is fed while inputs run through it: what recipes calibrate on and diagnoses look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from edgekd.core.cpus import usable_cpus
from edgekd.core.model import FORWARD, Model

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

MOST_ROWS = 128  # samples that are run through several graphs: what they are fed stays in memory
MOST_BYTES = 256 << 20  # of all that the graphs of a model were fed; of each at least one sample's
MOST_RUNS = 4  # of a graph for one sample that are kept: a program may loop over tokens


class GraphInputs:
    """The samples themselves for one graph that runs once; else what the fp32 model's program feeds each graph.

    A program may run a graph several times for a sample, or never.
    """

    def __init__(self, model: Model, samples: Sequence[Sample]) -> None:
        self.model, self.samples = model, samples

    def of(self, graph: str) -> Sequence[Sample]:
        """Return what the graph of that name is fed, in order."""
        once = len(self.model.graphs) == 1 and self.model.program == FORWARD
        return self.samples if once else self._recorded[graph]

    @cached_property
    def _recorded(self) -> Mapping[str, list[Sample]]:
        from edgekd.onboard.programs import open_program
        from edgekd.onboard.runner import open_session

        opened = {name: _Recorder(open_session(str(file), usable_cpus())) for name, file in self.model.graphs.items()}
        program = open_program(self.model.program, opened)
        if len(opened) == 1 and (whole := getattr(program, "whole", None)):  # a text at once says more than its chunks
            return {name: [whole(program.feed(one)) for one in islice(self.samples, MOST_ROWS)] for name in opened}
        for sample in islice(self.samples, MOST_ROWS):
            if sum(recorder.held for recorder in opened.values()) > MOST_BYTES:
                break
            for recorder in opened.values():
                recorder.left = MOST_RUNS
            program.run(None, program.feed(sample))
        return {name: recorder.fed for name, recorder in opened.items()}


class _Recorder:
    """An ONNX Runtime session that keeps what it is fed, as often as there are runs `left`."""

    def __init__(self, session: Any) -> None:
        self.session, self.left, self.held = session, 0, 0
        self._known: set[int] = set()  # arrays that an earlier run was fed, too: a cache's, or an encoder's states
        self.fed: list[Sample] = []
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self.get_overridable_initializers = session.get_overridable_initializers
        self.get_modelmeta = session.get_modelmeta

    def run(self, names: Any, feed: Mapping[str, Any]) -> Any:
        """Run the session, as a program does."""
        self._keep(feed)
        return self.session.run(names, feed)

    def run_with_ort_values(self, names: Any, feed: Mapping[str, Any]) -> Any:
        """Run the session on values of the runtime's own, as a program does that keeps a cache."""
        if self.left > 0:
            self._keep({name: value.numpy().copy() for name, value in feed.items()})  # a view of the runtime's
        return self.session.run_with_ort_values(names, feed)

    def _keep(self, feed: Mapping[str, Any]) -> None:
        if self.left > 0:
            self.left -= 1
            self.fed.append(dict(feed))
            new = {id(value): value.nbytes for value in feed.values() if id(value) not in self._known}
            self._known |= new.keys()
            self.held += sum(new.values())
