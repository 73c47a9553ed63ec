"""A language model's graph as the program `causal` and other clients run it, made of the one that optimum exports.

Weights that were tied are one tensor again; the last position's logits can be had alone; and attention over the cache
is ONNX Runtime's GroupQueryAttention, which copies no key for the queries that share it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edgekd.core.errors import TeacherError

KEEP = "num_logits_to_keep"  # 0: the logits of every position; its value may be given, and need not
_PRESENT = re.compile(r"present\.(\d+)\.(key|value)$")
_KNOWN = re.compile(r"input_ids$|attention_mask$|position_ids$|past_key_values\.\d+\.(key|value)$")
_BETWEEN = ("Mul", "Transpose", "Reshape", "Expand", "Unsqueeze")  # from a cached key to the product with queries
_MOST_STEPS = 12
_WIDTH = 8  # the operator takes heads of so many values, or a multiple


def check(graph: Any, source: str) -> None:
    """Raise TeacherError where a graph is none of a language model with keys and values in a cache."""
    inputs, outputs = ([one.name for one in several] for several in (graph.graph.input, graph.graph.output))
    strange = [name for name in inputs if not _KNOWN.match(name)]
    cached = [name for name in outputs if _PRESENT.match(name)]
    if strange or not cached or "logits" not in outputs:
        why = f"it takes {strange[0]}" if strange else "it keeps no keys and values"
        raise TeacherError(
            f"{source} is exported to a graph that no program here runs: {why}",
            fix="give a decoder-only model with attention over a cache, such as Llama, Qwen, Mistral, Gemma or SmolLM",
        )


def prepared(graph: Any) -> None:
    """Tie the projection to the embeddings where both hold the same values, and let the last logits be had alone."""
    edit = _Edit(graph)
    _tie(edit)
    _keep_last(edit)
    edit.finish()


def slides(config: Any) -> bool:
    """Return whether some layers look at the last tokens alone: no short text shows it, so no comparison would."""
    layers = getattr(config, "layer_types", None) or []
    used = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    if layers:
        return any(one != "full_attention" for one in layers)
    return bool(used) or bool(getattr(config, "attention_chunk_size", None))


def group_queries(graph: Any) -> int:
    """Replace each layer's attention by GroupQueryAttention in place; return how many layers: all of them, or none."""
    edit = _Edit(graph)
    layers = sorted({int(found[1]) for one in graph.graph.output if (found := _PRESENT.match(one.name))})
    parts = [_attention(edit, layer) for layer in layers]
    known = [part for part in parts if part is not None]
    if not layers or len(known) != len(layers):
        return 0
    lengths = _lengths(edit)
    for part in known:
        _replace(edit, part, lengths)
    edit.finish()
    return len(known)


@dataclass
class _Edit:
    """A graph that is being changed, with who makes and who takes each value."""

    model: Any
    makers: dict[str, Any] = field(init=False)
    takers: dict[str, list[Any]] = field(init=False)
    constants: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.makers = {name: node for node in graph.node for name in node.output}
        self.takers = {}
        for node in graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t

    def node(self, kind: str, inputs: list[str], outputs: list[str], **more: Any) -> None:
        """Add a node."""
        from onnx import helper

        made = helper.make_node(kind, inputs, outputs, name=f"{outputs[0]}/{kind}", **more)
        self.model.graph.node.append(made)

    def constant(self, name: str, values: Any) -> str:
        """Add a constant, once; return its name."""
        from onnx import numpy_helper

        if name not in self.constants:
            tensor = numpy_helper.from_array(values, name)
            self.model.graph.initializer.append(tensor)
            self.constants[name] = tensor
        return name

    def value(self, name: str) -> Any:
        """Return a constant's array; None for what is none."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def finish(self) -> None:
        """Drop what leads to no output, and bring the nodes into an order that runs."""
        graph = self.model.graph
        makers = {name: node for node in graph.node for name in node.output if name}
        ordered: list[Any] = []
        done: set[int] = set()
        stack = [(makers[one.name], False) for one in reversed(graph.output)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                ordered.append(node)
                continue
            stack.append((node, True))
            stack += [(makers[name], False) for name in node.input if name in makers and id(makers[name]) not in done]
        kept = [node.SerializeToString() for node in ordered]
        del graph.node[:]
        for raw in kept:
            graph.node.add().ParseFromString(raw)
        used = {name for node in graph.node for name in node.input}
        inputs = {one.name for one in graph.input}
        for tensor in [one for one in graph.initializer if one.name not in used and one.name not in inputs]:
            graph.initializer.remove(tensor)


def _head(edit: _Edit) -> Any | None:
    """Return the product that makes the logits; None where it is none of a constant matrix."""
    node, steps = edit.makers.get("logits"), 0
    while node is not None and node.op_type in ("Cast", "Mul", "Tanh", "Div", "Add") and steps < _MOST_STEPS:
        node, steps = edit.makers.get(node.input[0]), steps + 1
    return node if node is not None and node.op_type == "MatMul" else None


def _tie(edit: _Edit) -> None:
    """Make the projection a Transpose of the embeddings where its values are theirs: a file holds them once."""
    import numpy as np

    head = _head(edit)
    if head is None or head.input[1] not in edit.constants:
        return
    table = next((node.input[0] for node in edit.takers.get("input_ids", ()) if node.op_type == "Gather"), "")
    shapes = [tuple(edit.constants[name].dims) if name in edit.constants else () for name in (table, head.input[1])]
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][::-1]:
        return
    if np.array_equal(edit.value(table), edit.value(head.input[1]).T):
        edit.node("Transpose", [table], [f"{table}.tied"], perm=[1, 0])
        head.input[1] = f"{table}.tied"


def _keep_last(edit: _Edit) -> None:
    """Put a Slice before the projection that keeps as many of the last positions as `num_logits_to_keep` says.

    It is an input with a value of its own: clients that do not know it leave it out, and get the logits of all.
    """
    import numpy as np
    from onnx import TensorProto, helper

    head = _head(edit)
    if head is None:
        return
    edit.constant(KEEP, np.array(0, np.int64))
    edit.model.graph.input.append(helper.make_tensor_value_info(KEEP, TensorProto.INT64, []))
    edit.node("Neg", [KEEP], [f"{KEEP}.from"])
    edit.node("Reshape", [f"{KEEP}.from", edit.constant(f"{KEEP}.one", np.array([1], np.int64))], [f"{KEEP}.start"])
    ends = edit.constant(f"{KEEP}.end", np.array([np.iinfo(np.int64).max], np.int64))
    axes = edit.constant(f"{KEEP}.axis", np.array([1], np.int64))
    edit.node("Slice", [head.input[0], f"{KEEP}.start", ends, axes], [f"{KEEP}.hidden"])
    head.input[0] = f"{KEEP}.hidden"
    logits = next(one for one in edit.model.graph.output if one.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "logits_length"  # no longer that of the input


@dataclass(frozen=True)
class _Attention:
    """One layer's attention: what it takes as (batch, heads, tokens, width), and where its result goes."""

    layer: int
    query: str
    key: str
    value: str
    scale: float
    heads: int
    groups: int
    result: str  # (batch, tokens, heads x width)


def _attention(edit: _Edit, layer: int) -> _Attention | None:
    """Return the parts of a layer's attention; None where it is not plain scaled attention over the cache."""
    cached = {part: edit.makers.get(f"present.{layer}.{part}") for part in ("key", "value")}
    for part, node in cached.items():
        past = f"past_key_values.{layer}.{part}"
        if node is None or node.op_type != "Concat" or list(node.input[:1]) != [past] or len(node.input) != 2:
            return None
    scores = next(_products_of(edit, f"present.{layer}.key"), None)
    context = next(_products_of(edit, f"present.{layer}.value"), None)
    if scores is None or context is None:
        return None
    scale, query = _scaled(edit, scores)
    result = _merged(edit, context)
    groups = _fixed(edit, f"present.{layer}.key", 1)
    width = _fixed(edit, f"present.{layer}.key", 3)
    if query is None or result is None or not groups or not width or not _plain_between(edit, scores, context):
        return None
    shapes = [
        edit.constants[node.input[1]].dims
        for node in edit.takers.get(result, [])
        if node.op_type == "MatMul" and node.input[1] in edit.constants
    ]
    rows = shapes[0][0] if shapes else 0
    if not rows or rows % width or width % _WIDTH:
        return None
    key, value = cached["key"], cached["value"]
    assert key is not None
    assert value is not None
    return _Attention(layer, query, key.input[1], value.input[1], scale, rows // width, groups, result)


def _products_of(edit: _Edit, name: str) -> Iterator[Any]:
    """Yield the MatMuls whose second side is made of a cached value by repeating and turning it alone."""
    for node in edit.model.graph.node:
        if node.op_type != "MatMul":
            continue
        at, steps = node.input[1], 0
        while at != name and at in edit.makers and edit.makers[at].op_type in _BETWEEN and steps < _MOST_STEPS:
            at, steps = edit.makers[at].input[0], steps + 1
        if at == name:
            yield node


def _scaled(edit: _Edit, scores: Any) -> tuple[float, str | None]:
    """Return the factor that queries and keys are multiplied by, and the queries before that."""
    scale, names = 1.0, []
    for side in scores.input:
        maker = edit.makers.get(side)
        if maker is not None and maker.op_type == "Mul" and (factor := edit.value(maker.input[1])) is not None:
            if factor.size != 1:
                return scale, None
            scale, side = scale * float(factor.reshape(())), maker.input[0]
        names.append(side)
    return scale, names[0]


def _plain_between(edit: _Edit, scores: Any, context: Any) -> bool:
    """Return whether nothing but a mask and a softmax stands between the two products."""
    at, seen = str(context.input[0]), list[str]()
    for _ in range(_MOST_STEPS):
        maker = edit.makers.get(at)
        if maker is None:
            return False
        if maker is scores:
            return sorted(seen) in (["Add", "Softmax"], ["Add", "Softmax", "Where"])
        seen.append(maker.op_type)
        at = maker.input[2] if maker.op_type == "Where" else maker.input[0]
    return False


def _merged(edit: _Edit, context: Any) -> str | None:
    """Return the name of attention's result with the heads beside each other."""
    turned = edit.takers.get(context.output[0], [])
    if [one.op_type for one in turned] != ["Transpose"]:
        return None
    flat = edit.takers.get(turned[0].output[0], [])
    return str(flat[0].output[0]) if [one.op_type for one in flat] == ["Reshape"] else None


def _fixed(edit: _Edit, name: str, axis: int) -> int:
    """Return the size of an output's axis; 0 where it is free."""
    found = next(one for one in edit.model.graph.output if one.name == name)
    return int(found.type.tensor_type.shape.dim[axis].dim_value)


def _lengths(edit: _Edit) -> tuple[str, str]:
    """Add what the operator takes of the mask: the last position of each text, and the length of all, as int32."""
    import numpy as np
    from onnx import TensorProto

    one = edit.constant("lengths.axis", np.array([1], np.int64))
    edit.node("ReduceSum", ["attention_mask", one], ["lengths.tokens"], keepdims=0)
    edit.node("Sub", ["lengths.tokens", one], ["lengths.last"])
    edit.node("Cast", ["lengths.last"], ["lengths.seqlens_k"], to=TensorProto.INT32)
    edit.node("Shape", ["attention_mask"], ["lengths.shape"])
    edit.node("Gather", ["lengths.shape", edit.constant("lengths.second", np.array(1, np.int64))], ["lengths.all"])
    edit.node("Cast", ["lengths.all"], ["lengths.total"], to=TensorProto.INT32)
    return "lengths.seqlens_k", "lengths.total"


def _replace(edit: _Edit, part: _Attention, lengths: tuple[str, str]) -> None:
    """Put the operator in the place of a layer's attention; its results keep their names."""
    from onnx import helper

    prefix = f"attention.{part.layer}"
    query, key, value = (
        _tokens_first(edit, name, f"{prefix}.{word}")
        for name, word in ((part.query, "query"), (part.key, "key"), (part.value, "value"))
    )
    outputs = [part.result, f"present.{part.layer}.key", f"present.{part.layer}.value"]
    for name in outputs:
        maker = edit.makers[name]
        maker.output[0] = f"{name}.replaced"
    past = [f"past_key_values.{part.layer}.{word}" for word in ("key", "value")]
    made = helper.make_node(
        "GroupQueryAttention",
        [query, key, value, *past, *lengths],
        outputs,
        name=prefix,
        domain="com.microsoft",
        num_heads=part.heads,
        kv_num_heads=part.groups,
        scale=part.scale,
    )
    edit.model.graph.node.append(made)
    if not any(entry.domain == "com.microsoft" for entry in edit.model.opset_import):
        edit.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _tokens_first(edit: _Edit, name: str, out: str) -> str:
    """Return (batch, tokens, heads x width) of (batch, heads, tokens, width): what it was made of, where it was so."""
    import numpy as np

    maker = edit.makers.get(name)
    if maker is not None and maker.op_type == "Transpose" and list(maker.attribute[0].ints) == [0, 2, 1, 3]:
        inner = edit.makers.get(maker.input[0])
        if inner is not None and inner.op_type == "Reshape":
            return str(inner.input[0])
        turned = maker.input[0]
    else:
        edit.node("Transpose", [name], [f"{out}.turned"], perm=[0, 2, 1, 3])
        turned = f"{out}.turned"
    shape = edit.constant("attention.flat", np.array([0, 0, -1], np.int64))
    edit.node("Reshape", [turned, shape], [f"{out}.flat"])
    return f"{out}.flat"
