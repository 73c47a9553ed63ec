"""An ONNX file becomes a teacher: read while planning, then written under the task's names, and run."""

import json
import re
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import profile, python
from onnx import helper, numpy_helper
from onnx_files import (
    CLASSES,
    EMBED,
    FLOAT,
    HIDDEN,
    IMAGE,
    MODELS,
    ROWS,
    SERIES,
    SIDE,
    STEPS,
    TEXT,
    answer,
    beside,
    exported,
    node,
    save,
    series_model,
    tasks,
    text_model,
    value,
    weights,
)

from edgekd.core.errors import TeacherError
from edgekd.exporters._onnx import finish
from edgekd.teachers import _onnx_smoke
from edgekd.teachers.onnx_model import OnnxModel


@pytest.mark.usefixtures("no_children")
@tasks
def test_a_model_is_read_and_written_under_the_tasks_names(tmp_path, task):
    path = save(tmp_path, MODELS[task]())
    found = OnnxModel().inspect(str(path), task)
    assert found["ready"] is True
    assert found["folder"] == str(tmp_path)
    assert found["labels"] is None
    assert re.fullmatch(r"[0-9a-f]{64}", found["sha256"])
    own = found["architecture"]
    assert json.loads(json.dumps(own)) == own, "a plan carries it"
    assert (own["model_type"], own["file"], own["opset"], own["ir_version"]) == ("onnx", "model.onnx", 17, 9)
    sizes = {
        TEXT: {"max_tokens": 32, "vocabulary": ROWS, "classes": CLASSES},
        EMBED: {"max_tokens": 32, "vocabulary": ROWS, "hidden": HIDDEN},
        IMAGE: {"max_size": SIDE, "channels": 3, "classes": CLASSES},
        SERIES: {"shape": {"steps": STEPS, "channels": 2}, "classes": CLASSES},
    }[task]
    assert own.items() >= sizes.items()
    assert ("classes" in own) == (task != EMBED)

    written = exported(path, task, tmp_path / "out.onnx", max_ir_version=8)
    wanted = {IMAGE: ["pixel_values"], SERIES: ["past_values"]}.get(task, ["input_ids", "attention_mask"])
    assert [one.name for one in written.graph.input] == wanted
    assert [one.name for one in written.graph.output] == (
        ["last_hidden_state", "sentence_embedding"] if task == EMBED else ["logits"]
    )
    assert written.ir_version == 8, "lowered, and it ran"
    names = [one.name for one in written.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_planning_loads_no_torch(tmp_path):
    path = save(tmp_path, text_model())
    done = python(
        "import sys; from edgekd.teachers.onnx_model import OnnxModel\n"
        f"OnnxModel().inspect(sys.argv[1], {TEXT!r}); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))",
        str(path),
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_layout_of_transformers_js(tmp_path):
    beside(
        tmp_path,
        _name_or_path="/home/someone",
        model_type="bert",
        id2label={"0": "no", "1": "yes", "2": "?"},
        max_position_embeddings=16,
    )
    (tmp_path / "onnx").mkdir()
    onnx.save(text_model(), tmp_path / "onnx" / "model.onnx")
    found = OnnxModel().inspect(str(tmp_path / "onnx" / "model.onnx"), TEXT)
    assert found["folder"] == str(tmp_path)
    assert found["architecture"]["file"] == "onnx/model.onnx"
    assert found["architecture"]["max_tokens"] == 16
    assert found["labels"] == ("no", "yes", "?")
    out = tmp_path / "out"
    out.mkdir()
    OnnxModel().files(tmp_path, found["architecture"], TEXT, out)
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }  # of a text
    assert "/home" not in (out / "config.json").read_text()
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_the_fingerprint_covers_model_data_and_tokenizer(tmp_path):
    path = save(tmp_path, text_model())
    onnx.save(text_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    seen = {OnnxModel().inspect(str(path), TEXT)["sha256"]}
    for file in ("weights.bin", "tokenizer_config.json"):
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(whole[:-4] + b"\0\0\0\0" if file == "weights.bin" else whole + b" ")
        seen.add(OnnxModel().inspect(str(path), TEXT)["sha256"])
    assert len(seen) == 3


def test_external_data_are_folded_into_one_file(tmp_path):
    model = text_model()
    path = save(tmp_path, model)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    written = exported(path, TEXT, tmp_path / "out.onnx")
    assert not any(one.external_data for one in written.graph.initializer)
    feeds = {"input_ids": np.array([[4, 5, 6]]), "attention_mask": np.ones((1, 3), np.int64)}
    original = answer(model.SerializeToString(), "scores", feeds)
    np.testing.assert_array_equal(answer(str(tmp_path / "out.onnx"), "logits", feeds), original)


@pytest.mark.usefixtures("no_children")
def test_other_outputs_and_their_branches_and_notes_are_dropped(tmp_path):
    model = text_model()
    graph = model.graph
    graph.node.append(node("Relu", ["pooled"], ["logits"], "in the way"))  # an inner tensor with the new name
    graph.node.append(node("MatMul", ["logits", "dead"], ["loss"], "dead branch"))
    graph.initializer.append(numpy_helper.from_array(weights(HIDDEN, 1), "dead"))
    graph.output.append(value("loss", FLOAT, ["batch", 1, 1, 1]))  # the rank is the file's word
    graph.output[1].type.tensor_type.shape.dim.pop()
    graph.metadata_props.add(key="source", value="/home/someone")
    graph.node[0].doc_string = "/home/someone/model.py"
    written = exported(save(tmp_path, model), TEXT, tmp_path / "out.onnx")
    assert [one.name for one in written.graph.output] == ["logits"]
    assert "dead" not in {one.name for one in written.graph.initializer}
    assert len(written.graph.node) == len(graph.node) - 2
    assert b"someone" not in (tmp_path / "out.onnx").read_bytes()


@pytest.mark.usefixtures("no_children")
def test_an_inner_tensor_with_the_tasks_name_makes_room(tmp_path):
    model = text_model()
    for one in model.graph.node:
        for names in (one.input, one.output):
            names[:] = ["logits" if name == "pooled" else name for name in names]
    written = exported(save(tmp_path, model), TEXT, tmp_path / "out.onnx")
    assert written.graph.node[-1].input[0] == "logits_of_file"


@pytest.mark.usefixtures("no_children")
def test_a_softmax_at_the_end_is_left_out(tmp_path):
    model = text_model()
    model.graph.node.append(node("Softmax", ["scores"], ["probabilities"], axis=-1))
    model.graph.output[0].name = "probabilities"
    written = exported(save(tmp_path, model), TEXT, tmp_path / "out.onnx")
    assert [one.op_type for one in written.graph.node if one.op_type == "Softmax"] == []
    feeds = {"input_ids": np.array([[4, 5, 6]]), "attention_mask": np.ones((1, 3), np.int64)}
    logits = answer(str(tmp_path / "out.onnx"), "logits", feeds)
    assert abs(logits.sum() - 1) > 1e-3, "these are logits: transformers.js takes a softmax of them itself"


@pytest.mark.usefixtures("no_children")
def test_an_old_opset_is_lifted(tmp_path):
    """Below 13 there are no scales per channel."""
    model = series_model()
    model.opset_import[0].version, model.ir_version = 9, 3
    model.graph.input.append(value("w", FLOAT, [STEPS * 2, CLASSES]))  # IR 3: constants are inputs as well
    written = exported(save(tmp_path, model), SERIES, tmp_path / "out.onnx")
    assert written.opset_import[0].version == 13
    assert [one.name for one in written.graph.input] == ["past_values"]


@pytest.mark.usefixtures("no_children")
def test_local_functions_are_inlined(tmp_path):
    model = text_model(EMBED, ir=9, own=1)
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function("own", "Twice", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])], imports)
    )
    model.graph.node.append(node("Twice", ["hidden"], ["doubled"], domain="own"))
    model.graph.output[0].name = "doubled"
    written = exported(save(tmp_path, model), EMBED, tmp_path / "out.onnx")
    assert {one.op_type for one in written.graph.node} >= {"Add", "MatMul"}
    assert not written.functions
    assert [one.domain for one in written.opset_import] == [""]


@pytest.mark.usefixtures("no_children")
def test_operators_of_onnx_runtime_are_taken(tmp_path):
    model = text_model(EMBED, **{"com.microsoft": 1})
    model.graph.node.append(node("Gelu", ["hidden"], ["active"], domain="com.microsoft"))
    model.graph.output[0].name = "active"
    written = exported(save(tmp_path, model), EMBED, tmp_path / "out.onnx")
    assert {one.domain for one in written.opset_import} == {"", "com.microsoft"}


def test_the_scalar_infinity_of_a_mask_is_no_damage(tmp_path):
    model = text_model(EMBED)
    model.graph.initializer.append(numpy_helper.from_array(np.array(-np.inf, np.float32), "minus"))
    model.graph.node.append(node("Max", ["hidden", "minus"], ["kept"]))
    model.graph.output[0].name = "kept"
    OnnxModel().inspect(str(save(tmp_path, model)), EMBED)


# the first run


@pytest.mark.usefixtures("no_children")
def test_positions_that_the_graph_has_not(tmp_path):
    """config.json promises 32 tokens; the graph has a table of 20 positions."""
    model = text_model(EMBED)
    model.graph.initializer.append(numpy_helper.from_array(weights(1, 20, HIDDEN), "positions"))
    model.graph.node.extend(
        [
            node("Shape", ["input_ids"], ["tokens"], start=1, end=2),
            node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array([0], np.int64))),
            node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([1], np.int64))),
            node("Slice", ["positions", "zero", "tokens", "one"], ["some"]),
            node("Add", ["hidden", "some"], ["placed"]),
        ]
    )
    model.graph.output[0].name = "placed"
    with pytest.raises(TeacherError, match=r"fails on an input of \[1, 32\]") as refusal:
        exported(save(tmp_path, model), EMBED, tmp_path / "out.onnx")
    assert "model_max_length" in refusal.value.fix


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            [node("Abs", ["scores"], ["size"]), node("Neg", ["size"], ["negative"]), node("Log", ["negative"], ["y"])],
            "gives NaN or infinity",
        ),
        ([node("RandomNormalLike", ["scores"], ["y"])], "answers the same input in two ways"),
    ],
)
def test_answers_that_are_no_numbers_or_never_the_same(tmp_path, made, why):
    model = series_model()
    model.graph.node.extend(made)
    model.graph.output[0].name = "y"
    with pytest.raises(TeacherError, match=why):
        exported(save(tmp_path, model), SERIES, tmp_path / "out.onnx")


def test_an_output_of_another_shape_than_declared(tmp_path):
    """ONNX Runtime itself only warns of that."""
    ours, theirs = save(tmp_path, series_model()), tmp_path / "theirs.onnx"
    other = series_model()
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(1, STEPS * 2, CLASSES)[0], "w"))
    onnx.save(other, theirs)
    names, shapes = {"x": "x"}, [[1, STEPS, 2]]
    with pytest.raises(TeacherError, match=r"declares an output of \(None, 5\) and gives \(1, 3\)"):
        _onnx_smoke.compare(str(ours), str(ours), names, "scores", "scores", "", shapes, [None, 5], 2)
    with pytest.raises(TeacherError, match="says something else after its preparation: outputs differ by"):
        _onnx_smoke.compare(str(ours), str(theirs), names, "scores", "scores", "", shapes, [None, CLASSES], 2)
    assert _onnx_smoke.compare(str(ours), str(ours), names, "scores", "scores", "", shapes, [None, CLASSES], 2) == 0


def test_a_model_that_does_not_end(tmp_path):
    path = save(tmp_path, series_model())
    found = OnnxModel().inspect(str(path), SERIES)
    write = partial(finish, target=profile())
    with pytest.raises(TeacherError) as refusal:
        OnnxModel(timeout_s=0.01).export(tmp_path, found["architecture"], SERIES, tmp_path / "out.onnx", write)
    assert re.search(
        r"model\.onnx cannot run under ONNX Runtime: its child process took longer than 0 s", refusal.value.message
    )


def test_a_graph_that_onnx_runtime_refuses(tmp_path):
    path = save(tmp_path, series_model())
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(TeacherError, match=r"ONNX Runtime refuses .*broken\.onnx"):
        _onnx_smoke.compare(str(tmp_path / "broken.onnx"), str(path), {}, "y", "y", False, [[1]], [1], 2)


@pytest.mark.parametrize("task", [TEXT, EMBED])
def test_ids_of_32_bits_are_taken_and_written_as_64(tmp_path, task):
    model = MODELS[task]()
    for one in model.graph.input:
        one.type.tensor_type.elem_type = onnx.TensorProto.INT32
    path = save(tmp_path, model)
    written = exported(path, task, tmp_path / "out.onnx")
    assert {one.type.tensor_type.elem_type for one in written.graph.input} == {onnx.TensorProto.INT64}
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[2, 5, 3]])
    said = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    theirs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    narrow = ids.astype(np.int32)
    np.testing.assert_allclose(
        said, theirs.run(None, {"input_ids": narrow, "attention_mask": np.ones_like(narrow)})[0], rtol=1e-5
    )
