"""Calibration: from rows to the range of each activation, one row at a time, so that memory does not grow with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import external
from edgekd.core.cpus import usable_cpus
from edgekd.core.digests import digest
from edgekd.core.errors import EdgeKDError
from edgekd.core.results import versions

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Ranges = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
    Counts = np.ndarray[Any, Any]

METHODS = ("minmax", "percentile", "entropy")
_BINS = 2048  # of a histogram between the lowest and the highest value
_LEVELS = 128  # to which entropy quantizes a histogram, as TensorRT does


def calibrate(
    model: Path,
    samples: Sequence[Sample],
    *,
    rows: int,
    method: str,
    percentile: float,
    operators: Sequence[str],
    folder: Path,
) -> Path:
    """A file in `folder` with the range of each float tensor at these operators, in ONNX Runtime's form.

    Its name is a digest of the model, the first `rows` samples and the options: what is there already is not made
    again. Nothing of it depends on which nodes stay in float. Raises EdgeKDError where a range is not finite.
    """
    import onnxruntime as ort
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData, save_tensors_data

    from edgekd.core.quiet import quiet

    options = {"method": method, "percentile": percentile if method == "percentile" else None}
    key = {
        "model": external.graph_sha256(model),
        "rows": rows_digest(islice(samples, rows)),
        "operators": sorted(operators),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ranges-{digest(key | options | versions('onnxruntime'))[:32]}.json"
    if path.exists():
        return path
    ort.set_default_logger_severity(3)  # its calibrators make sessions of their own, which warn in colours
    with tempfile.TemporaryDirectory(prefix="edgekd-calibrate-") as scratch, quiet():
        found = _lowest_highest(model, _feeds(model, samples, rows), operators, Path(scratch))
        unbound = [name for name, (low, high) in found.items() if not float(high) - float(low) < float("inf")]
        if unbound:
            raise EdgeKDError(
                f"calibration finds no finite range of the tensor {unbound[0]!r}",
                fix="look for NaN or infinite values in the calibration rows and in the model's weights",
            )
        if method != "minmax":
            cut: Callable[[Counts], tuple[int, int]] = (
                (lambda counts: _percentile(counts, percentile)) if method == "percentile" else _entropy
            )
            found = _cut(model, _feeds(model, samples, rows), operators, Path(scratch), found, cut)
        data = {name: TensorData(lowest=low, highest=high) for name, (low, high) in found.items()}
        part = path.with_name(f"{path.name}.{os.getpid()}")
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), part)
        part.replace(path)  # whole or not there
    return path


def rows_digest(samples: Iterable[Sample]) -> str:
    """Return a digest of all values of some samples."""
    hasher = sha256()
    for sample in samples:
        for name, values in sorted(sample.items()):
            hasher.update(f"{name} {values.dtype} {values.shape}\n".encode())
            hasher.update(values.tobytes())
    return hasher.hexdigest()


def _feeds(model: Path, samples: Sequence[Sample], rows: int) -> Iterator[Sample]:
    """The inputs that the model takes, of each row; rows are read as they are used."""
    import onnx

    names = [node.name for node in onnx.load(model, load_external_data=False).graph.input]
    return ({name: sample[name] for name in names} for sample in islice(samples, rows))


class _One:
    """A single row in the form of ONNX Runtime's CalibrationDataReader: it collects all outputs of what it reads."""

    def __init__(self, feed: Sample) -> None:
        self._feed: Sample | None = feed

    def get_next(self) -> Sample | None:
        feed, self._feed = self._feed, None
        return feed


def _lowest_highest(model: Path, feeds: Iterator[Sample], operators: Sequence[str], scratch: Path) -> Ranges:
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    file = str(scratch / "minmax.onnx")
    apart = external.has_data(model)
    calibrator = create_calibrator(model, operators, file, CalibrationMethod.MinMax, use_external_data_format=apart)
    calibrator.infer_session = _session(file)
    for feed in feeds:
        calibrator.collect_data(_One(feed))
    found = {name: data.range_value for name, data in calibrator.compute_data().items()}
    return {name: (low.reshape(()), high.reshape(())) for name, (low, high) in found.items()}


def _session(augmented: str) -> Any:
    """A calibrator's model as ONNX Runtime's own calibrators open it, on the CPUs that are ours to use.

    Theirs starts a thread for each of the host's, and each of them spins while it waits.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = usable_cpus(), 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(augmented, options, providers=["CPUExecutionProvider"])


def _cut(
    model: Path,
    feeds: Iterator[Sample],
    operators: Sequence[str],
    scratch: Path,
    ranges: Ranges,
    cut: Callable[[Counts], tuple[int, int]],
) -> Ranges:
    """Narrower ranges, by a histogram of each tensor between its known ends.

    ONNX Runtime's own histograms grow without bound from the first row's width, want rows of one length, and differ
    with their order: here the ends are known first, so the bins are fixed.
    """
    import numpy as np
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    file = str(scratch / "all.onnx")
    apart = external.has_data(model)
    create_calibrator(model, operators, file, CalibrationMethod.Percentile, use_external_data_format=apart)
    session = _session(file)
    # entropy is about zero, so the bins are symmetric; a mask's -3e38 or a constant has no histogram
    reach = {name: max(-float(low), float(high)) for name, (low, high) in ranges.items()}
    names = [name for name, most in reach.items() if 0 < most < 1e30]
    if not names:  # to ONNX Runtime no names are all names
        return ranges
    counts = {name: np.zeros(_BINS, dtype=np.int64) for name in names}
    for feed in feeds:
        for name, values in zip(names, session.run(names, feed), strict=True):
            finite = values[np.isfinite(values)]
            bins = ((finite + reach[name]) * (_BINS / (2 * reach[name]))).astype(np.int32)
            counts[name] += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)
    found = dict(ranges)
    for name in names:
        first, last = cut(counts[name])
        edges = np.linspace(-reach[name], reach[name], _BINS + 1, dtype=np.float32)
        low, high = ranges[name]
        found[name] = (np.maximum(low, edges[first]), np.minimum(high, edges[last]))
    return found


def _percentile(counts: Counts, percentile: float) -> tuple[int, int]:
    """The edges between which this percentage of the values lies, half of the rest on either side."""
    import numpy as np

    below = np.cumsum(counts) / counts.sum()
    rest = (1 - percentile / 100) / 2
    return int(np.searchsorted(below, rest)), int(np.searchsorted(below, 1 - rest)) + 1


def _entropy(counts: Counts) -> tuple[int, int]:
    """The edges at which clipping and rounding to 128 levels lose least: the smallest Kullback-Leibler divergence.

    Migacz, 8-bit inference with TensorRT, GTC 2017; over 2048 bins about zero.
    """
    import numpy as np

    middle = len(counts) // 2
    counts = counts.copy()
    counts[middle - 1 : middle + 1] = counts[middle - 2], counts[middle + 1]  # zeros cost nothing, but ReLU makes many
    best, reach = np.inf, middle
    for half in range(_LEVELS // 2, middle + 1):
        inside = counts[middle - half : middle + half].astype(np.float64)
        clipped = inside.copy()
        clipped[0] += counts[: middle - half].sum()
        clipped[-1] += counts[middle + half :].sum()
        starts = np.linspace(0, len(inside), _LEVELS, endpoint=False).astype(np.int64)
        sizes = np.diff(starts, append=len(inside))
        seen = (inside > 0).astype(np.int64)
        filled = np.maximum(np.add.reduceat(seen, starts), 1)
        rounded = np.repeat(np.add.reduceat(inside, starts) / filled, sizes) * seen
        told = clipped > 0
        share = clipped[told] / clipped.sum()
        other = np.maximum(rounded[told] / max(rounded.sum(), 1), 1e-9)  # an outlier's bin may be empty inside
        divergence = float((share * np.log(share / other)).sum())
        if divergence < best:
            best, reach = divergence, half
    return middle - reach, middle + reach
