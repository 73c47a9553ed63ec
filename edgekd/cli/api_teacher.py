"""A build's teacher behind an API: asked first, as `edgekd label` asks; the student then learns from the answers."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from edgekd.cli.printing import echo
from edgekd.cli.stopping import EndedError, answers_are_kept
from edgekd.plan.options import API_WORDS, Options

if TYPE_CHECKING:
    from edgekd.core.errors import CeilingReached
    from edgekd.labelling.asked import Asked
    from edgekd.labelling.label import Labelled
    from edgekd.labelling.preview import Preview


def teacher_asked(options: Options, targets: Sequence[str]) -> Options:
    """Ask the teacher about the rows, and return the options of a build from its answers; of other teachers the same.

    What can be refused is refused before anything is paid. Raises CeilingReached where a ceiling left rows without a
    label.
    """
    if not _is_api(options):
        return options
    from edgekd.labelling.asked import asked_of
    from edgekd.plan.options import check_ranges
    from edgekd.plan.planning import check_before_asking

    check_ranges(options)
    folder = answers_folder(options)
    asked = asked_of(options, folder)
    check_before_asking(from_answers(options, folder), targets)
    found = ask(asked)
    echo(told(found), err=True)
    if found.over:
        raise ceiling(found)
    return from_answers(options, folder)


def shown_before_asking(
    options: Options, targets: Sequence[str], *, as_json: bool
) -> tuple[Options | None, dict[str, Any] | None]:
    """Show what a teacher behind an API would be asked; nothing is sent.

    Returns the options to plan with, and what would be asked as plain values: no options where answers lack that the
    plan depends on. Of other teachers the options as they are.
    """
    if not _is_api(options):
        return options, None
    from edgekd.labelling.asked import asked_of
    from edgekd.labelling.preview import preview
    from edgekd.plan.options import check_ranges
    from edgekd.plan.planning import check_before_asking

    check_ranges(options)
    folder = answers_folder(options)
    asked = asked_of(options, folder)
    check_before_asking(from_answers(options, folder), targets)
    found = preview(asked)
    if not as_json:
        show_preview(found)
    if found.requests or not (folder / "train.jsonl").exists():
        if not as_json:
            echo("student  planned once the rows are labelled: which rows it has follows from the answers")
        return None, found.as_json()
    return from_answers(options, folder), found.as_json()


def answers_folder(options: Options) -> Path:
    """Return the folder of the answers and the ledger."""
    from edgekd.plan.resolve import bundle_name

    return Path(options.answers or Path("build") / f"{bundle_name(options, None)}-answers")


def from_answers(options: Options, folder: Path) -> Options:
    """Return the options of a build from the answers in the folder, whose rows have columns of their own."""
    from edgekd.plan.resolve import bundle_name

    usual: dict[str, Any] = {one.name: one.default for one in fields(Options) if one.name in API_WORDS}
    return replace(
        options,
        **usual,
        teacher="answers",
        data=str(folder),
        text_column=None,
        label_column=None,
        name=bundle_name(options, None),
    )


def _is_api(options: Options) -> bool:
    return options.teacher is not None and options.teacher.startswith("api:")


def ask(asked: Asked) -> Labelled:
    """Label rows, progress on stderr; a signal ends the process as it does elsewhere, once what is paid is kept."""
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.labelling.label import label as run
    from edgekd.labelling.remote import at_hand

    with answers_are_kept(), shown_on_stderr() as progress, at_hand(asked, progress) as here:
        found = run(here, progress)
        if found.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if found.signal is not None:
            raise EndedError(found.signal)
    return found


def show_preview(found: Preview) -> None:
    """Print the messages for the first row, and the most that all requests may take."""
    cost = "no price known" if found.cost_usd_at_most is None else f"${found.cost_usd_at_most:.4f} at most"
    for message in found.messages:
        echo(f"[{message['role']}]\n{message['content']}\n")
    echo(f"prompt   sha256 {found.prompt_sha256}; what stands above is asked for the first row")
    echo(f"to ask   {found.requests:,} requests, {found.tokens_at_most:,} tokens at most: {cost}")


def ceiling(found: Labelled) -> CeilingReached:
    """Return the error of a run that a ceiling ended."""
    from edgekd.core.errors import CeilingReached

    return CeilingReached(
        f"a ceiling was reached; {found.over:,} rows have no label yet",
        fix="what is labelled is kept and usable; raise --max-cost, --max-api-tokens or --max-requests to go on, or "
        f"build from what there is: --teacher answers --data {quote(str(found.folder))}",
    )


def told(found: Labelled) -> str:
    """Return what came of it, in lines."""
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
    return "\n".join(lines)
