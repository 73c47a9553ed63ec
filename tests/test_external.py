"""Weights beside a graph: written where one file is too small, hashed, moved and checked with it."""

import json
import os

import numpy as np
import onnx
import pytest
from helpers import WIDTH, matmul_model, profile, samples
from onnx import external_data_helper

from edgekd.compression import graphs
from edgekd.compression.diagnose import diagnose
from edgekd.compression.examine import Given, Judge, examine
from edgekd.core import external
from edgekd.core.errors import EdgeKDError, TeacherError
from edgekd.core.model import Model
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make, names
from edgekd.exporters._onnx import finish
from edgekd.onboard.runner import open_session, pack

ROWS = samples(3, 5, 2, 4)
RECIPES = [name for name in names("quantizers") if name != "embeddings_int8"]


@pytest.fixture
def small(monkeypatch):
    """One file holds 2 KiB, as if that were protobuf's 2 GiB."""
    monkeypatch.setattr(external, "LARGEST_FILE", 2048)


def answers(graph):
    session = open_session(str(graph), threads=1)
    return [session.run(None, {"x": row["x"]})[0] for row in ROWS]


def large(folder, name="model.onnx"):
    """A finished export whose weights lie beside it."""
    folder.mkdir(exist_ok=True)
    return finish(onnx.load(matmul_model(folder / "source.onnx")), folder / name, profile())


def test_an_export_beyond_the_limit_has_its_weights_beside_it(tmp_path, small):
    graph = large(tmp_path / "a")
    assert external.files(graph) == (graph, tmp_path / "a" / "model.onnx_data")
    assert graph.stat().st_size < 2048
    assert external.data_file(graph).stat().st_size == WIDTH * WIDTH * 4, "small weights stay in the graph"
    np.testing.assert_array_equal(answers(graph), answers(tmp_path / "a" / "source.onnx"))
    again = large(tmp_path / "b")
    assert [file.read_bytes() for file in external.files(graph)] == [
        file.read_bytes() for file in external.files(again)
    ]
    large(tmp_path / "b")  # over itself: onnx would append
    assert external.data_file(again).stat().st_size == WIDTH * WIDTH * 4


def test_a_graph_within_the_limit_is_one_file(tmp_path):
    assert external.files(large(tmp_path)) == (tmp_path / "model.onnx",)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_weights_that_lie_beside(tmp_path, small, recipe):
    plain, quantizer = large(tmp_path / "plain"), make("quantizers", recipe)
    whole = tmp_path / "plain" / "source.onnx"
    before = sorted(os.listdir(tmp_path / "plain"))
    (tmp_path / "apart").mkdir()
    made, stays = Model.of(plain).changed(
        tmp_path / "apart", lambda _, file, out: quantizer.quantize(file, out, ROWS), suffix=quantizer.suffix
    )
    assert stays == {}
    quantizer.quantize(whole, tmp_path / "whole.onnx", ROWS)
    np.testing.assert_allclose(answers(made.file), answers(tmp_path / "whole.onnx"), atol=1e-5)
    assert sorted(file.name for file in made.files) == sorted(os.listdir(tmp_path / "apart"))
    assert sorted(os.listdir(tmp_path / "plain")) == before, "nothing is left beside the source"


def test_smoothing_and_calibration_take_them(tmp_path, small):
    plain = large(tmp_path / "plain")
    for recipe, options in (("dynamic_int8", {"smooth": 0.8}), ("static_int8", {"method": "percentile"})):
        make("quantizers", recipe, **options).quantize(plain, tmp_path / f"{recipe}.onnx", ROWS)
        worst = max(
            np.abs(a - b).max() for a, b in zip(answers(tmp_path / f"{recipe}.onnx"), answers(plain), strict=True)
        )
        assert worst < 0.2


def test_graph_work_and_diagnosis_take_them(tmp_path, small):
    plain = large(tmp_path / "plain")
    folded = graphs.fold(plain, tmp_path / "folded.onnx", profile())
    assert external.has_data(folded)
    np.testing.assert_allclose(answers(folded), answers(plain), atol=1e-5)
    make("quantizers", "dynamic_int8").quantize(plain, tmp_path / "q.onnx", ())
    found = diagnose(plain, tmp_path / "q.onnx", ROWS, threads=1)
    assert [layer.name for layer in found.layers] == ["layer", "head"]


def test_size_and_digest_count_them(tmp_path, small):
    plain = Model.of(large(tmp_path))
    before = plain.sha256
    assert plain.size == sum(file.stat().st_size for file in plain.files) > WIDTH * WIDTH * 4
    data = external.data_file(plain.file)
    raw = bytearray(data.read_bytes())
    raw[100] ^= 1
    data.write_bytes(raw)
    assert plain.sha256 != before
    assert external.graph_sha256(plain.file) != external.graph_sha256(tmp_path / "source.onnx")


def test_a_copy_under_another_name_names_its_own_data(tmp_path, small):
    plain = large(tmp_path)
    expected = answers(plain)
    (tmp_path / "there").mkdir()
    moved = external.copy(plain, tmp_path / "there" / "model_quantized.onnx")
    assert external.data_file(moved).name == "model_quantized.onnx_data"
    external.data_file(plain).unlink()
    np.testing.assert_array_equal(answers(moved), expected)


def test_data_of_another_name_are_moved_to_where_ours_lie(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(matmul_model(tmp_path / "source.onnx")),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )
    copy = external.settled(path, tmp_path / "copy.onnx")
    assert copy == tmp_path / "copy.onnx"
    assert (tmp_path / "weights.bin").exists(), "a stranger's file stays as it is"
    assert external.settled(path) == path
    assert not (tmp_path / "weights.bin").exists()
    np.testing.assert_array_equal(answers(path), answers(tmp_path / "source.onnx"))
    assert external.settled(path) == path


def renamed(path, location):
    model = onnx.load(path, load_external_data=False)
    external._point_to(model, location)
    onnx.save(model, path)


@pytest.mark.parametrize("location", ["../model.onnx_data", "/etc/passwd", "a/../../x", "", "link", "c:\\x", "a\0b"])
def test_a_place_outside_the_folder_is_refused_for_teachers_and_for_us(tmp_path, small, location):
    folder = tmp_path / "model"
    path = large(folder)
    (tmp_path / "model.onnx_data").write_bytes(external.data_file(path).read_bytes())
    (folder / "link").symlink_to(tmp_path / "model.onnx_data")
    renamed(path, location)
    with pytest.raises(EdgeKDError, match="outside its folder, or behind a link"):
        external.load(path)
    with pytest.raises(EdgeKDError, match="outside its folder, or behind a link"):
        external.settled(path)
    from edgekd.teachers import _onnx_checks

    with pytest.raises(TeacherError, match="outside its folder, or behind a link"):
        _onnx_checks.check_form(str(path))


def test_missing_and_cut_data_are_told_by_name(tmp_path, small):
    path = large(tmp_path)
    data = external.data_file(path)
    os.truncate(data, 100)
    with pytest.raises(EdgeKDError, match=r"the weights of .*model\.onnx cannot be read"):
        external.load(path)
    data.unlink()
    with pytest.raises(EdgeKDError, match=r"keeps its weights in 'model\.onnx_data', which is not beside it"):
        external.load(path)


def test_the_command_diagnoses_a_model_with_weights_beside_it(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(matmul_model(tmp_path / "source.onnx")),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )
    pack([{"x": row["x"]} for row in ROWS], tmp_path / "rows.npz")
    given = Given(path, str(tmp_path / "rows.npz"), "time-series-classification", recipe="dynamic_int8")
    said = examine(given, NullProgress())
    assert [layer["name"] for layer in said["layers"]] == ["layer", "head"]
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "rows.npz", "source.onnx", "weights.bin"]
    whole = Judge(Model.of(tmp_path / "source.onnx"), ROWS, make("tasks", "time-series-classification"), 1)
    assert whole.plain.size_mib > 0.004


def test_a_folder_with_a_file_of_the_datas_name_does_not_stop_an_export(tmp_path, small, monkeypatch):
    """onnx refuses a location that exists in the folder that one happens to be in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx_data").write_bytes(b"mine")
    graph = large(tmp_path / "out")
    assert (tmp_path / "model.onnx_data").read_bytes() == b"mine"
    assert external.has_data(graph)
    assert external_data_helper.uses_external_data(onnx.load(graph, load_external_data=False).graph.initializer[0])
    assert json.dumps(Model.of(graph).job)


def test_weights_that_cannot_be_written_apart_are_an_error_with_a_way_out(tmp_path, monkeypatch):
    def refuse(model, path):
        raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB: 2415919104\nmore")

    model = onnx.load(matmul_model(tmp_path / "source.onnx"))
    monkeypatch.setattr(onnx, "save", refuse)
    with pytest.raises(EdgeKDError, match=r"^model\.onnx cannot be written: .* size of 2GB: 2415919104\n") as why:
        external.save(model, tmp_path / "model.onnx")
    assert "as initializers" in why.value.fix
