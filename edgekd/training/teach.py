"""Teach: make the teacher ready for the task, and hold its classes against the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.protocols import MULTI_LABEL, LabelledTask, Progress, Task
from edgekd.core.registry import make, plugin
from edgekd.core.tensors import Targets
from edgekd.core.thresholds import choose_thresholds
from edgekd.data import orders
from edgekd.data.splits import Example, Splits
from edgekd.plan.plan import LossTerm, Plan
from edgekd.training import engine, models
from edgekd.training.learner import Learner
from edgekd.training.teacher_outputs import TeacherOutputs

if TYPE_CHECKING:
    import numpy as np
    import torch


def fine_tune(plan: Plan, splits: Splits, out: Path, work: Path, progress: Progress) -> None:
    """Train a base model on the labelled rows and write it to `out`, tokenizer or preprocessing beside it."""
    training = plan.teacher.training
    assert training is not None
    engine.prepare(plan.seed, plan.threads)
    source = make("teachers", plan.teacher.kind)
    described = Path(plan.teacher.folder), plan.teacher.architecture, plan.task
    model = source.base(*described, splits.classes)
    source.files(*described, out)
    task = make("tasks", plan.task)
    samples = task.encode(out, [row.input for row in splits.train], plan.student.survey.max_size)
    for module in model.modules():
        if hasattr(module, "fit_inputs"):  # a standardisation inside the graph: from the training rows, as they are
            module.fit_inputs(samples)
    truth = label_tensor(task, splits, splits.train)
    learner = Learner(model, (LossTerm("hard_labels", 1.0),), lambda rows: Targets(None, truth[rows]))
    progress.stage("teach: train the teacher on the labels", engine.steps_of(samples, training, plan.seed))
    engine.fit(learner, samples, training, seed=plan.seed, progress=progress, work=work)
    if task.problem_type == MULTI_LABEL and splits.selection_labelled:
        _fold_thresholds(model, task, splits, plan, out)
    model.save_pretrained(out, safe_serialization=True)


def _fold_thresholds(model: Any, task: Task, splits: Splits, plan: Plan, folder: Path) -> None:
    """Decide each label where the selection rows' labels say, as the student's are: so that both are judged alike."""
    rows = [row.input for row in splits.selection]
    logits = engine.logits(model, task.encode(folder, rows, plan.student.survey.max_size)).numpy()
    truth = label_tensor(task, splits, splits.selection).numpy()
    models.fold_thresholds(model, choose_thresholds(logits, truth, seed=plan.seed).logits)


def selection_logits(plan: Plan, outputs: Mapping[str, Path]) -> np.ndarray[Any, Any]:
    """Return the teacher's logits on the selection rows: (rows, classes)."""
    found: np.ndarray[Any, Any] = TeacherOutputs(outputs, ("selection",), len(plan.data.classes)).logits().numpy()
    return found


def check_answers(plan: Plan, splits: Splits, outputs: Mapping[str, Path]) -> None:
    """Raise TeacherError where a ready teacher's classes stand in another order than the labels say.

    So for a teacher of several labels a row that decides none of them in any selection row.
    """
    if plugin("tasks", plan.task).problem_type == MULTI_LABEL:
        orders.check_decides(plan.teacher.name, selection_logits(plan, outputs))
    if not plan.teacher.ready:
        return
    labels = label_tensor(make("tasks", plan.task), splits, splits.train).numpy()
    teacher = TeacherOutputs(outputs, ("train",), len(splits.classes))
    if labels.ndim == 2:
        doubt = orders.label_order_doubt(teacher.logits().numpy() > 0, labels, splits.classes)
    else:
        doubt = orders.class_order_doubt(teacher.first_choices().numpy(), labels, splits.classes)
    if doubt:
        raise orders.class_order_error(plan.teacher.name, doubt)


def label_tensor(task: Task, splits: Splits, rows: Sequence[Example]) -> torch.Tensor:
    """Return what these rows are trained towards, NO_LABEL where unknown: class numbers, (rows,), of a classifier.

    Of several labels a row 0 or 1 for each of them: (rows, classes).
    """
    import torch

    assert isinstance(task, LabelledTask), "a task with students has labels"
    return torch.from_numpy(task.truth(rows, splits.classes))
