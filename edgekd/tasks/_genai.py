"""genai_config.json: what onnxruntime-genai must know of a language model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.core.model import Model

FILE = "genai_config.json"
# by transformers' model type the name under which onnxruntime-genai reads such a decoder; others go by `llama`, whose
# graphs have the same inputs
_TYPES = {"gemma": "gemma", "gemma2": "gemma2", "phi3": "phi3", "qwen2": "qwen2", "qwen3": "qwen3"}


def write(folder: Path, model: Model) -> None:
    """Write the file beside config.json: greedy as it stands, the cache handed from step to step, one graph."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = folder / "generation_config.json"
    generation = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    (folder / FILE).write_text(json.dumps(composed(config, generation, model), indent=1) + "\n", encoding="utf-8")


def composed(config: dict[str, Any], generation: dict[str, Any], model: Model) -> dict[str, Any]:
    """Return what the file says, of a model's config.json and generation_config.json, and its graph's inputs."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    context = config.get("max_position_embeddings", 2048)
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    first = _first(0, *(ends if isinstance(ends, list) else [ends]))
    inputs = {name: name for name in ("input_ids", "attention_mask", "position_ids") if name in _inputs(model)}
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": f"onnx/{model.file.name}",
        "head_size": config.get("head_dim") or width // heads,
        "hidden_size": width,
        "inputs": inputs | {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": heads,
        "num_hidden_layers": config["num_hidden_layers"],
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
    }
    pad, begin = (_first(first, generation.get(key), config.get(key)) for key in ("pad_token_id", "bos_token_id"))
    search = {
        "do_sample": False,
        "max_length": context,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": False,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    return {
        "model": {
            "type": _TYPES.get(config["model_type"], "llama"),
            "vocab_size": config["vocab_size"],
            "context_length": context,
            "bos_token_id": begin,
            "eos_token_id": ends if ends is not None else first,
            "pad_token_id": pad,
            "decoder": decoder,
        },
        "search": search,
    }


def _first(otherwise: int, *said: Any) -> Any:
    return next((one for one in said if one is not None), otherwise)


def _inputs(model: Model) -> set[str]:
    import onnx

    return {one.name for one in onnx.load(model.file, load_external_data=False).graph.input}
