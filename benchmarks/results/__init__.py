"""Where figures are kept: a JSON file a benchmark, with the host and the versions it ran on."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def write(name: str, figures: dict[str, Any]) -> None:
    """Keep a benchmark's figures."""
    from edgekd.core.results import this_host, versions
    from edgekd.planning import PACKAGES

    said = {
        "figures": figures, "host": asdict(this_host()), "versions": versions(*PACKAGES),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }  # fmt: skip
    (FOLDER / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    """The kept figures of a benchmark."""
    said: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return said
