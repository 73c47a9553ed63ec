"""Decoder language models on paper: their parameters and memory, exactly, from a config.json alone.

What is not modelled is refused: a figure for another kind of attention would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError, listed
from edgekd.data import limits

GIB = 1 << 30
CACHE_BYTES = 2  # of a key's or value's number, as 16 bits hold it
# bits a weight takes in a file: 4 and 8 bits in blocks of 32, a scale of 16 bits each, of 4 bits a zero point, too
FILE_BITS = {16: 16.0, 8: 8 + 16 / 32, 4: 4 + (16 + 4) / 32}
_MOST = 1 << 31  # of any size in a config
# what is like Llama but for biases and norms: (query, key and value have a bias, norms of queries and keys, tied)
_TYPES = {
    "llama": (None, False, False),
    "mistral": (False, False, False),
    "granite": (None, False, False),
    "gemma": (None, False, True),
    "qwen2": (True, False, False),
    "qwen3": (None, True, False),
}
_OTHER_ATTENTION = {  # what a config says of attention that keeps or reads another cache
    "kv_lora_rank": "latent attention (MLA)",
    "q_lora_rank": "latent attention (MLA)",
    "attention_chunk_size": "attention in chunks",
    "state_size": "a state space",
    "ssm_cfg": "a state space",
    "mamba_d_state": "a state space",
    "linear_num_key_heads": "linear attention",
    "num_local_experts": "experts, of which a token uses some",
    "num_experts": "experts, of which a token uses some",
    "n_routed_experts": "experts, of which a token uses some",
}


@dataclass(frozen=True)
class Language:
    """The shape of a decoder: all its layers attend to the whole context, in groups of heads that share keys."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    key_heads: int  # that keep keys and values: grouped-query attention
    head_size: int
    feed_forward: int
    vocabulary: int
    tied: bool  # one table is embedding and head
    context: int
    attention_biases: int = 0  # numbers in the biases of one layer's attention
    other_biases: int = 0  # of one layer's feed-forward
    head_norms: int = 0  # numbers in the norms of a layer's queries and keys

    @property
    def layer_parameters(self) -> int:
        """Of one layer: attention, the gated feed-forward, two norms."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        attention = 2 * self.hidden * queries + 2 * self.hidden * keys + self.attention_biases + self.head_norms
        return attention + 3 * self.hidden * self.feed_forward + self.other_biases + 2 * self.hidden

    @property
    def table(self) -> int:
        """Numbers in the embedding table."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, a tied table once."""
        return (1 if self.tied else 2) * self.table + self.layers * self.layer_parameters + self.hidden

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied by: all but an embedding that is only looked up."""
        return self.parameters - (0 if self.tied else self.table)

    def weights_bytes(self, bits: int) -> float:
        """Bytes of all weights in a file of 16, 8 or 4 bits, tables included."""
        return self.parameters * FILE_BITS[bits] / 8

    def cache_bytes(self, context: int) -> int:
        """Bytes of the keys and values of so many tokens, of 16 bits each."""
        return 2 * self.layers * self.key_heads * self.head_size * CACHE_BYTES * context

    def cut(self, layers: int) -> Language:
        """Return the same with fewer layers."""
        return replace(self, layers=layers)

    def __str__(self) -> str:
        groups = f" in groups of {self.heads // self.key_heads}" if self.key_heads < self.heads else ""
        return (
            f"{self.model_type}, {self.layers} layers x {self.hidden}, {self.heads} heads{groups}, "
            f"ff {self.feed_forward}, {self.vocabulary} tokens{', tied' if self.tied else ''}"
        )


def is_config(source: str | None) -> bool:
    """Return whether a teacher is named by its config alone: a file that ends in .json."""
    return source is not None and Path(source).suffix.lower() == ".json"


def read_config(path: Path) -> Language:
    """Return the shape that a config.json says. Raises TeacherError for what cannot be read, or is not modelled."""
    try:
        if not path.exists():
            raise FileNotFoundError("there is no such file")
        config = limits.read_object(path)
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"cannot read {path}: {error}", fix="give the config.json of a Hugging Face model"
        ) from error
    return of_config(config, str(path))


def of_config(config: Mapping[str, Any], where: str) -> Language:
    """Return the shape of a config's values. Raises TeacherError for what is not modelled, or contradicts itself."""
    kind = config.get("model_type")
    _check_attention(config, where)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise TeacherError(
            f"{where}: the model type {limits.shown(kind)} is not known on paper; {listed(sorted(_TYPES))} are",
            fix="give the config of a model of one of these types",
        )
    if config.get("quantization_config"):
        raise TeacherError(
            f"{where} is of quantized weights: what they decode to is not modelled, and build takes none",
            fix="give the config of the model in 16 or 32 bits",
        )
    biased, normed, tied = _TYPES[kind]
    sizes = _Sizes(config, where)
    hidden, heads = sizes.whole("hidden_size"), sizes.whole("num_attention_heads")
    key_heads = sizes.whole("num_key_value_heads", heads)
    head_size = sizes.whole("head_dim", max(1, hidden // heads))
    if heads % key_heads or (config.get("head_dim") is None and hidden % heads):
        what = f"{heads} heads share {key_heads} key heads" if heads % key_heads else f"{heads} heads of {hidden}"
        raise TeacherError(f"{where} contradicts itself: {what}", fix="fetch the config again from the model's source")
    feed_forward = sizes.whole("intermediate_size")
    with_bias = sizes.flag("attention_bias", default=False) if biased is None else biased
    biases = (heads + 2 * key_heads) * head_size + (0 if kind == "qwen2" else hidden)
    return Language(
        model_type=kind,
        layers=sizes.whole("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        key_heads=key_heads,
        head_size=head_size,
        feed_forward=feed_forward,
        vocabulary=sizes.whole("vocab_size"),
        tied=sizes.flag("tie_word_embeddings", default=tied),
        context=sizes.whole("max_position_embeddings"),
        attention_biases=biases if with_bias else 0,
        other_biases=2 * feed_forward + hidden if sizes.flag("mlp_bias", default=False) else 0,
        head_norms=2 * head_size if normed else 0,
    )


def _check_attention(config: Mapping[str, Any], where: str) -> None:
    """Raise TeacherError for attention that is not over the whole context, or not attention at all."""
    windowed = config.get("sliding_window") is not None and config.get("use_sliding_window", True)
    layers = config.get("layer_types")
    kinds = {str(one) for one in layers} - {"full_attention"} if isinstance(layers, list) else set()
    found = next((words for key, words in _OTHER_ATTENTION.items() if config.get(key)), None)
    if windowed:
        found = f"a sliding window of {limits.shown(config['sliding_window'])} tokens"
    if kinds:
        found = f"layers of the kind {listed(sorted(kinds))}"
    if found:
        raise TeacherError(
            f"{where} says that the model has {found}, which is not modelled on paper: its cache and speed would be "
            "a guess",
            fix=f"give the config of a model that attends to its whole context: {listed(sorted(_TYPES))}",
        )


@dataclass(frozen=True)
class _Sizes:
    config: Mapping[str, Any]
    where: str

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false of the config; the default where it says none. Raises TeacherError."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise TeacherError(
                f"{self.where}: {name} is {limits.shown(value)}, neither true nor false",
                fix="fetch the config again from the model's source",
            )
        return default if value is None else value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a positive whole number of the config; the default where it says none. Raises TeacherError."""
        value = self.config.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
            raise TeacherError(
                f"{self.where}: {name} is {limits.shown(value)}, not a positive whole number",
                fix="fetch the config again from the model's source",
            )
        return value
