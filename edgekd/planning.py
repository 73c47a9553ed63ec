"""From a user's words to a frozen plan. Everything that can be refused is refused here, before any training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgekd import gate
from edgekd.core import licences
from edgekd.core import versions as bundle_versions
from edgekd.core.cpus import usable_cpus
from edgekd.core.errors import UsageError, suggestion
from edgekd.core.files import user_path
from edgekd.core.profile import Profile, load_profile
from edgekd.core.ranges import check_ranges
from edgekd.core.registry import folder_name, made_elsewhere, make, names, plugin
from edgekd.core.results import digest, this_host, versions
from edgekd.core.store import Store, open_store
from edgekd.data import demos
from edgekd.data.given import read_inputs
from edgekd.data.split_files import is_table
from edgekd.data.splits import Example, Splits
from edgekd.inputs import read_splits, read_teacher, settle, shown
from edgekd.plan import NO_STUDENT, DataPlan, Measuring, Plan, StudentPlan, TeacherPlan, Training, needs
from edgekd.training import objective

PACKAGES = (
    "edgekd", "torch", "transformers", "tokenizers", "accelerate", "onnx", "onnxruntime", "optimum", "optimum-onnx",
    "neural_compressor", "scikit-learn", "numpy",
)  # fmt: skip
GOLDEN = ("synthetic", "test")
GOLDEN_MOST = 64  # rows of a file of golden inputs
NAME_BYTES = 80  # of a bundle: with the target's name and what is written beside it well below 255
MIN_SPEEDUP = 5.0  # of a student over its teacher, where the user does not say
_SIZES = {"tokens": "max_tokens", "vocabulary": "vocabulary", "pixels": "image_size"}  # a task's word: the option's
# options that say how a student is made: the field's name, and the flag's where that is another
_OF_STUDENTS = {
    "losses": "loss", "temperature": "temperature", "augmentations": "augment", "epochs": "epochs",
    "patience": "patience", "learning_rate": "learning-rate", "vocabulary": "vocabulary", "image_size": "image-size",
    "labels": "labels", "tries": "try", "exit": "exit", "evidence": "evidence", "min_speedup": "min-speedup",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a user may say; None means the default that the plan then shows."""

    target: str
    task: str = "text-classification"
    teacher: str | None = None
    data: str | None = None
    student: str | None = None
    name: str | None = None
    version: str = "1.0.0"
    text_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    unlabelled: str | None = None
    calibration: str | None = None
    labels: int | None = None
    losses: tuple[str, ...] = ()
    temperature: float | None = None
    augmentations: tuple[str, ...] = ()
    epochs: int | None = None
    patience: int | None = None
    learning_rate: float | None = None
    max_tokens: int | None = None
    vocabulary: int | None = None
    image_size: int | None = None
    tries: int = 1
    exit: int | None = None
    cache_mib: float = 2048.0
    min_speedup: float | None = None
    min_retained: float = 0.9
    min_agreement: float | None = None
    max_drop: float | None = None
    force: str | None = None
    budgets: dict[str, float] = field(default_factory=dict)
    time_limit_s: float = 600.0
    emulate_minutes: float = 0.5
    evidence: int = 0
    price_per_hour: float = 0.05
    golden: str = "synthetic"
    full: bool = False
    seed: int = 0
    threads: int | None = None
    allow_loops: bool = False


def make_plan(options: Options, store: Store | None = None) -> tuple[Plan, Splits]:
    """The plan and the rows it speaks of. Reads files, loads no model, never imports torch.

    Raises EdgeKDError for whatever cannot work, with its fix.
    """
    store = store or open_store()
    check_ranges({one.name: getattr(options, one.name) for one in fields(options)} | options.budgets)
    bundle_versions.numbers(options.version, where="--bundle-version")
    target = load_profile(options.target, budgets=options.budgets | _floors(options))
    task = _task(options)
    family = _family(options, task)
    compressed = family == NO_STUDENT
    sizes = _sizes(options, task)
    force = _forced(options.force, target)
    losses = objective.losses(options.losses, options.temperature)
    usual = () if compressed else task.augmentations
    augmentations = objective.augmentations(options.augmentations or usual, options.task)
    golden = _golden(options, task)
    teacher_source = options.teacher or demos.demo_teacher(options.task)
    kind, found = read_teacher(
        teacher_source, options.task, target, compressed=compressed, allow_loops=options.allow_loops
    )  # fmt: skip
    gate.check(
        target, this_host().ort_version, recipes=[*target.recipes, *filter(None, [force])],
        exporters=gate.exporters(family, kind, found["architecture"]),
    )  # fmt: skip
    found = settle(kind, found, options.task, compressed=compressed)  # after the gate: it keeps something
    data_source = options.data or demos.demo_data(options.task, store)
    demo = demos.DEMOS[options.task] if options.data is None else None
    labels = options.labels if options.labels is not None or demo is None or compressed else demo.labels
    splits, columns = read_splits(
        task, data_source, unlabelled=options.unlabelled, calibration=options.calibration, labels=labels,
        seed=options.seed, known=found["labels"], outputs=found["architecture"].get("classes", 0),
        compressed=compressed, demo=demo is not None,
    )  # fmt: skip
    splits = replace(splits, golden=golden)
    if compressed and not splits.selection_labelled:
        target = _one_floor(target, options)
    if not losses and not compressed:
        own = task.losses if splits.unlabelled else task.losses_if_labelled
        losses = objective.losses(own, options.temperature)
    rows = (*splits.known, *splits.selection) if compressed else splits.known
    taught = splits.known if needs(losses) - {"exits"} else splits.train
    survey = task.survey(found, [row.input for row in rows], sizes, store, whole=compressed)
    for source, words, others in (
        (options.golden, "golden inputs", golden), (options.calibration, "rows to calibrate on", splits.calibration)
    ):  # fmt: skip
        if source:
            task.check_inputs([row.input for row in others], survey, source, words)
    if not compressed:
        found = make("teachers", kind).shaped(found, options.task, survey, classes=len(splits.classes))
    make("teachers", kind).check_classes(found, splits.classes)
    default = demos.DEMOS[options.task] if options.teacher is None else None
    teacher = TeacherPlan(
        name=default.teacher_name if default else shown(teacher_source),
        source=teacher_source,
        kind=kind,
        training=None if found["ready"] else Training(**make("teachers", kind).training(len(splits.train))),
        **found | {"licence": default.teacher_licence if default else found["licence"]},
    )
    if not compressed:
        objective.check(losses, teacher, family)
    if options.exit is not None and "exits" not in needs(losses):
        raise UsageError(
            f"--exit {options.exit}: no loss trains early exits", fix="add one: --loss self_distillation=0.5 and others"
        )
    plan = Plan(
        name=_name(options, demo),
        version=options.version,
        task=options.task,
        target=target,
        teacher=teacher,
        data=DataPlan(
            name=demo.data_name if demo else shown(data_source), source=data_source,
            input_column=columns.input, label_column=columns.label, columns=columns.read.as_dict(),
            labels=labels, classes=splits.classes,
            counts=splits.counts, notes=splits.notes, selection_labelled=splits.selection_labelled,
            test_labelled=splits.test_labelled, digest=splits.digest,
            licence=demo.data_licence if demo else licences.of_data(data_source),
        ),
        student=StudentPlan(
            family=family, survey=survey, min_speedup=0.0 if compressed else options.min_speedup or MIN_SPEEDUP,
            losses=losses, augmentations=augmentations,
            training=None if compressed else _student_training(
                family, len(taught) * (1 + sum(one.copies for one in augmentations)), options
            ),
            tries=options.tries, exit=options.exit, seed=options.seed,
        ),
        measuring=Measuring(rounds=2, processes=10 if options.full else 4, timed_samples=100),
        min_retained=options.min_retained,
        search_limit_s=options.time_limit_s,
        emulate_minutes=options.emulate_minutes,
        force=force,
        thorough=options.full or compressed,
        evidence=options.evidence,
        price_per_hour=options.price_per_hour,
        cache_mib=options.cache_mib,
        golden="file" if golden else options.golden,
        golden_digest=digest([row.identity for row in golden]) if golden else None,
        seed=options.seed,
        threads=options.threads or usable_cpus(),
        versions=versions(*PACKAGES),
        plugins=_of_others({
            "tasks": [options.task], "teachers": [kind], "losses": [one.name for one in losses],
            "augmentations": [one.name for one in augmentations], "students": [] if compressed else [family],
            "quantizers": [recipe.partition("-")[0] for recipe in (*target.recipes, *filter(None, [force]))],
        }),
    )  # fmt: skip
    return plan, splits


def _of_others(used: dict[str, list[str]]) -> dict[str, str]:
    """The plug-ins that came with other packages: they are code, so a plan, its results' keys and reports name them."""
    found = {f"{kind}/{folder_name(name)}": made_elsewhere(kind, name) for kind, several in used.items()
             for name in several}  # fmt: skip
    return {name: package for name, package in found.items() if package}


def _task(options: Options) -> Any:
    """The task with the columns that the user named. Raises UsageError for a column that it has no use for."""
    kind = plugin("tasks", options.task)
    columns = {name: getattr(options, name) for name in ("text_column", "image_column", "label_column")}
    known = {field.name for field in fields(kind)}
    for name, value in columns.items():
        if value is not None and name not in known:
            raise _means_nothing(name, options)
    return kind(**{name: value for name, value in columns.items() if name in known})


def _sizes(options: Options, task: Any) -> dict[str, int]:
    """The sizes that the user asked for. Raises UsageError for one that the task has no use for."""
    given = {size: getattr(options, name) for size, name in _SIZES.items()}
    asked = {size: value for size, value in given.items() if value is not None}
    for size in asked:
        if size not in task.sizes:
            raise _means_nothing(_SIZES[size], options)
    return asked


def _means_nothing(name: str, options: Options) -> UsageError:
    return UsageError(
        f"--{name.replace('_', '-')} means nothing to {options.task}", fix="leave it out, or name another --task"
    )


def _family(options: Options, task: Any) -> str:
    """The student's family, or `none`. Raises UsageError where there is none such, or it cannot serve the task."""
    name = options.student
    if name == NO_STUDENT:
        for option, flag in _OF_STUDENTS.items():
            if getattr(options, option) != getattr(Options, option):
                raise UsageError(
                    f"--{flag} means nothing with --student none: the teacher itself is compressed, nothing is trained",
                    fix="leave it out, or leave --student none out",
                )
        return NO_STUDENT
    if not task.families:
        raise UsageError(
            f"no family of students serves {options.task}", fix="compress the teacher itself: --student none"
        )
    if name is not None and task.modality not in plugin("students", name).modalities:
        raise UsageError(
            f"the {name} family cannot serve {options.task}",
            fix=f"choose one of: {', '.join(task.families)} (--student)",
        )
    return name or str(task.families[0])


def _floors(options: Options) -> dict[str, float]:
    """What the user says in place of the profile's accuracy floors."""
    said = {"min_teacher_agreement": options.min_agreement, "max_drop_points": options.max_drop}
    return {key: float(value) for key, value in said.items() if value is not None}


def _one_floor(target: Profile, options: Options) -> Profile:
    """Without labels the points lost are the agreement that is missing: one floor given is both."""
    if options.min_agreement is None or options.max_drop is not None:
        return target
    return target.model_copy(update={"max_drop_points": round(100 * (1 - options.min_agreement), 6)})


def _forced(recipe: str | None, target: Profile) -> str | None:
    """The recipe that `--force` names. Raises UsageError where there is none such, or the target cannot run it."""
    if recipe is None:
        return None
    if target.execution_provider not in plugin("quantizers", recipe).providers:
        able = [
            name for name in names("quantizers") if target.execution_provider in plugin("quantizers", name).providers
        ]
        raise UsageError(
            f"--force {recipe}: the {target.execution_provider} of {target.name} has no kernels for what it writes",
            fix=f"choose one of: {', '.join(able)}",
        )
    return folder_name(recipe)


def _golden(options: Options, task: Any) -> tuple[Example, ...]:
    """The first rows of the file that `--golden` names; none for the words it knows."""
    if options.golden in GOLDEN:
        return ()
    if not is_table(Path(options.golden)) and not user_path(options.golden).exists():
        raise UsageError(
            f"--golden {options.golden!r} is unknown", fix=f"{suggestion(options.golden, GOLDEN)}; or give a data file"
        )
    rows, _ = read_inputs(task, options.golden)
    return tuple(rows[:GOLDEN_MOST])


def _student_training(family: str, rows: int, options: Options) -> Training:
    """The family's own defaults, with what the user says."""
    made = Training(**plugin("students", family).training(rows))
    return replace(
        made, epochs=options.epochs or made.epochs, learning_rate=options.learning_rate or made.learning_rate,
        patience=options.patience,
    )  # fmt: skip


def _name(options: Options, demo: demos.Demo | None) -> str:
    """The bundle's name: small letters, digits and dashes. One that the user gives is not cut, but refused."""
    given = options.name or (demo.name if demo else Path(options.data or "model").stem)
    clean = "".join(letter if letter.isalnum() else "-" for letter in given.lower()).strip("-")
    short = clean.encode()[:NAME_BYTES].decode(errors="ignore").strip("-")
    if options.name and short != clean:
        raise UsageError(
            f"--name has {len(clean.encode())} bytes; at most {NAME_BYTES} leave room for the names made of it",
            fix=f"give a shorter one: --name {short}",
        )
    return short or "model"
