"""The fixes of teachers' errors, obeyed: the same error does not come again."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_files import CLASSES, MODELS, TEXT, beside, save, tasks, text_model

from edgekd.core.errors import TeacherError
from edgekd.core.pointers import FIX
from edgekd.inference.export import completed
from edgekd.teachers import _files, _pickles
from edgekd.teachers._onnx_inspect import look

NAMES = {str(number): f"class {number}" for number in range(CLASSES)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"


def refusal(path: Path, task: str = TEXT) -> TeacherError:
    with pytest.raises(TeacherError) as error:
        look(str(path), task)
    return error.value


@tasks
@pytest.mark.parametrize("lost", ["shape", "type"])
def test_an_output_without_a_shape_is_given_one_by_the_code_in_the_fix(task: str, lost: str, tmp_path: Path):
    model = MODELS[task]()
    kind = model.graph.output[0].type
    kind.ClearField("tensor_type") if lost == "type" else kind.tensor_type.ClearField("shape")
    error = refusal(save(tmp_path, model, "it's mine.onnx"), task)
    assert "declares its output" in error.message
    assert "size" not in error.fix
    code = re.match(r"write shapes into it: (onnx\.save\(.*\)); if the output", error.fix)
    assert code
    exec(code.group(1), {"onnx": onnx})
    assert look(str(tmp_path / "shaped-it's mine.onnx"), task)["ready"]


@tasks
def test_an_input_without_a_shape_is_exported_again_with_one(task: str, tmp_path: Path):
    model = MODELS[task]()
    whole = model.SerializeToString()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    error = refusal(save(tmp_path, model), task)
    assert "declares its input" in error.message
    assert "shapes of inputs" in error.fix
    (tmp_path / "model.onnx").write_bytes(whole)
    assert look(str(tmp_path / "model.onnx"), task)["ready"]


def test_a_graph_that_onnx_checker_refuses_is_not_told_to_compare_its_size(tmp_path: Path):
    model = text_model()
    del model.graph.node[0]
    path = save(tmp_path, model)
    error = refusal(path)
    assert "is no valid ONNX model" in error.message
    assert "size" not in error.fix
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(str(path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "own.pth", "own.pt"])
def test_a_pointer_in_place_of_a_pickle_is_to_be_fetched_not_converted(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(POINTER)
    with pytest.raises(TeacherError) as error:
        _pickles.converted(path)
    assert error.value.fix == FIX
    (tmp_path / "config.json").write_text("{}")
    if name.startswith("pytorch_model-"):
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": {"weight": name}}))
    if name.startswith("pytorch_model"):
        with pytest.raises(TeacherError) as error:
            _files.check_weights(tmp_path)
        assert error.value.fix == FIX


# Each: what config.json says of a text classifier of three classes, and what it says once the fix is obeyed.
CONFIGS = {
    "too few names": ({"id2label": {"0": "a", "1": "b"}}, {"id2label": NAMES}),
    "numbers from one": ({"id2label": {"1": "a", "2": "b", "3": "c"}}, {"id2label": NAMES}),
    "no numbers": ({"id2label": {"a": "b", "c": "d", "e": "f"}}, {"id2label": NAMES}),
    "two orders": (
        {"id2label": NAMES, "label2id": {"class 0": 1, "class 1": 0, "class 2": 2}},
        {"id2label": NAMES, "label2id": {"class 0": 0, "class 1": 1, "class 2": 2}},
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_class_names_are_mended_as_the_fix_says(case: str, tmp_path: Path):
    wrong, mended = CONFIGS[case]
    path = save(tmp_path, text_model())
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    error = refusal(path)
    assert "id2label" in error.fix
    (tmp_path / "config.json").write_text(json.dumps(mended))
    assert look(str(path), TEXT)["labels"] == tuple(NAMES.values())


@tasks
@pytest.mark.parametrize("config", [None, {}, {"id2label": NAMES}, {"model_type": "bert"}])
def test_a_small_config_or_none_is_enough(task: str, config: dict | None, tmp_path: Path):
    path = save(tmp_path, MODELS[task]())
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    labels = look(str(path), task)["labels"]
    named = config is not None and "id2label" in config and task != "feature-extraction"
    assert labels == (tuple(NAMES.values()) if named else None)


def test_a_tokenizer_that_is_missing_is_saved_where_the_fix_says(tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(text_model(), path)
    error = refusal(path)
    assert "save_pretrained(folder)" in error.fix
    beside(tmp_path)
    assert look(str(path), TEXT)["ready"]


def test_external_data_are_put_into_one_file_by_the_code_in_the_fix(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    path = tmp_path / "model.onnx"
    beside(tmp_path)
    model = text_model()
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").rename(tmp_path / "deep" / "w.bin")
    error = refusal(path)
    assert "copy both files into one folder" in error.fix
    (tmp_path / "deep" / "w.bin").rename(tmp_path / "w.bin")
    assert look(str(path), TEXT)["ready"]


def test_weights_of_nan_and_of_half_precision_are_replaced_by_the_model_that_they_came_from(tmp_path: Path):
    for array, words in ((np.full((8, 8), np.nan, np.float32), "NaN"), (np.ones((8, 8), np.float16), "float32")):
        model = text_model()
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, "extra"))
        error = refusal(save(tmp_path, model))
        assert words in error.message
        assert "give " in error.fix
        assert look(str(save(tmp_path, text_model())), TEXT)["ready"]


def test_a_small_config_becomes_one_that_loaders_open():
    classes = ("a", "b", "c")
    named = {"id2label": {"0": "a", "1": "b", "2": "c"}}
    for modality, kind in (("text", "bert"), ("image", "mobilenet_v2")):
        for config in (named, {}, {"model_type": "of my own"} | named):
            whole = completed(config, modality, classes)
            assert whole["model_type"] == kind
            assert whole["id2label"] == named["id2label"]
    assert completed({"model_type": "albert"}, "text", classes)["model_type"] == "albert"
    assert completed({"model_type": "albert"} | named, "text", classes) == {}
    assert completed({}, "series", classes) == named | {"label2id": {"a": 0, "b": 1, "c": 2}}
    assert completed({}, "text", ()) == {"model_type": "bert"}
