"""Token types (`token_type_ids`): which model a tokenizer must give them to, and what is set where it gives none.

transformers takes zeros where a model with a table of types is called without them, and so do optimum and
transformers.js: multilingual MiniLM is a BERT with XLM-R's tokenizer, which gives none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = "token_type_ids"
WITH_TYPES = ["input_ids", TYPES, "attention_mask"]  # as BERT's tokenizer calls what it gives
_TYPED = (
    "albert",
    "bert",
    "convbert",
    "electra",
    "mobilebert",
    "roformer",
    "squeezebert",
)  # whose config defaults to 2
_ALWAYS = ("bert", "electra")  # exported with that input, even where the table has one row
# tokenizers of transformers that give no types unless their settings say so, without "Tokenizer" at the end
WITHOUT_TYPES = (
    "Bart",
    "Barthez",
    "BigBird",
    "BioGpt",
    "Blenderbot",
    "BlenderbotSmall",
    "Bloom",
    "ByT5",
    "CLIP",
    "Camembert",
    "CodeGen",
    "CodeLlama",
    "Cohere",
    "DistilBert",
    "Esm",
    "GPT2",
    "GPTNeoX",
    "Gemma",
    "LED",
    "LayoutLMv3",
    "LayoutXLM",
    "Llama",
    "Longformer",
    "Luke",
    "MBart",
    "MBart50",
    "MPNet",
    "MT5",
    "Mvp",
    "Nllb",
    "OpenAIGPT",
    "Pegasus",
    "ProphetNet",
    "Qwen2",
    "Reformer",
    "RetriBert",
    "Roberta",
    "SeamlessM4T",
    "T5",
    "Udop",
    "Whisper",
    "XGLM",
    "XLMRoberta",
)


def gives_types(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer of these settings (tokenizer_config.json) gives token types."""
    names = tokenizer.get("model_input_names")
    if isinstance(names, list):
        return TYPES in names
    kind = str(tokenizer.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    return kind not in WITHOUT_TYPES


def takes_types(config: Mapping[str, Any]) -> bool:
    """Whether a model of this config.json has a table of token types, and is exported with an input for them."""
    model_type = config.get("model_type")
    rows = config.get("type_vocab_size", 2 if model_type in _TYPED else 0)
    return type(rows) is int and rows > (0 if model_type in _ALWAYS else 1)


def with_types(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer's settings; where the model takes types and it gives none, such that it gives zeros."""
    missing = takes_types(config) and not gives_types(tokenizer)
    return {**tokenizer, "model_input_names": WITH_TYPES} if missing else dict(tokenizer)
