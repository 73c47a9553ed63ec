"""Export and load through Hugging Face optimum; the only file that imports it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from edgekd.core.profile import Profile

_OPSET = 18  # what optimum recommends for encoders; a target's ceiling may lower it


@dataclass(frozen=True)
class Optimum:
    """optimum's TorchScript export: its graphs keep the shape that ONNX Runtime's fusions look for."""

    opset: int = _OPSET

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
                model, Path(folder), task=task, opset=opset, do_validation=False, device="cpu", no_post_process=True
            )
            graph = onnx.load(Path(folder, "model.onnx"))
        graph.ir_version = min(graph.ir_version, target.max_ir_version)
        _strip(graph)
        found = max(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
        if found > target.max_opset:
            raise RuntimeCannotLoad(
                f"the export has opset {found}; the target {target.name} knows {target.max_opset}",
                fix="raise max_opset in the profile if the device's ONNX Runtime allows it",
            )
        onnx.checker.check_model(graph)
        path = out / "model.onnx"
        onnx.save(graph, path)
        return path

    def open(self, folder: Path, file: str, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Logits (texts, classes) as `ORTModelForSequenceClassification` gives them for a bundle's folder.

        Each text runs alone, unpadded. Raises EdgeKDError where the folder does not load in optimum.
        """
        import numpy as np
        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import AutoTokenizer

        try:
            with quiet():
                model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name=file)
                tokenizer = AutoTokenizer.from_pretrained(folder)
                rows = [
                    model(**tokenizer(text, truncation=True, return_tensors="np")).logits.reshape(1, -1)
                    for text in texts
                ]
        except Exception as error:  # whatever optimum raises, the bundle does not open
            raise EdgeKDError(
                f"the bundle does not open with optimum: {type(error).__name__}: {error}",
                fix="this is a fault of edgekd: please report it with the command you ran",
            ) from error
        return np.concatenate([np.asarray(row) for row in rows])


def _strip(model: Any) -> None:
    """Remove names of files and of this machine: a bundle is reproducible and leaks nothing."""
    model.doc_string, model.producer_name, model.producer_version = "", "edgekd", ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.doc_string = ""
        del value.metadata_props[:]
