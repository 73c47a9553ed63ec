"""Compress: the profile's recipes, each tried and measured on rows that nobody trained on."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.choose import Trial, objections
from edgekd.core.confidence import certainty, suggest_threshold
from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import Progress
from edgekd.core.registry import make, plugin
from edgekd.data.splits import Splits
from edgekd.export import outputs
from edgekd.plan import Plan
from edgekd.runner import pack

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

_TIMED_ROWS, _ROUNDS = 20, 10


def variant_file(folder: Path, recipe: str) -> Path:
    """Where a variant of this recipe lies, by the name that transformers.js expects of it."""
    return folder / recipe / f"model{plugin('quantizers', recipe).suffix}.onnx"


def compress(
    plan: Plan, splits: Splits, student_folder: Path, exported: Path, teacher_logits: np.ndarray[Any, Any], out: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """Write every variant and `trials.json` into `out`; the file is whole after every trial.

    `teacher_logits` are the teacher's on the selection rows (rows, classes). The rows pick among variants: by
    agreement with the teacher, or by accuracy where their labels are known. fp32 is always among the variants.
    """
    task = make("tasks", plan.task)
    rows = [row.input for row in splits.selection]
    selection = task.encode(student_folder, rows, plan.student.survey.max_size)
    calibration = task.encode(student_folder, [row.input for row in splits.calibration], plan.student.survey.max_size)
    recipes = ["float32", *(recipe for recipe in plan.target.recipes if recipe != "float32")]
    judge = _Judge(plan, splits, task, selection, teacher_logits, exported / "model.onnx")
    trials: dict[str, Trial] = {}
    progress.stage("compress: try the profile's recipes", len(recipes))

    def trial(recipe: str) -> float:
        file = variant_file(out, recipe)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            plugin("quantizers", recipe).for_target(plan.target).quantize(exported / "model.onnx", file, calibration)
            trials[recipe] = judge.trial(recipe, file)
        except EdgeKDError as error:
            if recipe == "float32":
                raise
            trials[recipe] = Trial(recipe, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, failed=error.message)
        (out / "trials.json").write_text(json.dumps([asdict(t) for t in trials.values()], indent=1), encoding="utf-8")
        progress.step(len(trials), f"{recipe}: {trials[recipe].speed:.2f}x, agreement {trials[recipe].agreement:.1%}")
        barred = trials[recipe].failed or objections(trials[recipe], plan.target)
        return -trials[recipe].drop_points if barred else trials[recipe].speed

    make("searches", "neural_compressor").run(recipes, trial, time_limit_s=plan.search_limit_s)


def read_trials(folder: Path) -> list[Trial]:
    """What `compress` measured."""
    return [Trial(**values) for values in json.loads((folder / "trials.json").read_text(encoding="utf-8"))]


class _Judge:
    """Measures variants against the fp32 student on the selection rows."""

    def __init__(
        self, plan: Plan, splits: Splits, task: Any, selection: Sequence[Sample], teacher_logits: np.ndarray[Any, Any],
        plain: Path,
    ) -> None:  # fmt: skip
        import numpy as np

        self.plan, self.task, self.selection, self.plain = plan, task, selection, plain
        self.teacher_says = teacher_logits.argmax(axis=1)
        self.truth = self.teacher_says
        if splits.selection_labelled:
            self.truth = np.array([splits.classes.index(row.label or "") for row in splits.selection])
        self.plain_score: float | None = None

    def trial(self, recipe: str, file: Path) -> Trial:
        said = outputs(file, self.selection, threads=self.plan.target.threads)
        correct = self.task.correct(said, self.truth)
        score = float(correct.mean())
        self.plain_score = score if self.plain_score is None else self.plain_score
        latency, speed, peak = self._cost(file)
        return Trial(
            recipe=recipe,
            agreement=float((said.argmax(axis=1) == self.teacher_says).mean()),
            drop_points=100 * (self.plain_score - score),
            speed=speed,
            latency_ms=latency,
            peak_rss_mib=peak,
            artifact_mib=file.stat().st_size / 2**20,
            suggestion=suggest_threshold(certainty(said), correct)._asdict(),
        )

    def _cost(self, file: Path) -> tuple[float, float, float]:
        device, threads = make("devices", "local"), self.plan.target.threads
        with tempfile.TemporaryDirectory(prefix="edgekd-trial-") as folder:
            timed, headline = Path(folder, "timed.npz"), Path(folder, "headline.npz")
            pack(list(self.selection[:_TIMED_ROWS]), timed)
            size = min(self.task.headline_size, self.plan.student.survey.max_size)
            pack([self.task.sized(self.selection, size)], headline)
            models = {name: {"model": str(path), "inputs": str(timed)}
                      for name, path in (("float32", self.plain), ("variant", file))}  # fmt: skip
            job = device.run("time", models=models, threads=threads, rounds=_ROUNDS, seed=self.plan.seed)
            medians = {n: statistics.median(ms for turn in job["latency_ms"][n] for ms in turn) for n in models}
            job = device.run("footprint", model=str(file), inputs=[str(headline)], threads=threads)
        return medians["variant"], medians["float32"] / medians["variant"], job["peak_rss_mib"][0]
