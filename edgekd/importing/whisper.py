"""A Whisper model of CTranslate2 (faster-whisper) as a Hugging Face folder: a weight has its place, or is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError
from edgekd.data import limits
from edgekd.importing import _whisper_tokenizer, ct2
from edgekd.importing._whisper_tokenizer import WhisperTokenizer, read_object, write_json

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]

SPEC = "WhisperSpec"
_GELU = {1: "gelu_pytorch_tanh", 3: "gelu"}  # CTranslate2's ActivationType, and transformers' names
_ENGLISH = 51_864  # tokens of a model of English alone
_MOST_LAYERS = 100
_KERNEL = 3  # steps of a convolution, which no config names
_HELPERS = {  # numbers beside the weights, and what they must be
    "pre_norm": 1,
    "scale_embeddings": 0,
    "start_from_zero_embedding": 0,
    "alibi": 0,
}
_IGNORED = ("num_heads", "activation", "alignment_heads", "alignment_layer", *_HELPERS)
_SAMPLE_RATE, _HOP, _FFT, _SECONDS = 16_000, 160, 400, 30


@dataclass(frozen=True)
class Side:
    """The sizes of the encoder or the decoder."""

    layers: int
    heads: int
    feed_forward: int
    positions: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Whisper model."""

    width: int
    mels: int
    kernel: int
    vocabulary: int
    encoder: Side
    decoder: Side

    @property
    def multilingual(self) -> bool:
        """Whether it knows more than English."""
        return self.vocabulary > _ENGLISH


@dataclass(frozen=True)
class Imported:
    """What was written."""

    model_type: str
    parameters: int
    encoder_layers: int
    decoder_layers: int
    languages: int


def write(model: ct2.Ct2Model, beside: Path, out: Path) -> Imported:
    """Write the model as a Hugging Face Whisper folder into `out`; `beside` has its tokenizer.json and config.json.

    Raises TeacherError for another kind of model, for weights that are missing, unknown or of a shape that does not
    fit the others, and for a tokenizer that is another model's.
    """
    from safetensors.numpy import save_file

    if model.spec != SPEC:
        raise TeacherError(
            f"{model.path} holds a {limits.shown(model.spec)}; edgekd imports Whisper models ({SPEC})",
            fix="give the model.bin of a Whisper model",
        )
    weights = _weights(model)
    sizes = _sizes(model, weights)
    tokenizer = _whisper_tokenizer.read(beside / "tokenizer.json", sizes.vocabulary)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors keeps it from others
    halves = {str(array.dtype) for array in weights.values()} == {"float16"}
    kind = {"torch_dtype": "float16" if halves else "float32", "activation_function": _activation(model)}
    _write_config(sizes, {**kind, **tokenizer.special}, out)
    _write_generation(sizes, beside, tokenizer, out)
    _write_preprocessor(sizes, out)
    _whisper_tokenizer.write(tokenizer, sizes.vocabulary, out)
    return Imported(
        model_type="whisper",
        parameters=sum(array.size for array in weights.values()),
        encoder_layers=sizes.encoder.layers,
        decoder_layers=sizes.decoder.layers,
        languages=len(tokenizer.languages) if sizes.multilingual else 1,
    )


# ---- weights


def _weights(model: ct2.Ct2Model) -> Arrays:
    """Every weight under Hugging Face's name. Raises TeacherError for one that is missing, unknown or does not fit."""
    import numpy as np

    made: Arrays = {}
    used: set[str] = set()

    def take(name: str) -> np.ndarray[Any, Any]:
        if name not in model.variables and name not in model.aliases:
            raise ct2.damaged(model.path, f"the weight {name} is missing")
        used.update((name, f"{name}_scale"))
        values = model.array(name)
        if not np.isfinite(values).all():
            raise ct2.damaged(model.path, f"{name} holds NaN or infinity")
        return np.ascontiguousarray(values)

    for theirs, ours, parts in _places(model):
        values = take(theirs)
        if len(values) % len(parts):
            raise ct2.damaged(model.path, f"{theirs} has {len(values)} rows, not {len(parts)} equal parts")
        for part, name in zip(np.split(values, len(parts)), parts, strict=True):
            if name == "k_proj" and ours.endswith("bias"):  # Hugging Face's Whisper has none there
                if part.any():
                    raise ct2.damaged(model.path, f"{theirs} holds a bias of the keys, which Whisper has not")
                continue
            made[ours.format(name)] = np.ascontiguousarray(part)
    for side in ("encoder", "decoder"):
        used |= {f"{side}/{name}" for name in _IGNORED}
    if unknown := [name for name in sorted(model.variables.keys() - used) if not _is_off(model, name)]:
        raise ct2.damaged(model.path, f"it holds {limits.shown(unknown[0])}, which is no part of Whisper")
    # CTranslate2 stores equal weights once: any weight may be an alias, the projection is always the embeddings'
    tied = model.aliases.get("decoder/projection/weight")
    if set(model.aliases) - {"decoder/projection/weight"} - used or tied not in (None, "decoder/embeddings/weight"):
        raise ct2.damaged(model.path, "its aliases are not those of Whisper")
    return made


def _is_off(model: ct2.Ct2Model, name: str) -> bool:
    """Whether a variable is a switch that is off, or no part of the result: releases of CTranslate2 add some to all."""
    variable = model.variables[name]
    if variable.shape != () or variable.dtype != "int8":
        return False
    return name.endswith("/keep_in_float32") or model.number(name) == 0


def _places(model: ct2.Ct2Model) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each weight of the file: its name, Hugging Face's with a place for a part's, and the parts that lie stacked."""
    yield from _both("encoder/conv1", "model.encoder.conv1")
    yield from _both("encoder/conv2", "model.encoder.conv2")
    yield "decoder/embeddings/weight", "model.decoder.embed_tokens.weight", ("",)
    if "decoder/projection/weight" in model.variables:  # not tied in this file: its values are held against the others
        raise ct2.damaged(model.path, "its projection is not tied to the embeddings")
    for side in ("encoder", "decoder"):
        yield f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight", ("",)
        yield from _norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for number in range(_layers(model, side)):
            yield from _layer(f"{side}/layer_{number}", f"model.{side}.layers.{number}", crossed=side == "decoder")


def _layer(theirs: str, ours: str, *, crossed: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield from _norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
    yield from _both(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn.{{}}", ("q_proj", "k_proj", "v_proj"))
    yield from _both(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
    if crossed:
        yield from _norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
        yield from _both(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
        yield from _both(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn.{{}}", ("k_proj", "v_proj"))
        yield from _both(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
    yield from _norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    yield from _both(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
    yield from _both(f"{theirs}/ffn/linear_1", f"{ours}.fc2")


def _both(theirs: str, ours: str, parts: tuple[str, ...] = ("",)) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield f"{theirs}/weight", f"{ours}.weight", parts
    yield f"{theirs}/bias", f"{ours}.bias", parts


def _norm(theirs: str, ours: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield f"{theirs}/gamma", f"{ours}.weight", ("",)
    yield f"{theirs}/beta", f"{ours}.bias", ("",)


def _layers(model: ct2.Ct2Model, side: str) -> int:
    """How many layers a side has: numbered from 0 without a gap, which the missing weights of a gap show."""
    numbers = {
        int(found[1])
        for name in model.variables
        if (found := re.match(rf"{side}/layer_(\d{{1,4}})/", name)) is not None
    }
    if not 0 < len(numbers) <= _MOST_LAYERS:
        raise ct2.damaged(model.path, f"it has {len(numbers)} layers in its {side}")
    return len(numbers)


# ---- what stands beside them


def _sizes(model: ct2.Ct2Model, weights: Mapping[str, np.ndarray[Any, Any]]) -> Sizes:
    """Sizes from the weights' shapes. Raises TeacherError where they contradict each other, or Whisper's own form."""
    for side in ("encoder", "decoder"):
        for name, wanted in _HELPERS.items():
            if f"{side}/{name}" in model.variables and model.number(f"{side}/{name}") != wanted:
                raise ct2.damaged(model.path, f"its {side}/{name} is not {wanted}, as Whisper's is")
    width, mels, kernel = _shape(model, weights, "model.encoder.conv1.weight", 3)
    if kernel != _KERNEL:
        raise ct2.damaged(model.path, f"its first convolution spans {kernel} steps; Whisper's span {_KERNEL}")
    vocabulary, _ = _shape(model, weights, "model.decoder.embed_tokens.weight", 2)
    encoder, decoder = (_side(model, weights, side, width) for side in ("encoder", "decoder"))
    sizes = Sizes(width, mels, kernel, vocabulary, encoder, decoder)
    shapes = expected_shapes(sizes)
    for name, array in weights.items():
        if list(array.shape) != shapes[name]:
            raise ct2.damaged(model.path, f"{name} is {list(array.shape)}; its other weights ask for {shapes[name]}")
    return sizes


def _side(model: ct2.Ct2Model, weights: Mapping[str, np.ndarray[Any, Any]], side: str, width: int) -> Side:
    heads = model.number(f"{side}/num_heads")
    if heads < 1 or width % heads:
        raise ct2.damaged(model.path, f"its {side} has {heads} heads for a width of {width}")
    feed_forward, _ = _shape(model, weights, f"model.{side}.layers.0.fc1.weight", 2)
    positions, _ = _shape(model, weights, f"model.{side}.embed_positions.weight", 2)
    return Side(_layers(model, side), heads, feed_forward, positions)


def _activation(model: ct2.Ct2Model) -> str:
    numbers = {
        model.number(f"{side}/activation") for side in ("encoder", "decoder") if f"{side}/activation" in model.variables
    }
    if len(numbers) > 1 or not numbers <= _GELU.keys():
        raise ct2.damaged(model.path, "its activation is not GELU")
    return _GELU[numbers.pop()] if numbers else "gelu"


def expected_shapes(sizes: Sizes) -> dict[str, list[int]]:
    """Return every weight's shape, under Hugging Face's name, by the model's sizes."""
    width = sizes.width
    shapes = {
        "model.encoder.conv1.weight": [width, sizes.mels, sizes.kernel],
        "model.encoder.conv1.bias": [width],
        "model.encoder.conv2.weight": [width, width, sizes.kernel],
        "model.encoder.conv2.bias": [width],
        "model.decoder.embed_tokens.weight": [sizes.vocabulary, width],
    }
    for side, found, attentions in (
        ("encoder", sizes.encoder, ("self_attn",)),
        ("decoder", sizes.decoder, ("self_attn", "encoder_attn")),
    ):
        shapes[f"model.{side}.embed_positions.weight"] = [found.positions, width]
        norms = [f"model.{side}.layer_norm"]
        for layer in (f"model.{side}.layers.{number}" for number in range(found.layers)):
            norms += [f"{layer}.{name}_layer_norm" for name in (*attentions, "final")]
            for attention in attentions:
                shapes |= _attention_shapes(f"{layer}.{attention}", width)
            shapes |= {f"{layer}.fc1.weight": [found.feed_forward, width], f"{layer}.fc1.bias": [found.feed_forward]}
            shapes |= {f"{layer}.fc2.weight": [width, found.feed_forward], f"{layer}.fc2.bias": [width]}
        shapes |= {f"{norm}.{part}": [width] for norm in norms for part in ("weight", "bias")}
    return shapes


def _attention_shapes(name: str, width: int) -> dict[str, list[int]]:
    weights = {f"{name}.{one}_proj.weight": [width, width] for one in ("q", "k", "v", "out")}
    return weights | {f"{name}.{one}_proj.bias": [width] for one in ("q", "v", "out")}


def _shape(model: ct2.Ct2Model, weights: Mapping[str, np.ndarray[Any, Any]], name: str, rank: int) -> tuple[int, ...]:
    shape: tuple[int, ...] = weights[name].shape
    if len(shape) != rank or 0 in shape:
        raise ct2.damaged(model.path, f"{name} has the shape {list(shape)}")
    return shape


def _write_config(sizes: Sizes, more: Mapping[str, object], out: Path) -> None:
    config: dict[str, object] = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "d_model": sizes.width,
        "num_mel_bins": sizes.mels,
        "vocab_size": sizes.vocabulary,
        "max_source_positions": sizes.encoder.positions,
        "max_target_positions": sizes.decoder.positions,
        **more,
    }
    for side, found in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        config[f"{side}_layers"] = found.layers
        config[f"{side}_attention_heads"] = found.heads
        config[f"{side}_ffn_dim"] = found.feed_forward
    write_json(out / "config.json", config)


def _write_generation(sizes: Sizes, beside: Path, tokenizer: WhisperTokenizer, out: Path) -> None:
    """How to generate, with the ids of the tokenizer: those in CTranslate2's config.json may be another model's."""
    file = beside / "config.json"
    told = read_object(file) if file.exists() else {}
    ids = tokenizer.ids
    made: dict[str, object] = {
        **tokenizer.special,
        "max_length": sizes.decoder.positions,
        "is_multilingual": sizes.multilingual,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "return_timestamps": False,
        "suppress_tokens": _tokens(told.get("suppress_ids"), sizes.vocabulary),
        "begin_suppress_tokens": _tokens(told.get("suppress_ids_begin"), sizes.vocabulary),
    }
    if sizes.multilingual:
        made["lang_to_id"] = tokenizer.languages
        made["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    if heads := _heads(told.get("alignment_heads"), sizes.decoder):
        made["alignment_heads"] = heads
    write_json(out / "generation_config.json", made)


def _tokens(values: object, vocabulary: int) -> list[int]:
    """Ids of tokens; those of no token are left out, -1 and the like among them."""
    listed = values if isinstance(values, list) else []
    return [value for value in listed if type(value) is int and 0 <= value < vocabulary]


def _heads(values: object, decoder: Side) -> list[list[int]]:
    """Pairs of layer and head that the decoder has; none where one is no such pair."""
    pairs = values if isinstance(values, list) else []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(one) is not int for one in pair):
            return []
        if not (0 <= pair[0] < decoder.layers and 0 <= pair[1] < decoder.heads):
            return []
    return pairs


def _write_preprocessor(sizes: Sizes, out: Path) -> None:
    settings = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": sizes.mels,
        "sampling_rate": _SAMPLE_RATE,
        "hop_length": _HOP,
        "n_fft": _FFT,
        "chunk_length": _SECONDS,
        "n_samples": _SAMPLE_RATE * _SECONDS,
        "nb_max_frames": _SAMPLE_RATE * _SECONDS // _HOP,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    write_json(out / "preprocessor_config.json", settings)
