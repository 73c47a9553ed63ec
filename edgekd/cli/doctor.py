"""`edgekd doctor`: what works on this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from edgekd.cli.printing import echo, print_json


@click.command()
@click.option("--fix", metavar="NAME", help="Mend one check: guest, emulator or predictor.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(fix: str | None, as_json: bool) -> None:
    """What works on this machine, what is missing, the command that mends it."""
    from edgekd import doctor as checks
    from edgekd.cli import show
    from edgekd.cli.progress import shown_on_stderr

    if fix is not None:
        with shown_on_stderr() as progress:
            checks.fix(fix, progress)
    found = checks.checks()
    if as_json:
        print_json({"checks": [asdict(check) for check in found]})
    else:
        echo(show.doctor(found))
