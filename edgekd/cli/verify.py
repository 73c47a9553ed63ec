"""`edgekd verify`: whether a bundle is what was shipped, by whom, how new, for which device, and that it answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.printing import echo, one_line, print_json
from edgekd.core.errors import no_bundle

if TYPE_CHECKING:
    from edgekd.receipts.trust import Checked


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "trusted",
    multiple=True,
    metavar="PUB",
    type=click.Path(path_type=Path),
    help="A trusted public key, or a folder of *.pub; more than once: one that signed is enough.",
)
@click.option(
    "--revoked",
    multiple=True,
    metavar="PUB|KEYID",
    help="A key that is trusted no more, by its file or id; more than once.",
)
@click.option("--after", metavar="VERSION", help="Refuse a bundle that is not newer than this version.")
@click.option("--target", metavar="NAME|FILE", help="The device: refuse a bundle that was not built for it.")
@click.option("--ignore-modes", is_flag=True, help="For a card formatted as FAT, which keeps no permissions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(
    bundle: Path,
    trusted: tuple[Path, ...],
    revoked: tuple[str, ...],
    after: str | None,
    target: str | None,
    ignore_modes: bool,
    as_json: bool,
) -> None:
    """Check a bundle: files, signature, version, target, answers.

    ONNX Runtime sees the model only after all else is well. Without --key this finds damage, not malice.
    """
    from edgekd.receipts import trust

    if not os.path.lexists(bundle / "manifest.json"):
        raise no_bundle(bundle, "it has no manifest.json")
    believed = trust.Trust.of(trusted, revoked) if trusted or revoked else None
    asked = trust.Asked(believed, after, target, ignore_modes)
    checked = trust.check(bundle, asked)
    if not as_json:
        echo("\n".join(_lines(checked, asked.after, asked.target)))
    if sys.stderr.isatty():  # the one part that may take a minute; a cron job is to be silent where all is well
        echo("running the golden inputs ...", err=True)
    words = trust.answers(checked)
    if as_json:
        print_json(_values(checked) | {"golden": words})
    else:
        echo(f"ok      {checked.model} loads and runs\nok      golden vectors: {words}")


def _lines(checked: Checked, after: str | None, target: str | None) -> list[str]:
    lines = [f"{checked.count} files are those that the manifest lists"]
    lines += [f"signed by {key}" for key in checked.signed_by]
    lines += [f"version {checked.manifest['version']} is newer than {after}"] if after else []
    lines += [f"built for {target}"] if target else []
    return [f"ok      {one_line(line)}" for line in lines] + [f"note    {one_line(note)}" for note in checked.notes]


def _values(checked: Checked) -> dict[str, Any]:
    signed = [{"name": key.name, "key_id": key.key_id} for key in checked.signed_by]
    told = {key: checked.manifest[key] for key in ("name", "version", "compatible")}
    return {
        "bundle": str(checked.folder),
        **told,
        "files": checked.count,
        "signed_by": signed,
        "notes": list(checked.notes),
    }
