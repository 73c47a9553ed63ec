"""Size: the most capable student that the device has room for, by measurement.

Shapes of the student's family are ranked on paper; at most three finalists are built with random weights,
exported, quantized and run under ONNX Runtime in a fresh process. What a model costs does not depend on what
it has learned, so this comes before any training, and refuses with arithmetic where nothing fits.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import child
from edgekd.core.errors import ArtifactTooLarge, OverLatency, OverMemory
from edgekd.core.profile import Profile, parse_profile
from edgekd.core.registry import make, plugin
from edgekd.core.results import this_host
from edgekd.core.roofline import predict_latency
from edgekd.core.store import Store
from edgekd.plan import Plan

if TYPE_CHECKING:
    from edgekd.core.protocols import Progress

FINALISTS = 3
SPEED_MARGIN = 1.05  # a finalist must beat min_speedup by this: medians of two runs differ by a few percent
_ROUNDS = 8
# How a recipe costs on paper, from measurements of MiniLM cuts; the finalists correct it.
# MiB of peak RSS: constant, per MiB of embeddings, per MiB of layers; bytes a weight; speed of a multiply-add.
_COEFFICIENTS = {
    "float32": (11.5, 1.68, 1.34, 4, 1.0),
    "float16": (11.5, 1.68, 1.34, 2, 1.0),
    "int8": (12.3, 1.0, 2.55, 1, 2.5),
}
_LAYER_MACS, _CALL_MACS = 3.5e6, 4e6  # what norms, softmax and calls cost, in fp32 multiply-adds: a layer, a run


@dataclass(frozen=True)
class Cost:
    """What a shape costs under one recipe; `breaks` names the budgets it is over, in words."""

    shape: dict[str, int]
    recipe: str
    kind: str  # measured on this host, or predicted
    memory_mib: float
    artifact_mib: float
    latency_ms: float
    speedup: float
    cold_start_ms: float | None
    target_latency_ms: float | None  # None where nothing here can tell
    target_latency_kind: str
    breaks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """The fit table: the teacher's cost, the finalists, the choice, and what the budgets left no room for."""

    teacher: dict[str, float]
    finalists: tuple[Cost, ...]
    chosen: Cost
    considered: int
    warnings: tuple[str, ...]
    host: str


def fit(plan: Plan, store: Store, progress: Progress) -> Fit:
    """The choice for this plan; measured once per host, runtime and plan.

    Raises OverMemory, ArtifactTooLarge or OverLatency with the smallest shape's figures beside the budget.
    """
    arguments = {
        "teacher_folder": plan.teacher.folder,
        "architecture": plan.teacher.architecture,
        "family": plan.student.family,
        "vocabulary": plan.student.vocabulary,
        "max_tokens": plan.student.max_tokens,
        "lengths": list(plan.student.lengths),
        "classes": len(plan.data.classes),
        "task": plan.task,
        "min_speedup": plan.student.min_speedup,
        "target": plan.target.as_dict(),
    }
    runtime = {name: plan.versions[name] for name in ("torch", "transformers", "onnxruntime", "optimum-onnx", "edgekd")}
    key = arguments | {"teacher_folder": plan.teacher.sha256, "host": asdict(this_host()), "versions": runtime}

    def produce(folder: Path) -> None:
        progress.stage("size: measure finalists against the budgets", FINALISTS)
        said = child.call("edgekd.sizing:search", arguments, timeout_s=900, said=_shown(progress))
        (folder / "fit.json").write_text(json.dumps(said, indent=1), encoding="utf-8")

    said = json.loads((store.stage("size", key, produce) / "fit.json").read_text(encoding="utf-8"))
    finalists = tuple(Cost(**cost | {"breaks": tuple(cost["breaks"])}) for cost in said["finalists"])
    return Fit(said["teacher"], finalists, finalists[said["chosen"]], said["considered"], tuple(said["warnings"]),
               said["host"])  # fmt: skip


def _shown(progress: Progress) -> Any:
    def said(line: str) -> None:
        if line.startswith("measured "):
            number, _, note = line.removeprefix("measured ").partition(" ")
            progress.step(int(number), note)

    return said


def search(
    teacher_folder: str, architecture: dict[str, Any], family: str, vocabulary: int, max_tokens: int,
    lengths: list[int], classes: int, task: str, min_speedup: float, target: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Find the choice; runs in a child process that may load torch. Raises what `fit` raises."""
    profile = parse_profile(target, where="plan")
    ladder = plugin("students", family).ladder(
        architecture, vocabulary=vocabulary, max_tokens=max_tokens, classes=classes
    )
    whole = replace(
        ladder[0], layers=architecture["layers"], feed_forward=architecture["feed_forward"],
        vocabulary=architecture["vocabulary"],
    )  # fmt: skip
    recipe = next((name for name in profile.recipes if "int8" in name and not plugin("quantizers", name).calibrates),
                  profile.recipes[0])  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgekd-size-") as folder:
        bench = _Bench(Path(folder), Path(teacher_folder), profile, recipe, whole, ladder[0], lengths, task)
        bench.add_teacher()
        measured: list[Cost] = []
        best: Cost | None = None
        for number in range(FINALISTS):
            shape = _next(ladder, measured, best, bench, min_speedup)
            if shape is None:
                break
            cost = bench.measure(shape)
            cost = replace(cost, breaks=breaks(cost, profile, min_speedup))
            measured.append(cost)
            print(f"measured {number + 1} {shape}: {cost.memory_mib:.0f} MiB", flush=True)  # noqa: T201
            if not cost.breaks and (best is None or _rank(cost, ladder) < _rank(best, ladder)):
                best = cost
        if best is None:
            best = _smallest(ladder, measured, bench, profile, min_speedup)
    warnings = [f"no shape meets: {text}; the smallest was taken" for text in best.breaks]
    return {
        "teacher": bench.teacher, "finalists": [asdict(cost) for cost in measured], "chosen": measured.index(best),
        "considered": len(ladder), "warnings": warnings, "host": this_host().name,
    }  # fmt: skip


def breaks(cost: Cost, profile: Profile, min_speedup: float) -> tuple[str, ...]:
    """The budgets that a cost is over, each as `what value > budget`."""
    found = []
    if cost.memory_mib > profile.memory_mib:
        found.append(f"memory {cost.memory_mib:.1f} MiB > {profile.memory_mib:g}")
    if cost.artifact_mib > profile.artifact_mib:
        found.append(f"artifact {cost.artifact_mib:.1f} MiB > {profile.artifact_mib:g}")
    if cost.target_latency_ms is not None and cost.target_latency_ms > profile.latency_ms:
        found.append(f"latency {cost.target_latency_ms:.1f} ms ({cost.target_latency_kind}) > {profile.latency_ms:g}")
    if cost.speedup < min_speedup * SPEED_MARGIN:
        found.append(f"speedup {cost.speedup:.2f}x < {min_speedup:g}x with {SPEED_MARGIN - 1:.0%} margin")
    return tuple(found)


def _rank(cost: Cost, ladder: list[Any]) -> int:
    return next(i for i, shape in enumerate(ladder) if shape.as_dict() == cost.shape)


def _next(ladder: list[Any], measured: list[Cost], best: Cost | None, bench: _Bench, min_speedup: float) -> Any:
    """The most capable shape that is predicted to fit, not measured yet, and better than the best so far."""
    done = [cost.shape for cost in measured]
    end = len(ladder) if best is None else _rank(best, ladder)
    for shape in ladder[:end]:
        if shape.as_dict() not in done and not breaks(bench.predict(shape, measured), bench.profile, min_speedup):
            return shape
    return ladder[-1] if best is None and ladder[-1].as_dict() not in done else None


def _smallest(ladder: list[Any], measured: list[Cost], bench: _Bench, profile: Profile, min_speedup: float) -> Cost:
    """The smallest shape, where it is over wishes only (speed, predicted latency); else the refusal, with its sums."""
    smallest = ladder[-1]
    cost = next((cost for cost in measured if cost.shape == smallest.as_dict()), None)
    if cost is None:
        cost = bench.measure(smallest)
        cost = replace(cost, breaks=breaks(cost, profile, min_speedup))
        measured.append(cost)
    family = type(smallest).__name__.lower()
    what = f"the smallest {family} with {smallest.classes} classes and {smallest.vocabulary} tokens"
    trim = f"--vocabulary {max(256, smallest.vocabulary // 4)}"
    if cost.memory_mib > profile.memory_mib:
        parts = memory_parts(smallest, cost)
        sums = ", ".join(f"{mib:.0f} {part}" for part, mib in parts.items())
        raise OverMemory(
            f"budget {profile.memory_mib:g} MiB of memory; {what} needs {cost.memory_mib:.0f} MiB: {sums}",
            fix=f"trim the vocabulary ({trim}) or raise memory_mib to at least {cost.memory_mib + 1:.0f}",
        )
    if cost.artifact_mib > profile.artifact_mib:
        raise ArtifactTooLarge(
            f"budget {profile.artifact_mib:g} MiB of file; {what} takes {cost.artifact_mib:.1f} MiB",
            fix=f"trim the vocabulary ({trim}) or raise artifact_mib to at least {cost.artifact_mib + 0.1:.1f}",
        )
    if cost.target_latency_kind == "measured" and cost.latency_ms > profile.latency_ms:
        raise OverLatency(
            f"budget {profile.latency_ms:g} ms; {what} takes {cost.latency_ms:.2f} ms at "
            f"{statistics.median(bench.lengths):.0f} tokens on this host",
            fix=f"raise latency_ms to at least {cost.latency_ms * 1.1:.2f}, shorten the texts (--max-tokens), "
            "or allow more threads in the profile",
        )
    return cost


def memory_parts(shape: Any, cost: Cost) -> dict[str, float]:
    """Peak RSS split for the reader, in MiB: weights as stored, copies packed for the kernels, the runtime's rest."""
    weights = min(cost.artifact_mib, cost.memory_mib)
    packed = min(shape.layers * shape.layer_weights * _coefficients(cost.recipe)[3] / 2**20, cost.memory_mib - weights)
    return {
        "weights": weights,
        "packed copies": packed,
        "runtime and activations": max(0.0, cost.memory_mib - weights - packed),
    }


def _coefficients(recipe: str) -> tuple[float, float, float, int, float]:
    return _COEFFICIENTS.get(recipe, _COEFFICIENTS["int8"])


class _Bench:
    """Builds shapes with random weights in a folder and measures them here, each beside the teacher."""

    def __init__(
        self, folder: Path, teacher_folder: Path, profile: Profile, recipe: str, whole: Any, largest: Any,
        lengths: list[int], task: str,
    ) -> None:  # fmt: skip
        self.folder, self.teacher_folder, self.profile, self.recipe = folder, teacher_folder, profile, recipe
        self.whole, self.lengths, self.task = whole, lengths, task
        self.max_tokens, self.vocabulary = largest.max_tokens, min(largest.vocabulary, whole.vocabulary)
        self.typical = round(statistics.median(lengths))
        self.device = make("devices", "local")
        self.teacher: dict[str, float] = {}

    def add_teacher(self) -> None:
        """Export the teacher's own shape in fp32: what every speedup is a ratio to."""
        self.inputs("timed", self.lengths)
        self.inputs("headline", [min(32, self.max_tokens)])
        model = self._export(self.whole, "teacher")
        job = self.device.run("footprint", model=str(model), inputs=[str(self.folder / "headline.npz")],
                              threads=self.profile.threads)  # fmt: skip
        self.teacher = {
            "memory_mib": job["peak_rss_mib"][0],
            "artifact_mib": model.stat().st_size / 2**20,
            "latency_ms": 0.0,
            "cold_start_ms": job["cold_start_ms"],
        }

    def inputs(self, name: str, lengths: list[int]) -> None:
        """Pack samples of these lengths; which tokens does not matter to cost, ids stay within any vocabulary."""
        import numpy as np

        from edgekd.runner import pack

        random = np.random.default_rng(0)
        names = ("input_ids", "attention_mask", "token_type_ids")
        samples = []
        for tokens in lengths:
            ids = random.integers(0, self.vocabulary, (1, tokens))
            samples.append(dict(zip(names, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True)))
        pack(samples, self.folder / f"{name}.npz")

    @property
    def teacher_ms(self) -> float:
        """The teacher's median beside the last shape; before the first, any number: only ratios count then."""
        return self.teacher["latency_ms"] or 1.0

    def measure(self, shape: Any) -> Cost:
        """Build, export, quantize, run: peak RSS and cold start in one fresh process, latency in another."""
        place = f"shape-{len(list(self.folder.iterdir()))}"
        plain = self._export(shape, place)
        model = plain.with_name("candidate.onnx")
        quantizer = plugin("quantizers", self.recipe).for_target(self.profile)
        quantizer.quantize(plain, model, ())
        threads = self.profile.threads
        job = self.device.run(
            "footprint", model=str(model), inputs=[str(self.folder / "headline.npz")], threads=threads
        )
        timed = str(self.folder / "timed.npz")
        teacher = str(self.folder / "teacher" / "model.onnx")
        models = {"teacher": {"model": teacher, "inputs": timed}, "student": {"model": str(model), "inputs": timed}}
        samples = self.device.run("time", models=models, threads=threads, rounds=_ROUNDS, seed=0)["latency_ms"]
        medians = {name: statistics.median(ms for turn in turns for ms in turn) for name, turns in samples.items()}
        self.teacher["latency_ms"] = medians["teacher"]
        return self._cost(shape, "measured", job["peak_rss_mib"][0], model.stat().st_size / 2**20, medians["student"],
                          job["cold_start_ms"])  # fmt: skip

    def predict(self, shape: Any, measured: list[Cost]) -> Cost:
        """The cost on paper, scaled by what the last measured shape showed."""
        memory, artifact, latency = self._paper(shape)
        if measured:
            last = measured[-1]
            paper = self._paper(type(shape)(**last.shape))
            memory, latency = memory * last.memory_mib / paper[0], latency * last.latency_ms / paper[2]
            artifact *= last.artifact_mib / paper[1]
        return self._cost(shape, "predicted", memory, artifact, latency, None)

    def _paper(self, shape: Any) -> tuple[float, float, float]:
        constant, embeddings, layers, size, speed = _coefficients(self.recipe)
        weights = shape.layers * shape.layer_weights * size / 2**20
        tables = (shape.parameters * size / 2**20) - weights
        own = shape.macs(self.typical) / speed + shape.layers * _LAYER_MACS + _CALL_MACS
        whole = self.whole.macs(self.typical) + self.whole.layers * _LAYER_MACS + _CALL_MACS
        latency = self.teacher_ms * own / whole
        return constant + embeddings * tables + layers * weights, weights + tables + 0.2, latency

    def _cost(
        self, shape: Any, kind: str, memory: float, artifact: float, latency: float, cold_start: float | None
    ) -> Cost:
        on_target = predict_latency(shape.macs(self.typical), self.profile, self.recipe)
        here = self.profile.runs_here
        return Cost(
            shape=shape.as_dict(), recipe=self.recipe, kind=kind, memory_mib=memory, artifact_mib=artifact,
            latency_ms=latency, speedup=self.teacher_ms / latency, cold_start_ms=cold_start,
            target_latency_ms=latency if here else on_target.value,
            target_latency_kind=kind if here else on_target.kind,
        )  # fmt: skip

    def _export(self, shape: Any, name: str) -> Path:
        model: Path = make("exporters", "optimum").export(
            shape.random(self.teacher_folder), self.folder / name, task=self.task, target=self.profile
        )
        return model
