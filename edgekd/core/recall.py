"""What accuracy hides: classes that are never answered rightly, and a model that any constant answer equals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

MOST_NAMED = 5


def never_right(
    counts: Mapping[str, int], teacher: Sequence[float | None], shipped: Sequence[float | None]
) -> dict[str, Any] | None:
    """The classes with test rows of which none is answered rightly: how many, and those of most rows by name.

    `counts` holds each class's test rows by name; recalls of teacher and shipped model are in the same order, from 0
    to 1, None for a class without rows. None where the test rows have no labels.
    """
    if not counts or not shipped:
        return None
    rows: list[dict[str, Any]] = [
        {"name": name, "n": n, "teacher": before}
        for (name, n), before, after in zip(counts.items(), teacher, shipped, strict=True)
        if n and after == 0
    ]
    rows.sort(key=lambda row: -row["n"])
    return {"count": len(rows), "of": sum(n > 0 for n in counts.values()), "classes": rows[:MOST_NAMED]}


def most_frequent(counts: Mapping[str, int], accuracy_interval: Sequence[float]) -> dict[str, Any] | None:
    """The most frequent class of the test rows, its share, and whether the accuracy's interval lies above that share.

    To answer that class always is right as often. None where the test rows have no labels.
    """
    if not sum(counts.values()):
        return None
    name = max(counts, key=lambda one: counts[one])
    share = counts[name] / sum(counts.values())
    return {"class": name, "share": share, "beaten": bool(accuracy_interval[0] > share)}


def constant_f1(positives: Sequence[int], rows: int) -> tuple[float, tuple[int, ...]]:
    """Return the largest micro F1 of one answer for all rows, and the labels in it: some of the most frequent ones.

    `positives` are the rows that have each label.

    >>> constant_f1([8, 2, 0], 10)
    (0.8, (0,))
    """
    ranked = sorted(range(len(positives)), key=lambda label: -positives[label])
    whole = sum(positives)
    best, size, right = 0.0, 0, 0
    for count, label in enumerate(ranked, start=1):
        right += int(positives[label])
        value = 2 * right / (count * rows + whole)
        if value > best:
            best, size = value, count
    return best, tuple(ranked[:size])


def best_constant(counts: Mapping[str, int], rows: int, interval: Sequence[float]) -> dict[str, Any] | None:
    """The labels to answer always for the largest micro F1, that F1, and whether the metric's interval lies above it.

    `counts` holds the rows of each label, of so many `rows`. None where the test rows have no labels.
    """
    if not sum(counts.values()):
        return None
    names = list(counts)
    share, best = constant_f1([counts[name] for name in names], rows)
    return {"labels": [names[label] for label in best], "share": share, "beaten": bool(interval[0] > share)}


def baseline_says(summary: Mapping[str, Any], spelled: Callable[[float], str]) -> str:
    """Return what a report's summary tells of a baseline that beats a network: a sentence, empty where it beats none.

    `spelled` writes a value of the metric.
    """
    baseline, sign = summary.get("baseline"), 1 if summary.get("higher_is_better", True) else -1
    if not baseline:
        return ""
    own = baseline["metric_value"]
    known = {"the shipped model": summary["shipped"]["metric_value"]}
    if summary.get("teacher") and summary["teacher"]["metric_value"] is not None:
        known["the teacher"] = summary["teacher"]["metric_value"]
    beaten = {name: value for name, value in known.items() if sign * (own - value) > 0}
    if not beaten:
        return ""
    figures = " and ".join(f"{spelled(value)} of {name}" for name, value in beaten.items())
    return f"the baseline has {spelled(own)}, better than {figures}: consider shipping that instead"


def recall_says(summary: Mapping[str, Any]) -> list[str]:
    """What a report's summary tells of classes, in sentences; empty where nothing is wrong, or in older reports."""
    says = []
    often = summary.get("most_frequent")
    if often and not often["beaten"] and "labels" in often:
        named = ", ".join(map(repr, often["labels"][:MOST_NAMED])) + (
            " ..." if len(often["labels"]) > MOST_NAMED else ""
        )
        says.append(
            f"no better than one answer for all rows, by the metric's interval: to answer {named} always has a micro "
            f"F1 of {often['share']:.1%}"
        )
    elif often and not often["beaten"]:
        says.append(
            f"no better than the most frequent class, by the accuracy's interval: to answer {often['class']!r} always "
            f"is right on {often['share']:.1%} of the test rows"
        )
    never = summary.get("never_right")
    if never and never["count"]:
        unit = summary.get("counted", "row")
        named = ", ".join(
            f"{row['name']!r} ({row['n']} test {unit}{'' if row['n'] == 1 else 's'}{_teacher(row)})"
            for row in never["classes"]
        )
        be = "is" if never["count"] == 1 else "are"
        more = never["count"] - len(never["classes"])
        says.append(
            f"{never['count']} of {never['of']} classes {be} never answered rightly (recall 0%): {named}"
            + (f" and {more} more" if more else "")
        )
    return says


def _teacher(row: Mapping[str, Any]) -> str:
    return "" if row["teacher"] is None else f", the teacher {row['teacher']:.0%}"
