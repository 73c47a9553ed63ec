"""Each stage of a build with the key that its result is kept under."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import Progress
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


def augmented(plan: Plan, splits: Splits) -> Splits:
    """The rows with the copies that the plan's augmentations make of the training inputs."""
    steps = [(make("augmentations", one.name), one.copies) for one in plan.student.augmentations]
    held = (*splits.selection, *splits.calibration, *splits.test)  # no copy may repeat one of these
    rows = (*splits.train, *splits.unlabelled)
    return replace(splits, augmented=augment(rows, steps, plan.seed, apart_from=held)) if steps else splits


@dataclass(frozen=True)
class Stages:
    """The stages of one plan, on one store; modules that know torch are imported as they are needed."""

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
        return self._long(
            "outputs",
            self.plan.outputs(wanted),
            lambda out, work: teach.keep_outputs(self.plan, self.splits, wanted, teacher, out, work, self.progress),
        )

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
        """The student itself, or that of its early exits which was asked for."""
        from edgekd.distill import EXITS

        return student if self.plan.student.exit is None else student / EXITS / str(self.plan.student.exit)

    def evidence(self, teacher: Path) -> dict[str, Any] | None:
        """The student with and without its teacher, over as many seeds as were asked for."""
        from edgekd import evidence

        if not self.plan.evidence:
            return None
        compared = evidence.arms(self.plan, self.splits)
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
