"""The training loop that teaching and distilling share: killed at any moment, it goes on from a minute before."""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError
from edgekd.core.files import writing
from edgekd.core.quiet import silence_libraries
from edgekd.core.seals import is_whole, seal
from edgekd.plan.plan import Training
from edgekd.training import batches

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from edgekd.core.protocols import Progress, Sample

_LOOKS = 30  # at the validation rows, at most: runs of many epochs shall not be picked from more of them
CHECKPOINT_S = 45.0  # between two checkpoints: a kill costs less than a minute
Score = tuple[float, ...]  # of a validation, the larger the better


@dataclass
class _Position:
    """How far a run is: all of its state that torch does not keep."""

    epoch: int = 0
    batch: int = 0  # of the epoch, the next to be taken
    step: int = 0
    best: Score | None = None
    best_epoch: int = 0
    history: tuple[Score, ...] = ()  # of each look


@dataclass(frozen=True)
class Trained:
    """How a run ended: the scores of the validation's looks, and the epoch (from 1) whose weights were kept."""

    scores: tuple[Score, ...]
    kept_epoch: int
    epochs: int  # that were run: fewer than asked for where it stopped early


def prepare(seed: int, threads: int) -> None:
    """Fix seeds and threads: training is bit-reproducible at a fixed thread count, and only there."""
    import numpy as np
    import torch
    import transformers

    silence_libraries()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()


def steps_of(samples: Sequence[Sample], training: Training, seed: int) -> int:
    """How many optimizer steps a run takes at most: batches hold tokens, so their number varies with the epoch."""
    lengths = batches.sizes(samples)
    return sum(len(_order(lengths, training, seed, epoch)) for epoch in range(training.epochs))


def fit(
    learner: Any,
    samples: Sequence[Sample],
    training: Training,
    *,
    seed: int,
    progress: Progress,
    validate: Callable[[], Score] | None = None,
    work: Path | None = None,
) -> Trained:
    """Train `learner` in place; `learner(batch, rows)` is a batch's loss, `learner.model` the model that reads it.

    AdamW, linear warm-up, cosine to zero. With `validate` the weights of its best epoch are kept, and a run that no
    longer improves stops. With a folder `work` the run's state is kept there, and a run that finds one goes on with it,
    to the same bits at the same number of threads. Raises EdgeKDError as soon as the loss is not finite.
    """
    import torch
    from accelerate import Accelerator
    from transformers import get_cosine_schedule_with_warmup

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise EdgeKDError(
            f"{accelerator.num_processes} processes were started for one build; they would wait for each other",
            fix="start edgekd by itself, without `accelerate launch`: it trains on one device",
        )
    lengths, pad = batches.sizes(samples), pad_of(learner.model)
    optimizer = torch.optim.AdamW(_groups(learner, training), weight_decay=training.weight_decay, fused=True)
    steps = steps_of(samples, training, seed)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(steps * training.warmup), steps)
    prepared, optimizer, schedule = accelerator.prepare(learner, optimizer, schedule)
    keeper = _Keeper(accelerator, learner, work)
    at = keeper.resume()
    patience = training.patience or max(5, training.epochs // 2)
    look = max(1, round(training.epochs / _LOOKS))
    prepared.train()
    while at.epoch < training.epochs and (at.best is None or at.epoch - at.best_epoch < patience):
        order = _order(lengths, training, seed, at.epoch)
        while at.batch < len(order):
            rows = order[at.batch]
            loss = prepared(batches.padded(samples, rows, pad, accelerator.device), rows)
            if not torch.isfinite(loss):
                keeper.forget()
                raise EdgeKDError(
                    f"training diverged: the loss is {loss.item()} at step {at.step + 1} of {steps}",
                    fix="lower --learning-rate to a third of what it is; nothing of this run was kept",
                )
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), training.max_grad_norm)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step()
                schedule.step()
            at.batch, at.step = at.batch + 1, at.step + 1
            progress.step(at.step, f"epoch {at.epoch + 1}/{training.epochs}, loss {loss.item():.3f}")
            keeper.checkpoint(at)
        at.epoch, at.batch = at.epoch + 1, 0
        if validate is not None and (at.epoch % look == 0 or at.epoch == training.epochs):
            learner.eval()
            at.history = (*at.history, validate())
            prepared.train()
            if at.best is None or at.history[-1] > at.best:
                at.best, at.best_epoch = at.history[-1], at.epoch
                keeper.keep_best()
    keeper.restore_best()
    learner.eval().to("cpu")
    return Trained(at.history, at.best_epoch if at.best is not None else at.epoch, at.epoch)


def evaluate(
    run: Callable[[dict[str, Tensor]], Any],
    samples: Sequence[Sample],
    *,
    device: torch.device,
    pad: int = 0,
    batch_size: int = 64,
) -> Iterator[tuple[list[int], Any]]:
    """What `run(batch)` says of all samples, batch by batch with the rows' numbers, without gradients.

    In order of length, so that padding is small, and as many tokens as `batch_size` rows of the median length. `device`
    is where the batches go.
    """
    import torch

    lengths = batches.sizes(samples)
    for rows in batches.by_length(range(len(samples)), lengths, batches.tokens_of(lengths, batch_size)):
        with torch.no_grad():
            yield rows, run(batches.padded(samples, rows, pad, device))


def device() -> torch.device:
    """Where models run that need no training: the first GPU, where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> Any:
    """Within the block products are of bfloat16 where the device has units for it: a GPU, a CPU with AMX.

    Weights, sums and what a block returns of losses stay float32. Figures that are told are computed outside of it.
    """
    import torch

    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def pad_of(model: Any) -> int:
    """The token that a model's texts are padded with; 0 where it reads none."""
    return getattr(model.config, "pad_token_id", None) or 0


def logits(model: Any, samples: Sequence[Sample], *, batch_size: int = 64) -> torch.Tensor:
    """Logits (samples, classes) of a model in evaluation mode, on the CPU."""
    import torch

    model.eval()
    out: torch.Tensor | None = None
    said = evaluate(
        lambda batch: model(**batch).logits, samples, device=model.device, pad=pad_of(model), batch_size=batch_size
    )
    for rows, values in said:
        whole = values.float().cpu()
        out = torch.zeros(len(samples), whole.shape[-1]) if out is None else out
        out[rows] = whole
    return torch.zeros(0, model.config.num_labels) if out is None else out


def by_position(model: Any, samples: Sequence[Sample]) -> list[np.ndarray[Any, Any]]:
    """Logits of each sample's positions, (positions, classes), of a model in evaluation mode, on the CPU."""
    model.eval()
    lengths = batches.sizes(samples)
    found: dict[int, np.ndarray[Any, Any]] = {}
    for rows, values in evaluate(lambda batch: model(**batch).logits, samples, device=model.device, pad=pad_of(model)):
        whole = values.float().cpu().numpy()
        found |= {row: whole[place, : lengths[row]] for place, row in enumerate(rows)}
    return [found[row] for row in range(len(samples))]


def _order(lengths: Any, training: Training, seed: int, epoch: int) -> list[list[int]]:
    return batches.ordered(lengths, training.batch_size, seed * 1000 + epoch)


def _groups(learner: Any, training: Training) -> list[dict[str, Any]]:
    """The body at the peak rate; what stands outside it, and the pooler, at `head_factor` times that."""
    body = f"model.{learner.model.base_model_prefix}."
    head: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in learner.named_parameters():
        fresh = not name.startswith(body) or ".pooler." in name
        (head if fresh else rest).append(parameter)
    rate = training.learning_rate
    return [{"params": rest, "lr": rate}, {"params": head, "lr": rate * training.head_factor}]


class _Keeper:
    """What a run keeps: its best weights, and on disk, where it has a folder, all that it needs to go on.

    A checkpoint is written aside, sealed by its files' hashes, and moved into place; the one before it goes only then.
    """

    def __init__(self, accelerator: Any, learner: Any, work: Path | None) -> None:
        self.accelerator, self.learner, self.work = accelerator, learner, work
        self.best: dict[str, Tensor] | None = None
        self.last = time.monotonic()

    def resume(self) -> _Position:
        """The position of the newest whole checkpoint, its state restored; the beginning where there is none."""
        import torch
        from safetensors.torch import load_file

        for place in self._places():
            if not is_whole(place):
                continue
            self.accelerator.load_state(str(place / "state"))
            # Accelerate restores it as well, but passes over what it cannot restore: dropout must not differ
            torch.set_rng_state(load_file(place / "random.safetensors")["torch"])
            if (place / "best.safetensors").exists():
                self.best = load_file(place / "best.safetensors")
            told = json.loads((place / "position.json").read_text(encoding="utf-8"))
            best = None if told["best"] is None else tuple(told["best"])
            return _Position(**{**told, "best": best, "history": tuple(map(tuple, told["history"]))})
        return _Position()

    def checkpoint(self, at: _Position) -> None:
        """Write the run's state where the last is CHECKPOINT_S old."""
        import torch
        from safetensors.torch import save_file

        if self.work is None or time.monotonic() - self.last < CHECKPOINT_S:
            return
        before = self._places()
        with writing(self.work / f"checkpoint-{at.step:09d}", seal=seal) as place:
            self.accelerator.save_state(str(place / "state"))
            save_file({"torch": torch.get_rng_state()}, place / "random.safetensors")
            if self.best is not None:
                packed = {name: value.contiguous() for name, value in self.best.items()}  # convnets' are channels last
                save_file(packed, place / "best.safetensors")
            (place / "position.json").write_text(json.dumps(asdict(at)), encoding="utf-8")
        for old in before:
            shutil.rmtree(old, ignore_errors=True)
        self.last = time.monotonic()

    def forget(self) -> None:
        """Leave nothing of the run: it would only end the same way again."""
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)

    def keep_best(self) -> None:
        """Remember the weights as they are."""
        self.best = {name: value.detach().clone() for name, value in self.learner.state_dict().items()}

    def restore_best(self) -> None:
        """The best weights, where some were remembered."""
        if self.best is not None:
            self.learner.load_state_dict(self.best)

    def _places(self) -> list[Path]:
        """Checkpoints, the newest first."""
        return sorted(self.work.glob("checkpoint-*"), reverse=True) if self.work else []
