"""Folders as sentence-transformers writes them: modules.json, a pooling, and layers behind it."""

import json

import torch
from safetensors.torch import save_file

HIDDEN = 16  # of the tiny classifier
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
TANH, LINEAR = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


def write(folder, *more, pooling=None, path="1_Pooling", **sentence):
    """modules.json with a pooling and more layers, and the settings beside it."""
    kinds = [("", "Transformer"), (path, "Pooling"), *((f"{at}_{name}", name) for at, name in enumerate(more, start=2))]
    modules = [
        {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (place, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(MEAN if pooling is None else pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(sentence))


def dense(folder, place="2_Dense", inputs=HIDDEN, outputs=4, *, bias=True, pickled=False, **config):
    """A Dense layer's folder, with random weights; its tensors."""
    (folder / place).mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(1)
    held = {"linear.weight": torch.randn(outputs, inputs, generator=draw)}
    held |= {"linear.bias": torch.randn(outputs, generator=draw)} if bias else {}
    if config.get("use_residual") and inputs != outputs:
        held["residual.weight"] = torch.randn(outputs, inputs, generator=draw)
    said = {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": TANH} | config
    (folder / place / "config.json").write_text(json.dumps(said))
    if pickled:
        torch.save(held, folder / place / "pytorch_model.bin")
    else:
        save_file(held, folder / place / "model.safetensors")
    return held
