"""Tiny graphs of other people: a detector of two outputs, one that remembers, and recipes that spoil the detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BOXES, SIDE, HIDDEN = 10, 6, 64
FLOAT = TensorProto.FLOAT


def save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, list[int | str]]],
    outputs: Mapping[str, tuple[int, list[int | str]]],
    *,
    opset: int = 17,
    **weights: np.ndarray[Any, Any],
) -> Path:
    """Write a checked graph."""
    ports = [[helper.make_tensor_value_info(name, *kind) for name, kind in part.items()] for part in (inputs, outputs)]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "toy", *ports, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def node(kind: str, inputs: str, outputs: str, **more: Any) -> Any:
    """Return a node; names apart by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **more)


def detector(path: Path, *, scores: float = 0.999) -> Path:
    """`pixels:0` to `detections`, boxes in pixels beside scores, and `found`, how many scores are above one half."""
    random = np.random.default_rng(5)
    size = 3 * SIDE * SIDE
    nodes = [
        node("Flatten", "pixels:0", "flat"),
        node("MatMul", "flat first", "mixed", name="first"),
        node("Relu", "mixed", "hidden"),
        node("MatMul", "hidden box", "plain_boxes", name="box"),
        node("Mul", "plain_boxes pixels_a_unit", "pixel_boxes"),
        node("Reshape", "pixel_boxes of_boxes", "boxes"),
        node("MatMul", "hidden score", "logits", name="score"),
        node("Sigmoid", "logits", "plain_scores"),
        node("Mul", "plain_scores dimmed", "dim_scores", name="dim"),
        node("Reshape", "dim_scores of_scores", "scores"),
        node("Concat", "boxes scores", "detections", axis=1),
        node("Greater", "scores half", "above"),
        node("Cast", "above", "counts", to=TensorProto.INT64),
        node("ReduceSum", "counts axes", "found", keepdims=0),
        node("Relu", "scores", "dead_end"),
    ]
    return save(
        path,
        nodes,
        {"pixels:0": (FLOAT, ["batch", 3, SIDE, SIDE])},
        {"detections": (FLOAT, ["batch", 5, BOXES]), "found": (TensorProto.INT64, ["batch", 1])},
        first=random.normal(0, 0.15, (size, HIDDEN)).astype(np.float32),
        box=np.abs(random.normal(0, 0.3, (HIDDEN, 4 * BOXES))).astype(np.float32),
        score=random.normal(0, 0.6, (HIDDEN, BOXES)).astype(np.float32),
        pixels_a_unit=np.float32(100),
        dimmed=np.float32(scores),
        half=np.float32(0.5),
        axes=np.array([2], np.int64),
        of_boxes=np.array([0, 4, BOXES], np.int64),
        of_scores=np.array([0, 1, BOXES], np.int64),
    )


def remembering(path: Path) -> Path:
    """`sound` and `state` to `speech` and `stateN`, whose last value says what was heard before."""
    random = np.random.default_rng(2)
    nodes = [
        node("Squeeze", "state zero", "before"),
        node("Concat", "sound before", "both", axis=1),
        node("MatMul", "both cell", "mixed", name="cell"),
        node("Tanh", "mixed", "after"),
        node("Unsqueeze", "after zero", "stateN"),
        node("MatMul", "after head", "logit", name="head"),
        node("Sigmoid", "logit", "speech"),
    ]
    return save(
        path,
        nodes,
        {"sound": (FLOAT, ["batch", 12]), "state": (FLOAT, [1, "batch", 8])},
        {"speech": (FLOAT, ["batch", 1]), "stateN": (FLOAT, [1, "batch", 8])},
        cell=random.normal(0, 0.5, (20, 8)).astype(np.float32),
        head=random.normal(0, 1.5, (8, 1)).astype(np.float32),
        zero=np.array([0], np.int64),
    )


def pictures(path: Path, count: int = 90) -> Path:
    """A stack of pictures for the detector."""
    values = np.random.default_rng(1).normal(0, 1, (count, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(path, **{"pixels:0": values})
    return path


def sounds(folder: Path, count: int = 45) -> Path:
    """A folder of sounds, a file each, of three to seven steps."""
    folder.mkdir()
    random = np.random.default_rng(4)
    for number in range(count):
        np.savez(folder / f"{number:03d}.npz", sound=random.normal(0, 1, (3 + number % 5, 12)).astype(np.float32))
    return folder


@dataclass(frozen=True)
class Blind:
    """A recipe after which no score is left, in less time: boxes are as before, so that the cosine is nearly 1."""

    suffix: ClassVar[str] = "_blind"
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)
    least_ort: ClassVar[str] = "1.17.0"
    least_opset: ClassVar[int] = 13

    @classmethod
    def for_target(cls, target: Any) -> Any:
        """The same for every target."""
        return cls()

    def variants(self) -> tuple[dict[str, Any], ...]:
        """No others."""
        return ()

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Any],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the detector with scores of 0."""
        made = onnx.load(model)
        for one in made.graph.initializer:
            if one.name == "dimmed":
                one.CopyFrom(numpy_helper.from_array(np.float32(0), "dimmed"))
        onnx.save(made, out)
