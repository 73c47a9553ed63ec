"""Candidates: what a search may try, and in which order. Pure: measurements in, names out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.compression.choose import FP32, Trial, over_budget, recipe_of, violations
from edgekd.core.errors import BelowAccuracy
from edgekd.core.model import Model, graph_file
from edgekd.core.protocols import Task
from edgekd.core.registry import plugin
from edgekd.hardware.profile import Profile

_BETTER = 0.8
_MOST_PLAIN = 8  # graphs that are left in fp32, one at a time
STEPS = (1, 2, 4, 8, 16, 32)  # how many of the worst places are left in float, until the floor is met


@dataclass(frozen=True)
class Candidate:
    """A recipe, options of its own beside the profile's, and the nodes that stay in float."""

    recipe: str
    options: tuple[tuple[str, Any], ...] = ()
    keep: tuple[str, ...] = ()
    places: tuple[str, ...] = ()  # what `keep` is, in words
    order: str = (
        "float"  # in which places were taken: the worst ones; `first`, from the input on; or `last`, from the end
    )
    plain: tuple[str, ...] = ()  # the graphs that stay in fp32

    @property
    def name(self) -> str:
        """Of its folder and in tables: the recipe, its options, how many nodes stay in float."""
        options = "".join(f"-{_option(key, value)}" for key, value in self.options)
        kept = f"-{self.order}{len(self.keep)}" if self.keep else ""
        return f"{self.recipe}{options}{kept}" + "".join(f"-{FP32}_{graph}" for graph in self.plain)

    @property
    def words(self) -> str:
        """What is its own, for a reader."""
        said = [_option(key, value).replace("-", " ") for key, value in self.options]
        said += [f"in float: {', '.join(self.places)}"] if self.keep else []
        return ", ".join(said + ([f"{FP32}: {', '.join(self.plain)}"] if self.plain else []))

    def quantizer(self, target: Profile) -> Any:
        """The plug-in that makes it."""
        made: Any = plugin("quantizers", self.recipe).for_target(target)
        return replace(made, **dict(self.options)) if self.options else made


def variant(folder: Path, name: str, task: Task) -> Model:
    """Return the variant of that name in a folder of variants."""
    return graphs_in(folder / name, name, task)


def graphs_in(place: Path, name: str, task: Task) -> Model:
    """Return the variant of that name whose files lie in `place`, named as transformers.js expects them."""
    suffix = plugin("quantizers", recipe_of(name)).suffix
    return Model.in_folder(place, task.graphs, task.program, suffix=suffix)


def recipes_of(model: Model, name: str) -> dict[str, str]:
    """Return by graph what the variant of that name made of it: fp32 where its file is named so."""
    plain = {graph: file.name == graph_file(file.parent, graph).name for graph, file in model.graphs.items()}
    suffix = plugin("quantizers", recipe_of(name)).suffix
    return {graph: FP32 if plain[graph] and suffix else name for graph in model.graphs}


def recipes(target: Profile, force: str | None = None) -> list[Candidate]:
    """fp32 first, then the profile's recipes in its order, and the one that is forced."""
    named = [FP32, *target.recipes, *([force] if force else [])]
    return [Candidate(recipe) for recipe in dict.fromkeys(named)]


def one_graph_plain(base: Candidate, changed: Sequence[str]) -> list[Candidate]:
    """Return the candidate with one of the graphs that its recipe `changed` in fp32 at a time; none of one graph."""
    few = changed[:_MOST_PLAIN] if len(changed) > 1 else ()
    return [replace(base, plain=(graph,)) for graph in few]


def recoverable(trials: Sequence[Trial], target: Profile) -> list[Trial]:
    """The variants that only accuracy stands against and that would ship without that, the fastest first."""
    plain = next(trial for trial in trials if trial.name == FP32)
    ships = [trial for trial in trials if trial.failed is None and not violations(trial, target)]
    fastest = max((trial.speed for trial in ships), default=0.0)
    wanted = []
    for trial in trials:
        if trial.failed is not None or over_budget(trial, target):
            continue
        stands = {violation.error for violation in violations(trial, target)}
        needed = trial.surely > plain.speed or bool(over_budget(plain, target))
        if stands == {BelowAccuracy} and needed and trial.speed > fastest:
            wanted.append(trial)
    return sorted(wanted, key=lambda trial: -trial.speed)


def foundations(trials: Sequence[Trial]) -> list[Trial]:
    """Of each recipe the setting that layers in float are added to, in the order given: one mended is enough.

    It is the profile's own, unless another takes away a fifth of what it disagrees on.
    """
    found: dict[str, Trial] = {}
    for trial in trials:
        if trial.kept:
            continue
        recipe = recipe_of(trial.name)
        own = found.setdefault(recipe, trial)
        better = 1 - trial.agreement < _BETTER * (1 - own.agreement)
        if better or (trial.name == recipe and 1 - own.agreement >= _BETTER * (1 - trial.agreement)):
            found[recipe] = trial
    return list(found.values())


def settings(base: Candidate, target: Profile) -> list[Candidate]:
    """The candidate with each of the recipe's other settings that are worth a trial."""
    made = base.quantizer(target)
    return [replace(base, options=tuple(sorted(one.items()))) for one in made.variants()]


def ladder(base: Candidate, suggestions: Sequence[tuple[str, tuple[str, ...]]]) -> list[Candidate]:
    """The candidate with ever more of the suggested places in float: a `suggestion` has its words and its nodes."""
    steps = [step for step in STEPS if step < len(suggestions)] + [len(suggestions)]
    return [_keeping(base, suggestions[:step]) for step in steps if step]


def between(
    base: Candidate, suggestions: Sequence[tuple[str, tuple[str, ...]]], failed: int, passed: int
) -> Candidate | None:
    """Half-way from a number of places that is too small to one that is enough; None where nothing lies between."""
    middle = (failed + passed) // 2
    return None if middle in (failed, passed) else _keeping(base, suggestions[:middle])


def _keeping(base: Candidate, places: Sequence[tuple[str, tuple[str, ...]]]) -> Candidate:
    keep = tuple(dict.fromkeys(node for _, nodes in places for node in nodes))
    return replace(base, keep=keep, places=tuple(words for words, _ in places))


def _option(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    return str(value) if isinstance(value, str) else f"{key}_{value}"
