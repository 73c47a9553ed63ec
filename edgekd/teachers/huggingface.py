"""A teacher from a Hugging Face folder or hub id, inspected as files before anything of it is loaded."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.results import file_sha256

# The encoders whose layers, feed-forward width and vocabulary we know how to copy from.
MODEL_TYPES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_ALIASES = {
    "layers": ("num_hidden_layers", "n_layers"),
    "hidden": ("hidden_size", "dim"),
    "heads": ("num_attention_heads", "n_heads"),
    "feed_forward": ("intermediate_size", "hidden_dim"),
    "vocabulary": ("vocab_size",),
    "max_tokens": ("max_position_embeddings",),
}
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "LICENSE*", "README.md")


@dataclass(frozen=True)
class Huggingface:
    """Inspects a folder, or fetches a hub id into the hub's own cache first."""

    revision: str | None = None

    def inspect(self, source: str) -> dict[str, Any]:
        """What the files say: folder, ready, architecture, labels, sha256, licence.

        Raises TeacherError for a folder without config, weights or tokenizer, a pickle that would run code, a
        damaged weight file, a model type that no student can be copied from, or a hub id out of reach.
        """
        folder = self.folder(source)
        config = _config(folder)
        weights = self.check_weights(folder)
        if not any((folder / name).exists() for name in _TOKENIZERS):
            raise TeacherError(
                f"the teacher folder {folder} has no tokenizer ({', '.join(_TOKENIZERS)})",
                fix="save it beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            )
        names = config.get("architectures") or []
        ready = any(name.endswith("ForSequenceClassification") for name in names)
        return {
            "folder": str(folder),
            "ready": ready,
            "architecture": {"model_type": config["model_type"], **_shape(config, folder)},
            "labels": _labels(config, folder, weights) if ready else None,
            "sha256": _fingerprint(folder, weights),
            "licence": _licence(folder),
        }

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

    def check_weights(self, folder: Path) -> list[Path]:
        """The weight files, safetensors preferred. Raises TeacherError where none is there or one is not safe."""
        found = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
        if found is None:
            raise TeacherError(
                f"the teacher folder {folder} has no weights (none of {', '.join(_WEIGHTS)})",
                fix="save it with model.save_pretrained(folder)",
            )
        files = [found]
        if found.name.endswith(".index.json"):
            index = json.loads(found.read_text(encoding="utf-8"))
            files = sorted({folder / Path(name).name for name in index["weight_map"].values()})
        for file in files:
            if not file.exists():
                raise TeacherError(f"the teacher's weight file {file} is missing", fix="copy the whole folder again")
            _check_safetensors(file) if file.suffix == ".safetensors" else _check_pickle(file)
        return files

    def weight_shapes(self, files: list[Path]) -> dict[str, list[int]]:
        """Name to shape of the safetensors weights, from their headers; empty for pickles."""
        shapes: dict[str, list[int]] = {}
        for file in files:
            if file.suffix == ".safetensors":
                shapes |= {key: value["shape"] for key, value in _header(file).items() if key != "__metadata__"}
        return shapes


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"cannot read {file}: {error}", fix="give a folder saved by model.save_pretrained(folder)"
        ) from error
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise TeacherError(
            f"the teacher {folder} is a {model_type!r} model; no student can be copied from that",
            fix=f"give a teacher of one of these types: {', '.join(MODEL_TYPES)}",
        )
    return config


def _shape(config: dict[str, Any], folder: Path) -> dict[str, int]:
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


def _labels(config: dict[str, Any], folder: Path, weights: list[Path]) -> tuple[str, ...]:
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(config.get("num_labels", 2))}
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    shapes = Huggingface().weight_shapes(weights)
    head = next((shape for name, shape in shapes.items() if name in _HEADS), None)
    if head and head[0] != len(labels):
        raise TeacherError(
            f"{folder}/config.json names {len(labels)} labels; the teacher's weights have {head[0]}",
            fix="set id2label and label2id in config.json to the classes the model was trained on, in order",
        )
    return labels


_HEADS = ("classifier.weight", "classifier.out_proj.weight")


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        size = struct.unpack("<Q", stream.read(8))[0]
        if size > min(100 << 20, file.stat().st_size):
            raise ValueError("its header is longer than the file")
        header: dict[str, Any] = json.loads(stream.read(size))
    ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
    if 8 + size + max(ends, default=0) != file.stat().st_size:
        raise ValueError("it is cut short, or has bytes that no tensor owns")
    return header


def _check_safetensors(file: Path) -> None:
    try:
        _header(file)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise TeacherError(
            f"the teacher's weights {file} are damaged: {error}", fix="fetch or save the file again"
        ) from error


def _check_pickle(file: Path) -> None:
    from picklescan.scanner import SafetyLevel, scan_file_path

    result = scan_file_path(str(file))
    strange = sorted({f"{g.module}.{g.name}" for g in result.globals if g.safety != SafetyLevel.Innocuous})
    if strange or result.scan_err:
        what = f"would run code when loaded: it calls {', '.join(strange[:3])}" if strange else "cannot be read"
        raise TeacherError(
            f"the teacher's pickle {file} {what}",
            fix="do not load it; ask its author for model.safetensors, or convert it on a machine you can lose",
        )


def _fingerprint(folder: Path, weights: list[Path]) -> str:
    hasher = sha256()
    others = [folder / name for name in ("config.json", *_TOKENIZERS) if (folder / name).exists()]
    for file in (*weights, *others):
        hasher.update(f"{file.name}:{file_sha256(file)}\n".encode())
    return hasher.hexdigest()


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if card.exists():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
            if line.startswith("license:"):
                return f"{line.removeprefix('license:').strip()} (as its model card says)"
    return "not stated in the teacher's folder"
