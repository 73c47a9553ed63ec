"""Codes that make up for each other's errors on real inputs. GPTQ, Frantar et al. 2023, arXiv 2210.17323.

A column is rounded, and the columns after it take over what that changes of the product, by the inputs' second moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

_DAMPING = 0.01  # of the mean second moment, added to each: inputs that never occur have none
_MOST_VALUES = 1 << 27  # of moments that are held at once: a gibibyte of float64
_PANEL = 128  # columns whose errors are handed on together


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
    weights = weights.astype(np.float64)
    width = weights.shape[1]
    upper = _inverse(moment)
    codes = np.zeros(weights.shape, np.uint8)
    scales = np.zeros((len(weights), -(-width // block_size)), np.float32)
    for start in range(0, width, _PANEL):
        end = min(start + _PANEL, width)
        errors = np.zeros((len(weights), end - start))
        for column in range(start, end):
            block = column // block_size
            if column % block_size == 0:
                own = weights[:, column : column + block_size].astype(np.float32)
                scales[:, block] = _best_scale(own, bits, in_blocks(own, bits, own.shape[1])[1][:, 0])
            scale = scales[:, block].astype(np.float64)
            inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
            code = np.clip(np.rint(weights[:, column] * inverse) + half, 0, 2 * half - 1)
            codes[:, column] = code
            error = (weights[:, column] - (code - half) * scale) / upper[column, column]
            weights[:, column + 1 : end] -= np.outer(error, upper[column, column + 1 : end])
            errors[:, column - start] = error
        weights[:, end:] -= errors @ upper[start:end, end:]
    return codes, scales


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
    """Return the upper Cholesky factor of the damped moment's inverse, (width, width)."""
    import numpy as np

    damped = moment.copy()
    idle = np.diag(damped) == 0
    damped[idle, idle] = 1.0
    damped[np.diag_indices_from(damped)] += _DAMPING * np.diag(damped).mean()
    upper: Array = np.linalg.cholesky(np.linalg.inv(damped)).T
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

    graph = external.load(model)
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = usable_cpus(), 3
    with tempfile.TemporaryDirectory(prefix="edgekd-moments-") as folder:
        file = external.save(graph, Path(folder, "watched.onnx"))
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
