"""What a teacher behind an API took, and what the student that learned from its answers is against it."""

from __future__ import annotations

from math import ceil
from typing import Any

from edgekd.core.metrics import ACCURACY
from edgekd.plan.plan import Plan
from edgekd.report.figures import cost_per_million

_A_MILLION = 1e6
_LEAST_ROWS = 30  # that may confirm a pilot, or not


def of_api(plan: Plan, measured: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the report's section: who answered, what it took, and both beside each other; None of other teachers.

    `name` is the variant that ships. Costs are US dollars; the teacher's are of its prices, the student's of the
    device's price for an hour.
    """
    told = plan.teacher.answered
    if told is None:
        return None
    who, figures, query = plan.teacher.architecture["answers"], told["figures"] or {}, told["a_query"] or {}
    compared, latency_ms = measured.get("answers"), measured["models"][name]["latency_p50_ms"]
    spent, labelled = figures.get("cost_usd"), figures.get("labelled") or 0
    theirs = None if query.get("cost_usd") is None else _A_MILLION * query["cost_usd"]
    own = cost_per_million(latency_ms, plan.price_per_hour)
    said: dict[str, Any] = {
        "model": who["model"],
        "provider": who["provider"],
        "terms": who["terms"],
        "rows": figures.get("rows"),
        "labelled": labelled,
        "soft": told["soft_labels"] or 0,
        "requests": figures.get("requests"),
        "unknown": figures.get("unknown"),
        "refused": figures.get("refused"),
        "malformed": figures.get("malformed"),
        "prompt_tokens": figures.get("prompt_tokens"),
        "completion_tokens": figures.get("completion_tokens"),
        "cost_usd": spent,
        "a_label_usd": spent / labelled if spent is not None and labelled else None,
        "agreement": figures.get("agreement"),
        "repeats": figures.get("repeats"),
        "pilot": _pilot(told["pilot"], compared if plan.metric == ACCURACY else None),
        "prices": (told["prices"] or {}).get("source"),
        "compared": compared and {**compared, "models": None, "student": compared["models"][name]},
        "latency_p50_ms": query.get("latency_p50_ms"),
        "latency_p90_ms": query.get("latency_p90_ms"),
        "concurrency": query.get("concurrency"),
        "million_usd": theirs,
        "student_latency_p50_ms": latency_ms,
        "student_million_usd": own,
        "faster": query["latency_p50_ms"] / latency_ms if query.get("latency_p50_ms") else None,
        "cheaper": theirs / own if theirs and own else None,
        "break_even": break_even(spent, theirs, own),
    }
    return said | {"says": _says(said)}


def break_even(spent: float | None, theirs: float | None, own: float) -> int | None:
    """Return how many queries pay for the labels: None where the student is no cheaper, or prices are unknown.

    >>> break_even(2.0, 10.0, 2.0)
    250000
    """
    if spent is None or theirs is None or theirs <= own:
        return None
    return ceil(_A_MILLION * spent / (theirs - own))


def _pilot(pilot: dict[str, Any] | None, compared: dict[str, Any] | None) -> dict[str, Any] | None:
    """The pilot's figures, and whether its interval holds what the teacher reached on the held-out rows."""
    if pilot is None:
        return None
    share = _beside_pilot(pilot, compared) if compared and compared["own_labels"] else None
    held = None if share is None else pilot["low"] <= share <= pilot["high"]
    return {name: pilot[name] for name in ("rows", "accuracy", "low", "high")} | {"held": held}


def _beside_pilot(pilot: dict[str, Any], compared: dict[str, Any]) -> float | None:
    """What the teacher reached on held-out rows that were not the pilot's; None where too few are left to tell.

    A pilot for want of other rows is of test rows, and those are the first to be compared: they cannot confirm it.

    >>> _beside_pilot({"rows": 50, "right": 45, "test_rows": 50}, {"n": 150, "metric_value": 0.8})
    0.75
    """
    count, right = compared["n"], compared["metric_value"] * compared["n"]
    if pilot.get("test_rows"):
        if pilot["test_rows"] < pilot["rows"]:  # how many of its right answers were of test rows is not kept
            return None
        count, right = count - pilot["rows"], right - pilot["right"]
    return right / count if count >= _LEAST_ROWS else None


def _says(said: dict[str, Any]) -> list[str]:
    """The section in sentences."""
    found = [
        f"{said['model']} ({said['provider']}) labelled {said['labelled']:,} of {said['rows'] or 0:,} rows, "
        f"{said['soft']:,} of them with probabilities: {said['requests'] or 0:,} requests, "
        f"{said['prompt_tokens'] or 0:,} tokens of prompts, {said['completion_tokens'] or 0:,} of answers"
    ]
    if said["cost_usd"] is not None:
        label = f", ${said['a_label_usd']:.6f} a label" if said["a_label_usd"] is not None else ""
        found.append(f"It cost ${said['cost_usd']:.4f} at most{label} (prices: {said['prices']})")
    else:
        found.append("What it cost is not known: nobody named a price")
    lost = {name: said[name] for name in ("refused", "malformed", "unknown") if said[name]}
    if lost:
        found.append("Without a label: " + ", ".join(f"{count:,} {name}" for name, count in lost.items()))
    if said["agreement"] is not None:
        found.append(f"Asked twice, {said['agreement']:.1%} of {said['repeats']} answers agree")
    if pilot := said["pilot"]:
        ends = f"[{pilot['low']:.1%}, {pilot['high']:.1%}]"
        held = {None: "", True: "; it holds", False: "; the held-out rows lie outside of it"}[pilot["held"]]
        found.append(f"The pilot of {pilot['rows']} rows expected {pilot['accuracy']:.1%} {ends}{held}")
    found.append(
        "Its terms: " + (f"accepted on {said['terms']['date']}" if said["terms"] else "no acceptance recorded")
    )
    if said["break_even"] is not None:
        found.append(f"The labels have paid for themselves after {said['break_even']:,} queries")
    return found
