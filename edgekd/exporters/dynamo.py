"""Export through torch.export: other graphs than TorchScript's, for models of Hugging Face and our own families."""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core import external
from edgekd.core.errors import EdgeKDError
from edgekd.core.model import Model
from edgekd.core.predictions import network_outputs
from edgekd.core.quiet import quiet
from edgekd.core.registry import plugin
from edgekd.exporters._onnx import finished, only_graph

if TYPE_CHECKING:
    from torch import Tensor

    from edgekd.hardware.profile import Profile

_OPSET = 18  # the lowest that it writes: asked for less, it gives 18 nevertheless
_BATCH, _TOKENS = 2, 8  # of the example: torch.export takes a size of 1 for a constant


@dataclass(frozen=True)
class Dynamo:
    """Batch and, of texts, tokens are free; inputs and outputs are named as the other exporters name them."""

    opset: int = _OPSET

    least_opset: ClassVar[int] = _OPSET

    def export(self, model: Any, out: Path, *, task: str, target: Profile) -> Model:
        """Write the model's graph into `out`. Raises RuntimeCannotLoad where the export ends above the target's
        ceiling, and EdgeKDError for a model that torch.export refuses."""
        import torch

        name = only_graph(task, "dynamo")
        outputs = list(network_outputs(plugin("tasks", task)))
        inputs = _example(model)
        names = list(inputs)

        class Plain(torch.nn.Module):
            """Tensors in, tensors out: what is exported."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
                said = self.inner(**dict(zip(names, values, strict=True)))
                return tuple(getattr(said, output) for output in outputs)

        batch, tokens = torch.export.Dim("batch_size"), torch.export.Dim("sequence_length")
        free = tuple({0: batch, 1: tokens} if value.dim() == 2 else {0: batch} for value in inputs.values())
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekd-export-") as folder, quiet():
            raw = Path(folder, "raw.onnx")
            try:
                torch.onnx.export(
                    Plain().eval(),
                    tuple(inputs.values()),
                    raw,
                    dynamo=True,
                    external_data=_too_large(model),
                    verbose=False,
                    opset_version=max(_OPSET, min(self.opset, target.max_opset)),
                    input_names=names,
                    output_names=outputs,
                    dynamic_shapes=(free,),  # one entry for *values
                )
            except Exception as error:  # torch.export refuses a model in as many ways as there are models
                raise EdgeKDError(
                    f"torch.export cannot export the model: {type(error).__name__}: {str(error).splitlines()[0]}",
                    fix="export it with the other exporter (optimum or torchscript)",
                ) from error
            graph = external.load(raw)
        return finished({name: graph}, out, task, target)


def _too_large(model: Any) -> bool:
    """Return whether the weights are more than one file may hold."""
    tensors = (*model.parameters(), *model.buffers())
    weights: int = sum(one.numel() * one.element_size() for one in tensors)
    return weights > external.LARGEST_FILE


def _example(model: Any) -> dict[str, Tensor]:
    """Inputs that the model takes, of two samples: our families' own, an image's pixels, or a text's tokens."""
    import numpy as np
    import torch

    if hasattr(model, "input_name"):
        sample = model.shape.sample(model.shape.max_size, np.random.default_rng(0))[model.input_name]
        return {model.input_name: torch.from_numpy(np.concatenate([sample] * _BATCH))}
    taken, config = inspect.signature(model.forward).parameters, model.config
    if "pixel_values" in taken:
        return {"pixel_values": torch.zeros(_BATCH, config.num_channels, config.image_size, config.image_size)}
    shape = (_BATCH, _TOKENS)
    inputs = {"input_ids": torch.ones(shape, dtype=torch.int64), "attention_mask": torch.ones(shape, dtype=torch.int64)}
    if "token_type_ids" in taken and getattr(config, "type_vocab_size", 0) > 1:  # roberta takes them and knows one
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
    return inputs
