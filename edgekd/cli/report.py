"""`edgekd report`: what build found, and what devices showed since."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
@click.option("--json", "as_json", is_flag=True, help="report.json and the receipts on stdout.")
def report(bundle: Path, open_it: bool, as_json: bool) -> None:
    """Show a bundle's report, and the receipts beside it.

    Receipts are what `edgekd bench` or a device itself measured; those that do not hold for this bundle are named.
    """
    from edgekd import page

    if as_json:
        click.echo(json.dumps(page.with_receipts(bundle), indent=1, ensure_ascii=False))
    elif open_it:
        click.launch(str(page.write_page(bundle)))
    else:
        click.echo(page.text(bundle), nl=False)
