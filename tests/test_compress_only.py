"""`--student none`, the whole way: a model that somebody has already, compressed, guarded and shipped.

A teacher of type BERT goes this way in test_reproducible.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import loose_target, run, texts, write_csv

from edgekd import pipeline
from edgekd.compression.judge import Judge
from edgekd.plan.planning import Options, make_plan
from edgekd.store.store import Store

EMBEDDINGS = ("--task", "feature-extraction", "--student", "none")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts and no label anywhere."""
    bare = [(text,) for text, _ in texts(400, seed=3)]
    return write_csv(tmp_path_factory.mktemp("bare") / "raw.csv", bare, ("text",))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another architecture, so that no graphs are timed: what is timed in a toy is noise."""
    return loose_target(tmp_path_factory.mktemp("targets"), arch="aarch64", isa=["asimd"], microarch="cortex-a72")


def report(bundle: Path) -> dict:
    return json.loads((bundle / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_an_onnx_file_goes_the_same_way(
    tiny_teacher: Path, store: Path, target: Path, rows: Path, tmp_path: Path
) -> None:
    """The fp32 graph that was exported from a teacher, with its tokenizer beside it, is a teacher too."""
    plan, splits = make_plan(
        Options(str(target), task="feature-extraction", student="none", teacher=str(tiny_teacher), data=str(rows))
    )
    exported = pipeline.Stages(plan, splits, Store(store), pipeline.NullProgress(), {}).exported(
        "teacher", tiny_teacher
    )
    folder = tmp_path / "own"
    shutil.copytree(tiny_teacher, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "onnx").mkdir()
    shutil.copyfile(exported / "model.onnx", folder / "onnx" / "model.onnx")
    out = tmp_path / "bundle"
    done = run(
        "build",
        "--target",
        target,
        *EMBEDDINGS,
        "--teacher",
        folder / "onnx" / "model.onnx",
        "--data",
        rows,
        "--out",
        out,
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = report(out)["summary"]
    assert summary["metric"] == "cosine"
    assert summary["shipped"]["metric_value"] > 0.9
    done = subprocess.run([sys.executable, out / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_search_that_the_user_ends_ships_its_best_and_goes_on_later(
    tiny_teacher: Path, rows: Path, target: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(
        str(target), task="feature-extraction", student="none", teacher=str(tiny_teacher), data=str(rows), max_drop=30.0
    )
    plan, splits = make_plan(options)
    honest, asked = Judge.trial, []

    def impatient(self, candidate, file):
        asked.append(candidate.name)
        if candidate.name == "dynamic_int8":
            raise KeyboardInterrupt
        return honest(self, candidate, file)

    monkeypatch.setattr(Judge, "trial", impatient)
    built = pipeline.build(plan, splits, Store(store), tmp_path / "first")
    assert built.summary["shipped"]["recipe"] == "float32"
    assert report(built.folder)["search_stopped"] == "interrupted"
    assert "--out" in report(built.folder)["search_says"]

    monkeypatch.setattr(Judge, "trial", lambda self, *one: asked.append(one[0].name) or honest(self, *one))
    asked.clear()
    built = pipeline.build(plan, splits, Store(store), tmp_path / "second")
    assert "float32" not in asked, "its trial was kept"
    assert asked[0] == "dynamic_int8"
    assert report(built.folder)["search_stopped"] is None
