"""Golden vectors: inputs, what each ISA answers to them, and how far an answer may be from that."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.model import Model
from edgekd.core.registry import make
from edgekd.core.results import this_host
from edgekd.data.splits import Splits
from edgekd.onboard import verify
from edgekd.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

ROWS = 16
_NATURE = {
    "synthetic": "drawn at random, nobody's data", "test": "held-out samples",
    "file": "rows of a file that the builder gave",
}  # fmt: skip


def inputs(plan: Plan, splits: Splits, encoder: Path) -> list[Sample]:
    """The golden inputs as the plan asks for them; `encoder` has the tokenizer or preprocessing."""
    task = make("tasks", plan.task)
    rows = splits.test if plan.golden == "test" else splits.known
    few = [row.input for row in rows[:: max(1, len(rows) // ROWS)][:ROWS]]
    given = [row.input for row in splits.golden]
    samples = task.encode(encoder, given or few, plan.student.survey.max_size)
    return list(task.synthetic(samples, ROWS, plan.seed) if plan.golden == "synthetic" else samples)


def write(plan: Plan, samples: Sequence[Sample], model: Model, plain: Model, there: Path | None, folder: Path) -> None:
    """Write inputs.npz, expected.npz and golden.json into `folder`.

    Same ISA: four times the spread between ONNX Runtime's graph optimizations, at least half the quantization
    error (kernels of one ISA round sums in different orders). Other ISA: twice the quantization error, from fp32.
    `there` has what an ARM target's own kernels answered, where they could be asked; of a slow model the first rows.
    """
    import numpy as np

    folder.mkdir()
    named: dict[str, Any] = {
        f"{row}.{name}": values for row, sample in enumerate(samples) for name, values in sample.items()
    }
    np.savez(folder / "inputs.npz", **named)
    own, spread = _answers(model, samples)
    float32, _ = _answers(plain, samples)
    floor = 1e-4 * float(np.abs(own).max())
    here = platform.machine()
    by_isa, recorded = {here: (own, spread)}, {here: this_host().name}
    if there is not None:
        with np.load(there / "said.npz", allow_pickle=False) as said:
            by_isa[plan.target.arch] = said["own"], float(np.abs(said["own"] - said["plain"]).max())
        recorded[plan.target.arch] = (there / "host.txt").read_text(encoding="utf-8")
    errors = {isa: float(np.abs(said - float32[: len(said)]).max()) for isa, (said, _) in by_isa.items()}
    tolerance = {isa: max(4 * scatter, errors[isa] / 2, floor) for isa, (_, scatter) in by_isa.items()}
    error = max(errors.values())
    tolerance["float32"] = max(2 * error, 4 * spread, floor)
    expected: dict[str, Any] = {isa: said for isa, (said, _) in by_isa.items()}
    np.savez(folder / "expected.npz", float32=float32, **expected)
    rules = {
        "inputs": _NATURE[plan.golden], "count": len(samples), "tolerance": tolerance, "spread": spread,
        "quantization_error": error, "rows": {isa: len(said) for isa, (said, _) in by_isa.items()},
        "recorded_on": recorded,
    }  # fmt: skip
    (folder / "golden.json").write_text(json.dumps(rules, indent=1) + "\n", encoding="utf-8")


def _answers(model: Model, samples: Sequence[Sample]) -> tuple[np.ndarray[Any, Any], float]:
    """What `verify.py` makes of the samples' outputs, and the largest spread over graph optimization levels."""
    import numpy as np
    import onnxruntime as ort

    answers = []
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, 1, 3
        session = ort.InferenceSession(str(model.file), options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        rows = [verify.answer(session.run(None, {name: sample[name] for name in names})[0]) for sample in samples]
        answers.append(np.concatenate(rows))
    return answers[0], float(np.abs(answers[0] - answers[1]).max())
