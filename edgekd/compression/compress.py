"""Compress: a search over recipes, their settings and the layers that they leave in float.

Every candidate is made, run and judged on rows that nobody trained or calibrated on. What was tried stands on disk
after every trial, so that a search that is stopped goes on, or ends with the best that it has.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression import candidates, diagnose
from edgekd.compression.candidates import Candidate
from edgekd.compression.choose import (
    FP32,
    PROCESSES,
    Trial,
    best_so_far,
    finalists,
    pareto,
    recipe_of,
    violations,
)
from edgekd.compression.judge import Judge
from edgekd.core.errors import EdgeKDError
from edgekd.core.fidelity import parts_of
from edgekd.core.files import write_file
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model
from edgekd.core.protocols import CostlyTask, Progress
from edgekd.core.registry import make
from edgekd.data.splits import Splits
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample

TRIALS, DIAGNOSIS = "trials.json", "diagnosis.json"
_RANGES = "ranges"  # what calibration found, shared by the candidates of one model
_DIAGNOSED_ROWS = 16
_MOST_PLACES = 64  # that a ladder may reach


class Stopped(Exception):
    """The user ended the search: the folder that it worked in holds the best so far."""


def compress(
    plan: Plan,
    splits: Splits,
    model_folder: Path,
    plain: Model,
    reference: Sequence[Prediction],
    out: Path,
    work: Path,
    progress: Progress,
) -> None:
    """Write every variant, `trials.json` and `diagnosis.json` into `out`; all lies in `work` until the search ends.

    `plain` is the fp32 model, `reference` what the teacher says of the selection rows.
    Raises Stopped where the user interrupts the search after fp32 was tried: `work` then is what `out` would be.
    """
    task = plan.made_task
    longest = plan.student.survey.max_size
    selection = task.encode(model_folder, [row.input for row in splits.selection], longest)
    calibration = task.encode(model_folder, [row.input for row in splits.calibration], longest)
    judge = Judge(plan, splits, task, selection, reference, plain)
    work.mkdir(parents=True, exist_ok=True)
    search = _Search(plan, judge, plain, calibration, work, progress)
    progress.stage("compress: search over recipes")
    try:
        search.run()
    except KeyboardInterrupt:
        if FP32 not in search.trials:
            raise
        progress.say("compress: stopped; going on with the best so far")
        search.note(stopped="interrupted")
        search.confirm(stopped="interrupted")
        raise Stopped from None
    try:
        search.diagnose_best()
    except KeyboardInterrupt:  # the search itself is whole
        progress.say("compress: the diagnosis was stopped; going on without it")
    shutil.rmtree(work / _RANGES, ignore_errors=True)
    for path in work.iterdir():
        os.replace(path, out / path.name)


def read_trials(folder: Path) -> list[Trial]:
    """What `compress` measured."""
    return [_trial(values) for values in read(folder)["trials"]]


def read(folder: Path) -> dict[str, Any]:
    """All of `trials.json`: `trials`, names in `pareto`, the `best` so far, whether the search was `stopped`."""
    said: dict[str, Any] = json.loads((folder / TRIALS).read_text(encoding="utf-8"))
    return said


def read_diagnosis(folder: Path) -> dict[str, Any] | None:
    """The layers of the variant that was looked into; None where none was."""
    file = folder / DIAGNOSIS
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


class _Search:
    """One search: its trials so far, in a folder that outlives it."""

    def __init__(
        self, plan: Plan, judge: Judge, plain: Model, calibration: Sequence[Sample], work: Path, progress: Progress
    ) -> None:
        self.plan, self.judge, self.plain, self.calibration = plan, judge, plain, calibration
        self.inputs = GraphInputs(plain, calibration)
        self.work, self.progress = work, progress
        self.trials: dict[str, Trial] = {}
        self.made: dict[str, Candidate] = {}
        self.before = {trial.name: trial for trial in read_trials(work)} if (work / TRIALS).exists() else {}
        self.end = time.monotonic() + plan.search_limit_s
        self.cut = False  # whether the time limit left something untried

    def run(self) -> None:
        """The profile's recipes; then, where only accuracy stands against a faster one, its settings and its layers."""
        self._try(candidates.recipes(self.plan.target, self.plan.force))
        self._try(self._one_graph_plain())
        for trial in candidates.recoverable(self._all(), self.plan.target):
            self._try(candidates.settings(self.made[trial.name], self.plan.target), until_allowed=True)
        mended: set[str] = set()
        while not self._costly and (todo := self._to_mend(mended)):
            mended.add(recipe_of(todo[0].name))
            self._recover_accuracy(self.made[todo[0].name])
        stopped = "time limit" if self.cut else None
        self.note(stopped)
        self.confirm(stopped)

    def confirm(self, stopped: str | None = None) -> None:
        """Time what may ship in several fresh processes, until the best was timed so: one process is one sample."""
        while names := finalists(self._all(), self.plan.target, self.plan.force):
            self.progress.say(f"compress: {', '.join(names)} timed in {PROCESSES} fresh processes")
            variants = {name: self._variant(name) for name in names if name != FP32}
            for name, (speed, low, high, ms) in self.judge.confirm(variants).items():
                self.trials[name] = replace(
                    self.trials[name], speed=speed, speed_interval=(low, high), latency_ms=ms, processes=PROCESSES
                )
            self.note(stopped)

    def _variant(self, name: str) -> Model:
        return candidates.variant(self.work, name, self.plan.made_task)

    def diagnose_best(self) -> None:
        """Look into the layers of the best quantized variant, or the fastest where fp32 ships."""
        if self._costly:
            self.progress.say("no diagnosis: one inference takes seconds")
            return
        best = best_so_far(self._all(), self.plan.target, self.plan.force)
        quantized = [trial for trial in self._all() if trial.failed is None and trial.name != FP32]
        if not quantized:
            return
        named = best if best not in (None, FP32) else max(quantized, key=lambda trial: trial.speed).name
        try:
            found = self._diagnosis(self.made[named])
        except EdgeKDError as error:  # of half precision
            self.progress.say(f"no diagnosis: {error.message}")
            return
        said = {"of": named, **found.as_dict(self._bought(self.made[named], found))}
        (self.work / DIAGNOSIS).write_text(json.dumps(said, indent=1), encoding="utf-8")

    def _bought(self, base: Candidate, found: diagnose.Diagnosis) -> tuple[diagnose.WhatIf, ...]:
        """What each of the worst places in float would change: a trial each, for whoever is thorough."""
        if self._late or not self.plan.thorough:
            return ()
        agreement = self.judge.task.fidelity.name

        def quantize(folder: Path, keep: tuple[str, ...]) -> Model:
            return self._quantize(replace(base, keep=keep), folder)

        def figures(trial: Trial) -> dict[str, float]:
            return {agreement: trial.agreement, "speed": trial.speed, "artifact_mib": trial.artifact_mib}

        return diagnose.what_if(
            found,
            figures(self.trials[base.name]),
            quantize,
            lambda model: figures(self.judge.trial(base, model)),
            keep=base.keep,
        )

    def note(self, stopped: str | None = None) -> None:
        """What was found so far, on disk at once."""
        found = self._all()
        said = {
            "trials": [asdict(trial) for trial in found],
            "pareto": pareto(found),
            "best": best_so_far(found, self.plan.target, self.plan.force),
            "stopped": stopped,
        }
        write_file(self.work / TRIALS, json.dumps(said, indent=1))

    def _recover_accuracy(self, base: Candidate) -> None:
        """Leave ever more places in float until nothing stands against it; then as few as will do.

        The worst ones; of a network of convolutions first those at its input, where a few small ones do most. Where an
        output has values of other sizes along an axis, as detectors' have, first those at the outputs: they make them.
        """
        try:
            found = self._diagnosis(base)
        except EdgeKDError:  # half precision has no layers to leave in float
            return
        orders = [("float", found.places(most=_MOST_PLACES))]
        if any(layer.op == "Conv" for layer in found.layers):
            orders.insert(0, ("first", found.from_input(most=_MOST_PLACES)))
        if self._is_uneven():
            orders.insert(0, ("last", found.from_output(most=_MOST_PLACES)))
        for order, places in orders:
            if self._bisect_excluded_nodes(replace(base, order=order), places):
                return

    def _is_uneven(self) -> bool:
        """Whether an output holds values of other sizes along an axis, such as boxes in pixels beside scores."""
        rows = self.judge.reference
        return any(len(parts_of([row[name] for row in rows])) > 1 for name in rows[0])

    def _bisect_excluded_nodes(self, base: Candidate, places: Sequence[tuple[str, tuple[str, ...]]]) -> bool:
        """A ladder of places in float, and what lies between its last rungs; whether one is allowed."""
        failed, passed = 0, None
        for rung in candidates.ladder(base, places):
            self._try([rung])
            if self._allowed(rung):
                passed = len(rung.places)
            if passed or self._hopeless(rung):
                break
            failed = len(rung.places)
        while passed and (middle := candidates.between(base, places, failed, passed)) and not self._late:
            self._try([middle])
            failed, passed = (failed, len(middle.places)) if self._allowed(middle) else (len(middle.places), passed)
        return passed is not None

    def _try(self, wanted: Sequence[Candidate], *, until_allowed: bool = False) -> None:
        """Try each that is new, in order; with `until_allowed` only until nothing stands against one."""
        fresh = {one.name: one for one in wanted if one.name not in self.trials}
        if not fresh:
            return
        if self._late and FP32 in self.trials:
            self.cut = True
            return
        self.made |= fresh
        scores = make("searches", "neural_compressor").run(
            list(fresh), self._score, time_limit_s=self.end - time.monotonic(), goal=0.0 if until_allowed else None
        )
        reached = until_allowed and max(scores.values()) > 0.0
        self.cut = self.cut or (len(scores) < len(fresh) and not reached)

    def _score(self, name: str) -> float:
        """Make and judge one candidate, unless that was done before; above zero where nothing stands against it."""
        if name in self.before:
            self.trials[name] = self.before[name]
        else:
            self.trials[name] = self._trial(self.made[name])
            self.note()
        trial = self.trials[name]
        self.progress.step(
            len(self.trials), f"{name}: {trial.failed or f'{trial.speed:.2f}x, agreement {trial.agreement:.1%}'}"
        )
        return trial.speed if self._may_ship(trial) else -1.0 - max(0.0, trial.drop_points)

    def _trial(self, candidate: Candidate) -> Trial:
        folder = self.work / candidate.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            made = self._quantize(candidate, folder)
            return self._with_graphs(candidate, made, self.judge.trial(candidate, made))
        except (EdgeKDError, RuntimeError, ValueError) as error:  # ONNX Runtime's quantizers raise the last two
            if candidate.name == FP32:
                raise
            return Trial.failure(candidate.name, str(error).splitlines()[0], candidate.words)

    def _quantize(self, candidate: Candidate, folder: Path) -> Model:
        quantizer = candidate.quantizer(self.plan.target)

        def change(graph: str, file: Path, out: Path) -> None:
            rows = self.inputs.of(graph) if quantizer.calibrates else ()  # of a program with a cache they are large
            quantizer.quantize(file, out, rows, keep=self._kept(candidate, graph), cache=self.work / _RANGES)

        made, stays = self.plain.changed(folder, change, suffix=quantizer.suffix, leave=candidate.plain)
        for graph, why in stays.items():
            if graph not in candidate.plain:
                self.progress.say(f"{candidate.name}: {graph} stays {FP32}: {why}")
        return made

    def _with_graphs(self, candidate: Candidate, made: Model, trial: Trial) -> Trial:
        """The trial with the graphs that its recipe could not change told in words."""
        if len(made.graphs) == 1:
            return trial
        recipes = candidates.recipes_of(made, candidate.name)
        stays = [name for name, recipe in recipes.items() if recipe == FP32 and name not in candidate.plain]
        if candidate.name == FP32 or not stays:
            return trial
        return replace(trial, said=", ".join(filter(None, [trial.said, f"stays {FP32}: {', '.join(stays)}"])))

    def _kept(self, candidate: Candidate, graph: str) -> tuple[str, ...]:
        """The nodes of that graph that stay in float; of several graphs each is called `GRAPH:NODE`."""
        if len(self.plain.graphs) == 1:
            return candidate.keep
        return tuple(node.removeprefix(f"{graph}:") for node in candidate.keep if node.startswith(f"{graph}:"))

    def _one_graph_plain(self) -> list[Candidate]:
        """Of several graphs: each recipe's variant with one of its graphs in fp32."""
        if len(self.plain.graphs) == 1:
            return []
        found = []
        for trial in self._all():
            base = self.made[trial.name]
            if trial.failed is None and trial.name != FP32:
                recipes = candidates.recipes_of(self._variant(trial.name), trial.name)
                found += candidates.one_graph_plain(base, [name for name, recipe in recipes.items() if recipe != FP32])
        return found

    def _diagnosis(self, candidate: Candidate) -> diagnose.Diagnosis:
        """Its layers, on rows that it is not judged on, where there are others."""
        rows = self.calibration if len(self.calibration) else self.judge.selection
        return diagnose.diagnose_model(
            self.plain,
            self._variant(candidate.name),
            GraphInputs(self.plain, rows[:_DIAGNOSED_ROWS]),
            threads=self.plan.target.threads,
        )

    def _allowed(self, candidate: Candidate) -> bool:
        trial = self.trials.get(candidate.name)
        return trial is not None and self._may_ship(trial)

    def _may_ship(self, trial: Trial) -> bool:
        return trial.failed is None and not violations(trial, self.plan.target)

    def _hopeless(self, rung: Candidate) -> bool:
        """Whether it was not tried, failed, or is slower than what may ship: more layers in float are slower still."""
        trial = self.trials.get(rung.name)
        ships = [one.speed for one in self._all() if self._may_ship(one)]
        return trial is None or trial.failed is not None or trial.speed < max(ships, default=0.0)

    def _to_mend(self, mended: set[str]) -> list[Trial]:
        """What is worth mending, the fastest first, of recipes that no setting or mending has brought through yet."""
        done = mended | {recipe_of(one.name) for one in self._all() if one.name != FP32 and self._may_ship(one)}
        found = candidates.foundations(candidates.recoverable(self._all(), self.plan.target))
        return [trial for trial in found if recipe_of(trial.name) not in done]

    def _all(self) -> list[Trial]:
        return list(self.trials.values())

    @property
    def _costly(self) -> bool:
        """Whether an inference takes seconds: what takes a trial for each layer, or each step towards them, is left."""
        return isinstance(self.judge.task, CostlyTask)

    @property
    def _late(self) -> bool:
        return time.monotonic() > self.end


def _trial(values: dict[str, Any]) -> Trial:
    tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Trial(**values | tuples)
