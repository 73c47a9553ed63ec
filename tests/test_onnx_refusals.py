"""An ONNX file that cannot be compressed is refused while planning: what it is, where, and the way out."""

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import fast, profile
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_files import (
    EMBED,
    FLOAT,
    HIDDEN,
    IMAGE,
    INT,
    MODELS,
    ROWS,
    SERIES,
    SIDE,
    STEPS,
    TEXT,
    beside,
    image_model,
    node,
    refused,
    save,
    text_model,
    value,
)

from edgekd.core.errors import RuntimeCannotLoad, TeacherError, UsageError
from edgekd.core.protocols import StartingNetwork, Yardstick
from edgekd.teachers import _onnx_checks
from edgekd.teachers._onnx_inspect import look
from edgekd.teachers.onnx_model import OnnxModel

# files that are no model


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS, not the file itself"),
        (b"<!DOCTYPE html><html></html>", "it ends too early, or it is another kind of file"),
        (b"\0" * 100, "it ends too early, or it is another kind of file"),
        (b"\x08\x09", "it holds no graph with an opset and an IR version"),
    ],
)
def test_what_is_no_model(tmp_path, data, why):
    path = save(tmp_path, text_model())
    path.write_bytes(data)
    assert why in refused(path)


def test_no_file_and_no_task(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "absent.onnx", tmp_path, tmp_path / "pipe.onnx", Path("/dev/zero")):
        with pytest.raises(TeacherError, match="is not a file"):
            OnnxModel().inspect(str(path), TEXT)
    with pytest.raises(UsageError, match="there is no task called 'text-translation'"):
        OnnxModel().inspect(str(save(tmp_path, text_model())), "text-translation")
    with pytest.raises(TeacherError, match="an ONNX file cannot be a teacher of text-generation"):
        OnnxModel().inspect(str(save(tmp_path, text_model())), "text-generation")


@fast
@given(share=st.floats(0.001, 0.999))
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path_factory, share):
    path = save(tmp_path_factory.mktemp("cut"), text_model())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert re.search(r"is damaged, or not an ONNX model|is empty", refused(path))


@pytest.mark.parametrize("junk", [b"\xfa\x3f\x04junk", b"junk" * 10, b"\0" * 8])
def test_appended_junk(tmp_path, junk):
    path = save(tmp_path, text_model())
    path.write_bytes(path.read_bytes() + junk)
    assert refused(path).startswith("model.onnx is damaged, or not an ONNX model: it ")


def test_names_that_are_no_text(tmp_path):
    path = save(tmp_path, text_model())
    path.write_bytes(path.read_bytes().replace(b"MatMul", b"Mat\xddul"))
    assert refused(path) == "model.onnx is damaged, or not an ONNX model: a name in it is no text"


@fast
@given(data=st.data())
def test_flipped_bits_are_taken_or_refused_and_nothing_else(tmp_path_factory, data):
    task = data.draw(st.sampled_from(sorted(MODELS)))
    path = save(tmp_path_factory.mktemp("flipped"), MODELS[task]())
    whole = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) * 8 - 1), min_size=1, max_size=4)):
        whole[place // 8] ^= 1 << place % 8
    path.write_bytes(whole)
    with contextlib.suppress(TeacherError):
        look(str(path), task)


def test_a_second_model_appended(tmp_path):
    path = save(tmp_path, text_model())
    path.write_bytes(path.read_bytes() * 2)
    assert "is no valid ONNX model" in refused(path)


# models that cannot be compressed: each changes a good one


def _loop(graph):
    inner = helper.make_graph(
        [node("Identity", ["go"], ["on"])],
        "body",
        [value("i", INT, []), value("go", TensorProto.BOOL, [])],
        [value("on", TensorProto.BOOL, [])],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(True), "forever"))
    graph.node.append(node("Loop", ["", "forever"], [], body=inner))


def _nan(graph):
    graph.initializer.append(numpy_helper.from_array(np.array([1, np.nan, np.inf], np.float32), "bad"))


def _nan_constant(graph):
    tensor = numpy_helper.from_array(np.array([np.nan], np.float32))
    graph.node.append(node("Constant", [], ["bad"], value=tensor))


def _add(*made, **arrays):
    def change(graph):
        graph.node.extend(made)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())

    return change


def _half(kind):
    def change(graph):
        graph.initializer.append(helper.make_tensor("half", kind, [4], [1.0, 2.0, 3.0, 4.0]))

    return change


def _short(graph):
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_loop, "model.onnx has control flow (1 x Loop): what a run costs is not known before it ends"),
        (_nan, "the weight 'bad' of model.onnx holds NaN or infinity (2 of 3 values)"),
        (_nan_constant, "the weight 'bad' of model.onnx holds NaN or infinity (1 of 1 values)"),
        (_short, "model.onnx is damaged, or not an ONNX model: the weight 'table': "),
        (
            _add(node("DynamicQuantizeLinear", ["scores"], ["q", "s", "z"])),
            "model.onnx is no float32 model: it is quantized already (1 x DynamicQuantizeLinear)",
        ),
        (
            _add(node("Wonder", ["scores"], ["y"], domain="com.someone")),
            "model.onnx needs operators that ONNX Runtime does not have on every CPU: com.someone.Wonder",
        ),
        (
            _add(node("Conv", ["scores", "w"], ["y"], domain="com.microsoft.nchwc")),
            "model.onnx needs operators that ONNX Runtime does not have on every CPU: com.microsoft.nchwc.Conv",
        ),
        (_add(node("Relu", ["nowhere"], ["y"])), "model.onnx is no valid ONNX model: "),
    ],
)
def test_a_model_that_cannot_be_compressed(tmp_path, change, why):
    model = text_model(**{"com.someone": 1, "com.microsoft.nchwc": 1})
    change(model.graph)
    assert refused(save(tmp_path, model)).startswith(why)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double", "float8e4m3fn", "int4", "uint4"])
def test_weights_of_another_precision(tmp_path, kind):
    model = text_model()
    _half(TensorProto.DataType.Value(kind.upper()))(model.graph)
    why = f"model.onnx is no float32 model: 1 of its weights are {kind}, 'half' the first"
    assert refused(save(tmp_path, model)) == why


@pytest.mark.parametrize(
    "operator",
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "QLinearMatMul",
        "QLinearConv",
        "MatMulInteger",
        "ConvInteger",
        "MatMulNBits",
        "MatMulBnb4",
        "QGemm",
        "QAttention",
        "GatherBlockQuantized",
        "DynamicQuantizeMatMul",
    ],
)
def test_every_kind_of_quantized_operator_is_known(tmp_path, operator):
    model = text_model()
    model.graph.node.append(node(operator, ["scores"], ["y"], domain="com.microsoft"))
    assert refused(save(tmp_path, model)).endswith(f"it is quantized already (1 x {operator})")


@pytest.mark.parametrize("operator", ["MatMul", "Gather", "Attention", "LayerNormalization", "Quux"])
def test_other_operators_are_not_taken_for_quantized(operator):
    assert not _onnx_checks._QUANTIZED.match(operator)


@pytest.mark.parametrize(("opset", "ir", "why"), [(999, 9, "has opset version 999"), (17, 999, "has IR version 999")])
def test_versions_that_are_not_known_here(tmp_path, opset, ir, why):
    model = text_model()
    model.opset_import[0].version, model.ir_version = opset, ir
    assert why in refused(save(tmp_path, model))


def test_an_opset_above_the_targets_ceiling(tmp_path):
    found = OnnxModel().inspect(str(save(tmp_path, text_model())), TEXT)
    OnnxModel().check(found, profile(max_opset=17, max_ir_version=7))
    with pytest.raises(RuntimeCannotLoad) as refusal:
        OnnxModel().check(found, profile(max_opset=16))
    assert refusal.value.message == "the teacher model.onnx has opset 17; the target rpi4 knows 16"
    assert refusal.value.fix.startswith("export it again with opset 16, or raise max_opset")


def test_control_flow_and_recursion_inside_functions(tmp_path):
    for made, why in (
        (
            node(
                "If",
                ["x"],
                ["y"],
                then_branch=helper.make_graph([], "t", [], []),
                else_branch=helper.make_graph([], "e", [], []),
            ),
            "has control flow (1 x If)",
        ),
        (node("Own", ["x"], ["y"], domain="own"), "a function of it calls itself"),
    ):
        model = text_model(own=1)
        model.functions.append(helper.make_function("own", "Own", ["x"], ["y"], [made], [helper.make_opsetid("", 17)]))
        assert why in refused(save(tmp_path, model))


def test_functions_that_unfold_without_end(tmp_path):
    model = text_model(own=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(9):
        calls = [
            node(f"F{level - 1}" if level else "Relu", ["x"], [f"y{i}"], domain="own" if level else "")
            for i in range(10)
        ]
        model.functions.append(helper.make_function("own", f"F{level}", ["x"], ["y0"], calls, imports))
    model.graph.node.append(node("F8", ["scores"], ["y"], domain="own"))
    assert f"has functions that unfold to {10**9 + len(text_model().graph.node)} operators" in refused(
        save(tmp_path, model)
    )


# external data


def test_external_data_that_are_missing_or_cut(tmp_path):
    path = save(tmp_path, text_model())
    onnx.save(text_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    whole = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(whole[:40])
    assert "is damaged, or not an ONNX model: the weight " in refused(path)
    (tmp_path / "weights.bin").unlink()
    assert refused(path) == "model.onnx keeps its weights in 'weights.bin', which is not beside it"


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "", "link.bin", "linked/outside.bin"])
def test_external_data_outside_the_folder(tmp_path, location):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(b"\0" * 4096)
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path)
    path = save(folder, text_model())
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "set below")
    model.graph.initializer[0].external_data[0].value = location
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    assert refused(path) == (
        f"model.onnx keeps the weight 'table' in {location!r}: outside its folder, or behind a link"
    )


# inputs and outputs that a task cannot use


def _dims(**named):
    def change(graph):
        for one in (*graph.input, *graph.output):
            if one.name in named:
                one.CopyFrom(value(one.name, one.type.tensor_type.elem_type, named[one.name]))

    return change


def _rename(old, new):
    def change(graph):
        for one in graph.node:
            one.input[:] = [new if name == old else name for name in one.input]
        for one in graph.input:
            one.name = new if one.name == old else one.name

    return change


def _dependent(graph):
    graph.node.append(node("Identity", ["head"], ["alone"]))
    graph.output[0].name = "alone"


@pytest.mark.parametrize(
    ("task", "change", "why"),
    [
        (TEXT, _rename("input_ids", "ids"), "it takes ids: int64 (?, ?), attention_mask: int64 (?, ?); edgekd feeds"),
        (TEXT, _rename("attention_mask", "bias"), "it takes bias, which the tokenizer does not give; edgekd feeds"),
        (TEXT, _dims(input_ids=[4, "t"]), "its batch is fixed at 4; edgekd feeds one sample at a time"),
        (TEXT, _dims(input_ids=[1, 128]), "it takes exactly 128 tokens; edgekd feeds texts at their own lengths"),
        (TEXT, _dims(input_ids=["b", "t", 1]), "it takes input_ids: int64 (?, ?, 1); edgekd feeds"),
        (TEXT, _dependent, "its output alone does not depend on what it takes"),
        (IMAGE, _dims(picture=[8, 3, SIDE, SIDE]), "its batch is fixed at 8"),
        (IMAGE, _dims(picture=[1, 3, SIDE]), "it takes picture: float (1, 3, 8); edgekd feeds pixel_values (batch, "),
        (SERIES, _dims(x=["b", STEPS * 2]), "it takes x: float (?, 20); edgekd feeds past_values (batch, steps, "),
    ],
)
def test_what_cannot_be_fed(tmp_path, task, change, why):
    model = MODELS[task]()
    change(model.graph)
    assert refused(save(tmp_path, model), task).startswith(f"model.onnx cannot be fed: {why}")


@pytest.mark.parametrize(
    ("dims", "why"),
    [
        ([1, SIDE, SIDE, 3], "takes images as (batch, height, width, channels); edgekd feeds (batch, channels, "),
        ([1, 12, SIDE, SIDE], "takes images as 12 channels; edgekd feeds (batch, channels, height, width)"),
        ([1, 1, SIDE, SIDE], "takes images of 1 x 8 x 8; the preprocessor_config.json beside it makes 3 x 8 x 8"),
        ([1, 3, SIDE, 16], "takes images of 3 x 8 x 16; the preprocessor_config.json beside it makes 3 x 8 x 8"),
    ],
)
def test_images_of_another_shape(tmp_path, dims, why):
    assert refused(save(tmp_path, image_model(dims)), IMAGE).startswith(f"model.onnx {why}")


def test_an_image_of_any_size_has_its_preprocessors(tmp_path):
    path = save(tmp_path, image_model(["b", 3, "h", "w"]))
    assert OnnxModel().inspect(str(path), IMAGE)["architecture"]["max_size"] == SIDE


def test_outputs_of_the_wrong_rank_or_too_many(tmp_path):
    path = save(tmp_path, text_model())
    assert refused(path, EMBED) == (
        "model.onnx gives scores: float (?, 3); wanted is one float output (batch, tokens, hidden): none of these"
    )
    model = text_model()
    model.graph.output.append(value("pooled", FLOAT, ["batch", HIDDEN]))
    assert refused(save(tmp_path, model)).endswith("(batch, classes): which of 2 is not known")
    model = text_model()
    model.graph.output[0].CopyFrom(value("scores", FLOAT, ["batch", 1]))
    assert "not name one of several classes: it gives one value" in refused(save(tmp_path, model))


def test_the_output_with_the_tasks_name_is_taken(tmp_path):
    model = text_model(EMBED)
    model.graph.node.append(node("Relu", ["hidden"], ["last_hidden_state"]))
    model.graph.output.append(value("last_hidden_state", FLOAT, ["batch", "tokens", HIDDEN]))
    assert OnnxModel().inspect(str(save(tmp_path, model)), EMBED)["architecture"]["output"] == "last_hidden_state"


# what must lie beside it


def test_a_missing_tokenizer_or_preprocessing(tmp_path):
    path = save(tmp_path, text_model())
    (tmp_path / "tokenizer_config.json").unlink()
    assert refused(path).startswith(
        "model.onnx has no tokenizer beside it (tokenizer_config.json with tokenizer_class, or config.json in "
    )
    (tmp_path / "tokenizer.json").unlink()
    assert refused(path).startswith("model.onnx has no tokenizer beside it (tokenizer.json, vocab.txt, ")
    path = save(tmp_path, image_model())
    (tmp_path / "preprocessor_config.json").unlink()
    assert refused(path, IMAGE).startswith("model.onnx has no preprocessing beside it (preprocessor_config.json in ")


def test_another_models_tokenizer_and_config(tmp_path):
    path = save(tmp_path, text_model())
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["model"]["vocab"] |= {"zz": ROWS}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert "do not belong together" in refused(path)
    save(tmp_path, text_model())
    (tmp_path / "config.json").write_text("{")
    assert refused(path).startswith("cannot read config.json: ")
    beside(tmp_path, model_type="bert", id2label={"0": "no", "1": "yes"})
    assert refused(path) == "config.json names 2 labels; model.onnx has 3 outputs"


def test_classes_of_the_data(tmp_path):
    found = OnnxModel().inspect(str(save(tmp_path, text_model())), TEXT)
    OnnxModel().check_classes(found, ("a", "b", "c"))
    OnnxModel().check_classes(found, ())
    with pytest.raises(TeacherError) as refusal:
        OnnxModel().check_classes(found, ("a", "b"))
    assert refusal.value.message == "the teacher model.onnx tells 3 classes apart; the data have 2: a, b"
    path = save(tmp_path, text_model(EMBED))
    OnnxModel().check_classes(OnnxModel().inspect(str(path), EMBED), ("a", "b"))


def test_it_is_never_trained():
    assert not isinstance(OnnxModel(), StartingNetwork)
    assert isinstance(OnnxModel(), Yardstick)
    assert OnnxModel().gives({}) == ()
