"""Print the SHA-256 of every artifact file of one small build a task: `python tools/artifact_hashes.py INPUTS`.

What a refactoring must not change: run it before and after, and compare the two. Teacher and data are made in the
folder INPUTS by the first run, and read by the second. What measuring decides is pinned: the recipe is forced, the
shape is the most capable one, one thread trains. It takes some minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import loose_target, save_teacher, texts, write_csv

PINNED = ("--min-speedup", "0.01", "--min-retained", "0.1", "--threads", "1")


def series(place: Path) -> Path:
    """Write slow and fast waves."""
    draw, names = np.random.default_rng(0), np.array(["slow", "fast"] * 150)
    steps = np.arange(64) / 64
    waves = [np.sin(2 * np.pi * steps * (3 if name == "slow" else 9) + draw.uniform(0, 6)) for name in names]
    noisy = (np.stack(waves) + draw.normal(0, 0.2, (len(names), 64))).astype(np.float32)
    np.savez(place, x=noisy, y=names)
    return place


def images(place: Path) -> Path:
    """Write dark and bright pictures."""
    draw, names = np.random.default_rng(0), np.array(["dark", "bright"] * 120)
    levels = np.where(names == "dark", 0, 128)[:, None, None, None]
    np.savez(place, x=(levels + draw.integers(0, 127, (len(names), 32, 32, 3))).astype(np.uint8), y=names)
    return place


def builds(folder: Path) -> dict[str, list[str | Path]]:
    """Return the options of each task's build, its teacher and data made in the folder."""
    few = ("--epochs", "2")
    teacher = folder / "bert"
    if not teacher.exists():  # a tokenizer that is trained anew has other words
        save_teacher(teacher)
    rows = write_csv(folder / "texts.csv", texts(600, seed=1))
    raw = write_csv(folder / "raw.csv", [(text,) for text, _ in texts(300, seed=3)], ("text",))
    return {
        "text-classification": [
            "--teacher",
            teacher,
            "--data",
            rows,
            *few,
            "--force",
            "dynamic_int8",
            "--loss",
            "response=0.9",
            "--loss",
            "hard_labels=0.1",
            "--loss",
            "hidden_states=0.1",
        ],
        "image-classification": [
            "--teacher",
            "labels",
            "--data",
            images(folder / "images.npz"),
            *few,
            "--force",
            "static_int8",
        ],
        "time-series-classification": [
            "--teacher",
            "labels",
            "--data",
            series(folder / "series.npz"),
            *few,
            "--force",
            "static_int8",
        ],
        "feature-extraction": ["--student", "none", "--teacher", teacher, "--data", raw, "--force", "dynamic_int8"],
    }


def main() -> None:
    """Build each task's bundle and print its files' hashes."""
    inputs = Path(sys.argv[1]).absolute()
    inputs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgekd-artifacts-") as name:
        folder = Path(name)
        target = loose_target(inputs, latency_ms=10_000.0, min_teacher_agreement=0.0, max_drop_points=100.0)
        for task, options in builds(inputs).items():
            pinned = PINNED[-2:] if "none" in options else PINNED
            command = ["build", "--task", task, "--target", target, *options, *pinned, "--out", folder / task]
            environment = os.environ | {"EDGEKD_STORE": str(folder / "store")}
            build = [sys.executable, "-m", "edgekd", *map(str, command)]
            subprocess.run(build, check=True, env=environment, stdout=sys.stderr)
            files = json.loads((folder / task / "manifest.json").read_text("utf-8"))["artifact"]["files"]
            for file, told in sorted(files.items()):
                print(f"{told['sha256']}  {task}/{file}", flush=True)


if __name__ == "__main__":
    main()
