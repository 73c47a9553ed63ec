"""What does int8 cost on a board's core? `python -m benchmarks.instructions`; `edgekd doctor --fix emulator` first.

Students of the shapes that the demos get, and the two teachers, with random weights (what a model costs does not depend
on what it has learned), exported and quantized as for a Raspberry Pi 4 and 5, counted on an emulated core of each.
`--trained FOLDER` counts variants that a build of the text demo kept (`compress/...` in its store) beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import results
from edgekd.compression.candidates import variant
from edgekd.core.registry import make
from edgekd.hardware.profile import Profile, load_profile
from edgekd.onboard.runner import pack
from edgekd.sizing.bench import CALIBRATION, Bench, random_model, random_samples

TARGETS = ("rpi4", "rpi5")
FP32, RECIPES = "float32", ("float32", "static_int8", "dynamic_int8")
TOKENS = 32  # of a text
TRAINED = "transformer 3 x 384, trained"
SHAPES = {
    "transformer 3 x 384": make(
        "students",
        "transformer",
        layers=3,
        hidden=384,
        heads=12,
        feed_forward=1152,
        vocabulary=9032,
        max_tokens=64,
        classes=50,
    ),
    "MiniLM-L6": make(
        "students",
        "transformer",
        layers=6,
        hidden=384,
        heads=12,
        feed_forward=1536,
        vocabulary=30522,
        max_tokens=512,
        classes=50,
    ),
    "convnet, 64 px": make("students", "convnet", image_size=64, channels=3, classes=10, depth=0.5, expand=3),
    "EfficientNet-Lite0, 224 px": make("students", "convnet", image_size=224, channels=3, classes=1000),
    "conv1d, 500 steps": make(
        "students",
        "conv1d",
        width=64,
        depth=6,
        kernel=7,
        stride=4,
        separable=True,
        dilated=True,
        steps=500,
        channels=1,
        classes=2,
    ),
    "mlp, 500 steps": make(
        "students", "mlp", width=256, depth=3, side=500, channels=1, classes=2, input_name="past_values"
    ),
}
CLASSES = {  # as the table folds them: names of the counter's
    "float": "float multiply-add",
    "int8": "integer multiply-add",
    "dot": "dot product",
}


def variants(shape: Any, bench: Bench, target: Profile) -> dict[str, dict[str, str]]:
    """By recipe: the model's file, and one input."""
    size = min(TOKENS, shape.max_size) if shape.exporter == "optimum" else shape.max_size
    plain = bench.export(random_model(shape), shape.exporter, target, shape.tasks[0])
    calibration, inputs = random_samples(shape, [size] * CALIBRATION), plain.file.with_name("input.npz")
    pack(calibration[:1], inputs)
    made = {recipe: bench.quantize(plain, recipe, target, calibration) for recipe in RECIPES}
    return {recipe: model.job | {"inputs": str(inputs)} for recipe, model in made.items()}


def counted(target: Profile, folder: Path, trained: Path | None) -> dict[str, Any]:
    """Each model's instructions on the target's core, over fp32's, by class in millions; how far two runs differ."""
    bench = Bench(folder, threads=1)
    jobs = {name: variants(shape, bench, target) for name, shape in SHAPES.items()}
    if trained:
        inputs = jobs[TRAINED.partition(",")[0]][FP32]["inputs"]
        made = {recipe: variant(trained, recipe, "text-classification") for recipe in RECIPES}
        jobs[TRAINED] = {recipe: model.job | {"inputs": inputs} for recipe, model in made.items()}
    flat = {f"{name}/{recipe}": job for name, kinds in jobs.items() for recipe, job in kinds.items()}
    with make("devices", "qemu", cpu=target.emulator_cpu).up() as device:
        first, second = (device.run("count", models=flat, threads=1) for _ in range(2))
        host = device.host
    apart = max(abs(second[name]["instructions"] / one["instructions"] - 1) for name, one in first.items())
    models: dict[str, Any] = {}
    for name, kinds in jobs.items():
        plain = first[f"{name}/{FP32}"]["instructions"]
        models[name] = {recipe: _folded(first[f"{name}/{recipe}"], plain) for recipe in kinds}
    return {"target": target.name, "host": host, "largest_difference_of_two_runs": apart, "models": models}


def _folded(one: dict[str, Any], plain: float) -> dict[str, float]:
    millions = {short: one["classes"][name] / 1e6 for short, name in CLASSES.items()}
    return {"relative": one["instructions"] / plain, "instructions": one["instructions"] / 1e6, **millions}


def main() -> None:
    """Write results/instructions.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trained", type=Path, metavar="FOLDER")
    said = parser.parse_args()
    cores = {}
    for name in TARGETS:
        target = load_profile(name)
        with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as folder:
            cores[target.emulator_cpu] = counted(target, Path(folder), said.trained)
    results.write("instructions", {"cores": cores, "tokens": TOKENS})


if __name__ == "__main__":
    main()
