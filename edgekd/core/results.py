"""Figures that say how they were got, and the host that they were got on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
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
