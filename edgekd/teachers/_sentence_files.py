"""The files by which sentence-transformers makes embeddings: written anew, whatever a model came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MODULES, SENTENCE = "modules.json", "sentence_bert_config.json"
MODES = {  # as sentence-transformers before 5 writes them, in the order in which it joins their outputs
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def write(
    out: Path,
    sentence: Mapping[str, Any],
    weights: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    max_tokens: int | None,
) -> None:
    """Write modules.json and a folder for each module; `weights` are the arrays of each of the `sentence`'s layers."""
    from safetensors.numpy import save_file

    kinds = [("", "Transformer", {}), ("1_Pooling", "Pooling", _pooling_config(sentence))]
    for layer in sentence["layers"]:
        at = len(kinds)
        if layer["kind"] == "normalize":
            kinds.append((f"{at}_Normalize", "Normalize", {}))
        elif layer["kind"] == "layer_norm":
            kinds.append((f"{at}_LayerNorm", "LayerNorm", {"dimension": layer["outputs"]}))
        else:
            kinds.append((f"{at}_Dense", "Dense", _dense_config(layer)))
    arrays = dict(enumerate(weights, start=2))
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind, _) in enumerate(kinds)
    ]
    _write(out / MODULES, modules)
    _write(out / SENTENCE, {"max_seq_length": max_tokens, "do_lower_case": False})
    for at, (path, _, config) in enumerate(kinds[1:], start=1):
        (out / path).mkdir(exist_ok=True)
        if config:
            _write(out / path / "config.json", config)
        if arrays.get(at):
            save_file(dict(arrays[at]), out / path / "model.safetensors")


def _pooling_config(sentence: Mapping[str, Any]) -> dict[str, Any]:
    """As sentence-transformers before 5 reads it; later ones know an order of their own as well."""
    modes = {name: mode in sentence["pooling"] for name, mode in MODES.items()}
    in_order = [mode for name, mode in MODES.items() if modes[name]] == sentence["pooling"]
    width = {"word_embedding_dimension": sentence["width"]}
    return width | (modes if in_order else {"pooling_mode": sentence["pooling"]})


def _dense_config(layer: Mapping[str, Any]) -> dict[str, Any]:
    module = "linear" if layer["activation"] == "Identity" else "activation"
    config = {
        "in_features": layer["inputs"],
        "out_features": layer["outputs"],
        "bias": layer["bias"],
        "activation_function": f"torch.nn.modules.{module}.{layer['activation']}",
    }
    return config | ({"use_residual": True} if layer["residual"] else {})


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
