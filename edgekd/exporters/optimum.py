"""Export and load through Hugging Face optimum; the only file that imports it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.errors import EdgeKDError
from edgekd.core.quiet import quiet
from edgekd.core.registry import plugin
from edgekd.exporters._onnx import finish

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from edgekd.core.profile import Profile

_OPSET = 18  # what optimum recommends for encoders; a target's ceiling may lower it


@dataclass(frozen=True)
class Optimum:
    """optimum's TorchScript export: its graphs keep the shape that ONNX Runtime's fusions look for."""

    opset: int = _OPSET

    least_opset: ClassVar[int] = 14  # scaled_dot_product_attention: torch exports it from there on

    def export(self, model: PreTrainedModel, out: Path, *, task: str, target: Profile) -> Path:
        """Write `out/model.onnx`: one file, opset and IR version within the target's, no trace of this machine.

        Raises RuntimeCannotLoad where the export ends above the target's ceiling.
        """
        import onnx
        from optimum.exporters.onnx import onnx_export_from_model

        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekd-export-") as folder, quiet():
            # a fresh folder: saving with external data appends to a file that is there
            opset = min(self.opset, target.max_opset)
            onnx_export_from_model(
                model,
                Path(folder),
                task=plugin("tasks", task).hub.task,
                opset=opset,
                do_validation=False,
                device="cpu",
                no_post_process=True,
            )
            graph = onnx.load(Path(folder, "model.onnx"))
        return finish(graph, out / "model.onnx", target)

    def open(self, folder: Path, file: str, inputs: Sequence[Any], *, task: str) -> tuple[str, Any]:
        """The name of optimum's loader for the task, and what it says for a bundle: (inputs, classes or width).

        Each input runs alone; outputs with a row for each token are pooled as the task pools them. Raises EdgeKDError
        where the folder does not load in optimum.
        """
        import numpy as np
        import optimum.onnxruntime
        import transformers

        kind, rows = plugin("tasks", task), []
        hub = kind.hub
        try:
            with quiet():
                model = getattr(optimum.onnxruntime, hub.onnx_loader).from_pretrained(
                    folder, subfolder="onnx", file_name=file, trust_remote_code=False
                )
                prepare = getattr(transformers, hub.processor).from_pretrained(folder, trust_remote_code=False)
                for one in inputs:
                    fed = prepare(one, return_tensors="np", **hub.processor_options)
                    rows.append(_row(np.asarray(model(**fed)[kind.output]), fed, kind.pool))
        except Exception as error:  # whatever optimum raises, the bundle does not open
            raise EdgeKDError(
                f"the bundle does not open with optimum: {type(error).__name__}: {error}",
                fix="this is a fault of edgekd: please report it with the command you ran",
            ) from error
        return hub.onnx_loader, np.concatenate(rows)

    def opens(self, task: str) -> bool:
        """Whether optimum has a loader for the task."""
        return bool(plugin("tasks", task).hub.onnx_loader)


def _row(said: np.ndarray[Any, Any], fed: Mapping[str, Any], pool: str | None) -> np.ndarray[Any, Any]:
    """One input's output as a row: (1, classes) as it is, (1, tokens, width) as the mean over the mask's tokens."""
    if pool is None:
        return said.reshape(1, -1)
    mask = fed["attention_mask"][..., None]
    mean: np.ndarray[Any, Any] = (said * mask).sum(axis=1) / mask.sum(axis=1)
    return mean
