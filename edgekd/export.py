"""Export: the trained model as ONNX, and the proof that it says what torch says."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import RuntimeCannotLoad
from edgekd.core.registry import make
from edgekd.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

PARITY_ROWS = 16
PART_MIB = 256  # of inputs that one process is given
PARITY_LIMIT = 1e-3  # largest difference of a logit: fp32 in another order, nothing more


def export(plan: Plan, model_folder: Path, inputs: list[Any], out: Path) -> None:
    """Write `out/model.onnx` from a model's folder. Raises RuntimeCannotLoad where ONNX and torch disagree."""
    import numpy as np

    from edgekd import engine, models

    engine.prepare(plan.seed, plan.threads)
    model = models.load(model_folder, plan.task)
    path = make("exporters", models.exporter(model)).export(model, out, task=plan.task, target=plan.target)
    samples = make("tasks", plan.task).encode(model_folder, inputs[:PARITY_ROWS], plan.student.survey.max_size)
    difference = float(np.abs(outputs(path, samples, threads=1) - engine.logits(model, samples).numpy()).max())
    if not difference < PARITY_LIMIT:
        raise RuntimeCannotLoad(
            f"the exported model disagrees with torch by {difference:.2g} on {len(samples)} real inputs",
            fix="this is a fault of the exporter for this architecture: please report it with the teacher's name",
        )


def outputs(model: Path, samples: Sequence[Sample], *, threads: int) -> np.ndarray[Any, Any]:
    """Outputs of every sample under ONNX Runtime in a fresh process, each run alone: (samples, classes)."""
    return answers(model, samples, threads=threads)[0]


def answers(model: Path, samples: Sequence[Sample], *, threads: int) -> tuple[np.ndarray[Any, Any], list[str]]:
    """The same, and the SHA-256 of each sample's output. In parts: samples may be large, and read as they are used."""
    import numpy as np

    from edgekd.runner import pack

    rows = max(1, PART_MIB * 2**20 // sum(value.nbytes for value in samples[0].values()))
    found, hashes = [], []
    with tempfile.TemporaryDirectory(prefix="edgekd-run-") as folder:
        inputs, result = Path(folder, "inputs.npz"), Path(folder, "outputs.npy")
        for start in range(0, len(samples), rows):
            pack(samples[start : start + rows], inputs)
            said = make("devices", "local").run(
                "predict", model=str(model), inputs=str(inputs), threads=threads, outputs=str(result)
            )
            found.append(np.load(result, allow_pickle=False))
            hashes += said["row_sha256"]
    return np.concatenate(found), hashes
