"""Choose: which variant ships. A pure decision over measurements: no model, no disk, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgekd.core.errors import ArtifactTooLarge, BelowAccuracy, EdgeKDError, OverLatency, OverMemory
from edgekd.core.profile import Profile


@dataclass(frozen=True)
class Trial:
    """One variant on the selection rows. `drop_points` is against the fp32 student, on what selection judges by."""

    recipe: str
    agreement: float  # with the teacher, as a fraction of the rows
    drop_points: float
    speed: float  # over the fp32 student, above 1 is faster
    latency_ms: float
    peak_rss_mib: float
    artifact_mib: float
    suggestion: dict[str, float] = field(default_factory=dict)  # a threshold of its confidence, as these rows have it
    failed: str | None = None  # why the recipe gave no variant


@dataclass(frozen=True)
class Choice:
    """The variant that ships, and in words why each of the others does not."""

    recipe: str
    why: str
    passed_over: dict[str, str]


def objections(trial: Trial, target: Profile) -> list[tuple[type[EdgeKDError], str]]:
    """What stands against shipping a variant, as the error it would be and the words for it."""
    found: list[tuple[type[EdgeKDError], str]] = []
    if trial.drop_points > target.max_drop_points:
        found.append((BelowAccuracy, f"loses {trial.drop_points:.1f} points > {target.max_drop_points:g} allowed"))
    if trial.agreement < target.min_teacher_agreement:
        found.append(
            (BelowAccuracy, f"agrees with the teacher on {trial.agreement:.1%} < {target.min_teacher_agreement:.1%}")
        )
    if trial.peak_rss_mib > target.memory_mib:
        found.append((OverMemory, f"peak memory {trial.peak_rss_mib:.1f} MiB > {target.memory_mib:g}"))
    if trial.artifact_mib > target.artifact_mib:
        found.append((ArtifactTooLarge, f"file {trial.artifact_mib:.1f} MiB > {target.artifact_mib:g}"))
    if target.runs_here and trial.latency_ms > target.latency_ms:
        found.append((OverLatency, f"latency {trial.latency_ms:.2f} ms > {target.latency_ms:g}"))
    return found


def choose(trials: Sequence[Trial], target: Profile) -> Choice:
    """The fastest variant that nothing stands against; fp32 unless a quantized one is faster or the only one to fit.

    Raises the error of the objection that the best candidate fails by, where none is left.
    """
    standing = {trial.recipe: objections(trial, target) for trial in trials if trial.failed is None}
    eligible = [trial for trial in trials if trial.failed is None and not standing[trial.recipe]]
    passed_over = {trial.recipe: f"failed: {trial.failed}" for trial in trials if trial.failed}
    passed_over |= {recipe: "; ".join(text for _, text in found) for recipe, found in standing.items() if found}
    if not eligible:
        nearest = min((trial for trial in trials if trial.failed is None), key=lambda t: len(standing[t.recipe]))
        kind, text = standing[nearest.recipe][0]
        raise kind(
            f"no variant may ship: {nearest.recipe} {text}"
            + "".join(f"; {recipe} {why}" for recipe, why in passed_over.items() if recipe != nearest.recipe),
            fix=_way_out(kind, target.name),
        )
    plain = next((trial for trial in eligible if trial.recipe == "float32"), None)
    best = max(eligible, key=lambda trial: trial.speed)
    if plain is not None and best.speed <= plain.speed:
        best = plain
    for trial in eligible:
        if trial.recipe != best.recipe:
            passed_over[trial.recipe] = f"{best.speed / trial.speed:.2f}x slower than {best.recipe}"
    if best.recipe == "float32":
        why = "no quantized variant is both allowed and faster"
    elif plain is None:
        why = f"fits the budgets, which fp32 does not, and is {best.speed:.2f}x its speed"
    else:
        why = f"{best.speed:.2f}x the speed of fp32 at {best.drop_points:+.1f} points lost"
    return Choice(best.recipe, why, passed_over)


def _way_out(kind: type[EdgeKDError], target: str) -> str:
    if kind is BelowAccuracy:
        return "give more unlabelled rows or labels, train longer (--epochs), or lower the floor in the profile"
    if kind is OverLatency:
        return "ask for a faster student (--min-speedup), or raise latency_ms in the profile"
    return f"make it smaller (--vocabulary, --image-size), or raise the budget in the profile of {target}"
