"""ONNX files made to harm: damaged, leading out of their folder, or asking for all memory or time.

`HOSTILE[name](folder)` writes one into the folder and gives its path. All are models of series of (10 steps, 2
channels), so that nothing but the file is the reason for a refusal. Those in `RUN` are found when they are run, by
`build`; all others while planning.
"""

import functools
import os
import pickle
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
STEPS, CHANNELS, CLASSES = 10, 2, 3
node, value, array = helper.make_node, helper.make_tensor_value_info, numpy_helper.from_array


def model(nodes=(), constants=(), *, output="scores", opset=17, ir=9, **domains):
    """A good model, with more nodes and constants."""
    weights = np.random.default_rng(0).normal(0, 0.3, (STEPS * CHANNELS, CLASSES)).astype(np.float32)
    made = [node("Flatten", ["x"], ["flat"]), node("MatMul", ["flat", "w"], ["scores"]), *nodes]
    graph = helper.make_graph(
        made,
        "hostile",
        [value("x", FLOAT, ["batch", STEPS, CHANNELS])],
        [value(output, FLOAT, ["batch", CLASSES])],
        [array(weights, "w"), *constants],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in domains.items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


HOSTILE, RUN = {}, set()


def hostile(name, *, run=False):
    """Register what makes a file: bytes, a model, or a path that it wrote itself."""

    def keep(make):
        @functools.wraps(make)
        def write(folder):
            path = Path(folder, "model.onnx")
            made = make(path)
            if isinstance(made, onnx.ModelProto):
                made = made.SerializeToString()
            if isinstance(made, bytes):
                path.write_bytes(made)
            return path

        HOSTILE[name] = write
        if run:
            RUN.add(name)
        return make

    return keep


def _good():
    return model().SerializeToString()


def _varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _nested(levels):
    """A graph in an attribute of a node of a graph in ... without the library, which would not write it."""
    inner = b""
    for _ in range(levels):
        attribute = b"\x0a\x01g\x32" + _varint(len(inner)) + inner + b"\xa0\x01\x05"
        made = b"\x22\x02If\x2a" + _varint(len(attribute)) + attribute
        inner = b"\x0a" + _varint(len(made)) + made
    return b"\x08\x09\x3a" + _varint(len(inner)) + inner + b"\x42\x02\x10\x11"


# not a model

FILES = {
    "empty": lambda path: b"",
    "zeros": lambda path: bytes(4096),
    "a web page": lambda path: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of Git LFS": lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "noise": lambda path: np.random.default_rng(1).bytes(65536),
    "a pickle": lambda path: pickle.dumps({"weights": [1.0] * 100}),
    "cut in half": lambda path: _good()[: len(_good()) // 2],
    "junk behind": lambda path: _good() + b"\xfa\x3f\x04junk",
    "two models": lambda path: _good() + _good(),
    "a length of 2^31": lambda path: b"\x08\x09\x3a" + _varint(2**31 - 1) + b"\x0a",
    "a number without end": lambda path: b"\x08" + b"\xff" * (1 << 20),
    "graphs in graphs": lambda path: _nested(5000),
    "a name that is no text": lambda path: _good().replace(b"MatMul", b"Mat\xddul"),
    "a group that never ends": lambda path: b"\x0b" * 100_000,
}
for _name, _make in FILES.items():
    hostile(_name)(_make)


@hostile("larger than protobuf takes")
def _(path):
    with path.open("wb") as stream:
        stream.truncate(3 << 30)


@hostile("two gigabytes of nothing")
def _(path):
    with path.open("wb") as stream:
        stream.truncate(2000 << 20)


@hostile("a pipe")
def _(path):
    os.mkfifo(path)


@hostile("a device")
def _(path):
    path.symlink_to("/dev/zero")


@hostile("a folder")
def _(path):
    path.mkdir()


# graphs


def _body(*nodes, outputs=("on",)):
    inputs = [value("i", INT, []), value("go", BOOL, [])]
    return helper.make_graph(
        [node("Identity", ["go"], ["on"]), *nodes], "body", inputs, [value(name, BOOL, []) for name in outputs]
    )


@hostile("a loop without end")
def _(path):
    return model([node("Loop", ["", "forever"], [], body=_body())], [array(np.array(True), "forever")])


@hostile("a loop in a branch")
def _(path):
    loop = helper.make_graph([node("Loop", ["", "forever"], ["z"], body=_body())], "t", [], [value("z", BOOL, [])])
    other = helper.make_graph([node("Identity", ["forever"], ["z"])], "e", [], [value("z", BOOL, [])])
    branch = node("If", ["forever"], ["y"], then_branch=loop, else_branch=other)
    return model([branch], [array(np.array(True), "forever")])


@hostile("a scan")
def _(path):
    step = helper.make_graph(
        [node("Add", ["s", "e"], ["t"])],
        "step",
        [value("s", FLOAT, [CLASSES]), value("e", FLOAT, [CLASSES])],
        [value("t", FLOAT, [CLASSES])],
    )
    return model(
        [node("Scan", ["start", "scores"], ["y"], body=step, num_scan_inputs=1)],
        [array(np.zeros(CLASSES, np.float32), "start")],
    )


def _functions(*made, calls="F0"):
    whole = model([node(calls, ["scores"], ["y"], domain="own")], own=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for name, nodes in made:
        whole.functions.append(helper.make_function("own", name, ["x"], ["y0"], nodes, imports))
    return whole


def _call(name, output="y0"):
    return node(name, ["x"], [output], domain="own")


@hostile("a function that calls itself")
def _(path):
    return _functions(("F0", [_call("F0")]))


@hostile("functions that call each other")
def _(path):
    return _functions(("F0", [_call("F1")]), ("F1", [_call("F0")]))


@hostile("functions that unfold to 10^30")
def _(path):
    levels = [(f"F{n}", [_call(f"F{n - 1}", f"y{i}") for i in range(10)]) for n in range(1, 30)]
    return _functions(("F0", [node("Relu", ["x"], ["y0"])]), *levels, calls="F29")


@hostile("a branch in a function")
def _(path):
    branch = helper.make_graph([node("Identity", ["x"], ["z"])], "t", [], [value("z", FLOAT, None)])
    return _functions(("F0", [node("If", ["x"], ["y0"], then_branch=branch, else_branch=branch)]))


@hostile("200,000 operators")
def _(path):
    return model([node("Identity", ["scores" if n == 0 else f"n{n - 1}"], [f"n{n}"]) for n in range(200_000)])


GRAPHS = {
    "opset 999": lambda: model(opset=999),
    "IR version 999": lambda: model(ir=999),
    "an operator of somebody's": lambda: model([node("Wonder", ["scores"], ["y"], domain="x.y")], **{"x.y": 1}),
    "an operator of one machine": lambda: model(
        [node("Conv", ["scores", "w"], ["y"], domain="com.microsoft.nchwc")], **{"com.microsoft.nchwc": 1}
    ),
    "quantized already": lambda: model([node("DynamicQuantizeLinear", ["scores"], ["q", "s", "z"])]),
    "an input from nowhere": lambda: model([node("Relu", ["nowhere"], ["y"])]),
    "a circle": lambda: model([node("Add", ["scores", "b"], ["a"]), node("Relu", ["a"], ["b"])]),
    "two that write one name": lambda: model([node("Relu", ["scores"], ["a"]), node("Abs", ["scores"], ["a"])]),
    "a weight twice": lambda: model(constants=[array(np.ones(2, np.float32), "w")]),
    "float16": lambda: model(constants=[array(np.ones(4, np.float16), "h")]),
    "NaN": lambda: model(constants=[array(np.array([1, np.nan], np.float32), "n")]),
    "infinity": lambda: model(constants=[array(np.array([1, np.inf], np.float32), "n")]),
    "NaN in an attribute": lambda: model([node("Constant", [], ["n"], value=array(np.array([np.nan, 1], np.float32)))]),
    "sparse weights": lambda: _sparse_weights(),
    "a sparse attribute": lambda: model([node("Constant", [], ["n"], sparse_value=_sparse())]),
}
for _name, _make in GRAPHS.items():
    hostile(_name)(lambda path, make=_make: make())


def _sparse():
    return helper.make_sparse_tensor(
        helper.make_tensor("values", FLOAT, [1], [1.0]), helper.make_tensor("places", INT, [1], [2**40]), [2**41]
    )


def _sparse_weights():
    whole = model()
    whole.graph.sparse_initializer.append(_sparse())
    return whole


def _sized(dims, kind=FLOAT, raw=b"\0" * 16):
    tensor = TensorProto(name="odd", data_type=kind, raw_data=raw)
    tensor.dims.extend(dims)
    return model(constants=[tensor])


WEIGHTS = {
    "a negative size": lambda: _sized([-1, 4]),
    "2^40 whole numbers of nothing": lambda: _sized([2**40], INT, b""),
    "a product that wraps": lambda: _sized([2**32, 2**32, 4]),
    "too few bytes": lambda: _sized([8]),
    "too many bytes": lambda: _sized([2]),
    "a type of no name": lambda: _sized([4], 77),
}
for _name, _make in WEIGHTS.items():
    hostile(f"a weight of {_name}")(lambda path, make=_make: make())


# data outside the file


def _external(path, location="weights.bin", **told):
    whole = model()
    tensor = whole.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, said in {"location": location, **told}.items():
        tensor.external_data.add(key=key, value=str(said))
    if location == "weights.bin" and not os.path.lexists(path.parent / location):
        (path.parent / location).write_bytes(raw)
    return whole


EXTERNAL = {
    "above its folder": {"location": "../weights.bin"},
    "at an absolute path": {"location": "/etc/passwd"},
    "nowhere": {"location": ""},
    "under a name with a NUL": {"location": "weights\x00.bin"},
    "up and down again": {"location": "x/../../weights.bin"},
    "before its file": {"offset": -8},
    "behind its file": {"offset": 2**40},
    "longer than its file": {"length": 2**62},
    "at no number": {"offset": "many"},
    "in words of no meaning": {"password": "x"},
    "in the folder itself": {"location": "."},
}
for _name, _told in EXTERNAL.items():
    hostile(f"data {_name}")(lambda path, told=_told: _external(path, **told))


@hostile("data behind a link")
def _(path):
    (path.parent / "weights.bin").symlink_to("/etc/passwd")
    return _external(path)


@hostile("data behind a linked folder")
def _(path):
    (path.parent / "linked").symlink_to("/etc")
    return _external(path, "linked/passwd")


@hostile("data in a pipe")
def _(path):
    os.mkfifo(path.parent / "weights.bin")
    return _external(path)


@hostile("data in a file of two names")
def _(path):
    (path.parent / "other.bin").write_bytes(bytes(4 * STEPS * CHANNELS * CLASSES))
    os.link(path.parent / "other.bin", path.parent / "weights.bin")
    return _external(path)


@hostile("one gigabyte for each of a thousand weights")
def _(path):
    with (path.parent / "weights.bin").open("wb") as stream:
        stream.truncate(1 << 30)
    whole = _external(path, length=1 << 30)
    for number in range(1000):
        whole.graph.initializer.add().CopyFrom(whole.graph.initializer[0])
        whole.graph.initializer[-1].name = f"w{number}"
    return whole


# what only a run shows


def _ending(*nodes, constants=(), **options):
    """More nodes, whose last output `y` is the model's."""
    return model(nodes, constants, output="y", **options)


def _long(*numbers):
    return array(np.array(numbers, np.int64), "sizes")


RUNS = {
    "2^40 zeros": lambda: _ending(
        node("ConstantOfShape", ["sizes"], ["much"]),
        node("ReduceMax", ["much"], ["one"], keepdims=0),
        node("Add", ["scores", "one"], ["y"]),
        constants=[_long(2**20, 2**20)],
    ),
    "a value repeated 2^36 times": lambda: _ending(
        node("Expand", ["scores", "sizes"], ["much"]),
        node("ReduceMax", ["much"], ["y"], axes=[0, 1], keepdims=0),
        constants=[_long(2**18, 2**18, 1, CLASSES)],
    ),
    "a range to 10^12": lambda: _ending(
        node("Range", ["from", "to", "by"], ["much"]),
        node("ReduceMax", ["much"], ["one"], keepdims=0),
        node("Add", ["scores", "one"], ["y"]),
        constants=[array(np.float32(0), "from"), array(np.float32(1e12), "to"), array(np.float32(1e-6), "by")],
    ),
    "hours of multiplications": lambda: _ending(
        node("ConstantOfShape", ["sizes"], ["m0"], value=array(np.array([1e-4], np.float32))),
        *(node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(200)),
        node("ReduceMax", ["m200"], ["one"], keepdims=0),
        node("Add", ["scores", "one"], ["y"]),
        constants=[_long(8192, 8192)],
    ),
    "answers without numbers": lambda: _ending(node("Log", ["scores"], ["y"])),
    "answers of chance": lambda: _ending(node("RandomNormalLike", ["scores"], ["y"])),
    "another shape than it declares": lambda: _ending(node("Concat", ["scores", "scores"], ["y"], axis=1)),
    "a look beyond a table": lambda: _ending(
        node("Gather", ["w", "sizes"], ["row"]), node("Add", ["scores", "row"], ["y"]), constants=[_long(10**9)]
    ),
    "division of whole numbers by zero": lambda: _ending(
        node("Div", ["sizes", "zero"], ["bad"]),
        node("Cast", ["bad"], ["f"], to=FLOAT),
        node("Add", ["scores", "f"], ["y"]),
        constants=[_long(7), array(np.array([0], np.int64), "zero")],
    ),
    "a reshape that fits nothing": lambda: _ending(
        node("Reshape", ["scores", "sizes"], ["y"]), constants=[_long(7, 11)]
    ),
}
for _name, _make in RUNS.items():
    hostile(_name, run=True)(lambda path, make=_make: make())
