"""Private copies of a model's folder, for transformers to load from: fixed names and cleaned settings alone.

Nothing in a setting can choose a file: the files are looked for by their own names, opened once and checked as they
are opened, and what was read then is what transformers reads.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.core import loading
from edgekd.core.errors import TeacherError
from edgekd.core.loading import by_transformers
from edgekd.data import limits, settings, token_types

PROCESSOR = "preprocessor_config.json"
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
_TOKENIZER = "tokenizer_config.json"
_TOKENIZER_SETTINGS = {
    _TOKENIZER: settings.clean_tokenizer,
    "special_tokens_map.json": settings.clean_special_tokens,
    "added_tokens.json": settings.clean_added_tokens,
}
READ = (*VOCABULARIES, *_TOKENIZER_SETTINGS, "config.json", PROCESSOR)  # all that is ever read beside the weights
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_MOST = 256 << 20  # bytes of one file that is copied: the largest tokenizer.json in use has 33 MB


def homes(folder: Path) -> tuple[Path, ...]:
    """The folders that a link in a model's folder may lead to: itself, and the blobs of the hub's own cache."""
    real = folder.resolve()
    return (real, (folder.parent.parent / "blobs").resolve()) if folder.parent.name == "snapshots" else (real,)


def resolved(path: Path) -> Path | None:
    """Where a path leads; None where it leads nowhere: a link to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def read_checked(folder: Path, name: str) -> bytes | None:
    """A file's content; None where there is none. Raises TeacherError where it is no plain file of that folder."""
    path = folder / name
    if not os.path.lexists(path):
        return None
    real = resolved(path)
    if real is None or not any(real.is_relative_to(home) for home in homes(folder)):
        raise _foreign(path)
    try:
        # the place that was looked at, opened without following another link, and without waiting for a pipe
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _foreign(path) from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST:
            raise _foreign(path)
        content = stream.read(_MOST + 1)
    if len(content) > _MOST:
        raise _foreign(path)
    return content


def cleaned(
    clean: Callable[[Mapping[str, Any], Path], settings.Settings], folder: Path, name: str
) -> settings.Settings | None:
    """What `clean` leaves of a file's settings; None where there is no such file. Raises TeacherError."""
    content = read_checked(folder, name)
    if content is None:
        return None
    try:
        if len(content) > limits.JSON_MOST:
            raise ValueError(f"it is no plain file of at most {limits.JSON_MOST >> 20} MiB")
        said = json.loads(content.decode())
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        return clean(said, folder / name)
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise TeacherError(
            f"the teacher's file {folder / name} cannot be read: {reason}",
            fix="fetch the folder again, or save the model again",
        ) from error


def state(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What tells that a file beside the weights was changed: name, size, time and inode of each that is there."""
    found = []
    for name in READ:
        try:
            told = (folder / name).stat()
        except OSError:
            continue
        found.append((name, told.st_size, told.st_mtime_ns, told.st_ino))
    return tuple(found)


def write_tokenizer(folder: Path, out: Path) -> None:
    """Write the folder's tokenizer to `out`: its vocabulary files as they are, its settings cleaned."""
    for name in VOCABULARIES:
        content = read_checked(folder, name)
        if content is not None:
            (out / name).write_bytes(content)
    for name, clean in _TOKENIZER_SETTINGS.items():
        said = cleaned(clean, folder, name)
        if said is not None and name == _TOKENIZER:
            said = token_types.with_types(said, _config(folder))
        _write(said, out / name)


def _config(folder: Path) -> settings.Settings:
    """What config.json says, of which nothing but sizes and names is asked; empty where there is none."""
    return cleaned(lambda said, _: dict(said), folder, "config.json") or {}


def write_processor(folder: Path, out: Path) -> None:
    """Write the folder's image preprocessing to `out`, cleaned."""
    _write(cleaned(settings.clean_processor, folder, PROCESSOR), out / PROCESSOR)


def write_config(folder: Path, out: Path) -> None:
    """Write the folder's config.json to `out`, cleaned."""
    _write(cleaned(settings.clean_config, folder, "config.json"), out / "config.json")


@contextmanager
def tokenizer_folder(folder: Path) -> Iterator[Path]:
    """A private folder with the tokenizer alone, for as long as the block runs."""
    with _private() as place:
        write_tokenizer(folder, place)
        _write(cleaned(settings.clean_names, folder, "config.json"), place / "config.json")
        yield place


@contextmanager
def processor_folder(folder: Path) -> Iterator[Path]:
    """A private folder with the image preprocessing alone, for as long as the block runs."""
    with _private() as place:
        write_processor(folder, place)
        _write(cleaned(settings.clean_names, folder, "config.json"), place / "config.json")
        yield place


@contextmanager
def config_folder(folder: Path) -> Iterator[Path]:
    """A private folder with the cleaned config.json alone, for as long as the block runs."""
    with _private() as place:
        write_config(folder, place)
        yield place


@contextmanager
def model_folder(folder: Path) -> Iterator[Path]:
    """A private folder with the cleaned config.json and links to the safetensors weights, while the block runs."""
    with _private() as place:
        write_config(folder, place)
        index = read_checked(folder, _WEIGHTS[1]) if not (folder / _WEIGHTS[0]).exists() else None
        names = [_WEIGHTS[0]] if index is None else sorted({*json.loads(index)["weight_map"].values()})
        if index is not None:
            (place / _WEIGHTS[1]).write_bytes(index)
        for name in names:
            real = resolved(folder / name)
            inside = Path(name).name == name and real is not None and any(map(real.is_relative_to, homes(folder)))
            if real is None or not inside:
                raise _foreign(folder / name)
            (place / name).symlink_to(real)
        yield place


@contextmanager
def tokenizer(folder: Path, **arguments: Any) -> Iterator[Any]:
    """The folder's tokenizer, as transformers loads it; in the block it can be saved with its vocabulary files.

    Raises TeacherError for settings that ask for more than the folder, and for what transformers cannot load.
    """
    from transformers import AutoTokenizer

    with tokenizer_folder(folder) as place:
        with by_transformers(folder):
            loaded = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **arguments)
        yield loaded


def pretrained(folder: Path, auto_model: str, purpose: str, **arguments: Any) -> Any:
    """The folder's model through one of transformers' auto classes, from a private folder: see `loading.pretrained`."""
    with model_folder(folder) as place:
        with by_transformers(folder):
            chosen = attention(auto_model, place)
        return loading.pretrained(place, auto_model, purpose, folder=folder, attn_implementation=chosen, **arguments)


def attention(auto_model: str, place: Path) -> str:
    """The attention that a private folder's model is loaded with, which its settings have no say in: sdpa or eager."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    kind = getattr(transformers, auto_model)._model_mapping.get(type(config), None)
    first = kind[0] if isinstance(kind, tuple) else kind
    return "sdpa" if getattr(first, "_supports_sdpa", False) else "eager"


def _write(values: Mapping[str, Any] | None, file: Path) -> None:
    if values is not None:
        file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _private() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgekd-clean-") as name:  # for its owner alone
        yield Path(name)


def _foreign(path: Path) -> TeacherError:
    return TeacherError(
        f"{path} is no plain file of the teacher's folder of at most {_MOST >> 20} MiB",
        fix=f"{copied(path.parent)}; or remove the file",
    )


def copied(folder: Path) -> str:
    """How a user makes of a folder's links plain files, as a fix."""
    source, copy = (shlex.quote(str(place)) for place in (folder, folder.with_name(f"{folder.name}-copy")))
    return f"copy the folder with what its links point to, and give the copy: `cp -rL {source} {copy}`"
