"""What teachers of our own families give."""

from __future__ import annotations

from edgekd.core.registry import plugin


def gives(family: str) -> tuple[str, ...]:
    """Logits and what students of the family give; early exits are a student's."""
    return ("logits", *(name for name in plugin("students", family).gives if name != "exits"))
