"""The bundle as a device team meets it: it proves itself, opens in ordinary tools, leaks nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from conftest import run, texts
from helpers import PlanStub, matmul_model, relu_model, samples

from edgekd.bundle import golden
from edgekd.bundle import write as bundle_writer
from edgekd.compression import candidates
from edgekd.core.model import Model
from edgekd.core.registry import make as make_plugin
from edgekd.onboard import verify as verifier
from edgekd.onboard.runner import pack

SENTENCES = [text for text, _ in texts(20, seed=9)]


def verify(folder: Path, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The bundle's own script, isolated from edgekd and from the environment."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "verify.py")], capture_output=True, text=True, cwd=cwd, env={}, check=False
    )


def test_layout(tiny_bundle: Path) -> None:
    present = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert present >= {
        "manifest.json",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "golden/inputs.npz",
        "golden/expected.npz",
        "golden/golden.json",
        "report.html",
        "report.md",
        "report.json",
        "provenance.json",
        "README.md",
        "LICENSES/TEACHER.txt",
        "LICENSES/DATA.txt",
        "verify.py",
        "bench/__main__.py",
        "bench/runner.py",
        "bench/machine.py",
        "bench/programs.py",
        "bench/forward.py",
        "bench/recurrent.py",
    }
    assert len([name for name in present if name.startswith("onnx/")]) == 1
    manifest = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["artifact"]["files"]) | set(manifest["evidence"]["files"]) == present - {"manifest.json"}
    assert not set(manifest["artifact"]["files"]) & set(manifest["evidence"]["files"])
    assert manifest["min"]["opset"] <= 20
    assert manifest["min"]["ir_version"] <= 9


def test_it_verifies_from_any_folder_with_numpy_and_onnxruntime_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    done = verify(tiny_bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 3
    assert run("verify", tiny_bundle).returncode == 0


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda folder: _flip(next((folder / "onnx").iterdir())), "its content was changed"),
        (lambda folder: _flip(folder / "tokenizer.json"), "tokenizer.json: its content was changed"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
        (lambda folder: (folder / "extra.py").write_text("x"), "extra.py: not part of the bundle"),
        (lambda folder: (folder / ".hidden").write_text("x"), ".hidden: not part of the bundle"),
        (lambda folder: (folder / "report.md").write_text("all is well"), "report.md: "),
        (
            lambda folder: ((folder / "README.md").unlink(), (folder / "README.md").symlink_to("report.md")),
            "README.md: a link, folder or device",
        ),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be used"),
    ],
)
def test_tampering_is_seen(tiny_bundle: Path, tmp_path: Path, tamper: Callable[[Path], object], words: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    tamper(copy)
    done = verify(copy)
    assert done.returncode == 1
    assert words in done.stdout
    assert "Traceback" not in done.stderr


def test_optimum_opens_it_as_it_is(tiny_bundle: Path) -> None:
    """As a user would: no file names beyond what the model card says."""
    from edgekd.core.quiet import quiet

    with quiet():
        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import AutoTokenizer

        file = next((tiny_bundle / "onnx").iterdir()).name
        model = ORTModelForSequenceClassification.from_pretrained(tiny_bundle, subfolder="onnx", file_name=file)
        by_default = ORTModelForSequenceClassification.from_pretrained(tiny_bundle)
        tokenizer = AutoTokenizer.from_pretrained(tiny_bundle)
        said = [model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in SENTENCES]
        plain = [by_default(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in SENTENCES]
    np.testing.assert_allclose(said, plain)
    assert set(model.config.id2label.values()) == {"animal", "colour", "food"}
    right = {"red": "colour", "dog": "animal", "soup": "food"}
    for word, label in right.items():
        logits = model(**tokenizer(f"what {word} is near the house?", return_tensors="pt")).logits
        assert model.config.id2label[int(logits.argmax())] == label


def test_nothing_of_this_machine_is_in_it(tiny_bundle: Path, tiny_teacher: Path, store: Path) -> None:
    secrets = [str(tiny_teacher.parent), str(store), str(Path.home()), os.getcwd(), sys.prefix]
    for path in tiny_bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path


def test_golden_inputs_are_nobodys_text(tiny_bundle: Path, tiny_data: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bundle)
    with np.load(tiny_bundle / "golden" / "inputs.npz") as inputs:
        rows = [inputs[name][0] for name in inputs.files if name.endswith("input_ids")]
    assert len(rows) >= 16
    known = tiny_data.read_text(encoding="utf-8")
    assert not [row for row in rows if tokenizer.decode(row, skip_special_tokens=True) in known and len(row) > 6]


def test_report_opens_without_a_network(tiny_bundle: Path) -> None:
    page = (tiny_bundle / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    assert "<script" not in page
    shown = run("report", tiny_bundle)
    assert shown.returncode == 0
    assert shown.stdout == (tiny_bundle / "report.md").read_text(encoding="utf-8")


class Task:
    """A task whose inputs are the tiny models' own."""

    keep: ClassVar = {"y": "mean"}
    graphs, program = ("model",), "forward"

    def encode(self, folder: Path, inputs: list[int], max_size: int) -> list[dict[str, np.ndarray]]:
        return samples(*inputs)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The `artifact` part of a bundle, of a candidate that the search made of a tiny model."""

    def make(write: Callable[[Path], Path], name: str, folder: Path) -> Path:
        for variant in ("float32", name):
            file = candidates.variant(tmp_path / "variants", variant, make_plugin("tasks", "text-classification")).file
            file.parent.mkdir(parents=True)
            write(file)
        plan = PlanStub(
            task="text-classification",
            own_task=Task(),
            base=None,
            golden="test",
            seed=0,
            student=SimpleNamespace(survey=SimpleNamespace(max_size=9)),
            teacher=SimpleNamespace(name="t", licence="none", folder=""),
            data=SimpleNamespace(name="d", licence="none", source=""),
        )
        rows = tuple(SimpleNamespace(input=length) for length in (3, 5, 1))
        splits = SimpleNamespace(test=rows, golden=(), known=rows)
        out = tmp_path / "fresh"
        out.mkdir()
        bundle_writer._artifact(plan, splits, folder, tmp_path / "variants", name, None, out)
        return out

    return make


def test_only_what_loaders_read_leaves_a_models_folder(made: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "exits").mkdir(parents=True)
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
    for name in (*wanted, "model.safetensors", ".seal.json", "training.json", "confidence.json", "notes.txt", "x.py"):
        (folder / name).write_text("{}")
    out = made(matmul_model, "weight_int4-block_size_128", folder)
    assert {path.name for path in out.iterdir()} == wanted | {"onnx", "golden", "LICENSES", "verify.py", "bench"}
    assert [path.name for path in (out / "onnx").iterdir()] == ["model_q4.onnx"], "the recipe's suffix, not the name's"


@pytest.mark.parametrize(("write", "width"), [(matmul_model, 4), (relu_model, 32)])
def test_golden_vectors_have_a_row_for_each_input(
    made: Callable[..., Path], tmp_path: Path, write: Callable[[Path], Path], width: int
) -> None:
    """Logits (1, 4) as they are, outputs of each token (1, tokens, 32) as their mean: whatever the lengths are."""
    (tmp_path / "model").mkdir()
    out = made(write, "dynamic_int8-float2", tmp_path / "model")
    with np.load(out / "golden" / "expected.npz") as expected:
        assert {expected[name].shape for name in expected.files} == {(width,)}
        assert [name for name in expected.files if "float32" in name] == [f"float32.{row}.y" for row in range(3)]
    said = verifier.run_golden(out, {"model": "onnx/model_quantized.onnx", "recipe": "dynamic_int8"})
    well, words = verifier.check_golden(out, said)
    assert well, words
    assert not verifier.check_golden(out, [{"y": row["y"] + 1} for row in said])[0]


def test_what_the_targets_kernels_said_is_recorded_beside_this_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator had time for the first two rows: they are recorded under the target's name, with their own spread."""
    model = matmul_model(tmp_path / "model.onnx")
    rows = samples(3, 5, 1)
    (tmp_path / "there").mkdir()
    here = golden._answers(Model.of(model), rows, Task.keep)[:2]
    pack([{"own/y": row["y"] + np.float32(0.25), "plain/y": row["y"]} for row in here], tmp_path / "there" / "said.npz")
    (tmp_path / "there" / "host.txt").write_text("a board")
    plan = PlanStub(task="any", own_task=Task(), golden="test", target=SimpleNamespace(arch="riscv64"))
    golden.write(plan, rows, Model.of(model), Model.of(model), tmp_path / "there", tmp_path / "golden")
    rules = json.loads((tmp_path / "golden" / "golden.json").read_text("utf-8"))
    assert (rules["rows"]["riscv64"], rules["recorded_on"]["riscv64"]) == (2, "a board")
    assert rules["tolerance"]["riscv64"] == {"y": pytest.approx(1.0)}
    with np.load(tmp_path / "golden" / "expected.npz") as expected:
        assert [name for name in expected.files if "riscv64" in name] == ["riscv64.0.y", "riscv64.1.y"]
        assert expected["riscv64.0.y"].shape == (4,)
