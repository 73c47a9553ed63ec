"""build(plan): the whole way from a teacher to a bundle, stage by stage. Each stage's result is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import bundle, report, sizing
from edgekd.core.errors import BelowAccuracy, EdgeKDError, OverLatency, OverMemory, UsageError
from edgekd.core.protocols import Progress, Quiet
from edgekd.core.quiet import hush
from edgekd.core.registry import make, plugin
from edgekd.core.results import file_sha256, this_host, versions
from edgekd.core.store import Store
from edgekd.data.augment import augment
from edgekd.data.splits import Splits
from edgekd.plan import Plan

if TYPE_CHECKING:
    from edgekd.choose import Choice
    from edgekd.costs import Cost, Fit
    from edgekd.tryout import Tried


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
    bundle.check_space([store.root, out], 500 + 6 * teacher_mib(plan))
    shape = sizing.fit(plan, store, progress)
    stages = Stages(plan, augmented(plan, splits), store, progress, shape.chosen.shape)
    teacher = stages.teacher()
    shape, tried = stages.tried(shape, teacher)
    stages = replace(stages, shape=shape.chosen.shape)
    outputs = stages.outputs(teacher)
    student = stages.shipped(stages.student(teacher))
    exported = stages.exported("student", student)
    variants = stages.variants(student, exported, outputs)
    choice, trials = stages.choice(variants)
    with ThreadPoolExecutor(max_workers=1) as beside:  # an emulator keeps one core busy: done before anything is timed
        waiting = beside.submit(stages.guest_memory, variants, choice.recipe, student)
        onnx = stages.exported("teacher", teacher)
        measured = stages.measured(teacher, onnx, student, variants, before_timing=waiting.result)
        guest = waiting.result()
    said = report.compose(
        plan, shape, choice, trials, measured, tried, guest,
        confidence=distill.read_confidence(student), evidence=stages.evidence(teacher),
    )  # fmt: skip
    _hold_to_budgets(plan, said["summary"]["shipped"], said["target_figures"]["peak_rss"])
    retained = said["summary"]["retained"]
    if retained < plan.min_retained:
        raise BelowAccuracy(
            f"the student keeps {retained:.1%} of its teacher's {said['summary']['metric']}, "
            f"less than the {plan.min_retained:.1%} asked for",
            fix="give more unlabelled rows, train longer (--epochs), allow a larger student (--min-speedup 3), "
            "or lower --min-retained",
        )
    progress.stage("ship: write the bundle")
    bundle.write(plan, splits, said, student, variants, choice.recipe, out)
    return Built(out, said["summary"], fresh=True)


def augmented(plan: Plan, splits: Splits) -> Splits:
    """The rows with the copies that the plan's augmentations make of the training inputs."""
    steps = [(make("augmentations", one.name), one.copies) for one in plan.student.augmentations]
    held = (*splits.selection, *splits.calibration, *splits.test)  # no copy may repeat one of these
    rows = (*splits.train, *splits.unlabelled)
    return replace(splits, augmented=augment(rows, steps, plan.seed, apart_from=held)) if steps else splits


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


@dataclass(frozen=True)
class Stages:
    """Each stage with the key that its result is kept under."""

    plan: Plan
    splits: Splits
    store: Store
    progress: Progress
    shape: dict[str, Any]

    def _stage(self, name: str, key: dict[str, Any], produce: Callable[[Path], None]) -> Path:
        if self.store.has(name, key):
            self.progress.say(f"{name}: kept from an earlier run")
        return self.store.stage(name, key, produce)

    def _long(self, name: str, key: dict[str, Any], produce: Callable[[Path, Path], None]) -> Path:
        """A stage that keeps its work on the way: `produce(out, work)`."""
        work = self.store.workspace(name, key)
        if work.exists() and not self.store.has(name, key):
            self.progress.say(f"{name}: goes on where it was stopped")
        return self._stage(name, key, lambda out: produce(out, work))

    def teacher(self) -> Path:
        """The teacher's folder: fine-tuned here, or as it was given."""
        from edgekd import teach

        if self.plan.teacher.ready:
            return Path(self.plan.teacher.folder)
        return self._long(
            "teacher",
            self.plan.teaching,
            lambda out, work: teach.fine_tune(self.plan, self.splits, out, work, self.progress),
        )

    def outputs(self, teacher: Path) -> Path:
        """What the teacher says about every row that it may see, as a student of the shape needs it."""
        from edgekd import teach

        wanted = self.plan.matched(self.shape).teacher
        place = self._long(
            "outputs",
            self.plan.outputs(wanted),
            lambda out, work: teach.keep_outputs(self.plan, self.splits, wanted, teacher, out, work, self.progress),
        )
        teach.check_order(self.plan, self.splits, place)
        return place

    def tried(self, fit: Fit, teacher: Path) -> tuple[Fit, tuple[Tried, ...]]:
        """The fit with the best of `tries` finalists as its choice, each trained briefly; as it is for one try."""
        from edgekd import distill, tryout

        if self.plan.student.tries == 1 or len(fit.finalists) == 1:
            return fit, ()

        def score(cost: Cost, epochs: int) -> float:
            student = self.plan.student
            short = replace(self.plan, student=replace(student, training=replace(student.training, epochs=epochs)))
            stages = replace(self, plan=short, shape=cost.shape)
            return distill.score(self.plan, self.splits, stages.student(teacher), stages.outputs(teacher))

        best, runs = tryout.halve(fit.finalists, self.plan.student.training.epochs, score)
        return replace(fit, chosen=best), runs

    def student(self, teacher: Path) -> Path:
        """The distilled student, and its early exits."""
        from edgekd import distill

        outputs = self.outputs(teacher)
        return self._long(
            "student",
            self.plan.distilling(self.shape),
            lambda out, work: distill.distill(
                self.plan, self.splits, self.shape, teacher, outputs, out, work, self.progress
            ),
        )

    def shipped(self, student: Path) -> Path:
        """The student itself, or that of its early exits which was asked for. Raises UsageError for one it has not."""
        from edgekd.distill import EXITS

        wanted = self.plan.student.exit
        if wanted is None:
            return student
        there = sorted(int(place.name) for place in (student / EXITS).glob("*"))
        if wanted not in there:
            exits = f"after the layers {', '.join(map(str, there))}" if there else "none"
            raise UsageError(
                f"--exit {wanted}: the student has early exits {exits}",
                fix="name one of them; the loss self_distillation trains them (--loss self_distillation=0.5)",
            )
        return student / EXITS / str(wanted)

    def evidence(self, teacher: Path) -> dict[str, Any] | None:
        """The student with and without its teacher, over as many seeds as were asked for."""
        from edgekd import evidence

        if not self.plan.evidence:
            return None
        compared = evidence.arms(self.plan)
        key = {"seeds": self.plan.evidence, "arms": {name: asdict(arm) for name, arm in compared.items()}}
        place = self._stage(
            "evidence",
            key | {"student": self.plan.distilling(self.shape)},
            lambda out: evidence.gather(
                self.plan, self.splits, compared, lambda plan: replace(self, plan=plan).student(teacher), out,
                self.progress,
            ),
        )  # fmt: skip
        return evidence.read_evidence(place)

    def exported(self, who: str, folder: Path) -> Path:
        """The teacher's or student's fp32 ONNX."""
        from edgekd import export

        self.progress.stage(f"export: the {who} to ONNX")
        own = self.plan.teaching if who == "teacher" else self._student_key()
        target = self.plan.target
        key = {"of": own, "max_opset": target.max_opset, "max_ir_version": target.max_ir_version}
        key |= self._exporters()
        inputs = [row.input for row in self.splits.train]
        return self._stage(f"export-{who}", key, lambda out: export.export(self.plan, folder, inputs, out))

    def variants(self, student: Path, exported: Path, outputs: Path) -> Path:
        """Every quantized variant, tried."""
        from edgekd import compress, teach

        return self._stage(
            "compress",
            self._measuring_key() | {"limit": self.plan.search_limit_s},
            lambda out: compress.compress(
                self.plan, self.splits, student, exported, teach.selection_logits(self.plan, outputs), out,
                self.progress,
            ),
        )  # fmt: skip

    def choice(self, variants: Path) -> tuple[Choice, list[Any]]:
        """What ships, decided on the selection rows."""
        from edgekd.choose import choose
        from edgekd.compress import read_trials

        trials = read_trials(variants)
        return choose(trials, self.plan.target), trials

    def measured(
        self, teacher: Path, teacher_onnx: Path, student: Path, variants: Path, before_timing: Callable[[], object]
    ) -> dict[str, Any]:
        """Teacher and variants on the held-out samples; nothing is timed before `before_timing` returns."""
        from edgekd import measure
        from edgekd.compress import read_trials, variant_file
        from edgekd.core.confidence import Suggestion

        models = {"teacher": (teacher_onnx / "model.onnx", teacher)}
        suggested = {}
        for trial in read_trials(variants):
            if trial.failed is None:
                suggested[trial.recipe] = Suggestion(**trial.suggestion)
                models[trial.recipe] = (variant_file(variants, trial.recipe), student)
        place = self._stage(
            "measure",
            self._measuring_key()
            | {"measuring": asdict(self.plan.measuring), "models": sorted(models), "suggested": suggested},
            lambda out: measure.measure(self.plan, self.splits, models, out, self.progress, before_timing, suggested),
        )
        return measure.read_measured(place)

    def guest_memory(self, variants: Path, recipe: str, student: Path) -> dict[str, Any] | None:
        """What ships, in an arm64 guest: for an ARM target, where this machine has one."""
        from edgekd import measure
        from edgekd.compress import variant_file

        target = self.plan.target
        if not target.needs_guest or not plugin("devices", "guest").available():
            return None
        file = variant_file(variants, recipe)
        key = {
            "model": file_sha256(file), "cpu": target.emulator_cpu, "threads": target.threads,
            "max_size": self.plan.student.survey.max_size, "versions": versions("onnxruntime", "edgekd"),
        }  # fmt: skip
        try:
            place = self._stage(
                "guest-memory",
                key,
                lambda out: measure.guest_memory(self.plan, self.splits, file, student, out),
            )
        except EdgeKDError as error:
            self.progress.say(f"memory stays predicted, the arm64 guest failed: {error.message}")
            return None
        said: dict[str, Any] = json.loads((place / "guest.json").read_text(encoding="utf-8"))
        return said

    def _student_key(self) -> dict[str, Any]:
        return self.plan.distilling(self.shape) | {"exit": self.plan.student.exit}

    def _exporters(self) -> dict[str, str]:
        return {name: self.plan.versions[name] for name in ("optimum-onnx", "onnx", "onnxruntime")}

    def _measuring_key(self) -> dict[str, Any]:
        return {
            "student": self._student_key(), "target": self.plan.target.as_dict(),
            "host": asdict(this_host()), "exporters": self._exporters(),
        }  # fmt: skip
