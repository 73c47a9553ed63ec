"""Figures that say how they were got, and the host that they were got on."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

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


# What ONNX Runtime's kernels choose between; the names that target profiles use, and the kernel's flags.
_ISA_FLAGS = {
    "sse4_2": "sse4_2", "avx": "avx", "avx2": "avx2", "fma": "fma", "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni", "avx_vnni": "avx_vnni", "asimd": "asimd", "asimddp": "asimddp",
    "fphp": "fphp", "asimdhp": "asimdhp", "i8mm": "i8mm", "bf16": "bf16",
}  # fmt: skip


@cache
def this_host() -> Host:
    """Read this machine's identity from the kernel; imports nothing heavy."""
    cpu, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            cpu = value.strip()
        if key.strip() in ("flags", "Features"):
            flags |= set(value.split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return Host(
        arch=platform.machine(),
        cpu=cpu,
        isa=tuple(name for name, flag in _ISA_FLAGS.items() if flag in flags),
        cores=os.cpu_count() or 1,
        memory_mib=memory,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
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
    """SHA-256 of a file's bytes, read in blocks."""
    hasher = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
