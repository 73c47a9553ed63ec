"""Teach: make the teacher ready for the task, and keep what it says about every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekd import engine
from edgekd.core.errors import TeacherError
from edgekd.core.protocols import Progress
from edgekd.core.registry import make
from edgekd.core.tensors import NO_LABEL, Targets
from edgekd.data.splits import Splits
from edgekd.plan import Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LOGITS = "logits.safetensors"
ROLES = ("train", "unlabelled", "selection", "calibration")  # never the test rows: those run under ONNX Runtime


def fine_tune(plan: Plan, splits: Splits, out: Path, progress: Progress) -> None:
    """Fine-tune a base model on the labelled rows and write it to `out`, tokenizer beside it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    training = plan.teacher.training
    assert training is not None
    engine.prepare(plan.seed, plan.threads)
    labels = {name: number for number, name in enumerate(splits.classes)}
    model = AutoModelForSequenceClassification.from_pretrained(
        plan.teacher.folder,
        num_labels=len(labels),
        id2label={number: name for name, number in labels.items()},
        label2id=labels,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,
    ).float()
    task = make("tasks", plan.task)
    samples = task.encode(Path(plan.teacher.folder), [row.input for row in splits.train], plan.student.max_tokens)
    truth = label_tensor(splits, "train")
    loss = make("losses", "hard_labels")
    progress.stage("teach: fine-tune the teacher on the labels", engine.steps_of(len(samples), training))
    engine.fit(
        model,
        samples,
        lambda outputs, rows: loss(outputs, Targets(teacher=None, labels=truth[rows])),
        training,
        seed=plan.seed,
        progress=progress,
    )
    model.save_pretrained(out, safe_serialization=True)
    AutoTokenizer.from_pretrained(plan.teacher.folder).save_pretrained(out)


def keep_outputs(plan: Plan, splits: Splits, teacher_folder: Path, out: Path, progress: Progress) -> None:
    """Write the teacher's logits for every row it may see: one tensor (rows, classes) a role, computed once."""
    from safetensors.torch import save_file

    engine.prepare(plan.seed, plan.threads)
    model = load(teacher_folder)
    task = make("tasks", plan.task)
    progress.stage("teach: the teacher's outputs", sum(len(getattr(splits, role)) for role in ROLES))
    outputs: dict[str, torch.Tensor] = {}
    for role in ROLES:
        texts = [row.input for row in getattr(splits, role)]
        if texts:
            samples = task.encode(teacher_folder, texts, plan.student.max_tokens)
            outputs[role] = engine.logits(model, samples, progress=progress)
    save_file(outputs, out / LOGITS)


def load(folder: Path) -> PreTrainedModel:
    """The teacher's weights, in float32; pickles only as plain tensors. Raises TeacherError."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, weights_only=True, trust_remote_code=False
        ).float()
    except Exception as error:  # a foreign checkpoint fails in as many ways as there are checkpoints
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TeacherError(
            f"cannot load the teacher {folder}: {reason}", fix="check that transformers opens it by itself"
        ) from error
    bad = next((name for name, value in model.state_dict().items() if not torch.isfinite(value).all()), None)
    if bad:
        raise TeacherError(f"the teacher's weight {bad} holds NaN or infinity", fix="give an undamaged checkpoint")
    return model.eval()


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
