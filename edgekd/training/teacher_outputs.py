"""What the teacher says about every row: computed once, kept on disk in pieces, read batch by batch.

A piece is the logits, one layer's features, one layer's queries, keys and values, or the embedding. Each is a result of
its own, so that a student of another depth, or of other losses, asks the teacher only for what is not there yet.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UsageError, counted
from edgekd.core.memory import give_back
from edgekd.core.protocols import MULTI_LABEL, REGRESSION, Progress
from edgekd.core.tensors import Outputs, RequestedOutputs, TopLogits
from edgekd.data.splits import Splits
from edgekd.plan.plan import Plan
from edgekd.store.shards import Reader, Writer
from edgekd.training import engine, models
from edgekd.training.feature_extractor import FeatureExtractor

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

TRAINED_ON = ("train", "unlabelled", "augmented")
ROLES = (*TRAINED_ON, "selection", "calibration")  # never the test rows: those run under ONNX Runtime
SHARD_ROWS, DEEP_SHARD_ROWS = 1024, 128  # a shard is held in memory while it is made: fewer rows with features
MOST_LOGITS, TOP = 256, 64  # of more classes than the one, only the other's largest are kept of what is trained on
LOGITS, EMBEDDING = "logits", "embedding"
_TOP = ("top", "top_classes", "rest")
_EARLY = 1.25  # how much longer than the rest the first rows may be before all are judged by them


def pieces(wanted: RequestedOutputs) -> tuple[str, ...]:
    """Return the names of the pieces of what is wanted, the logits first: `features.3` is of the fourth layer."""
    features = tuple(f"features.{layer}" for layer in wanted.layers)
    attention = () if wanted.attention is None else (f"attention.{wanted.attention}",)
    return (LOGITS, *features, *attention, *((EMBEDDING,) if wanted.embedding else ()))


def roles_of(piece: str) -> tuple[str, ...]:
    """Return the roles whose rows a piece is kept of: beside the logits nothing is read of rows that do not train."""
    return ROLES if piece == LOGITS else TRAINED_ON


def compute(
    plan: Plan,
    splits: Splits,
    wanted: RequestedOutputs,
    missing: Sequence[str],
    teacher: Path,
    work: Path,
    progress: Progress,
) -> None:
    """Write the pieces of `wanted` that are `missing`, by name, into `work`: a folder of shards for each role.

    Half precision. Of many classes, rows that are trained on have the largest logits and the mass of the rest. Whole
    shards stay: a run that was killed goes on after them. Raises UsageError where they pass the plan's limit on disk,
    TeacherError where a ready teacher's classes stand in another order than the labels say.
    """
    engine.prepare(plan.seed, plan.threads)
    model = models.load(teacher, plan.task).to(engine.device())
    task, longest = plan.made_task, plan.student.survey.max_size
    exact = task.problem_type == REGRESSION  # numbers may be larger than half precision holds
    shared = task.problem_type not in ("", MULTI_LABEL)  # a row's mass is one: not of several labels, nor of embeddings
    asked = _only(wanted, missing)
    size = DEEP_SHARD_ROWS if asked.layers or asked.attention is not None else SHARD_ROWS
    counts = {role: len(getattr(splits, role)) for role in ROLES}
    progress.stage("teach: the teacher's outputs", sum(counts.values()))
    done = 0
    for role in ROLES:
        inputs = [row.input for row in getattr(splits, role)]
        writers = {piece: Writer(work / piece / role, size) for piece in missing if role in roles_of(piece)}
        first = min((writer.done for writer in writers.values()), default=len(inputs))
        done += first
        with FeatureExtractor(model, asked if role in TRAINED_ON else RequestedOutputs()) as taps:
            for start in range(first, len(inputs), size):
                samples = task.encode(teacher, inputs[start : start + size], longest)
                sparse = shared and role in TRAINED_ON
                rows = _rows(taps, samples, asked, sparse=sparse and not exact, exact=exact)
                for number, row in enumerate(rows, start=start):
                    for piece, writer in writers.items():
                        if number >= writer.done:  # a kill may have come between two pieces' shards
                            writer.append(row[piece])
                done += len(samples)
                _hold_to(plan.cache_mib, work, done, sum(counts[one] for one in TRAINED_ON))
                give_back()  # or memory grows with the rows
                progress.step(done)
        for writer in writers.values():
            writer.close()


def move(piece: str, work: Path, out: Path) -> None:
    """Move a finished piece from where it was computed to the folder `out`."""
    for role in roles_of(piece):
        os.replace(work / piece / role, out / role)


def _only(wanted: RequestedOutputs, missing: Collection[str]) -> RequestedOutputs:
    """Return what the missing pieces need of the model."""
    return RequestedOutputs(
        layers=tuple(layer for layer in wanted.layers if f"features.{layer}" in missing),
        attention=wanted.attention if f"attention.{wanted.attention}" in missing else None,
        embedding=wanted.embedding and EMBEDDING in missing,
        positions=wanted.positions,
    )


def _hold_to(limit_mib: float, work: Path, done: int, rows: int) -> None:
    """Raise UsageError where the limit is passed, or surely will be once what is kept of all `rows` is there."""
    mib = sum(file.stat().st_size for file in work.rglob("*.safetensors")) / 2**20
    whole = max(mib, mib * rows / done / _EARLY)
    if whole > limit_mib:
        raise UsageError(
            f"what the teacher says about {counted(rows, 'row')} takes {whole:,.3g} MiB on disk or more, above "
            f"{limit_mib:g}",
            fix=f"allow it (--cache-mib {math.ceil(1.5 * whole)}), or leave out losses that need features or attention",
        )


def _rows(
    taps: FeatureExtractor, samples: Sequence[Any], asked: RequestedOutputs, *, sparse: bool, exact: bool
) -> list[dict[str, dict[str, Array]]]:
    """Return each sample's outputs as they are kept, by piece and name: without padding, in half precision.

    Logits that are to be `exact` are kept whole.
    """
    import numpy as np

    kept: list[dict[str, dict[str, Array]]] = [{} for _ in samples]
    for rows, outputs in engine.evaluate(taps, samples, device=taps.model.device, pad=engine.pad_of(taps.model)):
        lengths = None if outputs.mask is None else outputs.mask.sum(dim=1).tolist()
        for piece, named in _named(outputs, asked, sparse=sparse).items():
            positions = lengths is not None and (piece not in (LOGITS, EMBEDDING) or outputs.logits.dim() == 3)
            for name, value in named.items():
                half = _kept(value.to("cpu"), whole=exact and piece == LOGITS).numpy()
                for place, row in enumerate(rows):
                    one = half[place, : lengths[place]] if positions and lengths is not None else half[place]
                    kept[row].setdefault(piece, {})[name] = np.ascontiguousarray(one)
    return kept


def _kept(value: torch.Tensor, *, whole: bool) -> torch.Tensor:
    """Return values in half precision, or `whole`; whole numbers in 32 bits."""
    if value.is_floating_point():
        return value.float() if whole else value.half()
    return value.int()


def _named(outputs: Outputs, asked: RequestedOutputs, *, sparse: bool) -> dict[str, dict[str, torch.Tensor]]:
    """Return a batch's outputs by piece, and by the name that they are kept under in it."""
    many = sparse and outputs.logits.shape[-1] > MOST_LOGITS
    named: dict[str, dict[str, torch.Tensor]] = {LOGITS: largest(outputs.logits) if many else {LOGITS: outputs.logits}}
    for layer, values in zip(asked.layers, outputs.features, strict=False):
        named[f"features.{layer}"] = {"features": values}
    if outputs.attention:
        named[f"attention.{asked.attention}"] = dict(zip(_ATTENTION, outputs.attention, strict=True))
    if outputs.embedding is not None:
        named[EMBEDDING] = {EMBEDDING: outputs.embedding}
    return named


_ATTENTION = ("queries", "keys", "values")


def largest(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the largest logits and their classes, and the one logit that all others have instead, of the same mass."""
    import torch

    values, classes = logits.topk(TOP, dim=-1)
    others = logits.scatter(-1, classes, -math.inf)
    rest = torch.logsumexp(others, dim=-1, keepdim=True) - math.log(logits.shape[-1] - TOP)
    return dict(zip(_TOP, (values, classes, rest), strict=True))


class TeacherOutputs:
    """What the teacher said about the rows of some roles, end to end, read from disk as it is asked for.

    `folders` has the folder of each piece, as `pieces` names them and in that order.
    """

    def __init__(self, folders: Mapping[str, Path], roles: Sequence[str], classes: int) -> None:
        self.readers = {
            piece: [Reader(folder / role) for role in roles]
            for piece, folder in folders.items()
            if set(roles) <= set(roles_of(piece))
        }
        self.classes = classes
        sizes = [len(reader) for reader in self.readers[LOGITS]]
        self.starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]

    def __len__(self) -> int:
        return self.starts[-1]

    def outputs(self, rows: Sequence[int], *, only: Collection[str] | None = None) -> Outputs:
        """Return the teacher's outputs for a batch, float32; what has positions is padded to the longest, with a mask.

        Of `only` those pieces, where they are given: nothing else is read.
        """
        import torch

        read = {
            piece: self._read(piece, rows) for piece in self.readers if only is None or piece in only or piece == LOGITS
        }
        stacked = {piece: {name: _stacked(values) for name, values in named.items()} for piece, named in read.items()}
        lengths = next(([len(row) for row in next(iter(read[piece].values()))] for piece in _positioned(read)), None)
        mask = None if lengths is None else torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        features = tuple(named["features"] for piece, named in stacked.items() if piece.startswith("features."))
        attention = next((named for piece, named in stacked.items() if piece.startswith("attention.")), {})
        said = stacked[LOGITS]
        return Outputs(
            logits=said[LOGITS] if LOGITS in said else torch.empty(0),
            features=features,
            attention=tuple(attention[name] for name in _ATTENTION if attention),
            embedding=stacked.get(EMBEDDING, {}).get(EMBEDDING),
            mask=mask,
            top=None if LOGITS in said else self._top(said),
        )

    def logits(self) -> torch.Tensor:
        """Return all of them: (rows, classes). Of rows that are trained on, few classes alone have them all."""
        import torch

        return torch.cat([self.outputs(rows, only=()).logits for rows in self._parts()])

    def by_position(self) -> list[Array]:
        """Return each row's logits by position: (positions, classes), of a model that says something at each."""
        found: list[Array] = []
        for rows in self._parts():
            outputs = self.outputs(rows, only=())
            assert outputs.mask is not None, "what has positions has a mask"
            found += [own[mask].numpy() for own, mask in zip(outputs.logits, outputs.mask, strict=True)]
        return found

    def first_choices(self) -> torch.Tensor:
        """Return the class of each row's largest logit: (rows,)."""
        import torch

        outputs = (self.outputs(rows, only=()) for rows in self._parts())
        return torch.cat([(one.logits.argmax(dim=-1) if one.top is None else one.top.argmax()) for one in outputs])

    def _parts(self) -> list[range]:
        return [range(start, min(start + SHARD_ROWS, len(self))) for start in range(0, len(self), SHARD_ROWS)]

    def _read(self, piece: str, rows: Sequence[int]) -> dict[str, list[Array]]:
        found: dict[str, list[Any]] = {}
        for reader, start, end in zip(self.readers[piece], self.starts, self.starts[1:], strict=False):
            places = [place for place, row in enumerate(rows) if start <= row < end]
            if not places:
                continue
            for name, values in reader.rows([rows[place] - start for place in places]).items():
                room = found.setdefault(name, [None] * len(rows))
                for number, place in enumerate(places):
                    room[place] = values[number]
        return found

    def _top(self, kept: dict[str, torch.Tensor]) -> TopLogits:
        values, classes, rest = (kept[name] for name in _TOP)
        return TopLogits(values, classes.long(), rest[..., 0], self.classes)


def _positioned(read: Mapping[str, Mapping[str, Sequence[Array]]]) -> list[str]:
    """Return the pieces whose rows have an axis of positions."""
    deep = [piece for piece in read if piece not in (LOGITS, EMBEDDING)]
    return [*deep, *(piece for piece in (LOGITS,) if next(iter(read[piece].values()))[0].ndim > 1)]


def _stacked(values: list[Array]) -> torch.Tensor:
    """Return arrays of one row each as a batch, the shorter ones padded by zeros: float32, or their own integers."""
    import numpy as np
    import torch

    longest = max(len(value) for value in values)
    whole = np.zeros((len(values), longest, *values[0].shape[1:]), dtype=values[0].dtype)
    for place, value in enumerate(values):
        whole[place, : len(value)] = value
    made = torch.from_numpy(whole)
    return made.float() if made.is_floating_point() else made
