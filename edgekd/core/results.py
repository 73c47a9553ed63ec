"""Figures that say how they were got, and the host that they were got on."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from edgekd.onboard import machine

IMPORT_BASELINE_MIB = 50  # about what Python, numpy and ONNX Runtime take before a model is loaded, on Linux
Kind = Literal["measured", "predicted", "declared", "unknown"]


@dataclass(frozen=True)
class Figure:
    """One number and its proof. `interval`: 95%, a prediction's band, or lowest to highest of a few runs.

    `measured` for a target is only what ran on that target's architecture.
    """

    value: float | None
    unit: str
    kind: Kind
    how: str
    n: int = 1
    interval: tuple[float, float] | None = None
    host: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `report.json` carries it."""
        return asdict(self)


@dataclass(frozen=True)
class Host:
    """The machine that measures: what a latency without it would mean nothing for."""

    arch: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    memory_mib: int
    os: str
    python: str
    ort_version: str

    @property
    def name(self) -> str:
        """One line for the reader: `AMD EPYC (x86_64, 2 cores), onnxruntime 1.32.0`."""
        return f"{self.cpu} ({self.arch}, {self.cores} cores), onnxruntime {self.ort_version}"


@cache
def this_host() -> Host:
    """Read this machine's identity from the kernel; imports nothing heavy."""
    told = machine.identity()
    return Host(
        **{key: told[key] for key in ("arch", "cpu", "cores", "memory_mib", "os", "python")},
        isa=tuple(told["isa"]),
        ort_version=versions("onnxruntime")["onnxruntime"],
    )


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, without importing the packages; `absent` where one is not there."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def canonical(value: Any) -> str:
    """The one JSON text of a value: what digests and manifests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks. Raises OSError; for a pipe or a device as well, at once."""
    hasher = sha256()
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
