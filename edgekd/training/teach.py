"""Teach: make the teacher ready for the task, and hold its classes against the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.protocols import LabelledTask, Progress, Task
from edgekd.core.registry import make
from edgekd.core.tensors import Targets
from edgekd.data import orders
from edgekd.data.splits import Example, Splits
from edgekd.plan import LossTerm, Plan
from edgekd.training import engine
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
    model.save_pretrained(out, safe_serialization=True)


def selection_logits(plan: Plan, outputs: Mapping[str, Path]) -> np.ndarray[Any, Any]:
    """Return the teacher's logits on the selection rows: (rows, classes)."""
    found: np.ndarray[Any, Any] = TeacherOutputs(outputs, ("selection",), len(plan.data.classes)).logits().numpy()
    return found


def check_order(plan: Plan, splits: Splits, outputs: Mapping[str, Path]) -> None:
    """Raise TeacherError where a ready teacher's classes stand in another order than the labels say."""
    if plan.teacher.ready:
        labels = label_tensor(make("tasks", plan.task), splits, splits.train).numpy()
        chosen = TeacherOutputs(outputs, ("train",), len(splits.classes)).first_choices().numpy()
        if doubt := orders.class_order_doubt(chosen, labels, splits.classes):
            raise orders.class_order_error(plan.teacher.name, doubt)


def label_tensor(task: Task, splits: Splits, rows: Sequence[Example]) -> torch.Tensor:
    """Return what these rows are trained towards, NO_LABEL where unknown: class numbers, (rows,), of a classifier."""
    import torch

    assert isinstance(task, LabelledTask), "a task with students has labels"
    return torch.from_numpy(task.truth(rows, splits.classes))
