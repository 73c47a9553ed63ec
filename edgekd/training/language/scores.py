"""How well a language model foresees held-out passages, and how far it says what its teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.core.metrics import BITS_PER_BYTE, Metric, ratio_of_sums
from edgekd.core.statistics import next_token_statistics
from edgekd.training import batches, engine
from edgekd.training.language.cut import run
from edgekd.training.language.lessons import teacher_log_probabilities

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

AGREEMENT = Metric("next_token_agreement", of_teacher="next-token agreement with", reduce=ratio_of_sums, by_group=True)
DIVERGENCE = Metric("kl_to_teacher", unit="nats a token", higher_is_better=False, reduce=ratio_of_sums, by_group=True)
_AT_ONCE = 4  # passages


@dataclass(frozen=True)
class Scores:
    """Statistics of passages: rows as the three metrics take them, the document's number last."""

    bits: Array  # (rows, 5)
    agreed: Array  # (rows, 3): tokens for which both say the same, tokens, document
    divergence: Array  # (rows, 3): nats, tokens, document


def compare(
    students: Sequence[Any], teacher: Any, samples: Sequence[Sample], truth: Array, tokens: Tensor | None
) -> tuple[Array, list[Scores]]:
    """Return the teacher's statistics on passages of the students' tokens, (rows, 5), and each student's beside it.

    `tokens` are the teacher's ids of the students'. Divergence is of the tokens that both have, each model's
    probabilities of them scaled to a sum of one.
    """
    import numpy as np
    import torch

    device = engine.device()
    for model in (*students, teacher):
        model.to(device).eval()
    its: list[dict[str, Any]] = [{} for _ in samples]
    own: list[list[dict[str, Any]]] = [[{} for _ in samples] for _ in students]
    pairs = np.zeros((len(students), 2, len(samples), 3))
    pairs[..., 2] = truth[:, 1]
    for numbers in _in_order(samples):
        batch = _batch(samples, numbers, device)
        wanted = teacher_log_probabilities(teacher, batch, tokens)
        for place, number in enumerate(numbers):
            its[number] = _prediction(wanted[place], samples[number])
        theirs = wanted.log_softmax(dim=-1)
        for which, student in enumerate(students):
            with torch.no_grad():
                said = run(student, batch).float().log_softmax(dim=-1)
            for place, number in enumerate(numbers):
                own[which][number] = _prediction(said[place], samples[number])
                count = samples[number]["input_ids"].shape[1] - 1
                same = (own[which][number]["top"] == its[number]["top"]).sum()
                apart = (theirs[place, :count].exp() * (theirs[place, :count] - said[place, :count])).sum()
                pairs[which, :, number, :2] = (float(same), count), (float(apart), count)
    for model in (*students, teacher):
        model.to("cpu")
    scores = [Scores(next_token_statistics(one, truth), *both) for one, both in zip(own, pairs, strict=True)]
    return next_token_statistics(its, truth), scores


def bits_per_byte(model: Any, samples: Sequence[Sample], truth: Array) -> float:
    """Return a model's bits per byte on passages of its tokens, as training computes: for choosing, not for telling."""
    import torch

    predictions: list[dict[str, Any]] = [{} for _ in samples]
    for numbers in _in_order(samples):
        batch = _batch(samples, numbers, next(model.parameters()).device)
        with torch.no_grad(), engine.autocast(batch["input_ids"].device):
            said = run(model, batch).float().log_softmax(dim=-1)
        for place, number in enumerate(numbers):
            predictions[number] = _prediction(said[place], samples[number])
    return BITS_PER_BYTE.value(next_token_statistics(predictions, truth))


def _prediction(log_probabilities: Tensor, sample: Sample) -> dict[str, Any]:
    """Return what metrics take of one passage, of log probabilities (tokens or more, vocabulary)."""
    import torch

    following = torch.from_numpy(sample["input_ids"][0, 1:]).to(log_probabilities.device)
    said = log_probabilities[: len(following)]
    nll = -said.gather(-1, following[:, None])[:, 0]
    return {"nll": nll.cpu().numpy(), "top": said.argmax(dim=-1).cpu().numpy(), "next": following.cpu().numpy()}


def _in_order(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the numbers of a few samples of like length at a time."""
    order = sorted(range(len(samples)), key=lambda row: samples[row]["input_ids"].shape[1])
    return [order[start : start + _AT_ONCE] for start in range(0, len(order), _AT_ONCE)]


def _batch(samples: Sequence[Sample], numbers: Sequence[int], device: Any) -> dict[str, Tensor]:
    """Return passages as a batch, one a row; what follows a passage is seen by none of its tokens."""
    import torch

    ids = [{"input_ids": samples[one]["input_ids"]} for one in numbers]
    batch = batches.padded(ids, range(len(numbers)), 0, device)
    rows, length = batch["input_ids"].shape
    return batch | {"position_ids": torch.arange(length, device=batch["input_ids"].device).expand(rows, length)}
