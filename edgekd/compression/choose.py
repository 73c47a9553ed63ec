"""Choose: which variant ships. A pure decision over measurements: no model, no disk, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgekd.core.errors import BelowAccuracy, EdgeKDError, UsageError
from edgekd.core.floors import Floor
from edgekd.core.violations import Violation
from edgekd.hardware.profile import Profile

FP32 = "float32"
PROCESSES = 5  # fresh ones that time what may ship: a process's memory layout moves its speed by percents
MOST_FINALISTS = 4
FEWEST = 30  # rows on the target's kernels; fewer move no figure
Span = tuple[float, float]


@dataclass(frozen=True)
class OnTarget:
    """One variant under the kernels of the target's own architecture, on `n` of the selection rows.

    `agreement` and `drop_points` are for all selection rows: this host's figures, moved by what changed from here to
    there on those `n`. `cost` is its instructions over the fp32 model's on the target's core; None where not counted.
    """

    n: int
    agreement: float
    agreement_interval: Span
    drop_points: float
    drop_interval: Span
    flips: int  # rows of the n whose class is another there; of embeddings, whose cosine moved by over .01
    largest_difference: float  # of any output
    cost: float | None = None


@dataclass(frozen=True)
class Trial:
    """One variant on the selection rows. `drop_points` is against the fp32 student, on what selection judges by.

    Intervals hold 95%; of a variant that was given none, its figure counts as certain.
    """

    name: str  # the candidate's: its recipe, and what is its own
    agreement: float  # with the teacher, as a fraction of the rows; of embeddings the mean cosine
    drop_points: float
    speed: float  # over the fp32 student, above 1 is faster
    latency_ms: float
    peak_rss_mib: float
    artifact_mib: float
    agreement_interval: Span | None = None
    drop_interval: Span | None = None
    speed_interval: Span | None = None  # over fresh processes; over the rows of one where `processes` is 1
    processes: int = 1  # that timed it: a search times in one, and its finalists in several
    kept: tuple[str, ...] = ()  # the graph's nodes that it leaves in float
    said: str = ""  # the candidate in words
    suggestion: dict[str, float] | None = None  # a threshold of its confidence, as these rows have it
    failed: str | None = None  # why the recipe gave no variant
    compared_with: str = "the teacher"  # whose answers its agreement is with
    by_low_end: bool = False  # whether the low end of its agreement's interval holds the floor, not the figure
    on_target: OnTarget | None = None  # where the target's own kernels could be asked

    @classmethod
    def failure(cls, name: str, why: str, said: str = "") -> Trial:
        """Of a candidate that could not be made or run."""
        return cls(name, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, failed=why, said=said)

    @property
    def judged(self) -> Trial | OnTarget:
        """Where its accuracy counts: on the target's kernels, or on this host's where those could not be asked."""
        return self.on_target or self

    @property
    def counted(self) -> bool:
        """Whether its instructions on the target's core are known: then they rank it, not this host's clock."""
        return self.on_target is not None and self.on_target.cost is not None

    @property
    def pace(self) -> float:
        """What it is ranked by, above 1 is better than fp32: fewer instructions on the target, or speed here."""
        return 1 / self.on_target.cost if self.on_target is not None and self.on_target.cost else self.speed

    @property
    def surely(self) -> float:
        """The pace that it has at least; a count of instructions has no spread to speak of."""
        return self.pace if self.counted or not self.speed_interval else self.speed_interval[0]

    @property
    def at_most(self) -> float:
        """The pace that it may have."""
        return self.pace if self.counted or not self.speed_interval else max(self.pace, self.speed_interval[1])

    @property
    def noise(self) -> float:
        """Of fp32: how far its own speed over itself strays from 1, what another must be faster by to be so surely."""
        return max(self.at_most, 1 / self.surely) if self.speed_interval and not self.counted else self.pace

    @property
    def pace_says(self) -> str:
        """Its pace in words."""
        return (
            f"{1 / self.pace:.2f}x the instructions of fp32" if self.counted else f"{self.speed:.2f}x the speed of fp32"
        )


@dataclass(frozen=True)
class Choice:
    """The variant that ships, and in words why each of the others does not."""

    name: str
    why: str
    passed_over: dict[str, str]
    forced: bool = False
    against: tuple[str, ...] = field(default=())  # what stands against one that was forced


def violations(trial: Trial, target: Profile) -> list[Violation]:
    """Return the floors and budgets that a variant does not meet: none of what may ship."""
    found: list[Violation] = []
    judged = trial.judged
    where = f" on {target.arch}" if trial.on_target is not None and trial.on_target.n >= FEWEST else ""
    drop, agreement = floors(trial, target)
    low_end = ", by the low end of its interval," if agreement.value < judged.agreement else ""
    if not drop.held:
        text = f"loses {judged.drop_points:.1f} points{where} > {target.max_drop_points:g} allowed"
        found.append(Violation(drop.name, drop.value, drop.asked, "measured", text))
    if not agreement.held:
        floor = target.min_teacher_agreement
        digits = 1 if f"{agreement.value:.1%}" != f"{floor:.1%}" else 3
        text = f"agreement with {trial.compared_with}{where}{low_end} {agreement.value:.{digits}%} < {floor:.{digits}%}"
        found.append(Violation(agreement.name, agreement.value, agreement.asked, "measured", text))
    return found + over_budget(trial, target)


def floors(trial: Trial, target: Profile) -> tuple[Floor, Floor]:
    """The floors of the selection rows with a variant's figures: on the target's kernels, where those were asked.

    Of any graph rows are few and fidelity is all that is known: there the low end of its interval must hold. Rows that
    all agree to the last bit have no spread, and are as they are.
    """
    judged = trial.judged
    agreement = judged.agreement
    if trial.by_low_end and agreement < 1 and judged.agreement_interval:
        agreement = min(agreement, judged.agreement_interval[0])
    return (
        Floor("max_drop_points", target.max_drop_points, judged.drop_points, judged.drop_interval, at_most=True),
        Floor("min_teacher_agreement", target.min_teacher_agreement, agreement, judged.agreement_interval),
    )


def over_budget(trial: Trial, target: Profile) -> list[Violation]:
    """Return the budgets that it is over: memory, file, and latency where the target runs here."""
    limits = [
        ("memory_mib", trial.peak_rss_mib, f"peak memory {trial.peak_rss_mib:.1f} MiB"),
        ("artifact_mib", trial.artifact_mib, f"file {trial.artifact_mib:.1f} MiB"),
    ]
    if target.runs_here:
        limits.append(("latency_ms", trial.latency_ms, f"latency {trial.latency_ms:.2f} ms"))
    return [
        Violation(budget, value, getattr(target, budget), "measured", f"{words} > {getattr(target, budget):g}")
        for budget, value, words in limits
        if value > getattr(target, budget)
    ]


def in_the_profile(error: type[EdgeKDError], budget: str) -> str:
    """What helps whatever is compressed, and however."""
    return f"{'lower' if error is BelowAccuracy else 'raise'} {budget} in the profile"


def choose(
    trials: Sequence[Trial],
    target: Profile,
    force: str | None = None,
    way_out: Callable[[type[EdgeKDError], str], str] = in_the_profile,
) -> Choice:
    """The fastest variant that nothing stands against; fp32 unless a quantized one is surely faster or alone fits.

    Faster is what timing shows beyond its noise. Of variants that timing cannot tell apart from the fastest the most
    accurate ships: accuracy repeats from build to build, the clock's last percents do not.
    `force` names a recipe that ships whatever stands against it: its fastest variant, told with what it breaks.
    Raises the error of the first violation of the nearest candidate, where none is left; `way_out` gives its fix, by
    the error and the key of the profile that it is about.
    """
    standing = {trial.name: violations(trial, target) for trial in trials if trial.failed is None}
    eligible = [trial for trial in trials if trial.failed is None and not standing[trial.name]]
    passed_over = {trial.name: f"failed: {trial.failed}" for trial in trials if trial.failed}
    passed_over |= {name: _texts(found) for name, found in standing.items() if found}
    if force is not None:
        return _forced(trials, force, standing, passed_over)
    if not eligible:
        nearest = min((trial for trial in trials if trial.failed is None), key=lambda t: len(standing[t.name]))
        first = standing[nearest.name][0]
        raise first.error(
            f"no variant may ship: {nearest.name} {first.text}"
            + "".join(f"; {name} {why}" for name, why in passed_over.items() if name != nearest.name),
            fix=way_out(first.error, first.budget),
        )
    plain = next((trial for trial in eligible if trial.name == FP32), None)
    faster = [trial for trial in eligible if plain is None or trial.surely > plain.noise]
    best = _of_the_fastest(faster) if faster else plain
    assert best is not None
    for trial in eligible:
        if trial.name != best.name:
            passed_over[trial.name] = _slower(trial, best)
    if best.name == FP32:
        why = "no quantized variant is both allowed and faster"
    elif plain is None:
        why = f"fits the budgets, which fp32 does not, at {best.pace_says}"
    else:
        lost, span = best.judged.drop_points, best.judged.drop_interval
        points = f"{-lost:.1f} points gained" if span and span[1] < 0 else f"{lost:+.1f} points lost"
        why = f"{best.pace_says} at {points}"
    return Choice(best.name, why, passed_over)


def _of_the_fastest(trials: Sequence[Trial]) -> Trial:
    """The most accurate of those that may be as fast as the fastest."""
    fastest = max(trials, key=lambda trial: trial.pace)
    level = [trial for trial in trials if trial.at_most >= fastest.surely or trial.pace == fastest.pace]
    return max(level, key=lambda trial: (-trial.judged.drop_points, trial.judged.agreement, -trial.artifact_mib))


def pareto(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Names of the variants that no other one beats in agreement, speed, memory and size at once."""
    whole = [trial for trial in trials if trial.failed is None]

    def worth(trial: Trial) -> tuple[float, ...]:
        return trial.agreement, trial.speed, -trial.peak_rss_mib, -trial.artifact_mib

    def beaten(one: tuple[float, ...]) -> bool:
        rest = (worth(other) for other in whole)
        return any(other != one and all(a >= b for a, b in zip(other, one, strict=True)) for other in rest)

    return tuple(trial.name for trial in whole if not beaten(worth(trial)))


def finalists(trials: Sequence[Trial], target: Profile, force: str | None = None) -> list[str]:
    """What must be timed in several processes before one of them ships: fp32, the best, and what may be as fast.

    Those that were, are left out; at most four, the fastest first. Empty where nothing may ship, or all were.
    """
    best = best_so_far(trials, target, force)
    if best is None:
        return []
    known = {trial.name: trial for trial in trials}
    fit = [trial for trial in trials if trial.failed is None and not violations(trial, target) and trial.name != FP32]
    plain = known.get(FP32)
    near = [one for one in fit if one.at_most >= known[best].surely or (plain and best == FP32 and one.speed > 1)]
    near.sort(key=lambda trial: -trial.pace)
    wanted = dict.fromkeys([FP32, best, *(one.name for one in near)])
    names = [name for name in wanted if name in known and known[name].failed is None][:MOST_FINALISTS]
    done = all(known[name].processes >= PROCESSES for name in names if name in (FP32, best))
    return [] if done else names


def best_so_far(trials: Sequence[Trial], target: Profile, force: str | None = None) -> str | None:
    """What would ship if the search ended now; None where nothing may."""
    try:
        return choose(trials, target, force).name
    except EdgeKDError:
        return None


def recipe_of(name: str) -> str:
    """The recipe that a candidate's name begins with."""
    return name.partition("-")[0]


def _forced(trials: Sequence[Trial], force: str, standing: dict[str, list[Violation]], why: dict[str, str]) -> Choice:
    own = [trial for trial in trials if recipe_of(trial.name) == force]
    made = [trial for trial in own if trial.failed is None]
    if not made:
        failed = own[0].failed if own else "it was not tried"
        raise UsageError(f"--force {force}: there is no such variant: {failed}", fix="force another recipe, or none")
    best = min(made, key=lambda trial: (len(standing[trial.name]), -trial.pace))
    for trial in trials:
        if trial.name != best.name:
            why.setdefault(trial.name, f"{best.name} was forced")
    against = tuple(violation.text for violation in standing[best.name])
    plain = next((trial for trial in trials if trial.name == FP32), best)
    if best.surely <= plain.noise and best is not plain:
        against += (f"is not surely faster than fp32: {best.pace_says}",)
    told = f"forced against: {'; '.join(against)}" if against else "forced; nothing stands against it"
    why.pop(best.name, None)
    return Choice(best.name, f"{told}; {best.pace_says}", why, forced=True, against=against)


def _slower(trial: Trial, best: Trial) -> str:
    if trial.counted and best.counted:
        return f"{best.pace / trial.pace:.2f}x the instructions of {best.name}"
    if best.name != FP32 and trial.at_most >= best.surely and (trial.speed_interval or best.speed_interval):
        return f"not surely faster than {best.name}, nor more accurate"
    if trial.pace > best.pace:
        noise = f"; {best.name} strays by {best.noise - 1:.0%} from itself" if trial.surely > best.pace else ""
        return f"not surely faster than {best.name}: {trial.pace:.2f}x, at least {trial.surely:.2f}x{noise}"
    return f"{best.pace / trial.pace:.2f}x slower than {best.name}"


def _texts(found: Sequence[Violation]) -> str:
    return "; ".join(violation.text for violation in found)
