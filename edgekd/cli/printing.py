"""What `--json` prints."""

from __future__ import annotations

import json
from typing import Any

import click


def print_json(value: Any) -> None:
    """One JSON object on stdout; escaped where a file's name in it is no UTF-8."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1)
    click.echo(text)
