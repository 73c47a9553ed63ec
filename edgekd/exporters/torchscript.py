"""Export of our own families through torch's TorchScript exporter, which folds batch norms into convolutions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core import external
from edgekd.core.model import Model
from edgekd.core.quiet import quiet
from edgekd.exporters._onnx import finished, only_graph

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile

_OPSET = 18


@dataclass(frozen=True)
class Torchscript:
    """One input, logits out; the batch is free, all else has the graph's size."""

    opset: int = _OPSET

    least_opset: ClassVar[int] = 11  # of our families: convolutions and matrices

    def export(self, model: Any, out: Path, *, task: str, target: Profile) -> Model:
        """Write the model's graph into `out`. Raises RuntimeCannotLoad where it ends above the target's ceiling."""
        import numpy as np
        import torch

        name = only_graph(task, "torchscript")

        class Plain(torch.nn.Module):
            """Tensor in, tensor out: what the exporter traces."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, values: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.inner(**{model.input_name: values}).logits
                return logits

        size = model.shape.max_size
        sample = torch.from_numpy(model.shape.sample(size, np.random.default_rng(0))[model.input_name])
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekd-export-") as folder, quiet():
            raw = Path(folder, "raw.onnx")
            torch.onnx.export(
                Plain().eval(),
                (sample,),
                raw,
                dynamo=False,
                opset_version=min(self.opset, target.max_opset),
                input_names=[model.input_name],
                output_names=["logits"],
                dynamic_axes={model.input_name: {0: "batch"}, "logits": {0: "batch"}},
            )
            graph = external.load(raw)
        return finished({name: graph}, out, task, target)
