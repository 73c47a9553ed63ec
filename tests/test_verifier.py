"""verify.py: what a device team runs. Every change is named, and the exit code says which kind of wrong it is."""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import matmul_model, relu_model, samples

from edgekd.onboard import verify
from edgekd.onboard.runner import open_session


def seal(folder):
    """List every file as the bundle's manifest does."""
    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    evidence = {"report.md": files.pop("report.md")}
    manifest = {
        "model": "onnx/model.onnx",
        "min": {"ort_version": ">=1.17"},
        "artifact": {"files": files},
        "evidence": {"files": evidence},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return manifest


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    (folder / "onnx").mkdir(parents=True)
    (folder / "golden").mkdir()
    model = matmul_model(folder / "onnx" / "model.onnx")
    session, inputs = open_session(str(model), threads=1), [sample["x"] for sample in samples(3, 5, 1)]
    said = np.concatenate([session.run(None, {"x": x})[0] for x in inputs])
    np.savez(folder / "golden" / "inputs.npz", **{f"{row}.x": x for row, x in enumerate(inputs)})
    np.savez(folder / "golden" / "expected.npz", **{platform.machine(): said, "float32": said + 0.05})
    tolerance = {platform.machine(): 0.001, "float32": 0.1}
    (folder / "golden" / "golden.json").write_text(json.dumps({"tolerance": tolerance}))
    (folder / "report.md").write_text("# Report\n")
    shutil.copyfile(verify.__file__, folder / "verify.py")
    seal(folder)
    return folder


@pytest.fixture
def bundle(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def expect(folder, **arrays):
    np.savez(folder / "golden" / "expected.npz", **arrays)
    seal(folder)


def test_a_whole_bundle_verifies_from_any_folder_without_edgekd(bundle, tmp_path):
    moved = bundle.rename(tmp_path / "elsewhere on the device")
    done = subprocess.run(
        [sys.executable, "-I", moved / "verify.py"], capture_output=True, text=True, cwd="/", env={}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third = done.stdout.splitlines()
    assert first == "ok      6 files are those that the manifest lists"
    assert second == "ok      onnx/model.onnx loads and runs"
    assert third.startswith("ok      golden vectors: largest difference 0 to the outputs recorded on ")
    assert verify.changed_files(moved, manifest_of(moved)) == []


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def _link(path):
    path.rename(path.parent.parent.parent / "away")
    path.symlink_to(path.parent.parent.parent / "away")


CHANGES = {
    "a flipped byte": (lambda b: _flip(b / "onnx/model.onnx"), "onnx/model.onnx: its content was changed"),
    "a longer file": (lambda b: (b / "report.md").write_text("# Report!\n"), "report.md: 10 bytes, not 9"),
    "a missing file": (lambda b: (b / "report.md").unlink(), "report.md: missing"),
    "a file too many": (lambda b: (b / "onnx/x.onnx").write_text(""), "onnx/x.onnx: not part of the bundle"),
    "a link": (lambda b: _link(b / "golden/golden.json"), "golden/golden.json: a link or device, not a file"),
    "a linked folder": (lambda b: (b / "more").symlink_to("/"), "more: not part of the bundle"),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_named(bundle, capsys, change, problem):
    change(bundle)
    assert verify.changed_files(bundle, manifest_of(bundle)) == [problem]
    assert verify.main(bundle) == 1
    assert capsys.readouterr().out == f"FAILED  this is not the bundle that was shipped:\n  {problem}\n"


def test_every_change_is_named_at_once(bundle):
    for change, _ in CHANGES.values():
        if change is not CHANGES["a missing file"][0]:
            change(bundle)
    assert sorted(verify.changed_files(bundle, manifest_of(bundle))) == sorted(
        problem for name, (_, problem) in CHANGES.items() if name != "a missing file"
    )


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '"text"', '{"artifact": {"files": 3}, "evidence": {}}'])
def test_a_manifest_that_cannot_be_used_is_told(bundle, capsys, manifest):
    (bundle / "manifest.json").unlink() if manifest is None else (bundle / "manifest.json").write_text(manifest)
    assert verify.main(bundle) == 1
    assert capsys.readouterr().out.startswith("FAILED  manifest.json cannot be used: ")


def test_a_model_that_does_not_load_is_7(bundle, capsys):
    (bundle / "onnx" / "model.onnx").write_bytes(b"not a model")
    seal(bundle)
    assert verify.main(bundle) == 7
    assert "FAILED  ONNX Runtime cannot run onnx/model.onnx: " in capsys.readouterr().out


def test_a_device_without_onnxruntime_is_7_with_the_way_out(bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert verify.main(bundle) == 7
    assert "install numpy and onnxruntime >=1.17" in capsys.readouterr().out


@pytest.mark.parametrize(("difference", "code"), [(0.0005, 0), (0.002, 5)])
def test_outputs_are_held_to_this_architectures_tolerance(bundle, capsys, difference, code):
    said = verify.run_golden(bundle, "onnx/model.onnx")
    expect(bundle, **{platform.machine(): said + np.float32(difference), "float32": said})
    assert verify.main(bundle) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED  golden vectors: " if code else "ok      golden vectors: ")
    assert last.endswith(f" to the outputs recorded on {platform.machine()}, tolerance 0.001")


@pytest.mark.parametrize(("difference", "code"), [(0.05, 0), (0.2, 5)])
def test_on_an_unknown_architecture_fp32_is_the_yardstick(bundle, capsys, difference, code):
    said = verify.run_golden(bundle, "onnx/model.onnx")
    expect(bundle, float32=said + np.float32(difference), riscv64=said)
    assert verify.main(bundle) == code
    assert f"the fp32 model's outputs ({platform.machine()} was not recorded), tolerance 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["shape", "not finite"])
def test_outputs_of_another_shape_or_not_finite_are_5(bundle, wrong):
    said = verify.run_golden(bundle, "onnx/model.onnx")
    assert said.shape == (3, 4)
    outputs = said[:2] if wrong == "shape" else np.where(said == said.max(), np.nan, said)
    well, words = verify.check_golden(bundle, outputs)
    assert not well
    assert words == f"outputs of shape {outputs.shape} or not finite; expected (3, 4)"


@pytest.fixture
def embeds(bundle):
    """The same with a model that answers once a token: inputs of three lengths."""
    session = open_session(str(relu_model(bundle / "onnx" / "model.onnx")), threads=1)
    with np.load(bundle / "golden" / "inputs.npz") as inputs:
        outputs = [session.run(None, {"x": inputs[f"{row}.x"]})[0] for row in range(3)]
    assert [output.shape for output in outputs] == [(1, 3, 32), (1, 5, 32), (1, 1, 32)]
    said = np.concatenate([output.mean(axis=1) for output in outputs])
    expect(bundle, **{platform.machine(): said, "float32": said})
    return bundle


def test_outputs_of_each_token_are_held_as_their_mean(embeds, capsys):
    assert verify.run_golden(embeds, "onnx/model.onnx").shape == (3, 32)
    assert verify.main(embeds) == 0
    assert "golden vectors: largest difference 0 to the outputs recorded on" in capsys.readouterr().out
    said = verify.run_golden(embeds, "onnx/model.onnx")
    said[1, 7] += 0.002
    expect(embeds, **{platform.machine(): said, "float32": said})
    assert verify.main(embeds) == 5


def test_logits_are_answers_as_they_are():
    logits = np.random.default_rng(0).normal(size=(1, 7)).astype(np.float32)
    np.testing.assert_array_equal(verify.answer(logits), logits)
