"""Latency of a CPU that is not here, as a band: what its arithmetic could do at best, and what kernels attain.

A prediction, never a measurement: it serves to size a student and is printed with its band. Peaks count
multiply-adds per cycle and core from the cores' public optimization guides; the attained share is the range
that ONNX Runtime showed on hosts where we could measure (two thirds to four fifths for large fp32 matrices),
widened for small matrices and slow memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from edgekd.core.protocols import TaughtStudent, Work
from edgekd.core.registry import plugin
from edgekd.core.results import Figure
from edgekd.hardware.latency_correction import Reading, calibration, in_integers
from edgekd.hardware.profile import Profile

ATTAINED = (0.2, 0.8)  # of the peak

# multiply-adds per cycle and core: float32, int8 (without dotprod int8 passes through 16-bit sums)
_PEAKS = {
    "cortex-a53": (2.0, 4.0),
    "cortex-a72": (4.0, 8.0),
    "cortex-a76": (8.0, 32.0),
    "cortex-a78ae": (8.0, 32.0),
}
_BY_ISA = (  # for a core that the table does not name: the first instruction set that it has
    ("avx512_vnni", (16.0, 64.0)),
    ("avx_vnni", (16.0, 64.0)),
    ("avx2", (16.0, 21.0)),
    ("asimddp", (8.0, 32.0)),
    ("asimd", (2.0, 4.0)),
)


def predict_latency(work: Work, target: Profile, recipe: str, readings: Sequence[Reading] = ()) -> Figure:
    """Median latency of one sample of that work on the target, in ms, with its band; unknown for a GPU.

    Where there are `readings` of real boards with that core, value and band are scaled by them; it stays a prediction.
    """
    if target.execution_provider != "CPUExecutionProvider":
        return Figure(None, "ms", "unknown", "no GPU here: unknown until it runs on the device", n=0)
    macs = work.macs + work.other_macs
    column = 1 if in_integers(recipe) else 0
    peaks = _peaks(target)
    at_peak_ms = macs / (peaks[column] * target.clock_mhz * 1e3)
    low, high = at_peak_ms / ATTAINED[1], at_peak_ms / ATTAINED[0]
    value = sqrt(low * high)
    checked = calibration(readings, recipe)
    if checked is not None:
        low, value, high = value * checked.low, value * checked.factor, value * checked.high
    return Figure(
        value=value,
        unit="ms",
        kind="predicted",
        how=f"roofline: {macs / 1e6:.1f} million multiply-adds at {peaks[column]:.0f} a cycle, {target.clock_mhz} MHz, "
        + (checked.says if checked else f"{ATTAINED[0]:.0%} to {ATTAINED[1]:.0%} attained; not checked on a board"),
        interval=(low, high),
    )


def macs_per_second(target: Profile, *, integers: bool) -> tuple[float, float] | None:
    """Return the least and most multiply-adds that kernels attain on the target's threads; None for a GPU."""
    if target.execution_provider != "CPUExecutionProvider":
        return None
    peak = _peaks(target)[1 if integers else 0] * target.clock_mhz * 1e6 * target.threads
    return ATTAINED[0] * peak, ATTAINED[1] * peak


def _peaks(target: Profile) -> tuple[float, float]:
    """Return multiply-adds a cycle and core: of float32, of int8."""
    return _PEAKS.get(target.microarch) or next((p for isa, p in _BY_ISA if isa in target.isa), (1.0, 1.0))


def work_of(family: str, shape: dict[str, Any], exit_layer: int | None, size: int) -> Work:
    """What one input of that size asks of a student's shape, or of its early exit after a layer counted from 1."""
    whole = plugin("students", family)(**shape)
    if exit_layer is None:
        return whole.work(size)
    assert isinstance(whole, TaughtStudent), "the plan has seen that it has that exit"
    return whole.exit_shape(exit_layer - 1).work(size)
