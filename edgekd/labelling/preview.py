"""What would be asked, and the most that it may cost: nothing is sent, and nothing is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from edgekd.labelling import folder as folders
from edgekd.labelling.address import address
from edgekd.labelling.asked import Asked, money, prompt_of, rows_of
from edgekd.labelling.asking import Job, is_too_long, to_ask_again
from edgekd.labelling.entries import Entry
from edgekd.labelling.jobs import bulk_jobs, pilot_jobs
from edgekd.labelling.ledger import NAME, Ledger
from edgekd.labelling.pilot import pilot_rows
from edgekd.labelling.prices import PICO, Tokens
from edgekd.labelling.prompts import Message, Prompt, classes, template
from edgekd.labelling.rows import Rows
from edgekd.labelling.shards import beside_of, part_of


@dataclass(frozen=True)
class Preview:
    """The messages for the first row that is not answered yet, and what all requests take at most.

    That is the pilot, all such rows, and repeats; not what is asked again because it got no whole answer.
    """

    prompt_sha256: str
    messages: list[Message]
    requests: int
    tokens_at_most: int
    cost_usd_at_most: float | None

    def as_json(self) -> dict[str, object]:
        """What `edgekd label --dry-run --json` prints."""
        return asdict(self)


def preview(asked: Asked) -> Preview:
    """Read everything that `label` reads but the key. Raises UsageError, DataError and StoreError."""
    where = address(asked.teacher)
    words = template(asked.task, asked.prompt)
    priced, _ = money(asked, where)
    home, part = asked.out, part_of(asked)
    asked = asked if part is None else replace(asked, out=part.folder(home))
    beside = beside_of(home, part)
    folders.check_folder(asked.out, asked.data)
    everything = rows_of(asked)
    named = classes(asked.classes, everything.labels)
    rows = everything if part is None else part.of(everything)
    known = [folder for folder in (asked.out, *beside) if (folder / NAME).exists()]
    ledger = Ledger(known[0], priced, look=True) if known else None
    try:
        for folder in known[1:]:
            assert ledger is not None, "the first of them is open"
            ledger.join(folder, paid=False)
        before = folders.shots_before(ledger, asked.shots) if ledger else []
        prompt = prompt_of(asked, words, named, everything, before)
        room = asked.answer_tokens or prompt.answer_tokens
        jobs = [job for job in _jobs(asked, prompt, rows, room) if _is_open(_entry(ledger, prompt, asked, job), room)]
    finally:
        if ledger is not None:
            ledger.close()
    most = Tokens(sum(prompt.bound(job.text) for job in jobs), room * len(jobs))
    return Preview(
        prompt_sha256=prompt.digest,
        messages=prompt.messages(next((job.text for job in jobs if job.turn == 0), "")),
        requests=len(jobs),
        tokens_at_most=most.total,
        cost_usd_at_most=priced.of(most) / PICO if priced else None,
    )


def _jobs(asked: Asked, prompt: Prompt, rows: Rows, room: int) -> list[Job]:
    """Everything that a run may ask, each once: the pilot, the rows that may fit, and repeats of both."""

    def too_long(text: str) -> bool:
        return is_too_long(text, Tokens(prompt.bound(text), room), asked.context)

    pilot = [] if asked.shard is not None else pilot_jobs(pilot_rows(rows, prompt.shots, too_long))
    bulk = [] if asked.pilot_only else [job for job in bulk_jobs(rows) if not too_long(job.text)]
    return list(dict.fromkeys([*pilot, *bulk]))


def _entry(ledger: Ledger | None, prompt: Prompt, asked: Asked, job: Job) -> Entry | None:
    return None if ledger is None else ledger.entries.get(prompt.key(asked.model, job.text, job.turn))


def _is_open(entry: Entry | None, room: int) -> bool:
    return entry is None or to_ask_again(entry, room)
