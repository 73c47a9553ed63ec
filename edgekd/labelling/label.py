"""Labels for rows from a teacher behind an API: the whole way, from the user's words to a folder for `edgekd build`."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError, UsageError, counted
from edgekd.core.protocols import Progress
from edgekd.labelling import endings
from edgekd.labelling import folder as folders
from edgekd.labelling.address import Address, address
from edgekd.labelling.asked import Asked, money, prompt_of, rows_of
from edgekd.labelling.asking import Asker, Teacher
from edgekd.labelling.budget import Budget, Ceilings, Spent
from edgekd.labelling.client import Client
from edgekd.labelling.forms import Form
from edgekd.labelling.jobs import bulk_jobs, compared_jobs
from edgekd.labelling.ledger import NAME, Ledger
from edgekd.labelling.pace import Pace
from edgekd.labelling.pilot import ROWS, Pilot, pilot_rows, run_pilot
from edgekd.labelling.prompts import Prompt, classes, template
from edgekd.labelling.rows import Rows, name_of, row_sha256
from edgekd.labelling.shards import Shard, beside_of, part_of


@dataclass(frozen=True)
class Labelled:
    """What came of it: `over` rows were left by a ceiling, `failed` ones by a server that did not answer."""

    folder: Path
    figures: folders.Figures
    over: int
    failed: int
    signal: int | None
    pilot: Pilot | None


def label(asked: Asked, progress: Progress) -> Labelled:
    """Label rows until all are done, a ceiling is reached, or a signal comes; what was answered is kept in any case.

    Raises UsageError, DataError, TeacherError, BelowAccuracy and StoreError.
    """
    where = address(asked.teacher)
    words = template(asked.task, asked.prompt)
    priced, ceilings = money(asked, where)
    key = where.key(os.environ)
    home, part = asked.out, part_of(asked)
    asked = asked if part is None else replace(asked, out=part.folder(home))
    beside = beside_of(home, part)
    folders.check_folder(home, asked.data)
    folders.check_folder(asked.out, asked.data)
    if not (beside or (asked.out / NAME).exists()):
        _check_terms(asked, where, None)
    everything = rows_of(asked)
    named = classes(asked.classes, everything.labels)
    rows = everything if part is None else part.of(everything)
    for note in rows.notes:
        progress.say(note)
    ledger = Ledger(asked.out, priced)
    try:
        ceilings = _joined(ledger, beside, part, ceilings)
        terms = _check_terms(asked, where, ledger)
        _check_same(asked, where, ledger)
        prompt = prompt_of(asked, words, named, everything, folders.shots_before(ledger, asked.shots))
        tested = [] if asked.min_accuracy is None and not asked.pilot_only else pilot_rows(rows, prompt.shots)
        if (asked.min_accuracy is not None or asked.pilot_only) and not tested:
            raise UsageError(
                f"a pilot takes {ROWS} rows with a label of their own, beside the examples; there are {len(rows.gold)}",
                fix="label some rows by hand, or leave out --min-accuracy and --pilot-only",
            )
        _say_begin(progress, ledger, prompt, rows, terms)
        ledger.begin(_run_record(asked, where, prompt, terms))
        if part is not None:
            part.begin(home)
        found = asyncio.run(_labelled(asked, where, key, prompt, rows, ledger, ceilings, progress))
    finally:
        ledger.close()
    if part is not None and found.signal is None:
        part.end(home, left=found.over + found.failed)
    return found


def _joined(ledger: Ledger, beside: Sequence[Path], part: Shard | None, ceilings: Ceilings) -> Ceilings:
    """Take the answers beside this ledger's; return what it may spend. Raises UsageError, StoreError."""
    spent = Spent()
    for folder in beside:
        spent = ledger.join(folder, paid=part is None)
    return ceilings if part is None else part.share(ceilings, spent)


def _check_terms(asked: Asked, where: Address, ledger: Ledger | None) -> dict[str, object] | None:
    """The record of this run's acceptance, if there is one. Raises UsageError where there is none and one is needed."""
    if asked.accept_terms:
        return {"provider": where.url, "model": asked.model, "date": _today()}
    if where.loopback or (ledger is not None and folders.accepted(ledger)):
        return None
    raise UsageError(
        f"the terms of {where.host} say whether you may train a model on what its models answer; some forbid models "
        "that compete with theirs",
        fix="read them; if they allow what you do, give --accept-terms: provider, model and date are then kept in "
        f"{folders.PROVENANCE}",
    )


def _check_same(asked: Asked, where: Address, ledger: Ledger) -> None:
    for run in (*ledger.joined_runs, *ledger.runs):
        for what, before, now in (("model", run["model"], asked.model), ("provider", run["provider"], where.identity)):
            if before != now:
                raise UsageError(
                    f"{asked.out} holds labels of the {what} {before}, not of {now}: one folder has one teacher",
                    fix="give --out a new folder",
                )


def _run_record(asked: Asked, where: Address, prompt: Prompt, terms: dict[str, object] | None) -> dict[str, Any]:
    return {
        "date": _today(),
        "edgekd": version("edgekd"),
        "provider": where.identity,
        "model": asked.model,
        "prompt": prompt.digest,
        "shots": [row_sha256(shot) for shot in prompt.shots],
        "terms": terms,
    }


def _say_begin(progress: Progress, ledger: Ledger, prompt: Prompt, rows: Rows, terms: dict[str, object] | None) -> None:
    if not ledger.runs and terms is None:
        progress.say(
            "the licence of a model, also of one that runs here, may say whether you may train on what it answers; "
            "--accept-terms records that you read it"
        )
    if ledger.mended:
        progress.say(f"the ledger's last line was cut off, as by a kill; {ledger.mended} bytes of it removed")
    if ledger.runs and ledger.runs[-1]["prompt"] != prompt.digest:
        progress.say("the prompt is another than before: its rows are asked anew, and what was answered is not used")
    progress.say(
        f"prompt: {prompt.template.source}, sha256 {prompt.template.digest[:12]}, "
        f"{counted(len(prompt.classes), 'class')}, "
        f"{counted(len(prompt.shots), 'example')}; {counted(len(rows.wanted), 'row')} to label, "
        f"{len(rows.gold):,} with their own label"
    )


async def _labelled(
    asked: Asked,
    where: Address,
    key: str | None,
    prompt: Prompt,
    rows: Rows,
    ledger: Ledger,
    ceilings: Ceilings,
    progress: Progress,
) -> Labelled:
    client = Client(
        where.url, key, timeout_s=asked.timeout_s, connections=asked.concurrency, proxies=not where.loopback
    )
    soft = asked.soft and not prompt.several  # the first token of a list tells nothing of its names
    asker = Asker(
        client,
        Teacher(asked.model, where.identity, asked.context),
        prompt,
        Form(
            prompt.schema,
            asked.answer_tokens or prompt.answer_tokens,
            newest=where.newest,
            soft=soft,
        ),
        ledger=ledger,
        budget=Budget(ceilings, ledger.prices, replace(ledger.spent)),
        pace=Pace(asked.concurrency, seed=asked.seed),
        progress=progress,
    )
    pilot: Pilot | None = None
    with _signals(asker) as got:
        try:
            pilot = await _pilot(asked, asker, rows, progress)
            if not (asked.pilot_only or (asked.min_accuracy is not None and pilot is None)):
                progress.stage("label", total=len(rows.wanted))
                asker.over = asker.failed = 0  # of the pilot: what is told is of the rows to label
                await asker.ask(bulk_jobs(rows), rows=len(rows.wanted))
                await _compare(asked, asker, rows)
        finally:
            await client.close()
            figures = _write(asked, asker, rows, pilot)
    if rows.wanted and not (figures.labelled or asker.over or got or asked.pilot_only):
        raise _nothing(asker, figures)
    return Labelled(asked.out, figures, asker.over, asker.failed, next(iter(got), None), pilot)


async def _pilot(asked: Asked, asker: Asker, rows: Rows, progress: Progress) -> Pilot | None:
    if asked.shard is not None:  # one pilot is enough, and it comes before the shards
        return None
    chosen = pilot_rows(rows, asker.prompt.shots, asker.too_long)
    if not chosen:
        progress.say(
            f"no pilot: fewer than {ROWS} rows have a label of their own, so nobody knows how good the teacher is"
        )
        return None
    pilot = await run_pilot(asker, chosen, rows)
    if pilot is not None:
        for line in pilot.lines():
            progress.say(line)
        pilot.check(asked.min_accuracy)
    elif asked.min_accuracy is not None and not asker.stopped and not asker.over:
        raise endings.no_pilot(asker.failed, asker.last)
    return pilot


async def _compare(asked: Asked, asker: Asker, rows: Rows) -> None:
    """Ask about some test rows, of what the labels leave of the ceilings: a row that is left is no row to label."""
    jobs = compared_jobs(rows, asked.compare, asker.prompt.shots)
    if not jobs or asker.stopped or asker.over:
        return
    over, failed = asker.over, asker.failed
    asker.progress.stage("compare: the teacher on test rows, which keep their labels", total=len(jobs))
    await asker.ask(jobs, rows=len(jobs))
    asker.over, asker.failed = over, failed


def _write(asked: Asked, asker: Asker, rows: Rows, pilot: Pilot | None) -> folders.Figures:
    figures = folders.write_rows(asked.out, asker, rows)
    folders.write_provenance(asked.out, asker, rows, figures, pilot=pilot, source=name_of(asked.data), task=asked.task)
    return figures


def _nothing(asker: Asker, figures: folders.Figures) -> TeacherError:
    stored = +Counter(figures.outcomes)
    if stored:
        return endings.useless(stored, asker.form.answer_tokens)
    return endings.nothing(asker.failed, asker.last)


@contextmanager
def _signals(asker: Asker) -> Iterator[list[int]]:
    """Within the block a signal stops the asking, a second one at once; the list has those that came."""
    got: list[int] = []

    def stop(number: int) -> None:
        asker.hurry = bool(got)
        got.append(number)
        asker.stop()

    loop = asyncio.get_running_loop()
    ours = [one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = (
        {one: signal.getsignal(one) for one in ours} if threading.current_thread() is threading.main_thread() else {}
    )
    for one in before:
        loop.add_signal_handler(one, stop, one)
    try:
        yield got
    finally:
        for one, handler in before.items():
            loop.remove_signal_handler(one)
            signal.signal(one, handler)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
