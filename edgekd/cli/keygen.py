"""`edgekd keygen`: a pair of keys to sign bundles with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote

import click

from edgekd.cli.printing import echo
from edgekd.core.errors import UsageError


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--passphrase", "encrypted", is_flag=True, help="Encrypt the private key; asks, or takes $EDGEKD_PASSPHRASE."
)
def keygen(path: Path, encrypted: bool) -> None:
    """Make a pair of keys: PATH signs bundles, PATH.pub is for devices."""
    from edgekd.security import keys

    public = keys.make_key(path, _new_passphrase(path) if encrypted else None)
    echo(
        f"private {path}  (mode 600: keep it off devices, repositories and backups that others read)\n"
        f"public  {path}.pub  (give it to device teams by another way than the bundles)\n"
        f"key id  {public.key_id}\n\n"
        f"sign    edgekd build ... --sign {quote(str(path))}\n"
        f"check   edgekd verify BUNDLE --key {quote(f'{path}.pub')}"
    )


def ask_passphrase(path: Path) -> str:
    """The passphrase of a key, asked for on the terminal. Raises UsageError where there is none."""
    _needs_terminal(path)
    answer: str = click.prompt(f"passphrase of {path}", hide_input=True, err=True)
    return answer


def _new_passphrase(path: Path) -> str:
    from edgekd.security.keys import PASSPHRASE

    if given := os.environ.get(PASSPHRASE):
        return given
    _needs_terminal(path)
    answer: str = click.prompt(f"new passphrase of {path}", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def _needs_terminal(path: Path) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"the passphrase of {path} is needed, and there is no terminal to ask on", fix="set $EDGEKD_PASSPHRASE"
        )
