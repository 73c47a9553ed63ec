"""What a user may say of labelling, and what their words stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from edgekd.core.errors import UsageError
from edgekd.core.protocols import MULTI_LABEL
from edgekd.core.registry import make, plugin
from edgekd.labelling.address import Address
from edgekd.labelling.budget import Ceilings
from edgekd.labelling.prices import Prices, dollars, no_price, prices
from edgekd.labelling.prompts import Prompt, Template
from edgekd.labelling.rows import Rows, draw_shots, read_rows
from edgekd.plan.options import Options


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user may say of labelling."""

    task: str
    teacher: str
    model: str
    data: str
    out: Path
    url: str | None = None  # where `out` is kept alike, by a URL that fsspec knows
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
    shard: str | None = None  # K/N: this part of the rows alone
    compare: int = 0  # test rows that are asked, too, so that a student can be held against the teacher on them
    timeout_s: float = 60.0
    min_accuracy: float | None = None
    pilot_only: bool = False
    accept_terms: bool = False
    seed: int = 0


_SAME = (  # words that a build has, too
    "task",
    "classes",
    "text_column",
    "label_column",
    "shots",
    "soft",
    "compare",
    "price_per_million",
    "max_cost",
    "max_requests",
    "concurrency",
    "answer_tokens",
    "context",
    "timeout_s",
    "min_accuracy",
    "accept_terms",
    "seed",
)


def asked_of(options: Options, out: Path) -> Asked:
    """Return what a build asks of its teacher behind an API; answers and ledger lie in `out`.

    Raises UsageError where the model or the rows are not named.
    """
    if options.model is None:
        raise UsageError("--teacher api: needs the model's name there", fix="give --model NAME")
    if options.data is None:
        raise UsageError("--teacher api: labels rows, and none are given", fix="give --data: a file or folder of texts")
    if options.text_pair_column is not None:
        raise UsageError(
            "--text-pair-column: a teacher behind an API is asked about one text a row",
            fix="join both texts in one column, or label the rows elsewhere and give them as --data",
        )
    same = {one.name: getattr(options, one.name) for one in fields(Asked) if one.name in _SAME}
    return Asked(
        **same,
        teacher=str(options.teacher),
        model=options.model,
        data=options.data,
        out=out,
        prompt=None if options.prompt is None else Path(options.prompt),
        max_tokens=options.max_api_tokens,
    )


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
    several = plugin("tasks", asked.task).problem_type == MULTI_LABEL
    return Prompt(words, dict(named), draw_shots(rows, asked.shots, asked.seed, before), several)
