"""The folder that labelling leaves: rows that `edgekd build --data` reads, where they come from, and the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

from edgekd.core.errors import UsageError
from edgekd.core.files import flush, is_plain, storage_error, user_path, write_file
from edgekd.core.outputs import check_above
from edgekd.data.splits import Example
from edgekd.labelling.answers import OUTCOMES
from edgekd.labelling.asking import Asker, Job
from edgekd.labelling.entries import Entry
from edgekd.labelling.ledger import NAME, SHARDS, Ledger
from edgekd.labelling.pilot import Pilot, agreement
from edgekd.labelling.prices import PICO, Tokens
from edgekd.labelling.rows import Answered, Rows, labelled_line, train_line
from edgekd.store.store import store_root

PROVENANCE, TEMPLATE = "provenance.json", "template.txt"
_WHOLE = ("rows", "labelled", "requests", "unknown", "refused", "malformed", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Figures:
    """What stands in the folder, and what the whole ledger took: of this run and of those before it."""

    rows: int
    labelled: int
    requests: int
    unknown: int
    refused: int
    malformed: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    agreement: float | None
    repeats: int = 0
    soft: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def as_json(self, folder: Path) -> dict[str, object]:
        """What `edgekd label --json` prints."""
        said: dict[str, object] = {"labels": str(folder)} | {name: getattr(self, name) for name in _WHOLE}
        return said | {"cost_usd": self.cost_usd, "agreement": self.agreement}


def check_folder(folder: Path, data: str) -> None:
    """Raise UsageError where labels cannot be kept, and for a folder that holds something else, or the data."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", fix="give --out a new folder")
    check_above(folder, store_root())
    source = Path(os.path.realpath(user_path(data)))
    if source.exists() and Path(os.path.realpath(folder)) in (source, *source.parents):
        raise UsageError(
            f"--data {data} lies in {folder}, where the labels are written: they would be read as given ones",
            fix="give --data the rows that were labelled first, or give --out another folder",
        )
    ledger = folder / NAME
    if ledger.exists() and not is_plain(ledger):
        raise UsageError(f"{ledger} is no plain file", fix="give --out a new folder")
    if folder.is_dir() and not ledger.exists() and any(path.name != SHARDS for path in folder.iterdir()):
        raise UsageError(
            f"the output folder {folder} is not empty, and holds no {NAME}", fix="give --out a new folder, or empty it"
        )


def write_rows(folder: Path, asker: Asker, rows: Rows) -> Figures:
    """Write the rows by split, with the labels that there are so far; the figures. Raises StoreError."""
    counts = dict.fromkeys(OUTCOMES, 0)
    soft = 0

    def train() -> Iterator[str]:
        nonlocal soft
        for row in rows.train:
            if row.label is not None and not rows.relabel:
                yield labelled_line(row, _answered(asker, row))
                continue
            entry = asker.entry(Job(row.input))
            if entry is None:
                counts["too_long"] += asker.too_long(row.input)
                yield train_line(row, None)
                continue
            counts[entry.outcome] += 1
            said = _read(asker, entry)
            soft += said.probabilities is not None
            yield train_line(row, said)

    _write(folder / "train.jsonl", train())
    for name, part in (("validation", rows.validation), ("test", rows.test)):
        path = folder / f"{name}.jsonl"
        if any(row.label is not None for row in part):
            _write(path, (labelled_line(row, _answered(asker, row)) for row in part))
        else:
            path.unlink(missing_ok=True)
    return _figures(asker, rows, counts, soft)


def _answered(asker: Asker, row: Example) -> Answered | None:
    """What the teacher said of a row that keeps its own label; None where it was not asked."""
    entry = asker.entry(Job(row.input)) if row.label is not None else None
    return None if entry is None else _read(asker, entry)


def _read(asker: Asker, entry: Entry) -> Answered:
    soft = asker.ledger.words(entry).get("probabilities") if entry.label is not None else None
    return Answered(entry.label, soft)


def _a_query(asker: Asker) -> dict[str, object]:
    """What an answer took, over all of them: time as it was here, tokens and money as they were billed."""
    count, used = asker.ledger.entries.billed()
    mean = Tokens(*(round(one / max(1, count)) for one in used))
    latency = sorted(asker.ledger.latency_ms)
    upper = quantiles(latency, n=10) if len(latency) > 1 else []
    cost = asker.budget.cost(used) / count / PICO if count and asker.budget.prices else None
    return {
        "answers": count,
        "prompt_tokens": mean.prompt,
        "completion_tokens": mean.completion,
        "cost_usd": cost,
        "latency_p50_ms": round(median(latency), 1) if latency else None,
        "latency_p90_ms": round(upper[8], 1) if upper else None,
        "concurrency": asker.pace.most,
    }


def _figures(asker: Asker, rows: Rows, counts: dict[str, int], soft: int) -> Figures:
    ledger = asker.ledger
    texts = list(dict.fromkeys(row.input for row in (*rows.train, *rows.validation, *rows.test)))
    repeats, agreed = agreement(asker, texts)
    return Figures(
        rows=len(rows.wanted),
        labelled=counts["label"],
        requests=ledger.spent.requests,
        unknown=ledger.unknown,
        refused=counts["refused"] + counts["too_long"],
        malformed=counts["malformed"] + counts["off_list"] + counts["truncated"],
        prompt_tokens=ledger.spent.prompt,
        completion_tokens=ledger.spent.completion,
        cost_usd=ledger.spent.picos / PICO if asker.budget.prices else None,
        agreement=agreed / repeats if repeats else None,
        repeats=repeats,
        soft=soft,
        outcomes=counts,
    )


def write_provenance(
    folder: Path, asker: Asker, rows: Rows, figures: Figures, pilot: Pilot | None, source: str, task: str
) -> None:
    """Write who labelled what, by which prompt and terms, and what it took. Raises StoreError."""
    prompt, prices, ledger = asker.prompt, asker.budget.prices, asker.ledger
    told = {name: value for name, value in figures.as_json(folder).items() if name != "labels"}  # no path of here
    said = {
        "schema": 1,
        "edgekd": version("edgekd"),
        "task": task,
        "several_labels": asker.prompt.several,
        "teacher": {"provider": asker.teacher.url, "model": asker.teacher.model, "terms": accepted(ledger)},
        "data": {"source": source, "rows_sha256": rows.digest},
        "classes": prompt.classes,
        "prompt": {
            "template": prompt.template.source,
            "template_sha256": prompt.template.digest,
            "constant_part_sha256": prompt.digest,
            "examples": [shot.content for shot in prompt.shots],
        },
        "figures": told | {"outcomes": figures.outcomes, "repeats": figures.repeats},
        "soft_labels": figures.soft,
        "a_query": _a_query(asker),
        "left_out_of_requests": asker.form.refused,
        "prices": prices and {"source": prices.source, "pico_usd_a_token": [prices.prompt, prices.completion]},
        "pilot": pilot and pilot.as_dict(),
        "system_fingerprints": ledger.fingerprints,
        "runs": [run["date"] for run in ledger.runs],
        "ledgers_joined": len(ledger.joined),
    }
    write_file(folder / PROVENANCE, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    write_file(folder / TEMPLATE, prompt.template.text)


def accepted(ledger: Ledger) -> dict[str, object] | None:
    """Return when, for whom and for which model the provider's terms were accepted; None where they were not."""
    return next((run["terms"] for run in (*ledger.runs, *ledger.joined_runs) if run.get("terms")), None)


def _write(path: Path, lines: Iterable[str]) -> None:
    """A file of many lines, by one rename: the whole of it is never in memory."""
    fresh = path.with_name(f".{path.name}.new")  # who holds the ledger's lock is its only writer
    try:
        with fresh.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
        flush(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def shots_before(ledger: Ledger, count: int) -> Sequence[str]:
    """Return the examples of the latest run that had so many, by their SHA-256."""
    runs = (*ledger.joined_runs, *ledger.runs)
    found = (run["shots"] for run in reversed(runs) if len(run["shots"]) == count)
    return [str(one) for one in next(found, [])]
