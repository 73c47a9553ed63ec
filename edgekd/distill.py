"""Distill: a student that starts as a cut of its teacher learns what the teacher says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import engine, models
from edgekd.core.protocols import Progress
from edgekd.core.registry import make
from edgekd.core.tensors import Outputs, Targets
from edgekd.data.splits import Splits
from edgekd.plan import Plan
from edgekd.teach import label_tensor, read_outputs

if TYPE_CHECKING:
    import torch

_IMPORTANCE_ROWS = 256  # rows on which feed-forward neurons are ranked


def distill(
    plan: Plan, splits: Splits, shape: dict[str, Any], teacher_folder: Path, outputs_folder: Path, out: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """Train the student of this shape and write it to `out` as a Hugging Face folder."""
    import torch

    engine.prepare(plan.seed, plan.threads)
    task = make("tasks", plan.task)
    student_shape = make("students", plan.student.family, **shape)
    rows = (*splits.train, *splits.unlabelled)
    inputs, survey = [row.input for row in rows], plan.student.survey
    kept = task.student_files(teacher_folder, inputs, survey, student_shape, out)
    teacher = models.load(teacher_folder, plan.task)
    few = inputs[:: max(1, len(inputs) // _IMPORTANCE_ROWS)][:_IMPORTANCE_ROWS]
    student = student_shape.start_from(
        teacher, teacher_folder, kept=kept, samples=task.encode(teacher_folder, few, survey.max_size)
    )
    del teacher
    said = read_outputs(outputs_folder)
    teacher_logits = torch.cat([said[role] for role in ("train", "unlabelled") if role in said])
    truth = torch.cat([label_tensor(splits, role) for role in ("train", "unlabelled") if getattr(splits, role)])
    terms = [(make("losses", term.name, **term.options), term.weight) for term in plan.student.losses]

    def objective(outputs: Outputs, numbers: list[int]) -> torch.Tensor:
        targets = Targets(teacher=Outputs(logits=teacher_logits[numbers]), labels=truth[numbers])
        total: torch.Tensor = sum((weight * loss(outputs, targets) for loss, weight in terms), torch.zeros(()))
        return total

    samples = task.encode(out, inputs, survey.max_size)
    progress.stage("distill: the student learns", engine.steps_of(len(samples), plan.student.training))
    engine.fit(student, samples, objective, plan.student.training, seed=plan.seed, progress=progress)
    student.save_pretrained(out, safe_serialization=True)


def score(plan: Plan, splits: Splits, folder: Path, teacher_logits: torch.Tensor) -> float:
    """The share of selection rows on which a student is right or, where labels are unknown, agrees with the teacher.

    `teacher_logits` are the teacher's on those rows: (rows, classes).
    """
    engine.prepare(plan.seed, plan.threads)
    task = make("tasks", plan.task)
    samples = task.encode(folder, [row.input for row in splits.selection], plan.student.survey.max_size)
    said = engine.logits(models.load(folder, plan.task), samples).numpy()
    truth = label_tensor(splits, "selection") if splits.selection_labelled else teacher_logits.argmax(dim=1)
    return float(task.correct(said, truth.numpy()).mean())
