"""What a sentence-transformers folder says of how its embeddings are made, as far as edgekd makes them so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import limits
from edgekd.teachers import _files

MODULES, SENTENCE = "modules.json", "sentence_bert_config.json"
_MEAN = "pooling_mode_mean_tokens"
_KINDS = ("Transformer", "Pooling", "Normalize")
_MOST_MODULES = 16


def read(folder: Path) -> tuple[int | None, tuple[str, ...]]:
    """The longest text in tokens that the folder names, and notes for the report.

    None and none where it is no sentence-transformers folder. Raises TeacherError for what makes other embeddings than
    the mean over tokens: another pooling, a layer behind it, letters made small beside the tokenizer.
    """
    if not (folder / MODULES).exists():
        return None, ()
    modules = _json(folder / MODULES)
    if not isinstance(modules, list) or len(modules) > _MOST_MODULES:
        raise _damaged(folder / MODULES, "it is no list of modules")
    notes: tuple[str, ...] = ()
    for module in modules:
        kind = _kind(module, folder)
        if kind == "Pooling":
            _check_pooling(_place(module, folder) / "config.json")
        elif kind == "Normalize":
            notes = ("modules.json scales embeddings to length 1: the bundle's are not scaled, cosines are the same",)
        elif kind not in _KINDS:
            raise _not_made(folder, f"{MODULES} has a {limits.shown(kind)} layer")
    said = _json(folder / SENTENCE) if (folder / SENTENCE).exists() else {}
    if not isinstance(said, dict):
        raise _damaged(folder / SENTENCE, "it is no JSON object")
    if said.get("do_lower_case"):
        raise _not_made(folder, f"{SENTENCE} has do_lower_case, which the tokenizer's own files do not say")
    most = said.get("max_seq_length")
    if most is not None and (type(most) is not int or most < 1):
        raise _damaged(folder / SENTENCE, f"max_seq_length is {limits.shown(most)}")
    return most, notes


def read_files(folder: Path) -> tuple[str, ...]:
    """The files that decide how embeddings are made, by their path in the folder: those that are there."""
    named = [MODULES, SENTENCE]
    if (folder / MODULES).exists():
        named += sorted(path.relative_to(folder).as_posix() for path in folder.glob("*_Pooling/config.json"))
    return tuple(name for name in named if (folder / name).is_file())


def _kind(module: Any, folder: Path) -> str:
    """`Pooling` of `sentence_transformers.models.Pooling`."""
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise _damaged(folder / MODULES, "a module has no type")
    return str(module["type"].rpartition(".")[2])


def _place(module: dict[str, Any], folder: Path) -> Path:
    """The module's folder, one level below. Raises TeacherError for a path that leads elsewhere."""
    name = module.get("path")
    if not isinstance(name, str) or Path(name).name != name or "\x00" in name or name == "..":
        raise _damaged(folder / MODULES, f"it names the folder {limits.shown(name)}")
    _files.check_folder(folder, name, f"{name}/config.json")
    return folder / name


def _check_pooling(file: Path) -> None:
    """Raises TeacherError for any pooling but the mean."""
    said = _json(file)
    if not isinstance(said, dict):
        raise _damaged(file, "it is no JSON object")
    modes = [name for name, value in said.items() if name.startswith("pooling_mode_") and value]
    modes += [str(said["pooling_mode"])] if isinstance(said.get("pooling_mode"), str) else []
    others = [mode for mode in modes if mode not in (_MEAN, "mean")]
    if others or not modes:
        raise _not_made(file.parent.parent, f"{file.parent.name}/config.json has {', '.join(others) or 'no pooling'}")


def _json(file: Path) -> Any:
    try:
        return limits.read_json(file)
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> TeacherError:
    return TeacherError(f"cannot read {file}: {why}", fix="restore it, or save the model again: model.save(folder)")


def _not_made(folder: Path, why: str) -> TeacherError:
    return TeacherError(
        f"the embeddings of {folder} are not the mean over tokens that edgekd makes: {why}",
        fix="give a model that takes the mean over tokens (pooling_mode_mean_tokens alone)",
    )
