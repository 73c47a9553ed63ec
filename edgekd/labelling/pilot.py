"""The pilot, before anything in bulk: is the teacher any good, does it agree with itself, what will the rest cost?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from edgekd.core.errors import BelowAccuracy
from edgekd.core.statistics import interval, share_interval
from edgekd.data.splits import Example
from edgekd.labelling.asking import Asker, Job
from edgekd.labelling.jobs import PILOT_REPEATS, pilot_jobs, pilot_order
from edgekd.labelling.prices import PICO, Tokens
from edgekd.labelling.rows import Rows

ROWS = 50


@dataclass(frozen=True)
class Estimate:
    """What the rows that are left will take, with the ends of a 95% band."""

    requests: int
    tokens: float
    tokens_low: float
    tokens_high: float
    usd: float | None = None
    usd_low: float | None = None
    usd_high: float | None = None


@dataclass(frozen=True)
class Pilot:
    """Rows with a label of their own that the teacher was asked about; an answer without a class is wrong."""

    rows: int
    right: int
    low: float
    high: float
    repeats: int
    agreed: int
    estimate: Estimate
    mistaken: str = ""  # the most frequent mistake
    test_rows: int = 0  # of the rows: those of the test split

    @property
    def accuracy(self) -> float:
        """Share of rows that the teacher names the label of."""
        return self.right / self.rows

    def as_dict(self) -> dict[str, object]:
        """As provenance.json has it."""
        return asdict(self) | {"accuracy": self.accuracy}

    def lines(self) -> list[str]:
        """What a user is told."""
        e = self.estimate
        money = f", ${e.usd:.4f} [{e.usd_low:.4f}, {e.usd_high:.4f}]" if e.usd is not None else ""
        said = [
            f"pilot: the teacher names the label of {self.right} of {self.rows} rows: {_share(self)}; "
            f"asked again, {self.agreed} of {self.repeats} answers agree",
            f"the other rows: {e.requests:,} requests, about {e.tokens:,.0f} tokens "
            f"[{e.tokens_low:,.0f}, {e.tokens_high:,.0f}]{money}",
        ]
        if self.mistaken:
            said.insert(1, f"the most frequent mistake: {self.mistaken}")
        if self.test_rows:
            said.append(
                f"{self.test_rows} of the pilot's rows are test rows, for want of others: whoever edits the prompt by "
                "what the pilot says fits it to them"
            )
        return said

    def check(self, floor: float | None) -> None:
        """Raise BelowAccuracy where the teacher is below the floor."""
        if floor is not None and self.accuracy < floor:
            raise BelowAccuracy(
                f"the teacher names the label of {self.right} of {self.rows} pilot rows: {_share(self)} < {floor:.1%}"
                + (f"; the most frequent mistake: {self.mistaken}" if self.mistaken else ""),
                fix="say what the classes mean (--classes FILE), give examples (--shots 8), edit the prompt (--prompt "
                "FILE) or ask a better --model; or lower --min-accuracy. Nothing but the pilot was asked",
            )


def pilot_rows(
    rows: Rows, shots: Sequence[Example], too_long: Callable[[str], bool] = lambda text: False
) -> list[Example]:
    """ROWS rows with a label, none of which is an example in the prompt; of the test only where others are too few.

    The same rows again as long as they are among the data. Empty where there are too few.
    """
    shown = {shot.content for shot in shots}
    groups = ([*rows.train, *rows.validation], rows.test)
    found: list[Example] = []
    for group in groups:
        able = [row for row in group if row.label is not None and row.content not in shown and not too_long(row.input)]
        able.sort(key=pilot_order)
        found += able[: ROWS - len(found)]
    return found if len(found) == ROWS else []


async def run_pilot(asker: Asker, chosen: Sequence[Example], rows: Rows) -> Pilot | None:
    """Ask about the pilot's rows. None where a ceiling, or failures, left some of them without an answer."""
    asker.progress.stage("pilot", total=len(chosen))
    await asker.ask(pilot_jobs(chosen), rows=len(chosen))
    entries = [asker.entry(Job(row.input)) for row in chosen]
    if asker.stopped or any(entry is None for entry in entries):
        return None
    labels = [entry.label if entry else None for entry in entries]
    hits = [float(label == row.label) for label, row in zip(labels, chosen, strict=True)]
    wrong = Counter(
        f"{row.label!r} taken for {label!r}"
        for label, row in zip(labels, chosen, strict=True)
        if label not in (None, row.label)
    )
    import numpy as np

    low, high = share_interval(np.array(hits))
    repeats, agreed = agreement(asker, [row.input for row in chosen[:PILOT_REPEATS]])
    most = next((f"{what} ({count} times)" for what, count in wrong.most_common(1) if count > 1), "")
    test = {row.content for row in rows.test}
    return Pilot(
        rows=len(chosen),
        right=int(sum(hits)),
        low=low,
        high=high,
        repeats=repeats,
        agreed=agreed,
        estimate=_estimate(asker, chosen, [row.input for row in rows.wanted]),
        mistaken=most,
        test_rows=sum(row.content in test for row in chosen),
    )


def agreement(asker: Asker, texts: Sequence[str]) -> tuple[int, int]:
    """Of these texts those that were asked twice, and those whose two answers agree."""
    repeats = agreed = 0
    for text in texts:
        second = asker.entry(Job(text, 1))
        first = asker.entry(Job(text)) if second else None
        if first and second:
            repeats += 1
            agreed += first.label == second.label and first.label is not None
    return repeats, agreed


def _estimate(asker: Asker, chosen: Sequence[Example], texts: Sequence[str]) -> Estimate:
    """From tokens a byte of the pilot's prompts, and tokens of its answers."""
    pairs = [(asker.prompt.bound(row.input), asker.entry(Job(row.input))) for row in chosen]
    told = [(bound, entry.used) for bound, entry in pairs if entry and entry.used.prompt]
    left = [asker.prompt.bound(text) for text in texts if asker.entry(Job(text)) is None]
    if not told or not left:
        return Estimate(len(left), 0, 0, 0, *([0.0] * 3 if asker.budget.prices else []))
    shares = [used.prompt / bound for bound, used in told]
    answers = [float(used.completion) for _, used in told]
    ends = [
        Tokens(round(share * sum(left)), round(answer * len(left)))
        for share, answer in zip(
            (sum(shares) / len(shares), *interval(shares)),
            (sum(answers) / len(answers), *interval(answers)),
            strict=True,
        )
    ]
    usd = [asker.budget.cost(end) / PICO for end in ends] if asker.budget.prices else []
    return Estimate(len(left), *(end.total for end in ends), *usd)


def _share(pilot: Pilot) -> str:
    return f"{pilot.accuracy:.1%} [{pilot.low:.1%}, {pilot.high:.1%}]"
