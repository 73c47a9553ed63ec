"""Git LFS pointers in place of files: every reader says so, and what to run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_bundle import make_bundle
from onnx import helper

from edgekd.compression import examine
from edgekd.core import pointers
from edgekd.core.errors import EdgeKDError
from edgekd.data.images import read_images
from edgekd.data.read import read_tables
from edgekd.data.series import read_series
from edgekd.hardware.profile import load_profile
from edgekd.onboard import verify
from edgekd.receipts import trust, validate
from edgekd.receipts.shipped import open_bundle
from edgekd.report import page
from edgekd.teachers import _files, _onnx_checks
from edgekd.teachers.efficientnet_lite import EfficientnetLite

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
Reader = Callable[[str], object]


def _teacher(name: str) -> tuple[str, Reader]:
    def read(path: str) -> object:
        folder = Path(path).parent
        for other in ("config.json", "model.safetensors"):
            if not (folder / other).exists() and name != "pytorch_model.bin":
                (folder / other).write_text("{}")
        _files.check_folder(folder)
        return _files.check_weights(folder)

    return name, read


KINDS: list[tuple[str, Reader]] = [
    ("rows.csv", read_tables),
    ("rows.tsv", read_tables),
    ("rows.jsonl", read_tables),
    ("rows.parquet", read_tables),
    ("x_TRAIN.tsv", read_series),
    ("series.npz", read_series),
    ("images.npz", read_images),
    ("a.png", lambda path: read_images(str(Path(path).parent))),
    ("mine.yaml", load_profile),
    ("teacher.onnx", lambda path: _onnx_checks.check_form(path)),
    ("lite.pth", lambda path: EfficientnetLite().inspect(path, "image-classification")),
    *map(_teacher, ("model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json", "vocab.txt")),
]


@pytest.mark.parametrize(("name", "read"), KINDS, ids=[name for name, _ in KINDS])
def test_a_pointer_is_named_and_how_to_fetch_the_file(name: str, read: Reader, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(POINTER)
    with pytest.raises(EdgeKDError, match="a pointer of Git LFS") as refusal:
        read(str(path))
    assert name in refusal.value.message
    assert refusal.value.fix == pointers.FIX
    assert "git lfs pull" in pointers.FIX


def test_what_only_begins_like_a_pointer_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"version\nhttps://git-lfs.github.com/spec/v1\n")
    assert read_tables(str(path)) == {"all": [{"version": "https://git-lfs.github.com/spec/v1"}]}


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden/expected.npz"])
@pytest.mark.parametrize("read", [trust.check, validate.made, page.altered], ids=["verify", "bench", "report"])
def test_a_pointer_in_a_bundle_is_named(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(EdgeKDError, match="a pointer of Git LFS") as refusal:
        read(tmp_path)
    assert name in refusal.value.message
    assert refusal.value.fix == pointers.FIX


def test_a_pointer_in_place_of_a_models_external_data_is_named(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, 1, [1, 8]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight]))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_bytes(POINTER)
    with pytest.raises(EdgeKDError, match="a pointer of Git LFS") as refusal:
        _onnx_checks.check_form(str(tmp_path / "m.onnx"))
    assert "m.data" in refusal.value.message


def test_a_pointer_in_place_of_packed_samples_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(POINTER)
    given = examine.Given(tmp_path / "m.onnx", str(tmp_path / "rows.npz"), "text-classification")
    with pytest.raises(EdgeKDError, match="a pointer of Git LFS"):
        examine._samples(given, None)


def _bundle(tmp_path: Path) -> tuple[Path, Path]:
    """A whole bundle whose manifest is right, cloned without its model."""
    folder = make_bundle(tmp_path / "tiny-here", onboard=True)
    model = folder / "onnx" / "model.onnx"
    model.write_bytes(POINTER)
    return folder, model


@pytest.mark.parametrize("read", [trust.check, open_bundle, page.altered], ids=["verify", "bench", "report"])
def test_a_pointer_in_place_of_a_whole_bundles_model_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    folder, model = _bundle(tmp_path)
    with pytest.raises(EdgeKDError, match="a pointer of Git LFS") as refusal:
        read(folder)
    assert str(model.relative_to(folder)) in refusal.value.message
    assert refusal.value.fix == pointers.FIX


def test_the_bundles_own_check_names_a_pointer_too(tmp_path: Path) -> None:
    folder, model = _bundle(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    name = str(model.relative_to(folder))
    size = manifest["artifact"]["files"][name]["size"]
    problems = [one for one in verify.changed_files(folder, manifest) if name in one]
    assert problems == [f"{name}: {len(POINTER)} bytes, not {size}, a pointer of Git LFS: run `git lfs pull`"]
