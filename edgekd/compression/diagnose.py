"""Diagnose: which layers a quantized model loses most in, on real inputs, and what each in float would buy and cost."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression.side_by_side import Site, merge
from edgekd.compression.sqnr import Ratios, SideBySide, decibel, noise
from edgekd.core.errors import DataError, EdgeKDError
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

FAIR_DB = 20.0  # noise a hundredth of the signal's power: what a layer of sound int8 stays above
ALONE_GROUPS, ALONE_SAMPLES = 32, 4  # that the output is looked at for, one group quantized at a time


@dataclass(frozen=True)
class Layer:
    """One quantized layer. SQNR: 10 log10 of the signal's power over the error's, in dB, over all samples.

    `sqnr_db` is its own: computed from fp32's inputs. `accumulated_sqnr_db` has every layer before it quantized too.
    """

    name: str
    op: str
    sqnr_db: float
    accumulated_sqnr_db: float
    weight_mib: float  # of its constants in float32
    macs: float  # multiply-adds with constants, mean over the samples
    nodes: tuple[str, ...]  # to leave in float, that it computes in float; none where the graph names no nodes


@dataclass(frozen=True)
class Group:
    """The same place in every layer of a deep model. `output_sqnr_db`: of the model's output with this group alone
    quantized; None where that was not tried."""

    label: str
    sqnr_db: float
    output_sqnr_db: float | None
    weight_mib: float
    macs: float
    layers: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def lost(self) -> float:
        """The error that it causes, as a share of the signal's power: in the output, where that was tried."""
        return noise(self.sqnr_db if self.output_sqnr_db is None else self.output_sqnr_db)


@dataclass(frozen=True)
class WhatIf:
    """A group left in float: what it changes, each figure less the candidate's own."""

    label: str
    nodes: tuple[str, ...]
    change: dict[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """Layers in the graph's order, groups with the lowest SQNR first."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    output_sqnr_db: float
    total_weight_mib: float
    samples: int

    def suggestions(self, *, most: int = 10) -> list[tuple[str, tuple[str, ...]]]:
        """Labels and nodes to leave in float, ordered by the error they take away for what they cost.

        The error is that of the output with the group alone quantized, the cost the share of weights and multiply-adds
        of all nodes that must stay in float for it. By the cost's root: what is left is no better than its worst part,
        so cheap groups of little error must not come before dear ones of much.
        """

        def worth(group: Group) -> float:
            kept = [layer for layer in self.layers if layer.name in group.nodes]
            return group.lost / math.sqrt(self._cost(kept) or 1.0)

        found: dict[tuple[str, ...], str] = {}
        for group in sorted(self.groups, key=worth, reverse=True):
            members = [layer for layer in self.layers if layer.name in group.layers]
            worst = min(members, key=lambda layer: layer.sqnr_db)
            if worst.nodes and 2 * noise(worst.sqnr_db) > sum(noise(layer.sqnr_db) for layer in members):
                found.setdefault(tuple(sorted(worst.nodes)), worst.name)  # most of it is one member's
            if group.nodes:
                found.setdefault(tuple(sorted(group.nodes)), group.label)
        return [(label, nodes) for nodes, label in found.items()][:most]

    def places(self, *, most: int) -> list[tuple[str, tuple[str, ...]]]:
        """The same of single layers: a group's error is shared out among its members by their own."""
        ranked: dict[tuple[str, ...], tuple[float, str]] = {}
        for group in self.groups:
            members = [layer for layer in self.layers if layer.name in group.layers]
            own = sum(noise(layer.sqnr_db) for layer in members)
            for layer in members:
                worth = group.lost * noise(layer.sqnr_db) / own / math.sqrt(self._cost([layer]))
                if layer.nodes and worth > ranked.get(layer.nodes, (0.0, ""))[0]:
                    ranked[layer.nodes] = worth, layer.name
        best = sorted(ranked.items(), key=lambda item: -item[1][0])
        return [(name, nodes) for nodes, (_, name) in best][:most]

    def _cost(self, kept: Sequence[Layer]) -> float:
        """The share of weights and multiply-adds of these layers; and of all layers, since a float operator among int8
        ones costs conversions, whatever its weights."""
        macs, weights = sum(layer.macs for layer in self.layers) or 1.0, self.total_weight_mib or 1.0
        return sum(one.weight_mib / weights + one.macs / macs + 1 / len(self.layers) for one in kept)

    def from_input(self, *, most: int) -> list[tuple[str, tuple[str, ...]]]:
        """Single layers in the graph's order."""
        return [(layer.name, layer.nodes) for layer in self.layers if layer.nodes][:most]

    def from_output(self, *, most: int) -> list[tuple[str, tuple[str, ...]]]:
        """Single layers, the last of the graph first."""
        return [(layer.name, layer.nodes) for layer in reversed(self.layers) if layer.nodes][:most]

    def of_graph(self, name: str) -> Diagnosis:
        """The same with every layer, group and node named as that graph's."""

        def named(words: Sequence[str]) -> tuple[str, ...]:
            return tuple(f"{name}:{word}" for word in words)

        layers = (replace(one, name=f"{name}:{one.name}", nodes=named(one.nodes)) for one in self.layers)
        groups = (
            replace(one, label=f"{name}:{one.label}", layers=named(one.layers), nodes=named(one.nodes))
            for one in self.groups
        )
        return replace(self, layers=tuple(layers), groups=tuple(groups))

    def as_dict(self, what_ifs: Sequence[WhatIf] = ()) -> dict[str, Any]:
        """Plain values, as `report.json` carries them, with what was tried; `Diagnosis.read` takes them back."""
        return asdict(self) | {"what_if": [asdict(one) for one in what_ifs]}

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Diagnosis:
        """From what `as_dict` gives, JSON in between or not; other keys are passed over."""
        layers = tuple(Layer(**{**each, "nodes": tuple(each["nodes"])}) for each in said["layers"])
        groups = tuple(
            Group(**{**each, "layers": tuple(each["layers"]), "nodes": tuple(each["nodes"])}) for each in said["groups"]
        )
        return cls(layers, groups, said["output_sqnr_db"], said["total_weight_mib"], said["samples"])


def diagnose(plain: Path, quantized: Path, samples: Sequence[Sample], *, threads: int) -> Diagnosis:
    """Run both graphs side by side on the samples, one at a time. Raises EdgeKDError where they cannot be compared."""
    if not len(samples):
        raise DataError("the diagnosis has no inputs", fix="give it some rows: --data FILE")
    merged = merge(plain, quantized)
    side_by_side = SideBySide(merged, threads)
    ratios = Ratios()
    for sample in samples:
        side_by_side.measure(sample, ratios)
    count = len(samples)
    layers = tuple(_layer(site, ratios, count) for site in merged.sites)
    grouped = _grouped(merged.sites)
    # own SQNR pooled over the members: the mean of their noise
    pooled = {
        label: sum(noise(layers[at].sqnr_db) for at in members) / len(members) for label, members in grouped.items()
    }
    order = sorted(grouped, key=lambda label: -pooled[label])
    few = [samples[at] for at in range(0, count, math.ceil(count / ALONE_SAMPLES))]
    tried = {label: [merged.sites[at] for at in grouped[label]] for label in order[:ALONE_GROUPS]}
    for sample in few:
        side_by_side.alone(sample, tried, ratios)
    groups = tuple(
        Group(
            label=label,
            sqnr_db=decibel(pooled[label]),
            output_sqnr_db=ratios.sqnr_db(f"alone {label}"),
            weight_mib=sum(layers[at].weight_mib for at in grouped[label]),
            macs=sum(layers[at].macs for at in grouped[label]),
            layers=tuple(layers[at].name for at in grouped[label]),
            nodes=tuple(dict.fromkeys(node for at in grouped[label] for node in layers[at].nodes)),
        )
        for label in order
    )
    output = ratios.sqnr_db("output")
    assert output is not None
    return Diagnosis(layers, groups, output, 4 * merged.weights / 2**20, count)


def diagnose_model(plain: Model, quantized: Model, inputs: GraphInputs, *, threads: int) -> Diagnosis:
    """Diagnose every graph that was quantized, each on its own fp32 inputs; layers of several are `GRAPH:LAYER`.

    Raises EdgeKDError where no graph can be compared.
    """
    if len(plain.graphs) == 1:
        return diagnose(plain.file, quantized.file, inputs.of(next(iter(plain.graphs))), threads=threads)
    found: list[Diagnosis] = []
    last: EdgeKDError | None = None
    for name, file in plain.graphs.items():
        try:
            own = diagnose(file, quantized.graphs[name], inputs.of(name), threads=threads)
        except EdgeKDError as error:  # of a graph that stayed fp32, too: nothing in it is quantized
            last = error
        else:
            found.append(own.of_graph(name))
    if not found:
        assert last is not None
        raise last
    return Diagnosis(
        layers=tuple(layer for one in found for layer in one.layers),
        groups=tuple(sorted((group for one in found for group in one.groups), key=lambda group: group.sqnr_db)),
        output_sqnr_db=min(one.output_sqnr_db for one in found),
        total_weight_mib=sum(one.total_weight_mib for one in found),
        samples=max(one.samples for one in found),
    )


def what_if(
    diagnosis: Diagnosis,
    before: Mapping[str, float],
    quantize: Callable[[Path, tuple[str, ...]], Model],
    judge: Callable[[Model], Mapping[str, float]],
    *,
    keep: Sequence[str] = (),
    most: int = 5,
) -> tuple[WhatIf, ...]:
    """What leaving each of the first suggestions in float changes of the candidate's figures, measured.

    `before` are the candidate's own, as `judge(model)` measures them. `quantize(folder, keep)` writes it with those
    nodes in float, beside those of `keep`, which it leaves in float already. A group without which the recipe has
    nothing left to quantize is passed over.
    """
    found = []
    for label, nodes in diagnosis.suggestions(most=most):
        with tempfile.TemporaryDirectory(prefix="edgekd-what-if-") as folder:
            try:
                made = quantize(Path(folder), tuple(dict.fromkeys((*keep, *nodes))))
            except EdgeKDError:
                continue
            after = judge(made)
            found.append(WhatIf(label, nodes, {name: after[name] - before[name] for name in before}))
    return tuple(found)


def _grouped(sites: Sequence[Site]) -> dict[str, list[int]]:
    """Where the layers of each group stand: names that differ in numbers alone, and weights of one shape.

    `/encoder/layer.3/dense/MatMul` falls to `/encoder/layer.*/dense/MatMul`. The blocks of a convolutional network
    differ in width, so they stay apart, under the first one's name; so does what has no other like it.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for at, site in enumerate(sites):
        alike.setdefault((_folded(site.name), site.op, site.weights), []).append(at)
    shared = Counter(str(name) for name, *_ in alike)
    return {
        str(name) if len(members) > 1 and shared[str(name)] == 1 else _several(sites, members): members
        for (name, *_), members in alike.items()
    }


def _folded(name: str) -> str:
    return re.sub(r"(?<=[./])\d+(?=[./])", "*", name)


def _several(sites: Sequence[Site], members: Sequence[int]) -> str:
    first = sites[members[0]].name
    return first if len(members) == 1 else f"{first} and {len(members) - 1} like it"


def _layer(site: Site, ratios: Ratios, count: int) -> Layer:
    own = ratios.sqnr_db(f"own {site.quantized}")
    accumulated = ratios.sqnr_db(f"accumulated {site.quantized}")
    assert own is not None
    assert accumulated is not None
    bare = ratios.sqnr_db(f"bare {site.quantized}")
    assert bare is not None
    # half of the error or more comes from rounded activations: then these must stay in float, so all that read them
    lost = site.readers if bare >= own + 3 else ()
    nodes = dict.fromkeys((site.node, *lost)) if site.node else ()
    weights = 4 * sum(math.prod(shape) for shape in site.weights) / 2**20
    macs = site.multiplies * ratios.values[f"own {site.quantized}"] / count
    return Layer(site.name, site.op, own, accumulated, weights, macs, tuple(nodes))
