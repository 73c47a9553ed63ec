"""The torch side of our own families: a network that exports, saves and trains as transformers' models do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from edgekd.core.tensors import Outputs

# What loaders of the ecosystem look for in config.json: transformers.js and optimum take from the type which processor
# and outputs to expect, nothing of the layers. A convnet is built of MobileNetV2's blocks; an mlp on images borrows
# the name.
_CONFIG = {
    "pixel_values": {"model_type": "mobilenet_v2", "architectures": ["MobileNetV2ForImageClassification"]},
    "past_values": {"model_type": "edgekd", "architectures": ["TimeSeriesClassification"]},
}


class Residual(torch.nn.Module):
    """`x + body(x)`."""

    def __init__(self, *body: torch.nn.Module) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(*body)

    def forward(self, values: Tensor) -> Tensor:
        """Same shape in and out."""
        out: Tensor = values + self.body(values)
        return out


class Network(torch.nn.Module):
    """A body that gives features and a linear head, under the names that Hugging Face's tasks use.

    `shape` is the family's frozen dataclass; `input_name` is pixel_values (batch, channels, height, width) or
    past_values (batch, steps, channels). `layers` are the places, in the body's part of that name, of the modules whose
    outputs are the shape's layers.
    """

    base_model_prefix = "body"

    def __init__(
        self, shape: Any, body: torch.nn.Module, features: int, *, input_name: str, layers: tuple[str, Sequence[int]]
    ) -> None:
        super().__init__()
        self.shape, self.input_name = shape, input_name
        self.body = body
        self.layered, self._places = layers
        self.head = torch.nn.Linear(features, shape.classes)
        self.config = SimpleNamespace(
            num_labels=shape.classes, pad_token_id=0, id2label={n: f"LABEL_{n}" for n in range(shape.classes)}
        )

    @property
    def exporter(self) -> str:
        """The plug-in that exports it."""
        name: str = self.shape.exporter
        return name

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.head.weight.device

    @property
    def layers(self) -> list[torch.nn.Module]:
        """The modules whose outputs are the shape's layers, the one next to the input first."""
        part = self.body.get_submodule(self.layered)
        return [part.get_submodule(str(place)) for place in self._places]

    def forward(self, **inputs: Tensor) -> Outputs:
        """Logits (batch, classes)."""
        return Outputs(logits=self.head(self.body(inputs[self.input_name])))

    def name_classes(self, labels: Sequence[str]) -> None:
        """Which class each logit stands for."""
        self.config.id2label = dict(enumerate(labels))

    def save_pretrained(self, folder: Path, safe_serialization: bool = True) -> None:
        """Write model.safetensors and config.json."""
        from safetensors.torch import save_file

        names = self.config.id2label
        config = _CONFIG[self.input_name] | {
            "id2label": {str(number): name for number, name in names.items()},
            "label2id": {name: number for number, name in names.items()},
            "edgekd": {"family": type(self.shape).__name__.lower(), "shape": self.shape.as_dict()},
        }
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
