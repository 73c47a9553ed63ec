"""Tiny ONNX models of every task as files, with what must lie beside them, and how a teacher of them is refused."""

import json
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import profile
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from edgekd.core.errors import TeacherError
from edgekd.data import pixels
from edgekd.exporters._onnx import finish
from edgekd.teachers._onnx_inspect import look
from edgekd.teachers.onnx_model import OnnxModel

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
ROWS, HIDDEN, CLASSES, SIDE, STEPS = len(PIECES), 6, 3, 8, 10
TEXT, EMBED = "text-classification", "feature-extraction"
IMAGE, SERIES = "image-classification", "time-series-classification"
INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT
node, value = helper.make_node, helper.make_tensor_value_info


def weights(*shape):
    """Random weights that are the same whichever test asks first."""
    return np.random.default_rng(shape).normal(0, 0.3, shape).astype(np.float32)


def model_of(nodes, inputs, outputs, constants, *, opset=17, ir=9, **imports):
    graph = helper.make_graph(
        nodes, "tiny", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    versions = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in imports.items())]
    return helper.make_model(graph, opset_imports=versions, ir_version=ir)


def text_model(task=TEXT, **versions):
    """Tokens through a table, masked, and for classes the mean and a head. Nodes have no names, as in many files."""
    inputs = [value(name, INT, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")]
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        node("Unsqueeze", ["mask", "last"], ["column"]),
        node("Mul", ["rows", "column"], ["masked"]),
        node("MatMul", ["masked", "w"], ["hidden"]),
    ]
    constants = {"table": weights(ROWS, HIDDEN), "w": weights(HIDDEN, HIDDEN), "last": np.array([-1], np.int64)}
    if task == EMBED:
        return model_of(nodes, inputs, [value("hidden", FLOAT, ["batch", "tokens", HIDDEN])], constants, **versions)
    nodes += [
        node("ReduceMean", ["hidden"], ["pooled"], axes=[1], keepdims=0),
        node("MatMul", ["pooled", "head"], ["scores"]),
    ]
    outputs = [value("scores", FLOAT, ["batch", CLASSES])]
    return model_of(nodes, inputs, outputs, constants | {"head": weights(HIDDEN, CLASSES)}, **versions)


def image_model(dims=("batch", 3, SIDE, SIDE)):
    nodes = [
        node("Conv", ["picture", "kernel"], ["features"], "conv", kernel_shape=[3, 3]),
        node("Relu", ["features"], ["positive"], "relu"),
        node("GlobalAveragePool", ["positive"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flat"),
        node("MatMul", ["flat", "head"], ["scores"], "head"),
    ]
    constants = {"kernel": weights(4, 3, 3, 3), "head": weights(4, CLASSES)}
    return model_of(nodes, [value("picture", FLOAT, dims)], [value("scores", FLOAT, ["batch", CLASSES])], constants)


def series_model(dims=("batch", STEPS, 2)):
    nodes = [node("Flatten", ["x"], ["flat"]), node("MatMul", ["flat", "w"], ["scores"])]
    outputs = [value("scores", FLOAT, ["batch", CLASSES])]
    return model_of(nodes, [value("x", FLOAT, dims)], outputs, {"w": weights(STEPS * 2, CLASSES)})


MODELS = {TEXT: text_model, EMBED: partial(text_model, EMBED), IMAGE: image_model, SERIES: series_model}
tasks = pytest.mark.parametrize("task", MODELS)


def beside(folder, **config):
    """What must lie beside a model: of each task, and config.json where it is given."""
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pixels.write_config(folder, SIDE, mean=[0.5] * 3, std=[0.5] * 3)
    if config:
        (folder / "config.json").write_text(json.dumps(config))


def save(folder, model, name="model.onnx"):
    beside(folder)
    onnx.save(model, folder / name)
    return folder / name


def refused(path, task=TEXT, kind=TeacherError):
    """What the refusal says, without the folder; read in this process, which takes a hundredth of the time."""
    with pytest.raises(kind) as refusal:
        look(str(path), task)
    assert refusal.value.fix
    return refusal.value.message.replace(f"{path.parent}/", "")


def exported(path, task, out, **target):
    found = OnnxModel().inspect(str(path), task)
    write = partial(finish, target=profile(**target))
    OnnxModel().export(path.parent, found["architecture"], task, out, write)
    return onnx.load(out)


def answer(file, output, feeds):
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run([output], feeds)[0]
