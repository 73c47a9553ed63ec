"""The range of each numeric option of a plan: checked once, while planning, and told by the refusal."""

from __future__ import annotations

from typing import Any

from edgekd.core.errors import UsageError

_MOST_MIB, _MOST_MS = 1 << 22, 3_600_000  # as a target profile allows
_WHOLE, _DIGITS = 10**15, 20
RANGES: dict[str, tuple[str, float, float]] = {  # by the field of `Options`, a budget by its key: flag, least, most
    "labels": ("--labels", 2, 1e9),
    "temperature": ("--temperature", 0.05, 100),
    "cache_mib": ("--cache-mib", 1, 1e9),
    "epochs": ("--epochs", 1, 10_000),
    "patience": ("--patience", 1, 10_000),
    "learning_rate": ("--learning-rate", 1e-8, 1),
    "max_tokens": ("--max-tokens", 4, 1e6),  # and what the teacher takes: its task knows
    "vocabulary": ("--vocabulary", 16, 1e7),
    "image_size": ("--image-size", 8, 2048),
    "tries": ("--try", 1, 8),
    "exit": ("--exit", 1, 1000),
    "evidence": ("--evidence", 0, 100),
    "price_per_hour": ("--price-per-hour", 0, 1e6),
    "min_speedup": ("--min-speedup", 0.01, 1e4),
    "min_retained": ("--min-retained", 0, 1.5),
    "min_agreement": ("--min-agreement", 0, 1),
    "max_drop": ("--max-drop", 0, 100),
    "memory_mib": ("--memory-mib", 0.01, _MOST_MIB),
    "artifact_mib": ("--artifact-mib", 0.001, _MOST_MIB),
    "latency_ms": ("--latency-ms", 0.001, _MOST_MS),
    "time_limit_s": ("--time-limit", 1, 1e7),
    "emulate_minutes": ("--emulate-minutes", 0, 1e4),
    "seed": ("--seed", 0, 2**31 - 1),  # scikit-learn takes 32 bits; evidence adds up to 100
    "threads": ("--threads", 1, 1024),
}


def check_ranges(values: dict[str, Any]) -> None:
    """Raises UsageError for a number out of its range (NaN, too); what is None or has no range is left alone."""
    for name, (flag, low, high) in RANGES.items():
        value = values.get(name)
        if value is not None and not low <= value <= high:
            raise UsageError(
                f"{flag} {_short(value)} makes no sense", fix=f"give a number from {_short(low)} to {_short(high)}"
            )


def _short(value: float) -> str:
    """Every digit of a whole number that a person would write, six of any other."""
    if not isinstance(value, int):
        return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else f"{value:g}"
    text = str(value)  # hundreds of digits make no float
    return text if len(text) <= _DIGITS else f"{text[:_DIGITS]}... ({len(text)} digits)"
