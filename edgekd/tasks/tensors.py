"""Any ONNX graph: arrays in, arrays out. What it takes and gives, and what it is judged by, is the graph's own.

Where outputs feed back as inputs (a detector that remembers), a row is a sequence of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError, UsageError, suggestion
from edgekd.core.fidelity import WORST_OUTPUT, OutputFidelity, by_row, told
from edgekd.core.metrics import Metric
from edgekd.core.ports import CLASSES, Port, listed, pairs_of
from edgekd.core.protocols import Hub, InputSpec
from edgekd.data.read import Table
from edgekd.data.splits import Example
from edgekd.data.tensor_files import INPUT, REFERENCE, SYNTHETIC, Taking, drawn, read_rows
from edgekd.store.store import Store
from edgekd.tasks import _user_metric
from edgekd.tasks._user_metric import UserMetric

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Predictions
    from edgekd.core.protocols import Sample

NO_STATE = "none"
_SYNTHETIC_ROWS = 64
_SIZES = 9  # quantiles that are kept of the rows' sizes


@dataclass(frozen=True)
class Tensors:
    """`state` and `class_output` as a user says them; `graph` and `judged_by` are known once it is `bound`."""

    state: tuple[str, ...] = ()
    class_output: tuple[str, ...] = ()
    metric_file: str = ""  # FILE.py:function
    graph: Mapping[str, Any] = field(default_factory=dict)  # inputs, outputs and states, as plain values
    judged_by: Mapping[str, Any] = field(default_factory=dict)  # a UserMetric as plain values; empty: fidelity

    metric: ClassVar[Metric] = WORST_OUTPUT
    fidelity: ClassVar[Metric] = WORST_OUTPUT
    ragged: ClassVar[bool] = True
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = ""
    families: ClassVar[tuple[str, ...]] = ()  # only the graph itself, compressed
    modality: ClassVar[str] = "array"
    hub: ClassVar[Hub] = Hub()
    unit: ClassVar[str] = "values"
    sizes: ClassVar[tuple[str, ...]] = ()
    headline_size: ClassVar[int] = 1 << 60  # beyond any: the largest row
    baseline_recipe: ClassVar[str] = ""
    losses: ClassVar[tuple[str, ...]] = ()
    losses_if_labelled: ClassVar[tuple[str, ...]] = ()
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = False
    purpose: ClassVar[str] = "the arrays that a graph takes into those that it gives"
    demo: ClassVar[Demo | None] = None
    keep: ClassVar[Mapping[str, str]] = {}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def __post_init__(self) -> None:
        own_values: dict[str, Any] = {"keep": dict.fromkeys((one.name for one in self._told), "as_is")}
        if self._pairs:
            own_values["program"] = f"recurrent:{urlencode(self._pairs)}"
        if self.judged_by:
            own = UserMetric(**self.judged_by)
            own_values |= {"metric": own.metric, "fidelity": own.fidelity, "labelled": True}
        for name, value in own_values.items():  # these belong to the class where no graph is known
            object.__setattr__(self, name, value)

    @property
    def _inputs(self) -> tuple[Port, ...]:
        return tuple(Port.read(one) for one in self.graph.get("inputs", ()))

    @property
    def _outputs(self) -> tuple[Port, ...]:
        return tuple(Port.read(one) for one in self.graph.get("outputs", ()))

    @property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        """Output and input of each state."""
        return tuple((output, given) for output, given in self.graph.get("states", ()))

    @property
    def _told(self) -> tuple[Port, ...]:
        """The outputs that are told: all but states."""
        states = {output for output, _ in self._pairs}
        return tuple(port for port in self._outputs if port.name not in states)

    @property
    def _taking(self) -> Taking:
        if not self.graph:
            raise UsageError("what rows look like is the graph's to say", fix="give the model: --teacher FILE.onnx")
        return Taking(self._inputs, tuple(given for _, given in self._pairs))

    def bound(self, teacher: Mapping[str, Any]) -> Tensors:
        """Return the task of the graph that was inspected. Raises UsageError for outputs or inputs that it has not."""
        ports = teacher["architecture"]["ports"]
        inputs, outputs = ([Port.read(one) for one in ports[part]] for part in ("inputs", "outputs"))
        names = [port.name for port in outputs]
        for name in self.class_output:
            if name not in names:
                raise UsageError(
                    f"--class-output {name}: the graph gives {listed(outputs)}", fix=suggestion(name, names)
                )
        kinds = [replace(port, kind=CLASSES) if port.name in self.class_output else port for port in outputs]
        states = self._states(inputs, outputs)
        if len(states) == len(outputs):
            raise UsageError("every output feeds back as an input: nothing is left to judge", fix="give --state none")
        graph = {
            "inputs": [port.as_dict() for port in inputs],
            "outputs": [port.as_dict() for port in kinds],
            "states": [list(pair) for pair in states],
        }
        if not self.metric_file:
            return replace(self, state=(), class_output=(), graph=graph)
        own, place = _user_metric.look(self.metric_file)
        judged = {"name": own.name, "sha256": own.sha256, "higher_is_better": own.higher_is_better}
        return replace(self, state=(), class_output=(), metric_file=place, graph=graph, judged_by=judged)

    def _states(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> tuple[tuple[str, str], ...]:
        if self.state == (NO_STATE,):
            return ()
        if not self.state:
            return pairs_of(inputs, outputs)
        found = []
        for words in self.state:
            output, equals, given = words.rpartition("=")
            for name, ports, what in ((output, outputs, "output"), (given, inputs, "input")):
                if not equals or name not in [port.name for port in ports]:
                    raise UsageError(
                        f"--state {words}: the graph has no {what} {name!r}: {listed(ports)}",
                        fix="give OUTPUT=INPUT, once for each state; or --state none",
                    )
            found.append((output, given))
        for place, what in ((0, "output"), (1, "input")):
            if len({pair[place] for pair in found}) < len(found):
                raise UsageError(f"--state names one {what} twice", fix="give each state once")
        return tuple(found)

    def settings(self) -> dict[str, Any]:
        """Return the plain values by which `make` gives the bound task again, but for places of this machine."""
        return {"graph": dict(self.graph), **({"judged_by": dict(self.judged_by)} if self.judged_by else {})}

    def places(self) -> dict[str, str]:
        """Return where on this machine its files lie, by the task's options."""
        return {"metric_file": self.metric_file} if self.judged_by else {}

    def notes(self) -> tuple[str, ...]:
        """Return what a plan says of what the graph takes and gives, and how it is judged."""
        lines = [f"takes {listed(self._inputs)}", f"gives {listed(self._outputs)}"]
        lines += [f"state: the output {output} is the next {given}" for output, given in self._pairs]
        against = "the original graph in fp32"
        if self.judged_by:
            return (
                *lines,
                f"judged by {self.judged_by['name']} (--metric), on references where rows have them, else "
                f"on what {against} gives",
            )
        classes = [port.name for port in self._told if port.kind == CLASSES]
        more = f"; agreement of {', '.join(classes)}, whose largest score counts" if classes else ""
        return (*lines, f"judged by fidelity to {against}, output by output: the worst decides{more}")

    def try_metric(self, outputs: Predictions, rows: Sequence[Example]) -> None:
        """Raise UsageError where a metric of the user's own fails on the original's outputs of these rows."""
        if self.metric_file and rows:
            known = all(row.label is not None for row in rows)
            self._scored(outputs, self.truth(rows, ()) if known else outputs)

    def invents(self, source: str) -> bool:
        """Return whether the source is none: rows are drawn from the graph's shapes."""
        return source.partition(":")[0] == SYNTHETIC

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split: rows of arrays. Raises DataError."""
        taking = self._taking
        if self.invents(source):
            rows = drawn(source, taking.needed, count=_SYNTHETIC_ROWS, seed=0)
            return {"all": [{INPUT: row} for row in rows]}
        found = read_rows(source, taking)
        return {
            split: [row | ({REFERENCE: row[INPUT].label} if row[INPUT].label else {}) for row in rows]
            for split, rows in found.items()
        }

    def columns(self, table: Table, source: str, *, labelled: bool = False) -> tuple[str, str]:
        """The arrays, and what the user's metric holds outputs against, where rows have it."""
        return INPUT, REFERENCE if self.judged_by and REFERENCE in table[0] else ""

    def input_column(self, table: Table, source: str) -> str:
        """The arrays."""
        return INPUT

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = False) -> list[Example]:
        """Rows as examples; the label of one with references is their digest."""
        return [Example(row[INPUT], row.get(REFERENCE) if labelled else None) for row in table]

    def survey(
        self, teacher: dict[str, Any], inputs: Sequence[Any], sizes: dict[str, int], store: Store, *, whole: bool = True
    ) -> InputSpec:
        """Sizes are values of all inputs of a row together."""
        found = sorted(_size(row.arrays) for row in inputs)
        return InputSpec(found[-1], tuple(found[round(at * (len(found) - 1) / (_SIZES - 1))] for at in range(_SIZES)))

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Nothing: reading refused what the graph does not take."""

    def encode(self, model_folder: Path, inputs: Iterable[Any], max_size: int) -> list[Sample]:
        """The arrays of each row, as the graph takes them."""
        return [dict(row.arrays) for row in inputs]

    def ordinary(self, model_folder: Path, inputs: Iterable[Any]) -> list[Any]:
        """The rows as they are: no loader of the ecosystem takes them."""
        return list(inputs)

    def agrees(self, outputs: Predictions, reference: Predictions) -> np.ndarray[Any, Any]:
        """Per row the fidelity of each output or part of one, (rows, columns); or what the user's metric says."""
        if self.metric_file:
            return self._scored(outputs, reference)
        return by_row(outputs, reference, self._told)

    def compared(self, outputs: Predictions, reference: Predictions) -> tuple[OutputFidelity, ...]:
        """Return of each output how near it is to the reference's."""
        return told(outputs, reference, self._told)

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return what the outputs of each row are held against."""
        return [row.input.reference for row in rows]

    def statistics(self, outputs: Predictions, truth: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        """Return the figures of the user's metric: (rows,) or (rows, 2)."""
        return self._scored(outputs, truth)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> np.ndarray[Any, Any]:
        """Never asked: there is no baseline of any graph."""
        raise NotImplementedError

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's data: of rows' shapes, values drawn within what rows hold."""
        import numpy as np

        random = np.random.default_rng(seed)
        pools = {name: np.concatenate([np.ravel(one[name]) for one in samples if name in one]) for name in samples[0]}
        made = []
        for number in range(count):
            given = samples[number % len(samples)]
            made.append({name: _drawn(values, pools[name], random) for name, values in given.items()})
        return made

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """The row that has an axis of that size; else the one with the nearest number of values."""
        for sample in samples:
            if any(size in values.shape for values in sample.values()):
                return sample
        return min(samples, key=lambda sample: abs(_size(sample) - size))

    def _scored(self, outputs: Predictions, references: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        if not self.metric_file:
            raise DataError(
                f"the rows are judged by {self.judged_by.get('name', 'a metric')}, whose file is not in the bundle",
                fix="leave --data out, or hold the bundle against the original graph again: edgekd build",
            )
        own = UserMetric(**self.judged_by)
        return _user_metric.score(self.metric_file, outputs, references, sha256_of_file=own.sha256)


def _size(arrays: Mapping[str, Any]) -> int:
    return max(1, sum(int(values.size) for values in arrays.values()))


def _drawn(values: Any, pool: Any, random: Any) -> Any:
    """An array of that shape and type. A single number, a rate or a length, stays what it is."""
    import numpy as np

    if not values.ndim:
        return values
    if values.dtype.kind != "f":
        return random.choice(pool, values.shape).astype(values.dtype)
    low, high = float(pool.min()), float(pool.max())
    made = random.normal(float(pool.mean()), float(pool.std()), values.shape)
    return np.clip(made, low, high).astype(values.dtype)
