"""`edgekd label`: labels from a teacher behind an API, paid once, never over the ceiling."""

from __future__ import annotations

import signal
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.printing import echo, one_line, print_json
from edgekd.cli.stopping import EndedError, answers_are_kept
from edgekd.core.registry import default

if TYPE_CHECKING:
    from edgekd.labelling.asked import Asked
    from edgekd.labelling.label import Labelled

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(1, 10**12)


@click.command()
@click.option("--task", default=default("tasks"), show_default=True, help="Hugging Face's task name.")
@click.option("--teacher", required=True, metavar="api:URL", help="The base URL of an OpenAI-compatible server.")
@click.option("--model", required=True, metavar="NAME", help="The model's name there.")
@click.option("--data", required=True, help="Rows as edgekd build reads them; asked for where no label is.")
@click.option("--out", required=True, type=_PATH, help="The folder for labels and ledger; the same again goes on.")
@click.option("--classes", help="a,b,c; or a file with a line `name: meaning` for each.  [default: the rows' labels]")
@click.option("--prompt", type=_PATH, help="A template of your own (docs/labelling.md).")
@click.option("--shots", type=click.IntRange(0, 64), default=0, show_default=True, help="Training rows as examples.")
@click.option("--relabel", is_flag=True, help="Ask for training rows that have a label, too.")
@click.option("--soft/--hard", default=True, help="Ask for probabilities of the labels, or not.  [default: soft]")
@click.option("--text-column", help="The column that holds the text.")
@click.option("--label-column", help="The column that holds the label.")
@click.option("--max-cost", metavar="USD", help="Never pay more, all runs on this folder together.")
@click.option("--max-tokens", type=_COUNT, metavar="N", help="Never use more tokens, of prompts and answers together.")
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

    The key is read from $EDGEKD_API_KEY or $OPENAI_API_KEY. The folder is what `edgekd build --data` takes.
    """
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.labelling.asked import Asked
    from edgekd.labelling.label import label as run

    if dry_run:
        _preview(Asked(**values), as_json=as_json)
        return
    with answers_are_kept(), shown_on_stderr() as progress:
        found = run(Asked(**values), progress)
        if found.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if found.signal is not None:
            raise EndedError(found.signal)
    if as_json:
        print_json(found.figures.as_json(found.folder))
    else:
        echo(_text(found))
    if found.over:
        _say_ceiling(found)
        context.exit(8)


def _preview(asked: Asked, *, as_json: bool) -> None:
    from edgekd.labelling.preview import preview

    found = preview(asked)
    if as_json:
        print_json(found.as_json())
        return
    cost = "no price known" if found.cost_usd_at_most is None else f"${found.cost_usd_at_most:.4f} at most"
    for message in found.messages:
        echo(f"[{message['role']}]\n{message['content']}\n")
    echo(f"prompt   sha256 {found.prompt_sha256}; what stands above is asked for the first row")
    echo(f"to ask   {found.requests:,} requests, {found.tokens_at_most:,} tokens at most: {cost}")


def _say_ceiling(found: Labelled) -> None:
    from edgekd.core.errors import CeilingReached

    error = CeilingReached(
        f"a ceiling was reached; {found.over:,} rows have no label yet",
        fix="what is labelled is kept and usable; raise --max-cost, --max-tokens or --max-requests to go on",
    )
    echo(f"error: {one_line(error.message)}", err=True)
    echo(f"  fix: {one_line(error.fix)}", err=True)


def _text(found: Labelled) -> str:
    figures = found.figures
    cost = "no price known" if figures.cost_usd is None else f"${figures.cost_usd:.6f} at most"
    other = {name.replace("_", " "): count for name, count in figures.outcomes.items() if count and name != "label"}
    lines = [
        f"labels   {found.folder}: {figures.labelled:,} of {figures.rows:,} rows"
        + (f"; {figures.soft:,} with probabilities" if figures.soft else ""),
        f"paid     {figures.requests:,} requests, {figures.prompt_tokens:,} tokens of prompts, "
        f"{figures.completion_tokens:,} of answers: {cost}",
    ]
    if figures.unknown:
        lines.append(f"unknown  {figures.unknown:,} requests without a whole answer, counted at the most they may cost")
    if other:
        lines.append(f"no label {', '.join(f'{count:,} {name}' for name, count in other.items())}")
    if found.failed:
        lines.append(f"failed   {found.failed:,} rows got no whole answer: the same command asks again")
    if figures.agreement is not None:
        lines.append(f"repeats  {figures.agreement:.1%} of {figures.repeats} answers agree with the first")
    return "\n".join([*lines, "", f"next     edgekd build --data {quote(str(found.folder))} --target ..."])
