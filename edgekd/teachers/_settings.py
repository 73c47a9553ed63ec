"""The JSON files beside a teacher's weights: whether they can be read, and ask for nothing but the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import pixels
from edgekd.teachers import _files

# what transformers reads of a folder
_READ = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", pixels.CONFIG,
)  # fmt: skip
# keys that make transformers load something else than the folder's model: what it is then, nobody has checked
_ELSEWHERE = {
    "auto_map": "code of its own, which is never run",
    "quantization_config": "quantized weights",
    "transformers_weights": "weights under another name",
    "attn_implementation": "kernels of its own",
    "_attn_implementation": "kernels of its own",
}
_PLAIN_ATTENTION = ("eager", "sdpa")
_UNUSED_PATHS = ("special_tokens_map_file", "name_or_path")  # where the tokenizer once lay: nothing opens them


def check(folder: Path) -> None:
    """Raises TeacherError for JSON that cannot be read, code or adapters, and paths that lead out of the folder."""
    if (folder / "adapter_config.json").exists():
        raise TeacherError(
            f"{folder} holds an adapter: it changes a model that is loaded from somewhere else",
            fix="merge it into its model first: model.merge_and_unload().save_pretrained(folder)",
        )
    for name in _READ:
        try:
            said = _files.read_json(folder / name)
        except (OSError, ValueError) as error:
            raise _unreadable(folder / name, error) from error
        for key, what in _ELSEWHERE.items():
            if said.get(key) and said[key] not in _PLAIN_ATTENTION and name != "tokenizer.json":
                raise TeacherError(
                    f"{folder / name} asks for {what} ({key})",
                    fix="give a model that transformers loads by itself: without trust_remote_code, in float32",
                )
        if name == "tokenizer_config.json":
            _check_paths(said, folder)


def _check_paths(said: Mapping[str, Any], folder: Path) -> None:
    """Raises TeacherError where the tokenizer's settings name a file of this machine: it would end up in bundles."""
    for key, value in said.items():
        if not (key.endswith("_file") and isinstance(value, str)) or key in _UNUSED_PATHS:
            continue
        try:
            there = Path(value).is_absolute() or ".." in Path(value).parts
            strange = there and Path(value).exists() and not Path(value).resolve().is_relative_to(folder.resolve())
        except (OSError, ValueError):  # no name of a file at all
            strange = True
        if strange:
            raise TeacherError(
                f"{folder}/tokenizer_config.json takes {key} from {value!r}, outside the folder",
                fix="save the tokenizer again: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            )


def _unreadable(file: Path, error: Exception) -> TeacherError:
    if file.name == "config.json":
        return TeacherError(f"cannot read {file}: {error}", fix="give a folder saved by model.save_pretrained(folder)")
    return TeacherError(
        f"the teacher's file {file} cannot be read: {error}", fix="fetch the folder again, or save the model again"
    )
