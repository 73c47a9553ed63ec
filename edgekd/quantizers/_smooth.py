"""SmoothQuant: what makes activations hard to quantize moves into the weights. Xiao et al. 2023, 2211.10438.

A few channels of a transformer's activations are many times as wide as the others, and one scale for all of them
leaves the others no levels. Divided by a factor of its own a channel is as wide as its neighbours; the matrix that
reads it is multiplied by the same factor, and the product stays what it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import external
from edgekd.core.errors import EdgeKDError

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

_LEAST = 1e-5  # of a width: a channel that is always zero needs no factor


def smooth(
    model: Path, out: Path, calibration: Sequence[Sample], *, strength: float, keep: Sequence[str] = (), rows: int = 128
) -> Path:
    """Write the model with a product in front of its matrices; it says the same in float.

    `strength` is the paper's alpha: 0 leaves activations as they are, 1 makes all their channels equally wide. The
    widths are the largest values over the first `rows` calibration rows, read one at a time. Nodes of `keep` are left
    alone. Raises EdgeKDError where there are no rows, or nothing can be smoothed.
    """
    from onnx import helper, numpy_helper

    if not len(calibration):
        raise EdgeKDError("smoothing has no calibration rows", fix="give unlabelled or validation rows")
    whole = external.load(model)
    graph = whole.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name not in keep and _is_matrix(constants.get(node.input[1])):
            readers.setdefault(node.input[0], []).append(node)
    read_by = [name for node in graph.node for name in node.input]
    # weights that several nodes share would be scaled once too often
    readers = {name: nodes for name, nodes in readers.items() if all(read_by.count(n.input[1]) == 1 for n in nodes)}
    if not readers:
        raise EdgeKDError(
            "no matrix of the model can be smoothed: none has a constant side of its own", fix="leave smooth out"
        )
    widths = _widths(whole, list(readers), calibration, rows)
    position = {id(node): number for number, node in enumerate(graph.node)}
    added: dict[int, Any] = {}
    for name, nodes in readers.items():
        weights = [numpy_helper.to_array(constants[node.input[1]]) for node in nodes]
        factors = _factors(widths[name], weights, strength)
        for node, values in zip(nodes, weights, strict=True):
            node.input[0] = f"{name}/smooth"
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(values * factors[:, None], node.input[1]))
        graph.initializer.append(numpy_helper.from_array(1 / factors, f"{name}/smoothing"))
        first = min(position[id(node)] for node in nodes)
        added[first] = helper.make_node("Mul", [name, f"{name}/smoothing"], [f"{name}/smooth"], f"{name}/Smooth")
    nodes = [each for number, node in enumerate(graph.node) for each in (added.get(number), node) if each is not None]
    del graph.node[:]
    graph.node.extend(nodes)
    return external.save(whole, out)


def _is_matrix(tensor: Any) -> bool:
    from onnx import TensorProto

    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT


def _widths(model: Any, names: list[str], calibration: Sequence[Sample], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """The largest absolute value of each channel of these tensors, the last axis: (channels,)."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in known
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory(prefix="edgekd-smooth-") as folder:
        file = external.save(probe, Path(folder, "probe.onnx"))
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    found: dict[str, np.ndarray[Any, Any]] = {}
    for sample in islice(calibration, rows):
        for name, values in zip(names, session.run(names, {key: sample[key] for key in inputs}), strict=True):
            widest = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            found[name] = np.maximum(found[name], widest) if name in found else widest
    return found


def _factors(
    widths: np.ndarray[Any, Any], weights: Sequence[np.ndarray[Any, Any]], strength: float
) -> np.ndarray[Any, Any]:
    """What each channel is divided by: (channels,), their geometric mean 1. The paper's equation 4."""
    import numpy as np

    heavy = np.maximum(np.max([np.abs(values).max(axis=1) for values in weights], axis=0), _LEAST)
    raw = np.log(np.maximum(widths, _LEAST)) * strength - np.log(heavy) * (1 - strength)
    factors: np.ndarray[Any, Any] = np.exp(raw - raw.mean()).astype(np.float32)
    return factors
