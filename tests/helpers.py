"""What several test files share: tiny ONNX models, a profile to vary, a fresh interpreter."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import UsageError
from edgekd.core.registry import make
from edgekd.core.results import this_host
from edgekd.hardware.profile import Profile, load_profile, parse_profile
from edgekd.onboard import runner

fast = settings(max_examples=40, deadline=None, derandomize=True, database=None)

WIDTH = 32


class PlanStub(SimpleNamespace):
    """As much of a plan as a test needs; its task is made as a plan makes it, unless it is given."""

    @property
    def made_task(self):
        return self.__dict__.get("own_task") or make("tasks", self.task)


def profile(**values: object) -> Profile:
    """The shipped rpi4 with other values, on this host's architecture: so its latency budget counts."""
    return parse_profile(load_profile("rpi4").as_dict() | {"arch": this_host().arch} | values, where="test")


def elsewhere(**values: object) -> Profile:
    """The same on an architecture that this host has not."""
    other = {"x86_64": "aarch64"}.get(this_host().arch, "x86_64")
    return profile(arch=other, **values)


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    output: list[int | str],
    *,
    input_name: str = "x",
    output_name: str = "y",
    **weights: np.ndarray,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [1, "tokens", WIDTH])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def random_weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def matmul_model(path: Path, seed: int = 0) -> Path:
    """x (1, tokens, 32) through a layer, the mean over tokens and a head to y (1, 4)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"], "layer"),
        helper.make_node("Relu", ["hidden"], ["positive"], "relu"),
        helper.make_node("ReduceMean", ["positive"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["y"], "head"),
    ]
    weights = {"w": random_weights(WIDTH, WIDTH, seed=seed), "v": random_weights(WIDTH, 4, seed=seed + 100)}
    return save_graph(path, nodes, [1, 4], **weights)


def relu_model(path: Path) -> Path:
    """A model without a matrix to quantize."""
    return save_graph(path, [helper.make_node("Relu", ["x"], ["y"], "relu")], [1, "tokens", WIDTH])


def looping_model(path: Path, trips: int) -> Path:
    """`matmul_model` with its hidden values carried through a loop."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["before"], ["after"])],
        "body",
        [
            value("at", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, None),
        ],
        [value("on", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"], "layer"),
        helper.make_node("Loop", ["trips", "", "hidden"], ["looped"], "loop", body=body),
        helper.make_node("ReduceMean", ["looped"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["y"], "head"),
    ]
    weights = {"w": random_weights(WIDTH, WIDTH), "v": random_weights(WIDTH, 4), "trips": np.array(trips)}
    return save_graph(path, nodes, [1, 4], **weights)


def samples(*lengths: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Inputs of these lengths; `unused` is one that the tiny models do not take."""
    random = np.random.default_rng(seed)
    return [
        {"x": random.normal(size=(1, tokens, WIDTH)).astype(np.float32), "unused": np.zeros((1, tokens), np.int64)}
        for tokens in lengths
    ]


def feeds(session, rows):
    """The inputs that a session takes, of each row."""
    return [{node.name: row[node.name] for node in session.get_inputs()} for row in rows]


def packed(path, name="y"):
    """One output of every row, as the runner packed it."""
    return np.stack([row[name] for row in runner.unpack(path)])


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def programs(folder, monkeypatch, **scripts):
    """Programs of these names and shell texts before all others on the PATH."""
    for name, text in scripts.items():
        path = folder / "bin" / name.replace("_", "-")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")


# what test_runner calls in a child process
def greet(name: str) -> dict[str, str]:
    sys.stdout.write(f"about to greet {name}\n")
    return {"hello": name}


def refuse() -> None:
    raise UsageError("this cannot work", fix="do something else")


def crash() -> None:
    raise RuntimeError("an unforeseen end")


def sleep() -> None:
    time.sleep(30)


def hoard() -> None:
    held = []
    while True:
        held.append(bytearray(64 << 20))
