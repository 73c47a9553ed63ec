"""build(plan): the whole way from a teacher to a bundle, stage by stage. Each stage's result is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import bundle, report, sizing
from edgekd.core.errors import BelowAccuracy, OverLatency, OverMemory
from edgekd.core.protocols import Progress, Quiet
from edgekd.core.quiet import hush
from edgekd.core.store import Store
from edgekd.data.splits import Splits
from edgekd.plan import Plan
from edgekd.stages import Stages, augmented

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Built:
    """A finished bundle: its folder, and the report's summary."""

    folder: Path
    summary: dict[str, Any]
    fresh: bool  # False where the same bundle was there already, whole


def build(plan: Plan, splits: Splits, store: Store, out: Path, progress: Progress | None = None) -> Built:
    """Everything, from the teacher to the bundle in `out`. Finished stages are read from the store.

    Raises EdgeKDError, by whose exit code scripts tell which budget or floor was missed.
    """
    from edgekd import distill

    hush()
    progress = progress or Quiet()
    if bundle.is_finished(out, plan.digest):
        return Built(out, report.read(out)["summary"], fresh=False)
    bundle.check_free(out)
    bundle.check_space([store.root, out], 500 + 6 * teacher_mib(plan) + _cache_mib(plan))
    shape = sizing.fit(plan, store, progress)
    for fitting in shape.finalists[: plan.student.tries] or (shape.chosen,):
        plan.check_exits(fitting.shape)
    stages = Stages(plan, augmented(plan, splits), store, progress, shape.chosen.shape)
    teacher = stages.teacher()
    shape, tried = stages.tried(shape, teacher)
    stages = replace(stages, shape=shape.chosen.shape)
    outputs = stages.outputs(teacher)
    whole = stages.student(teacher)
    student = stages.shipped(whole)
    exported = stages.exported("student", student)
    variants = stages.variants(student, exported, outputs)
    choice, trials = stages.choice(variants)
    with ThreadPoolExecutor(max_workers=1) as beside:  # an emulator keeps one core busy: done before anything is timed
        waiting = beside.submit(stages.guest_memory, variants, choice.recipe, student)
        onnx = stages.exported("teacher", teacher)
        measured = stages.measured(teacher, onnx, student, variants, before_timing=waiting.result)
        guest = waiting.result()
    compose = partial(
        report.compose, plan, shape, choice, trials, measured, tried, guest,
        confidence=distill.read(student, distill.CONFIDENCE), training=distill.read(whole, distill.TRAINING),
    )  # fmt: skip
    said = compose()
    _hold_to_budgets(plan, said["summary"]["shipped"], said["target_figures"]["peak_rss"])
    retained = said["summary"]["retained"]
    if retained < plan.min_retained:
        raise BelowAccuracy(
            f"the student keeps {retained:.1%} of its teacher's {said['summary']['metric']}, "
            f"less than the {plan.min_retained:.1%} asked for",
            fix="give more unlabelled rows, train longer (--epochs), allow a larger student (--min-speedup 3), "
            "or lower --min-retained",
        )
    if plan.evidence:  # after the refusals: it takes long, and changes none of them
        said = compose(evidence=stages.evidence(teacher))
    progress.stage("ship: write the bundle")
    bundle.write(plan, splits, said, student, variants, choice.recipe, out)
    return Built(out, said["summary"], fresh=True)


def _cache_mib(plan: Plan) -> int:
    """What is kept of the teacher's layers may take all that it is allowed; logits take next to nothing."""
    return round(plan.cache_mib) if plan.needs & {"features", "attention"} else 0


def _hold_to_budgets(plan: Plan, shipped: dict[str, Any], memory: dict[str, Any]) -> None:
    """The last word: what was measured on the held-out samples must be within the budgets, too."""
    target = plan.target
    if memory["value"] > target.memory_mib:
        raise OverMemory(
            f"the finished student's peak memory is {memory['value']:.1f} MiB ({memory['kind']}) > "
            f"{target.memory_mib:g}",
            fix="raise memory_mib in the profile, or make it smaller (--vocabulary, --image-size)",
        )
    if target.runs_here and shipped["latency_p50_ms"] > target.latency_ms:
        raise OverLatency(
            f"the finished student's median latency is {shipped['latency_p50_ms']:.2f} ms > {target.latency_ms:g}",
            fix="raise latency_ms in the profile, or ask for a faster student (--min-speedup)",
        )


def teacher_mib(plan: Plan) -> int:
    """Size of the teacher's folder or file: fine-tuning, exporting and sizing write it a few times over."""
    if not plan.teacher.folder:
        return 0
    place = Path(plan.teacher.folder)
    files = [place] if place.is_file() else [path for path in place.iterdir() if path.is_file()]
    return sum(path.stat().st_size for path in files) >> 20
