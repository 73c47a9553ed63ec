"""From a user's words to frozen plans. Everything that can be refused is refused here, before any training.

One plan a target: what does not depend on the target (teacher, rows, losses, training) is resolved once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from edgekd.core import versions as bundle_versions
from edgekd.core.cpus import usable_cpus
from edgekd.core.digests import digest
from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.core.protocols import GraphTask, InputSpec, RecipeTask
from edgekd.core.registry import folder_name, made_elsewhere, plugin
from edgekd.core.results import versions
from edgekd.data import demos
from edgekd.data.splits import Splits
from edgekd.hardware.profile import Profile, load_profile
from edgekd.plan import resolve
from edgekd.plan.inputs import ANSWERS, read_teacher, settle, starting_network
from edgekd.plan.options import Options, check_ranges
from edgekd.plan.plan import Measuring, Plan, SharedPlan, TeacherPlan
from edgekd.store.store import Store, open_store

__all__ = ["PACKAGES", "Options", "Planned", "make_plan", "make_plans"]

PACKAGES = (
    "edgekd",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "onnx",
    "onnxruntime",
    "optimum",
    "optimum-onnx",
    "neural_compressor",
    "scikit-learn",
    "numpy",
)
_SEPARATOR = ","
PLAIN_RECIPE = "float32"


@dataclass(frozen=True)
class Planned:
    """The plans of several targets, in the order they were asked for, and the rows that all of them speak of."""

    shared: SharedPlan
    targets: tuple[Profile, ...]
    plans: dict[str, Plan]  # by the target's name
    refused: dict[str, EdgeKDError]  # the targets whose runtime would not load what is written
    splits: Splits


def target_names(text: str) -> list[str]:
    """Return the names and files that `--targets` lists. Raises UsageError for an empty or a repeated one."""
    given = [one.strip() for one in text.split(_SEPARATOR)]
    if not all(given):
        raise UsageError(
            f"--targets {text!r} has an empty name", fix="give names or YAML files with commas between: rpi4,rpi5"
        )
    repeated = next((one for one in given if given.count(one) > 1), None)
    if repeated is not None:
        raise UsageError(f"--targets names {repeated!r} twice", fix="name each target once")
    return given


def load_targets(given: Sequence[str], options: Options) -> tuple[Profile, ...]:
    """Return the profiles. Raises UsageError for an unknown name, and where two files describe one target's name."""
    targets = tuple(load_profile(name, budgets=options.budgets | _floors(options)) for name in given)
    names = [target.name for target in targets]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        both = " and ".join(one for one, name in zip(given, names, strict=True) if name == repeated)
        raise UsageError(
            f"{both} describe one target, {repeated!r}: their bundles would have one name",
            fix="change `name` in one of the profiles, or leave one out",
        )
    return targets


def _for_task(target: Profile, task: str) -> Profile:
    """Return the profile with the recipes that serve the task, and without the releases that do not run these."""
    kind = plugin("tasks", task)
    if not isinstance(kind, RecipeTask):
        return target
    own = [recipe for recipe in target.recipes if recipe in kind.recipes]
    released = ",".join(filter(None, [target.ort_version, f">={kind.least_ort}"]))
    recipes = own if len(own) > 1 else list(kind.recipes)
    return target.model_copy(update={"recipes": recipes, "ort_version": released})


def make_plan(options: Options, store: Store | None = None) -> tuple[Plan, Splits]:
    """The plan and the rows it speaks of. Reads files, loads no model, never imports torch.

    Raises EdgeKDError for whatever cannot work, with its fix.
    """
    planned = make_plans(options, [options.target], store)
    [plan] = planned.plans.values()
    return plan, planned.splits


def make_plans(options: Options, given: Sequence[str], store: Store | None = None) -> Planned:
    """Return a plan for each of the targets, named or YAML files; `options.target` is not read.

    Raises EdgeKDError for whatever cannot work, and where no target's runtime would load what is written: the first
    one's refusal.
    """
    store = store or open_store()
    check_ranges(options)
    bundle_versions.numbers(options.version, where="--bundle-version")
    targets = tuple(_for_task(target, options.task) for target in load_targets(given, options))
    asked = resolve.request(options, targets)
    resolve.check_answers(asked)
    source = options.teacher or demos.demo_teacher(options.task)
    compressed = asked.compresses_only
    kind, info = read_teacher(
        source, options.task, compressed=compressed, allow_loops=options.allow_loops, data=options.data
    )
    answers = None
    if kind == ANSWERS:  # the network that the student starts from is another's
        answers = info
        kind, info = resolve.read_base(options)
    refused = resolve.refused_targets(asked, kind, info, targets)
    if len(refused) == len(targets):
        raise refused[targets[0].name]
    info = settle(kind, info, options.task, compressed=compressed)  # after the gate: it keeps something
    asked = resolve.bound(asked, info)
    rows = resolve.rows(asked, answers or info, store)
    resolve.check_first_rows(asked, kind, info, rows.splits)
    sizes = resolve.survey(asked, info, rows.splits, store)
    if not compressed:
        info = starting_network(kind).shaped(info, options.task, sizes, classes=len(rows.splits.classes))
    if answers is None:
        shared = _shared(asked, rows, resolve.teacher(asked, kind, info, rows.splits), None, sizes)
    else:
        taught_by = resolve.teacher(asked, ANSWERS, answers, rows.splits)
        shared = _shared(asked, rows, taught_by, resolve.base(asked, kind, info), sizes)
    plans = {
        target.name: _plan(shared, _one_floor(target, options, shared))
        for target in targets
        if target.name not in refused
    }
    return Planned(shared, targets, plans, refused, rows.splits)


def check_before_asking(options: Options, given: Sequence[str]) -> None:
    """Raise EdgeKDError for whatever of a build can be refused before a teacher behind an API is asked, and paid."""
    check_ranges(options)
    bundle_versions.numbers(options.version, where="--bundle-version")
    targets = load_targets(given, options)
    asked = resolve.request(options, targets)
    resolve.check_answers(asked)
    kind, info = resolve.read_base(options)
    refused = resolve.refused_targets(asked, kind, info, targets)
    if len(refused) == len(targets):
        raise refused[targets[0].name]
    settle(kind, info, options.task, compressed=False)


def _shared(
    asked: resolve.Request, rows: resolve.Rows, teacher: TeacherPlan, base: TeacherPlan | None, sizes: InputSpec
) -> SharedPlan:
    """The part that holds for every target."""
    options = asked.options
    student = resolve.student(asked, sizes, teacher, rows.splits, base)
    used = {
        "tasks": [options.task],
        "teachers": [teacher.kind, *([base.kind] if base else [])],
        "losses": [one.name for one in student.losses],
        "augmentations": [one.name for one in student.augmentations],
        "students": [] if asked.compresses_only else [asked.family],
    }
    return SharedPlan(
        name=resolve.bundle_name(options, rows.demo),
        version=options.version,
        task=options.task,
        teacher=teacher,
        base=base,
        data=resolve.data(rows),
        student=student,
        measuring=Measuring(rounds=2, processes=10 if options.full else 4, timed_samples=100),
        min_retained=options.min_retained,
        search_limit_s=options.time_limit_s,
        emulate_minutes=options.emulate_minutes,
        force=asked.force,
        thorough=options.full or asked.compresses_only,
        evidence=options.evidence,
        price_per_hour=options.price_per_hour,
        cache_mib=options.cache_mib,
        golden="file" if asked.golden else options.golden,
        golden_digest=digest([row.identity for row in asked.golden]) if asked.golden else None,
        seed=options.seed,
        threads=options.threads or usable_cpus(),
        versions=versions(*PACKAGES),
        plugins=_of_others(used),
        task_settings=asked.task.settings() if isinstance(asked.task, GraphTask) else {},
        task_places=asked.task.places() if isinstance(asked.task, GraphTask) else {},
    )


def _plan(shared: SharedPlan, target: Profile) -> Plan:
    """The shared part with that of a target."""
    recipes = [recipe.partition("-")[0] for recipe in (*target.recipes, *filter(None, [shared.force]))]
    plugins = shared.plugins | _of_others({"quantizers": recipes})
    values = {one.name: getattr(shared, one.name) for one in fields(SharedPlan)}
    return Plan(**values | {"plugins": plugins}, target=target)


def _of_others(used: dict[str, list[str]]) -> dict[str, str]:
    """The plug-ins that came with other packages: they are code, so a plan, its results' keys and reports name them."""
    found = {
        f"{kind}/{folder_name(name)}": made_elsewhere(kind, name) for kind, several in used.items() for name in several
    }
    return {name: package for name, package in found.items() if package}


def _floors(options: Options) -> dict[str, float]:
    """What the user says in place of the profile's accuracy floors."""
    given = {"min_teacher_agreement": options.min_agreement, "max_drop_points": options.max_drop}
    return {key: float(value) for key, value in given.items() if value is not None}


def _one_floor(target: Profile, options: Options, shared: SharedPlan) -> Profile:
    """Return the profile with the floors that hold: a metric with points of its own brings its own, unless one is said.

    Of a teacher compressed without labels the points lost are the agreement missing: one floor given is both.
    """
    judged = shared.made_task
    if isinstance(judged, GraphTask) and judged.invents(shared.data.source):  # such rows hold no floor
        return target.model_copy(update={"recipes": [PLAIN_RECIPE]})
    own = judged.metric.max_drop if shared.data.selection_labelled else judged.fidelity.max_drop
    if own is not None and options.max_drop is None:
        target = target.model_copy(update={"max_drop_points": own})
    if not shared.compresses_only or shared.data.selection_labelled:
        return target
    if options.min_agreement is None or options.max_drop is not None:
        return target
    return target.model_copy(update={"max_drop_points": round(100 * (1 - options.min_agreement), 6)})
