"""Any ONNX graph as it is: what it takes and gives, the graph with nothing but what is needed, and a first run.

All of this runs in a process of its own with limits (`_onnx_apart`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import licences
from edgekd.core.errors import TeacherError
from edgekd.core.external import inner_graphs, nodes
from edgekd.core.ports import CLASSES, NUMBERS, VALUES, WHOLE, Port
from edgekd.teachers import _files, _onnx_checks, _onnx_graph

if TYPE_CHECKING:
    import numpy as np

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
_TYPES = {"float": "float32", "double": "float64"}
_SCORES = ("Softmax", "LogSoftmax")
_LIMIT = 1e-3  # largest difference of an output, relative to the largest: another order of sums, nothing more
_LEAST = 1e-3


def look(source: str, *, allow_loops: bool = False) -> dict[str, Any]:
    """What `ArrayGraph.inspect` says of a plain file. Raises TeacherError as it does."""
    path = Path(source)
    model, data_files = _onnx_checks.read(path, allow_loops=allow_loops)
    _check_random(model, path)
    inputs, outputs, left_out = _inputs(model, path), *_outputs(model, path)
    loops = sum(1 for node in model.graph.node if inner_graphs(node))
    checks = [
        "ONNX: parsed and checked in a process with limits on memory and time; operators, sizes and values of weights",
        f"external data: {', '.join(file.name for file in data_files)}, inside its folder"
        if data_files
        else "external data: none",
        f"loops and branches: {loops}, allowed by --allow-loops" if loops else "loops and branches: none",
        *(f"left out, since it is no array of numbers: the output {told}" for told in left_out),
    ]
    return {
        "folder": str(path.parent),
        "ready": True,
        "architecture": {
            "model_type": "onnx",
            "file": path.name,
            "opset": _onnx_checks.opset(model),
            "ir_version": model.ir_version,
            "operators": len(model.graph.node),
            "parameters": _onnx_graph.parameters(model),
            "ports": {"inputs": [one.as_dict() for one in inputs], "outputs": [one.as_dict() for one in outputs]},
            **({"loops": loops} if loops else {}),
        },
        "labels": (),
        "sha256": _files.fingerprint(path.parent, [path, *data_files]),
        "licence": licences.of_teacher(path.parent),
        "checks": checks,
    }


def _check_random(model: Any, path: Path) -> None:
    """Raises TeacherError for operators that draw: the same input has no one answer."""
    found = Counter(node.op_type for node in nodes(model) if node.op_type in _RANDOM)
    if found:
        told = ", ".join(f"{count} x {name}" for name, count in sorted(found.items()))
        raise TeacherError(
            f"{path} draws random numbers ({told}): the same input has another answer at each run",
            fix="export it for inference: model.eval() before torch.onnx.export; or give the noise as an input",
        )


def _inputs(model: Any, path: Path) -> list[Port]:
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = _kind(value)
        if kind not in NUMBERS:
            why = "texts, which no recipe quantizes and no golden vector holds" if kind == "string" else f"a {kind}"
            raise TeacherError(
                f"{path} takes {value.name}: {why}",
                fix="give the graph behind that input: with numbers, such as token ids, in place of texts",
            )
        found.append(Port(value.name, kind, _shape(value)))
    if not found:
        raise TeacherError(f"{path} takes no input: it always gives the same", fix="give a graph with inputs")
    _check_names(path, [port.name for port in found])
    return found


def _outputs(model: Any, path: Path) -> tuple[list[Port], list[str]]:
    """The outputs that are arrays of numbers, and in words those that are not."""
    found, left_out = [], []
    for value in model.graph.output:
        kind = _kind(value)
        if kind not in NUMBERS:
            left_out.append(f"{value.name} ({'texts' if kind == 'string' else kind})")
            continue
        axis = _class_axis(model, value) if kind.startswith("float") else None
        of = VALUES if kind.startswith("float") else WHOLE
        found.append(
            Port(value.name, kind, _shape(value), of)
            if axis is None
            else Port(value.name, kind, _shape(value), CLASSES, axis)
        )
    if not found:
        raise TeacherError(
            f"{path} gives no array of numbers: {', '.join(left_out) or 'nothing'}",
            fix="export it with tensors as outputs: of scikit-learn's converter options={'zipmap': False}",
        )
    _check_names(path, [port.name for port in found])
    return found, left_out


def _class_axis(model: Any, value: Any) -> int | None:
    """The axis, from the end, of an output that is a softmax over classes; None of others.

    Below opset 13 a softmax is over all axes from its own on: it counts where that is the last.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    node, rank = makers.get(value.name), len(value.type.tensor_type.shape.dim)
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = makers.get(node.input[0])
    if node is None or node.op_type not in _SCORES or not rank:
        return None
    new = _onnx_checks.opset(model) >= _onnx_graph.LEAST_OPSET
    axis = next((one.i for one in node.attribute if one.name == "axis"), -1 if new else 1)
    from_end = int(axis - rank if axis >= 0 else axis)
    return from_end if new or from_end == -1 else None


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (name.isprintable() and 0 < len(name) <= 200):
            raise TeacherError(
                f"{path} has an input or output of a name that is no plain text: {name[:80]!r}",
                fix="rename it: onnx.compose, or export it again with input_names and output_names",
            )


def _kind(value: Any) -> str:
    """numpy's name of its type; `sequence` and the like for what is no tensor."""
    from onnx import TensorProto

    if value.type.WhichOneof("value") != "tensor_type":
        return str(value.type.WhichOneof("value") or "nothing").removesuffix("_type")
    name: str = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return _TYPES.get(name, name)


def _shape(value: Any) -> tuple[int | str, ...]:
    # some exporters write -1, or 0, for a size that is free
    return tuple(one.dim_value if one.dim_value > 0 else one.dim_param for one in value.type.tensor_type.shape.dim)


def prepare(source: str, out: str, outputs: list[str], *, loops: bool) -> None:
    """Write the graph with what these outputs need to the file `out` (in a child process), names as they are.

    Every node gets a name of its own; notes, dead branches and training state stay behind; one below the opset that
    recipes need is lifted, where onnx can.
    """
    import onnx

    model, _ = _onnx_checks.read(Path(source), allow_loops=loops)
    onnx.save(whole(model, outputs), out)


def whole(model: Any, outputs: Sequence[str]) -> Any:
    """A new model of what these outputs need."""
    import onnx
    from onnx import helper, version_converter
    from onnx.version_converter import ConvertError

    needed, used = _onnx_graph.reached(model, outputs)
    constants = {tensor.name for tensor in model.graph.initializer}
    graph = helper.make_graph([], "model", [], [])
    for node, title in zip(needed, _onnx_graph.node_names(needed), strict=True):
        graph.node.add().CopyFrom(node)
        graph.node[-1].name = title
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(value for value in model.graph.output if value.name in outputs)
    domains = {node.domain for node in _all(needed) if node.domain != "ai.onnx"}
    imports = {entry.domain: entry.version for entry in model.opset_import if entry.domain in domains}
    fresh = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid(name, version) for name, version in (imports | {"": _onnx_checks.opset(model)}).items()
        ],
        ir_version=max(model.ir_version, 4),  # constants that are no inputs
    )
    fresh.DiscardUnknownFields()
    if _onnx_checks.opset(fresh) < _onnx_graph.LEAST_OPSET:
        try:
            lifted = version_converter.convert_version(fresh, _onnx_graph.LEAST_OPSET)
            onnx.checker.check_model(lifted)
        except (RuntimeError, ConvertError, onnx.checker.ValidationError):
            return fresh  # recipes that need more than its opset fail one by one, and say so
        return lifted
    return fresh


def _all(needed: Sequence[Any]) -> list[Any]:
    """These nodes and those inside of them."""
    found = list(needed)
    for node in needed:
        for inner in inner_graphs(node):
            found += _all(inner.node)
    return found


def compare(original: str, written: str, inputs: str, program: str, outputs: list[str]) -> float:
    """Run both files on packed rows (in a child process); the largest difference of outputs, relative to the largest.

    Raises TeacherError where one does not run, answers unlike twice or with no number, or where they disagree.
    """
    import numpy as np

    from edgekd.onboard.runner import unpack

    keep = dict.fromkeys(outputs, "as_is")
    theirs, ours = (_opened(file, program, keep) for file in (original, written))
    worst = 0.0
    for number, sample in enumerate(unpack(Path(inputs))):
        try:
            said, own, again = theirs(sample)[0], ours(sample)[0], ours(sample)[0] if not number else None
        except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
            raise _fails(original, number, sample, error) from error
        for name in outputs:
            if np.isnan(said[name]).any() or np.isnan(own[name]).any():
                raise TeacherError(f"{original} gives NaN as {name} on the row {number}", fix="leave that row out")
            if again is not None and not np.array_equal(own[name], again[name]):
                raise TeacherError(
                    f"{original} answers the same input in two ways: it holds random operators",
                    fix="export it for inference: model.eval() before torch.onnx.export",
                )
            worst = max(worst, _apart(said[name], own[name]))
    if not worst < _LIMIT:
        raise TeacherError(
            f"{original} says something else after its preparation: outputs differ by {worst:.2g}",
            fix="this is a fault of edgekd: please report it with the command that you ran",
        )
    return worst


def answers(source: str, inputs: str, program: str, outputs: list[str], out: str) -> None:
    """Write what the file gives for packed rows to `out` (in a child process).

    Raises TeacherError where it does not run, or an output is no number.
    """
    import numpy as np

    from edgekd.onboard.runner import pack, unpack

    run = _opened(source, program, dict.fromkeys(outputs, "as_is"))
    found = []
    for number, sample in enumerate(unpack(Path(inputs))):
        try:
            said = run(sample)[0]
        except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
            raise _fails(source, number, sample, error) from error
        bad = next((name for name in outputs if np.isnan(said[name]).any()), None)
        if bad is not None:
            raise TeacherError(
                f"{source} gives NaN as {bad} on the row {number}",
                fix="leave that row out; where all rows give NaN, give an undamaged model, or rows as it expects them",
            )
        found.append({name: said[name] for name in outputs})
    pack(found, Path(out))


def _fails(source: str, number: int, sample: Mapping[str, Any], error: Exception) -> TeacherError:
    told = ", ".join(f"{name} {values.shape}" for name, values in sample.items())
    return TeacherError(
        f"{source} fails on the row {number} ({told}): {str(error).splitlines()[0]}",
        fix="give rows that onnxruntime runs the file on by itself: values, as well as shapes, are the graph's "
        "to choose",
    )


def _apart(said: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> float:
    """The largest difference, relative to the largest value; infinite of other shapes."""
    import numpy as np

    if said.shape != own.shape:
        return float("inf")
    if not said.size or np.array_equal(said, own):
        return 0.0
    wide, other = (np.nan_to_num(values.astype(np.float64), posinf=1e30, neginf=-1e30) for values in (said, own))
    return float(np.abs(wide - other).max() / max(_LEAST, float(np.abs(wide).max())))


def _opened(file: str, program: str, keep: dict[str, str]) -> Any:
    from edgekd.onboard.runner import Predictor

    try:
        return Predictor(file, 1, "CPUExecutionProvider", program=program, keep=keep)
    except Exception as error:  # as above
        raise TeacherError(
            f"ONNX Runtime refuses {file}: {str(error).splitlines()[0]}", fix="export it again, or fetch it again"
        ) from error
