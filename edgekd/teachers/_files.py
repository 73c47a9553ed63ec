"""A teacher's folder as files: weights that can be trusted, their shapes, a fingerprint, the licence."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from edgekd.core.errors import TeacherError
from edgekd.core.results import file_sha256
from edgekd.core.shards import read_header

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def check_weights(folder: Path) -> list[Path]:
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


def weight_shapes(files: list[Path]) -> dict[str, list[int]]:
    """Name to shape of the safetensors weights, from their headers; empty for pickles."""
    shapes: dict[str, list[int]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            shapes |= {key: value["shape"] for key, value in read_header(file)[0].items() if key != "__metadata__"}
    return shapes


def fingerprint(folder: Path, weights: Iterable[Path], others: Iterable[str]) -> str:
    """SHA-256 over the weights, config.json, and those of the other files that are there."""
    hasher = sha256()
    beside = [folder / name for name in ("config.json", *others) if (folder / name).exists()]
    for file in (*weights, *beside):
        hasher.update(f"{file.name}:{file_sha256(file)}\n".encode())
    return hasher.hexdigest()


def licence(folder: Path) -> str:
    """What the model card says."""
    card = folder / "README.md"
    if card.exists():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
            if line.startswith("license:"):
                return f"{line.removeprefix('license:').strip()} (as its model card says)"
    return "not stated in the teacher's folder"


def _check_safetensors(file: Path) -> None:
    try:
        read_header(file)
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
