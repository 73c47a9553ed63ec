"""A profile as a probe found it: a YAML file to edit, whose comments say what was asked of whom."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from edgekd.core.results import this_host
from edgekd.hardware.profile import MODEST_MHZ, parse_profile, probed

_LINE = 110


def probed_profile(facts: Mapping[str, Any], *, name: str, title: str, how: str) -> dict[str, Any]:
    """The profile of the machine that told these facts; `how`: by whom and by which way. Raises UsageError.

    Where `ort_version` is None, the machine loads no ONNX Runtime, the profile asks for this host's.
    """
    runtime = "ONNX Runtime's version: what its Python loads"
    if facts["ort_version"] is None:
        runtime = "ONNX Runtime's version: that of the host that probed, since the machine loads none"
    today = datetime.now(UTC).date()
    source = (
        f"Probed {how} on {today}. Core, clock, instruction sets: the machine's kernel. "
        f"{runtime}. Budgets and accuracy floors: sober defaults, declared."
    )
    told = {**facts, "ort_version": facts["ort_version"] or this_host().ort_version}
    values = probed(told, name=name, title=title) | {"source": source}
    return parse_profile(values, where="the probed profile").as_dict()


def probed_text(values: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A probed profile as a YAML file, sections and comments as in the shipped ones."""
    memory = f"{facts['memory_mib']} MiB"
    clock = (
        "the highest that its kernel allows" if facts["clock_mhz"] else f"{MODEST_MHZ} is a guess: no kernel file tells"
    )
    version = (
        "what its Python loads"
        if facts["ort_version"]
        else "it loads none: this is the version of the host that probed"
    )
    core = "QEMU's name of such a core" if values["emulator_cpu"] else "no core that edgekd emulates"
    notes = {
        "microarch": "the core, where the kernel tells its part number; else the processor",
        "clock_mhz": clock,
        "emulator_cpu": core,
        "ort_version": version,
        "memory_mib": f"peak RSS above the import baseline: 1/32 of the {memory} that it has, at most 64",
        "artifact_mib": "half of it",
        "latency_ms": "not the machine's: what your application allows",
        "cold_start_ms": "process start to first output",
        "max_drop_points": "quantized over the fp32 student",
        "max_opset": "ceilings of the export: no more than that release loads",
        "reduce_range": "7-bit weights, where 8-bit products could saturate: no VNNI, no dotprod",
    }
    sections = {
        "schema": "A target profile, probed. Budgets and floors are defaults: make them your own, then\n"
        "# `edgekd targets check FILE` and `edgekd plan --target FILE`.",
        "arch": "cpu",
        "gpu": "gpu: not probed",
        "memory_mib": "budgets: the share of it that one inference process may take; sober defaults",
        "max_drop_points": "accuracy",
        "ort_version": "runtime",
        "recipes": "quantization",
    }
    lines: list[str] = []
    for key, value in values.items():
        if key in sections:
            lines.append(f"{chr(10) if lines else ''}# {sections[key]}")
        said = f"{key}: {_spelled(value)}"
        lines.append(f"{said}  # {notes[key]}" if key in notes else said)
    return "\n".join(lines) + "\n"


def _spelled(value: Any) -> str:
    """One value in one line, a long text in a folded block."""
    if isinstance(value, str) and len(value) > _LINE:
        return "\n  ".join([">-", *textwrap.wrap(value, _LINE)])
    said = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10 * _LINE)
    return said.removesuffix("\n").removesuffix("\n...")
