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
    import numpy as np

    from edgekd.runner import pack

    with tempfile.TemporaryDirectory(prefix="edgekd-run-") as folder:
        pack(samples, Path(folder, "inputs.npz"))
        result = Path(folder, "outputs.npy")
        make("devices", "local").run(
            "predict", model=str(model), inputs=str(Path(folder, "inputs.npz")), threads=threads, outputs=str(result)
        )
        found: np.ndarray[Any, Any] = np.load(result, allow_pickle=False)
    return found
