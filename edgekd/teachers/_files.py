"""A teacher's folder as files: nothing leads elsewhere, weights that can be trusted, a fingerprint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd.core import licences
from edgekd.core.digests import digest, file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.files import is_plain
from edgekd.core.pointers import check_no_pointer
from edgekd.data import clean, limits
from edgekd.store.file_hashes import sha256_of
from edgekd.store.store import open_store
from edgekd.teachers import _pickles, _safetensors

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SHARDS_MOST = 1000
_SETTINGS = (".json", ".txt", ".model", ".jinja")  # which are read, and may be kept by Git LFS
# files that transformers reads beside the weights, and that bundles take along
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", *licences.NAMES, "README.md")
_MODULES = ("*/*.json", "*/*.safetensors", "*/*.bin")  # of sentence-transformers, named in modules.json
_TREE = ("*", "additional_chat_templates/*")  # which transformers reads, and writes beside a tokenizer that it saves
_COPY_MOST = 1 << 30  # bytes of all of them together


@dataclass(frozen=True)
class Weights:
    """What a teacher's weights are: the folder to load them from, its safetensors files, what was found of them."""

    folder: Path
    files: tuple[Path, ...]
    shapes: Mapping[str, list[int]]
    checks: tuple[str, ...]
    sources: tuple[Path, ...]  # the files as they were given
    digests: Mapping[Path, str] = field(default_factory=dict)  # SHA-256 of those whose hash was taken


def check_folder(folder: Path, *patterns: str) -> None:
    """Raises TeacherError for a link that leads out of the folder, and for what is neither file nor folder.

    With `patterns` only of the files whose names are like those.

    Files of a teacher end up in bundles: a link to somebody's private key must not. The hub's own cache keeps its
    files as links into `blobs`, two folders up.
    """
    homes = clean.homes(folder)
    for path in sorted({path for pattern in patterns or _TREE for path in folder.glob(pattern)}):
        real = clean.resolved(path)
        if real is None:
            raise TeacherError(f"{path} is a link to itself", fix="remove it from the teacher's folder")
        if path.is_symlink() and not any(real.is_relative_to(home) for home in homes):
            raise TeacherError(
                f"{path} is a link that leads out of the teacher's folder, to {real}",
                fix=clean.copied(folder),
            )
        if not (path.is_dir() or is_plain(path)):
            raise TeacherError(
                f"{path} is no plain file: {'a link to nothing' if path.is_symlink() else 'a device, pipe or socket'}",
                fix="remove it from the teacher's folder",
            )
        if path.suffix in _SETTINGS:
            check_no_pointer(path, TeacherError)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises ValueError or OSError for what is none, or too large."""
    if not os.path.lexists(file):
        return {}
    return limits.read_object(file)


def check_weights(folder: Path) -> Weights:
    """The folder's weights, read and checked; safetensors are preferred, pickles copied into such in the store.

    Raises TeacherError where none is there, or one is not safe or not whole.
    """
    found = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise TeacherError(
            f"the teacher folder {folder} has no weights (none of {', '.join(_WEIGHTS)})",
            fix="save it with model.save_pretrained(folder)",
        )
    names: dict[str, str] = {}
    files = [found]
    if found.name.endswith(".index.json"):
        names = _weight_map(found)
        files = [folder / name for name in sorted({*names.values()})]
    for file in files:
        if not file.exists():
            raise TeacherError(f"the teacher's weight file {file} is missing", fix="copy the whole folder again")
        if not is_plain(file):
            raise TeacherError(f"the teacher's weight file {file} is no plain file", fix="copy the whole folder again")
        check_no_pointer(file, TeacherError)
    if files[0].suffix == ".safetensors":
        digests = {file: _digest(file) for file in files}
        headers = [_safetensors.check(file, digests[file]) for file in files]
        _check_places(found, names, dict(zip((file.name for file in files), headers, strict=True)))
        shapes = _shapes(headers)
        checks = (f"safetensors: {len(shapes)} tensors; types, sizes against data and values checked",)
        return Weights(folder, tuple(files), shapes, checks, tuple(files), digests)
    copies = [_pickles.converted(file) for file in files]
    place = _as_safetensors(folder, files, [copy for copy, _ in copies])
    own = tuple(sorted(place.glob("*.safetensors")))
    return Weights(place, own, _shapes(map(_safetensors.check, own)), copies[0][1], tuple(files))


def fingerprint(
    folder: Path, weights: Iterable[Path], others: Iterable[str] = (), known: Mapping[Path, str] | None = None
) -> str:
    """SHA-256 over the weights and every file of the folder that is read or copied, `others` too, under its name.

    `known` has the hashes that were taken already of files.
    """
    taken = known or {}
    hasher = sha256()
    patterns = (*_BESIDE, *clean.READ, *(_MODULES if (folder / "modules.json").exists() else ()))
    beside = sorted({path for pattern in patterns for path in folder.glob(pattern) if is_plain(path)})
    beside = sorted({*beside, *(folder / name for name in others if is_plain(folder / name))})
    given = list(weights)
    for file in (*given, *(path for path in beside if path not in given)):
        name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
        hasher.update(f"{json.dumps(name)}:{taken.get(file) or sha256_of(file)}\n".encode())
    return hasher.hexdigest()


def _digest(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise TeacherError(
            f"the teacher's weights {file} are damaged: {error}", fix="fetch or save the file again"
        ) from error


def _shapes(headers: Iterable[_safetensors.Header]) -> dict[str, list[int]]:
    return {name: told["shape"] for header in headers for name, told in header.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor to file, as a sharded checkpoint's index says. Raises TeacherError for other places than the folder."""
    kind = ".safetensors" if index.name.endswith(".safetensors.index.json") else ".bin"
    try:
        names = read_json(index)["weight_map"]
        if not isinstance(names, dict) or not names:
            raise ValueError("its weight_map is no table")
        strange = [one for one in names.values() if not isinstance(one, str) or Path(one).name != one or "\x00" in one]
        strange += [one for one in names.values() if isinstance(one, str) and not one.endswith(kind)]
        if strange:
            raise ValueError(f"its weight_map names {strange[0]!r}, which is no {kind} file beside it")
        if len({*names.values()}) > _SHARDS_MOST:
            raise ValueError(f"its weight_map names more than {_SHARDS_MOST} files")
    except (OSError, ValueError, KeyError) as error:
        raise TeacherError(
            f"the teacher's index {index} cannot be used: {error}",
            fix="fetch the folder again, or save the model again",
        ) from error
    return names


def _check_places(index: Path, names: Mapping[str, str], headers: Mapping[str, _safetensors.Header]) -> None:
    """Raises TeacherError where the index names a tensor in a file that does not hold it."""
    for name, file in names.items():
        if name not in headers[file]:
            raise TeacherError(
                f"the teacher's index {index} has {name!r} in {file}, which does not hold it",
                fix="fetch the folder again, or save the model again",
            )


def _as_safetensors(folder: Path, files: list[Path], copies: list[Path]) -> Path:
    """A folder in the store like the teacher's, with the safetensors copies in place of its pickles."""
    others = beside(folder)
    key = {"weights": [file_sha256(copy) for copy in copies], "names": [file.stem for file in files]}

    def produce(out: Path) -> None:
        copy_files(others, folder, out)
        if len(copies) == 1:
            shutil.copyfile(copies[0], out / "model.safetensors")
            return
        names: dict[str, str] = {}
        for file, copy in zip(files, copies, strict=True):
            shutil.copyfile(copy, out / f"{file.stem}.safetensors")
            names |= dict.fromkeys(_safetensors.check(copy), f"{file.stem}.safetensors")
        total = sum(copy.stat().st_size for copy in copies)
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")

    return open_store().stage("unpickled", key | {"beside": told(folder, others)}, produce)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that transformers would load of a folder that `check_weights` has passed."""
    whole = folder / _WEIGHTS[0]
    if whole.exists():
        return (whole,)
    return tuple(folder / name for name in sorted({*_weight_map(folder / _WEIGHTS[1]).values()}))


def copy_files(files: Iterable[Path], folder: Path, out: Path) -> None:
    """Copy files of a folder, and of those inside it, into the folder `out`, under their own names."""
    for file in files:
        place = out / file.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)


def told(folder: Path, files: Iterable[Path]) -> str:
    """A digest of files of a folder: their names in it, and their content."""
    return digest([[file.relative_to(folder).as_posix(), file_sha256(file)] for file in files])


def beside(folder: Path) -> list[Path]:
    """What lies beside the weights. Raises TeacherError where that is more than a model's settings can be."""
    patterns = (*_BESIDE, *(_MODULES if (folder / "modules.json").exists() else ()))
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if is_plain(path)})
    kept = [path for path in found if not path.name.endswith(".index.json")]
    if sum(path.stat().st_size for path in kept) > _COPY_MOST:
        raise TeacherError(
            f"the files beside the teacher's weights in {folder} have more than {_COPY_MOST >> 20} MiB",
            fix="leave only the model's own files in the folder",
        )
    return kept
