"""What shapes cost against the budgets: predictions, candidates, the choice and the refusal. No disk, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from edgekd.core.protocols import InputSpec
from edgekd.core.registry import plugin
from edgekd.core.violations import MIN_SPEEDUP, Violation
from edgekd.hardware.latency_correction import Reading
from edgekd.hardware.profile import Profile
from edgekd.hardware.roofline import predict_latency
from edgekd.sizing.predictor import Prediction, Predictor

SPEED_MARGIN = 1.05  # a finalist must surely beat min_speedup by this: trained weights and real inputs cost a little
FINALISTS = 3
# times the speedup asked for: where finalists were slower than predicted, the next have room
_CAUTION = (1.1, 1.25, 1.5)
_ABOVE, _BELOW = 3, 2  # of the choice, in the fit table


@dataclass(frozen=True)
class Cost:
    """What a shape costs under one recipe, and the budgets that it does not meet."""

    shape: dict[str, Any]
    words: str
    recipe: str
    kind: str  # measured on this host, or predicted
    memory_mib: float
    artifact_mib: float
    latency_ms: float
    cold_start_ms: float
    speedup: float
    target_latency_ms: float | None  # None where nothing here can tell
    target_latency_kind: str
    target_memory_mib: float | None  # of an ARM target, where it was measured in a guest
    memory_parts: dict[str, float]  # MiB: weights, packed copies, activations, runtime
    predicted: dict[str, float] = field(default_factory=dict)  # of a measured one: what had been predicted
    violations: tuple[Violation, ...] = ()
    speedup_low: float | None = None  # of a measured one: the low end of its 95% interval over processes

    @property
    def judged_mib(self) -> float:
        """The memory that the budget is held against: the larger of this host's figure and an arm64 guest's."""
        return max(self.memory_mib, self.target_memory_mib or 0.0)


@dataclass(frozen=True)
class Fit:
    """The fit table: the teacher's cost, candidates in order of capability, the choice, and what to mind."""

    teacher: dict[str, Any]
    candidates: tuple[Cost, ...]
    chosen: Cost
    finalists: tuple[Cost, ...]  # what fits, the most capable first: what `--try` chooses among
    considered: int
    fitting: int
    errors: dict[str, dict[str, float]]  # of predictions, by recipe: p90 of the relative error, cross-validated
    anchors: str  # the host whose anchors the predictions come from
    reference_ms: float  # the reference model's median on this host: what predicted latencies are multiples of
    warnings: tuple[str, ...]
    host: str
    calibrated: str = ""  # what latencies predicted for the target are calibrated by, in words

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Fit:
        """From plain values, as `asdict` gives them."""
        costs = {key: tuple(_cost(one) for one in said[key]) for key in ("candidates", "finalists")}
        return cls(**{**said, **costs, "chosen": _cost(said["chosen"]), "warnings": tuple(said["warnings"])})


def _cost(said: Mapping[str, Any]) -> Cost:
    return Cost(**{**said, "violations": tuple(map(Violation.read, said["violations"]))})


def size_of(shape: Any, survey: InputSpec, wanted: int) -> int:
    """The size of an input for a shape: texts have sizes of their own, images and series the graph's."""
    return min(wanted, shape.max_size) if survey.vocabulary else int(shape.max_size)


def violations(cost: Cost, target: Profile, min_speedup: float) -> tuple[Violation, ...]:
    """Return the budgets that a cost is over, each with its text: `what value > budget (+how much)`."""
    limits = [
        ("memory_mib", "memory", cost.judged_mib, target.memory_mib, "MiB", cost.kind),
        ("artifact_mib", "artifact", cost.artifact_mib, target.artifact_mib, "MiB", cost.kind),
    ]
    if cost.target_latency_ms is not None:
        unit = f"ms {cost.target_latency_kind}"
        limits.append(
            ("latency_ms", "latency", cost.target_latency_ms, target.latency_ms, unit, cost.target_latency_kind)
        )
    if target.runs_here:
        limits.append(("cold_start_ms", "cold start", cost.cold_start_ms, target.cold_start_ms, "ms", cost.kind))
    found = [
        Violation(budget, value, limit, kind, f"{what} {value:.1f} {unit} > {limit:g} (+{value / limit - 1:.0%})")
        for budget, what, value, limit, unit, kind in limits
        if value > limit
    ]
    sure = cost.speedup if cost.speedup_low is None else cost.speedup_low
    least = min_speedup * SPEED_MARGIN
    if sure < least:
        low = "" if cost.speedup_low is None else f", surely only {sure:.2f}x,"
        text = f"speedup {cost.speedup:.2f}x{low} < {min_speedup:g}x with {SPEED_MARGIN - 1:.0%} margin"
        found.append(Violation(MIN_SPEEDUP, sure, least, cost.kind, text))
    return tuple(found)


def refusing(cost: Cost) -> list[Violation]:
    """Return the violations that refuse: of budgets, and of a latency only where it was measured."""
    return [violation for violation in cost.violations if violation.refuses]


@dataclass(frozen=True)
class Candidates:
    """Every shape of the family for one plan, and how to predict it."""

    ladder: tuple[Any, ...]  # the most capable first
    target: Profile
    survey: InputSpec
    min_speedup: float
    predictor: Predictor
    reference_ms: float  # the reference model's median on this host
    teacher_ms: float
    readings: tuple[Reading, ...] = ()  # of real boards with the target's core

    @property
    def family(self) -> str:
        """The family's name."""
        return type(self.ladder[0]).__name__.lower()

    @property
    def recipes(self) -> tuple[str, ...]:
        """What shapes are measured under: the family's recipes in the profile, else an int8 one, else its first."""
        own = tuple(name for name in plugin("students", self.family).recipes if name in self.target.recipes)
        return own or (next((name for name in self.target.recipes if "int8" in name), self.target.recipes[0]),)

    def predict(self, shape: Any, recipe: str, measured: Sequence[Cost] = ()) -> Cost:
        """The cost on paper; what the last measured shape of that recipe was off by is taken off the others, too."""
        memory, figures = self._paper(shape, recipe)
        last = next((cost for cost in reversed(measured) if cost.recipe == recipe), None)
        if last is not None:
            own = {
                "memory_mib": last.memory_mib,
                "artifact_mib": last.artifact_mib,
                "latency_ms": last.latency_ms,
                "cold_start_ms": last.cold_start_ms,
            }
            figures = {name: value * own[name] / last.predicted[name] for name, value in figures.items()}
        return self.cost(shape, recipe, "predicted", figures, memory)

    def measured(self, shape: Any, recipe: str, figures: Mapping[str, float]) -> Cost:
        """The cost as measured, beside what had been predicted."""
        memory, predicted = self._paper(shape, recipe)
        return self.cost(shape, recipe, "measured", figures, memory, predicted)

    def _paper(self, shape: Any, recipe: str) -> tuple[Prediction, dict[str, float]]:
        typical, headline = (shape.work(size_of(shape, self.survey, size)) for size in (self.survey.typical, 32))
        memory = self.predictor.predict(self.family, recipe, headline)
        latency = self.predictor.predict(self.family, recipe, typical).latency_ratio
        return memory, {
            "memory_mib": memory.memory_mib,
            "artifact_mib": memory.artifact_mib,
            "latency_ms": latency * self.reference_ms,
            "cold_start_ms": memory.cold_start_ms,
        }

    def cost(
        self,
        shape: Any,
        recipe: str,
        kind: str,
        figures: Mapping[str, float],
        memory: Prediction,
        predicted: Mapping[str, float] | None = None,
    ) -> Cost:
        """A cost from its figures, held against the budgets."""
        work = shape.work(size_of(shape, self.survey, self.survey.typical))
        on_target = predict_latency(work, self.target, recipe, self.readings)
        here = self.target.runs_here
        made = Cost(
            shape=shape.as_dict(),
            words=str(shape),
            recipe=recipe,
            kind=kind,
            memory_mib=figures["memory_mib"],
            artifact_mib=figures["artifact_mib"],
            latency_ms=figures["latency_ms"],
            cold_start_ms=figures["cold_start_ms"],
            speedup=self.teacher_ms / figures["latency_ms"],
            speedup_low=figures.get("speedup_low"),
            target_latency_ms=figures["latency_ms"] if here else on_target.value,
            target_latency_kind=kind if here else on_target.kind,
            target_memory_mib=figures.get("target_memory_mib"),
            memory_parts=_parts(figures["memory_mib"], figures["artifact_mib"], memory),
            predicted=dict(predicted or {}),
        )
        return replace(made, violations=violations(made, self.target, self.min_speedup))

    def ranked(self, measured: Sequence[Cost] = ()) -> list[Cost]:
        """Each shape under its best recipe, the most capable first: measured where it was, else predicted."""
        done: dict[str, list[Cost]] = {}
        for cost in measured:
            done.setdefault(str(sorted(cost.shape.items())), []).append(cost)
        found = []
        for shape in self.ladder:
            own = done.get(str(sorted(shape.as_dict().items())))
            costs = own or [self.predict(shape, recipe, measured) for recipe in self.recipes]
            found.append(min(costs, key=lambda cost: (len(refusing(cost)), len(cost.violations), cost.latency_ms)))
        return found


def _parts(memory_mib: float, artifact_mib: float, predicted: Prediction) -> dict[str, float]:
    """Where the memory goes: weights as stored, copies packed for the kernels, activations, the runtime's rest."""
    scale = memory_mib / predicted.memory_mib
    parts = {
        "weights": min(artifact_mib, memory_mib),
        "packed copies": predicted.memory_parts["packed copies"] * scale,
        "activations": predicted.memory_parts["activations"] * scale,
    }
    return parts | {"runtime": max(0.0, memory_mib - sum(parts.values()))}


def settle(
    among: Candidates, measure: Callable[[Cost], list[Cost]], *, tries: int, most: int, classes: int, unit: str
) -> tuple[list[Cost], list[Cost], list[str]]:
    """Measure until the `tries` most capable shapes that fit are known, at most `most` shapes.

    Where none of these fits, as on a busy host, a few that should be faster than asked are measured before the smallest
    one is. Returns all costs by capability, those measured that fit, and warnings. Where only wishes cannot be met (a
    speedup, a predicted latency), the nearest shape is taken; where a budget can't, this raises what `refuse` raises.
    """
    measured: list[Cost] = []
    for number in range(1, most + 1):
        cost = next_finalist(among.ranked(measured), tries)
        if cost is None:
            break
        measured += measure(cost)
        print(f"measured {number} {cost.words}: {measured[-1].memory_mib:.0f} MiB", flush=True)  # noqa: T201
    for caution in _CAUTION:
        roomy = _roomy(among.ranked(measured), caution * among.min_speedup)
        if roomy is None or any(not cost.violations for cost in measured):
            break
        measured += measure(roomy)
    finalists = [cost for cost in among.ranked(measured) if cost.kind == "measured" and not cost.violations]
    if finalists:
        return among.ranked(measured), finalists, []
    if nearest(among.ranked(measured)).kind != "measured":
        measured += measure(nearest(among.ranked(measured)))
    ranked = among.ranked(measured)
    last = nearest([cost for cost in ranked if cost.kind == "measured"])
    if refusing(last):
        refuse(last, among, classes=classes, unit=unit)
    return ranked, [last], [f"no shape meets: {one.text}; the smallest was taken" for one in last.violations]


def _roomy(ranked: Sequence[Cost], speedup: float) -> Cost | None:
    """The most capable shape not yet measured that should fit, and be that much faster; None where there is none."""
    able = (cost for cost in ranked if cost.kind != "measured" and not cost.violations)
    return next((cost for cost in able if cost.speedup >= speedup * SPEED_MARGIN), None)


def next_finalist(ranked: Sequence[Cost], wanted: int) -> Cost | None:
    """The shape to measure next: the most capable that should fit, until `wanted` better ones are known to.

    Where nothing should fit, the nearest shape: it must be measured before it is refused.
    """
    known = 0
    for cost in ranked:
        if cost.violations:
            continue
        if cost.kind != "measured":
            return cost
        known += 1
        if known == wanted:
            return None
    if known:
        return None
    near = nearest(ranked)
    return None if near.kind == "measured" else near


def nearest(ranked: Sequence[Cost]) -> Cost:
    """The shape that misses the fewest budgets; the smallest of those."""
    return min(ranked, key=lambda cost: (len(refusing(cost)), cost.judged_mib, cost.artifact_mib, cost.latency_ms))


def shown(ranked: Sequence[Cost], chosen: Cost) -> tuple[Cost, ...]:
    """What the fit table lists: what was measured, the most capable, those around the choice, the smallest."""
    place = next(number for number, cost in enumerate(ranked) if cost.shape == chosen.shape)
    keep = {0, len(ranked) - 1, *range(max(0, place - _ABOVE), min(len(ranked), place + _BELOW + 1))}
    keep |= {number for number, cost in enumerate(ranked) if cost.kind == "measured"}
    return tuple(ranked[number] for number in sorted(keep))


def refuse(cost: Cost, among: Candidates, *, classes: int, unit: str) -> NoReturn:
    """Raise what the nearest shape is over, with its sums and the way out."""
    target, survey = among.target, among.survey
    given = f"{survey.vocabulary:,} tokens" if survey.vocabulary else f"inputs of {survey.max_size} {unit}"
    what = f"the smallest {among.family} with {classes} classes and {given}"
    relief = f"{among.ladder[-1].how_to_shrink()} or " if among.ladder[-1].how_to_shrink() else ""
    over = refusing(cost)[0]
    if over.budget == "memory_mib":
        sums = ", ".join(f"{mib:.0f} {part}" for part, mib in cost.memory_parts.items())
        raise over.error(
            f"budget {target.memory_mib:g} MiB of memory; {what} needs {cost.judged_mib:.0f} MiB: {sums}",
            fix=f"{relief}raise memory_mib to at least {cost.judged_mib + 1:.0f}",
        )
    if over.budget == "artifact_mib":
        raise over.error(
            f"budget {target.artifact_mib:g} MiB of file; {what} takes {cost.artifact_mib:.1f} MiB",
            fix=f"{relief}raise artifact_mib to at least {cost.artifact_mib + 0.1:.1f}",
        )
    if over.budget == "latency_ms":
        raise over.error(
            f"budget {target.latency_ms:g} ms; {what} takes {cost.latency_ms:.2f} ms at {survey.typical} {unit} "
            "on this host",
            fix=f"raise latency_ms to at least {cost.latency_ms * 1.1:.2f}, give smaller inputs, or allow more threads "
            "in the profile",
        )
    raise over.error(
        f"budget {target.cold_start_ms:g} ms of cold start; {what} takes {cost.cold_start_ms:.0f} ms on this host",
        fix=f"raise cold_start_ms to at least {cost.cold_start_ms * 1.1:.0f}",
    )
