"""Pooling and the layers behind an encoder as nodes of its ONNX graph: what sentence-transformers does in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Weights = Mapping[str, np.ndarray[Any, Any]]

TOKENS, MASK, OUTPUT = "last_hidden_state", "attention_mask", "sentence_embedding"
_LEAST = 1e-9  # no division by a smaller number of tokens, as sentence-transformers has it
_LEAST_LENGTH = 1e-12  # torch.nn.functional.normalize's
_EPSILON = 1e-5  # torch.nn.LayerNorm's
_FAR = -3.0e38  # below any output: of tokens that are padding


def append(model: Any, sentence: Mapping[str, Any], weights: Sequence[Weights]) -> None:
    """Add the output `sentence_embedding` (batch, width) to an encoder's graph, behind its `last_hidden_state`.

    `sentence` is what `_sentences.Sentences.as_dict` gave, `weights` the arrays of each of its layers. The other
    outputs stay: loaders of the ecosystem take the tokens' own. Sources: sentence-transformers' Pooling, Dense,
    Normalize and LayerNorm (Reimers and Gurevych, 2019).
    """
    from onnx import TensorProto, helper

    build = _Builder(model)
    mask = build.mask()
    parts = [_POOLINGS[mode](build, mask) for mode in sentence["pooling"]]
    value = parts[0] if len(parts) == 1 else build.node("Concat", parts, axis=-1)
    for layer, arrays in zip(sentence["layers"], weights, strict=True):
        value = _LAYERS[layer["kind"]](build, value, layer, arrays)
    build.node("Identity", [value], output=OUTPUT)
    batch = next(one for one in model.graph.output if one.name == TOKENS).type.tensor_type.shape.dim[0]
    width: int | str = build.width(sentence)
    first: int | str = batch.dim_value or batch.dim_param or "batch_size"
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [first, width]))


class _Builder:
    """Nodes for the end of a graph, each with a name of its own."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        taken = {name for node in self.graph.node for name in (node.name, *node.output)}
        self.prefix = "sentence"
        while any(name.startswith(f"{self.prefix}/") for name in taken):
            self.prefix += "_"
        self.count = 0

    def node(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node of one output; its name."""
        from onnx import helper

        title = f"{self.prefix}/{operator}_{self.count}"
        self.count += 1
        output = output or f"{title}_output"
        self.graph.node.append(helper.make_node(operator, list(inputs), [output], title, **attributes))
        return output

    def constant(self, values: Any, kind: str = "float32") -> str:
        """Add an initializer; its name."""
        import numpy as np
        from onnx import numpy_helper

        name = f"{self.prefix}/constant_{self.count}"
        self.count += 1
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def sum(self, value: str, axis: int, *, keep: bool) -> str:
        """The sum over an axis."""
        return self.node("ReduceSum", [value, self.constant([axis], "int64")], keepdims=int(keep))

    def mask(self) -> str:
        """Which positions count, float (batch, tokens): the graph's own mask, all of them where it takes none."""
        from onnx import TensorProto, helper

        if any(one.name == MASK for one in self.graph.input):
            return self.node("Cast", [MASK], to=TensorProto.FLOAT)
        shape = self.node("Shape", [TOKENS])
        two = self.node("Slice", [shape, self.constant([0], "int64"), self.constant([2], "int64")])
        one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
        return self.node("ConstantOfShape", [two], value=one)

    def column(self, mask: str) -> str:
        """The mask as (batch, tokens, 1)."""
        return self.node("Unsqueeze", [mask, self.constant([-1], "int64")])

    def width(self, sentence: Mapping[str, Any]) -> int | str:
        """Values of the embedding; `width` where the file does not say."""
        last = [layer["outputs"] for layer in sentence["layers"] if "outputs" in layer]
        if last:
            return int(last[-1])
        tokens = next(one for one in self.graph.output if one.name == TOKENS).type.tensor_type.shape.dim[-1]
        return tokens.dim_value * len(sentence["pooling"]) or "width"


def _at(build: _Builder, mask: str, *, last: bool) -> str:
    """The outputs at the first or the last position that counts."""
    place = build.node("ArgMax", [mask], axis=1, keepdims=1, select_last_index=int(last))  # (batch, 1)
    return build.node("GatherND", [TOKENS, place], batch_dims=1)


def _first(build: _Builder, mask: str) -> str:
    return _at(build, mask, last=False)


def _last(build: _Builder, mask: str) -> str:
    return _at(build, mask, last=True)


def _most(build: _Builder, mask: str) -> str:
    counts = build.node("Greater", [build.column(mask), build.constant(0.0)])
    value = build.node("Where", [counts, TOKENS, build.constant(_FAR)])
    if build.opset < 18:
        return build.node("ReduceMax", [value], axes=[1], keepdims=0)
    return build.node("ReduceMax", [value, build.constant([1], "int64")], keepdims=0)


def _weighted(build: _Builder, weights: str) -> tuple[str, str]:
    """The weighted sum of the outputs (batch, width), and the weights' own (batch, 1), never zero."""
    total = build.sum(build.node("Mul", [TOKENS, build.column(weights)]), 1, keep=False)
    count = build.node("Max", [build.sum(weights, 1, keep=True), build.constant(_LEAST)])
    return total, count


def _mean(build: _Builder, mask: str) -> str:
    return build.node("Div", _weighted(build, mask))


def _mean_by_root(build: _Builder, mask: str) -> str:
    total, count = _weighted(build, mask)
    return build.node("Div", [total, build.node("Sqrt", [count])])


def _mean_by_position(build: _Builder, mask: str) -> str:
    places = build.node("CumSum", [mask, build.constant(1, "int64")])
    return build.node("Div", _weighted(build, build.node("Mul", [places, mask])))


def _linear(build: _Builder, value: str, weight: np.ndarray[Any, Any]) -> str:
    """The product with torch's weight, (outputs, inputs)."""
    return build.node("MatMul", [value, build.constant(weight.T.copy())])


def _dense(build: _Builder, value: str, layer: Mapping[str, Any], weights: Weights) -> str:
    made = _linear(build, value, weights["linear.weight"])
    if layer["bias"]:
        made = build.node("Add", [made, build.constant(weights["linear.bias"])])
    if layer["operator"] == "Gelu":  # an operator of its own from opset 20 on
        error = build.node("Erf", [build.node("Mul", [made, build.constant(0.5**0.5)])])
        half = build.node("Mul", [made, build.constant(0.5)])
        made = build.node("Mul", [half, build.node("Add", [error, build.constant(1.0)])])
    elif layer["operator"]:
        made = build.node(layer["operator"], [made])
    if not layer["residual"]:
        return made
    beside = _linear(build, value, weights["residual.weight"]) if "residual.weight" in weights else value
    return build.node("Add", [made, beside])


def _normalize(build: _Builder, value: str, _layer: Mapping[str, Any], _weights: Weights) -> str:
    squares = build.sum(build.node("Mul", [value, value]), -1, keep=True)
    length = build.node("Max", [build.node("Sqrt", [squares]), build.constant(_LEAST_LENGTH)])
    return build.node("Div", [value, length])


def _layer_norm(build: _Builder, value: str, layer: Mapping[str, Any], weights: Weights) -> str:
    share = build.constant(1 / layer["outputs"])
    mean = build.node("Mul", [build.sum(value, -1, keep=True), share])
    off = build.node("Sub", [value, mean])
    variance = build.node("Mul", [build.sum(build.node("Mul", [off, off]), -1, keep=True), share])
    spread = build.node("Sqrt", [build.node("Add", [variance, build.constant(_EPSILON)])])
    scaled = build.node("Mul", [build.node("Div", [off, spread]), build.constant(weights["norm.weight"])])
    return build.node("Add", [scaled, build.constant(weights["norm.bias"])])


_POOLINGS: dict[str, Callable[[_Builder, str], str]] = {
    "cls": _first,
    "max": _most,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_position,
    "lasttoken": _last,
}
_LAYERS: dict[str, Callable[[_Builder, str, Mapping[str, Any], Weights], str]] = {
    "dense": _dense,
    "normalize": _normalize,
    "layer_norm": _layer_norm,
}
