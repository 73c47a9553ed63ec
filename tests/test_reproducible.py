"""The same plan twice on one machine, each time on an empty store: the same artifact, byte for byte.

What measuring decides is pinned where it is near: the recipe by `--force`, the shape by asking for next to no speedup.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import TINY, invoke, loose_target, run, texts, write_csv
from safetensors.numpy import load_file
from sentence_folders import dense, write

from edgekd.core.registry import plugin
from edgekd.receipts.validate import made

Pair = Callable[..., tuple[Path, Path]]
LOOSE = ("--min-speedup", "0.01", "--min-retained", "0.1", "--threads", "1")
ARM = {"arch": "aarch64", "isa": ["asimd"], "microarch": "cortex-a72", "emulator_cpu": "cortex-a72"}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Two bundles of one plan, made in two empty stores, from other folders, under other hash seeds."""

    def build(*arguments: str | Path) -> tuple[Path, Path]:
        for number, seed in enumerate(("1", "2")):
            done = run(
                "build",
                *arguments,
                "--out",
                tmp_path / f"bundle-{number}",
                timeout=900,
                env={"EDGEKD_STORE": str(tmp_path / f"store-{number}"), "PYTHONHASHSEED": seed},
            )
            assert done.returncode == 0, done.stderr
            assert "kept from an earlier run" not in done.stderr
        return tmp_path / "bundle-0", tmp_path / "bundle-1"

    return build


def decided(bundle: Path) -> dict[str, Any]:
    """What measuring settled, as the provenance has it."""
    said = json.loads((bundle / "provenance.json").read_text("utf-8"))
    found: dict[str, Any] = said["predicate"]["buildDefinition"]["internalParameters"]["decided"]
    return found


def check_same(first: Path, second: Path) -> None:
    """The artifact parts: names, sizes and hashes, and the bytes themselves. Evidence has times and may differ."""
    manifests = [json.loads((bundle / "manifest.json").read_text("utf-8")) for bundle in (first, second)]
    assert decided(first) == decided(second), "measuring decided otherwise: pin it"
    assert manifests[0]["plan_sha256"] == manifests[1]["plan_sha256"]
    names = set(manifests[0]["artifact"]["files"])
    assert {"config.json", "verify.py", "golden/inputs.npz", "golden/expected.npz", "LICENSES/DATA.txt"} <= names
    for name in sorted(names):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert manifests[0]["artifact"] == manifests[1]["artifact"]
    serials = {json.loads((bundle / "sbom.cdx.json").read_text("utf-8"))["serialNumber"] for bundle in (first, second)}
    assert len(serials) == 1
    for part in (first, second):  # nobody has to trust the manifests: they list what is there
        there = {path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()}
        assert there == names | set(manifests[0]["evidence"]["files"]) | {"manifest.json"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["dynamic_int8", "static_int8"])
def test_a_distilled_text_classifier(pair: Pair, tiny_teacher: Path, tiny_data: Path, tmp_path: Path, recipe: str):
    check_same(
        *pair(
            "--target",
            loose_target(tmp_path),
            "--teacher",
            tiny_teacher,
            "--data",
            tiny_data,
            *LOOSE,
            "--epochs",
            "2",
            "--force",
            recipe,
        )
    )


def waves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Series of 64 steps, slow and fast by turns, and their labels."""
    draw = np.random.default_rng(seed)
    names = np.array(["slow", "fast"] * (rows // 2))
    steps = np.arange(64) / 64
    values = np.stack([np.sin(2 * np.pi * steps * (3 if name == "slow" else 9) + draw.uniform(0, 6)) for name in names])
    return (values + draw.normal(0, 0.2, values.shape)).astype(np.float32), names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_series_classifier_taught_by_labels(pair: Pair, tmp_path: Path) -> None:
    """Its graph takes the sensor's own values."""
    values, names = waves(300, seed=0)
    np.savez(tmp_path / "waves.npz", x=values, y=names)
    first, second = pair(
        "--task",
        "time-series-classification",
        "--target",
        loose_target(tmp_path),
        "--teacher",
        "labels",
        "--data",
        tmp_path / "waves.npz",
        *LOOSE,
        "--epochs",
        "8",
        "--force",
        "static_int8",
    )
    check_same(first, second)
    config = json.loads((first / "config.json").read_text("utf-8"))
    assert config["id2label"] == {"0": "fast", "1": "slow"}
    assert config["edgekd"]["family"] == "conv1d"
    session = onnxruntime.InferenceSession(next((first / "onnx").glob("*.onnx")))
    fresh, truth = waves(60, seed=9)
    logits = np.concatenate([session.run(["logits"], {"past_values": one[None, :, None]})[0] for one in fresh])
    guesses = np.array([config["id2label"][str(number)] for number in logits.argmax(axis=1)])
    assert (guesses == truth).mean() > 0.9


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_image_classifier_with_augmentation(pair: Pair, tmp_path: Path) -> None:
    import torch
    import transformers

    names = dict(enumerate(("dark", "bright")))
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        patch_size=8,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    pixels = np.random.default_rng(0).integers(0, 255, (240, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", x=pixels, y=np.array(["dark", "bright"] * 120))
    check_same(
        *pair(
            "--task",
            "image-classification",
            "--target",
            loose_target(tmp_path, latency_ms=1000.0),
            "--teacher",
            tmp_path / "vit",
            "--data",
            tmp_path / "pictures.npz",
            *LOOSE,
            "--epochs",
            "1",
            "--min-agreement",
            "0",
            "--max-drop",
            "100",
            "--force",
            "static_int8",
        )
    )


def check_embeddings(bundle: Path) -> None:
    """A compressed teacher of embeddings: judged by their cosine, proven by its bundle, diagnosed as `build` did."""
    said = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    summary = said["summary"]
    assert (summary["metric"], summary["distilled"], summary["forced"]) == ("cosine", False, True)
    assert summary["teacher"]["metric_value"] == pytest.approx(1.0)
    assert 0.9 < summary["shipped"]["metric_value"] < 1.0
    assert summary["retained"] == pytest.approx(summary["shipped"]["metric_value"])
    assert (summary["baseline"], summary["evidence"], said["fit"]) == (None, None, None)
    assert said["choice"]["forced"]
    assert {trial["name"] for trial in said["trials"]} >= {"float32", "dynamic_int8"}
    assert {path.name for path in (bundle / "onnx").iterdir()} == {"model_quantized.onnx"}
    assert not list(bundle.glob("*.safetensors"))
    done = subprocess.run([sys.executable, bundle / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert made(bundle).checks["optimum"].startswith("ORTModelForFeatureExtraction opens it")
    diagnosed = invoke("diagnose", bundle)
    assert diagnosed.returncode == 0, diagnosed.stderr
    worst = min(said["diagnosis"]["layers"], key=lambda layer: layer["sqnr_db"])
    assert worst["name"] in diagnosed.stdout


def check_sentences(bundle: Path, dense_layer: dict[str, Any]) -> None:
    """The graph pools by the first token, and behind it is the Dense layer, as the modules that are shipped say."""
    modules = json.loads((bundle / "modules.json").read_text("utf-8"))
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    assert [module["type"].rpartition(".")[2] for module in modules] == kinds
    assert json.loads((bundle / "1_Pooling" / "config.json").read_text("utf-8"))["pooling_mode_cls_token"]
    shipped = load_file(bundle / "2_Dense" / "model.safetensors")
    np.testing.assert_array_equal(shipped["linear.weight"], dense_layer["linear.weight"].numpy())
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model_quantized.onnx")
    ids = np.array([[2, 10, 11, 12, 3]])
    tokens, embedding = session.run(
        ["last_hidden_state", "sentence_embedding"],
        {
            name: ids if name == "input_ids" else np.ones_like(ids) * (name == "attention_mask")
            for name in (one.name for one in session.get_inputs())
        },
    )
    made = np.tanh(tokens[:, 0] @ shipped["linear.weight"].T + shipped["linear.bias"])
    made /= np.linalg.norm(made)
    assert float((made * embedding).sum()) > 0.99, "int8 aside, the same embedding"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_teacher_that_is_compressed_alone(pair: Pair, tiny_teacher: Path, tmp_path: Path) -> None:
    """For an ARM target, whose kernels are asked where the emulated core is set up.

    It is a sentence-transformers folder: its pooling and its layers are computed in the graph.
    """
    arm = plugin("devices", "qemu").available()
    teacher = shutil.copytree(tiny_teacher, tmp_path / "sentences")
    write(teacher, "Dense", "Normalize", pooling={"pooling_mode_cls_token": True})
    held = dense(teacher, inputs=64, outputs=8)
    rows = write_csv(tmp_path / "raw.csv", [(text,) for text, _ in texts(300, seed=3)], ("text",))
    target = loose_target(tmp_path, **(ARM if arm else {}))
    first, second = pair(
        "--task",
        "feature-extraction",
        "--student",
        "none",
        "--target",
        target,
        "--teacher",
        teacher,
        "--data",
        rows,
        "--force",
        "dynamic_int8",
        "--threads",
        "1",
    )
    check_same(first, second)
    check_embeddings(first)
    check_sentences(first, held)
    if arm:
        with np.load(first / "golden" / "expected.npz") as expected:
            assert any(name.startswith("aarch64.") for name in expected.files), (
                "answers of the target's own kernels are part of the artifact"
            )


@pytest.mark.slow
def test_the_same_plan_again_on_an_empty_store(
    tiny_bundle: Path, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Beside the bundle that all tests share one more of the same plan: nothing is forced, the clock may decide."""
    done = run(
        "build",
        "--target",
        loose_target(tmp_path),
        "--teacher",
        tiny_teacher,
        "--data",
        tiny_data,
        *TINY,
        "--out",
        tmp_path / "again",
        env={"EDGEKD_STORE": str(tmp_path / "store")},
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "store")
    if decided(tiny_bundle) != decided(tmp_path / "again"):
        pytest.skip("a near tie fell otherwise: what is promised holds where measuring decides the same")
    check_same(tiny_bundle, tmp_path / "again")
