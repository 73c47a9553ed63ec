"""Distill: a student that starts as a cut of its teacher learns what the teacher says."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from edgekd import engine
from edgekd.core.protocols import Progress
from edgekd.core.registry import make
from edgekd.core.tensors import Outputs, Targets
from edgekd.data import vocabulary
from edgekd.data.splits import Splits
from edgekd.plan import Plan
from edgekd.teach import label_tensor, load, read_outputs

_IMPORTANCE_ROWS = 256  # rows on which feed-forward neurons are ranked


def distill(
    plan: Plan, splits: Splits, shape: dict[str, int], teacher_folder: Path, outputs_folder: Path, out: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """Train the student of this shape and write it to `out` as a Hugging Face folder."""
    import torch

    engine.prepare(plan.seed, plan.threads)
    task = make("tasks", plan.task)
    student_shape = make("students", plan.student.family, **shape)
    rows = (*splits.train, *splits.unlabelled)
    texts = [row.input for row in rows]
    kept = student_tokenizer(plan, splits, teacher_folder, out)
    assert len(kept) == student_shape.vocabulary
    teacher = load(teacher_folder)
    few = texts[:: max(1, len(texts) // _IMPORTANCE_ROWS)][:_IMPORTANCE_ROWS]
    student = student_shape.start_from(
        teacher, teacher_folder, kept=kept, samples=task.encode(teacher_folder, few, plan.student.max_tokens)
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

    samples = task.encode(out, texts, plan.student.max_tokens)
    progress.stage("distill: the student learns", engine.steps_of(len(samples), plan.student.training))
    engine.fit(student, samples, objective, plan.student.training, seed=plan.seed, progress=progress)
    student.save_pretrained(out, safe_serialization=True)


def student_tokenizer(plan: Plan, splits: Splits, teacher_folder: Path, out: Path) -> list[int]:
    """Write the trimmed tokenizer to `out`; the teacher's token ids that it keeps, ascending."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    with tempfile.TemporaryDirectory(prefix="edgekd-tokenizer-") as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        # never the test's texts: only those that the student may see
        texts = (row.input for row in (*splits.train, *splits.unlabelled))
        kept = vocabulary.kept_ids(folder / "tokenizer.json", texts, limit=plan.student.vocabulary_limit)
        vocabulary.trim_tokenizer(folder / "tokenizer.json", kept, folder / "tokenizer.json")
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)  # ids of the old vocabulary
        config_file.write_text(json.dumps(config), encoding="utf-8")
        for stale in ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
            (folder / stale).unlink(missing_ok=True)
        trimmed = AutoTokenizer.from_pretrained(folder)
        trimmed.model_max_length = plan.student.max_tokens
        trimmed.save_pretrained(out)
    return kept
