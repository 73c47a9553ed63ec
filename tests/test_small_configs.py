"""`--student none` of an ONNX file with a small config.json beside it, or none, to the bundle."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import loose_target, write_csv
from onnx_files import IMAGE, MODELS, SERIES, SIDE, STEPS, TEXT, save

from edgekd import pipeline
from edgekd.plan.planning import Options, make_plan
from edgekd.store.store import Store

NAMED = {"id2label": {"0": "a", "1": "b", "2": "c"}}


def rows_of(task: str, folder: Path) -> Path:
    """240 rows of three classes; texts are single letters."""
    noise = np.random.default_rng(0)
    if task == TEXT:
        letters = random.Random(0)
        rows = [(" ".join(letters.choices("abcdefgh", k=12)), "abc"[number % 3]) for number in range(240)]
        return write_csv(folder / "rows.csv", rows, ("text", "label"))
    values: Any = noise.normal(size=(240, STEPS, 2)).astype(np.float32)
    if task == IMAGE:
        values = noise.integers(0, 255, (240, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(folder / "rows.npz", x=values, y=np.array(["a", "b", "c"] * 80))
    return folder / "rows.npz"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "config"), [(TEXT, NAMED), (TEXT, {}), (IMAGE, NAMED), (IMAGE, None), (SERIES, NAMED), (SERIES, None)]
)
def test_it_is_built_and_its_bundle_names_the_classes(task: str, config: dict[str, Any] | None, tmp_path: Path) -> None:
    teacher = save(tmp_path, MODELS[task]())
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    target = loose_target(tmp_path, arch="aarch64", isa=["asimd"], microarch="cortex-a72")
    plan, splits = make_plan(
        Options(
            str(target),
            task=task,
            student="none",
            teacher=str(teacher),
            data=str(rows_of(task, tmp_path)),
            min_retained=0.01,
        )
    )
    built = pipeline.build(plan, splits, Store(tmp_path / "store"), tmp_path / "bundle")
    assert json.loads((built.folder / "config.json").read_text())["id2label"] == NAMED["id2label"]
