"""Predict: what a model answers under ONNX Runtime, each input alone, in a fresh process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.core.model import Model
from edgekd.core.registry import make

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample

PART_MIB = 256  # of inputs that one process is given


def outputs(
    model: Model, samples: Sequence[Sample], *, threads: int, keep: Mapping[str, str] | None = None
) -> list[Prediction]:
    """Outputs of every sample under ONNX Runtime in a fresh process, each run alone."""
    return answers(model, samples, threads=threads, keep=keep)[0]


def answers(
    model: Model, samples: Sequence[Sample], *, threads: int, keep: Mapping[str, str] | None = None
) -> tuple[list[Prediction], list[str]]:
    """The same, and the SHA-256 of each sample's outputs. In parts: samples may be large, and read as they are used.

    `keep` is the task's output rule; without one all outputs are kept as they are.
    """
    from edgekd.onboard.runner import pack, unpack

    rule = None if keep is None else dict(keep)
    rows = max(1, PART_MIB * 2**20 // sum(value.nbytes for value in samples[0].values()))
    found: list[Prediction] = []
    hashes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgekd-run-") as folder:
        inputs, result = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        for start in range(0, len(samples), rows):
            pack(samples[start : start + rows], inputs)
            said = make("devices", "local").run(
                "predict", **model.job, inputs=str(inputs), threads=threads, outputs=str(result), keep=rule
            )
            found += unpack(result)
            hashes += said["row_sha256"]
    return found, hashes
