"""What helps where nothing may ship: of each refusal only options that the plan's own mode takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.core.errors import BelowAccuracy, EdgeKDError, OverLatency

if TYPE_CHECKING:
    from edgekd.plan.plan import Plan

_SIZES = {"vocabulary": "--vocabulary", "pixels": "--image-size"}  # a task's size: the option that makes it smaller
_WITH_DISTILL = "causal"  # the program whose models get students by `edgekd distill` alone


def for_error(plan: Plan, error: type[EdgeKDError], budget: str) -> str:
    """Return what helps where no variant may ship: it misses a floor, or is over this budget of the profile."""
    if error is BelowAccuracy:
        return f"{_more_to_go_by(plan)}, or lower the floor ({_floor(budget)})"
    help_ = faster(plan) if error is OverLatency else smaller(plan)
    return f"{help_}, or raise {budget} in the profile of {plan.target.name}"


def keep_more(plan: Plan) -> str:
    """Return what helps where too little of the teacher's metric is kept."""
    return f"{_more_to_go_by(plan)}, or lower --min-retained"


def faster(plan: Plan) -> str:
    """Return what helps where it is too slow."""
    if plan.compresses_only:
        return _other_model(plan)
    return "ask for a faster student (--min-speedup)" if plan.has_yardstick else smaller(plan)


def smaller(plan: Plan) -> str:
    """Return what makes it smaller: the option of a size that its task has, else a faster student, or another base."""
    if plan.compresses_only:
        return _other_model(plan)
    flag = next((_SIZES[size] for size in plan.made_task.sizes if size in _SIZES), None)
    if flag is None:
        flag = "--min-speedup" if plan.has_yardstick else "a smaller --base"
    return f"make it smaller ({flag})"


def _floor(budget: str) -> str:
    return "--max-drop" if budget == "max_drop_points" else "--min-agreement"


def _more_to_go_by(plan: Plan) -> str:
    if plan.compresses_only:
        return "give more rows to calibrate on (--calibration)"
    if not plan.has_yardstick:
        return (
            "have more rows labelled (more rows in --data), train longer (--epochs), allow a larger student "
            "(--memory-mib, --latency-ms)"
        )
    return "give more unlabelled rows, train longer (--epochs), allow a larger student (--min-speedup 3)"


def _other_model(plan: Plan) -> str:
    """Return what to compress instead of the teacher."""
    if plan.made_task.families:
        return "give a smaller --teacher, or leave --student none out: a student is smaller and faster"
    if plan.made_task.program == _WITH_DISTILL:
        name = plan.task.replace("_", "-")
        return f"give a smaller --teacher, or make a student of it first: edgekd distill --task {name}"
    return "give a smaller --teacher"
