"""Teach: make the teacher ready for the task, and keep what it says about every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekd import engine, models
from edgekd.core.protocols import Progress
from edgekd.core.registry import make
from edgekd.core.tensors import NO_LABEL, Targets
from edgekd.data.splits import Splits
from edgekd.plan import Plan

if TYPE_CHECKING:
    import torch

LOGITS = "logits.safetensors"
ROLES = ("train", "unlabelled", "selection", "calibration")  # never the test rows: those run under ONNX Runtime


def fine_tune(plan: Plan, splits: Splits, out: Path, progress: Progress) -> None:
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
    truth = label_tensor(splits, "train")
    loss = make("losses", "hard_labels")
    progress.stage("teach: train the teacher on the labels", engine.steps_of(len(samples), training))
    engine.fit(
        model,
        samples,
        lambda outputs, rows: loss(outputs, Targets(teacher=None, labels=truth[rows])),
        training,
        seed=plan.seed,
        progress=progress,
    )
    model.save_pretrained(out, safe_serialization=True)


def keep_outputs(plan: Plan, splits: Splits, teacher_folder: Path, out: Path, progress: Progress) -> None:
    """Write the teacher's logits for every row it may see: one tensor (rows, classes) a role, computed once."""
    from safetensors.torch import save_file

    engine.prepare(plan.seed, plan.threads)
    model = models.load(teacher_folder, plan.task)
    task = make("tasks", plan.task)
    progress.stage("teach: the teacher's outputs", sum(len(getattr(splits, role)) for role in ROLES))
    outputs: dict[str, torch.Tensor] = {}
    for role in ROLES:
        inputs = [row.input for row in getattr(splits, role)]
        if inputs:
            samples = task.encode(teacher_folder, inputs, plan.student.survey.max_size)
            outputs[role] = engine.logits(model, samples, progress=progress)
    save_file(outputs, out / LOGITS)


def read_outputs(folder: Path) -> dict[str, torch.Tensor]:
    """What `keep_outputs` wrote."""
    from safetensors.torch import load_file

    outputs: dict[str, torch.Tensor] = load_file(folder / LOGITS)
    return outputs


def label_tensor(splits: Splits, role: str) -> torch.Tensor:
    """Labels of a role's rows as class numbers (rows,), NO_LABEL where unknown."""
    import torch

    numbers = {name: number for number, name in enumerate(splits.classes)}
    return torch.tensor([numbers[row.label] if row.label else NO_LABEL for row in getattr(splits, role)])
