"""What would be asked, and the most that it may cost: nothing is sent, and nothing is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edgekd.labelling import folder as folders
from edgekd.labelling.address import address
from edgekd.labelling.asked import Asked, money, prompt_of, rows_of
from edgekd.labelling.ledger import NAME, Ledger
from edgekd.labelling.prices import PICO, Tokens
from edgekd.labelling.prompts import Message, classes, template


@dataclass(frozen=True)
class Preview:
    """The messages for the first row that is not answered yet, and what all such rows take at most."""

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
    folders.check_folder(asked.out)
    rows = rows_of(asked)
    named = classes(asked.classes, rows.labels)
    ledger = Ledger(asked.out, priced) if (asked.out / NAME).exists() else None
    try:
        before = folders.shots_before(ledger, asked.shots) if ledger else []
        prompt = prompt_of(asked, words, named, rows, before)
        texts = dict.fromkeys(row.input for row in rows.wanted)
        if ledger is not None:
            texts = {text: None for text in texts if prompt.key(asked.model, text, 0) not in ledger.entries}
    finally:
        if ledger is not None:
            ledger.close()
    room = asked.answer_tokens or prompt.answer_tokens
    most = Tokens(sum(map(prompt.bound, texts)), room * len(texts))
    return Preview(
        prompt_sha256=prompt.digest,
        messages=prompt.messages(next(iter(texts), "")),
        requests=len(texts),
        tokens_at_most=most.total,
        cost_usd_at_most=priced.of(most) / PICO if priced else None,
    )
