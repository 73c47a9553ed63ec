"""Teach: make the teacher ready for the task, and keep what it says about every row."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UsageError
from edgekd.core.memory import give_back
from edgekd.core.protocols import Progress
from edgekd.core.registry import make
from edgekd.core.shards import Reader, Writer
from edgekd.core.tensors import NO_LABEL, Outputs, Targets, Wanted
from edgekd.data import orders
from edgekd.data.splits import Example, Splits
from edgekd.plan import LossTerm, Plan
from edgekd.training import engine, models
from edgekd.training.learner import Learner
from edgekd.training.taps import Taps

if TYPE_CHECKING:
    import numpy as np
    import torch

TRAINED_ON = ("train", "unlabelled", "augmented")
ROLES = (*TRAINED_ON, "selection", "calibration")  # never the test rows: those run under ONNX Runtime
SHARD_ROWS, DEEP_SHARD_ROWS = 1024, 128  # a shard is held in memory while it is made: fewer rows with features
MOST_LOGITS, TOP = 256, 64  # of more classes than the one, only the other's largest are kept
_EARLY = 1.25  # how much longer than the rest the first rows may be before all are judged by them
_LOGITS = ("logits", "top", "top_classes", "rest")
_TOKENS = ("features", "attention")  # of texts these have a row a token


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
    truth = label_tensor(splits, splits.train)
    learner = Learner(model, (LossTerm("hard_labels", 1.0),), lambda rows: Targets(None, truth[rows]))
    progress.stage("teach: train the teacher on the labels", engine.steps_of(samples, training, plan.seed))
    engine.fit(learner, samples, training, seed=plan.seed, progress=progress, work=work)
    model.save_pretrained(out, safe_serialization=True)


def keep_outputs(
    plan: Plan, splits: Splits, wanted: Wanted, teacher_folder: Path, out: Path, work: Path, progress: Progress
) -> None:
    """Write what the teacher says about every row that it may see, computed once: a folder of shards for each role.

    Of the rows that nobody trains on logits alone. Half precision; of many classes the largest logits and the mass of
    the rest. Whole shards stay in `work` until all are there: a run that was killed goes on after them.
    """
    engine.prepare(plan.seed, plan.threads)
    model = models.load(teacher_folder, plan.task).to(engine.device())
    task = make("tasks", plan.task)
    progress.stage("teach: the teacher's outputs", sum(len(getattr(splits, role)) for role in ROLES))
    done, size = 0, DEEP_SHARD_ROWS if wanted.layers or wanted.attention is not None else SHARD_ROWS
    for role in ROLES:
        rows = getattr(splits, role)
        writer = Writer(work / role, size)
        done += writer.done
        with Taps(model, wanted if role in TRAINED_ON else Wanted()) as taps:
            for start in range(writer.done, len(rows), size):
                part = [row.input for row in rows[start : start + size]]
                samples = task.encode(teacher_folder, part, plan.student.survey.max_size)
                for row in _said(taps, samples):
                    writer.append(row)
                done += len(part)
                _hold_to(plan.cache_mib, work, done, sum(len(getattr(splits, one)) for one in TRAINED_ON))
                give_back()  # or memory grows with the rows
                progress.step(done)
        writer.close()
    check_order(plan, splits, work)
    for role in ROLES:
        os.replace(work / role, out / role)


def _hold_to(limit_mib: float, work: Path, done: int, rows: int) -> None:
    """Raises UsageError where the limit is passed, or surely will be once what is kept of all `rows` is there."""
    mib = sum(file.stat().st_size for file in work.rglob("*.safetensors")) / 2**20
    whole = max(mib, mib * rows / done / _EARLY)
    if whole > limit_mib:
        raise UsageError(
            f"what the teacher says about {rows} rows takes {whole:,.3g} MiB on disk or more, above {limit_mib:g}",
            fix=f"allow it (--cache-mib {math.ceil(1.5 * whole)}), or leave out losses that need features or attention",
        )


def _said(taps: Taps, samples: Sequence[Any]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Each sample's outputs as they are kept: logits, or their largest; features without padding."""
    import numpy as np

    kept: list[dict[str, np.ndarray[Any, Any]]] = [{} for _ in samples]
    for rows, outputs in engine.evaluate(taps, samples, device=taps.model.device, pad=engine.pad_of(taps.model)):
        for name, value in _named(outputs).items():
            half = value.to("cpu").half().numpy() if value.is_floating_point() else value.int().numpy()
            for place, row in enumerate(rows):
                one = half[place]
                if outputs.mask is not None and name.split(".")[0] in _TOKENS:
                    one = one[: int(outputs.mask[place].sum())]
                kept[row][name] = np.ascontiguousarray(one)
    return kept


def _named(outputs: Outputs) -> dict[str, torch.Tensor]:
    """A batch's outputs by the name they are kept under."""
    named = _top(outputs.logits) if outputs.logits.shape[1] > MOST_LOGITS else {"logits": outputs.logits}
    named |= {f"features.{number}": value for number, value in enumerate(outputs.features)}
    named |= {f"attention.{number}": value for number, value in enumerate(outputs.attention)}
    return named if outputs.embedding is None else named | {"embedding": outputs.embedding}


def _top(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """The largest logits and their classes; `rest`: the one logit that all others have instead, of the same mass."""
    import torch

    values, classes = logits.topk(TOP, dim=1)
    others = logits.scatter(1, classes, -math.inf)
    rest = torch.logsumexp(others, dim=1) - math.log(logits.shape[1] - TOP)
    return {"top": values, "top_classes": classes, "rest": rest[:, None]}


def selection_logits(plan: Plan, outputs: Path) -> np.ndarray[Any, Any]:
    """The teacher's logits on the selection rows: (rows, classes)."""
    found: np.ndarray[Any, Any] = Said(outputs, ("selection",), len(plan.data.classes)).logits().numpy()
    return found


def check_order(plan: Plan, splits: Splits, outputs: Path) -> None:
    """Raises TeacherError where a ready teacher's classes stand in another order than the labels say."""
    if plan.teacher.ready:
        labels = label_tensor(splits, splits.train).numpy()
        said = Said(outputs, ("train",), len(splits.classes)).logits().argmax(dim=1).numpy()
        if doubt := orders.class_order_doubt(said, labels, splits.classes):
            raise orders.class_order_error(plan.teacher.name, doubt)


class Said:
    """What the teacher said about the rows of some roles, end to end, read from disk as it is asked for."""

    def __init__(self, folder: Path, roles: Sequence[str], classes: int) -> None:
        self.readers = [Reader(folder / role) for role in roles]
        self.classes = classes
        self.starts = [sum(map(len, self.readers[:number])) for number in range(len(self.readers) + 1)]

    def __len__(self) -> int:
        return self.starts[-1]

    def outputs(self, rows: Sequence[int], *, only: Collection[str] | None = None) -> Outputs:
        """The teacher's outputs for a batch, float32; features of texts are padded to the longest, with their mask.

        Of `only` those names, where they are given: nothing else is read.
        """
        import torch

        found: list[dict[str, Any]] = [{} for _ in rows]
        for reader, start, end in zip(self.readers, self.starts, self.starts[1:], strict=False):
            places = [place for place, row in enumerate(rows) if start <= row < end]
            if places:
                said = reader.rows([rows[place] - start for place in places], only)
                for number, place in enumerate(places):
                    found[place] = {name: values[number] for name, values in said.items()}
        stacked = {name: _stacked([row[name] for row in found]) for name in found[0]}
        lengths = [len(row["features.0"] if "features.0" in row else row.get("attention.0", ())) for row in found]
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None] if max(lengths) else None
        return Outputs(
            logits=stacked["logits"] if "logits" in stacked else self._spread(stacked),
            features=_series(stacked, "features"),
            attention=_series(stacked, "attention"),
            embedding=stacked.get("embedding"),
            mask=mask,
        )

    def logits(self) -> torch.Tensor:
        """All of them: (rows, classes)."""
        import torch

        parts = range(0, len(self), SHARD_ROWS)
        ranges = (range(start, min(start + SHARD_ROWS, len(self))) for start in parts)
        return torch.cat([self.outputs(rows, only=_LOGITS).logits for rows in ranges])

    def _spread(self, kept: dict[str, torch.Tensor]) -> torch.Tensor:
        full = kept["rest"].expand(-1, self.classes).clone()
        return full.scatter_(1, kept["top_classes"].long(), kept["top"])


def _stacked(values: list[np.ndarray[Any, Any]]) -> torch.Tensor:
    """Arrays of one row each as a batch, the shorter ones padded by zeros: float32, or their own integers."""
    import numpy as np
    import torch

    longest = max(len(value) for value in values)
    whole = np.zeros((len(values), longest, *values[0].shape[1:]), dtype=values[0].dtype)
    for place, value in enumerate(values):
        whole[place, : len(value)] = value
    made = torch.from_numpy(whole)
    return made.float() if made.is_floating_point() else made


def _series(stacked: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, ...]:
    count = sum(key.startswith(f"{name}.") for key in stacked)
    return tuple(stacked[f"{name}.{number}"] for number in range(count))


def label_tensor(splits: Splits, rows: Sequence[Example]) -> torch.Tensor:
    """Labels of rows as class numbers (rows,), NO_LABEL where unknown."""
    import torch

    numbers = {name: number for number, name in enumerate(splits.classes)}
    return torch.tensor([numbers[row.label] if row.label else NO_LABEL for row in rows])
