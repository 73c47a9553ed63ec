"""A metric of the user's own, `FILE.py:function`, run in a limited child process.

    def iou(predictions, references):           # lists of dicts, name to array: an entry a row
        return [...]                            # a figure a row; or two, which are summed and divided
    iou.higher_is_better = True                 # the default

What it may import is what is installed, and what lies beside the file.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.cpus import usable_cpus, usable_memory
from edgekd.core.errors import UsageError, counted
from edgekd.core.files import user_path
from edgekd.core.metrics import Metric, ratio_of_sums
from edgekd.security import child

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Named = Mapping[str, Array]

TIMEOUT_S, ROW_S = 60.0, 1.0  # of a call, and more for each row
_MEMORY_MIB = 8192
_MOST_FILE = 1 << 20  # bytes of the file


@dataclass(frozen=True)
class UserMetric:
    """What a plan says of it; where the file lies is not among that."""

    name: str  # the function's
    sha256: str  # of the file
    higher_is_better: bool

    @property
    def metric(self) -> Metric:
        """The figure: the mean over rows, or the ratio of two sums."""
        return Metric(self.name, higher_is_better=self.higher_is_better, reduce=_figure)

    @property
    def fidelity(self) -> Metric:
        """The same of a model beside the original, where more is better: of an error rate what is left to 1."""
        reduce = _figure if self.higher_is_better else _left
        word = self.name if self.higher_is_better else f"1 less {self.name}"
        return Metric(f"{self.name}_fidelity", of_teacher=f"{word} against the answers of", reduce=reduce)


def _figure(rows: Array) -> Array:
    if rows.shape[-1] == 2:
        return ratio_of_sums(rows)
    mean: Array = rows[..., 0].mean(axis=-1)
    return mean


def _left(rows: Array) -> Array:
    left: Array = (1 - _figure(rows)).clip(0, 1)
    return left


def look(words: str) -> tuple[UserMetric, str]:
    """Return what the file says of `FILE.py:function`, and where it lies, FILE absolute. Raises UsageError."""
    file, colon, name = words.rpartition(":")
    path = user_path(file).absolute()
    if not colon or not name.isidentifier() or path.suffix != ".py":
        raise UsageError(f"--metric {words} names no function", fix="give FILE.py:function")
    if not path.is_file() or path.stat().st_size > _MOST_FILE:
        raise UsageError(f"--metric {words}: there is no such file", fix="give its path: FILE.py:function")
    place = f"{path}:{name}"
    told = _call("describe", place, {}, TIMEOUT_S)
    return UserMetric(name, sha256(path.read_bytes()).hexdigest(), bool(told["higher_is_better"])), place


def score(place: str, predictions: Sequence[Named], references: Sequence[Named], *, sha256_of_file: str) -> Array:
    """Return the function's figures, (rows,) or (rows, 2). Raises UsageError where it fails or they are no numbers."""
    import numpy as np

    path, _, name = place.rpartition(":")
    if not Path(path).is_file() or sha256(Path(path).read_bytes()).hexdigest() != sha256_of_file:
        raise UsageError(
            f"the metric's file {path} is not the one that the plan was made with", fix="run the same command again"
        )
    with tempfile.TemporaryDirectory(prefix="edgekd-metric-") as folder:
        files = {}
        for what, rows in (("predictions", predictions), ("references", references)):
            files[what] = str(Path(folder, f"{what}.npz"))
            every = ((f"{at}.{key}", values) for at, row in enumerate(rows) for key, values in row.items())
            named: dict[str, Any] = dict(every)
            np.savez(files[what], **named)
        found = _call("evaluate", place, files | {"count": len(predictions)}, TIMEOUT_S + ROW_S * len(predictions))
    figures = np.array(found, dtype=np.float64)
    if figures.shape not in ((len(predictions),), (len(predictions), 1), (len(predictions), 2)):
        raise UsageError(
            f"--metric {name} gives figures of the shape {figures.shape} for {counted(len(predictions), 'row')}",
            fix="return a list with a number for each row, or two for each, which are summed and divided",
        )
    if not np.isfinite(figures).all():
        bad = int((~np.isfinite(figures.reshape(len(figures), -1))).any(axis=1).argmax())
        raise UsageError(
            f"--metric {name} gives NaN or infinity for row {bad}",
            fix="return a number for every row: of nothing predicted where nothing is there, what that is worth",
        )
    return figures


def _call(function: str, place: str, more: dict[str, Any], timeout_s: float) -> Any:
    limits = child.Limits(memory_mib=min(_MEMORY_MIB, usable_memory() >> 20), cpu_s=int(timeout_s + 1) * usable_cpus())
    name = place.rpartition(":")[2]
    try:
        return child.call(
            f"edgekd.tasks._user_metric:{function}", {"place": place} | more, timeout_s=timeout_s, limits=limits
        )
    except child.ChildError as error:
        raise UsageError(
            f"--metric {name}: {error.why}", fix="make it faster and smaller, or try it by itself on a few rows"
        ) from error


def describe(place: str) -> dict[str, Any]:
    """Whether more is better (in a child process)."""
    return {"higher_is_better": getattr(_load(place), "higher_is_better", True)}


def evaluate(place: str, predictions: str, references: str, count: int) -> Any:
    """The figures as lists (in a child process). Raises UsageError with the user's own error."""
    import numpy as np

    function = _load(place)
    rows = [_rows(Path(file), count) for file in (predictions, references)]
    try:
        return np.asarray(function(*rows), dtype=np.float64).tolist()
    except Exception as error:
        raise _failed(place, error) from error


def _rows(file: Path, count: int) -> list[dict[str, Array]]:
    import numpy as np

    found: list[dict[str, Array]] = [{} for _ in range(count)]
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            row, _, name = key.partition(".")
            found[int(row)][name] = arrays[key]
    return found


def _load(place: str) -> Any:
    path, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location("edgekd_user_metric", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(Path(path).parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(place, error) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{path} has no function {name!r}", fix="name one that is there: --metric FILE.py:function")
    return function


def _failed(place: str, error: Exception) -> UsageError:
    path = place.rpartition(":")[0]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    at = f", line {lines[-1]}" if lines else ""
    said = (str(error).splitlines() or [""])[0][:300]
    return UsageError(
        f"--metric {place.rpartition(':')[2]} fails with {type(error).__name__}: {said} ({Path(path).name}{at})",
        fix="mend the function: it is called with two lists of dicts, outputs and references by name, an entry a row",
    )
