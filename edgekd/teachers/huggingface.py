"""A teacher from a Hugging Face folder or hub id, inspected as files before anything of it is loaded."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.registry import make, plugin
from edgekd.data import pixels
from edgekd.teachers import _checks, _files, _own

# The encoders whose layers, feed-forward width and vocabulary we know how to copy from.
MODEL_TYPES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
# Those that transformers classifies images with, and optimum exports; students learn from their outputs alone.
IMAGE_TYPES = (
    "beit", "convnext", "convnextv2", "deit", "efficientnet", "mobilenet_v1", "mobilenet_v2", "poolformer", "regnet",
    "resnet", "swin", "vit",
)  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_ALIASES = {
    "layers": ("num_hidden_layers", "n_layers"),
    "hidden": ("hidden_size", "dim"),
    "heads": ("num_attention_heads", "n_heads"),
    "feed_forward": ("intermediate_size", "hidden_dim"),
    "vocabulary": ("vocab_size",),
    "max_tokens": ("max_position_embeddings",),
}
_DEPTHS = ("depths", "num_block_repeats", "num_hidden_layers")
_WIDTHS = ("hidden_size", "hidden_sizes", "hidden_dim", "last_hidden_size")
# whose position embeddings or exported paddings fit one size of images
_OF_ONE_SIZE = ("beit", "deit", "mobilenet_v1", "mobilenet_v2", "vit")
_MOBILENETS = {"mobilenet_v1": (13, 1024), "mobilenet_v2": (17, 1280)}  # whose configs name neither
_MOBILENET_TAPS = {"mobilenet_v1": 25, "mobilenet_v2": 15}  # convolutions but the stem and one; blocks but one
_OF_PATCHES = ("beit", "deit", "vit")  # whose layers all have queries, keys and values
_HEADS = ("classifier.weight", "classifier.out_proj.weight", "classifier.1.weight")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "LICENSE*", "README.md")


@dataclass(frozen=True)
class Huggingface:
    """Inspects a folder, or fetches a hub id into the hub's own cache first."""

    revision: str | None = None

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the files say: folder, ready, architecture, labels, sha256, licence.

        Raises TeacherError for a folder without config, weights, tokenizer or preprocessing, a pickle that would
        run code, a damaged weight file, a model type that cannot serve the task, a tokenizer that is another
        model's, names of classes that contradict each other, or a hub id out of reach.
        """
        folder = self.folder(source)
        config = _config(folder)
        describe, beside = _image_shape if _sees(task) else _text_shape, _beside(task)
        own = config.get("edgekd")  # a student of ours, as the store keeps it
        check = _check_own if own else _check_type
        check(config, folder, task)
        weights = _files.check_weights(folder)
        _check_beside(folder, beside)
        if beside == _TOKENIZERS:
            _checks.check_tokenizer(folder, config, _files.weight_shapes(weights))
        kind = plugin("tasks", task)
        head = kind.auto_model.removeprefix("AutoModel")
        heads = config.get("architectures") or ()
        # every encoder gives embeddings; classes need a head
        ready = bool(own) or not kind.labelled or any(name.endswith(head) for name in heads)
        labels = _labels(config, folder, weights) if ready and kind.labelled else None
        return {
            "folder": str(folder),
            "ready": ready,
            "architecture": own or {"model_type": config["model_type"], **describe(config, folder)},
            "labels": labels if kind.labelled else (),
            "sha256": _files.fingerprint(folder, weights, beside),
            "licence": _files.licence(folder),
        }

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """The model with a fresh head for these labels; one of ours, which is always ready, at random: for its cost."""
        if "family" in architecture:
            shape = architecture["shape"] | {"classes": len(labels)}
            network = make("students", architecture["family"], **shape).random()
            network.name_classes(labels)
            return network
        import transformers

        numbers = {name: number for number, name in enumerate(labels)}
        return (
            getattr(transformers, plugin("tasks", task).auto_model)
            .from_pretrained(
                folder,
                num_labels=len(labels),
                id2label={number: name for name, number in numbers.items()},
                label2id=numbers,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
            .float()
        )

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """The tokenizer or the preprocessing, beside the fine-tuned model."""
        if _sees(task):
            shutil.copyfile(folder / pixels.CONFIG, out / pixels.CONFIG)
            return
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(folder).save_pretrained(out)

    def training(self, rows: int) -> dict[str, Any]:
        """About 750 steps of 16 for a small set, at least three epochs for a large one."""
        epochs = max(3, min(12, round(12_000 / rows)))
        return {"epochs": epochs, "batch_size": 16, "learning_rate": 2e-4, "head_factor": 5.0}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """What losses can have of it; logits alone where its config does not say how many layers it shows."""
        if "family" in architecture:
            return _own.gives(architecture["family"])
        if "vocabulary" in architecture:
            return ("logits", "features", "embedding", "attention", "text")
        if not architecture.get("taps"):
            return ("logits",)
        attention = ("attention",) if architecture["model_type"] in _OF_PATCHES else ()
        return ("logits", "features", "embedding", *attention)

    def folder(self, source: str) -> Path:
        """The local folder of a source; a hub id is fetched. Raises TeacherError where there is none."""
        path = Path(source).expanduser()
        if path.is_dir():
            return path.absolute()
        if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise TeacherError(
                f"the teacher {source!r} is not a folder", fix="give a folder saved by save_pretrained, or a hub id"
            )
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(source, revision=self.revision, allow_patterns=list(_HUB_FILES)))
        except Exception as error:  # the hub's client raises dozens of kinds, most of them network errors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TeacherError(
                f"cannot fetch the teacher {source!r}: {reason}",
                fix="check the id and the network, or give a local folder saved by save_pretrained",
            ) from error


def _sees(task: str) -> bool:
    return task == "image-classification"


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"cannot read {file}: {error}", fix="give a folder saved by model.save_pretrained(folder)"
        ) from error
    return config


def _check_own(config: dict[str, Any], folder: Path, task: str) -> None:
    """Raises TeacherError for a student of ours whose family, or whose own inputs, are of another task."""
    family, kind = config["edgekd"]["family"], task.title().replace("-", "")
    made_for_it = any(name.endswith(kind) for name in config.get("architectures") or ())
    if made_for_it and task in plugin("students", family).tasks:
        return
    raise TeacherError(
        f"the teacher {folder} is one of our own {family} models, which was not trained for {task}",
        fix="name the --task that it was trained for, or give another --teacher",
    )


def _check_type(config: dict[str, Any], folder: Path, task: str) -> None:
    model_type, known = config.get("model_type"), IMAGE_TYPES if _sees(task) else MODEL_TYPES
    if not plugin("tasks", task).auto_model:
        raise TeacherError(
            f"the teacher {folder} is a {model_type!r} model; transformers has none for {task}",
            fix="give --teacher labels, or a folder that edgekd wrote",
        )
    if model_type in known:
        return
    why = "it does not classify images" if _sees(task) else "no student can be copied from that"
    raise TeacherError(
        f"the teacher {folder} is a {model_type!r} model; {why}",
        fix=f"give a teacher of one of these types: {', '.join(known)}",
    )


def _beside(task: str) -> tuple[str, ...]:
    """Files of which one must stand beside the model; none where our own networks prepare inputs in their graphs."""
    if not plugin("tasks", task).auto_model:
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


def _text_shape(config: dict[str, Any], folder: Path) -> dict[str, int]:
    shape = {}
    for ours, theirs in _ALIASES.items():
        value = next((config[name] for name in theirs if name in config), None)
        if not isinstance(value, int) or value < 1:
            raise TeacherError(
                f"{folder}/config.json has no usable {theirs[0]} (it says {value!r})", fix="restore the model's config"
            )
        shape[ours] = value
    if config["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        shape["max_tokens"] -= config.get("pad_token_id", 1) + 1  # these count positions from the pad id on
    return shape


def _image_shape(config: dict[str, Any], folder: Path) -> dict[str, int]:
    """Depth and width are for the reader; the side is the processor's, which is what the model is fed."""
    layers, hidden = _MOBILENETS.get(config["model_type"], (0, 0))
    for name in _DEPTHS:
        depth = config.get(name, layers)
        layers = layers or (sum(depth) if isinstance(depth, list) else depth)
    for name in _WIDTHS:
        width = config.get(name, hidden)
        hidden = hidden or (width[-1] if isinstance(width, list) else width)
    side = pixels.side_of(pixels.read_config(folder), folder)
    if config["model_type"] in _OF_ONE_SIZE and config.get("image_size") != side:
        raise TeacherError(
            f"the teacher {folder} takes images of {config.get('image_size')} pixels; its {pixels.CONFIG} makes {side}",
            fix=f"set the size in {pixels.CONFIG} to the model's",
        )
    sizes = {"layers": layers, "hidden": hidden, "max_size": side, "channels": config.get("num_channels", 3)}
    return sizes | {"taps": _taps(config)}


def _taps(config: dict[str, Any]) -> int:
    """The entries of transformers' `hidden_states`, less the first; 0 where the config does not say.

    Stages where the type has such, else layers or blocks.
    """
    model_type: str = config["model_type"]
    if model_type in _MOBILENET_TAPS:
        return _MOBILENET_TAPS[model_type]
    if model_type == "efficientnet":
        repeats: list[int] = config.get("num_block_repeats", [])
        return sum(math.ceil(float(config.get("depth_coefficient", 0)) * number) for number in repeats)
    if config.get("depths"):
        return len(config["depths"]) - (model_type == "poolformer")  # it leaves out what its first stage reads
    return int(config.get("num_hidden_layers", 0))


def _labels(config: dict[str, Any], folder: Path, weights: list[Path]) -> tuple[str, ...]:
    _checks.check_labels(config, folder)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(config.get("num_labels", 2))}
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    shapes = _files.weight_shapes(weights)
    head = next((shape for name, shape in shapes.items() if name in _HEADS), None)
    if head and head[0] != len(labels):
        raise TeacherError(
            f"{folder}/config.json names {len(labels)} labels; the teacher's weights have {head[0]}",
            fix="set id2label and label2id in config.json to the classes the model was trained on, in order",
        )
    return labels
