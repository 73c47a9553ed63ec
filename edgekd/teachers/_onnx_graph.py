"""An ONNX graph as a task sees it: which inputs it is fed, which output counts, and the graph cut down to those."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.external import graphs, inner_graphs, tensors
from edgekd.core.predictions import main_output, network_outputs
from edgekd.core.protocols import MULTI_LABEL, PER_WORD, SINGLE_LABEL
from edgekd.core.registry import plugin
from edgekd.teachers._onnx_checks import joined, opset

_SAME_VALUES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
LEAST_OPSET = 13  # below it there are no scales per channel; such a model is converted
Dims = tuple[int | None, ...]  # None for a dimension that is free


@dataclass(frozen=True)
class Feed:
    """What a task gives to a graph and takes from it. Dimensions in words, the batch first."""

    inputs: tuple[str, ...]  # any of several integer inputs, the first of them needed; or one float input by any name
    takes: tuple[str, ...]
    output: str
    gives: tuple[str, ...]
    last: str = ""  # the operator that turns logits into probabilities, which is left out where the graph ends in it

    @property
    def is_text(self) -> bool:
        """Whether inputs are tokens."""
        return "tokens" in self.takes


_TAKES = {  # by modality: the inputs' names, and the dimensions of the first
    "text": (("input_ids", "attention_mask", "token_type_ids"), ("batch", "tokens")),
    "image": (("pixel_values",), ("batch", "channels", "height", "width")),
    "series": (("past_values",), ("batch", "steps", "channels")),
}
_LAST = {SINGLE_LABEL: "Softmax", MULTI_LABEL: "Sigmoid"}
_TAGGED = ("batch", "tokens", "classes")
_GIVES = {"logits": ("batch", "classes"), "last_hidden_state": ("batch", "tokens", "hidden")}  # by the output's name


def feed_of(task: str) -> Feed:
    """Return what a task feeds a graph and takes from it. Raises TeacherError for one that no graph serves yet."""
    kind = plugin("tasks", task)
    network = network_outputs(kind)
    output = main_output(network)
    if kind.modality not in _TAKES or output not in _GIVES or len(network) > 1:
        raise TeacherError(
            f"an ONNX file cannot be a teacher of {task}", fix="give the model's Hugging Face folder as --teacher"
        )
    gives = _TAGGED if kind.problem_type == PER_WORD else _GIVES[output]
    return Feed(*_TAKES[kind.modality], output, gives, _LAST.get(kind.problem_type, ""))


@dataclass(frozen=True)
class Wiring:
    """Names in the file, and what they are to become."""

    inputs: Mapping[str, str]
    output: str
    left_out: (
        str  # the file's own output is this operator's, a softmax or sigmoid: what counts are the logits before it
    )
    takes: Dims  # of the first input
    gives: Dims  # of the output


def wire(model: Any, path: Path, feed: Feed) -> Wiring:
    """How a task uses the graph. Raises TeacherError where it cannot: other inputs, other outputs, fixed sizes."""
    constants = {tensor.name for tensor in model.graph.initializer}
    given = {value.name: value for value in model.graph.input if value.name not in constants}
    wanted = f"edgekd feeds {joined(feed.inputs)} ({joined(feed.takes)})"
    renamed = {name: name for name in given} if feed.is_text else dict(zip(given, feed.inputs, strict=False))
    if (feed.is_text and feed.inputs[0] not in given) or not given.keys() <= renamed.keys():
        raise _no_feed(path, f"it takes {_listed(given.values())}; {wanted}")
    if strange := sorted({*renamed.values()} - {*feed.inputs}):
        raise _no_feed(path, f"it takes {strange[0]}, which the tokenizer does not give; {wanted}")
    kinds = ("int64", "int32") if feed.is_text else ("float",)
    for value in given.values():
        dims = _dims(value)
        if _kind(value) not in kinds or len(dims) != len(feed.takes):
            raise _no_feed(path, f"it takes {_listed([value])}; {wanted}, {joined(kinds)}")
        if dims[0] not in (None, 1):
            raise _no_feed(path, f"its batch is fixed at {dims[0]}; edgekd feeds one sample at a time")
        if feed.is_text and dims[1] is not None:
            raise _no_feed(path, f"it takes exactly {dims[1]} tokens; edgekd feeds texts at their own lengths")
    first = given[next(name for name, new in renamed.items() if new == feed.inputs[0])]
    output, left_out = _output(model, path, feed)
    nodes, used = reached(model, (output,))
    if not nodes or not given.keys() & used:
        raise _no_feed(path, f"its output {output} does not depend on what it takes")
    return Wiring(renamed, output, left_out, _dims(first), _dims(chosen(model, path, feed)))


def _output(model: Any, path: Path, feed: Feed) -> tuple[str, str]:
    """The tensor that becomes the task's output, and the softmax or sigmoid after it that was left out, if any."""
    name = chosen(model, path, feed).name
    makers = {output: node for node in model.graph.node for output in node.output}
    last = makers.get(name) if len(feed.gives) == 2 else None
    while feed.last == "Sigmoid" and last is not None and last.op_type == "Identity":
        last = makers.get(last.input[0])
    if last is not None and last.op_type == feed.last and not last.domain:
        axis = next((one.i for one in last.attribute if one.name == "axis"), -1)
        if axis in (-1, 1):
            return last.input[0], feed.last
    return name, ""


def chosen(model: Any, path: Path, feed: Feed) -> Any:
    """The one float output of the right rank, or the one with the task's name. Raises TeacherError for none or many."""
    outputs = list(model.graph.output)
    fitting = [value for value in outputs if _kind(value) == "float" and len(_dims(value)) == len(feed.gives)]
    named = [value for value in fitting if value.name == feed.output]
    if len(named or fitting) == 1:
        return (named or fitting)[0]
    why = "none of these" if not fitting else f"which of {len(fitting)} is not known"
    raise TeacherError(
        f"{path} gives {_listed(outputs)}; wanted is one float output ({joined(feed.gives)}): {why}",
        fix=f"export the model with that output alone, or call it {feed.output}"
        if fitting
        else f"export the model with an output {feed.output}, float ({joined(feed.gives)})",
    )


def extract(model: Any, wiring: Wiring, feed: Feed) -> Any:
    """A new model of what the output needs, inputs and output under the task's names, every node named once.

    Nothing else of the file comes along: no other outputs, dead branches, notes or training state. `model` is lifted
    to an opset that knows scales per channel first. Raises RuntimeError or onnx's ConvertError where
    it cannot be.
    """
    import onnx
    from onnx import TensorProto, helper, version_converter

    nodes, used = reached(model, (wiring.output,))
    names = _renaming(model, wiring, feed)
    graph = helper.make_graph([], "model", [], [])
    titles = node_names(nodes)
    for number, node in enumerate(nodes):
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
        copy.name = titles[number]
        for inner in inner_graphs(copy):
            _rename_inside(inner, names)
    constants = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in used:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = names.get(tensor.name, tensor.name)
    for value in model.graph.input:
        if value.name in used and value.name not in constants:
            graph.input.add().CopyFrom(value)
            graph.input[-1].name = names[value.name]
    if feed.is_text:
        _widen(graph)
    graph.output.append(helper.make_tensor_value_info(feed.output, TensorProto.FLOAT, _free(wiring.gives, feed)))
    domains = {node.domain for node in nodes if node.domain != "ai.onnx"}
    imports = {entry.domain: entry.version for entry in model.opset_import if entry.domain in domains}
    fresh = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(name, version) for name, version in (imports | {"": opset(model)}).items()],
        ir_version=model.ir_version,
    )
    fresh.DiscardUnknownFields()
    if opset(fresh) < LEAST_OPSET:
        fresh.ir_version = max(fresh.ir_version, 4)  # constants that are no inputs
        fresh = version_converter.convert_version(fresh, LEAST_OPSET)
    onnx.checker.check_model(fresh)
    return fresh


def _widen(graph: Any) -> None:
    """Let inputs of int32 take int64, as tokenizers give them: TensorFlow's exports take the narrow ones."""
    from onnx import TensorProto, helper

    narrow = {value.name: f"{value.name}_int32" for value in graph.input if _kind(value) == "int32"}
    if not narrow:
        return
    for node in graph.node:
        node.input[:] = [narrow.get(name, name) for name in node.input]
        for inner in inner_graphs(node):
            _rename_inside(inner, narrow)
    casts = [
        helper.make_node("Cast", [name], [new], f"{name}_as_int32", to=TensorProto.INT32)
        for name, new in narrow.items()
    ]
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.input:
        if value.name in narrow:
            value.type.tensor_type.elem_type = TensorProto.INT64


def parameters(model: Any) -> int:
    """Values of all float constants."""
    return sum(math.prod(tensor.dims) for _, tensor in tensors(model) if tensor.data_type == tensor.FLOAT)


def embedding_rows(model: Any) -> int | None:
    """Rows of the table that `input_ids` are looked up in; None where no lookup is found."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids" and len(shapes.get(node.input[0], ())) == 2:
            return int(shapes[node.input[0]][0])
    return None


def ends_in_sigmoid(model: Any, output: str) -> bool:
    """Whether an output is a sigmoid of each value, behind operators that change no value."""
    return ends_in(model, output, ("HardSigmoid", "Sigmoid"))


def ends_in(model: Any, output: str, operators: Sequence[str]) -> bool:
    """Whether an output is one of these operators', behind operators that change no value."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _SAME_VALUES:
        node = makers.get(node.input[0])
    return node is not None and node.op_type in operators


def reached(model: Any, outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
    """Return the nodes that the outputs need, in their order, and the names of all tensors that they read."""
    needed, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input) - {""}  # an input that is left out
            for inner in inner_graphs(node):
                needed |= _taken_from_outside(inner)
    return nodes[::-1], needed


def _taken_from_outside(graph: Any) -> set[str]:
    """Names that the body of a loop or branch reads, and does not make itself."""
    own = {one.name for one in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for node in graph.node:
        for inner in inner_graphs(node):
            read |= _taken_from_outside(inner)
    return read - own - {""}


def _rename_inside(graph: Any, names: Mapping[str, str]) -> None:
    """Give what the body reads from outside its new names."""
    taken = _taken_from_outside(graph)
    outside = {old: new for old, new in names.items() if old in taken}
    for node in graph.node:
        node.input[:] = [outside.get(name, name) for name in node.input]
        for inner in inner_graphs(node):
            _rename_inside(inner, outside)
    for one in graph.output:
        one.name = outside.get(one.name, one.name)


def _renaming(model: Any, wiring: Wiring, feed: Feed) -> dict[str, str]:
    """Old name to new; a tensor that has one of the new names already makes room."""
    names = dict(wiring.inputs) | {wiring.output: feed.output}
    taken = {tensor.name for graph in graphs(model) for tensor in (*graph.initializer, *graph.input)}
    taken |= {name for graph in graphs(model) for node in graph.node for name in (*node.input, *node.output)}
    for name in sorted(taken & set(names.values()) - set(names)):
        free = f"{name}_of_file"
        while free in taken:
            free += "_"
        names[name] = free
    return names


def node_names(nodes: Sequence[Any]) -> list[str]:
    """Return a unique name for each node: recipes leave nodes out by name, and many files have none."""
    counts = Counter(node.name for node in nodes)
    titles = []
    for number, node in enumerate(nodes):
        title: str = node.name if node.name and counts[node.name] == 1 else f"{node.op_type}_{number}"
        while counts[title] and title != node.name:
            title += "_"
        titles.append(title)
    return titles


def _free(dims: Dims, feed: Feed) -> list[int | str]:
    return [known if known is not None else word for known, word in zip(dims, feed.gives, strict=True)]


def _dims(value: Any) -> Dims:
    # some exporters write -1, or 0, for a size that is free
    return tuple(one.dim_value if one.dim_value > 0 else None for one in value.type.tensor_type.shape.dim)


def _kind(value: Any) -> str:
    """`float`, `int64` ...; `sequence` and the like for what is no tensor."""
    from onnx import TensorProto

    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value") or "nothing").removesuffix("_type")
    kinds: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}
    return kinds.get(value.type.tensor_type.elem_type, "of no known type")


def _listed(values: Iterable[Any]) -> str:
    """`x: float (1, 3, ?, ?)` of each."""
    words = []
    for value in values:
        dims = _dims(value)
        words.append(f"{value.name}: {_kind(value)} ({', '.join('?' if one is None else str(one) for one in dims)})")
    return joined(words)


def _no_feed(path: Path, why: str) -> TeacherError:
    return TeacherError(f"{path} cannot be fed: {why}", fix="export it again with such inputs, batch and lengths free")
