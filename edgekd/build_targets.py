"""Several targets, one teacher: a bundle and an exit code for each, and one page that compares them.

What does not depend on the target is kept in the store under keys that know of none: the first target's build makes it,
the others read it. So the teacher is trained and asked once, and targets whose students have one shape train one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.bundle import write
from edgekd.core.errors import DataError, EdgeKDError, StoreError, TeacherError, UsageError
from edgekd.core.files import write_file
from edgekd.core.protocols import NullProgress, Progress
from edgekd.pipeline import Built, build
from edgekd.plan.planning import Planned
from edgekd.receipts import files
from edgekd.report import targets_page
from edgekd.security import signing
from edgekd.security.signing import Signer
from edgekd.sizing import fitting
from edgekd.store.store import Store

PAGES = ("index.html", "index.md")
OF_ALL = (DataError, StoreError, TeacherError)  # the next target would meet them, too


@dataclass(frozen=True)
class Outcome:
    """A target's bundle, or the error for which it has none."""

    target: str
    folder: Path
    built: Built | None = None
    error: EdgeKDError | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 where it shipped, else the error's."""
        return self.error.exit_code if self.error else 0

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        if self.built is None:
            assert self.error is not None
            return self.error.as_dict()
        return {"bundle": str(self.folder), "summary": self.built.summary, "exit": 0}


@dataclass(frozen=True)
class BuiltTargets:
    """What became of each target, in the order they were asked for, and the page that compares them."""

    outcomes: tuple[Outcome, ...]
    page: Path

    @property
    def exit_code(self) -> int:
        """Return 0 where all shipped, else that of the first one that did not."""
        return next((outcome.exit_code for outcome in self.outcomes if outcome.exit_code), 0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by the target's name."""
        return {outcome.target: outcome.as_dict() for outcome in self.outcomes}


def build_targets(
    planned: Planned,
    store: Store,
    out: Path,
    progress: Progress | None = None,
    signers: Sequence[Signer] = (),
) -> BuiltTargets:
    """Build a bundle for each target in the folder `out`, and the pages `index.html` and `index.md` beside them.

    A target that cannot be met holds up none of the others. The same call goes on where it was stopped. Raises
    UsageError where `out` holds anything but bundles of these plans, before anything is built; DataError, TeacherError
    or StoreError where what all targets share cannot be used.
    """
    progress = progress or NullProgress()
    folders = {target.name: out / f"{planned.shared.name}-{target.name}" for target in planned.targets}
    check_free(planned, folders, out, store)
    shapes, refused = _sized(planned, folders, store, progress)
    planned = replace(planned, refused=planned.refused | refused)
    outcomes = []
    for number, (target, folder) in enumerate(folders.items(), start=1):
        progress.say(f"target {target} ({number} of {len(folders)})")
        outcome = _outcome(planned, target, folder, store, progress, signers, shapes)
        if outcome.error is not None:
            progress.say(f"target {target} is not shipped: {outcome.error.message}")
        outcomes.append(outcome)
    return BuiltTargets(tuple(outcomes), _write_pages(planned, outcomes, out))


def _sized(
    planned: Planned, folders: dict[str, Path], store: Store, progress: Progress
) -> tuple[tuple[dict[str, Any], ...], dict[str, EdgeKDError]]:
    """The students' shapes where losses look at the teacher's layers: so one pass of it serves all; and the refusals.

    Empty where the logits alone are asked for, which are every student's, or where a shape is found by training.
    """
    shapes: list[dict[str, Any]] = []
    refused: dict[str, EdgeKDError] = {}
    if "features" not in planned.shared.needs or planned.shared.student.tries > 1:
        return (), {}
    for target, plan in planned.plans.items():
        if write.is_finished(folders[target], plan.digest):
            continue
        try:
            shapes.append(fitting.fit(plan, store, progress).chosen.shape)
        except OF_ALL:
            raise
        except EdgeKDError as error:  # it would be measured once more, and be refused again
            refused[target] = error
    return tuple(shapes), refused


def _outcome(
    planned: Planned,
    target: str,
    folder: Path,
    store: Store,
    progress: Progress,
    signers: Sequence[Signer],
    shapes: Sequence[dict[str, Any]],
) -> Outcome:
    if target in planned.refused:
        return Outcome(target, folder, error=planned.refused[target])
    try:
        plan = planned.plans[target]
        built = build(plan, planned.splits, store, folder, progress, signers, shapes_beside=shapes)
    except OF_ALL:
        raise
    except EdgeKDError as error:
        return Outcome(target, folder, error=error)
    return Outcome(target, folder, built)


def check_free(planned: Planned, folders: dict[str, Path], out: Path, store: Store) -> None:
    """Raise UsageError where `out` holds what these plans did not write, or a bundle's place is taken."""
    for target, plan in planned.plans.items():
        if not write.is_finished(folders[target], plan.digest):
            write.check_free(folders[target], plan_sha256=plan.digest, store=store.root)
    if not out.is_dir():
        return
    ours = {
        place.name for folder in folders.values() for place in (folder, signing.beside(folder), files.folder(folder))
    }
    ours |= {name for name in PAGES if targets_page.is_ours(out / name)}
    for path in sorted(out.iterdir()):
        unfinished = any(path.name.startswith(f".{name}.new-") for name in (*ours, *PAGES))  # of a killed writer
        if path.name not in ours and not unfinished:
            raise UsageError(
                f"the output folder {out} is not empty: {path.name}",
                fix="give --out a new or an empty folder, or remove this one first",
            )


def _write_pages(planned: Planned, outcomes: Sequence[Outcome], out: Path) -> Path:
    """Write the two pages that compare the targets; returns the one for browsers."""
    rows = [_row(outcome) for outcome in outcomes]
    for name in PAGES:
        write_file(out / name, targets_page.render(name, planned.shared, rows), mode=0o644)
    return out / PAGES[0]


def _row(outcome: Outcome) -> targets_page.Row:
    if outcome.error is not None:
        error = outcome.error
        return targets_page.refused(outcome.target, error.message, error.fix, error.exit_code)
    return targets_page.shipped(outcome.target, outcome.folder)
