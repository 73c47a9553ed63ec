"""Codes that make up for each other's errors on real inputs. GPTQ, Frantar et al. 2023, arXiv 2210.17323.

A column is rounded, and the columns after it take over what that changes of the product, by the inputs' second moments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

_DAMPING = 0.01  # of each second moment, added to it
_IDLE = 1e-12  # of the largest second moment: an input of less never occurred
_MOST_VALUES = 1 << 27  # of moments that are held at once: a gibibyte of float64


@dataclass(frozen=True)
class Matrix:
    """A constant (width, rows) that a node multiplies the value `input` by."""

    node: str
    input: str
    constant: Any  # a TensorProto


def kept_codes(
    model: Path, matrices: Sequence[Matrix], rows: Sequence[Sample], *, bits: int, block_size: int, cache: Path | None
) -> dict[str, tuple[Array, Array]]:
    """Return codes and scales as `rounded` gives them, by node; those in the folder `cache` are not made again.

    They depend on the fp32 file `model`, what it is fed, and how they are rounded.
    """
    import numpy as np

    from edgekd.core import external
    from edgekd.core.digests import digest
    from edgekd.core.results import versions
    from edgekd.quantizers._calibration import rows_digest

    facts = {
        "model": external.graph_sha256(model),
        "rows": rows_digest(rows),
        "nodes": [one.node for one in matrices],
        "how": [bits, block_size],
        **versions("onnxruntime", "numpy"),
    }
    file = None if cache is None else cache / f"codes-{digest(facts)[:32]}.npz"
    if file is not None and file.exists():
        with np.load(file, allow_pickle=False) as kept:
            return {one.node: (kept[f"codes{n}"], kept[f"scales{n}"]) for n, one in enumerate(matrices)}
    found = _made(model, matrices, rows, bits, block_size)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.stem}.{os.getpid()}.npz")
        named = {
            f"{what}{number}": values
            for number, one in enumerate(matrices)
            for what, values in zip(("codes", "scales"), found[one.node], strict=True)
        }
        np.savez(part, **named)  # type: ignore[arg-type]
        part.replace(file)  # whole or not there
    return found


def _made(
    model: Path, matrices: Sequence[Matrix], rows: Sequence[Sample], bits: int, block_size: int
) -> dict[str, tuple[Array, Array]]:
    from onnx import numpy_helper

    found = {}
    for seen in moments(model, {one.input: one.constant.dims[0] for one in matrices}, rows):
        for one in [one for one in matrices if one.input in seen]:
            weights = numpy_helper.to_array(one.constant).T
            found[one.node] = rounded(weights, seen[one.input], bits=bits, block_size=block_size)
    return found


def moments(model: Path, inputs: Mapping[str, int], rows: Sequence[Sample]) -> Iterator[dict[str, Array]]:
    """Yield, some at a time, the second moments (width, width) of what stands at these values of a graph.

    `inputs` maps their names to their widths; `rows` are what the graph is fed. Each group is one pass over the rows.
    """
    import numpy as np

    for group in _groups(inputs):
        session = _watched(model, group)
        found = {name: np.zeros((inputs[name], inputs[name]), np.float64) for name in group}
        known = {one.name for one in (*session.get_inputs(), *session.get_overridable_initializers())}
        for row in rows:
            fed = {name: values for name, values in row.items() if name in known}
            for name, values in zip(group, session.run(group, fed), strict=True):
                flat = values.reshape(-1, values.shape[-1]).astype(np.float32)
                found[name] += flat.T @ flat
        yield found


def rounded(weights: Array, moment: Array, *, bits: int, block_size: int) -> tuple[Array, Array]:
    """Return codes, uint8 (rows, width), and scales, float32 (rows, blocks), of weights (rows, width).

    `moment` (width, width) is that of their inputs. value = (code - 2 ** (bits - 1)) * scale, as `in_blocks` has it.
    """
    import numpy as np

    from edgekd.quantizers._block_tables import in_blocks

    half = 1 << (bits - 1)
    weights = weights.astype(np.float32).T.copy()  # (width, rows): a column of the matrix lies in one piece
    width, rows = weights.shape
    upper = _inverse(moment)
    upper = (upper / np.diag(upper)[:, None]).astype(np.float32)  # what an error of a column changes in those after it
    codes = np.zeros((width, rows), np.uint8)
    scales = np.zeros((rows, -(-width // block_size)), np.float32)
    for start in range(0, width, block_size):
        end = min(start + block_size, width)
        own = weights[start:end].T
        scale = _best_scale(own, bits, in_blocks(own, bits, own.shape[1])[1][:, 0])
        scales[:, start // block_size] = scale
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
        errors = np.zeros((end - start, rows), np.float32)
        for column in range(start, end):
            code = np.clip(np.rint(weights[column] * inverse), -half, half - 1)
            codes[column] = code + half
            error = errors[column - start] = weights[column] - code * scale
            weights[column + 1 : end] -= np.outer(upper[column, column + 1 : end], error)
        weights[end:] -= upper[start:end, end:].T @ errors
    return np.ascontiguousarray(codes.T), scales


def _best_scale(block: Array, bits: int, widest: Array) -> Array:
    """Return for each row (rows, width) the scale that loses least, of the widest and narrower ones: (rows,)."""
    import numpy as np

    half = 1 << (bits - 1)
    best, least = widest.copy(), np.full(len(block), np.inf)
    for share in np.linspace(1.0, 0.75, 9 if bits < 8 else 1):
        scale = widest * np.float32(share)
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)[:, None]
        code = np.clip(np.rint(block * inverse), -half, half - 1)
        lost = ((code * scale[:, None] - block) ** 2).sum(axis=1)
        better = lost < least
        best[better], least[better] = scale[better], lost[better]
    return best


def _inverse(moment: Array) -> Array:
    """Return the upper triangular factor U of the damped moment's inverse, U' U: (width, width).

    Each input is damped by its own second moment: a few that are a thousand times the others, as language models have
    them, would else damp all others away.
    """
    import numpy as np

    damped = moment.copy()
    own = np.diag(damped).copy()
    own[own <= _IDLE * own.max()] = max(own.mean(), 1e-30)  # never seen: rounded as they are
    damped[np.diag_indices_from(damped)] = (1 + _DAMPING) * own
    turned = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]  # damped = turned turned', upper: no inverse of it
    upper: Array = np.triu(np.linalg.inv(turned))
    return upper


def _groups(inputs: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for name, width in inputs.items():
        if group and held + width * width > _MOST_VALUES:
            yield group
            group, held = [], 0
        group.append(name)
        held += width * width
    if group:
        yield group


def _watched(model: Path, names: Sequence[str]) -> Any:
    """Return a session of the graph that gives these values of it, and nothing else."""
    import tempfile

    import onnx
    import onnxruntime as ort

    from edgekd.core import external
    from edgekd.core.cpus import usable_cpus
    from edgekd.quantizers._onnx import drop_unused

    graph = external.load(model)
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    drop_unused(graph.graph)  # the projection to logits would be computed, too
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = usable_cpus(), 3
    with tempfile.TemporaryDirectory(prefix="edgekd-moments-") as folder:
        file = external.save(graph, Path(folder, "watched.onnx"))
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
