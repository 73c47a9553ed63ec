"""`edgekd label`: labels from a teacher behind an API, paid once, never over the ceiling."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from edgekd.cli.api_teacher import ask, ceiling, show_preview, told
from edgekd.cli.printing import echo, one_line, print_json
from edgekd.core.registry import default

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(1, 10**12)


@click.command()
@click.option("--task", default=default("tasks"), show_default=True, help="Hugging Face's task name.")
@click.option("--teacher", required=True, metavar="api:URL", help="The base URL of an OpenAI-compatible server.")
@click.option("--model", required=True, metavar="NAME", help="The model's name there.")
@click.option("--data", required=True, help="Rows as edgekd build reads them, or a URL; asked for where no label is.")
@click.option("--out", required=True, help="The folder for labels and ledger, or a URL; the same again goes on.")
@click.option("--classes", help="a,b,c; or a file with a line `name: meaning` for each.  [default: the rows' labels]")
@click.option("--prompt", type=_PATH, help="A template of your own (docs/labelling.md).")
@click.option("--shots", type=click.IntRange(0, 64), default=0, show_default=True, help="Training rows as examples.")
@click.option("--shard", metavar="K/N", help="Label part K of N of the rows: one worker's share (docs/labelling.md).")
@click.option("--compare", type=click.IntRange(0, 10**6), default=0, help="Test rows to ask about, too: none trains.")
@click.option("--relabel", is_flag=True, help="Ask for training rows that have a label, too.")
@click.option("--soft/--hard", default=True, help="Ask for probabilities of the labels, or not.  [default: soft]")
@click.option("--text-column", help="The column that holds the text.")
@click.option("--label-column", help="The column that holds the label.")
@click.option("--max-cost", metavar="USD", help="Never pay more, all runs on this folder together.")
@click.option(
    "--max-tokens",
    "--max-api-tokens",
    "max_tokens",
    type=_COUNT,
    metavar="N",
    help="Never use more tokens, of prompts and answers together.",
)
@click.option("--max-requests", type=_COUNT, metavar="N", help="Never send more requests.")
@click.option("--price-per-million", metavar="IN,OUT", help="Dollars for a million tokens.  [default: a dated table]")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests at once.")
@click.option("--answer-tokens", type=click.IntRange(1, 10**6), metavar="N", help="Room for an answer and reasoning.")
@click.option(
    "--context", type=click.IntRange(16, 10**8), metavar="N", help="Leave out rows that may not fit N tokens."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 86_400),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds for one answer.",
)
@click.option("--min-accuracy", type=click.FloatRange(0, 1), metavar="SHARE", help="Stop after a pilot below this.")
@click.option("--pilot-only", is_flag=True, help="Ask about 50 labelled rows, and stop.")
@click.option("--dry-run", is_flag=True, help="Show the prompt and the most that it may cost; ask nothing.")
@click.option("--accept-terms", is_flag=True, help="You may train on what this provider's model answers.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the examples.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_context
def label(context: click.Context, /, as_json: bool, dry_run: bool, **values: Any) -> None:
    """Label rows by a teacher behind an API: paid once, resumable, bounded.

    The key is read from $EDGEKD_API_KEY or $OPENAI_API_KEY. The folder is what
    `edgekd build --teacher answers --data` takes.
    """
    from edgekd.core.protocols import NullProgress
    from edgekd.labelling.asked import Asked
    from edgekd.labelling.preview import preview
    from edgekd.labelling.remote import at_hand, copy_of, is_url

    out = values.pop("out")
    url = out.rstrip("/") if is_url(out) else None
    asked = Asked(**values, url=url, out=Path(out) if url is None else copy_of(url))
    if dry_run:
        with at_hand(asked, NullProgress(), look=True) as here:
            found_before = preview(here)
        if as_json:
            print_json(found_before.as_json())
        else:
            show_preview(found_before)
        return
    found = ask(asked)
    if as_json:
        print_json(found.figures.as_json(found.folder))
    else:
        echo(told(found))
        if url is not None:
            echo(f"sent     {url}: the folder above is a copy")
        echo(f"\nnext     edgekd build --teacher answers --data {quote(str(found.folder))} --target ...")
    if found.over:
        error = ceiling(found)
        echo(f"error: {one_line(error.message)}", err=True)
        echo(f"  fix: {one_line(error.fix)}", err=True)
        context.exit(error.exit_code)
