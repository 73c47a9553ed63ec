"""SQNR: the signal's power over the error's, in dB, tensor by tensor, of the graph that `side_by_side` merges."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression.side_by_side import EXACT, Merged, Site
from edgekd.core import external
from edgekd.core.errors import DataError, RuntimeCannotLoad
from edgekd.core.fidelity import Part, part_of, parts_of

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

LIMIT_DB = 120.0  # beyond it float32's own rounding is what one sees; exact values have no SQNR
MASK = 1e9  # what attention masks write instead of minus infinity; they would drown every real value


def noise(sqnr_db: float) -> float:
    """The error's share of the signal's power."""
    return float(10 ** (-sqnr_db / 10))


def decibel(share: float) -> float:
    """SQNR from the error's share of the signal's power, within the limits; the lowest for what is no number."""
    if math.isnan(share):
        return -LIMIT_DB
    return round(-10 * math.log10(min(max(share, noise(LIMIT_DB)), noise(-LIMIT_DB))), 2) + 0.0  # no -0.0


class Ratios:
    """Sums of squares of signals and errors by name."""

    def __init__(self) -> None:
        self.signal: dict[str, float] = {}
        self.error: dict[str, float] = {}
        self.values: dict[str, int] = {}
        self.members: dict[str, dict[str, None]] = {}  # of what is as good as its worst member

    def add(self, name: str, right: np.ndarray[Any, Any], said: np.ndarray[Any, Any]) -> None:
        """One sample more of a tensor: what fp32 makes, and what stands for it."""
        import numpy as np

        if right.shape != said.shape:  # another number of answers: all of them are wrong
            said = np.zeros_like(right)
        right, said = (values.astype(np.float32) if values.dtype.kind == "b" else values for values in (right, said))
        counted = np.abs(right) < MASK  # false for infinities and NaN too
        signal = np.where(counted, right, 0).astype(np.float64)
        error = np.where(counted, said, 0).astype(np.float64) - signal
        self.signal[name] = self.signal.get(name, 0.0) + float(np.vdot(signal, signal))
        self.error[name] = self.error.get(name, 0.0) + float(np.vdot(error, error))
        self.values[name] = self.values.get(name, 0) + right.size

    def add_worst(self, name: str, member: str, right: np.ndarray[Any, Any], said: np.ndarray[Any, Any]) -> None:
        """The same of one of several that share a name: it has the SQNR of the worst of them."""
        own = f"{name} {member}"
        self.members.setdefault(name, {})[own] = None
        self.add(own, right, said)

    def sqnr_db(self, name: str) -> float | None:
        """None for a name that was never added."""
        if members := self.members.get(name):
            return min(found for one in members if (found := self.sqnr_db(one)) is not None)
        if name not in self.signal:
            return None
        signal, error = self.signal[name], self.error[name]
        return LIMIT_DB if error == 0 else decibel(error / signal if signal else math.inf)


class SideBySide:
    """The merged graph in a session of this process, fed one sample at a time."""

    def __init__(self, merged: Merged, threads: int) -> None:
        import numpy as np
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        self.sites, self.outputs = merged.sites, merged.outputs
        self.parts: dict[str, list[Part]] = {}  # of each output, as the first sample shows them
        yes, no = np.array(True), np.array(False)
        self.off = {EXACT: no} | dict.fromkeys((site.switch for site in merged.sites), no)
        self.on = dict.fromkeys(self.off, yes) | {EXACT: no}
        self.exact = self.off | {EXACT: yes}
        options = ort.SessionOptions()
        options.graph_optimization_level = (
            ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        )  # integer kernels stay as they are
        options.add_session_config_entry(
            "session.disable_quant_qdq", "1"
        )  # weights are dequantized once, not at each run
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        with tempfile.TemporaryDirectory(prefix="edgekd-diagnose-") as folder:
            path = external.save(merged.model, Path(folder, "merged.onnx"))
            try:
                self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except (state.Fail, state.InvalidGraph, state.NotImplemented, state.InvalidArgument) as error:
                raise RuntimeCannotLoad(
                    f"ONNX Runtime refuses the two models side by side: {str(error).splitlines()[0]}",
                    fix="give the float32 model that this very file was quantized from",
                ) from error
        self.inputs = [value.name for value in self.session.get_inputs() if value.name not in self.off]

    def _run(self, names: list[str], sample: Sample, switches: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        if missing := [name for name in self.inputs if name not in sample]:
            raise DataError(
                f"the inputs lack {', '.join(missing)}, which the model takes; they hold {', '.join(sample)}",
                fix="give inputs that were made for this model",
            )
        try:
            said: list[Any] = self.session.run(names, {name: sample[name] for name in self.inputs} | dict(switches))
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            raise DataError(
                f"the model does not run on these inputs: {str(error).splitlines()[0]}",
                fix="give inputs of the model's types and shapes",
            ) from error
        return said

    def measure(self, sample: Sample, ratios: Ratios) -> None:
        """Every layer once on fp32's inputs, once without its roundings, once with all before it quantized."""
        names = {name for site in self.sites for name in (site.plain, site.quantized, *site.bare)}
        right = self._named({*names, *self.outputs}, sample, self.off)
        exact = self._named({site.bare[0] for site in self.sites}, sample, self.exact)
        said = self._named({*self.outputs, *(site.quantized for site in self.sites)}, sample, self.on)
        for site in self.sites:
            ratios.add(f"own {site.quantized}", right[site.plain], right[site.quantized])
            ratios.add(f"bare {site.quantized}", right[site.bare[1]], exact[site.bare[0]])
            ratios.add(f"accumulated {site.quantized}", right[site.plain], said[site.quantized])
        self._add("output", right, said, ratios)

    def _add(
        self, name: str, right: Mapping[str, np.ndarray[Any, Any]], said: Mapping[str, np.ndarray[Any, Any]], to: Ratios
    ) -> None:
        """Each output, in parts where its values are of other sizes along an axis: an error drowns in none."""
        for output in self.outputs:
            for number, part in enumerate(self.parts.setdefault(output, parts_of([right[output]]))):
                to.add_worst(name, f"{output} {number}", part_of(right[output], part), part_of(said[output], part))

    def _named(self, names: set[str], sample: Sample, switches: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        listed = sorted(names)
        return dict(zip(listed, self._run(listed, sample, switches), strict=True))

    def alone(self, sample: Sample, groups: Mapping[str, Sequence[Site]], ratios: Ratios) -> None:
        """What the outputs lose with one group of layers quantized at a time."""
        right = self._named(set(self.outputs), sample, self.off)
        for label, sites in groups.items():
            switches = self.off | {site.switch: self.on[site.switch] for site in sites}
            self._add(f"alone {label}", right, self._named(set(self.outputs), sample, switches), ratios)
