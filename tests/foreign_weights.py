"""Folders whose weights are not those of the model that they name, and some that only look so: builders, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

State = dict[str, Any]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_PLAIN = (
    "what",
    "is",
    "the",
    "name",
    "of",
    "a",
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "horse",
    "bread",
    "rice",
    "soup",
    "kind",
    "that",
    "people",
    "like",
)
WORDS = [*SPECIAL, *_PLAIN]
LABELS = ("animal", "colour", "food")


def tokenizer(folder: Path, most: int = 32) -> None:
    """A WordPiece tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=most,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def classifier(folder: Path, **settings: Any) -> Path:
    """A tiny BERT that tells three classes apart, with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        **{"id2label": dict(enumerate(LABELS)), "label2id": {name: at for at, name in enumerate(LABELS)}} | settings,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(folder)
    return folder


def rewrite(folder: Path, change: Callable[[State], State]) -> Path:
    """The folder with its weights changed."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    state = {name: value.clone().contiguous() for name, value in change(load_file(file)).items()}
    save_file(state, file, {"format": "pt"})
    return folder


def configure(folder: Path, **values: Any) -> Path:
    """The folder with these keys of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def pickled(folder: Path, change: Callable[[State], State]) -> Path:
    """The folder with its changed weights as a pickle."""
    import torch
    from safetensors.torch import load_file

    torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def sharded(folder: Path, change: Callable[[State], State]) -> Path:
    """The folder with its changed weights in two files and an index."""
    from safetensors.torch import load_file, save_file

    state = change(load_file(folder / "model.safetensors"))
    names = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(state)}
    for file in {*names.values()}:
        save_file({name: state[name] for name in state if names[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "model.safetensors").unlink()
    return folder


def under(prefix: str) -> Callable[[State], State]:
    """Every name behind a prefix."""
    return lambda state: {prefix + name: value for name, value in state.items()}


def inside(old: str, new: str) -> Callable[[State], State]:
    """A part of every name replaced."""
    return lambda state: {name.replace(old, new): value for name, value in state.items()}


def without(part: str) -> Callable[[State], State]:
    """No weights whose names hold that."""
    return lambda state: {name: value for name, value in state.items() if part not in name}


def and_also(*names: str, like: str = "classifier.bias") -> Callable[[State], State]:
    """More weights, of the shape of that one."""
    return lambda state: state | dict.fromkeys(names, state[like])


def cut(name: str, rows: int) -> Callable[[State], State]:
    """One weight with fewer rows."""
    return lambda state: state | {name: state[name][:rows]}


# name: what is done to the folder of `classifier`
WRAPPED: dict[str, Callable[[Path], Path]] = {
    "compiled": lambda folder: rewrite(folder, under("_orig_mod.")),
    "DataParallel": lambda folder: rewrite(folder, under("module.")),
    "Lightning": lambda folder: rewrite(folder, under("model.")),
    "PEFT's base model": lambda folder: rewrite(folder, under("base_model.model.")),
    "compiled and DataParallel": lambda folder: rewrite(folder, under("module._orig_mod.")),
    "a compiled part": lambda folder: rewrite(folder, inside("bert.encoder.", "bert.encoder._orig_mod.")),
    "a name nobody knows": lambda folder: rewrite(folder, under("my_net.")),
    "compiled, in a pickle": lambda folder: pickled(folder, under("_orig_mod.")),
    "DataParallel, in shards": lambda folder: sharded(folder, under("module.")),
}
STRANGE: dict[str, Callable[[Path], Path]] = {
    "no head": lambda folder: rewrite(folder, without("classifier.")),
    "no head, in shards": lambda folder: sharded(folder, without("classifier.")),
    "no head, in a pickle": lambda folder: pickled(folder, without("classifier.")),
    "half a head": lambda folder: rewrite(folder, without("classifier.bias")),
    "a layer is missing": lambda folder: rewrite(folder, without("layer.1.")),
    "no pooler": lambda folder: rewrite(folder, without("pooler.")),
    "another model's names": lambda folder: rewrite(folder, inside("bert.", "roberta.")),
    "a layer more": lambda folder: rewrite(folder, lambda state: state | inside("layer.1.", "layer.2.")(state)),
    "a head of another kind": lambda folder: rewrite(folder, and_also("classifier.dense.bias")),
    "positions of another length": lambda folder: rewrite(
        folder, cut("bert.embeddings.position_embeddings.weight", 16)
    ),
    "a wrapped model without its head": lambda folder: rewrite(
        folder, lambda state: under("module.")(without("classifier.")(state))
    ),
    "more positions in config.json": lambda folder: configure(folder, max_position_embeddings=8_000_000),
}
HARMLESS: dict[str, Callable[[Path], Path]] = {
    "as saved": lambda folder: folder,
    "position ids of old": lambda folder: rewrite(
        folder, lambda state: state | {"bert.embeddings.position_ids": state["classifier.weight"].long()}
    ),
    "gamma and beta": lambda folder: rewrite(
        folder,
        lambda state: inside("LayerNorm.weight", "LayerNorm.gamma")(inside("LayerNorm.bias", "LayerNorm.beta")(state)),
    ),
    "a head of pre-training beside": lambda folder: rewrite(folder, and_also("cls.predictions.bias")),
}


def saved(name: str, folder: Path, original: Path) -> Path:
    """A copy of the classifier's folder with that done to it."""
    shutil.copytree(original, folder)
    return (WRAPPED | STRANGE | HARMLESS)[name](folder)
