"""The stages that run on the target's own kernels and under its own kernel, where this host has others.

An emulator does them, where `edgekd doctor` finds one. Their failure costs figures, never a build.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.bundle import golden
from edgekd.compression.compress import read_trials
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.model import Model
from edgekd.core.registry import plugin
from edgekd.core.results import this_host, versions
from edgekd.emulation import answers, evaluate
from edgekd.inference import benchmark
from edgekd.stages import Stages

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction


@dataclass(frozen=True)
class Emulated:
    """What compresses to `variants`, asked on the target's kernels; `folder` has its tokenizer or preprocessing."""

    stages: Stages
    folder: Path
    variants: Path

    def judged(self, reference: Callable[[], Sequence[Prediction]]) -> dict[str, Any] | None:
        """The variants' accuracy and instructions there; None where nothing can be asked.

        `reference` gives what the teacher says of the selection rows. Raises RuntimeCannotLoad where the target's
        runtime refuses the student itself.
        """
        plan, splits, progress = self.stages.plan, self.stages.splits, self.stages.progress
        if not plan.target.needs_guest or evaluate.why_not(plan):
            return None
        trials = read_trials(self.variants)
        names = evaluate.contenders(trials, plan)
        key = self._key() | {"files": {name: self._variant(name).sha256 for name in names}}
        key |= {"counts": plugin("devices", "qemu").counts()}  # once they can be counted, they are
        place = self._stage(
            "on-target",
            key,
            lambda out: evaluate.judge(plan, splits, trials, self.folder, self.variants, reference(), out, progress),
            passes=RuntimeCannotLoad,
        )
        return None if place is None else evaluate.read(place, evaluate.SELECTION)

    def held_out(self, name: str, teacher: tuple[Model, Path]) -> dict[str, Any] | None:
        """The metric of what ships there, on held-out samples; `teacher` has its graphs and its folder."""
        plan, splits, model = self.stages.plan, self.stages.splits, self._variant(name)
        place = self._stage(
            "held-out-on-target",
            self._key() | {"file": model.sha256, "teacher": teacher[0].sha256},
            lambda out: evaluate.held_out(plan, splits, self.folder, model, teacher, out),
        )
        return None if place is None else evaluate.read(place, evaluate.HELD_OUT)

    def golden(self, name: str) -> Path | None:
        """The folder of what ships' answers there to the golden inputs."""
        plan, splits, model = self.stages.plan, self.stages.splits, self._variant(name)
        return self._stage(
            "golden-on-target",
            self._key() | {"file": model.sha256, "golden": plan.golden_digest or plan.golden, "form": "packed"},
            lambda out: answers.golden(plan, model, golden.inputs(plan, splits, self.folder), out),
        )

    def memory(self, name: str) -> dict[str, Any] | None:
        """Peak RSS of what ships in an arm64 guest; None where this machine has none."""
        plan, splits, target = self.stages.plan, self.stages.splits, self.stages.plan.target
        if not target.needs_guest or not plugin("devices", "guest").available():
            return None
        model = self._variant(name)
        key = {
            "model": model.sha256,
            "cpu": target.emulator_cpu,
            "threads": target.threads,
            "max_size": plan.student.survey.max_size,
            "versions": versions("onnxruntime", "edgekd"),
            "task": plan.task,
            "data": plan.data.digest,  # whose rows it runs
        }
        place = self._stage(
            "guest-memory", key, lambda out: benchmark.guest_memory(plan, splits, model, self.folder, out)
        )
        if place is None:
            return None
        said: dict[str, Any] = json.loads((place / "guest.json").read_text(encoding="utf-8"))
        return said

    def _variant(self, name: str) -> Model:
        return self.stages.variant(self.variants, name)

    def _stage(
        self,
        name: str,
        key: dict[str, Any],
        produce: Callable[[Path], None],
        *,
        passes: type[EdgeKDError] | tuple[()] = (),
    ) -> Path | None:
        """None where it fails, but for an error that `passes`."""
        try:
            return self.stages.stage(name, key, produce)
        except passes:
            raise
        except EdgeKDError as error:
            self.stages.progress.say(f"{name}: left out: {error.message}")
            return None

    def _key(self) -> dict[str, Any]:
        plan = self.stages.plan
        return {
            "cpu": plan.target.emulator_cpu,
            "threads": plan.target.threads,
            "minutes": plan.emulate_minutes,
            "data": plan.data.digest,
            "seed": plan.seed,
            "student": self.stages.student_key(),
            "versions": versions("onnxruntime", "edgekd"),
            "host": asdict(this_host()),  # what is answered there is held against what is answered here
        }
