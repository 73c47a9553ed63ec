"""What a machine is and how it fares, as its kernel tells: CPU, instruction sets, clock, governor, temperature, load.

The standard library alone: it answers at once, on a board without a single package too.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# What ONNX Runtime's kernels choose between; the names that target profiles use, and the kernel's flags.
_ISA_FLAGS = {
    "sse4_2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "asimd": "asimd",
    "asimddp": "asimddp",
    "fphp": "fphp",
    "asimdhp": "asimdhp",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
# MIDR_EL1: implementer and part number (Arm's Technical Reference Manuals), and what profiles call such a core
_ARM_CORES = {
    (0x41, 0xD03): "cortex-a53",
    (0x41, 0xD04): "cortex-a35",
    (0x41, 0xD05): "cortex-a55",
    (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72",
    (0x41, 0xD09): "cortex-a73",
    (0x41, 0xD0A): "cortex-a75",
    (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD0D): "cortex-a77",
    (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD42): "cortex-a78ae",
    (0x41, 0xD44): "cortex-x1",
    (0x41, 0xD46): "cortex-a510",
    (0x41, 0xD47): "cortex-a710",
}
_CPUS = "sys/devices/system/cpu"


def identity(root: Path = Path("/")) -> dict[str, Any]:
    """What does not change: `arch`, `cpu`, `microarch`, `isa`, `cores`, `clock_mhz`, `memory_mib`, `os`, `python`.

    `microarch` is the core's name where the kernel tells its part number, else the CPU's; `clock_mhz` may be None.
    """
    model, core, flags = "", "", set[str]()
    implementer = part = -1
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = (piece.strip() for piece in line.partition(":"))
        if key in ("model name", "Model") and value:
            model = value
        elif key in ("flags", "Features"):
            flags |= set(value.split())
        elif key == "CPU implementer":
            implementer = int(value, 16)
        elif key == "CPU part":
            part = int(value, 16)
    core = _ARM_CORES.get((implementer, part), "")
    board = _text(root / "proc/device-tree/model").rstrip("\0")  # where the kernel's cpuinfo names no board
    model = model or board or core or platform.processor() or platform.machine()
    return {
        "arch": platform.machine(),
        "cpu": model,
        "microarch": core or model,
        "isa": [name for name, flag in _ISA_FLAGS.items() if flag in flags],
        "cores": os.cpu_count() or 1,
        "clock_mhz": _clock_mhz(root),
        "memory_mib": _memory_mib(root),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def state(root: Path = Path("/")) -> dict[str, Any]:
    """How it fares now: `load` (of a minute), `governor`, `temperature_c` (the hottest zone), `clock_mhz`, `throttled`.

    None where the kernel does not tell. `throttled`: whether a cooling device holds the clock down.
    """
    temperatures = [
        int(text) / 1000 for zone in sorted(root.glob("sys/class/thermal/thermal_zone*/temp")) if (text := _text(zone))
    ]
    governor = _text(root / _CPUS / "cpu0/cpufreq/scaling_governor")
    clock = _text(root / _CPUS / "cpu0/cpufreq/scaling_cur_freq")
    cooling = [
        int(text)
        for device in sorted(root.glob("sys/class/thermal/cooling_device*"))
        if "cpufreq" in _text(device / "type") and (text := _text(device / "cur_state"))
    ]
    load = _text(root / "proc/loadavg")
    return {
        "load": float(load.split()[0]) if load else None,
        "governor": governor or None,
        "temperature_c": max(temperatures) if temperatures else None,
        "clock_mhz": int(clock) // 1000 if clock else None,
        "throttled": any(cooling) if cooling else None,
    }


def _clock_mhz(root: Path) -> int | None:
    """The highest that the CPU may run at; what it runs at now where only that is told."""
    if ceiling := _text(root / _CPUS / "cpu0/cpufreq/cpuinfo_max_freq"):
        return int(ceiling) // 1000 or None
    for line in _lines(root / "proc/cpuinfo"):
        if line.startswith("cpu MHz"):
            return int(float(line.split(":")[1]))
    return None


def _memory_mib(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal"):
            return int(line.split()[1]) // 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _text(path: Path) -> str:
    """A small file of the kernel's, stripped; empty where there is none, or it cannot be read now."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()
