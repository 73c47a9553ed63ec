"""Costs that were measured for one target and hold for others, too: the same model, quantized alike, on this machine.

So two targets whose budgets lead to one shape choose it by the same figures, and the second is sized in a moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.registry import plugin
from edgekd.hardware.profile import Profile
from edgekd.store.store import Store

TEACHER = "teacher"
_FILE = "cost.json"
_OF_THE_MODEL = ("schema", "teacher_kind", "architecture", "family", "survey", "classes", "task")  # of the request


def facts(request: Mapping[str, Any], target: Profile, recipes: Iterable[str]) -> dict[str, Any]:
    """Return what a measurement depends on beside the shape and the machine: of the target no budget, and no name."""
    return {name: request[name] for name in _OF_THE_MODEL} | {
        "recipes": {name: repr(plugin("quantizers", name).for_target(target)) for name in recipes},
        "max_opset": target.max_opset,
        "max_ir_version": target.max_ir_version,
        "threads": target.threads,
    }


def name_of(shape: Mapping[str, Any]) -> str:
    """Return a shape as a key of plain JSON."""
    return json.dumps(shape, sort_keys=True)


@dataclass(frozen=True)
class Measured:
    """What was measured, in the store; `key` has what all of it depends on."""

    store: Store
    key: Mapping[str, Any]

    def known(self, shapes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what is kept of the teacher and of these shapes, by name."""
        found = {name: self._key(name) for name in (TEACHER, *map(name_of, shapes))}
        return {name: self._read(key) for name, key in found.items() if self.store.has("cost", key)}

    def keep(self, costs: Mapping[str, Any]) -> None:
        """Keep what a search has measured, by name."""
        for name, cost in costs.items():

            def produce(out: Path, cost: Any = cost) -> None:
                (out / _FILE).write_text(json.dumps(cost), encoding="utf-8")

            self.store.stage("cost", self._key(name), produce)

    def _key(self, name: str) -> dict[str, Any]:
        return {**self.key, "of": name}

    def _read(self, key: Mapping[str, Any]) -> Any:
        return json.loads((self.store.path("cost", key) / _FILE).read_text(encoding="utf-8"))
