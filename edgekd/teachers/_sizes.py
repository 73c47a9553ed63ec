"""The sizes of a Hugging Face model, as its config.json says them: whole numbers within reason, or a refusal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.registry import make
from edgekd.data import limits, pixels
from edgekd.teachers import _checks, _types

_MOST_SIZE = 10**9
_SHORT = 8  # tokens or steps: how many weights there are does not depend on it
_LEAST_ROOM = 4096  # pixels, steps or channels, which a network of few weights may have more of than weights
_ALIASES = {
    "layers": ("num_hidden_layers", "n_layers"),
    "hidden": ("hidden_size", "dim", "emb_dim"),
    "heads": ("num_attention_heads", "n_heads"),
    "feed_forward": ("intermediate_size", "hidden_dim"),
    "vocabulary": ("vocab_size",),
    "max_tokens": ("max_position_embeddings",),
}
_TABLES = {
    "max_position_embeddings": ".position_embeddings.weight",
    "type_vocab_size": ".token_type_embeddings.weight",
    "vocab_size": "",  # held against the weights and the tokenizer by `_checks`
}
_SIZED = re.compile(r"size|dim|position|layers|heads|channels|buckets|width|depth|repeats|stride|window|num_|ratio")
_DEPTHS = ("depths", "num_block_repeats", "num_hidden_layers")
_WIDTHS = ("hidden_size", "hidden_sizes", "hidden_dim", "last_hidden_size")
# whose position embeddings or exported paddings fit one size of images
_OF_ONE_SIZE = ("beit", "data2vec-vision", "deit", "levit", "mobilenet_v1", "mobilenet_v2", "vit", "vit_msn")
_MOBILENETS = {"mobilenet_v1": (13, 1024), "mobilenet_v2": (17, 1280)}  # whose configs name neither
_MOBILENET_TAPS = {"mobilenet_v1": 25, "mobilenet_v2": 15}  # convolutions but the stem and one; blocks but one


def text_shape(config: dict[str, Any], folder: Path) -> dict[str, int]:
    """Layers, widths, heads, vocabulary, and the tokens of the longest text.

    Of types that no student is copied from, what config.json says of it.
    """
    shape = {}
    copied = config["model_type"] in _types.MODEL_TYPES
    for ours, theirs in _ALIASES.items():
        if not copied and (ours == "feed_forward" or not any(name in config for name in theirs)):
            continue  # some have none, or give it another meaning
        value = next((config[name] for name in theirs if name in config), None)
        if type(value) is not int or not 1 <= value <= _MOST_SIZE:
            raise _no_number(folder, theirs[0], value)
        shape[ours] = value
    if config["model_type"] in _checks.POSITIONS_FROM_PAD and "max_tokens" in shape:
        shape["max_tokens"] -= number(config, "pad_token_id", 1, folder) + 1
    return shape


def image_shape(config: dict[str, Any], folder: Path) -> dict[str, int]:
    """Depth and width are for the reader; the side is the processor's, which is what the model is fed."""
    layers, hidden = _MOBILENETS.get(config["model_type"], (0, 0))
    for name in _DEPTHS:
        layers = layers or sum(_numbers(config, name, layers, folder))
    for name in _WIDTHS:
        hidden = hidden or _numbers(config, name, hidden, folder)[-1]
    side = pixels.side_of(pixels.read_config(folder), folder)
    if config["model_type"] in _OF_ONE_SIZE and config.get("image_size") != side:
        raise TeacherError(
            f"the teacher {folder} takes images of {config.get('image_size')} pixels; its {pixels.CONFIG} makes {side}",
            fix=f"set the size in {pixels.CONFIG} to the model's",
        )
    sizes = {
        "layers": layers,
        "hidden": hidden,
        "max_size": side,
        "channels": number(config, "num_channels", 3, folder),
    }
    return sizes | {"taps": _taps(config, folder)}


def _taps(config: dict[str, Any], folder: Path) -> int:
    """The entries of transformers' `hidden_states`, less the first; 0 where the config does not say.

    Stages where the type has such, else layers or blocks.
    """
    model_type: str = config["model_type"]
    if model_type not in _types.IMAGE_TYPES:
        return 0
    if model_type in _MOBILENET_TAPS:
        return _MOBILENET_TAPS[model_type]
    if model_type == "efficientnet":
        factor = config.get("depth_coefficient", 0)
        if not isinstance(factor, int | float) or not 0 <= factor <= 100:
            raise _no_number(folder, "depth_coefficient", factor)
        return sum(math.ceil(factor * number) for number in _numbers(config, "num_block_repeats", 0, folder))
    if config.get("depths"):
        return len(_numbers(config, "depths", 0, folder)) - (
            model_type == "poolformer"
        )  # it leaves out what its first stage reads
    return number(config, "num_hidden_layers", 0, folder)


def check_weights(shape: Mapping[str, int], shapes: Mapping[str, list[int]], folder: Path) -> None:
    """Raises TeacherError where the weights cannot be a model's of that shape.

    transformers makes the network that config.json describes before it looks for its weights: one of a billion layers
    would never end.
    """
    sizes = {size for one in shapes.values() for size in one}
    widths = ("hidden", "feed_forward") if "feed_forward" in shape else ()  # those of images are guesses for the reader
    strange = {name: shape[name] for name in widths if shape[name] not in sizes}
    if shape.get("layers", 0) > len(shapes):
        strange["layers"] = shape["layers"]
    for name, value in strange.items():
        raise _strange(folder, name, value)


def check_tables(config: Mapping[str, Any], shapes: Mapping[str, list[int]], folder: Path) -> None:
    """Raises TeacherError where a size in config.json is larger than any that the weights have.

    Tables that the weights hold are left to `_names`, which says which weight has another shape.
    """
    most = max([_LEAST_ROOM, *(size for one in shapes.values() for size in one)])
    held = {key for key, table in _TABLES.items() if any(name.endswith(table) for name in shapes)}
    for key, value in config.items():
        if key in held or not _SIZED.search(key):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float) and not abs(one) <= most:
                raise _strange(folder, key, one)


def check_own(own: Mapping[str, Any], shapes: Mapping[str, list[int]], folder: Path) -> None:
    """Raises TeacherError where one of our own networks would be larger than the weights beside its config.

    It is made at random before its weights are loaded. `own` names a family and a shape that can be made.
    """
    held = sum(math.prod(one) for one in shapes.values())
    for name, value in own["shape"].items():
        if isinstance(value, int | float) and not abs(value) <= max(held, _LEAST_ROOM):  # NaN neither
            raise _strange(folder, name, value)
    weights = make("students", own["family"], **own["shape"]).work(_SHORT).weights
    if weights > 2 * held + _LEAST_ROOM:
        raise _strange(folder, "weights", weights)


def number(config: Mapping[str, Any], name: str, otherwise: int, folder: Path) -> int:
    """A size in config.json. Raises TeacherError for what is none."""
    value = config.get(name, otherwise)
    if type(value) is not int or not 0 <= value <= _MOST_SIZE:
        raise _no_number(folder, name, value)
    return value


def _numbers(config: Mapping[str, Any], name: str, otherwise: int, folder: Path) -> list[int]:
    """A list of sizes in config.json, or one. Raises TeacherError as `number`."""
    value = config.get(name, otherwise)
    several = value if isinstance(value, list) and value else [value]
    return [number({name: one}, name, otherwise, folder) for one in several]


def _strange(folder: Path, name: str, value: float) -> TeacherError:
    return TeacherError(
        f"{folder}/config.json is not that of the weights beside it: its {name.replace('_', ' ')} would be {value}",
        fix="take config.json and the weights from one and the same model: model.save_pretrained(folder)",
    )


def _no_number(folder: Path, name: str, value: Any) -> TeacherError:
    return TeacherError(
        f"{folder}/config.json has no usable {name} (it says {limits.shown(value)})", fix="restore the model's config"
    )
