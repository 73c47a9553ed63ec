"""Asking: a model's answers and instructions on the target's core, which an emulator stands for."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression.choose import FEWEST, FP32
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.model import Model
from edgekd.core.predictions import by_model
from edgekd.core.registry import make
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample

_PATIENCE = 4  # times the seconds that were asked for, where these are too few for a figure
_GOLDEN_S = 300.0  # far more than small models take: the golden vectors of the same plan are to be the same


def answers(
    plan: Plan, models: Mapping[str, Model], samples: Sequence[Sample], limit_s: float, keep: Mapping[str, str] | None
) -> tuple[dict[str, list[Prediction]], dict[str, Any]]:
    """Each model's answers to the first `n` samples, as many as the seconds allow, in as many processes as threads.

    Where that is fewer than FEWEST, which move no figure, it goes on until there are so many, for at most _PATIENCE
    times the seconds. Returns outputs by model, and `n` of how many, where and how long.
    """
    from edgekd.onboard.runner import pack, unpack

    count = min(plan.threads, len(samples))
    shards = [range(first, len(samples), count) for first in range(count)]
    rule = None if keep is None else dict(keep)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgekd-target-") as place:
        device = make("devices", "qemu", cpu=plan.target.emulator_cpu)

        def ask(shard: range) -> dict[str, list[Prediction]]:
            inputs, said = Path(place, f"{shard.start}.npz"), Path(place, f"{shard.start}.said.npz")
            pack([samples[row] for row in shard], inputs)
            jobs = {name: model.job | {"inputs": str(inputs), "keep": rule} for name, model in models.items()}
            running.run(
                "answers",
                models=jobs,
                threads=plan.target.threads,
                outputs=str(said),
                limit_s=limit_s,
                least=math.ceil(FEWEST / count),
                most_s=_PATIENCE * limit_s,
            )
            return by_model(unpack(said), models)

        with device.up() as running, ThreadPoolExecutor(count) as workers:
            parts = list(workers.map(ask, shards))
            host = running.host
    done = [len(part[next(iter(models))]) for part in parts]
    # a process that was quicker than another went further: rows behind the first that is missing are no stratified part
    n = min(shard[rows] if rows < len(shard) else len(samples) for shard, rows in zip(shards, done, strict=True))
    joined = {name: [parts[row % count][name][row // count] for row in range(n)] for name in models}
    return joined, {
        "n": n,
        "of": len(samples),
        "cpu": plan.target.emulator_cpu,
        "host": host,
        "seconds": time.monotonic() - started,
    }


def refused(
    plan: Plan, models: Mapping[str, Model], samples: Sequence[Sample], keep: Mapping[str, str] | None
) -> dict[str, str]:
    """The models that the target's runtime does not run, each asked alone, and why."""
    found = {}
    for name, model in models.items():
        try:
            answers(plan, {name: model}, samples, 0, keep)
        except RuntimeCannotLoad as error:
            found[name] = error.message
    return found


def costs(
    plan: Plan, models: Mapping[str, Model], samples: Sequence[Sample]
) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """Instructions of an inference by class on the target's core, and over fp32's; why there are none."""
    from edgekd.onboard.runner import pack

    with tempfile.TemporaryDirectory(prefix="edgekd-count-") as place:
        inputs = Path(place, "inputs.npz")
        pack(list(samples), inputs)
        jobs = {name: model.job | {"inputs": str(inputs)} for name, model in models.items()}
        try:
            with make("devices", "qemu", cpu=plan.target.emulator_cpu).up() as device:
                counts = device.run("count", models=jobs, threads=1)
        except EdgeKDError as error:
            return None, f"{error.message}; {error.fix}"
    plain = counts[FP32]["instructions"]
    return {name: own | {"relative": own["instructions"] / plain} for name, own in counts.items()}, ""


def golden(plan: Plan, model: Model, samples: Sequence[Sample], out: Path) -> None:
    """Write `said.npz` into `out`: the model's answers there, `own` and with graph optimizations off, `plain`.

    Packed, as the task keeps them; of a model that takes longer than _GOLDEN_S, of the first samples. `host.txt`:
    where.
    """
    from edgekd.onboard.runner import pack

    with tempfile.TemporaryDirectory(prefix="edgekd-golden-") as place:
        inputs = Path(place, "inputs.npz")
        pack(list(samples), inputs)
        own = model.job | {"inputs": str(inputs), "keep": dict(plan.made_task.keep)}
        with make("devices", "qemu", cpu=plan.target.emulator_cpu).up() as device:
            device.run(
                "answers",
                models={"own": own, "plain": own | {"optimize": False}},
                threads=1,
                outputs=str(out / "said.npz"),
                limit_s=_GOLDEN_S,
            )
            (out / "host.txt").write_text(device.host, encoding="utf-8")
