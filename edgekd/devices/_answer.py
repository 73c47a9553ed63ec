"""What the runner said in a process that ended well: read, and accepted or not."""

from __future__ import annotations

import json
from typing import Any

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad


def spoken(stdout: str, run: str) -> dict[str, Any]:
    """The JSON object on the last line; `run` names the run and its place. Raises EdgeKDError where there is none."""
    last = (stdout.strip().splitlines() or [""])[-1]
    try:
        said = json.loads(last)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise EdgeKDError(
            f"{run} ended without an answer: {last[:200] or 'it said nothing'}",
            fix="run the same command again; if it repeats, look for a package or a sitecustomize that prints or exits",
        )
    return said


def accepted(said: dict[str, Any], runtime: str) -> dict[str, Any]:
    """The same answer. Raises RuntimeCannotLoad where it is that `runtime` refuses the model."""
    if "refused" in said:
        raise RuntimeCannotLoad(
            f"{runtime} refuses the model: {said['refused']}",
            fix="export it again with an opset and IR version that this runtime knows",
        )
    return said
