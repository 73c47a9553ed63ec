"""build(plan): the whole way from a teacher to a bundle, stage by stage. Each stage's result is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.bundle import write
from edgekd.core.errors import BelowAccuracy, EdgeKDError, OverLatency, OverMemory
from edgekd.core.latency import held_to
from edgekd.core.protocols import NullProgress, Progress
from edgekd.core.quiet import silence_libraries
from edgekd.core.statistics import Retained
from edgekd.data.splits import Splits
from edgekd.emulation import evaluate, preflight
from edgekd.emulation.target_stages import Emulated
from edgekd.hardware import latency_correction
from edgekd.plan import ways_out
from edgekd.plan.plan import Plan
from edgekd.report import compose, page
from edgekd.security.signing import Signer
from edgekd.sizing import apart, fitting
from edgekd.stages import Stages, augmented
from edgekd.store import upkeep
from edgekd.store.store import Store

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.sizing.costs import Fit
    from edgekd.sizing.successive_halving import Tried


@dataclass(frozen=True)
class Built:
    """A finished bundle: its folder, and the report's summary."""

    folder: Path
    summary: dict[str, Any]
    on_target_says: str  # what was asked on the target's own kernels, or why nothing was
    fresh: bool  # False where the same bundle was there already, whole


@dataclass(frozen=True)
class Subject:
    """What is compressed: a distilled student, or the teacher itself; and how it came to be."""

    folder: Path  # of its tokenizer or preprocessing
    onnx: Path  # the folder of its fp32 ONNX
    reference: Callable[[], Sequence[Prediction]]  # what the yardstick says of the selection rows
    fit: Fit | None = None
    tried: tuple[Tried, ...] = ()
    training: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None


def build(
    plan: Plan,
    splits: Splits,
    store: Store,
    out: Path,
    progress: Progress | None = None,
    signers: Sequence[Signer] = (),
    *,
    shapes_beside: Sequence[dict[str, Any]] = (),
) -> Built:
    """Everything, from the teacher to the bundle in `out`, signed with these keys. Finished stages are read.

    `shapes_beside` are of students of other targets: what the teacher has to say for them is asked in the same pass.

    Raises EdgeKDError, by whose exit code scripts tell which budget or floor was missed. The store is kept to its cap.
    """
    silence_libraries()
    progress = progress or NullProgress()
    with upkeep.collected_afterwards(store, progress.say):
        built = _build(plan, splits, replace(store, say=progress.say), out, progress, tuple(shapes_beside))
    write.sign(out, signers)
    return built


def _build(
    plan: Plan,
    splits: Splits,
    store: Store,
    out: Path,
    progress: Progress,
    shapes_beside: tuple[dict[str, Any], ...],
) -> Built:
    if write.is_finished(out, plan.digest):
        said = page.read(out)
        if plan.target.needs_guest and not said.get("on_target") and not evaluate.why_not(plan):
            progress.say(
                "this bundle was built without the emulator that is here now: another --out has it judged there"
            )
        return Built(out, said["summary"], said.get("on_target_says", ""), fresh=False)
    write.check_free(out, plan_sha256=plan.digest, store=store.root)
    # fine-tuning, exporting and sizing write the teacher a few times over
    write.check_space([store.root, out], 500 + 6 * apart.size_mib(plan.start.folder) + _cache_mib(plan))
    if unused := evaluate.unused(plan):
        progress.say(unused)
    preflight.check(plan, store, progress)
    stages = Stages(plan, augmented(plan, splits), store, progress, {}, shapes_beside)
    if plan.compresses_only:
        teacher = stages.teacher()
        subject = _as_it_is(stages, teacher)
    else:
        shape = fitting.fit(plan, store, progress)
        for one in shape.finalists[: plan.student.tries] or (shape.chosen,):
            plan.check_exits(one.shape)
        teacher = stages.start()
        shape, tried = replace(stages, shape=shape.chosen.shape).tried(shape, teacher)
        stages = replace(stages, shape=shape.chosen.shape)
        made = _written if plan.writes else _distilled
        subject = made(stages, teacher, shape, tried)
    variants = stages.variants(subject.folder, subject.onnx, subject.reference)
    emulated = Emulated(stages, subject.folder, variants)
    there = emulated.judged(subject.reference)
    choice, found = stages.choice(variants, subject.onnx, there)
    with _one_thread() as beside:  # an emulator keeps one core busy: done before anything is timed
        memory = beside.submit(emulated.memory, choice.name)
        golden = beside.submit(lambda: emulated.golden(choice.name) if there else None)
        yardstick = stages.yardstick(teacher, subject.folder, subject.onnx)
        held_out = beside.submit(
            lambda: emulated.held_out(choice.name, (yardstick.model, yardstick.folder)) if there else None
        )
        measured = stages.measured(yardstick, subject.folder, variants, choice.name, before_timing=held_out.result)
        guest, found["held_out"] = memory.result(), held_out.result()
    composed = partial(
        compose.compose,
        plan,
        subject.fit,
        choice,
        found,
        measured,
        subject.tried,
        guest,
        confidence=subject.confidence,
        training=subject.training,
        readings=latency_correction.load(store.root, plan.target.microarch),
    )
    said = composed()
    if not choice.forced:
        _hold_to_budgets(plan, measured["models"][choice.name], said["target_figures"]["peak_rss"])
        _hold_to_floor(plan, said)
    if plan.evidence:  # after the refusals: it takes long, and changes none of them
        said = composed(evidence=stages.evidence(teacher))
    progress.stage("ship: write the bundle")
    try:
        write.write(plan, splits, said, subject.folder, variants, choice.name, out, golden_there=golden.result())
    except EdgeKDError:
        if not write.is_finished(out, plan.digest):
            raise
        progress.say("another build of the same plan wrote this bundle meanwhile, every file whole")
        return Built(out, said["summary"], said["on_target_says"], fresh=False)
    return Built(out, said["summary"], said["on_target_says"], fresh=True)


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread for what runs beside. Where the block fails, what still waits for its turn never starts."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            yield thread
        except BaseException:
            thread.shutdown(wait=False, cancel_futures=True)
            raise


def _distilled(stages: Stages, teacher: Path, shape: Fit, tried: tuple[Tried, ...]) -> Subject:
    """The student of that shape."""
    from edgekd.training import distill, teach

    outputs = stages.outputs(teacher)
    whole = stages.student(teacher)
    student = stages.shipped(whole)
    onnx = stages.improved("student", student, stages.exported("student", student))

    def reference() -> Sequence[Prediction]:
        if not stages.plan.has_yardstick:  # no network of the teacher's: the student's own fp32
            return stages.outputs_of_selection(student, onnx)
        return teach.selection_said(stages.plan, stages.splits, outputs, teacher).rows

    return Subject(
        student,
        onnx,
        reference,
        shape,
        tried,
        distill.read(whole, distill.TRAINING),
        distill.read(student, distill.CONFIDENCE),
    )


def _written(stages: Stages, teacher: Path, shape: Fit, tried: tuple[Tried, ...]) -> Subject:
    """The student of that shape, of a family that writes."""
    from edgekd.training import distill

    student = stages.written()
    onnx = stages.improved("student", student, stages.exported("student", student))
    exported = stages.exported("teacher", teacher)

    def reference() -> Sequence[Prediction]:
        return stages.said_of_selection(stages.files(teacher), exported)

    return Subject(student, onnx, reference, shape, tried, distill.read(student, distill.TRAINING))


def _as_it_is(stages: Stages, teacher: Path) -> Subject:
    """The teacher, undistilled."""
    folder, exported = stages.files(teacher), stages.exported("teacher", teacher)
    onnx = stages.improved("teacher", teacher, exported)
    return Subject(folder, onnx, lambda: stages.said_of_selection(folder, exported))


def _cache_mib(plan: Plan) -> int:
    """What is kept of the teacher's layers may take all that it is allowed; logits take next to nothing."""
    return round(plan.cache_mib) if plan.needs & {"features", "attention"} else 0


def _hold_to_floor(plan: Plan, said: dict[str, Any]) -> None:
    """What it keeps of its teacher's metric, on the held-out samples, must be what was asked for: here and there."""
    held = {one["name"]: one for one in said["floors"]["held"]}
    places = {"min_retained": "", "min_retained_on_target": f" on {plan.target.arch} kernels"}
    kept = {where: held[name] for name, where in places.items() if name in held}
    where, least = min(kept.items(), key=lambda item: item[1]["value"])
    if not least["held"]:
        low, high = least["interval"]
        asked = f"{where}, less than the {plan.min_retained:.1%} asked for"
        who = said["summary"]["shipped"]["recipe"] if plan.compresses_only else "the student"
        whom = {"the teacher": "its teacher"}.get(said["roles"]["quality"], said["roles"]["quality"])
        told = (
            f"{who} keeps {least['value']:.1%} [{100 * low:.1f}, {100 * high:.1f}] of {whom}'s "
            f"{said['summary']['metric']}{asked}"
        )
        if not plan.metric.higher_is_better:
            own, other = said["summary"]["shipped"]["metric_value"], said["roles"]["metric_value"]
            told = f"{who} is {plan.metric.kept_says(own, other, Retained(least['value'], low, high))}{asked}"
        raise BelowAccuracy(
            told,
            fix=ways_out.keep_more(plan),
        )


def _hold_to_budgets(plan: Plan, shipped: dict[str, Any], memory: dict[str, Any]) -> None:
    """The last word: what was measured on the held-out samples must be within the budgets, too."""
    target = plan.target
    if memory["value"] > target.memory_mib:
        raise OverMemory(
            f"the finished student's peak memory is {memory['value']:.1f} MiB ({memory['kind']}) > "
            f"{target.memory_mib:g}",
            fix=f"raise memory_mib in the profile, or {ways_out.smaller(plan)}",
        )
    latency_ms, what = held_to(shipped, target.latency_percentile)
    if target.runs_here and latency_ms > target.latency_ms:
        raise OverLatency(
            f"the finished student's {what} is {latency_ms:.2f} ms > {target.latency_ms:g}",
            fix=f"raise latency_ms in the profile, or {ways_out.faster(plan)}",
        )
