"""Export and load through Hugging Face optimum; the only file that imports it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core import external
from edgekd.core.errors import EdgeKDError
from edgekd.core.model import Model, graph_file
from edgekd.core.predictions import network_outputs
from edgekd.core.quiet import quiet
from edgekd.core.registry import plugin
from edgekd.exporters._onnx import finished

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from edgekd.core.predictions import Prediction
    from edgekd.hardware.profile import Profile

_FED = {"text": {"input_ids", "attention_mask", "token_type_ids"}, "image": {"pixel_values"}}
_FEW_LENGTHS = ("nystromformer",)  # its attention fails at lengths that are no multiple of its landmarks
_OPSET = 18  # what optimum recommends for encoders; a target's ceiling may lower it


@dataclass(frozen=True)
class Optimum:
    """optimum's TorchScript export: its graphs keep the shape that ONNX Runtime's fusions look for."""

    opset: int = _OPSET

    least_opset: ClassVar[int] = 14  # scaled_dot_product_attention: torch exports it from there on

    def export(self, model: PreTrainedModel, out: Path, *, task: str, target: Profile) -> Model:
        """Write the task's graphs into `out`: opset and IR version within the target's, no trace of this machine.

        Raises RuntimeCannotLoad where the export ends above the target's ceiling.
        """
        from optimum.exporters.onnx import onnx_export_from_model

        side = getattr(model, "input_side", None)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekd-export-") as folder, quiet(), _of_side(model.config, side):
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
                **({} if side is None else {"height": side, "width": side}),
            )
            graphs = {name: external.load(graph_file(Path(folder), name)) for name in plugin("tasks", task).graphs}
        return finished(graphs, out, task, target)

    def takes(self, config: PretrainedConfig, task: str) -> bool:
        """Whether optimum exports a model of that config for the task, with no inputs but those that edgekd feeds."""
        import optimum.exporters.onnx.model_configs  # noqa: F401 (registers the types)
        from optimum.exporters.onnx.config import TextEncoderOnnxConfig, VisionOnnxConfig
        from optimum.exporters.tasks import TasksManager

        kind = plugin("tasks", task)
        if config.model_type in _FEW_LENGTHS:
            return False
        try:
            make = TasksManager.get_exporter_config_constructor(
                "onnx", model_type=config.model_type, task=kind.hub.task, library_name="transformers"
            )
        except (KeyError, ValueError):
            return False
        of_kind = VisionOnnxConfig if kind.modality == "image" else TextEncoderOnnxConfig
        made = make(config)
        return isinstance(made, of_kind) and made.inputs.keys() <= _FED[kind.modality]

    def open(self, folder: Path, file: str, inputs: Sequence[Any], *, task: str) -> tuple[str, list[Prediction]]:
        """The name of optimum's loader for the task, and what it says for a bundle of each input, run alone.

        Of the network's own outputs, which are all that a loader gives. Raises EdgeKDError where the folder does not
        load in optimum.
        """
        import numpy as np
        import optimum.onnxruntime
        import transformers

        from edgekd.onboard.programs import kept

        kind = plugin("tasks", task)
        hub, keep = kind.hub, network_outputs(kind)
        rows: list[Prediction] = []
        try:
            with quiet():
                model = getattr(optimum.onnxruntime, hub.onnx_loader).from_pretrained(
                    folder, subfolder="onnx", file_name=file, trust_remote_code=False
                )
                prepare = getattr(transformers, hub.processor).from_pretrained(folder, trust_remote_code=False)
                for one in inputs:
                    given = one if isinstance(one, tuple) else (one,)  # a pair of texts, or one input
                    fed = prepare(*given, return_tensors="np", **hub.processor_options)
                    said = model(**fed)
                    rows.append(kept({name: np.asarray(said[name])[0] for name in keep}, fed, keep))
        except Exception as error:  # whatever optimum raises, the bundle does not open
            raise EdgeKDError(
                f"the bundle does not open with optimum: {type(error).__name__}: {error}",
                fix="this is a fault of edgekd: please report it with the command you ran",
            ) from error
        return hub.onnx_loader, rows

    def opens(self, task: str) -> bool:
        """Whether optimum has a loader for the task."""
        return bool(plugin("tasks", task).hub.onnx_loader)


@contextmanager
def _of_side(config: Any, side: int | None) -> Iterator[None]:
    """While the block runs the config names the size of the images that are fed, which optimum makes its sample of.

    DINOv2's names 518, the size of its position embeddings, and optimum looks for its processor where the model came
    from: a private folder that is gone by now. It finds one of that size.
    """
    if side is None:
        yield
        return
    own, source = getattr(config, "image_size", None), config._name_or_path
    with tempfile.TemporaryDirectory(prefix="edgekd-processor-") as folder:
        processor = {"image_processor_type": "BitImageProcessor", "crop_size": {"height": side, "width": side}}
        Path(folder, "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
        config._name_or_path = folder
        if own is not None:
            config.image_size = side
        try:
            yield
        finally:
            config._name_or_path = source
            if own is not None:
                config.image_size = own
