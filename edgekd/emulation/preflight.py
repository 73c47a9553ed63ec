"""Whether the target's core runs what will be written, seen before anything is trained: the gate's part that runs.

A tiny graph of the operators that students are made of goes through each recipe, and then through the real ONNX
Runtime of the target's architecture on an emulated core: a wheel built for newer cores dies there of an illegal
instruction, a release without a kernel refuses. What passed is kept, and asked only once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, StoreError
from edgekd.core.protocols import Progress
from edgekd.core.registry import make, plugin
from edgekd.core.results import versions
from edgekd.emulation import evaluate
from edgekd.onboard.runner import pack
from edgekd.plan.plan import Plan
from edgekd.store.store import Store

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

_OPSET = 18  # the highest that exporters write
_WIDTH, _TOKENS, _ROWS, _CLASSES = 32, 8, 16, 4
_NORMS = 17  # the opset that LayerNormalization comes with

Operator = tuple[str, list[str], str, dict[str, Any]]  # type, inputs, output, attributes
_SHAPES = {"head": (_WIDTH, _CLASSES), "head_b": (_CLASSES,)}
_TEXT_SHAPES = {"table": (_ROWS, _WIDTH), "w": (_WIDTH, _WIDTH), "b": (_WIDTH,), "scale": (_WIDTH,)}
_VALUE_SHAPES = {"kernel": (_WIDTH, _WIDTH, 3), "own_kernels": (_WIDTH, 1, 3)}
_VALUES: list[Operator] = [
    ("Conv", ["input", "kernel"], "convolved", {"pads": [1, 1]}),
    ("Relu", ["convolved"], "positive", {}),
    ("Conv", ["positive", "own_kernels"], "filtered", {"group": _WIDTH}),
    ("GlobalAveragePool", ["filtered"], "mean", {}),
]


def check(plan: Plan, store: Store, progress: Progress) -> None:
    """Raises RuntimeCannotLoad where ONNX Runtime does not run a recipe's operators on the target's core.

    Where this host has the target's own kernels nothing is asked: sizing runs them. Where nothing can be asked, or the
    emulator fails, `progress` says so and the build goes on.
    """
    target = plan.target
    if target.runs_here:
        return
    if why := evaluate.why_not(plan):
        progress.say(f"runtime gate: no recipe was run on the target's core: {why}")
        return
    key = {
        "cpu": target.emulator_cpu,
        "text": _is_text(plan),
        "recipes": [str(one) for one in _recipes(plan).values()],
        "ceilings": [target.max_opset, target.max_ir_version],
        "versions": versions("onnxruntime", "onnx", "edgekd"),
    }
    if not store.has("gate", key):
        progress.stage(f"runtime gate: the recipes' operators on {target.emulator_cpu}")
    try:
        store.stage("gate", key, lambda out: _run(plan, out))
    except (RuntimeCannotLoad, StoreError):
        raise
    except EdgeKDError as error:
        progress.say(f"runtime gate: no recipe was run on the target's core, the emulator failed: {error.message}")


def _run(plan: Plan, out: Path) -> None:
    inputs = out / "inputs.npz"
    probes = _probes(plan, out)
    pack([_sample(text=_is_text(plan))], inputs)
    jobs = {name: {"model": str(file), "inputs": str(inputs)} for name, file in probes.items()}
    with make("devices", "qemu", cpu=plan.target.emulator_cpu).up() as device:
        try:
            device.run("answers", models=jobs, threads=1, limit_s=0, outputs=str(out / "said.npz"))
        except RuntimeCannotLoad:
            for name, job in jobs.items():  # which of them it is
                _alone(plan, device, name, job, out)
            raise


def _alone(plan: Plan, device: Any, name: str, job: dict[str, str], out: Path) -> None:
    try:
        device.run("predict", **job, threads=1, outputs=str(out / f"{name}.npz"))
    except RuntimeCannotLoad as error:
        raise RuntimeCannotLoad(
            f"{plan.target.title} will not run what {name} writes: {error.message}",
            fix="install another onnxruntime and note this one in the profile's known_bad_ort"
            + ("" if name == "float32" else f"; or leave {name} out"),
        ) from error


def _is_text(plan: Plan) -> bool:
    return bool(plan.made_task.unit == "tokens")


def _recipes(plan: Plan) -> dict[str, Any]:
    """The recipes by their names, ready for the target; fp32, which all of them are made from, first."""
    asked = ("float32", *plan.target.recipes, *filter(None, [plan.force]))
    return {name: plugin("quantizers", name).for_target(plan.target) for name in asked}


def _probes(plan: Plan, out: Path) -> dict[str, Path]:
    """A file of each recipe, by its name; one that cannot be made is the search's to tell of."""
    target, text, found = plan.target, _is_text(plan), {}
    plain = probe(out / "probe.onnx", text=text, opset=min(_OPSET, target.max_opset), ir_version=target.max_ir_version)
    for name, recipe in _recipes(plan).items():
        file = out / f"{name}.onnx"
        try:
            recipe.quantize(plain, file, [_sample(text=text)])
        except (EdgeKDError, RuntimeError, ValueError):  # ONNX Runtime's quantizers raise the last two
            continue
        found[name] = file
    return found


def probe(path: Path, *, text: bool, opset: int, ir_version: int) -> Path:
    """Write a graph to scores (1, 4): of token ids (1, 8) by lookup, attention and norm; of values (1, 32, 8) by
    convolutions; then through a head."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shapes = _SHAPES | (_TEXT_SHAPES if text else _VALUE_SHAPES)
    operators = [
        *(_text(opset) if text else _VALUES),
        ("Flatten", ["mean"], "flat", {}),
        ("Gemm", ["flat", "head", "head_b"], "scores", {}),
    ]
    kind, shape = (TensorProto.INT64, [1, _TOKENS]) if text else (TensorProto.FLOAT, [1, _WIDTH, _TOKENS])
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], output, **more) for kind, inputs, output, more in operators],
        "probe",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, _CLASSES])],
        [
            numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.save(model, path)
    return path


def _text(opset: int) -> list[Operator]:
    norm: Operator = ("LayerNormalization", ["erf", "scale", "b"], "normed", {})
    return [
        ("Gather", ["table", "input"], "rows", {}),
        ("MatMul", ["rows", "w"], "product", {}),
        ("Add", ["product", "b"], "sum", {}),
        ("Erf", ["sum"], "erf", {}),
        norm if opset >= _NORMS else ("Mul", ["erf", "scale"], "normed", {}),
        ("Transpose", ["normed"], "keys", {"perm": [0, 2, 1]}),
        ("MatMul", ["normed", "keys"], "weights", {}),
        ("Softmax", ["weights"], "attention", {"axis": -1}),
        ("MatMul", ["attention", "normed"], "attended", {}),
        ("Transpose", ["attended"], "channels", {"perm": [0, 2, 1]}),
        ("GlobalAveragePool", ["channels"], "mean", {}),
    ]


def _sample(*, text: bool) -> Sample:
    import numpy as np

    if text:
        return {"input": np.arange(_TOKENS, dtype=np.int64).reshape(1, _TOKENS) % _ROWS}
    return {"input": np.random.default_rng(1).normal(size=(1, _WIDTH, _TOKENS)).astype(np.float32)}
