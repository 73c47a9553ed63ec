"""Export and load through Hugging Face optimum; the only file that imports it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
from edgekd.exporters import _causal_graph
from edgekd.exporters._onnx import finished

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from edgekd.core.predictions import Prediction
    from edgekd.hardware.profile import Profile

_FED = {"text": {"input_ids", "attention_mask", "token_type_ids"}, "image": {"pixel_values"}}
_GROUPED = ("CPUExecutionProvider", "CUDAExecutionProvider")  # that have a kernel of GroupQueryAttention
_FEW_LENGTHS = ("nystromformer",)  # its attention fails at lengths that are no multiple of its landmarks
_CACHED = {"input_ids", "attention_mask", "position_ids", "past_key_values"}  # of a program over a cache
CAUSAL = "causal"  # the program of language models
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
                task=_name(task),
                opset=opset,
                do_validation=False,
                device="cpu",
                no_post_process=True,
                **({} if side is None else {"height": side, "width": side}),
            )
            graphs = {name: external.load(graph_file(Path(folder), name)) for name in plugin("tasks", task).graphs}
        if plugin("tasks", task).program == CAUSAL:
            for graph in graphs.values():
                _prepare(graph, model.config, target)
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
                "onnx", model_type=config.model_type, task=_name(task), library_name="transformers"
            )
        except (KeyError, ValueError):
            return False
        if kind.program == CAUSAL:
            return {name.partition(".")[0] for name in make(config, use_past=True).inputs} <= _CACHED
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
        hub, keep = kind.hub, self.proves(task)
        rows: list[Prediction] = []
        try:
            with quiet():
                model = getattr(optimum.onnxruntime, hub.onnx_loader).from_pretrained(
                    folder, subfolder="onnx", file_name=file, trust_remote_code=False, session_options=_silent()
                )
                prepare = getattr(transformers, hub.processor).from_pretrained(folder, trust_remote_code=False)
                if kind.program == CAUSAL:
                    return hub.onnx_loader, [_written(model, prepare, one) for one in inputs]
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

    def proves(self, task: str) -> Mapping[str, str]:
        """Return the output rule of what `open` gives: a network's own outputs; of a language model what it writes."""
        kind = plugin("tasks", task)
        return {"tokens": "as_is"} if kind.program == CAUSAL else network_outputs(kind)

    def generate(self, folder: Path, inputs: Sequence[Any], *, task: str) -> tuple[str, list[list[int]]]:
        """The name of optimum's loader for the task, and the tokens that it generates of each input, run alone.

        Of an encoder and a merged decoder, which it finds: told their names it would look for a third file, the decoder
        with a cache. Without special tokens. Raises EdgeKDError where the folder does not load in optimum.
        """
        import optimum.onnxruntime
        import transformers

        kind = plugin("tasks", task)
        hub = kind.hub
        rows: list[list[int]] = []
        try:
            with quiet():
                model = getattr(optimum.onnxruntime, hub.onnx_loader).from_pretrained(
                    folder, subfolder="onnx", use_io_binding=False, trust_remote_code=False
                )
                prepare = getattr(transformers, hub.processor).from_pretrained(folder, trust_remote_code=False)
                special = set(prepare.tokenizer.added_tokens_encoder.values())
                for one in inputs:
                    fed = prepare(one, return_tensors="pt", **hub.processor_options)
                    rows.append([token for token in model.generate(**fed)[0].tolist() if token not in special])
        except Exception as error:  # whatever optimum raises, the bundle does not open
            raise EdgeKDError(
                f"the bundle does not open with optimum: {type(error).__name__}: {error}",
                fix="this is a fault of edgekd: please report it with the command you ran",
            ) from error
        return hub.onnx_loader, rows

    def opens(self, task: str) -> bool:
        """Whether optimum has a loader for the task."""
        return bool(plugin("tasks", task).hub.onnx_loader)


def _silent() -> Any:
    """Return session options under which ONNX Runtime tells errors alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _name(task: str) -> str:
    """Return what optimum calls the task's export."""
    kind = plugin("tasks", task)
    return f"{kind.hub.task}-with-past" if kind.program == CAUSAL else str(kind.hub.task)


def _prepare(graph: Any, config: Any, target: Profile) -> None:
    """Make a language model's graph what programs and clients run; attention grouped where the target has the kernel.

    Raises TeacherError for a graph with another kind of cache.
    """
    _causal_graph.check(graph, str(config.model_type))
    _causal_graph.prepared(graph)
    if target.execution_provider in _GROUPED and not _causal_graph.slides(config):
        _causal_graph.group_queries(graph)


def _written(model: Any, tokenizer: Any, sample: Mapping[str, Any]) -> Prediction:
    """Return what optimum's loader writes greedily behind a text: as many tokens as the sample says."""
    import numpy as np
    import torch

    ids = torch.from_numpy(np.asarray(sample["input_ids"]))
    count = int(sample["new_tokens"][0])
    end = {"eos_token_id": -1, "pad_token_id": 0}  # as programs do, which a caller stops
    whole = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        num_beams=1,
        **end,
    )
    tokenizer.decode(whole[0])  # it has these ids
    return {"tokens": whole[0, ids.shape[1] :].numpy()}


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
