"""What a user may say of labelling, and what their words stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.registry import make
from edgekd.labelling.address import Address
from edgekd.labelling.budget import Ceilings
from edgekd.labelling.prices import Prices, dollars, no_price, prices
from edgekd.labelling.prompts import Prompt, Template
from edgekd.labelling.rows import Rows, draw_shots, read_rows


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user may say of labelling."""

    task: str
    teacher: str
    model: str
    data: str
    out: Path
    classes: str | None = None
    prompt: Path | None = None
    text_column: str | None = None
    label_column: str | None = None
    relabel: bool = False
    shots: int = 0
    soft: bool = True
    price_per_million: str | None = None
    max_cost: str | None = None
    max_tokens: int | None = None
    max_requests: int | None = None
    concurrency: int = 8
    answer_tokens: int | None = None
    context: int | None = None
    timeout_s: float = 60.0
    min_accuracy: float | None = None
    pilot_only: bool = False
    accept_terms: bool = False
    seed: int = 0


def money(asked: Asked, where: Address) -> tuple[Prices | None, Ceilings]:
    """Return prices, where they are known, and ceilings. Raises UsageError for a ceiling in dollars without a price."""
    priced = prices(asked.price_per_million, asked.model, host=where.host, loopback=where.loopback)
    if asked.max_cost is not None and priced is None:
        raise no_price(asked.model)
    picos = dollars(asked.max_cost, "max-cost") if asked.max_cost is not None else None
    return priced, Ceilings(asked.max_requests, asked.max_tokens, picos)


def rows_of(asked: Asked) -> Rows:
    """Read the rows by role. Raises UsageError and DataError."""
    task = make("tasks", asked.task, text_column=asked.text_column, label_column=asked.label_column)
    return read_rows(task, asked.data, relabel=asked.relabel)


def prompt_of(asked: Asked, words: Template, named: Mapping[str, str], rows: Rows, before: Sequence[str]) -> Prompt:
    """Return what is asked of each row, with an earlier run's examples where they still serve. Raises DataError."""
    return Prompt(words, dict(named), draw_shots(rows, asked.shots, asked.seed, before))
