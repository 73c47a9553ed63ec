"""Models as files: a teacher or student saved, and loaded again as plain tensors, whatever it came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import loading
from edgekd.core.errors import EdgeKDError, TeacherError
from edgekd.core.registry import make, plugin
from edgekd.core.tensors import embeds
from edgekd.data import clean, pixels
from edgekd.teachers import _sentence_graph, _sentences

if TYPE_CHECKING:
    import torch

OWN = "edgekd"  # the key of config.json under which our own families write their name and shape


def load(folder: Path, task: str) -> Any:
    """The model of a folder, in float32 and evaluation mode; pickles only as plain tensors. Raises TeacherError."""
    import torch

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        model: Any = _own(folder, config) if OWN in config else _hugging_face(folder, task)
    except EdgeKDError:
        raise
    except Exception as error:  # a foreign checkpoint fails in as many ways as there are checkpoints
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TeacherError(
            f"cannot load the teacher {folder}: {reason}", fix="check that transformers opens it by itself"
        ) from error
    bad = next((name for name, value in model.state_dict().items() if not torch.isfinite(value).all()), None)
    if bad:
        raise TeacherError(f"the teacher's weight {bad} holds NaN or infinity", fix="give an undamaged checkpoint")
    model.processor_folder = folder  # what lies beside the weights: exporters of programs read how to decode there
    return model.eval()


def exporter(model: Any) -> str:
    """The plug-in that exports a model: our own families name theirs, optimum knows the others."""
    name: str = getattr(model, "exporter", "optimum")
    return name


def fold_temperature(model: Any, temperature: float) -> None:
    """Divide all logits by a temperature, in the weights of the last linear layer: exports carry it.

    Raises EdgeKDError where no linear layer gives the logits.
    """
    import torch

    with torch.no_grad():
        for weights in _last_linear(model, "a temperature").parameters():
            weights.div_(temperature)


def fold_thresholds(model: Any, logits: Sequence[float]) -> None:
    """Subtract each label's threshold in the bias of the last linear layer: a label is decided above 0 then.

    Raises EdgeKDError where no linear layer with a bias gives the logits.
    """
    import torch

    bias = _last_linear(model, "thresholds", needs_bias=True).bias
    with torch.no_grad():
        bias.sub_(torch.tensor(logits, dtype=bias.dtype))


def fold_scaling(model: Any, mean: Sequence[float], spread: Sequence[float], *, undo: bool = False) -> None:
    """Make outputs that are scaled to mean 0 and spread 1 numbers in their own unit, in the last layer; or `undo` that.

    Raises EdgeKDError where no linear layer with a bias gives the outputs.
    """
    import torch

    last = _last_linear(model, "the targets' scale", needs_bias=True)
    shift, scale = (torch.tensor(list(one), dtype=last.weight.dtype) for one in (mean, spread))
    with torch.no_grad():
        if undo:
            last.weight.div_(scale[:, None])
            last.bias.sub_(shift).div_(scale)
        else:
            last.weight.mul_(scale[:, None])
            last.bias.mul_(scale).add_(shift)


def _last_linear(model: Any, what: str, *, needs_bias: bool = False) -> Any:
    import torch

    classes = model.config.num_labels
    # modules come in the order they were made, and heads are made last
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == classes]
    if not linear or (needs_bias and linear[-1].bias is None):
        raise EdgeKDError(
            f"no linear layer of {type(model).__name__} gives {classes} logits"
            + (" with a bias" if needs_bias else "")
            + f": {what} cannot be folded into it",
            fix="give a student whose head ends in a linear layer" + (" with a bias" if needs_bias else ""),
        )
    return linear[-1]


def _own(folder: Path, config: dict[str, Any]) -> torch.nn.Module:
    from safetensors.torch import load_file

    model = make("students", config[OWN]["family"], **config[OWN]["shape"]).random()
    state = load_file(folder / "model.safetensors")
    expected, held = ({name: value.shape for name, value in one.items()} for one in (model.state_dict(), state))
    if found := loading.compared(expected, held):
        raise loading.refusal(folder, type(model).__name__, found)
    model.load_state_dict(state)
    model.name_classes([config["id2label"][str(number)] for number in range(len(config["id2label"]))])
    loaded: torch.nn.Module = model
    return loaded


def _hugging_face(folder: Path, task: str) -> torch.nn.Module:
    kind = plugin("tasks", task)
    purpose = loading.WHOLE if kind.labelled else loading.ENCODER
    model = clean.pretrained(folder, kind.hub.auto_model, purpose)
    model.exporter = kind.hub.exporter
    if kind.modality == "image" and (folder / pixels.CONFIG).exists():
        model.input_side = pixels.side_of(pixels.read_config(folder), folder)  # the processor's: what it is fed
    if _sentence_graph.OUTPUT in kind.keep:
        return _embedder(model, folder)
    loaded: torch.nn.Module = model
    return loaded


def _embedder(encoder: Any, folder: Path) -> torch.nn.Module:
    """The encoder with what makes one embedding of its outputs, as its folder says."""
    from edgekd.teachers._embedder import Embedder

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told, _ = _sentences.described({}, folder, config)
    sentence = told["sentence"]
    weights = [_sentences.weights_of(folder, layer) for layer in sentence["layers"]]
    made: Any = Embedder(encoder, sentence, weights, told.get("max_tokens"))
    made.exporter = encoder.exporter
    return made  # type: ignore[no-any-return]


def student_of(network: Any, teacher: Any, max_tokens: int) -> Any:
    """A student's network as it is trained: of embeddings with its teacher's pooling, else as it is."""
    if not embeds(teacher):
        return network
    from edgekd.teachers._embedder import of_student

    return of_student(network, teacher, max_tokens)


def fit_student(student: Any, samples: Sequence[Any], wanted: Any) -> None:
    """Set what a student of embeddings starts with beside its cut, by the teacher's embeddings of a few rows."""
    import torch

    from edgekd.teachers._embedder import fit_linear
    from edgekd.training import engine

    pooled: dict[int, torch.Tensor] = {}

    def run(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = student.pooled(student.encoder(**batch).last_hidden_state, batch)
        return found

    for rows, values in engine.evaluate(run, samples, device=student.device, pad=engine.pad_of(student)):
        pooled |= dict(zip(rows, values.float().cpu(), strict=True))
    fit_linear(student, torch.stack([pooled[row] for row in range(len(samples))]), wanted)


def body(model: Any) -> Any:
    """The network that a student is cut from, and that is exported: of embeddings the encoder."""
    return model.encoder if embeds(model) else model
