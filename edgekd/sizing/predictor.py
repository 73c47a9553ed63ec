"""What a shape costs, predicted from a few dozen anchor shapes that were measured on a host.

Each figure is a sum of what the shape does (bytes kept, multiply-adds, values moved, operators run) times
coefficients that are never negative, fitted per family and recipe by least squares of the relative error. The error
that is printed is cross-validated: every anchor predicted by a fit that never saw it, 90th percentile.

Latencies are kept as ratios to a reference model that was timed beside each anchor: a host that is merely faster or
slower needs one run of the reference, not the anchors again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekd.core.digests import digest
from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import Work
from edgekd.core.results import Host, this_host
from edgekd.store.store import open_store

SCHEMA = 2  # goes up with every change of `features` or of what a family counts as its work
FIGURES = ("memory_mib", "artifact_mib", "latency_ratio", "cold_start_ms")
_MIB = 2**20
_CACHE_MIB = 8  # about what a core's caches hold of a model's weights


@dataclass(frozen=True)
class Prediction:
    """One shape's cost under one recipe. Latency in units of the reference model's."""

    memory_mib: float
    artifact_mib: float
    latency_ratio: float
    cold_start_ms: float
    memory_parts: dict[str, float]  # MiB: weights, packed copies, activations, runtime


@dataclass(frozen=True)
class Predictor:
    """Fitted coefficients and their errors, as an anchor file holds them."""

    host: dict[str, Any]
    fits: dict[
        str, dict[str, Any]
    ]  # "family/recipe" to {figure: {"coefficients": [...], "p90": ...}, "checked": [...]}
    path: Path

    @property
    def is_own(self) -> bool:
        """Whether the anchors were measured on this host, with this ONNX Runtime."""
        here = this_host()
        return all(self.host[key] == getattr(here, key) for key in ("cpu", "arch", "ort_version"))

    @property
    def measured_on(self) -> str:
        """The machine of the anchors, and its ONNX Runtime."""
        return f"{self.host['cpu']} ({self.host['arch']}), onnxruntime {self.host['ort_version']}"

    @property
    def digest(self) -> str:
        """SHA-256 of all that predictions depend on."""
        return digest({"host": self.host, "fits": self.fits})

    def knows(self, family: str, recipe: str) -> bool:
        """Whether the family was measured under the recipe, or one that stands in for it."""
        return self._fit_name(family, recipe) in self.fits

    def _fit_name(self, family: str, recipe: str) -> str:
        """Where a recipe was not measured, another of its kind stands in: the finalists are measured anyway."""
        own = f"{family}/{recipe}"
        if own in self.fits or "int8" not in recipe:
            return own if own in self.fits else f"{family}/float32"
        return next((name for name in self.fits if name.startswith(f"{family}/") and "int8" in name), own)

    def _fit(self, family: str, recipe: str) -> dict[str, Any]:
        if not self.knows(family, recipe):
            raise EdgeKDError(
                f"no shape of the {family} family was ever measured under {recipe}: its cost cannot be predicted",
                fix="run `edgekd doctor --fix predictor`, once",
            )
        return self.fits[self._fit_name(family, recipe)]

    def errors(self, family: str, recipe: str) -> dict[str, float]:
        """The cross-validated 90th percentile of the relative error, by figure."""
        fit = self._fit(family, recipe)
        return {figure: fit[figure]["p90"] for figure in FIGURES}

    def checked(self, family: str, recipe: str) -> list[dict[str, Any]]:
        """Every anchor's figures as measured, and as predicted by a fit that never saw it."""
        found: list[dict[str, Any]] = self._fit(family, recipe)["checked"]
        return found

    def predict(self, family: str, recipe: str, work: Work) -> Prediction:
        """The cost of one run of that work."""
        fit = self._fit(family, recipe)

        def figure(name: str) -> tuple[float, list[float]]:
            parts = [c * f for c, f in zip(fit[name]["coefficients"], features(name, recipe, work), strict=True)]
            return sum(parts), parts

        memory, parts = figure("memory_mib")
        artifact = figure("artifact_mib")[0] * (0.5 if recipe == "float16" else 1.0)
        named = dict(zip(_MEMORY_TERMS, parts, strict=True))
        kept = sum(named[term] for term in ("lookups", "matrices", "largest", "others"))
        weights = min(artifact, kept)
        return Prediction(
            memory_mib=memory,
            artifact_mib=artifact,
            latency_ratio=figure("latency_ratio")[0],
            cold_start_ms=figure("cold_start_ms")[0],
            memory_parts={
                "weights": weights,
                "packed copies": kept - weights,
                "activations": named["activations"],
                "runtime": named["runtime"] + named["operators"],
            },
        )


_MEMORY_TERMS = ("runtime", "lookups", "matrices", "largest", "others", "activations", "operators")


def features(figure: str, recipe: str, work: Work) -> list[float]:
    """What a figure is a weighted sum of: MiB, thousands of operators, millions of multiply-adds and values."""
    size = 1 if "int8" in recipe else 4  # bytes of a weight in a matrix or table; norms and biases stay float
    lookups, matrices = work.lookup_weights * size / _MIB, work.matrix_weights * size / _MIB
    others, activations = work.other_weights * 4 / _MIB, work.activations * 4 / _MIB
    operators = work.operators / 1e3
    if figure == "memory_mib":
        return [1.0, lookups, matrices, work.largest * size / _MIB, others, activations, operators]
    if figure == "artifact_mib":
        return [1e-3, lookups, matrices, others, operators]
    if figure == "latency_ratio":
        narrow, uncached = work.narrow_moved / 1e6, max(0.0, matrices - _CACHE_MIB)
        moved, macs = work.moved / 1e6, work.macs / 1e6
        return [1.0, operators, macs, work.other_macs / 1e6, moved, narrow, matrices, uncached]
    return [1.0, operators, lookups, matrices + others]


def folders() -> tuple[Path, Path]:
    """Where anchor files lie: this user's own, then those that edgekd ships."""
    return open_store().root / "measured", Path(__file__).with_name("measured")


@cache
def load(family: str) -> Predictor:
    """The anchors of the host most like this one: architecture first, then runtime, then machine.

    Files without shapes of the family, of another schema, still being measured, or that cannot be read do not count.
    """
    here = this_host()
    files = [path for folder in folders() for path in sorted(folder.glob("*.json"))]
    read = [(path, values) for path in files if (values := read_file(path)) and values["fits"]]
    said = [one for one in read if any(name.startswith(f"{family}/") for name in one[1]["fits"])]
    path, best = max(said or read, key=lambda one: _likeness(one[1]["host"], here))  # the first of equals
    return Predictor(best["host"], best["fits"], path)


def read_file(path: Path) -> dict[str, Any]:
    """An anchor file of this schema; empty where there is none."""
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if said.get("schema") == SCHEMA else {}


def _likeness(host: Mapping[str, Any], here: Host) -> tuple[bool, ...]:
    return (host["arch"] == here.arch, host["ort_version"] == here.ort_version, host["cpu"] == here.cpu)


def fit(readings: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Coefficients for every family and recipe of the readings, with cross-validated errors.

    A reading: family, recipe, name, memory_mib, artifact_mib, cold_start_ms, and `runs`: work and latency_ratio at
    each size. Memory and cold start belong to the reading's `headline` run.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for reading in readings:
        groups.setdefault(f"{reading['family']}/{reading['recipe']}", []).append(reading)
    return {name: _fit_group(name.split("/")[1], rows) for name, rows in groups.items()}


def _fit_group(recipe: str, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import numpy as np

    said: dict[str, Any] = {"checked": [{"name": reading["name"]} for reading in readings], "n": len(readings)}
    for figure in FIGURES:
        rows, values, owners = [], [], []
        for owner, reading in enumerate(readings):
            for run in reading["runs"] if figure == "latency_ratio" else [reading["headline"]]:
                rows.append(features(figure, recipe, Work(**run["work"])))
                values.append(run[figure] if figure == "latency_ratio" else reading[figure])
                owners.append(owner)
        table, truth, owner_of = np.array(rows), np.array(values), np.array(owners)
        guesses = np.zeros(len(truth))
        for owner in range(len(readings)):  # leave one shape out, with all its sizes
            out = owner_of == owner
            guesses[out] = table[out] @ _coefficients(table[~out], truth[~out])
        errors = np.abs(guesses / truth - 1)
        said[figure] = {
            "coefficients": list(_coefficients(table, truth)),
            "p90": float(np.percentile(errors, 90)),
            "median": float(np.median(errors)),
        }
        for owner, checked in enumerate(said["checked"]):
            last = np.flatnonzero(owner_of == owner)[-1]
            checked[figure] = [float(truth[last]), float(guesses[last])]
    return said


def _coefficients(table: Any, truth: Any) -> Any:
    """Non-negative least squares of the relative error (Lawson and Hanson 1974)."""
    from scipy.optimize import nnls

    return nnls(table / truth[:, None], truth / truth)[0]
