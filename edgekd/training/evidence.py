"""Evidence: the same student with and without its teacher, over several seeds, on the held-out samples.

"Without" is without anything of the teacher: random weights, the labels alone, as many optimizer steps. What the copied
weights give by themselves stands beside it, and each loss alone. Every arm's best epoch is picked on the same selection
rows by the same rule, so that no arm is kinder judged than another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.metrics import Metric
from edgekd.core.protocols import LabelledTask, Progress, named
from edgekd.core.registry import plugin
from edgekd.data.splits import Splits
from edgekd.plan.plan import LossTerm, Plan, StudentPlan
from edgekd.training import engine, models, scored

if TYPE_CHECKING:
    import numpy as np

FILE = "evidence.json"
WHOLE, WEIGHTS, CONTROL = "the whole objective", "the teacher's weights alone", "labels alone"
_LABELS = (LossTerm("hard_labels", 1.0),)


def arms(plan: Plan, splits: Splits) -> dict[str, StudentPlan]:
    """What is compared, by name: the whole objective first, then its parts, last the control.

    All take as many optimizer steps: an arm that sees fewer rows, because no loss of it needs the teacher, sees them
    more often. `splits` are the rows with their augmented copies.
    """
    whole = plan.student
    labelled = len(splits.train) + sum(row.label is not None for row in splits.augmented)
    every = len(splits.train) + len(splits.unlabelled) + len(splits.augmented)
    seen = whole.schedule.epochs * (every if plan.needs_teacher else labelled)

    def arm(losses: Sequence[LossTerm], start: str) -> StudentPlan:
        made = replace(whole, losses=tuple(losses), start=start)
        rows = every if replace(plan, student=made).needs_teacher else labelled
        epochs = max(1, round(seen / rows))
        schedule = whole.schedule  # patience is the same share of the epochs: an arm's best is found by one rule
        patience = schedule.patience and max(1, round(schedule.patience * epochs / schedule.epochs))
        return replace(made, training=replace(schedule, epochs=epochs, patience=patience))

    made = {WHOLE: whole}
    teaching = [term for term in whole.losses if plugin("losses", term.name).needs]
    others = [term for term in whole.losses if term not in teaching] or _LABELS
    if len(teaching) > 1:
        made |= {term.name: arm((term, *others), whole.start) for term in teaching}
    if plan.is_cut:
        made[WEIGHTS] = arm(_LABELS, "teacher")
    made[CONTROL] = arm(_LABELS, "scratch")
    return made


def gather(
    plan: Plan,
    splits: Splits,
    compared: Mapping[str, StudentPlan],
    train: Callable[[Plan], Path],
    out: Path,
    progress: Progress,
) -> None:
    """Train every arm with every seed by `train(plan)`, and write `evidence.json` into `out`.

    The last of `compared` is the control. Differences are paired by seed and by held-out sample.
    """
    import numpy as np

    found: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in compared}
    for number in range(plan.evidence):
        for name, student in compared.items():
            progress.say(f"evidence: seed {number + 1} of {plan.evidence}, {name}")
            trained = replace(plan, student=replace(student, seed=plan.student.seed + number))
            found[name].append(statistics(plan, splits, train(trained)))
    metric = plan.made_task.metric
    told = said(compared, {name: np.stack(rows) for name, rows in found.items()}, metric)
    (out / FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")


def said(
    compared: Mapping[str, StudentPlan], rows: Mapping[str, np.ndarray[Any, Any]], metric: Metric
) -> dict[str, Any]:
    """Return the comparison as the report takes it, from statistics (seeds, rows) or (seeds, rows, k) of each arm."""
    *names, control = compared
    base = rows[control]
    arms_found = []
    for name in names:
        difference, low, high = metric.gained_over_seeds(base, rows[name])
        arms_found.append(
            {
                "name": name,
                "losses": " + ".join(map(str, compared[name].losses)),
                "accuracy": [metric.value(own) for own in rows[name]],
                "difference": difference,
                "low": low,
                "high": high,
                "seeds": len(base),
            }
        )
    how = "random weights, the labels alone, as many optimizer steps, its best epoch picked as the others' are"
    return {
        "arms": arms_found,
        "control": {"name": control, "accuracy": [metric.value(own) for own in base], "how": how},
        "n_test": base.shape[1],
    }


def read_evidence(folder: Path) -> dict[str, Any]:
    """What `gather` wrote."""
    told: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return told


def statistics(plan: Plan, splits: Splits, folder: Path) -> np.ndarray[Any, Any]:
    """Return the metric's statistics of a student on the held-out rows, in torch: (rows,) or (rows, k)."""
    engine.prepare(plan.seed, plan.threads)
    task = named(plan.made_task, splits.classes)
    assert isinstance(task, LabelledTask), "evidence is gathered on labelled rows"
    samples = task.encode(folder, [row.input for row in splits.test], plan.student.survey.max_size)
    outputs = scored.said(models.load(folder, plan.task), samples, task).metric_input
    found: np.ndarray[Any, Any] = task.statistics(outputs, task.truth(splits.test, splits.classes))
    return found
