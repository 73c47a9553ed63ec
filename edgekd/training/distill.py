"""Distill: a student that starts as a cut of its teacher learns what the teacher says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import confidence
from edgekd.core.metrics import Metric
from edgekd.core.protocols import MULTI_LABEL, Progress, StudentTask, TaughtStudent, named
from edgekd.core.registry import make
from edgekd.core.tensors import Targets, embeds
from edgekd.core.thresholds import choose_thresholds
from edgekd.data.splits import Example, Splits, truth_of
from edgekd.plan.plan import Plan
from edgekd.training import batches, engine, models, scored
from edgekd.training.learner import Learner
from edgekd.training.scored import Scale, label_rows
from edgekd.training.teacher_outputs import TRAINED_ON, TeacherOutputs

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

_IMPORTANCE_ROWS = 256  # rows on which neurons, heads and channels are ranked
_FITTED_ROWS = 4096  # on which an embedding's linear layer is fitted before training
EXITS = "exits"  # the folder of early exits, each an ordinary model, named by its layer from 1
TRAINING, CONFIDENCE = "training.json", "confidence.json"


def distill(
    plan: Plan,
    splits: Splits,
    shape: dict[str, Any],
    teacher_folder: Path,
    outputs: Mapping[str, Path],
    out: Path,
    work: Path,
    progress: Progress,
) -> None:
    """Train the student of this shape and write it to `out` as a Hugging Face folder, its early exits in `exits`.

    Beside it `training.json`, how the run went, and `confidence.json`, the temperature folded into its last layer.
    Without a loss that needs the teacher only the labelled rows count.
    """
    engine.prepare(plan.student.seed, plan.threads)
    task, survey = named(plan.made_task, splits.classes), plan.student.survey
    rows = _rows(plan, splits)
    inputs = [row.input for row in (*splits.train, *splits.unlabelled)]
    student_shape = make("students", plan.student.family, **shape)
    assert isinstance(task, StudentTask), "a task with families writes what its students need"
    assert isinstance(student_shape, TaughtStudent), "others have a trainer of their own"
    kept = task.student_files(teacher_folder, inputs, survey, student_shape, out)
    student = _begun(plan, student_shape, teacher_folder, kept, inputs)
    scale = Scale.of(task, truth_of(task, splits.train, splits.classes, labelled=True))
    if plan.student.start == "teacher":  # its head gives numbers in their own unit
        scale.fold(student, undo=True)
    samples = task.encode(out, [row.input for row in rows], survey.max_size)
    labels = label_rows(task, rows, splits.classes, samples)
    teacher = TeacherOutputs(outputs, TRAINED_ON, len(splits.classes)) if plan.needs_teacher else None
    heads = {}
    if "exits" in plan.needs:
        heads = {layer: student_shape.exit_head(student, layer) for layer in student_shape.exits}

    def targets(numbers: list[int]) -> Targets:
        given = teacher.outputs(numbers) if teacher else None
        said = None if given is None else replace(given, logits=scale.scaled(given.logits))
        return Targets(said, scale.scaled(labels(numbers)))

    if teacher is not None and embeds(student):
        if plan.student.start == "teacher":  # what it learns of some words would part them from those it never sees
            student.encoder.get_input_embeddings().requires_grad_(requires_grad=False)
        few_rows = list(range(0, len(samples), max(1, len(samples) // _FITTED_ROWS)))
        models.fit_student(student, [samples[row] for row in few_rows], teacher.outputs(few_rows, only=()).logits)
    learner = Learner(student, plan.student.losses, targets, plan.matched(shape).student, heads)
    few = list(range(min(4, len(samples))))
    learner.begin(batches.padded(samples, few, engine.pad_of(student), student.device), few)
    judge = _Judge(plan, splits, outputs, task, out, teacher_folder)
    progress.stage("distill: the student learns", engine.steps_of(samples, plan.student.schedule, plan.student.seed))
    trained = engine.fit(
        learner,
        samples,
        plan.student.schedule,
        seed=plan.student.seed,
        progress=progress,
        validate=lambda: judge.score(student, scale),
        work=work,
    )
    _write(student, judge, out, scale)
    exits = {}
    for layer, head in heads.items():
        place = out / EXITS / str(layer + 1)
        shutil.copytree(out, place, ignore=shutil.ignore_patterns(EXITS, "*.safetensors"))
        cut = student_shape.truncate_at(student, layer, head)
        _write(cut, judge, place, scale)
        exits[layer + 1] = judge.right(cut)
    told = asdict(trained) | {"rows": len(rows), judge.words: judge.right(student), "of_exits": exits}
    (out / TRAINING).write_text(json.dumps(told, indent=1), encoding="utf-8")


def score(plan: Plan, splits: Splits, folder: Path, outputs: Mapping[str, Path], teacher_folder: Path) -> float:
    """Return the metric of the selection rows or, where labels are unknown, how far a student agrees."""
    engine.prepare(plan.seed, plan.threads)
    task = named(plan.made_task, splits.classes)
    judge = _Judge(plan, splits, outputs, task, folder, teacher_folder)
    return judge.right(models.load(folder, plan.task))


def read(folder: Path, name: str) -> dict[str, Any]:
    """What `distill` wrote beside a student: `TRAINING` or `CONFIDENCE`."""
    told: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return told


def _rows(plan: Plan, splits: Splits) -> tuple[Example, ...]:
    rows = tuple(row for role in TRAINED_ON for row in getattr(splits, role))
    return rows if plan.needs_teacher else tuple(row for row in rows if row.label is not None)


def _begun(plan: Plan, shape: Any, teacher_folder: Path, kept: Any, inputs: Sequence[Any]) -> Any:
    """The student before training: a cut of the teacher, or of this shape with random weights."""
    teacher = models.load(teacher_folder, plan.task)
    few = inputs[:: max(1, len(inputs) // _IMPORTANCE_ROWS)][:_IMPORTANCE_ROWS]
    samples = plan.made_task.encode(teacher_folder, few, plan.student.survey.max_size)
    network = shape.init_from_teacher(
        models.body(teacher), teacher_folder, kept=kept, samples=samples, copy=plan.student.start == "teacher"
    )
    return models.student_of(network, teacher, plan.student.survey.max_size)


def _write(model: Any, judge: _Judge, out: Path, scale: Scale) -> None:
    """The model's files; before that the scale of its numbers, its temperature or its labels' thresholds are folded in.

    The latter two where that helps.
    """
    said: dict[str, Any] = {}
    scale.fold(model)
    if judge.independent:
        said = judge.thresholds(model)
        models.fold_thresholds(model, said["logits"])
    elif judge.task.one_of_classes:
        said = judge.confidence(model)
        models.fold_temperature(model, said["temperature"])
    model.save_pretrained(out, safe_serialization=True)
    (out / CONFIDENCE).write_text(json.dumps(said, indent=1), encoding="utf-8")


class _Judge:
    """Scores models on the selection rows: by their labels or, where those are unknown, by the teacher's word."""

    def __init__(
        self,
        plan: Plan,
        splits: Splits,
        outputs: Mapping[str, Path],
        task: Any,
        student_folder: Path,
        teacher_folder: Path,
    ) -> None:
        rows, longest = [row.input for row in splits.selection], plan.student.survey.max_size
        self.plan, self.task, self.labelled = plan, task, splits.selection_labelled
        self.samples: Sequence[Sample] = task.encode(student_folder, rows, longest)
        given = TeacherOutputs(outputs, ("selection",), len(splits.classes))
        self.teacher = scored.of_teacher(given, task.encode(teacher_folder, rows, longest), task)
        self.truth = task.truth(splits.selection, splits.classes) if self.labelled else None
        self.metric: Metric = task.metric if self.labelled else task.fidelity
        self.words = "selection_accuracy" if self.labelled else "selection_agreement"
        self.independent = task.problem_type == MULTI_LABEL

    def right(self, model: Any) -> float:
        """Return the metric on the rows, or how far the model agrees with the teacher."""
        return self._value(scored.said(model, self.samples, self.task).metric_input)

    def _value(self, outputs: Any) -> float:
        if self.truth is None:
            return self.metric.value(self.task.agrees(outputs, self.teacher.metric_input))
        return self.metric.value(self.task.statistics(outputs, self.truth))

    def score(self, model: Any, scale: Scale) -> engine.Score:
        """What picks an epoch: with labels the metric, else the cross-entropy to what the teacher says.

        A few hundred rows tell the second far more finely than whether the largest of two distributions agree. Of
        several labels the metric is with the thresholds that would be folded in.
        """
        import numpy as np

        own = scale.unscaled(scored.said(model, self.samples, self.task))
        if not self.task.problem_type:  # embeddings are no logits of classes
            return (self._value(own.metric_input),)
        likely = -self._surprise(own, scale)
        if self.truth is None:
            return (likely,)
        outputs = own.metric_input
        if self.independent:
            chosen = choose_thresholds(outputs, self.truth, seed=self.plan.student.seed)
            outputs = outputs - np.asarray(chosen.logits, dtype=outputs.dtype)
        return self.metric.sign * self._value(outputs), likely

    def _surprise(self, own: scored.Scored, scale: Scale) -> float:
        """Return the mean cross-entropy to the labels, or to what the teacher says; of several labels of each.

        Of numbers it is the squared difference, over their spread.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        logits, wanted = own.beside(self.teacher) if self.truth is None else own.logits(self.truth)
        if scale.mean:
            return float((scale.scaled(logits) - scale.scaled(wanted)).square().mean())
        if self.independent:
            return float(
                binary_cross_entropy_with_logits(logits, wanted.sigmoid() if self.truth is None else wanted.to(logits))
            )
        return float(cross_entropy(logits, wanted.softmax(dim=1) if self.truth is None else wanted))

    def confidence(self, model: Any) -> dict[str, Any]:
        """The temperature that helps on the selection rows, and the calibration error before and after."""
        own = scored.said(model, self.samples, self.task)
        logits, wanted = own.beside(self.teacher) if self.truth is None else own.logits(self.truth)
        targets = wanted.softmax(dim=1) if self.truth is None else wanted
        scaling = confidence.temperature_that_helps(logits.numpy(), targets.numpy(), self.plan.student.seed)
        return asdict(scaling) | {"fitted_on": "labels" if self.labelled else "teacher"}

    def thresholds(self, model: Any) -> dict[str, Any]:
        """The labels' thresholds by the selection rows: by their labels, or by what the teacher decides."""
        decided = (self.teacher.metric_input > 0).astype(int) if self.truth is None else self.truth
        logits = scored.said(model, self.samples, self.task).metric_input
        chosen = choose_thresholds(logits, decided, seed=self.plan.student.seed)
        return asdict(chosen) | {"fitted_on": "labels" if self.labelled else "teacher"}
