"""A fix of build's last word names no option that the same mode refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import profile

from edgekd import pipeline
from edgekd.core.errors import EdgeKDError
from edgekd.core.floors import Floor
from edgekd.core.registry import make, names, plugin
from edgekd.core.violations import ERRORS
from edgekd.plan import ways_out
from edgekd.plan.options import declarations
from edgekd.plan.planning import Options
from edgekd.plan.resolve import SIZES, sizes_asked, student_family

TASKS = tuple(name.replace("_", "-") for name in names("tasks"))


def refusals(task: str, compressed: bool, answers: bool = False) -> list[str]:
    """The fixes of the refusals for accuracy, memory and latency."""
    target = profile(memory_mib=1.0, latency_ms=1.0)
    plan: Any = SimpleNamespace(
        made_task=make("tasks", task),
        task=task,
        compresses_only=compressed,
        has_yardstick=not answers,
        min_retained=0.9,
        target=target,
        metric=make("tasks", task).metric,
    )
    floor = Floor("min_retained", 0.9, 0.5, (0.4, 0.6)).as_dict()
    said = {
        "summary": {"metric": "accuracy", "shipped": {"recipe": "float32", "metric_value": 0.5}},
        "floors": {"held": [floor]},
    }
    said["roles"] = {"quality": "the teacher", "metric_value": 0.9}
    shipped = {"latency_p50_ms": 9.0, "latency_p90_ms": 9.0, "latency_notes": {}}
    fits, over = ({"value": mib, "kind": "measured"} for mib in (0.5, 2.0))
    found = []
    for check in (
        lambda: pipeline._hold_to_floor(plan, said),
        lambda: pipeline._hold_to_budgets(plan, shipped, over),
        lambda: pipeline._hold_to_budgets(plan, shipped, fits),
    ):
        with pytest.raises(EdgeKDError) as error:
            check()
        found.append(error.value.fix)
    return [*found, *(ways_out.for_error(plan, error, budget) for budget, error in ERRORS.items())]


@pytest.mark.parametrize(
    ("task", "compressed"),
    [
        (task, compressed)
        for task in TASKS
        for compressed in (False, True)
        if compressed or plugin("tasks", task).families
    ],
)
def test_the_options_that_the_last_refusals_name_are_taken_by_the_same_mode(task: str, compressed: bool):
    refused_with_none = {declared.flag for _, declared, _ in declarations() if declared.of_student}
    for fix in refusals(task, compressed):
        flags = re.findall(r"--([a-z-]+)", fix)
        if compressed:
            assert not refused_with_none & set(flags), fix
            assert ("leave --student none out" in fix) <= bool(make("tasks", task).families), fix
        for size, name in SIZES.items():
            if name.replace("_", "-") in flags:
                assert sizes_asked(replace(Options("rpi4", task=task), **{name: 64}), make("tasks", task)), size
        assert flags or "profile" in fix


def test_where_the_teacher_only_answers_fixes_name_what_it_takes():
    refused = {"min-speedup", "evidence", "labels", "unlabelled", "augment"}
    for fix in refusals("text-classification", compressed=False, answers=True):
        assert not refused & set(re.findall(r"--([a-z-]+)", fix)), fix


def test_what_student_none_refuses_is_taken_when_its_fix_is_obeyed():
    for field, value in (("min_speedup", 3.0), ("epochs", 2), ("temperature", 1.0), ("losses", ("response",))):
        asked = Options("rpi4", student="none", **{field: value})
        with pytest.raises(EdgeKDError, match="means nothing with --student none"):
            student_family(asked, make("tasks", asked.task))
        assert student_family(replace(asked, **{field: getattr(Options, field)}), make("tasks", asked.task)) == "none"
        assert student_family(replace(asked, student=None), make("tasks", asked.task)) != "none"
