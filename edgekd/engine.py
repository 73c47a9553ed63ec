"""The training loop that teaching and distilling share, and batches that waste nothing on padding."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError
from edgekd.core.quiet import hush
from edgekd.core.tensors import Outputs
from edgekd.plan import Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from edgekd.core.protocols import Progress, Sample

_BUCKET = 16  # batches whose rows are sorted by length together


def prepare(seed: int, threads: int) -> None:
    """Fix seeds and threads: training is bit-reproducible at a fixed thread count, and only there."""
    import numpy as np
    import torch
    import transformers

    hush()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()


def fit(
    model: Any,
    samples: Sequence[Sample],
    objective: Callable[[Outputs, list[int]], Tensor],
    training: Training,
    *,
    seed: int,
    progress: Progress,
) -> None:
    """Train `model` in place on `samples`; `objective` gives a batch's loss from its outputs and its rows' numbers.

    AdamW, linear warm-up, cosine to zero. Raises EdgeKDError as soon as the loss is not finite.
    """
    import torch
    from accelerate import Accelerator
    from transformers import get_cosine_schedule_with_warmup

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    optimizer = torch.optim.AdamW(_groups(model, training), weight_decay=training.weight_decay, fused=True)
    steps = steps_of(len(samples), training)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(steps * training.warmup), steps)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    model.train()
    step = 0
    for epoch in range(training.epochs):
        order = _batches(samples, training.batch_size, random.Random(seed * 1000 + epoch))  # noqa: S311
        for rows in order[accelerator.process_index :: accelerator.num_processes]:
            batch = _batch(samples, rows, model, accelerator.device)
            loss = objective(Outputs(logits=model(**batch).logits), rows)
            if not torch.isfinite(loss):
                raise EdgeKDError(
                    f"training diverged: the loss is {loss.item()} at step {step + 1} of {steps}",
                    fix="lower --learning-rate to a third of what it is; nothing of this run was kept",
                )
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step()
                schedule.step()
            step += accelerator.num_processes
            progress.step(min(step, steps), f"epoch {epoch + 1}/{training.epochs}, loss {loss.item():.3f}")
    accelerator.unwrap_model(model).eval()


def steps_of(samples: int, training: Training) -> int:
    """How many optimizer steps a run takes."""
    size = training.batch_size
    return training.epochs * (math.ceil(samples / size) - _leaves_one(samples, size))


def logits(
    model: Any, samples: Sequence[Sample], *, batch_size: int = 64, progress: Progress | None = None
) -> torch.Tensor:
    """Logits (samples, classes), computed in order of length so that padding is small."""
    import torch

    model.eval()
    out = torch.zeros(len(samples), model.config.num_labels)
    sizes = _sizes(samples)
    order = sorted(range(len(samples)), key=sizes.__getitem__)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = _batch(samples, rows, model, torch.device("cpu"))
            out[rows] = model(**batch).logits.float()
            if progress:
                progress.step(start + len(rows))
    return out


def _groups(model: Any, training: Training) -> list[dict[str, Any]]:
    """The body at the peak rate; what stands outside it, and the pooler, at `head_factor` times that."""
    body = model.base_model_prefix + "."
    head: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        fresh = not name.startswith(body) or ".pooler." in name
        (head if fresh else rest).append(parameter)
    rate = training.learning_rate
    return [{"params": rest, "lr": rate}, {"params": head, "lr": rate * training.head_factor}]


def _batches(samples: Sequence[Sample], size: int, order: random.Random) -> list[list[int]]:
    """Shuffled batches of rows of like length: shuffled, sorted within buckets, batches shuffled again.

    A lone last row joins the batch before it: batch norm has no variance to learn from one row.
    """
    sizes = _sizes(samples)
    rows = list(range(len(samples)))
    order.shuffle(rows)
    batches: list[list[int]] = []
    for start in range(0, len(rows), size * _BUCKET):
        bucket = sorted(rows[start : start + size * _BUCKET], key=sizes.__getitem__)
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    if _leaves_one(len(samples), size):
        lone = batches.pop()
        batches[-1] += lone
    order.shuffle(batches)
    return batches


def _leaves_one(samples: int, size: int) -> bool:
    """Whether batches of that size leave one row alone."""
    return samples > size and samples % size == 1


def _sizes(samples: Sequence[Sample]) -> list[int]:
    """What rows of one batch should share: a text's tokens; images and series are all of one size."""
    if "input_ids" not in samples[0]:
        return [0] * len(samples)
    return [sample["input_ids"].shape[1] for sample in samples]


def _batch(samples: Sequence[Sample], rows: list[int], model: Any, device: torch.device) -> dict[str, Tensor]:
    """The rows as one batch, texts padded to the longest of them: (rows, ...) for each input."""
    import numpy as np
    import torch

    picked = [samples[row] for row in rows]
    batch = {}
    for name in picked[0]:
        values = [sample[name] for sample in picked]
        longest = max(value.shape[1] for value in values)
        if any(value.shape[1] < longest for value in values):
            pad = model.config.pad_token_id if name == "input_ids" else 0
            values = [np.pad(value, ((0, 0), (0, longest - value.shape[1])), constant_values=pad) for value in values]
        batch[name] = torch.from_numpy(np.concatenate(values)).to(device)
    return batch
