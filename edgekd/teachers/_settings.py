"""The JSON files beside a teacher's weights: whether they can be read, and ask for nothing but the model itself."""

from __future__ import annotations

from pathlib import Path

from edgekd.core.errors import TeacherError
from edgekd.data import clean, pixels, settings
from edgekd.teachers import _files

_CLEANED = {
    "config.json": settings.clean_config,
    "tokenizer_config.json": settings.clean_tokenizer,
    "special_tokens_map.json": settings.clean_special_tokens,
    "added_tokens.json": settings.clean_added_tokens,
}
# what else transformers reads of a folder
_READ = (
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    pixels.CONFIG,
)


def check(folder: Path) -> None:
    """Raises TeacherError for JSON that cannot be read, code or adapters, and paths that lead out of the folder."""
    if (folder / "adapter_config.json").exists():
        raise TeacherError(
            f"{folder} holds an adapter: it changes a model that is loaded from somewhere else",
            fix="merge it into its model first: model.merge_and_unload().save_pretrained(folder)",
        )
    for name in (*_CLEANED, *_READ):
        try:
            _files.read_json(folder / name)
        except (OSError, ValueError) as error:
            raise _unreadable(folder / name, error) from error
    for name, cleaner in _CLEANED.items():
        clean.cleaned(cleaner, folder, name)


def _unreadable(file: Path, error: Exception) -> TeacherError:
    if file.name == "config.json":
        return TeacherError(f"cannot read {file}: {error}", fix="give a folder saved by model.save_pretrained(folder)")
    return TeacherError(
        f"the teacher's file {file} cannot be read: {error}", fix="fetch the folder again, or save the model again"
    )
