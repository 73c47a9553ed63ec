"""Checkpoints that are pickles: read by a process of its own with limits, kept as safetensors, never loaded here.

The copy lies in the store under the SHA-256 of what it was made from: each file is converted once.
"""

from __future__ import annotations

import json
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgekd.core.digests import file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.pointers import check_no_pointer
from edgekd.core.results import versions
from edgekd.security import child
from edgekd.store.store import open_store

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"
_SAID = "checks.json"
_BASE_MIB, _FACTOR = 1536, 6  # torch itself; the file, its tensors, their copies, and what looks for NaN in them
_BASE_S, _MIB_PER_S = 16.0, 10  # a gigabyte takes well under a minute; what takes longer is no checkpoint
_MOST_STEPS = 400_000  # of a pickle; a tensor takes about thirty
_STATE_MOST = 4  # times the file: tied weights are written once for each of their names
_NAMES_MOST = 100_000
_FIX = "do not load it; ask its author for model.safetensors, or convert it on a machine you can lose"


def converted(file: Path) -> tuple[Path, tuple[str, ...]]:
    """The safetensors copy of a checkpoint, and what was found on the way, in words.

    Raises TeacherError for one that would run code, is no flat table of plain tensors, names more values than it
    holds, holds NaN or infinity, or cannot be read within the limits.
    """
    check_no_pointer(file, TeacherError)
    key = {"file": file_sha256(file), "versions": versions("torch", "picklescan", "safetensors", "edgekd")}
    place = open_store().stage("checkpoint", key, lambda out: _convert_apart(file, out))
    said = json.loads((place / _SAID).read_text(encoding="utf-8"))
    return place / WEIGHTS, (
        f"pickle: picklescan {said['picklescan']} found {said['globals']} names in it, all of them harmless",
        "it was loaded with weights_only, in a process with limits on memory and time",
        f"{said['weights']} tensors: types, sizes against storage and values checked; used as safetensors from then on",
    )


def _convert_apart(file: Path, out: Path) -> None:
    size_mib = file.stat().st_size >> 20
    seconds = _BASE_S + size_mib / _MIB_PER_S
    limits = child.Limits(memory_mib=_BASE_MIB + _FACTOR * size_mib, cpu_s=int(seconds))
    try:
        child.call(
            "edgekd.teachers._pickles:convert", {"file": str(file), "out": str(out)}, timeout_s=seconds, limits=limits
        )
    except child.ChildError as error:
        raise TeacherError(f"the teacher's pickle {file} cannot be read: {error.why}", fix=_FIX) from error


def convert(file: str, out: str) -> None:
    """Scan, load, check and write again (in a child process with limits). Raises TeacherError as `converted`."""
    path = Path(file)
    _check_container(path)
    _check_length(path)
    scanned = _scan(path)
    tensors = dict(_checked(_loaded(path), path))
    from safetensors.torch import save_file

    save_file(tensors, Path(out, WEIGHTS), metadata={"format": "pt"})
    said = {"picklescan": versions("picklescan")["picklescan"], "globals": scanned, "weights": len(tensors)}
    Path(out, _SAID).write_text(json.dumps(said), encoding="utf-8")


def _check_container(path: Path) -> None:
    """Raises TeacherError for a zip that unpacks to more than it is, and for the format of the years before 2017."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _unreadable(path, str(error)) from error
        declared = sum(entry.file_size for entry in entries)
        if declared > size or len({entry.header_offset for entry in entries}) < len(entries):
            raise _unreadable(path, f"it is a zip of {size} bytes that unpacks to {declared}; torch packs nothing")
    elif tarfile.is_tarfile(path):
        raise _unreadable(path, "it is in torch's old tar format, which cannot be loaded without running it")


def _check_length(path: Path) -> None:
    """Raises TeacherError for a pickle of more steps than tensors need: picklescan would walk them for minutes."""
    steps = 0
    try:
        for stream in _streams(path):
            for _ in pickletools.genops(stream):
                steps += 1
                if steps > _MOST_STEPS:
                    raise _unreadable(path, f"it has more than {_MOST_STEPS:,} steps")
    except (ValueError, IndexError, OverflowError, OSError, struct.error, zipfile.BadZipFile, RuntimeError):
        return  # damaged: whoever reads it next says how


def _streams(path: Path) -> Iterator[IO[bytes]]:
    """The pickles in a checkpoint: in torch's zip, or, as it was before 1.6, up to five in a row."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in (name for name in archive.namelist() if name.endswith(".pkl")):
                with archive.open(name) as stream:
                    yield stream
        return
    with path.open("rb") as stream:
        for _ in range(5):
            yield stream


def _scan(path: Path) -> int:
    """How many names picklescan found. Raises TeacherError for one that is not known to be harmless."""
    from picklescan.scanner import SafetyLevel, scan_file_path

    try:
        result = scan_file_path(str(path))
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails in every way that Python knows
        raise _unreadable(path, _first_line(error)) from error
    for level, what in (
        (SafetyLevel.Dangerous, "would run code when loaded: it calls"),
        (SafetyLevel.Suspicious, "needs more than plain tensors: it calls"),
    ):
        if strange := sorted({f"{one.module}.{one.name}" for one in result.globals if one.safety == level}):
            raise TeacherError(f"the teacher's pickle {path} {what} {', '.join(strange[:3])}", fix=_FIX)
    if result.scan_err:
        raise TeacherError(f"the teacher's pickle {path} cannot be read", fix=_FIX)
    return len({(one.module, one.name) for one in result.globals})


def _loaded(path: Path) -> Mapping[Any, Any]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # as above
        if "allocate memory" in str(error):
            raise MemoryError from error
        told = str(error).startswith("Weights only load failed")  # what follows advises to load it without
        raise _unreadable(path, "it is more than tensors, or damaged" if told else _first_line(error)) from error
    if not isinstance(state, Mapping) or not state or len(state) > _NAMES_MOST:
        raise _unreadable(path, "it holds no flat table of tensors")
    return state


def _checked(state: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and own copies of the tensors. Raises TeacherError for what is not plain, whole and finite."""
    import torch

    plain = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    room = _STATE_MOST * path.stat().st_size
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _unreadable(path, f"it holds {type(value).__name__} under {name!r}, not a tensor under a name")
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in plain:
            raise _unreadable(path, f"{name!r} is no plain tensor: {value.dtype}, {value.layout}, {value.device}")
        needed, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
        if needed > held:
            raise _unreadable(path, f"{name!r} has {value.numel()} values over a storage of {held} bytes")
        room -= needed
        if room < 0:
            raise _unreadable(path, f"its tensors together are more than {_STATE_MOST} times as large as the file")
        if value.is_floating_point():
            bad = value.numel() - int(torch.isfinite(value).sum())
            if bad and (value.numel() > 1 or bool(torch.isnan(value).any())):  # a single infinity makes masks
                raise TeacherError(
                    f"the weight {name!r} of {path} holds NaN or infinity ({bad} of {value.numel()} values)",
                    fix="give an undamaged model",
                )
        yield name, value.detach().clone(memory_format=torch.contiguous_format)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreadable(path: Path, why: str) -> TeacherError:
    return TeacherError(f"the teacher's pickle {path} cannot be loaded: {why}", fix=_FIX)
