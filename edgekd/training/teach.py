"""Teach: make the teacher ready for the task, and hold its classes against the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.protocols import (
    MULTI_LABEL,
    PER_WORD,
    REGRESSION,
    LabelledTask,
    PositionTask,
    Progress,
    StartingNetwork,
    Task,
    named,
)
from edgekd.core.registry import make
from edgekd.core.tensors import Targets
from edgekd.core.thresholds import choose_thresholds
from edgekd.data import orders
from edgekd.data.splits import Example, Splits, truth_of
from edgekd.plan.plan import LossTerm, Plan
from edgekd.training import engine, models
from edgekd.training.learner import Learner
from edgekd.training.scored import Scale, Scored, label_rows, of_teacher
from edgekd.training.teacher_outputs import TeacherOutputs


def fine_tune(plan: Plan, splits: Splits, out: Path, work: Path, progress: Progress) -> None:
    """Train a base model on the labelled rows and write it to `out`, tokenizer or preprocessing beside it."""
    training = plan.teacher.training
    assert training is not None
    engine.prepare(plan.seed, plan.threads)
    source = make("teachers", plan.teacher.kind)
    assert isinstance(source, StartingNetwork), "the plan refuses a base model that cannot be trained"
    described = Path(plan.teacher.folder), plan.teacher.architecture, plan.task
    model = source.base(*described, splits.classes)
    source.files(*described, out)
    task = named(plan.made_task, splits.classes)
    samples = task.encode(out, [row.input for row in splits.train], plan.student.survey.max_size)
    for module in model.modules():
        if hasattr(module, "fit_inputs"):  # a standardisation inside the graph: from the training rows, as they are
            module.fit_inputs(samples)
    labels = label_rows(task, splits.train, splits.classes, samples)
    scale = Scale.of(task, task.truth(splits.train, splits.classes)) if isinstance(task, LabelledTask) else Scale()
    learner = Learner(model, (LossTerm("hard_labels", 1.0),), lambda rows: Targets(None, scale.scaled(labels(rows))))
    progress.stage("teach: train the teacher on the labels", engine.steps_of(samples, training, plan.seed))
    engine.fit(learner, samples, training, seed=plan.seed, progress=progress, work=work)
    if task.problem_type == MULTI_LABEL and splits.selection_labelled:
        _fold_thresholds(model, task, splits, plan, out)
    scale.fold(model)
    model.save_pretrained(out, safe_serialization=True)


def write_base(plan: Plan, out: Path) -> None:
    """Write the network that a student starts from, beside a teacher that only answers: with a fresh head."""
    engine.prepare(plan.seed, plan.threads)
    source = make("teachers", plan.start.kind)
    assert isinstance(source, StartingNetwork), "the plan refuses what no student can start from"
    described = Path(plan.start.folder), plan.start.architecture, plan.task
    model = source.base(*described, plan.data.classes)
    source.files(*described, out)
    model.save_pretrained(out, safe_serialization=True)


def _fold_thresholds(model: Any, task: Task, splits: Splits, plan: Plan, folder: Path) -> None:
    """Decide each label where the selection rows' labels say, as the student's are: so that both are judged alike."""
    rows = [row.input for row in splits.selection]
    logits = engine.logits(model, task.encode(folder, rows, plan.student.survey.max_size)).numpy()
    assert isinstance(task, LabelledTask), "a task with students has labels"
    truth = task.truth(splits.selection, splits.classes)
    models.fold_thresholds(model, choose_thresholds(logits, truth, seed=plan.seed).logits)


def selection_said(plan: Plan, splits: Splits, outputs: Mapping[str, Path], teacher: Path) -> Scored:
    """Return what the teacher said of the selection rows."""
    return _said(plan, splits.selection, outputs, "selection", teacher)


def _said(plan: Plan, rows: Sequence[Example], outputs: Mapping[str, Path], role: str, teacher: Path) -> Scored:
    task = named(plan.made_task, plan.data.classes)
    samples = task.encode(teacher, [row.input for row in rows], plan.student.survey.max_size)
    return of_teacher(TeacherOutputs(outputs, (role,), len(plan.data.classes)), samples, task)


def check_answers(plan: Plan, splits: Splits, outputs: Mapping[str, Path], teacher: Path) -> None:
    """Raise TeacherError where a ready teacher's classes stand in another order than the labels say.

    So for a teacher that decides no label, or finds no span, in any selection row.
    """
    task = named(plan.made_task, splits.classes)
    if task.problem_type in (MULTI_LABEL, PER_WORD):
        orders.check_finds(plan.teacher.name, task, selection_said(plan, splits, outputs, teacher).metric_input)
    if task.problem_type == REGRESSION:
        orders.check_varies(plan.teacher.name, selection_said(plan, splits, outputs, teacher).metric_input)
    if not plan.teacher.ready or task.problem_type in ("", REGRESSION):
        return
    known = TeacherOutputs(outputs, ("train",), len(splits.classes))
    truth: Any = truth_of(task, splits.train, splits.classes, labelled=True)
    if not isinstance(task, PositionTask):
        labels = truth
        said = known.logits().numpy() > 0 if labels.ndim == 2 else known.first_choices().numpy()
    else:
        logits, wanted = _said(plan, splits.train, outputs, "train", teacher).logits(truth)
        said, labels = logits.argmax(dim=-1).numpy(), wanted.numpy()
    doubt = (orders.label_order_doubt if labels.ndim == 2 else orders.class_order_doubt)(said, labels, splits.classes)
    if doubt:
        raise orders.class_order_error(plan.teacher.name, doubt)
