"""build(plan): the whole way from a teacher to a bundle, stage by stage. Each stage's result is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import bundle, report, sizing
from edgekd.core.errors import BelowAccuracy, EdgeKDError, OverLatency, OverMemory
from edgekd.core.protocols import Progress, Quiet
from edgekd.core.quiet import hush
from edgekd.core.registry import plugin
from edgekd.core.results import file_sha256, this_host, versions
from edgekd.core.store import Store
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
    hush()
    progress = progress or Quiet()
    if bundle.is_finished(out, plan.digest):
        return Built(out, report.read(out)["summary"], fresh=False)
    bundle.check_free(out)
    bundle.check_space([store.root, out], 500 + 6 * teacher_mib(plan))
    shape = sizing.fit(plan, store, progress)
    stages = _Stages(plan, splits, store, progress, shape.chosen.shape)
    teacher = stages.teacher()
    outputs = stages.outputs(teacher)
    shape, tried = stages.tried(shape, teacher, outputs)
    stages = replace(stages, shape=shape.chosen.shape)
    student = stages.student(teacher, outputs)
    exported = stages.exported("student", student)
    variants = stages.variants(student, exported, outputs)
    choice, trials = stages.choice(variants)
    with ThreadPoolExecutor(max_workers=1) as beside:  # an emulator keeps one core busy: done before anything is timed
        waiting = beside.submit(stages.guest_memory, variants, choice.recipe, student)
        onnx = stages.exported("teacher", teacher)
        measured = stages.measured(teacher, onnx, student, variants, before_timing=waiting.result)
        guest = waiting.result()
    said = report.compose(plan, shape, choice, trials, measured, tried, guest)
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
class _Stages:
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

    def teacher(self) -> Path:
        """The teacher's folder: fine-tuned here, or as it was given."""
        from edgekd import teach

        if self.plan.teacher.ready:
            return Path(self.plan.teacher.folder)
        return self._stage(
            "teacher", self.plan.teaching, lambda out: teach.fine_tune(self.plan, self.splits, out, self.progress)
        )

    def outputs(self, teacher: Path) -> Path:
        """The teacher's logits for every row that it may see."""
        from edgekd import teach

        return self._stage(
            "outputs",
            self.plan.teaching | {"max_size": self.plan.student.survey.max_size},
            lambda out: teach.keep_outputs(self.plan, self.splits, teacher, out, self.progress),
        )

    def tried(self, fit: Fit, teacher: Path, outputs: Path) -> tuple[Fit, tuple[Tried, ...]]:
        """The fit with the best of `tries` finalists as its choice, each trained briefly; as it is for one try."""
        from edgekd import distill, teach, tryout

        if self.plan.student.tries == 1 or len(fit.finalists) == 1:
            return fit, ()
        said = teach.read_outputs(outputs)["selection"]

        def score(cost: Cost, epochs: int) -> float:
            student = self.plan.student
            short = replace(self.plan, student=replace(student, training=replace(student.training, epochs=epochs)))
            folder = replace(self, plan=short, shape=cost.shape).student(teacher, outputs)
            return distill.score(self.plan, self.splits, folder, said)

        best, runs = tryout.halve(fit.finalists, self.plan.student.training.epochs, score)
        return replace(fit, chosen=best), runs

    def student(self, teacher: Path, outputs: Path) -> Path:
        """The distilled student."""
        from edgekd import distill

        return self._stage(
            "student",
            self.plan.distilling(self.shape),
            lambda out: distill.distill(self.plan, self.splits, self.shape, teacher, outputs, out, self.progress),
        )

    def exported(self, who: str, folder: Path) -> Path:
        """The teacher's or student's fp32 ONNX."""
        from edgekd import export

        self.progress.stage(f"export: the {who} to ONNX")
        own = self.plan.teaching if who == "teacher" else self.plan.distilling(self.shape)
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
                self.plan, self.splits, student, exported, teach.read_outputs(outputs)["selection"].numpy(), out,
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

        models = {"teacher": (teacher_onnx / "model.onnx", teacher)}
        for trial in read_trials(variants):
            if trial.failed is None:
                models[trial.recipe] = (variant_file(variants, trial.recipe), student)
        place = self._stage(
            "measure",
            self._measuring_key() | {"measuring": asdict(self.plan.measuring), "models": sorted(models)},
            lambda out: measure.measure(self.plan, self.splits, models, out, self.progress, before_timing),
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

    def _exporters(self) -> dict[str, str]:
        return {name: self.plan.versions[name] for name in ("optimum-onnx", "onnx", "onnxruntime")}

    def _measuring_key(self) -> dict[str, Any]:
        return {
            "student": self.plan.distilling(self.shape), "target": self.plan.target.as_dict(),
            "host": asdict(this_host()), "exporters": self._exporters(),
        }  # fmt: skip
