"""Whether an ONNX file can be compressed: read whole, never run, and refused with the reason while planning.

All of this runs in a process of its own with limits (`_onnx_apart`): what reads a stranger's file here is C++.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.external import graphs, inner_graphs, nodes, place_of, tensors
from edgekd.core.pointers import check_no_pointer

_MOST_BYTES = (1 << 31) - (1 << 20)  # of one protobuf message, less what the graph's own structure may take
_MOST_NODES = 100_000  # after local functions are inlined: ten that call each other ten times make 10^10
_QUANTIZED = re.compile(r"Q(Linear|Gemm|Attention|Embed|MoE)|.*[Qq]uantize|.*Integer|MatMul(NBits|Bnb4|FpQ4)")
_NARROW = re.compile(r"BFLOAT16|DOUBLE|FLOAT(4|6|8|16)|U?INT[24]$")
_OF_ONE_CPU = ("com.microsoft.nchwc",)  # what ONNX Runtime's own optimizer writes for the machine that it ran on
_STANDARD = ("", "ai.onnx")
_EXTERNAL = ("location", "offset", "length", "checksum", "basepath")


def read(path: Path, *, allow_loops: bool = False) -> tuple[Any, list[Path]]:
    """The checked onnx.ModelProto, external data folded in and local functions inlined; the files of those data.

    Raises TeacherError for a file that is damaged or no ONNX model, of a newer opset or IR version than is installed,
    with external data missing or outside its folder, control flow unless `allow_loops`, quantized or half-precision
    weights, weights of NaN or infinity, or operators that ONNX Runtime has no CPU kernel for.
    """
    import onnx

    model = _parsed(path)
    _check_versions(model, path)
    _check_structure(model, path, allow_loops=allow_loops)
    data_files = _fold_external_data(model, path)
    model = _inlined(model, path)
    _check_operators(model, path)
    _check_weights(model, path)
    _check_shapes(model, path)
    try:
        onnx.checker.check_model(str(path))  # of the file: a model in memory would be written out first
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise TeacherError(
            f"{path} is no valid ONNX model: {str(error).splitlines()[0]}",
            fix="export it again, and ask onnx.checker.check_model(path) whether what came out is valid",
        ) from error
    return model, data_files


def check_form(source: str) -> None:
    """Of a model that is run and not made another of, float or quantized: whether what a run costs is bounded.

    Raises TeacherError for a damaged file, versions that are not installed, control flow, and data outside the folder.
    """
    path = Path(source)
    model = _parsed(path)
    _check_versions(model, path)
    _check_structure(model, path, allow_loops=False, offer=False)
    _fold_external_data(model, path)
    _inlined(model, path)


def opset(model: Any) -> int:
    """The version of ONNX's own operators; 0 where the model names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)


def _parsed(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

    check_no_pointer(path, TeacherError)
    if path.stat().st_size > _MOST_BYTES:
        raise _too_large(path)
    with path.open("rb") as stream:
        data = stream.read(1)
        data += stream.read() if data != b"\0" else b""  # no message begins so: two gigabytes of nothing need no look
    if not data:
        raise TeacherError(f"the teacher {path} is empty", fix="fetch or export it again")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _damaged(path, "it ends too early, or it is another kind of file") from error
    if not model.graph.node or not model.ir_version or not opset(model):
        raise _damaged(path, "it holds no graph with an opset and an IR version")
    if len(UnknownFieldSet(model)) or len(UnknownFieldSet(model.graph)):
        raise _damaged(path, "it holds bytes that are no part of a model")
    if any(isinstance(word, bytes) for word in _words(model)):  # so protobuf gives what is no UTF-8
        raise _damaged(path, "a name in it is no text")
    return model


def _words(model: Any) -> Iterator[str | bytes]:
    """Every name that the graph is held together by."""
    for node in nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for named in (*model.graph.input, *model.graph.output, *model.graph.initializer, *model.functions):
        yield named.name
    yield from (entry.domain for entry in model.opset_import)
    yield from (entry.value for _, tensor in tensors(model) for entry in tensor.external_data)


def _check_versions(model: Any, path: Path) -> None:
    """Raises TeacherError for versions that the installed packages do not know."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    opsets = [schema.since_version for schema in runtime.get_all_operator_schema() if schema.domain in _STANDARD]
    for what, found, known in (("opset", opset(model), max(opsets)), ("IR", model.ir_version, onnx.IR_VERSION)):
        if found > known:
            raise TeacherError(
                f"{path} has {what} version {found}; what is installed here knows {known}",
                fix=f"export it again with {what} version {known} or less",
            )


def _check_structure(model: Any, path: Path, *, allow_loops: bool, offer: bool = True) -> None:
    """Raises TeacherError for control flow, also inside functions, for sparse weights, and for too many operators.

    `offer`: whether the command that asks can allow loops.
    """
    branching = Counter(node.op_type for node in nodes(model) if inner_graphs(node))
    if branching and not allow_loops:
        raise TeacherError(
            f"{path} has control flow ({_listed(branching)}): what a run costs is not known before it ends",
            fix="export it without loops and branches: torch.onnx.export on fixed example inputs unrolls them"
            + ("; or allow them, if you trust who made the file: --allow-loops" if offer else ""),
        )
    if branching and model.functions:
        raise TeacherError(f"{path} has control flow and functions", fix="export it without functions")
    sparse = any(one.HasField("sparse_tensor") or one.sparse_tensors for node in nodes(model) for one in node.attribute)
    if sparse or any(graph.sparse_initializer for graph in graphs(model)):
        raise TeacherError(f"{path} has sparse weights", fix="export it with dense weights")
    count = sum(1 for _ in nodes(model))
    if count > _MOST_NODES:
        raise TeacherError(f"{path} has {count} operators; {_MOST_NODES} are the most", fix="give a smaller model")


def _fold_external_data(model: Any, path: Path) -> list[Path]:
    """Read all external data into the model; the files they came from, sorted."""
    files, held = set(), 0
    for name, tensor in tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = told.get("location", "")
        file = place_of(location, path.parent)
        if file is None:
            raise TeacherError(
                f"{path} keeps the weight {name!r} in {location!r}: outside its folder, or behind a link",
                fix="put the data beside it as a plain file, or save the model as one file: "
                "onnx.save(onnx.load(path), 'whole.onnx')",
            )
        if not os.path.lexists(file):
            raise TeacherError(
                f"{path} keeps its weights in {location!r}, which is not beside it",
                fix="copy both files into one folder, under the names that they had",
            )
        check_no_pointer(file, TeacherError)
        try:
            held += _take(tensor, file, told, _MOST_BYTES - held)
        except (OSError, ValueError) as error:
            raise _damaged(path, f"the weight {name!r} in {location!r}: {error}") from error
        except OverflowError as error:
            raise _too_large(path) from error
        files.add(file)
    return sorted(files)


def _take(tensor: Any, file: Path, told: dict[str, str], room: int) -> int:
    """Move a tensor's bytes into it; how many. Raises ValueError, OSError, and OverflowError for more than `room`."""
    if strange := sorted(told.keys() - set(_EXTERNAL)):
        raise ValueError(f"it says {strange[0]!r} of its place")
    offset, length = int(told.get("offset", "0")), int(told["length"]) if "length" in told else None
    # neither a link nor a pipe, whatever lay there a moment ago
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no plain file")
        if about.st_nlink > 1:
            raise ValueError("the file has other names too (hard links): copy it")
        wanted = about.st_size - offset if length is None else length
        if offset < 0 or wanted < 0 or offset + wanted > about.st_size:
            raise ValueError(f"bytes {offset} to {offset + wanted} of a file of {about.st_size}")
        if wanted > room:
            raise OverflowError
        stream.seek(offset)
        tensor.raw_data = stream.read(wanted)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    return wanted


def _inlined(model: Any, path: Path) -> Any:
    """The model without local functions: recipes and runtimes see operators only."""
    import onnx.inliner

    if not model.functions:
        return model
    calls = {(one.domain, one.name): [(node.domain, node.op_type) for node in one.node] for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    try:
        for key in TopologicalSorter({key: set(called) & set(calls) for key, called in calls.items()}).static_order():
            sizes[key] = sum(sizes.get(call, 1) for call in calls[key])
    except CycleError as error:
        raise _damaged(path, "a function of it calls itself") from error
    if model.graph.node and any(node.overload for node in nodes(model)):
        raise TeacherError(f"{path} has overloaded functions", fix="export it without functions")
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node)
    if total > _MOST_NODES:
        raise TeacherError(f"{path} has functions that unfold to {total} operators", fix="export it without functions")
    return onnx.inliner.inline_local_functions(model)


def _check_operators(model: Any, path: Path) -> None:
    """Raises TeacherError for what is quantized already, and for operators without a CPU kernel on any machine."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    quantized = Counter(node.op_type for node in nodes(model) if _QUANTIZED.match(node.op_type))
    if quantized:
        raise _not_float(path, f"it is quantized already ({_listed(quantized)})")
    kernels = {
        (kernel.domain, kernel.op_name)
        for kernel in runtime.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider" and kernel.domain not in _OF_ONE_CPU
    }
    others = {(node.domain, node.op_type) for node in nodes(model) if node.domain not in _STANDARD}
    if strange := sorted(others - kernels):
        raise TeacherError(
            f"{path} needs operators that ONNX Runtime does not have on every CPU: "
            f"{', '.join(f'{domain}.{operator}' for domain, operator in strange[:3])}",
            fix="export it with ONNX's own operators; a file that a runtime has optimized is given as it was before",
        )


def _check_weights(model: Any, path: Path) -> None:
    """Raises TeacherError for weights in other types than float32, of the wrong length, or not finite."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    narrow: dict[str, list[str]] = {}
    for name, tensor in tensors(model):
        try:
            if any(size < 0 for size in tensor.dims):
                raise ValueError(f"the shape {list(tensor.dims)}")
            kind = TensorProto.DataType.Name(tensor.data_type)
            if _NARROW.match(kind) and math.prod(tensor.dims) > 1:
                narrow.setdefault(kind.lower(), []).append(name)
                continue
            values = numpy_helper.to_array(tensor)  # which also counts: as many values as the shape says
        except (TypeError, ValueError) as error:
            raise _damaged(path, f"the weight {name!r}: {str(error).splitlines()[0]}") from error
        if kind != "FLOAT":
            continue
        # a single infinity is what masks are made of
        if not np.isfinite(values).all() and (values.size > 1 or np.isnan(values).any()):
            count = int(values.size - np.isfinite(values).sum())
            raise TeacherError(
                f"the weight {name!r} of {path} holds NaN or infinity ({count} of {values.size} values)",
                fix="give an undamaged model",
            )
    for kind, names in narrow.items():
        raise _not_float(path, f"{len(names)} of its weights are {kind}, {names[0]!r} the first")


def _check_shapes(model: Any, path: Path) -> None:
    """Raises TeacherError where an input or output is declared without its type or shape; sizes in it may be free."""
    constants = {tensor.name for tensor in model.graph.initializer}
    fix = "export it again with the shapes of inputs declared; sizes that are free are given as names"
    for what, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            kind = value.type.tensor_type
            known = kind.HasField("shape") and kind.elem_type
            if value.name in constants or known or value.type.WhichOneof("value") not in (None, "tensor_type"):
                continue
            if what == "output":  # what inputs have, outputs follow from
                shaped = str(path.with_name(f"shaped-{path.name}"))
                fix = (
                    f"write shapes into it: onnx.save(onnx.shape_inference.infer_shapes(onnx.load({str(path)!r})), "
                    f"{shaped!r}); if the {what} still has none, export it again with shapes"
                )
            raise TeacherError(f"{path} declares its {what} {value.name!r} without a type and shape", fix=fix)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))


def joined(words: Iterable[str]) -> str:
    """`a, b, c`; `none` for none."""
    return ", ".join(words) or "none"


def _not_float(path: Path, why: str) -> TeacherError:
    return TeacherError(
        f"{path} is no float32 model: {why}",
        fix="give the float32 model that it was made from; edgekd makes the smaller ones itself",
    )


def _damaged(path: Path, why: str) -> TeacherError:
    return TeacherError(
        f"{path} is damaged, or not an ONNX model: {why}", fix="fetch or export it again, and compare its size"
    )


def _too_large(path: Path) -> TeacherError:
    return TeacherError(
        f"{path} and its data are larger than {_MOST_BYTES >> 20} MiB, the most that is read of an ONNX teacher",
        fix="give a smaller model",
    )
