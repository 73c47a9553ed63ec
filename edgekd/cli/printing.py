"""What `--json` prints."""

from __future__ import annotations

import json
from typing import Any

import click


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))
