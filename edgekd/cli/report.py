"""`edgekd report`: what build found, and what devices showed since."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli.printing import echo, print_json


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
@click.option("--json", "as_json", is_flag=True, help="report.json and the receipts on stdout.")
def report(bundle: Path, open_it: bool, as_json: bool) -> None:
    """Show a bundle's report, and the receipts beside it.

    Receipts are what `edgekd bench` or a device itself measured; those that do not hold for this bundle are named.
    """
    from edgekd.report import page

    said = page.with_receipts(bundle) if as_json else {}
    changed = page.altered(bundle)
    if changed:
        echo(f"warning: {bundle} is not the bundle that was shipped: {changed[0]}", err=True)
        echo("  fix: do not believe these figures; take the bundle anew from where it was built", err=True)
    if as_json:
        print_json(said | {"altered": changed})
    elif open_it:
        click.launch(str(page.write_page(bundle)))
    else:
        echo(page.text(bundle), nl=False)
