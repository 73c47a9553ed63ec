"""Golden vectors: inputs, what each ISA answers to them, and how far an answer may be from that."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError
from edgekd.core.model import Model
from edgekd.core.predictions import array_difference, by_model, largest_value, unstacked
from edgekd.core.results import this_host
from edgekd.data.splits import Splits
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample

ROWS = 16
_NATURE = {
    "synthetic": "drawn at random, nobody's data",
    "test": "held-out samples",
    "file": "rows of a file that the builder gave",
}


def inputs(plan: Plan, splits: Splits, encoder: Path) -> list[Sample]:
    """The golden inputs as the plan asks for them; `encoder` has the tokenizer or preprocessing."""
    task = plan.made_task
    rows = splits.test if plan.golden == "test" else splits.known
    few = [row.input for row in rows[:: max(1, len(rows) // ROWS)][:ROWS]]
    given = [row.input for row in splits.golden]
    samples = task.encode(encoder, given or few, plan.student.survey.max_size)
    return list(task.synthetic(samples, ROWS, plan.seed) if plan.golden == "synthetic" else samples)


def write(plan: Plan, samples: Sequence[Sample], model: Model, plain: Model, there: Path | None, folder: Path) -> None:
    """Write inputs.npz, expected.npz and golden.json into `folder`.

    Same ISA: four times the spread between ONNX Runtime's graph optimizations, at least half the quantization
    error (kernels of one ISA round sums in different orders). Other ISA: twice the quantization error, from fp32. Each
    output has limits of its own: they differ in scale. `there` has what an ARM target's own kernels answered, where
    they could be asked; of a slow model the first rows. Raises EdgeKDError where a model answers with no number, or
    unlike twice at every input.
    """
    import numpy as np

    from edgekd.onboard.runner import unpack

    folder.mkdir()
    named: dict[str, Any] = {
        f"{row}.{name}": values for row, sample in enumerate(samples) for name, values in sample.items()
    }
    np.savez(folder / "inputs.npz", **named)
    keep = dict(plan.made_task.keep)
    here = platform.machine()
    by_isa = {here: _Recorded(*(_answers(model, samples, keep, optimize=on) for on in (True, False)))}
    recorded = {here: this_host().name}
    if there is not None:
        told = by_model(unpack(there / "said.npz"), ("own", "plain"))
        by_isa[plan.target.arch] = _Recorded(told["own"], told["plain"])
        recorded[plan.target.arch] = (there / "host.txt").read_text(encoding="utf-8")
    float32 = _answers(plain, samples, keep)
    limits = {name: _limits(name, by_isa, here, float32) for name in keep}
    rows = {isa: one.rows() for isa, one in by_isa.items()} | {"float32": by_isa[here].rows(float32)}
    said = {isa: one.own for isa, one in by_isa.items()} | {"float32": float32}
    expected: dict[str, Any] = {
        f"{isa}.{row}.{name}": said[isa][row][name] for isa, numbers in rows.items() for row in numbers for name in keep
    }
    np.savez(folder / "expected.npz", **expected)
    rules = {
        "inputs": _NATURE[plan.golden],
        "count": len(samples),
        "tolerance": {isa: {name: limits[name]["tolerance"][isa] for name in keep} for isa in rows},
        "spread": {name: limits[name]["spread"] for name in keep},
        "quantization_error": {name: limits[name]["error"] for name in keep},
        "rows": {isa: len(numbers) for isa, numbers in rows.items() if isa != "float32"},
        "recorded_on": recorded,
    }
    (folder / "golden.json").write_text(json.dumps(rules, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Recorded:
    """One ISA's answers to the first inputs, and with graph optimizations off."""

    own: Sequence[Prediction]
    plain: Sequence[Prediction]

    def rows(self, reference: Sequence[Prediction] | None = None) -> list[int]:
        """The inputs whose outputs have the shapes of the `reference`, else of these models among themselves.

        Of ragged outputs another rounding may give another length: such an input tells nothing. Raises EdgeKDError
        where none is left.
        """
        other = self.plain if reference is None else reference
        found = [
            row
            for row, (own, one) in enumerate(zip(self.own, other, strict=False))
            if all(values.shape == one[name].shape for name, values in own.items())
        ]
        if not found:
            raise EdgeKDError(
                "the model answers no golden input with outputs of the same shapes twice, or as fp32 does",
                fix="take another recipe (--recipe float32), or golden inputs that it answers (--golden FILE)",
            )
        return found

    def difference(self, name: str, other: Sequence[Prediction]) -> float:
        """The largest difference of one output to another's answers, over the inputs where they have one shape."""
        return max(array_difference(self.own[row][name], other[row][name]) for row in self.rows(other))


def _limits(name: str, by_isa: dict[str, _Recorded], here: str, float32: Sequence[Prediction]) -> dict[str, Any]:
    """Return one output's tolerance by ISA, its spread here, and the largest error of quantization."""
    scatter = {isa: one.difference(name, one.plain) for isa, one in by_isa.items()}
    errors = {isa: one.difference(name, float32) for isa, one in by_isa.items()}
    values = unstacked(name, (row[name] for row in by_isa[here].own))
    floor = 1e-4 * largest_value(values) if values[0][name].dtype.kind == "f" else 0.0
    tolerance = {isa: max(4 * scatter[isa], errors[isa] / 2, floor) for isa in by_isa}
    error = max(errors.values())
    tolerance["float32"] = max(2 * error, 4 * scatter[here], floor)
    if not all(map(math.isfinite, tolerance.values())):
        raise EdgeKDError(
            f"the output {name} holds NaN or infinity for a golden input",
            fix="look which operator overflows (`edgekd diagnose`), or take another recipe",
        )
    return {"tolerance": tolerance, "spread": scatter[here], "error": error}


def _answers(
    model: Model, samples: Sequence[Sample], keep: Mapping[str, str], *, optimize: bool = True
) -> list[Prediction]:
    """What `verify.py` makes of the samples: one thread, each input alone."""
    from edgekd.onboard.runner import Predictor

    predict = Predictor(**model.job, threads=1, provider="CPUExecutionProvider", keep=dict(keep), optimize=optimize)
    return [predict(sample)[0] for sample in samples]
