"""A Whisper teacher from a Hugging Face folder or hub id, inspected as files before anything of it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core import licences
from edgekd.core.errors import TeacherError
from edgekd.core.registry import plugin
from edgekd.data import clean
from edgekd.teachers import _files, _settings, _sources
from edgekd.teachers._whisper_files import checked_config, checked_generation, write_generation, write_preprocessor

if TYPE_CHECKING:
    from edgekd.core.protocols import InputSpec
    from edgekd.hardware.profile import Profile

_AUTO_MODEL = "AutoModelForSpeechSeq2Seq"  # of a task that Whisper does: audio in, text out
_TOKENIZERS = ("vocab.json", "tokenizer.json")


@dataclass(frozen=True)
class Whisper:
    """Takes a folder with config.json, weights and tokenizer; `edgekd import ct2` makes one of a CTranslate2 model."""

    exporter: ClassVar[str] = "whisper"

    revision: str | None = None

    @classmethod
    def serves(cls, source: str, task: str) -> bool:
        """Return whether the task is one that Whisper does: audio in, text out."""
        kind = plugin("tasks", task)
        return kind.hub.auto_model == _AUTO_MODEL and source != "labels"

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the files say: folder, ready, architecture, labels, sha256, licence.

        Raises TeacherError for what is no Whisper, for weights that are another model's than config.json names, and
        for a tokenizer or generation_config.json that cannot be used.
        """
        folder = _sources.folder(source, self.revision)
        _files.check_folder(folder)
        _settings.check(folder)
        config = checked_config(folder)
        if not any((folder / name).exists() for name in _TOKENIZERS):
            raise TeacherError(
                f"the teacher folder {folder} has no tokenizer ({', '.join(_TOKENIZERS)})",
                fix="save it beside the model: WhisperProcessor.from_pretrained(...).save_pretrained(folder)",
            )
        weights = _files.check_weights(folder)
        architecture = architecture_of(config, weights.shapes, folder)
        checked_generation(folder, config)
        return {
            "folder": str(weights.folder),
            "ready": True,
            "architecture": architecture,
            "labels": (),
            "sha256": _files.fingerprint(folder, weights.sources, _TOKENIZERS, weights.digests),
            "licence": licences.of_teacher(folder),
            "checks": weights.checks,
        }

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """The model itself: it has its head."""
        return clean.pretrained(folder, plugin("tasks", task).hub.auto_model, "whole")

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """The tokenizer, how to generate, and the log-mel's sizes."""
        clean.write_tokenizer(folder, out)
        clean.write_config(folder, out)
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        write_generation(folder, config, out)
        write_preprocessor(config, out)

    def training(self, rows: int) -> dict[str, Any]:
        """It is never trained here."""
        return {}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """The logits of its tokens."""
        return ("logits",)

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return `info`."""
        return info

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return `info`: its shape is its own."""
        return info

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Nothing: it is exported within the target's limits."""

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Nothing: it says what it hears."""


def architecture_of(config: Mapping[str, Any], shapes: Mapping[str, list[int]], folder: Path) -> dict[str, Any]:
    """Return the sizes of the model. Raises TeacherError where the weights have others than config.json names."""
    width = config["d_model"]
    wanted = {
        "encoder.conv1.weight": [width, config["num_mel_bins"], 3],
        "encoder.embed_positions.weight": [config["max_source_positions"], width],
        "decoder.embed_positions.weight": [config["max_target_positions"], width],
        "decoder.embed_tokens.weight": [config["vocab_size"], width],
    }
    for side in ("encoder", "decoder"):
        last = config[f"{side}_layers"] - 1
        wanted[f"{side}.layers.{last}.fc1.weight"] = [config[f"{side}_ffn_dim"], width]
    for name, shape in wanted.items():
        held = shapes.get(f"model.{name}", shapes.get(name))
        if held != shape:
            raise TeacherError(
                f"{folder}/config.json asks for {name} of {shape}; the teacher's weights have "
                + ("none" if held is None else str(held)),
                fix="fetch the folder again: its config.json and its weights are two models'",
            )
    for side in ("encoder", "decoder"):
        more = f"{side}.layers.{config[f'{side}_layers']}.fc1.weight"
        if f"model.{more}" in shapes or more in shapes:
            raise TeacherError(
                f"{folder}/config.json names {config[f'{side}_layers']} layers of the {side}; the weights have more",
                fix="fetch the folder again: its config.json and its weights are two models'",
            )
    sizes = {
        "encoder_layers": config["encoder_layers"],
        "decoder_layers": config["decoder_layers"],
        "hidden": width,
        "encoder_feed_forward": config["encoder_ffn_dim"],
        "decoder_feed_forward": config["decoder_ffn_dim"],
        "vocabulary": config["vocab_size"],
        "mels": config["num_mel_bins"],
        "window_s": config["max_source_positions"] // 50,
        "max_tokens": config["max_target_positions"],
        "heads": config["decoder_attention_heads"],
    }
    return {"model_type": "whisper", "exporter": "whisper", "family": "whisper", "shape": sizes}
