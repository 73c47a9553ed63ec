"""Versions of bundles: MAJOR.MINOR.PATCH, three plain numbers, so that all agree on their order."""

from __future__ import annotations

import re

from edgekd.core.errors import UsageError

_NUMBER = r"(0|[1-9]\d{0,8})"


def numbers(version: str, *, where: str = "the version") -> tuple[int, int, int]:
    """1.10.0 as (1, 10, 0): what two versions are compared by. Raises UsageError for anything else."""
    found = re.fullmatch(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}", version, re.ASCII)
    if found is None:
        raise UsageError(
            f"{where} {version[:40]!a} is no version",
            fix="give three numbers, such as 1.2.0, without leading zeros",
        )
    major, minor, patch = map(int, found.groups())
    return major, minor, patch
