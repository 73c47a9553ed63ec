"""What each graph of a model is fed while inputs run through it: what recipes calibrate on and diagnoses look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from edgekd.core.cpus import usable_cpus
from edgekd.core.errors import EdgeKDError
from edgekd.core.model import FORWARD, Model

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

MOST_ROWS = 128  # samples that are run through several graphs: what they are fed stays in memory


class GraphInputs:
    """The samples themselves for a model of one graph; of several, what the fp32 model's program feeds each graph."""

    def __init__(self, model: Model, samples: Sequence[Sample]) -> None:
        self.model, self.samples = model, samples

    def of(self, graph: str) -> Sequence[Sample]:
        """Return what the graph of that name is fed, in order."""
        return self.samples if len(self.model.graphs) == 1 else self._recorded[graph]

    @cached_property
    def _recorded(self) -> Mapping[str, list[Sample]]:
        from edgekd.onboard.runner import open_session

        if self.model.program != FORWARD:
            raise EdgeKDError(
                f"what the program {self.model.program} feeds its graphs is not known",
                fix="take recipes that need no calibration rows",
            )
        opened = {name: open_session(str(file), usable_cpus()) for name, file in self.model.graphs.items()}
        found: dict[str, list[Sample]] = {name: [] for name in opened}
        for sample in islice(self.samples, MOST_ROWS):
            values = dict(sample)
            for name, session in opened.items():
                feed = {one.name: values[one.name] for one in session.get_inputs()}
                found[name].append(feed)
                outputs = [one.name for one in session.get_outputs()]
                values.update(zip(outputs, session.run(outputs, feed), strict=True))
        return found
