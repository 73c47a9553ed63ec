"""Whisper's two graphs, written node by node: the files of optimum's layout, with every weight once.

The merged decoder of optimum holds its layers twice, once for the first tokens and once for those that follow: ONNX
Runtime packs each weight for both. Here one body serves both. Only the core of the cross-attention stands in an If:
its keys and values are made of the encoder's states at first, and taken from the cache after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

OPSET, IR_VERSION = 17, 8  # LayerNormalization: the lowest that has it
_EPSILON = 1e-5
_MASKED = -1e4  # added to the scores of later positions


@dataclass(frozen=True)
class Shape:
    """Sizes of a Whisper model. `positions` are the encoder's: two frames of the spectrogram each."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    decoder_heads: int
    mels: int
    positions: int
    vocabulary: int

    @property
    def head(self) -> int:
        """The width of one of the decoder's heads."""
        return self.width // self.decoder_heads


class _Part:
    """Nodes and weights of one graph as they are written; a node's output is called as the node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}

    def op(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node of one output, and return the output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str, values: Any) -> str:
        """Keep a weight or a constant under a name, once."""
        import numpy as np

        array = np.asarray(values)
        self.weights[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def ints(self, *values: int) -> str:
        """Return the name of a constant of whole numbers."""
        import numpy as np

        return self.weight("ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def float(self, value: float) -> str:
        """Return the name of a constant number."""
        import numpy as np

        return self.weight(f"float_{value:g}".replace("-", "m").replace(".", "p"), np.array(value, np.float32))

    def linear(self, source: str, name: str, matrix: Array, bias: Array | None = None) -> str:
        """Multiply by a torch weight (out, in), and add its bias."""
        import numpy as np

        product = self.op("MatMul", [source, self.weight(f"{name}.weight", np.ascontiguousarray(matrix.T))], name)
        if bias is None:
            return product
        return self.op("Add", [product, self.weight(f"{name}.bias", bias)], f"{name}/bias")

    def norm(self, source: str, name: str, weight: Array, bias: Array) -> str:
        """Normalise each position."""
        inputs = [source, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
        return self.op("LayerNormalization", inputs, name, axis=-1, epsilon=_EPSILON)

    def gelu(self, source: str, name: str) -> str:
        """Return the exact GELU, in the form that ONNX Runtime fuses."""
        scaled = self.op("Div", [source, self.float(1.4142135381698608)], f"{name}/scaled")
        erf = self.op("Erf", [scaled], f"{name}/erf")
        above = self.op("Add", [erf, self.float(1.0)], f"{name}/above")
        return self.op("Mul", [self.op("Mul", [source, above], f"{name}/product"), self.float(0.5)], name)

    def heads(self, source: str, name: str, heads: int, *, turned: bool = False) -> str:
        """Split (batch, positions, width) into (batch, heads, positions, size); `turned`: (..., size, positions)."""
        apart = self.op("Reshape", [source, self.ints(0, 0, heads, -1)], f"{name}/apart")
        return self.op("Transpose", [apart], f"{name}/heads", perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3])

    def together(self, source: str, name: str, width: int) -> str:
        """Join heads to (batch, positions, width) again."""
        turned = self.op("Transpose", [source], f"{name}/turned", perm=[0, 2, 1, 3])
        return self.op("Reshape", [turned, self.ints(0, 0, width)], f"{name}/joined")


def encoder(weights: Mapping[str, Array], shape: Shape) -> Any:
    """Return the graph from `input_features` (batch, mels, frames) to `last_hidden_state` (batch, positions, width)."""
    from onnx import TensorProto, helper

    part, states = _Part(), "input_features"
    states = part.op("Transpose", [states], "frames", perm=[0, 2, 1])
    frames = 2 * shape.positions
    for number, step in ((1, 1), (2, 2)):
        states = _convolution(part, states, f"conv{number}", weights, frames, step)
    table = weights["model.encoder.embed_positions.weight"]
    states = part.op("Add", [states, part.weight("embed_positions.weight", table)], "embedded")
    for layer in range(shape.encoder_layers):
        own = f"model.encoder.layers.{layer}"
        normed = _norm(part, states, weights, f"{own}.self_attn_layer_norm")
        query, key, value = (_linear(part, normed, weights, f"{own}.self_attn.{kind}_proj") for kind in ("q", "k", "v"))
        name = f"layers.{layer}.self_attn"
        part.nodes.append(
            helper.make_node(
                "MultiHeadAttention",
                [query, key, value],
                [f"{name}/mixed"],
                name=f"{name}/mixed",
                domain="com.microsoft",
                num_heads=shape.heads,
            )
        )
        states = _residual(part, states, _linear(part, f"{name}/mixed", weights, f"{own}.self_attn.out_proj"))
        states = _feed_forward(part, states, weights, own)
    _norm(part, states, weights, "model.encoder.layer_norm", out="last_hidden_state")
    features = helper.make_tensor_value_info("input_features", TensorProto.FLOAT, ["batch_size", shape.mels, frames])
    result = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch_size", shape.positions, shape.width]
    )
    return _model(part, "encoder_model", [features], [result], microsoft=True)


def decoder(weights: Mapping[str, Array], shape: Shape) -> Any:
    """Return the graph from `input_ids` (batch, tokens) and the cache to `logits` (batch, tokens, vocabulary).

    `use_cache_branch` false: the cache is not read, and the cross-attention's keys and values are made of
    `encoder_hidden_states` and returned. True: they are taken from the cache, and returned empty.
    """
    part = _Part()
    table = weights["model.decoder.embed_tokens.weight"]
    part.weight("embed_tokens.weight", table)
    tokens = part.op("Gather", ["embed_tokens.weight", "input_ids"], "embed_tokens")
    _cache(part, shape)
    first, mask = _positions(part)
    positions = part.weight("embed_positions.weight", weights["model.decoder.embed_positions.weight"])
    states = part.op("Add", [tokens, part.op("Gather", [positions, first], "embed_positions")], "embedded")
    for layer in range(shape.decoder_layers):
        own = f"model.decoder.layers.{layer}"
        states = _self_attention(part, states, weights, shape, layer, mask)
        normed = _norm(part, states, weights, f"{own}.encoder_attn_layer_norm")
        crossed = _cross_attention(part, normed, weights, shape, layer)
        states = _residual(part, states, _linear(part, crossed, weights, f"{own}.encoder_attn.out_proj"))
        states = _feed_forward(part, states, weights, own)
    states = _norm(part, states, weights, "model.decoder.layer_norm")
    flat = part.op("Reshape", [states, part.ints(-1, shape.width)], "proj_out/rows")
    part.op("Gemm", [flat, "embed_tokens.weight"], "proj_out", transB=1)  # one table for both, and no Transpose of it
    size = part.op("Concat", [part.op("Shape", ["input_ids"], "shape"), part.ints(shape.vocabulary)], "size", axis=0)
    part.op("Reshape", ["proj_out", size], "logits")
    return _model(part, "decoder_model_merged", *_decoder_ends(shape))


def _self_attention(part: _Part, states: str, weights: Mapping[str, Array], shape: Shape, layer: int, mask: str) -> str:
    own, name = f"model.decoder.layers.{layer}", f"layers.{layer}.self_attn"
    normed = _norm(part, states, weights, f"{own}.self_attn_layer_norm")
    query = part.heads(
        _scaled_query(part, normed, weights, f"{own}.self_attn", shape), f"{name}/q", shape.decoder_heads
    )
    present = {}
    for kind in ("key", "value"):
        made = _linear(part, normed, weights, f"{own}.self_attn.{kind[0]}_proj")
        apart = part.heads(made, f"{name}/{kind}", shape.decoder_heads)
        present[kind] = part.op("Concat", [f"cached.{layer}.{kind}", apart], f"present.{layer}.decoder.{kind}", axis=2)
    turned = part.op("Transpose", [present["key"]], f"{name}/keys", perm=[0, 1, 3, 2])
    scores = part.op("Add", [part.op("MatMul", [query, turned], f"{name}/scores"), mask], f"{name}/masked")
    shares = part.op("Softmax", [scores], f"{name}/shares", axis=-1)
    mixed = part.together(part.op("MatMul", [shares, present["value"]], f"{name}/mixed"), name, shape.width)
    return _residual(part, states, _linear(part, mixed, weights, f"{own}.self_attn.out_proj"))


def _cross_attention(part: _Part, normed: str, weights: Mapping[str, Array], shape: Shape, layer: int) -> str:
    """The attention to the encoder's states: an If, since what is cached is not made again."""
    from onnx import helper

    own, name = f"model.decoder.layers.{layer}.encoder_attn", f"layers.{layer}.encoder_attn"
    query = part.heads(_scaled_query(part, normed, weights, own, shape), f"{name}/q", shape.decoder_heads)
    cached, made = _Part(), _Part()
    _attend(
        cached,
        query,
        f"past_key_values.{layer}.encoder.key",
        f"past_key_values.{layer}.encoder.value",
        f"{name}/cached",
    )
    for kind in ("key", "value"):
        cached.op("ConstantOfShape", [part.ints(0, shape.decoder_heads, 1, shape.head)], f"{name}/cached/no_{kind}")
    # a name of the branch's own: recipes would quantize the states outside of it, again for each token
    states = made.op("Identity", ["encoder_hidden_states"], f"{name}/states")
    keys, values = (
        made.heads(_linear(made, states, weights, f"{own}.{kind}_proj"), f"{name}/made/{kind}", shape.decoder_heads)
        for kind in ("k", "v")
    )
    _attend(made, query, keys, values, f"{name}/made")
    part.weights |= made.weights | cached.weights  # of the whole graph: recipes look for them there
    branches = {
        "then_branch": (cached, [f"{name}/cached", f"{name}/cached/no_key", f"{name}/cached/no_value"]),
        "else_branch": (made, [f"{name}/made", keys, values]),
    }
    outputs = [f"{name}/mixed", *(f"present.{layer}.encoder.{kind}" for kind in ("key", "value"))]
    graphs = {
        branch: helper.make_graph(
            inner.nodes, f"{name}/{branch}", [], [helper.make_empty_tensor_value_info(one) for one in results]
        )
        for branch, (inner, results) in branches.items()
    }
    part.nodes.append(helper.make_node("If", ["use_cache_branch"], outputs, name=f"{name}/if", **graphs))
    return part.together(outputs[0], name, shape.width)


def _attend(part: _Part, query: str, keys: str, values: str, name: str) -> None:
    turned = part.op("Transpose", [keys], f"{name}/keys", perm=[0, 1, 3, 2])
    shares = part.op("Softmax", [part.op("MatMul", [query, turned], f"{name}/scores")], f"{name}/shares", axis=-1)
    part.op("MatMul", [shares, values], name)


def _cache(part: _Part, shape: Shape) -> None:
    """The past keys and values of each layer as they count: those that are fed at first have no tokens."""
    from onnx import TensorProto, helper

    names = [f"{layer}.{kind}" for layer in range(shape.decoder_layers) for kind in ("key", "value")]
    past, empty = _Part(), _Part()
    for name in names:
        layer, kind = name.split(".")
        past.op("Identity", [f"past_key_values.{layer}.decoder.{kind}"], f"past/{name}")
    batch = part.op("Shape", ["input_ids"], "batch", start=0, end=1)
    size = part.op("Concat", [batch, part.ints(shape.decoder_heads, 0, shape.head)], "no_cache", axis=0)
    for name in names:
        empty.op("ConstantOfShape", [size], f"empty/{name}")
    kinds = [
        helper.make_graph(
            inner.nodes,
            of,
            [],
            [helper.make_tensor_value_info(f"{of}/{name}", TensorProto.FLOAT, None) for name in names],
        )
        for of, inner in (("past", past), ("empty", empty))
    ]
    part.nodes.append(
        helper.make_node(
            "If",
            ["use_cache_branch"],
            [f"cached.{name}" for name in names],
            name="cache",
            then_branch=kinds[0],
            else_branch=kinds[1],
        )
    )


def _positions(part: _Part) -> tuple[str, str]:
    """The positions of the tokens (tokens,), and what is added to their scores: (tokens, tokens with the past)."""
    past = part.op("Shape", ["cached.0.key"], "past_tokens", start=2, end=3)
    count = part.op("Shape", ["input_ids"], "tokens", start=1, end=2)
    whole = part.op("Add", [past, count], "all_tokens")
    scalar = {
        name: part.op("Squeeze", [source], f"{name}/scalar") for name, source in (("past", past), ("whole", whole))
    }
    zero, one = part.weight("zero", _int(0)), part.weight("one", _int(1))
    own = part.op("Range", [scalar["past"], scalar["whole"], one], "positions")
    every = part.op("Range", [zero, scalar["whole"], one], "all_positions")
    later = part.op("Less", [part.op("Unsqueeze", [own, part.ints(-1)], "own_positions"), every], "later")
    return own, part.op("Where", [later, part.float(_MASKED), part.float(0.0)], "mask")


def _decoder_ends(shape: Shape) -> tuple[list[Any], list[Any]]:
    """The graph's inputs and outputs, as optimum names them."""
    from onnx import TensorProto, helper

    def cache(name: str, layer: int, side: str, kind: str, length: str) -> Any:
        axes = ["batch_size", shape.decoder_heads, length, shape.head]
        return helper.make_tensor_value_info(f"{name}.{layer}.{side}.{kind}", TensorProto.FLOAT, axes)

    every = [
        (layer, side, kind)
        for layer in range(shape.decoder_layers)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "decoder_sequence_length"]),
        helper.make_tensor_value_info(
            "encoder_hidden_states", TensorProto.FLOAT, ["batch_size", "encoder_sequence_length", shape.width]
        ),
        *(cache("past_key_values", *one, f"past_{one[1]}_sequence_length") for one in every),
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
    ]
    logits = ["batch_size", "decoder_sequence_length", shape.vocabulary]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits),
        *(cache("present", *one, f"present_{one[1]}_sequence_length") for one in every),
    ]
    return inputs, outputs


# ---- parts of a layer


def _convolution(part: _Part, states: str, name: str, weights: Mapping[str, Array], frames: int, step: int) -> str:
    """A convolution over three frames as a matrix product, which recipes for matrices reach; then GELU."""
    import numpy as np

    kernel = weights[f"model.encoder.{name}.weight"]  # (out, in, 3)
    padded = part.op("Pad", [states, part.ints(0, 1, 0, 0, 1, 0)], f"{name}/padded")
    moved = [
        part.op(
            "Slice",
            [padded, part.ints(at), part.ints(at + frames - step + 1), part.ints(1), part.ints(step)],
            f"{name}/moved.{at}",
        )
        for at in range(3)
    ]
    beside = part.op("Concat", moved, f"{name}/beside", axis=2)
    matrix = np.concatenate([kernel[:, :, at] for at in range(3)], axis=1)
    return part.gelu(part.linear(beside, name, matrix, weights[f"model.encoder.{name}.bias"]), f"{name}/gelu")


def _feed_forward(part: _Part, states: str, weights: Mapping[str, Array], layer: str) -> str:
    normed = _norm(part, states, weights, f"{layer}.final_layer_norm")
    wide = part.gelu(_linear(part, normed, weights, f"{layer}.fc1"), f"{_short(layer)}.gelu")
    return _residual(part, states, _linear(part, wide, weights, f"{layer}.fc2"))


def _residual(part: _Part, states: str, change: str) -> str:
    """Add what a block gives. Sum, not Add: ONNX Runtime would fuse that with the norm behind it to a slower kernel."""
    return part.op("Sum", [states, change], f"{change.removesuffix('/bias')}/residual")


def _linear(part: _Part, source: str, weights: Mapping[str, Array], name: str) -> str:
    return part.linear(source, _short(name), weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _scaled_query(part: _Part, source: str, weights: Mapping[str, Array], attention: str, shape: Shape) -> str:
    """The queries, by the root of a head's width already."""
    name, scale = f"{attention}.q_proj", shape.head**-0.5
    return part.linear(source, _short(name), weights[f"{name}.weight"] * scale, weights[f"{name}.bias"] * scale)


def _norm(part: _Part, source: str, weights: Mapping[str, Array], name: str, *, out: str = "") -> str:
    return part.norm(source, out or _short(name), weights[f"{name}.weight"], weights[f"{name}.bias"])


def _short(name: str) -> str:
    return name.removeprefix("model.").removeprefix("encoder.").removeprefix("decoder.")


def _int(value: int) -> Any:
    import numpy as np

    return np.array(value, np.int64)


def _model(part: _Part, name: str, inputs: list[Any], outputs: list[Any], *, microsoft: bool = False) -> Any:
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        part.nodes,
        name,
        inputs,
        outputs,
        [numpy_helper.from_array(values, key) for key, values in part.weights.items()],
    )
    domains = [helper.make_opsetid("", OPSET), *([helper.make_opsetid("com.microsoft", 1)] if microsoft else [])]
    return helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION)
