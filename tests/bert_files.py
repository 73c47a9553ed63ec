"""A tiny text classifier of type BERT as a folder of files, written by hand in milliseconds; there is no such model."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def serialized(header: dict[str, Any]) -> bytes:
    """A safetensors file's header, before its data."""
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw


HEADER = {
    "bert.embeddings.word_embeddings.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]},
    "classifier.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [128, 160]},
    "__metadata__": {"format": "pt"},
}
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 8,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1},
}
PIECES = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"])}
PAD = {
    "id": 0,
    "content": "[PAD]",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [PAD],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    },
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": PIECES,
    },
}
INDEX = {"metadata": {"total_size": 160}, "weight_map": dict.fromkeys([*HEADER][:2], "part-1.safetensors")}
TEACHER = {
    "config.json": CONFIG,
    "tokenizer.json": TOKENIZER,
    "special_tokens_map.json": {"pad_token": "[PAD]"},
    "tokenizer_config.json": {"cls_token": {"content": "[CLS]"}, "model_max_length": 16},
}


def teacher(folder: Path, **files: str | bytes) -> Path:
    """A tiny text classifier's folder as the hub has them, these files in place of its own."""
    own = {name: json.dumps(values).encode() for name, values in TEACHER.items()}
    own["model.safetensors"] = serialized(HEADER) + bytes(160)
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*"):
        file.unlink()
    for name, content in (own | files).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    if "model.safetensors.index.json" in files:
        (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    return folder


def whole_teacher(folder: Path) -> Path:
    """The same with all the weights that its config describes, zeros: planning holds the two against each other."""
    import numpy as np
    from safetensors.numpy import save_file

    width, inner, layer = 4, 8, "bert.encoder.layer.0"
    linear = {
        f"{layer}.attention.self.query": (width, width),
        f"{layer}.attention.self.key": (width, width),
        f"{layer}.attention.self.value": (width, width),
        f"{layer}.attention.output.dense": (width, width),
        f"{layer}.intermediate.dense": (inner, width),
        f"{layer}.output.dense": (width, inner),
        "bert.pooler.dense": (width, width),
        "classifier": (2, width),
    }
    norms = ("bert.embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm")
    shapes = {"bert.embeddings.word_embeddings.weight": (8, width)}
    shapes |= {
        f"bert.embeddings.{name}_embeddings.weight": (rows, width)
        for name, rows in (("position", 16), ("token_type", 2))
    }
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, teacher(folder) / "model.safetensors", metadata={"format": "pt"})
    return folder
