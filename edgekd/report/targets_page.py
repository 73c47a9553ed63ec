"""The page that compares the targets of one build: index.html and its twin index.md.

One file each, without scripts, fonts or requests, in the look of report.html. Names are escaped: a page shows them as
text, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgekd.core.metrics import spell, unit_of
from edgekd.report import page

if TYPE_CHECKING:
    from edgekd.plan.plan import SharedPlan

MARK = "edgekd: targets of one build"  # by which a page is known as one of ours
_MARK_BYTES = 400  # within which it stands


@dataclass(frozen=True)
class Row:
    """What the page says of one target; of a refused one only the error, its fix and its exit code."""

    target: str
    exit_code: int = 0
    error: str = ""
    fix: str = ""
    verdict: str = ""
    student: str = ""  # its shape in words
    recipe: str = ""
    metric: str = ""
    value: str = ""  # of the metric on the target, with its interval
    accuracy: Mapping[str, Any] | None = None  # where that is from: a figure of the report, with its kind
    retained: str = ""
    speedup: str = ""
    memory: Mapping[str, Any] | None = None  # of the target: a figure of the report, with its kind
    latency: Mapping[str, Any] | None = None
    artifact_mib: float | None = None
    report: str = ""  # where its report.html lies, from the page


def refused(target: str, error: str, fix: str, exit_code: int) -> Row:
    """Return the row of a target that was not shipped."""
    return Row(target, exit_code, error, fix)


def shipped(target: str, folder: Path) -> Row:
    """Return the row of a finished bundle, from its report.json. Raises UsageError where that cannot be read."""
    report = page.read(folder)
    summary, figures = report["summary"], report["target_figures"]
    metric = summary["metric"]
    return Row(
        target=target,
        verdict=summary["verdict"],
        student=_student(report),
        recipe=report["choice"]["recipe"],
        metric=metric,
        value=_with_interval(figures["accuracy"]["value"], figures["accuracy"]["interval"], unit_of(summary)),
        accuracy=figures["accuracy"],
        retained=_with_interval(summary["retained"], summary.get("retained_interval"), "fraction"),
        speedup=f"{summary['speedup']:.2f}x",
        memory=figures["peak_rss"],
        latency=figures["latency_p50"],
        artifact_mib=summary["shipped"]["artifact_mib"],
        report=f"{quote(folder.name)}/report.html",
    )


def render(name: str, shared: SharedPlan, rows: Sequence[Row]) -> str:
    """Return the text of `index.html` or `index.md`."""
    values = {
        "mark": MARK,
        "name": shared.name,
        "task": shared.task,
        "teacher": {"name": shared.teacher.name, "words": shared.teacher.words, "sha256": shared.teacher.sha256},
        "compared_with": "the teacher" if shared.has_yardstick else "the teacher's answers and the student's own fp32",
        "data": {"name": shared.data.name, "counts": shared.data.counts},
        "shared_sha256": shared.shared_digest,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "targets": [asdict(row) for row in rows],
        "shipped": sum(not row.exit_code for row in rows),
    }
    return page.render(name.replace("index", "targets"), values)


def is_ours(file: Path) -> bool:
    """Return whether a file is such a page: it may be written again."""
    if file.is_symlink() or not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            return MARK.encode() in stream.read(_MARK_BYTES)
    except OSError:
        return False


def _student(report: Mapping[str, Any]) -> str:
    """The student's shape in words; of an undistilled teacher what that is."""
    if report["fit"] is None:
        return f"the teacher itself ({report['teacher']['words']})"
    return str(report["fit"]["chosen"]["words"])


def _with_interval(value: float | None, interval: Sequence[float] | None, unit: str) -> str:
    """A figure with its 95% interval: `92.1% [91.0%, 93.2%]`."""
    said = spell(value, unit)
    return f"{said} [{spell(interval[0], unit)}, {spell(interval[1], unit)}]" if interval else said
