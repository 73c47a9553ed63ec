"""A teacher from a Hugging Face folder or hub id, inspected as files before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import licences
from edgekd.core.errors import TeacherError, UsageError, counted
from edgekd.core.loading import BODY, ENCODER
from edgekd.core.protocols import PER_WORD, InputSpec
from edgekd.core.registry import make, plugin
from edgekd.data import clean, pixels
from edgekd.teachers import (
    _causal,
    _checks,
    _files,
    _names,
    _own,
    _sentence_graph,
    _sentences,
    _settings,
    _sizes,
    _sources,
    _types,
)

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_NEW_STUDENT = "distilbert"  # it takes ids and a mask alone, whatever the teacher's tokenizer gives beside them
_OF_PATCHES = ("beit", "deit", "vit")  # whose layers all have queries, keys and values
_MOST_DEPTH = 1000  # of our own networks, which name their layers one by one
_HEADS = ("classifier.weight", "classifier.out_proj.weight", "classifier.1.weight")
_MOST_LABELS = 10**6


@dataclass(frozen=True)
class Huggingface:
    """Inspects a folder, or fetches a hub id into the hub's own cache first."""

    revision: str | None = None

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the files say: folder, ready, architecture, labels, sha256, licence.

        Raises TeacherError for a folder without config, weights, tokenizer or preprocessing, a pickle that would
        run code, a damaged weight file, a model type that is another modality's, a tokenizer that is another
        model's, names of classes that contradict each other, or a hub id out of reach.
        """
        folder = self.folder(source)
        _files.check_folder(folder)
        if _embeds(task):
            _sentences.check_place(folder)
        config = _config(folder)
        _settings.check(folder)
        describe, beside = _sizes.image_shape if _sees(task) else _sizes.text_shape, _beside(task)
        own = config.get("edgekd")  # a student of ours, as the store keeps it
        check = _check_own if own else _types.check
        check(config, folder, task)
        _check_beside(folder, beside)
        weights = _files.check_weights(folder)
        if own:
            _sizes.check_own(own, weights.shapes, folder)
        if beside == _TOKENIZERS:
            _checks.check_tokenizer(folder, config, weights.shapes)
        kind = plugin("tasks", task)
        head = kind.hub.auto_model.removeprefix("AutoModel")
        heads = _architectures(config)
        # every encoder gives embeddings; classes need a head
        ready = bool(own) or not kind.labelled or any(head in name for name in heads)
        labels = _labels(config, folder, weights.shapes, task) if ready and kind.problem_type else None
        shape = None if own else describe(config, folder)
        if shape:
            _sizes.check_weights(shape, weights.shapes, folder)
            _sizes.check_tables(config, weights.shapes, folder)
        if kind.program == _causal.PROGRAM:
            _causal.check(folder, config)
        architecture: dict[str, Any] = own or {"model_type": config["model_type"], **(shape or {})}
        if shape and kind.families and kind.modality == "text" and config["model_type"] not in _types.MODEL_TYPES:
            architecture["student"] = _NEW_STUDENT  # it is not copied: layers of other types have other parts
        if shape and (kind.problem_type == PER_WORD or _embeds(task)):
            architecture["head"] = kind.hub.auto_model  # students copy it
        notes: tuple[str, ...] = ()
        if _embeds(task) and shape:
            architecture, notes = _sentences.described(architecture, folder, config)
            beside = (*beside, *_sentences.read_files(folder))
        return {
            "folder": str(weights.folder),  # of pickles, their copies in the store
            "ready": ready,
            "architecture": architecture,
            "labels": labels if kind.labelled and kind.problem_type else (),
            "sha256": _files.fingerprint(folder, weights.sources, beside, weights.digests),
            "licence": licences.of_teacher(folder),
            "checks": (*weights.checks, *notes),
        }

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """The model with a fresh head for these labels; one of ours, which is always ready, at random: for its cost."""
        if "family" in architecture:
            shape = architecture["shape"] | {"classes": len(labels)}
            network = make("students", architecture["family"], **shape).random()
            network.name_classes(labels)
            return network
        if _embeds(task):
            return clean.pretrained(folder, plugin("tasks", task).hub.auto_model, ENCODER)
        numbers = {name: number for number, name in enumerate(labels)}
        return clean.pretrained(
            folder,
            plugin("tasks", task).hub.auto_model,
            BODY,
            num_labels=len(labels),
            id2label={number: name for name, number in numbers.items()},
            label2id=numbers,
            **_problem(task),  # whatever the folder's own head was for
        )

    def settled(self, info: dict[str, Any], task: str, *, compressed: bool) -> dict[str, Any]:
        """Return `info`, of a copy where a wrapper's prefix is stripped from the weights' names.

        Raises TeacherError where weights are missing, are another model's, or have another shape; where optimum cannot
        export the model.
        """
        _types.settle(info, task)
        return _names.check(info, task)

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """The tokenizer or the preprocessing, beside the fine-tuned model."""
        if _sees(task):
            clean.write_processor(folder, out)
            return
        with clean.tokenizer(folder) as tokenizer:
            if "sentence" in architecture and "max_tokens" in architecture:  # where the ecosystem's loaders cut
                tokenizer.model_max_length = architecture["max_tokens"]
            tokenizer.save_pretrained(out)
        if plugin("tasks", task).program == _causal.PROGRAM:
            _causal.write_files(folder, out)
        if "sentence" in architecture:
            _sentences.write_files(folder, architecture, out)

    def complete(self, folder: Path, architecture: Mapping[str, Any], graph: Any) -> None:
        """Add pooling, and what a sentence-transformers folder has behind it, to an encoder's graph; else nothing."""
        if "sentence" in architecture:
            _sentences.append(folder, architecture, graph)

    def training(self, rows: int) -> dict[str, Any]:
        """About 750 steps of 16 for a small set, at least three epochs for a large one."""
        epochs = max(3, min(12, round(12_000 / rows)))
        return {"epochs": epochs, "batch_size": 16, "learning_rate": 2e-4, "head_factor": 5.0}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """What losses can have of it; logits alone where its config does not say how many layers it shows."""
        if "family" in architecture:
            return _own.gives(architecture["family"])
        if "student" in architecture:
            return ("logits", "embedding", "text")
        if "vocabulary" in architecture:
            return ("logits", "features", "embedding", "attention", "text")
        if not architecture.get("taps"):
            return ("logits",)
        attention = ("attention",) if architecture["model_type"] in _OF_PATCHES else ()
        return ("logits", "features", "embedding", *attention)

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return `info`: a model that is ready has its head, any other cannot be compressed."""
        return info

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return `info`: its shape is its own."""
        return info

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Nothing: it is exported within the target's limits."""

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Nothing: a base model gets a head for the classes, a ready one's are known when rows are read."""

    def folder(self, source: str) -> Path:
        """The local folder of a source; a hub id is fetched. Raises TeacherError where there is none."""
        return _sources.folder(source, self.revision)


def _problem(task: str) -> dict[str, str]:
    """Return the task's problem type for a config; nothing where transformers has no such type."""
    problem_type = plugin("tasks", task).problem_type
    return {"problem_type": problem_type} if problem_type != PER_WORD else {}


def _sees(task: str) -> bool:
    return plugin("tasks", task).modality == "image"


def _embeds(task: str) -> bool:
    return _sentence_graph.OUTPUT in plugin("tasks", task).keep


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = _files.read_json(file)
        if not file.exists():
            raise FileNotFoundError("there is none")
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"cannot read {file}: {error}", fix="give a folder saved by model.save_pretrained(folder)"
        ) from error
    return config


def _check_own(config: dict[str, Any], folder: Path, task: str) -> None:
    """Raises TeacherError for a student of ours whose family, or whose own inputs, are of another task."""
    family, kind = _family(config["edgekd"], folder), task.title().replace("-", "")
    made_for_it = any(name.endswith(kind) for name in _architectures(config))
    if made_for_it and plugin("tasks", task).modality in plugin("students", family).modalities:
        return
    raise TeacherError(
        f"the teacher {folder} is one of our own {family} models, which was not trained for {task}",
        fix="name the --task that it was trained for, or give another --teacher",
    )


def _family(own: Any, folder: Path) -> str:
    """The family that the key `edgekd` names. Raises TeacherError where it is not what edgekd writes there."""
    try:
        family: str = own["family"]
        if not own["shape"].get("depth", 1) <= _MOST_DEPTH:
            raise ValueError(f"a depth of {own['shape']['depth']}")
        str(make("students", family, **own["shape"]))
    except (UsageError, AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise TeacherError(
            f'{folder}/config.json has a key "edgekd" that edgekd did not write: {str(error).splitlines()[0]}',
            fix="give the folder as edgekd wrote it, or remove the key if the model is another's",
        ) from error
    return family


def _architectures(config: Mapping[str, Any]) -> list[str]:
    """The model's classes, as config.json names them; none where it says something else."""
    said = config.get("architectures")
    return [name for name in said if isinstance(name, str)] if isinstance(said, list) else []


def _beside(task: str) -> tuple[str, ...]:
    """Files of which one must stand beside the model; none where our own networks prepare inputs in their graphs."""
    if not plugin("tasks", task).hub.auto_model:
        return ()
    return (pixels.CONFIG,) if _sees(task) else _TOKENIZERS


def _check_beside(folder: Path, names: tuple[str, ...]) -> None:
    """Raises TeacherError where what prepares inputs is missing."""
    if not names or any((folder / name).exists() for name in names):
        return
    what, processor = (
        ("preprocessing", "AutoImageProcessor") if pixels.CONFIG in names else ("tokenizer", "AutoTokenizer")
    )
    raise TeacherError(
        f"the teacher folder {folder} has no {what} ({', '.join(names)})",
        fix=f"save it beside the model: {processor}.from_pretrained(...).save_pretrained(folder)",
    )


def _labels(config: dict[str, Any], folder: Path, shapes: Mapping[str, list[int]], task: str) -> tuple[str, ...]:
    _checks.check_labels(config, folder)
    named = config.get("id2label") or {
        str(number): f"LABEL_{number}"
        for number in range(min(_MOST_LABELS, _sizes.number(config, "num_labels", 2, folder)))
    }
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    _checks.check_problem(config, len(labels), folder, task)
    head = next((shape for name, shape in shapes.items() if name in _HEADS), None)
    if head and head[:1] != [len(labels)]:
        raise TeacherError(
            f"{folder}/config.json names {counted(len(labels), 'label')}; the teacher's weights have {head[0]}",
            fix="set id2label and label2id in config.json to the classes the model was trained on, in order",
        )
    return labels
