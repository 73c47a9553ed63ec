"""Each stage of a build with the key that its result is kept under."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UsageError
from edgekd.core.model import Model
from edgekd.core.predictions import by_word, main_output, metric_input
from edgekd.core.protocols import (
    MULTI_LABEL,
    PER_WORD,
    REGRESSION,
    FinishedTask,
    GraphTeacher,
    PackedTeacher,
    Progress,
    WritingStudent,
    named,
)
from edgekd.core.registry import make
from edgekd.core.results import this_host, versions
from edgekd.data.augment import augment
from edgekd.data.splits import Splits, truth_of
from edgekd.hardware.profile import Profile
from edgekd.plan import ways_out
from edgekd.plan.plan import PROCESSOR, Plan
from edgekd.store.store import Store

if TYPE_CHECKING:
    from edgekd.compression.choose import Choice
    from edgekd.core.predictions import Prediction
    from edgekd.sizing.costs import Cost, Fit
    from edgekd.sizing.successive_halving import Tried


TEACHER, FP32 = "teacher", "float32"  # of models that others are compared with: their names in the report
_WORTH_TIMING = 0.5  # of fp32's speed: dynamic int8 of convolutions is eight times slower, and holds up the others


def augmented(plan: Plan, splits: Splits) -> Splits:
    """The rows with the copies that the plan's augmentations make of the training inputs."""
    steps = [(make("augmentations", one.name), one.copies) for one in plan.student.augmentations]
    held = (*splits.selection, *splits.calibration, *splits.test)  # no copy may repeat one of these
    rows = (*splits.train, *splits.unlabelled)
    return replace(splits, augmented=augment(rows, steps, plan.seed, apart_from=held)) if steps else splits


@dataclass(frozen=True)
class Measured:
    """A model that is measured: its name in the report, its fp32 graphs, the folder of its tokenizer."""

    name: str
    model: Model
    folder: Path


@dataclass(frozen=True)
class Stages:
    """The stages of one plan, on one store; modules that know torch are imported as they are needed."""

    plan: Plan
    splits: Splits
    store: Store
    progress: Progress
    shape: dict[str, Any]
    shapes_beside: tuple[dict[str, Any], ...] = ()  # of other targets' students: one pass of the teacher serves all

    def stage(self, name: str, key: dict[str, Any], produce: Callable[[Path], None]) -> Path:
        """The folder that `produce` writes, or that an earlier run wrote."""
        return self.store.stage(
            name,
            key,
            produce,
            of=f"{self.plan.teacher.name}; {self.plan.data.name}",
            kept=lambda: self.progress.say(f"{name}: kept from an earlier run"),
        )

    def _long(self, name: str, key: dict[str, Any], produce: Callable[[Path, Path], None]) -> Path:
        """A stage that keeps its work on the way: `produce(out, work)`."""
        work = self.store.workspace(name, key)

        def go_on(out: Path) -> None:
            if work.exists():
                self.progress.say(f"{name}: goes on where it was stopped")
            produce(out, work)

        return self.stage(name, key, go_on)

    def teacher(self) -> Path:
        """The teacher's folder: fine-tuned here, unpacked from a file, or as it was given."""
        from edgekd.training import teach

        told = self.plan.teacher
        source = make("teachers", told.kind)
        if told.ready and isinstance(source, PackedTeacher):
            return self.stage(
                "teacher",
                self.plan.teaching,
                lambda out: source.unpack(Path(told.folder), told.architecture, self.plan.task, told.labels or (), out),
            )
        if told.ready:
            return Path(told.folder)
        return self._long(
            "teacher",
            self.plan.teaching,
            lambda out, work: teach.fine_tune(self.plan, self.splits, out, work, self.progress),
        )

    def start(self) -> Path:
        """The folder of the network that a student starts from: the teacher's own, or the base with a fresh head."""
        from edgekd.training import teach

        if self.plan.base is None:
            return self.teacher()
        return self.stage("start", self.plan.starting, lambda out: teach.write_base(self.plan, out))

    def outputs(self, teacher: Path) -> dict[str, Path]:
        """Return the folders of what the teacher says about every row that it may see, by piece.

        A piece that an earlier run has kept, for a student of another depth or of other losses, is not made again.
        """
        from edgekd.training import answered, teach, teacher_outputs

        name, common, own = "outputs", self.plan.outputs(), self.plan.matched(self.shape).teacher
        others = [self.plan.matched(shape).teacher for shape in self.shapes_beside]
        layers = sorted({layer for one in (own, *others) for layer in one.layers})
        wanted = replace(own, layers=tuple(layers))
        keys = {piece: self.plan.outputs(piece, wanted.positions) for piece in teacher_outputs.pieces(wanted)}
        work = self.store.workspace(name, common)

        def missing() -> list[str]:
            return [piece for piece, key in keys.items() if not self.store.has(name, key)]

        def compute(asked: list[str]) -> None:
            if not self.plan.has_yardstick:  # it answered before
                answered.write(self.plan, self.splits, work, self.progress)
                return
            teacher_outputs.compute(self.plan, self.splits, wanted, asked, teacher, work, self.progress)
            if teacher_outputs.LOGITS in asked:
                logits = {teacher_outputs.LOGITS: work / teacher_outputs.LOGITS}
                teach.check_answers(self.plan, self.splits, logits, teacher)

        def produce(piece: str, out: Path) -> None:
            if not (work / piece).exists():  # it was there a moment ago, and is damaged or pruned
                compute([piece])
            teacher_outputs.move(piece, work, out)

        def kept() -> dict[str, Path]:
            needed = teacher_outputs.pieces(own)
            there = [piece for piece in keys if piece in needed or (work / piece).exists()]
            places = {piece: self.stage(name, keys[piece], partial(produce, piece)) for piece in there}
            return {piece: places[piece] for piece in needed}

        if not missing():
            return kept()
        with self.store.alone(name, common):  # another build may want other pieces of the same teacher and rows
            if work.exists():
                self.progress.say(f"{name}: goes on where it was stopped")
            if asked := missing():
                self._compute_within_limit(compute, asked, teacher_outputs.pieces(own), work)
            found = kept()
            shutil.rmtree(work, ignore_errors=True)
        return found

    def _compute_within_limit(
        self, compute: Callable[[list[str]], None], asked: list[str], own: Sequence[str], work: Path
    ) -> None:
        """Compute the pieces of all targets; of this one's student alone where all take more than `--cache-mib`."""
        try:
            compute(asked)
        except UsageError:
            beside = [piece for piece in asked if piece not in own]
            if not beside:
                raise
            self.progress.say("outputs: all targets' layers take more than --cache-mib: this target's alone")
            for piece in beside:
                shutil.rmtree(work / piece, ignore_errors=True)
            compute([piece for piece in asked if piece in own])

    def tried(self, fit: Fit, teacher: Path) -> tuple[Fit, tuple[Tried, ...]]:
        """The fit with the best of `tries` finalists as its choice, each trained briefly; as it is for one try."""
        from edgekd.sizing import successive_halving
        from edgekd.training import distill

        if self.plan.student.tries == 1 or len(fit.finalists) == 1:
            return fit, ()

        def score(cost: Cost, epochs: int) -> float:
            student = self.plan.student
            short = replace(self.plan, student=replace(student, training=replace(student.schedule, epochs=epochs)))
            stages = replace(self, plan=short, shape=cost.shape)
            return distill.score(self.plan, self.splits, stages.student(teacher), stages.outputs(teacher), teacher)

        best, runs = successive_halving.halve(
            fit.finalists, self.plan.student.schedule.epochs, score, self.plan.selected_by.sign
        )
        return replace(fit, chosen=best), runs

    def student(self, teacher: Path) -> Path:
        """The distilled student, and its early exits."""
        from edgekd.training import distill

        outputs = self.outputs(teacher)
        return self._long(
            "student",
            self.plan.distilling(self.shape),
            lambda out, work: distill.distill(
                self.plan, self.splits, self.shape, teacher, outputs, out, work, self.progress
            ),
        )

    def written(self) -> Path:
        """The student of a family that writes, cut from the teacher and taught by what that writes."""
        from edgekd.training import trainer

        shape = make("students", self.plan.student.family, **self.shape)
        assert isinstance(shape, WritingStudent), "the pipeline asks for one of a family that writes"
        return self.stage(
            "student",
            self.plan.distilling(self.shape),
            lambda out: trainer(shape.trainer)(self.plan, self.splits, shape.cut, self.store, out, self.progress),
        )

    def shipped(self, student: Path) -> Path:
        """The student itself, or that of its early exits which was asked for."""
        from edgekd.training.distill import EXITS

        return student if self.plan.student.exit is None else student / EXITS / str(self.plan.student.exit)

    def evidence(self, teacher: Path) -> dict[str, Any] | None:
        """The student with and without its teacher, over as many seeds as were asked for."""
        from edgekd.training import evidence

        if not self.plan.evidence:
            return None
        compared = evidence.arms(self.plan, self.splits)
        key = {"seeds": self.plan.evidence, "arms": {name: asdict(arm) for name, arm in compared.items()}}
        place = self.stage(
            "evidence",
            key | {"student": self.plan.distilling(self.shape)},
            lambda out: evidence.gather(
                self.plan,
                self.splits,
                compared,
                lambda plan: replace(self, plan=plan).student(teacher),
                out,
                self.progress,
            ),
        )
        return evidence.read_evidence(place)

    def files(self, teacher: Path) -> Path:
        """What a teacher that ships undistilled needs beside its graph: config, tokenizer or preprocessing."""
        from edgekd.inference import export

        of = {**self.plan.compressing, "classes": self.plan.data.classes, "processor": PROCESSOR}
        return self.stage("files", of, lambda out: export.files(self.plan, teacher, out))

    def said_of_selection(self, folder: Path, exported: Path) -> list[Prediction]:
        """What an exported teacher says of the selection rows.

        Raises TeacherError where labels show that its classes stand in another order than theirs.
        """
        from edgekd.data import orders

        task = named(self.plan.made_task, self.splits.classes)
        said = self.outputs_of_selection(folder, exported)
        orders.check_numbers(self.plan.teacher.name, said)
        if task.problem_type in (MULTI_LABEL, PER_WORD):
            orders.check_finds(self.plan.teacher.name, task, metric_input(task, said))
        if task.problem_type == REGRESSION:
            orders.check_varies(self.plan.teacher.name, metric_input(task, said))
        elif self.splits.selection_labelled and task.problem_type:
            truth = truth_of(task, self.splits.selection, self.splits.classes, labelled=True)
            logits = metric_input(task, said)
            if task.problem_type == PER_WORD and truth is not None:
                logits, truth = by_word(said, truth, main_output(task.keep))
            if truth is not None and (doubt := orders.order_doubt(logits, truth, self.splits.classes)):
                raise orders.class_order_error(self.plan.teacher.name, doubt)
        return said

    def outputs_of_selection(self, folder: Path, exported: Path) -> list[Prediction]:
        """What an exported model says of the selection rows."""
        from edgekd.inference import predict

        task = named(self.plan.made_task, self.splits.classes)
        rows = [row.input for row in self.splits.selection]
        samples = task.encode(folder, rows, self.plan.student.survey.max_size)
        return predict.outputs(self.model(exported), samples, threads=self.plan.target.threads, keep=task.keep)

    def model(self, folder: Path) -> Model:
        """Return the task's fp32 graphs in a folder that `exported` or `improved` gave."""
        task = self.plan.made_task
        return Model.in_folder(folder, task.graphs, task.program)

    def variant(self, variants: Path, name: str) -> Model:
        """Return the graphs of the variant of that name."""
        from edgekd.compression import candidates

        return candidates.variant(variants, name, self.plan.made_task)

    def exported(self, who: str, folder: Path) -> Path:
        """The folder of the teacher's or student's fp32 ONNX."""
        from edgekd.inference import export

        self.progress.stage(f"export: the {who} to ONNX")
        own = self.plan.teaching if who == "teacher" else self.student_key()
        target = self.plan.target
        key: dict[str, Any] = {"of": own, **_graph_facts(target)}
        key |= self._exporters()
        inputs = [row.input for row in self.splits.known]
        return self.stage(f"export-{who}", key, lambda out: export.export(self.plan, folder, inputs, out))

    def improved(self, who: str, folder: Path, exported: Path) -> Path:
        """The exported graph folded, or in another form that was found to be faster; as it is where that is final."""
        from edgekd.compression import graphs

        task = self.plan.made_task
        if isinstance(task, FinishedTask) and task.final_graphs:
            return exported

        target = self.plan.target
        recipe = next((one for one in target.recipes if one != "float32"), "float32")
        asked = recipe if self.plan.thorough and target.runs_here else None
        torch_model = not (who == "teacher" and isinstance(make("teachers", self.plan.teacher.kind), GraphTeacher))
        exporters = ("dynamo",) if asked and torch_model else ()
        key = {
            "model": self.model(exported).sha256,
            "recipe": asked,
            "exporters": exporters,
            "target": target.as_dict() if asked else _graph_facts(target) | {"threads": target.threads},
            "versions": versions("torch", "onnx", "onnxruntime", "edgekd"),
            "host": asdict(this_host()) if asked else None,
            "data": self.plan.data.digest,  # whose rows it is held against
        }
        key |= {"plugins": self.plan.plugins} if asked and self.plan.plugins else {}
        inputs = [row.input for row in self.splits.known]
        return self.stage(
            f"graph-{who}",
            key,
            lambda out: graphs.improve(
                self.plan, folder, inputs, self.model(exported), out, recipe=asked, exporters=exporters
            ),
        )

    def variants(self, folder: Path, exported: Path, reference: Callable[[], Sequence[Prediction]]) -> Path:
        """Every quantized variant, tried; `reference` gives what the teacher says of the selection rows."""
        from edgekd.compression import compress

        plain = self.model(exported)
        key = self._measuring_key() | {
            "limit": self.plan.search_limit_s,
            "force": self.plan.force,
            "thorough": self.plan.thorough,
        }
        key |= {"model": plain.sha256}  # which graph was kept depends on its timing
        try:
            return self._long(
                "compress",
                key,
                lambda out, work: compress.compress(
                    self.plan, self.splits, folder, plain, reference(), out, work, self.progress
                ),
            )
        except compress.Stopped:
            return self.store.hold_workspace("compress", key)  # where the same command goes on

    def choice(
        self, variants: Path, exported: Path, found_there: dict[str, Any] | None
    ) -> tuple[Choice, dict[str, Any]]:
        """What ships, decided on the selection rows; and all that the search found, and of the graph before it."""
        from edgekd.compression import compress, graphs
        from edgekd.compression.choose import choose
        from edgekd.emulation import evaluate

        found = compress.read(variants) | {
            "diagnosis": compress.read_diagnosis(variants),
            "graph": graphs.read(exported),
            "on_target": found_there,
            "on_target_says": evaluate.says(self.plan, found_there),
        }
        trials = evaluate.applied(compress.read_trials(variants), found_there, self.plan)
        way_out = partial(ways_out.for_error, self.plan)
        return choose(trials, self.plan.target, self.plan.force, way_out), found

    def yardstick(self, teacher: Path, student: Path, student_onnx: Path) -> Measured:
        """What speed and size are compared with: the teacher, or the student's own fp32 where that only answers."""
        if not self.plan.has_yardstick:
            return Measured(FP32, self.model(student_onnx), student)
        return Measured(TEACHER, self.model(self.exported("teacher", teacher)), teacher)

    def measured(
        self,
        yardstick: Measured,
        model: Path,
        variants: Path,
        shipped: str,
        before_timing: Callable[[], object],
    ) -> dict[str, Any]:
        """The yardstick, what ships and the plain recipes that are no crawl, on the held-out samples."""
        from edgekd.compression.choose import recipe_of
        from edgekd.compression.compress import read_trials
        from edgekd.core.confidence import Suggestion
        from edgekd.inference import benchmark

        models = {yardstick.name: (yardstick.model, yardstick.folder)}
        suggested = {}
        for trial in read_trials(variants):
            plain = trial.name == recipe_of(trial.name) and trial.speed > _WORTH_TIMING
            if trial.failed is None and (plain or trial.name == shipped):
                if trial.suggestion is not None:
                    suggested[trial.name] = Suggestion(**trial.suggestion)
                models[trial.name] = (self.variant(variants, trial.name), model)
        place = self.stage(
            "measure",
            self._measuring_key()
            | {"schema": benchmark.SCHEMA, "measuring": asdict(self.plan.measuring), "suggested": suggested}
            | {"models": {name: one.sha256 for name, (one, _) in models.items()}}
            | ({} if self.plan.has_yardstick else {"answers": self.plan.teacher.sha256}),
            lambda out: benchmark.measure(self.plan, self.splits, models, out, self.progress, before_timing, suggested),
        )
        return benchmark.read_measured(place)

    def student_key(self) -> dict[str, Any]:
        """Of what is compressed: the student, or the teacher itself."""
        if self.plan.compresses_only:
            return self.plan.compressing
        return self.plan.distilling(self.shape) | {"exit": self.plan.student.exit}

    def _exporters(self) -> dict[str, str]:
        return {name: self.plan.versions[name] for name in ("optimum-onnx", "onnx", "onnxruntime")}

    def _measuring_key(self) -> dict[str, Any]:
        return {
            "student": self.student_key(),
            "target": self.plan.target.as_dict(),
            "host": asdict(this_host()),
            "exporters": self._exporters(),
            "plugins": self.plan.plugins,
        }


def _graph_facts(target: Profile) -> dict[str, int]:
    """Return what of a target a graph depends on that is written, and not timed."""
    return {"max_opset": target.max_opset, "max_ir_version": target.max_ir_version}
