"""On target: variants under the kernels of the target's own architecture, where this host has another.

The real ONNX Runtime of that architecture runs in an emulator of the target's core. What it answers is measured there;
how long it takes is the emulator's. Emulation is slow, so a stratified part of the rows is asked, as many as the
minutes allow, and each row's score is held against the same row's here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression.candidates import variant
from edgekd.compression.choose import FEWEST, FP32, OnTarget, Trial, over_budget, recipe_of, violations
from edgekd.core.errors import RuntimeCannotLoad, counted
from edgekd.core.metrics import Metric
from edgekd.core.model import Model
from edgekd.core.predictions import agreement, is_ragged, largest_difference, metric_input, statistics
from edgekd.core.protocols import Progress, named
from edgekd.core.registry import plugin
from edgekd.data.splits import Label, Splits, truth_of
from edgekd.data.strata import strata
from edgekd.emulation import answers
from edgekd.inference.predict import outputs
from edgekd.plan.options import Options
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample

SELECTION, HELD_OUT = "selection.json", "held_out.json"
_MOST = 4  # variants that are asked there, beside fp32
_CHOOSING = 0.6  # of the minutes; the rest for the held-out samples
_COUNTED_ROWS = 2
_SAME = 0.99  # agreement of a row's answers here and there under which it counts as flipped


def unused(plan: Plan) -> str:
    """That the user's time for an emulated core goes unused, in words; empty where it does not, or none was given."""
    usual = Options.emulate_minutes
    if not plan.target.runs_here or plan.emulate_minutes in (usual, 0):
        return ""
    return f"--emulate-minutes changes nothing: {plan.target.name} has this host's kernels, nothing is emulated"


def why_not(plan: Plan) -> str | None:
    """Why nothing can be asked there, in words; None where it can, or where this host's kernels are the target's."""
    target = plan.target
    if target.runs_here:
        return None
    if not target.needs_guest:
        lacks = target.emulator_cpu is None and target.execution_provider == "CPUExecutionProvider"
        return "its profile names no emulator_cpu" if lacks else f"there is no emulator of {target.title}"
    if not plan.emulate_minutes:
        return "--emulate-minutes 0 left it out"
    return None if plugin("devices", "qemu").available() else "no emulator is set up: `edgekd doctor --fix emulator`"


def plans(plan: Plan) -> str:
    """What a build will do about it."""
    if why := why_not(plan):
        return f"nothing runs on {plan.target.arch} kernels: {why}"
    return (
        f"up to {_MOST + 1} variants are judged on {plan.target.arch} kernels ({plan.target.emulator_cpu} emulated), "
        f"for {plan.emulate_minutes:g} min"
    )


def contenders(trials: Sequence[Trial], plan: Plan) -> list[str]:
    """fp32, what is forced, and the fastest variants within the budgets: those that may ship here before the others."""
    asked = [one for one in trials if one.name != FP32 and one.failed is None]
    forced = [one for one in asked if plan.force and recipe_of(one.name) == plan.force]
    within = [one for one in asked if one not in forced and not over_budget(one, plan.target)]
    within.sort(key=lambda one: (bool(violations(one, plan.target)), -one.speed))
    return [FP32, *(one.name for one in (*forced, *within)[:_MOST])]


def judge(
    plan: Plan,
    splits: Splits,
    trials: Sequence[Trial],
    folder: Path,
    variants: Path,
    reference: Sequence[Prediction],
    out: Path,
    progress: Progress,
) -> None:
    """Write `selection.json` into `out`: each contender's figures on the target's kernels, and its instructions.

    `reference` is what the teacher says of the selection rows. A variant that the target's runtime refuses is told
    under `refused`. Raises RuntimeCannotLoad where it refuses fp32.
    """
    task = named(plan.made_task, splits.classes)
    names = contenders(trials, plan)
    progress.stage(f"on target: {counted(len(names), 'variant')} on {plan.target.arch} kernels")
    strata = None if is_ragged(task) else metric_input(task, reference)
    order = stratified_order([row.label for row in splits.selection], strata, plan.seed)
    samples = task.encode(folder, [splits.selection[row].input for row in order], plan.student.survey.max_size)
    models = {name: variant(variants, name, plan.made_task) for name in names}
    refused: dict[str, str] = {}
    limit_s = _CHOOSING * 60 * plan.emulate_minutes
    try:
        there, told = answers.answers(plan, models, samples, limit_s, task.keep)
    except RuntimeCannotLoad:
        refused = answers.refused(plan, models, samples[:1], task.keep)
        if not refused or FP32 in refused:
            raise
        models = {name: model for name, model in models.items() if name not in refused}
        there, told = answers.answers(plan, models, samples, limit_s, task.keep)
    subset = samples[: told["n"]]
    progress.say(f"on target: {len(subset)} of {len(samples)} selection rows in {told['seconds']:.0f} s")
    rows = order[: told["n"]]
    asked = [splits.selection[row] for row in rows]
    truth = truth_of(task, asked, splits.classes, labelled=splits.selection_labelled)
    scored = {
        name: _Scored(
            task,
            there[name],
            outputs(model, subset, threads=plan.target.threads, keep=task.keep),
            [reference[row] for row in rows],
            truth,
        )
        for name, model in models.items()
    }
    typical = _typical(subset)
    costs, why = answers.costs(plan, models, typical)
    known = {trial.name: trial for trial in trials}
    said = told | {
        "cost": costs,
        "cost_note": why,
        "cost_n": len(typical),
        "refused": refused,
        "trials": {name: asdict(_on_target(known[name], scored[name], scored[FP32], costs)) for name in models},
        "agreement_here": {name: task.fidelity.value(scored[name].agreed_here) for name in models},
        "agreement_there": {name: task.fidelity.value(scored[name].agreed_there) for name in models},
    }
    (out / SELECTION).write_text(json.dumps(said, indent=1), encoding="utf-8")


def held_out(plan: Plan, splits: Splits, folder: Path, model: Model, teacher: tuple[Model, Path], out: Path) -> None:
    """Write `held_out.json` into `out`: the metric of what ships on the target's kernels, on held-out samples.

    `teacher` has its graphs and its folder: rows without labels are judged by what it says of them. `moved` is how
    far the metric changed from here to there; fewer than FEWEST rows move nothing.
    """
    task, longest = named(plan.made_task, splits.classes), plan.student.survey.max_size
    order = stratified_order([row.label for row in splits.test], None, plan.seed)
    inputs = [splits.test[row].input for row in order]
    samples = task.encode(folder, inputs, longest)
    there, told = answers.answers(
        plan, {"shipped": model}, samples, (1 - _CHOOSING) * 60 * plan.emulate_minutes, task.keep
    )
    n = told["n"]
    here = outputs(model, samples[:n], threads=plan.target.threads, keep=task.keep)
    theirs = task.encode(teacher[1], inputs[:n], longest)
    reference = outputs(teacher[0], theirs, threads=plan.target.threads, keep=task.keep)
    tested = [splits.test[row] for row in order[:n]]
    truth = truth_of(task, tested, splits.classes, labelled=splits.test_labelled)
    scored = _Scored(task, there["shipped"], here, reference, truth)
    metric = scored.metric
    moved, *spread = metric.moved(scored.there, scored.here if n >= FEWEST else scored.there)
    said = told | {
        "value": metric.value(scored.there),
        "interval": list(metric.interval(scored.there)),
        "here": metric.value(scored.here),
        "flips": scored.flips,
        "largest_difference": scored.largest_difference,
        "moved": moved,
        "moved_interval": spread,
    }
    (out / HELD_OUT).write_text(json.dumps(said, indent=1), encoding="utf-8")


def applied(trials: Sequence[Trial], found: Mapping[str, Any] | None, plan: Plan) -> list[Trial]:
    """The trials with what was found on the target. What was not asked there may not ship beside what was."""
    if not found:
        return list(trials)

    def told(trial: Trial) -> Trial:
        if trial.name in found["trials"]:
            values: dict[str, Any] = found["trials"][trial.name]
            spans = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
            return replace(trial, on_target=OnTarget(**values | spans))
        if trial.name in found["refused"]:
            return replace(trial, failed=f"does not run on {plan.target.arch}: {found['refused'][trial.name]}")
        if trial.failed is not None or violations(trial, plan.target):
            return trial
        return replace(trial, failed=f"slower ones aside: not asked on {plan.target.arch} kernels")

    return [told(trial) for trial in trials]


def says(plan: Plan, found: Mapping[str, Any] | None) -> str:
    """What was asked on the target's own kernels, or plainly why nothing was."""
    arch = plan.target.arch
    if found:
        few = f"; fewer than {FEWEST} rows move no figure, so this host's decided" if found["n"] < FEWEST else ""
        spans = [trial["drop_interval"] for name, trial in found["trials"].items() if name != FP32]
        widest = max((high - low for low, high in spans), default=0.0) / 2
        sure = f" Points lost there are known to within {widest:.0f}; --emulate-minutes narrows that." if widest else ""
        return (
            f"{counted(len(found['trials']), 'variant')} judged on {arch} kernels ({found['host']}): {found['n']:,} of "
            f"{found['of']:,} selection rows, stratified{few}.{sure}"
        )
    if (why := why_not(plan)) is None:
        return (
            f"This host's kernels are {arch}, as the target's."
            if plan.target.runs_here
            else (
                f"Nothing was run on {arch} kernels: the emulator failed. Accuracy is this host's, and int8 answers "
                f"differ there."
            )
        )
    return f"Nothing was run on {arch} kernels: {why}. Accuracy is this host's, and int8 answers differ there."


def read(folder: Path, name: str) -> dict[str, Any]:
    """What `judge` or `held_out` wrote."""
    said: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return said


def stratified_order(labels: Sequence[Label | None], reference: np.ndarray[Any, Any] | None, seed: int) -> list[int]:
    """The rows in an order of which every beginning holds each class in its proportion.

    Classes are the labels, else the reference's largest output; rows without either come at random.

    >>> stratified_order(["a", "a", "a", "a", "b", "b"], None, seed=0)
    [3, 5, 2, 0, 4, 1]
    """
    import numpy as np

    count = len(labels)
    if count and labels[0] is None:
        kinds = list(np.zeros(count)) if reference is None else list(reference.argmax(axis=1))
    else:
        kinds = list(strata(labels))
    places: dict[Any, list[int]] = {}
    for row in np.random.default_rng(seed).permutation(count):
        places.setdefault(kinds[row], []).append(int(row))
    ranked = [((at + 0.5) / len(rows), str(own), row) for own, rows in places.items() for at, row in enumerate(rows)]
    return [row for _, _, row in sorted(ranked)]


class _Scored:
    """One variant's answers to the same rows, here and there: its metric's statistics, by labels or the reference."""

    def __init__(
        self,
        task: Any,
        there: Sequence[Prediction],
        here: Sequence[Prediction],
        reference: Sequence[Prediction],
        truth: Any | None,
    ) -> None:
        self.agreed_there, self.agreed_here = agreement(task, there, reference), agreement(task, here, reference)
        self.fidelity: Metric = task.fidelity
        self.metric: Metric = task.fidelity if truth is None else task.metric
        self.there = self.agreed_there if truth is None else statistics(task, there, truth)
        self.here = self.agreed_here if truth is None else statistics(task, here, truth)
        self.flips = int((self.fidelity.by_row(agreement(task, there, here)) < _SAME).sum())
        self.largest_difference = largest_difference(there, here)


def _typical(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of the median size: what instructions are counted of."""
    by_size = sorted(samples, key=lambda sample: sum(value.size for value in sample.values()))
    first = max(0, (len(by_size) - _COUNTED_ROWS) // 2)
    return by_size[first : first + _COUNTED_ROWS]


def _on_target(trial: Trial, own: _Scored, plain: _Scored, costs: Mapping[str, Any] | None) -> OnTarget:
    """All rows' figures from here, moved by what changed from here to there: a difference estimator (Cochran 1977)."""
    enough = len(own.there) >= FEWEST  # else one row more or less would decide
    agreed_here, here = (own.agreed_here, own.here) if enough else (own.agreed_there, own.there)
    change = own.fidelity.moved(own.agreed_there, agreed_here)
    agreement, (low, high) = _moved(trial.agreement, trial.agreement_interval, change)
    drop, drops = 0.0, (0.0, 0.0)  # of fp32 against itself
    if own is not plain:
        further = own.metric.lost_further((own.there, here), (plain.there, plain.here if enough else plain.there))
        drop, drops = _moved(trial.drop_points, trial.drop_interval, further)
    return OnTarget(
        n=len(own.there),
        agreement=min(1.0, agreement),
        agreement_interval=(max(0.0, low), min(1.0, high)),
        drop_points=drop,
        drop_interval=drops,
        flips=own.flips,
        largest_difference=own.largest_difference,
        cost=costs[trial.name]["relative"] if costs else None,
    )


def _moved(
    value: float, interval: tuple[float, float] | None, change: tuple[float, float, float]
) -> tuple[float, tuple[float, float]]:
    """A figure of all rows, moved by how much it changed on some of them, with both spreads in its interval."""
    mean, low, high = change
    below, above = (value - interval[0], interval[1] - value) if interval else (0.0, 0.0)
    return value + mean, (
        value + mean - hypot(below, mean - low),
        value + mean + hypot(above, high - mean),
    )
