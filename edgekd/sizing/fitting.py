"""Size: the most capable student that the device has room for.

Every shape of the student's family is predicted from anchors that were measured (see `predictor`), which takes
neither torch nor time. Before anything is trained, finalists are built with random weights, exported, quantized and
run under ONNX Runtime in a fresh process: what ships was measured. What is refused was measured, too.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.benchmark import Benchmark
from edgekd.core.errors import EdgeKDError
from edgekd.core.model import Model
from edgekd.core.protocols import InputSpec, Running, StartingNetwork, writes
from edgekd.core.registry import make, plugin
from edgekd.core.results import this_host
from edgekd.hardware import latency_correction
from edgekd.hardware.profile import parse_profile
from edgekd.plan.plan import Plan
from edgekd.security import child
from edgekd.sizing import apart, predictor
from edgekd.sizing import measured as measured_before
from edgekd.sizing.costs import FINALISTS, Candidates, Cost, Fit, settle, shown, size_of
from edgekd.sizing.measured import TEACHER, Measured, name_of
from edgekd.store.store import Store

SCHEMA = 6  # of what is kept
NEAR = 0.1  # of the budget: an ARM target's finalists this near to it are measured in an arm64 guest, too

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Progress, Sample


def fit(plan: Plan, store: Store, progress: Progress, *, measured: bool = True) -> Fit:
    """The choice for this plan: finalists measured, once per host, runtime and plan; or, in a second, predicted.

    Raises OverMemory, ArtifactTooLarge or OverLatency where nothing fits, with the smallest shape's figures, measured.
    """
    request = _request(plan, store.root)
    packages = ("torch", "transformers", "onnxruntime", "optimum-onnx", "edgekd")
    machine: dict[str, Any] = {"host": asdict(this_host()), "versions": {one: plan.versions[one] for one in packages}}
    machine |= {"plugins": plan.plugins} if plan.plugins else {}  # their releases decide what shapes and recipes are
    key = (
        request | {"teacher_folder": plan.start.sha256, "anchors": predictor.load(plan.student.family).digest} | machine
    )
    key |= {"guest": plan.target.needs_guest and plugin("devices", "guest").available()}  # it measures the finalists
    if not measured and not store.has("size", key):
        own = ("schema", "teacher_folder", "architecture", "classes", "survey", "target")
        teacher_key = {name: key[name] for name in own} | machine
        found = _predicted(request, teacher_key, store, progress)
        if found is not None:
            return found

    def produce(folder: Path) -> None:
        progress.stage("size: measure finalists against the budgets", request["finalists"])
        among = _candidates(request, 1.0, 1.0)
        facts = measured_before.facts(request, plan.target, among.recipes)
        before = Measured(store, facts | {"teacher_folder": plan.start.sha256} | machine)
        job = {"request": request, "known": before.known(shape.as_dict() for shape in among.ladder)}
        said = apart.call("edgekd.sizing.fitting:search", job, request["teacher_folder"], said=_shown(progress))
        before.keep(said["measured"])
        (folder / "fit.json").write_text(json.dumps(said["fit"], indent=1), encoding="utf-8")

    return Fit.read(json.loads((store.stage("size", key, produce) / "fit.json").read_text(encoding="utf-8")))


def _request(plan: Plan, root: Path) -> dict[str, Any]:
    """Plain values: all that the search depends on beside the machine."""
    return {
        "schema": SCHEMA,
        "teacher_kind": plan.start.kind,
        "teacher_folder": plan.start.folder,
        "architecture": plan.start.architecture,
        "family": plan.student.family,
        "survey": asdict(plan.student.survey),
        "classes": len(plan.data.classes),
        "task": plan.task,
        "min_speedup": plan.student.min_speedup,
        "tries": plan.student.tries,
        "finalists": FINALISTS + plan.student.tries - 1,
        "target": plan.target.as_dict(),
        "readings": [
            asdict(one)
            for one in ([] if plan.target.runs_here else latency_correction.load(root, plan.target.microarch))
        ],
    }


def _shown(progress: Progress) -> Any:
    def said(line: str) -> None:
        if line.startswith("measured "):
            number, _, note = line.removeprefix("measured ").partition(" ")
            progress.step(int(number), note)

    return said


def _predicted(request: dict[str, Any], teacher_key: dict[str, Any], store: Store, progress: Progress) -> Fit | None:
    """The fit on paper; None where nothing is predicted to fit: that must be measured before it is refused.

    The reference model is timed once per host. So is a teacher of an architecture that has no anchors.
    """

    def time_reference(folder: Path) -> None:
        said = child.call("edgekd.sizing.fitting:reference_ms", {}, timeout_s=120)
        (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")

    def time_teacher(folder: Path) -> None:
        progress.stage("size: measure the teacher")
        said = apart.call("edgekd.sizing.fitting:teacher_cost", {"request": request}, request["teacher_folder"])
        (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")

    def kept(name: str, key: dict[str, Any], produce: Any) -> Any:
        return json.loads((store.stage(name, key, produce) / "said.json").read_text(encoding="utf-8"))

    reference = kept("reference", {"host": asdict(this_host())}, time_reference)
    teacher = _teacher_on_paper(request, reference) or kept("teacher-cost", teacher_key, time_teacher)
    among = _candidates(request, reference, teacher["latency_ms"])
    ranked = among.ranked()
    fitting = [cost for cost in ranked if not cost.violations]
    return _table(among, ranked, fitting[: request["tries"]], teacher, []) if fitting else None


def _candidates(request: dict[str, Any], reference_ms: float, teacher_ms: float) -> Candidates:
    survey = InputSpec.read(request["survey"])
    ladder = plugin("students", request["family"]).ladder(request["architecture"], survey, classes=request["classes"])
    target = parse_profile(request["target"], where="plan")
    readings = tuple(latency_correction.Reading(**one) for one in request["readings"])
    return Candidates(
        ladder=tuple(ladder),
        target=target,
        survey=survey,
        min_speedup=request["min_speedup"],
        predictor=predictor.load(request["family"]),
        reference_ms=reference_ms,
        teacher_ms=teacher_ms,
        readings=readings,
    )


def _teacher_on_paper(request: dict[str, Any], reference_ms: float) -> dict[str, Any] | None:
    """The teacher's fp32 cost where it is a shape of a family: predicted as any shape's is."""
    shape = teacher_shape(request)
    if shape is None:
        return None
    survey = InputSpec.read(request["survey"])
    family = type(shape).__name__.lower()
    known = predictor.load(family)
    headline, typical = (
        known.predict(family, "float32", shape.work(size_of(shape, survey, size))) for size in (32, survey.typical)
    )
    return {
        "kind": "predicted",
        "memory_mib": headline.memory_mib,
        "artifact_mib": headline.artifact_mib,
        "latency_ms": typical.latency_ratio * reference_ms,
        "cold_start_ms": headline.cold_start_ms,
    }


def teacher_shape(request: dict[str, Any]) -> Any:
    """The teacher as a shape of one of our families; None for an architecture that none of them can express."""
    architecture = request["architecture"]
    family = plugin("students", architecture.get("family", "transformer"))
    return family.of_teacher(architecture, InputSpec.read(request["survey"]), classes=request["classes"])


def _table(
    among: Candidates, ranked: Sequence[Cost], finalists: Sequence[Cost], teacher: dict[str, Any], warnings: list[str]
) -> Fit:
    chosen, known = finalists[0], among.predictor
    notes = list(warnings)
    if among.target.threads > 1:
        notes.append(f"predictions are of one thread; {among.target.name} has {among.target.threads}")
    if not known.is_own:
        notes.append(
            f"predictions come from {known.host['cpu']}, onnxruntime {known.host['ort_version']}; "
            "`edgekd doctor --fix predictor` measures this machine"
        )
    checked = latency_correction.calibration(among.readings, chosen.recipe)
    return Fit(
        teacher=teacher,
        candidates=shown(ranked, chosen),
        chosen=chosen,
        finalists=tuple(finalists),
        considered=len(ranked),
        fitting=sum(not cost.violations for cost in ranked),
        errors={recipe: known.errors(among.family, recipe) for recipe in among.recipes},
        anchors=known.measured_on,
        reference_ms=among.reference_ms,
        warnings=tuple(notes),
        host=this_host().name,
        calibrated=checked.says if checked else "",
    )


def reference_ms() -> float:
    """The reference model's median on this host, in ms; runs in a child process."""
    from edgekd.sizing.bench import Bench, reference, reference_samples, typical_ms

    with tempfile.TemporaryDirectory(prefix="edgekd-reference-") as folder:
        model = reference(Path(folder, "reference.onnx"))
        times = Bench(Path(folder), threads=1).time({"reference": (model, reference_samples(8))})
    return typical_ms(times["reference"])


def teacher_cost(request: dict[str, Any]) -> dict[str, Any]:
    """The teacher's own cost in fp32, measured; runs in a child process that loads torch."""
    with tempfile.TemporaryDirectory(prefix="edgekd-size-") as folder, contextlib.ExitStack() as guests:
        return _Lab(Path(folder), request, guests).teacher()


def search(request: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Measure finalists until the best is known; runs in a child process that loads torch. Raises what `fit` raises.

    `known` are costs that were measured before, which are taken. Returns the `fit`, and the costs `measured` now.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-size-") as folder, contextlib.ExitStack() as guests:
        lab = _Lab(Path(folder), request, guests, known)
        teacher = lab.teacher()
        among = _candidates(request, lab.reference_ms, lab.teacher_ms)
        ranked, finalists, warnings = settle(
            among,
            lambda cost: lab.measure(cost, among),
            tries=request["tries"],
            most=request["finalists"],
            classes=request["classes"],
            unit=plugin("tasks", request["task"]).unit,
        )
        teacher["latency_ms"] = lab.teacher_ms
    fit = asdict(_table(among, ranked, finalists[: request["tries"]], teacher, warnings))
    return {"fit": fit, "measured": lab.measured}


class _Lab:
    """Measures the teacher, and shapes beside it, for one plan."""

    def __init__(
        self,
        folder: Path,
        request: dict[str, Any],
        open_guests: contextlib.ExitStack,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        from edgekd.sizing.bench import Bench, reference

        self.request, self.target = request, parse_profile(request["target"], where="plan")
        self.bench = Bench(folder, self.target.threads, request["family"])
        self.reference = reference(folder / "reference.onnx")
        self.sizes = list(request["survey"]["sizes"])
        if writes(plugin("students", request["family"])):
            self.sizes = self.sizes[:1]  # each is a full window: what a recording takes is bounded by that
        self.teacher_ms = 0.0
        self.open = open_guests
        self._guest: Running | None = None
        self.known, self.measured = known or {}, dict[str, Any]()
        self.whole: tuple[Model, list[Sample]] | None = None  # the teacher, once something is to be timed beside it

    def teacher(self) -> dict[str, Any]:
        """The teacher's footprint and latency in fp32: measured, or as they were measured for another target."""
        if TEACHER in self.known:
            before = dict(self.known[TEACHER])
            self.reference_ms, self.teacher_ms = before.pop("reference_ms"), before["latency_ms"]
            return before
        found = self._measure_teacher()
        self.measured[TEACHER] = found | {"reference_ms": self.reference_ms}
        return found

    def _open_teacher(self) -> tuple[Model, list[Sample]]:
        """Build the teacher with a head of this many classes; its graphs, and samples of the sizes that are timed."""
        from edgekd.sizing.bench import random_model, random_samples
        from edgekd.training import models

        if self.whole is not None:
            return self.whole

        request = self.request
        strange = _Text if "student" in request["architecture"] else _Square
        shape = teacher_shape(request) or strange(**request["architecture"])
        if "family" in request["architecture"]:  # one of ours, perhaps untrained yet: what it has learned costs nothing
            model = random_model(shape)
        else:
            labels = [str(number) for number in range(request["classes"])]
            source = make("teachers", request["teacher_kind"])
            assert isinstance(source, StartingNetwork), "the plan refuses what no student can start from"
            model = source.base(Path(request["teacher_folder"]), request["architecture"], request["task"], labels)
        exported = self.bench.export(model, models.exporter(model), self.target, request["task"])
        survey = InputSpec.read(request["survey"])
        self.whole = exported, random_samples(shape, [size_of(shape, survey, size) for size in self.sizes])
        self.whole_probe = random_samples(shape, [size_of(shape, survey, 32)])
        return self.whole

    def _measure_teacher(self) -> dict[str, Any]:
        from edgekd.sizing.bench import reference_samples, typical_ms

        whole, samples = self._open_teacher()
        said = self.bench.footprint(whole, self.whole_probe)
        times = self.bench.time(
            {
                "teacher": (whole, samples),
                "reference": (self.reference, reference_samples(len(self.sizes))),
            }
        )
        self.teacher_ms, self.reference_ms = (typical_ms(times[name]) for name in ("teacher", "reference"))
        return {"kind": "measured", "latency_ms": self.teacher_ms, **said}

    def guest(self) -> Running | None:
        """An arm64 guest for a target of that architecture, booted once; None where there is none."""
        if self._guest is None and self.guest_is_there():
            self._guest = self.open.enter_context(make("devices", "guest", cpu=self.target.emulator_cpu).up())
        return self._guest

    def guest_mib(self, model: Model, probe: list[Any]) -> float | None:
        """Peak RSS of one process in the guest, above its import baseline; None without a guest, or one that fails."""
        from edgekd.onboard.runner import pack

        inputs = self.bench.folder / "guest.npz"
        pack(probe, inputs)
        try:
            guest = self.guest()
            if guest is None:
                return None
            found = Benchmark(guest, self.target.threads).footprint(model, inputs)
        except EdgeKDError:  # this host's figure is left, and the build's own guest run will say what is wrong
            return None
        return found.peak_rss_mib[0]

    def measure(self, cost: Cost, among: Candidates) -> list[Cost]:
        """The predicted shape, measured under each of the family's recipes, latency beside the teacher."""
        from edgekd.sizing.bench import CALIBRATION, random_model, random_samples, speedup_low, typical_ms

        shape = make("students", among.family, **cost.shape)
        before = self.known.get(name_of(cost.shape))
        if before is not None and not self._asks_guest(before["figures"]):
            self.teacher_ms = before["teacher_ms"]
            beside = replace(among, teacher_ms=self.teacher_ms)
            return [beside.measured(shape, recipe, figures) for recipe, figures in before["figures"].items()]
        folder = Path(self.request["teacher_folder"]) if among.survey.vocabulary else None
        plain = self.bench.export(random_model(shape, folder), shape.exporter, self.target, self.request["task"])
        headline = size_of(shape, among.survey, 32)
        probe = random_samples(shape, [headline])
        calibration = random_samples(shape, [headline] * CALIBRATION)
        samples = random_samples(shape, [size_of(shape, among.survey, size) for size in self.sizes])
        made = {recipe: self.bench.quantize(plain, recipe, self.target, calibration) for recipe in among.recipes}
        times = self.bench.time(
            {"teacher": self._open_teacher()} | {recipe: (model, samples) for recipe, model in made.items()}
        )
        self.teacher_ms = typical_ms(times["teacher"])
        beside = replace(among, teacher_ms=self.teacher_ms)
        said = []
        kept: dict[str, Any] = {}
        for recipe, model in made.items():
            figures = self.bench.footprint(model, probe)
            figures["latency_ms"] = typical_ms(times[recipe])
            figures["speedup_low"] = speedup_low(times["teacher"], times[recipe])
            kept[recipe] = dict(figures)  # without the guest's: another target's core may be another
            if self._near(figures):
                figures |= {"target_memory_mib": mib} if (mib := self.guest_mib(model, probe)) else {}
            said.append(beside.measured(shape, recipe, figures))
        self.measured[name_of(cost.shape)] = {"teacher_ms": self.teacher_ms, "figures": kept}
        return said

    def _near(self, figures: Mapping[str, float]) -> bool:
        """Whether memory is so near to the budget that a guest has the last word."""
        return abs(figures["memory_mib"] / self.target.memory_mib - 1) < NEAR

    def _asks_guest(self, known: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether a guest of this target must be asked about a shape that was measured for another."""
        return self.guest_is_there() and any(self._near(figures) for figures in known.values())

    def guest_is_there(self) -> bool:
        """Whether an arm64 guest can stand for this target."""
        return self.target.needs_guest and plugin("devices", "guest").available()


class _Text:
    """Token ids for a teacher that is no shape of ours."""

    def __init__(self, vocabulary: int, max_tokens: int = 512, **rest: Any) -> None:
        self.vocabulary, self.max_size = vocabulary, max_tokens

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """Ids at random, (1, size), and what may be asked beside them."""
        import numpy as np

        ids = random.integers(0, self.vocabulary, (1, size))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


class _Square:
    """Images for a teacher that is no shape of ours."""

    def __init__(self, max_size: int, channels: int = 3, **rest: Any) -> None:
        self.max_size, self.channels = max_size, channels

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """A random image: (1, channels, size, size)."""
        values = random.standard_normal((1, self.channels, size, size))
        return {"pixel_values": values.astype("float32")}
