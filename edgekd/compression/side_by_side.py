"""An fp32 graph and its quantized form as one ONNX graph, with a switch at each layer that picks one's value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from edgekd.core import external
from edgekd.core.errors import DataError, EdgeKDError
from edgekd.data.limits import check_plain

_QUANTIZED = re.compile(r"quantize|integer|nbits|bnb4|^qlinear|^qgemm|^qattention", re.IGNORECASE)
EXACT = "exact"  # the switch that lets activations pass by the pairs that their readers own
# They move values and make none: what is lost on the way belongs to the layer that made the values.
MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Expand", "Concat")


@dataclass(frozen=True)
class Site:
    """A layer: a node of the fp32 graph that the quantized graph computes otherwise. Tensors have their merged names.

    Each pair of QuantizeLinear and DequantizeLinear on an activation belongs to one layer: to its maker where that
    computes on dequantized values itself, else to its readers. `bare`: what the layer makes before its own pair, and
    fp32's value of it. `readers`: nodes that read the activations of its pairs; all of them must stay in float for
    those to stay in float.
    """

    name: str
    op: str
    node: str  # its name, by which a quantizer leaves it in float; empty where the graph gives none
    plain: str
    quantized: str
    switch: str
    bare: tuple[str, str]
    readers: tuple[str, ...]
    weights: tuple[tuple[int, ...], ...]  # shapes of the constants that it reads
    multiplies: float  # multiply-adds for each value of its output


@dataclass(frozen=True)
class Merged:
    """The graph, its layers in fp32's order, and its outputs: what the switches leave of them."""

    model: Any
    sites: tuple[Site, ...]
    outputs: tuple[str, ...]  # those of floats, where there are any
    weights: int  # values of all constants of the fp32 graph


def read(path: Path) -> Any:
    """An ONNX model. Raises DataError where the file is none, EdgeKDError where its external data are not there."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        check_plain(path)
        raise DataError(f"there is no file {path}", fix="give the path of an .onnx file")
    try:
        model = external.load(path)
    except DecodeError as error:
        raise DataError(f"{path} is not an ONNX model", fix="give an .onnx file that ONNX Runtime opens") from error
    if not model.graph.node:  # an empty file is a message without fields
        raise DataError(f"{path} is not an ONNX model", fix="give an .onnx file that ONNX Runtime opens")
    return model


def merge(plain: Path, quantized: Path) -> Merged:
    """Both graphs as one. Raises DataError for files that are no models, EdgeKDError where they share no layer."""
    from onnx import TensorProto, version_converter

    float32, integer = read(plain), read(quantized)
    if any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in integer.graph.initializer):
        raise EdgeKDError(
            f"{quantized.name} holds half-precision weights, whose tensors cannot stand beside float32's",
            fix="diagnose an integer recipe; judge half precision by the model's outputs",
        )
    opset = max(_opset(float32), _opset(integer))
    models = [
        model if _opset(model) == opset else version_converter.convert_version(model, opset)
        for model in (float32, integer)
    ]
    merged = _Merger(*(model.graph for model in models)).merged()
    if not merged.sites:
        raise EdgeKDError(
            f"{quantized.name} has no quantized layer that stands in {plain.name} too",
            fix="give the float32 model that this very file was quantized from",
        )
    merged.model.opset_import.extend(_imports(*models))
    merged.model.ir_version = max(model.ir_version for model in models)
    return merged


def _opset(model: Any) -> int:
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _imports(*models: Any) -> list[Any]:
    from onnx import helper

    found = {entry.domain: entry.version for model in models for entry in model.opset_import}
    return [helper.make_opsetid(domain, version) for domain, version in found.items()]


@dataclass
class _Merger:
    """Sorts out what the two graphs have in common; the quantized graph's own names get the prefix `q/`."""

    plain: Any
    quantized: Any
    makers: dict[str, Any] = field(default_factory=dict)  # of the quantized graph's tensors
    taken: dict[str, Any] = field(default_factory=dict)  # its nodes that the merged graph needs, by first output

    def __post_init__(self) -> None:
        self.makers = {name: node for node in self.quantized.node for name in node.output}
        self.plain_makers = {name: node for node in self.plain.node for name in node.output if name}
        self.inputs = {value.name for value in self.plain.input}
        self.constants = {tensor.name: tuple(tensor.dims) for tensor in self.plain.initializer}
        self.readers: dict[str, list[Any]] = {}
        for node in self.plain.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = tuple(node.attribute[0].t.dims)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        # what QuantizeLinear and DequantizeLinear make of an activation: by the last name, the activation's own
        self.pairs: dict[str, str] = {}
        for node in self.quantized.node:
            if node.op_type == "DequantizeLinear":
                maker = self.makers.get(node.input[0])
                if maker is not None and maker.op_type == "QuantizeLinear" and maker.input[0] in self.plain_makers:
                    self.pairs[node.output[0]] = maker.input[0]
        self.owned = {name: last for last, name in self.pairs.items() if self._computes_on_dequantized(name)}
        self.passed = {last: name for last, name in self.pairs.items() if name not in self.owned}
        self.switched: dict[str, str] = {}  # fp32's tensors that have a switch, and the name behind it

    def _computes_on_dequantized(self, name: str) -> bool:
        maker = self.makers.get(name)
        sources = [self.makers[each].op_type for each in (maker.input if maker else ()) if each in self.makers]
        return "DequantizeLinear" in sources

    def _after(self, name: str) -> str:
        """The fp32 tensor that an activation's rounded form stands for: past a Relu or Clip that rounding replaced."""
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and readers[0].output[0] not in self.makers:
            return str(readers[0].output[0])
        return name

    def merged(self) -> Merged:
        from onnx import TensorProto, helper

        sites = [site for node in self.plain.node if (site := self._site(node))]
        nodes = [self._renamed(node, self._from_plain) for node in self.plain.node]
        nodes += [self._renamed(node, self._from_quantized, prefix="q/") for node in self.taken.values()]
        for site in sites:
            nodes.append(helper.make_node("Where", [site.switch, site.quantized, site.plain], [f"on/{site.plain}"]))
        used = {name for node in self.taken.values() for name in node.input}
        for last in [last for last in self.passed if last in used]:
            before = self._from_plain(self.passed[last])
            nodes.append(helper.make_node("Where", [EXACT, before, f"q/{last}"], [f"on/{last}"]))
        needed = {name for node in nodes for name in node.input}
        constants = [tensor for tensor in self.plain.initializer if tensor.name in needed]
        constants += [
            _copy(tensor, f"q/{tensor.name}") for tensor in self.quantized.initializer if f"q/{tensor.name}" in needed
        ]
        fetched = {name for site in sites for name in (site.plain, site.quantized, *site.bare)}
        floats = [value for value in self.plain.output if value.type.tensor_type.elem_type == TensorProto.FLOAT]
        told = floats or list(self.plain.output)
        inputs = [value for value in self.plain.input if value.name not in self.constants]
        switches = [EXACT, *(site.switch for site in sites)]
        inputs += [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in switches]
        kinds = dict.fromkeys(sorted(fetched), TensorProto.FLOAT)
        kinds |= {self._from_plain(value.name): value.type.tensor_type.elem_type for value in told}
        outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
        graph = helper.make_graph(_sorted(nodes), "side by side", inputs, outputs, constants)
        graph.sparse_initializer.extend(self.plain.sparse_initializer)
        return Merged(
            helper.make_model(graph, opset_imports=[]),
            tuple(sites),
            tuple(dict.fromkeys(self._from_plain(value.name) for value in told)),
            sum(_size(shape) for shape in self.constants.values()),
        )

    def _site(self, node: Any) -> Site | None:
        name = str(node.output[0])
        if name not in self.makers or node.op_type in MOVES or node.op_type in ("Constant", "Shape", "Size"):
            return None
        own = name in self.owned
        last = self.owned.get(name, name)
        segment = self._segment(last, own=name if own else None)
        if not any(_QUANTIZED.search(each.op_type) for each in segment):
            return None
        plain = self._after(name) if own else name
        self.switched[plain] = f"on/{plain}"
        self.taken |= {each.output[0]: each for each in segment}
        rounded = [plain] if own else []
        rounded += [before for one, before in self.passed.items() if any(one in each.input for each in segment)]
        readers = tuple(dict.fromkeys(reader for each in rounded for reader in self._touching(each)))
        bare = (f"q/{name}", name) if own else (f"q/{last}", plain)
        does = self._before(node)
        weights = tuple(self.constants[each] for each in does.input if each in self.constants)
        return Site(
            does.name or name,
            does.op_type,
            does.name,
            plain,
            f"q/{last}",
            f"switch/{name}",
            bare,
            readers,
            weights,
            _multiplies(does, weights),
        )

    def _before(self, node: Any) -> Any:
        """The node that makes what a Relu or Clip that rounding replaced only cuts; else the node itself."""
        source = self.plain_makers.get(node.input[0]) if node.input else None
        replaced = node.op_type in ("Relu", "Clip") and source is not None and node.input[0] not in self.makers
        return source if replaced else node

    def _touching(self, name: str) -> tuple[str, ...]:
        """Nodes that read an activation, through those that only move it."""
        found: list[str] = []
        for node in self.readers.get(name, []):
            if node.op_type in MOVES:
                found += [each for output in node.output for each in self._touching(output)]
            elif node.name:
                found.append(node.name)
        return tuple(dict.fromkeys(found))

    def _segment(self, last: str, own: str | None) -> list[Any]:
        """The quantized graph's nodes from tensors that stand in both graphs to `last`, first node last."""
        found: dict[str, Any] = {}
        waiting = [last]
        while waiting:
            node = self.makers[waiting.pop()]
            if node.output[0] in found:
                continue
            found[node.output[0]] = node
            for name in node.input:
                shared = name in self.plain_makers or self.pairs.get(name) in self.owned
                if name in self.makers and (name == own or not shared):
                    waiting.append(name)
        return list(found.values())

    def _from_plain(self, name: str) -> str:
        return self.switched.get(name, name)

    def _from_quantized(self, name: str, node: Any) -> str:
        if node.op_type == "QuantizeLinear" and name in self.owned:
            return f"q/{name}"
        before = self.pairs.get(name)
        if before in self.owned:
            return self._from_plain(self._after(str(before)))
        if name in self.passed:
            return f"on/{name}"
        if name in self.plain_makers or name in self.inputs or not name:
            return self._from_plain(name)
        return f"q/{name}"

    def _renamed(self, node: Any, source: Any, prefix: str = "") -> Any:
        made = _copy(node, f"{prefix}{node.name}")
        del made.input[:], made.output[:]
        made.input.extend(source(name, node) if prefix else source(name) for name in node.input)
        made.output.extend(f"{prefix}{name}" if name else "" for name in node.output)
        return made


def _multiplies(node: Any, weights: tuple[tuple[int, ...], ...]) -> float:
    """Multiply-adds for each value that a matrix product or convolution with a constant side writes."""
    if not weights or node.op_type not in ("MatMul", "Gemm", "Conv"):
        return 0.0
    shape = weights[0]
    if node.op_type == "Conv":
        return _size(shape) / shape[0]
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return _size(shape) / shape[0 if transposed else -1]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _copy(proto: Any, name: str) -> Any:
    made = type(proto)()
    made.CopyFrom(proto)
    made.name = name
    return made


def _sorted(nodes: list[Any]) -> list[Any]:
    makers = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    before = {at: {makers[name] for name in _all_inputs(node) if name in makers} for at, node in enumerate(nodes)}
    return [nodes[at] for at in TopologicalSorter(before).static_order()]


def _all_inputs(node: Any) -> list[str]:
    """A node's inputs, and what its branches read from outside."""
    found = list(node.input)
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            found += [name for each in inner.node for name in _all_inputs(each)]
    return found
