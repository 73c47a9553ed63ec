"""Anchors: a few dozen shapes of each family, measured on this host, that the predictor is fitted to.

Run by `edgekd doctor --fix predictor`. Every shape's reading is kept as it comes: stopped, the same command goes on.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from edgekd.core.protocols import InputSpec
from edgekd.core.registry import names, plugin
from edgekd.core.results import this_host, versions
from edgekd.hardware.profile import load_profile
from edgekd.sizing import predictor
from edgekd.sizing.bench import CALIBRATION, Bench, random_model, random_samples, reference, reference_samples

SHAPES = 48  # a family
PROFILE = {"x86_64": "cpu-avx2", "aarch64": "rpi5"}  # whose quantization options the anchors are measured with
_SIZES = (8, 16, 32, 64)  # of texts, in tokens
_MOST_WEIGHTS = 32e6  # beyond that, in fp32, a sum no longer tells memory: what small devices hold lies below
_HIDDEN = ((128, 2, 512), (256, 4, 1024), (312, 12, 1200), (384, 12, 1536), (512, 8, 2048), (768, 12, 3072))
_IMAGES = ((224, 3), (128, 3), (64, 3), (32, 3), (28, 1))
_MLP_SIDE = 64
_WHISPERS = ((384, 6, 4), (512, 8, 6))  # tiny and base
FEW = {"whisper": 8}  # shapes of a family each of which takes a minute
_SERIES = ((500, 1), (96, 1), (1024, 3), (140, 9))


def settings(family: str) -> Iterable[tuple[dict[str, Any], InputSpec, int]]:
    """Teachers and data whose ladders together span the family: architecture, survey, classes."""
    if family == "transformer":
        for hidden, heads, wide in _HIDDEN:
            for tokens in (2000, 8000, 30522):
                sizes = {"layers": 12, "hidden": hidden, "heads": heads, "feed_forward": wide, "vocabulary": tokens}
                yield sizes | {"max_tokens": 512}, InputSpec(128, _SIZES, vocabulary=tokens), 8
    if family in ("convnet", "mlp"):
        for side, channels in _IMAGES:
            if family == "convnet" or side <= _MLP_SIDE:
                yield {"side": side}, InputSpec(side, (side,), channels=channels), 10
    if family == "whisper":
        for hidden, heads, layers in _WHISPERS:
            whisper = {"hidden": hidden, "heads": heads, "encoder_layers": layers, "decoder_layers": layers}
            whisper |= {"encoder_feed_forward": 4 * hidden, "decoder_feed_forward": 4 * hidden}
            whisper |= {"vocabulary": 51865, "mels": 80, "window_s": 30, "max_tokens": 448}
            yield {"family": family, "shape": whisper}, InputSpec(30, (30,)), 0
    if family in ("conv1d", "mlp"):
        for steps, channels in _SERIES:
            yield {"steps": steps}, InputSpec(steps, (steps,), channels=channels), 6


def chosen(family: str, count: int = SHAPES) -> list[Any]:
    """Shapes that lie far from one another in multiply-adds, weights and values moved (on a logarithmic scale)."""
    kind = plugin("students", family)
    ladder = {shape: None for sets in settings(family) for shape in kind.ladder(sets[0], sets[1], classes=sets[2])}
    places = {}
    for shape in ladder:
        work = shape.work(_SIZES[2] if family == "transformer" else shape.max_size)
        if work.weights <= _MOST_WEIGHTS or family in FEW:
            places[shape] = (log(work.macs + work.other_macs), log(work.weights), log(work.moved), work.operators / 50)
    found = [min(places, key=lambda shape: places[shape]), max(places, key=lambda shape: places[shape])]
    distance = {shape: min(_apart(places[shape], places[one]) for one in found) for shape in places}
    while len(found) < min(FEW.get(family, count), count, len(places)):
        found.append(max(distance, key=lambda shape: distance[shape]))
        for shape in places:
            distance[shape] = min(distance[shape], _apart(places[shape], places[found[-1]]))
    return found


def _apart(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))


def recipes(family: str) -> tuple[str, ...]:
    """What each anchor is measured under: the family's own recipes and fp32, which every teacher runs in."""
    return tuple(dict.fromkeys(("float32", *plugin("students", family).recipes)))


def measure(out: str, families: list[str] | None = None, count: int = SHAPES) -> None:
    """Measure what `out` (a JSON file) does not hold yet, and fit. Runs in a child process: it loads torch."""
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    readings = predictor.read_file(path).get("readings", [])
    wanted = [(family, shape) for family in families or names("students") for shape in chosen(family, count)]
    done = {(reading["family"], reading["name"], reading["recipe"]) for reading in readings}
    for number, (family, shape) in enumerate(wanted, start=1):
        if any((family, _name(shape), recipe) not in done for recipe in recipes(family)):
            readings = [r for r in readings if (r["family"], r["name"]) != (family, _name(shape))]
            readings += read(family, shape)
            _write(path, readings, {})
        print(f"measured {number} of {len(wanted)}: {family}, {shape}", flush=True)  # noqa: T201
    _write(path, readings, predictor.fit(readings))


def read(family: str, shape: Any) -> list[dict[str, Any]]:
    """One shape under each of its recipes: memory and cold start alone, latency beside the reference model."""
    profile = load_profile(PROFILE[this_host().arch])
    sizes = [size for size in _SIZES if size <= shape.max_size] if family == "transformer" else [shape.max_size]
    headline = min(32, shape.max_size) if family == "transformer" else shape.max_size
    with tempfile.TemporaryDirectory(prefix="edgekd-anchor-") as folder:
        bench = Bench(Path(folder), profile.threads, family)
        plain = bench.export(random_model(shape), shape.exporter, profile, _task(shape))
        calibration = random_samples(shape, [headline] * CALIBRATION)
        files = {recipe: bench.quantize(plain, recipe, profile, calibration) for recipe in recipes(family)}
        samples = random_samples(shape, sizes)
        models = {"reference": (reference(Path(folder, "reference.onnx")), reference_samples(len(sizes)))}
        models |= {recipe: (file, samples) for recipe, file in files.items()}
        times = bench.time(models)
        said = []
        for recipe, file in files.items():
            runs = [
                {
                    "size": size,
                    "work": asdict(shape.work(size)),
                    "latency_ratio": median(
                        own[row] / beside[row] for own, beside in zip(times[recipe], times["reference"], strict=True)
                    ),
                }
                for row, size in enumerate(sizes)
            ]
            said.append(
                {
                    "family": family,
                    "name": _name(shape),
                    "shape": shape.as_dict(),
                    "recipe": recipe,
                    **bench.footprint(file, random_samples(shape, [headline])),
                    "headline": {"size": headline, "work": asdict(shape.work(headline))},
                    "runs": runs,
                    "reference_ms": median(samples[0] for samples in times["reference"]),
                }
            )
    return said


def file_name() -> str:
    """The anchor file of this host and runtime: `amd-epyc-x86-64-ort-1.32.0.json`."""
    here = this_host()
    return re.sub(r"[^a-z0-9.]+", "-", f"{here.cpu} {here.arch} ort {here.ort_version}".lower()) + ".json"


def _name(shape: Any) -> str:
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in shape.as_dict().items()
    )


def _write(path: Path, readings: list[dict[str, Any]], fits: dict[str, Any]) -> None:
    here = this_host()
    said = {
        "schema": predictor.SCHEMA,
        "host": {"cpu": here.cpu, "arch": here.arch, "isa": here.isa, "ort_version": here.ort_version},
        "profile": PROFILE[here.arch],
        "versions": versions("edgekd", "torch", "onnx", "onnxruntime", "optimum-onnx"),
        "fits": fits,
        "readings": readings,
    }
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(said, indent=1), encoding="utf-8")
    partial.replace(path)


def _task(shape: Any) -> str:
    """Return a task of the shape's modality: whichever it is, the graph has one row of classes."""
    return next(task for task in names("tasks") if plugin("tasks", task).modality in shape.modalities)
