"""The choices that make a plan, one resolver each: the request, the teacher, the rows, the student."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgekd.core import licences
from edgekd.core.demo import Demo
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError, suggestion
from edgekd.core.files import user_path
from edgekd.core.protocols import AnsweringTeacher, GraphTask, InputSpec, writes
from edgekd.core.registry import folder_name, make, names, plugin
from edgekd.core.results import this_host
from edgekd.data import demos
from edgekd.data.given import Columns, read_inputs
from edgekd.data.split_files import is_table
from edgekd.data.splits import Example, Splits
from edgekd.hardware.profile import Profile
from edgekd.plan import compatibility
from edgekd.plan.inputs import ANSWERS, read_splits, read_teacher, shown, starting_network, yardstick
from edgekd.plan.options import Options, declarations, of_api, of_students
from edgekd.plan.plan import NO_STUDENT, Augmenting, DataPlan, LossTerm, StudentPlan, TeacherPlan, Training, needs
from edgekd.store.store import Store
from edgekd.training import objective

# options that are a task's: its fields of these names
OF_TASKS = ("text_column", "text_pair_column", "image_column", "label_column", "state", "class_output", "metric_file")
GOLDEN = ("synthetic", "test")
GOLDEN_MOST = 64  # rows of a file of golden inputs
NAME_BYTES = 80  # of a bundle: with the target's name and what is written beside it well below 255
_MADE_UP = (
    "the rows are synthetic, drawn from the graph's shapes: they prove nothing of real data, so no variant but float32 "
    "ships unless --force names it"
)
_FIRST_ROWS = 8  # of a graph: asked while planning whether it answers with numbers, and judged by the user's metric
MIN_SPEEDUP = 5.0  # of a student over its teacher, where the user does not say
SIZES = {"tokens": "max_tokens", "vocabulary": "vocabulary", "pixels": "image_size"}  # a task's word: the option's


@dataclass(frozen=True)
class Request:
    """What the options ask for, before a teacher or rows are read."""

    options: Options
    task: Any
    family: str  # of the student, or none
    sizes: dict[str, int]
    losses: tuple[LossTerm, ...]  # empty: the task's, which depend on the rows
    augmentations: tuple[Augmenting, ...]
    golden: tuple[Example, ...]
    force: str | None

    @property
    def compresses_only(self) -> bool:
        """Return whether the teacher itself is compressed."""
        return self.family == NO_STUDENT


@dataclass(frozen=True)
class Rows:
    """The rows by role, and where they come from."""

    splits: Splits
    columns: Columns
    source: str
    labels: int | None  # how many are used; None: all
    demo: Demo | None


def request(options: Options, targets: Sequence[Profile]) -> Request:
    """Return what the options ask for. Raises UsageError for what makes no sense, or not for these targets."""
    task = _task(options)
    family = student_family(options, task)
    usual = () if family == NO_STUDENT or options.teacher == ANSWERS else task.augmentations
    forced = [_forced(options.force, target) for target in targets]
    if not task.labelled:
        _check_needs_no_labels(options)
    return Request(
        options=options,
        task=task,
        family=family,
        sizes=sizes_asked(options, task),
        losses=objective.losses(options.losses, options.temperature),
        augmentations=objective.augmentations(options.augmentations or usual, options.task),
        golden=() if isinstance(task, GraphTask) else _golden(options, task),
        force=forced[0],
    )


def _check_needs_no_labels(options: Options) -> None:
    """Raise UsageError for options that are about labels, where the task has none."""
    for flag, value in (("labels", options.labels), ("evidence", options.evidence or None)):
        if value is not None:
            raise UsageError(f"--{flag} means nothing to {options.task}: it has no labels", fix="leave it out")


def bound(asked: Request, info: dict[str, Any]) -> Request:
    """Return the request for the task of the graph that was inspected, golden rows read; other tasks are what they are.

    Raises UsageError for options that mean nothing to that graph.
    """
    if not isinstance(asked.task, GraphTask):
        return asked
    task = asked.task.bound(info)
    return replace(asked, task=task, golden=_golden(asked.options, task))


def refused_targets(
    asked: Request, kind: str, info: dict[str, Any], targets: Sequence[Profile]
) -> dict[str, EdgeKDError]:
    """Return the targets whose ONNX Runtime would not load what is to be written, each with its RuntimeCannotLoad."""
    refused: dict[str, EdgeKDError] = {}
    exporters = compatibility.exporters(asked.family, kind, info["architecture"], asked.task.hub.exporter)
    for target in targets:
        recipes = [*target.recipes, *filter(None, [asked.force])]
        try:
            yardstick(kind).check(info, target)
            compatibility.check(target, this_host().ort_version, recipes=recipes, exporters=exporters)
        except RuntimeCannotLoad as error:
            refused[target.name] = error
    return refused


def rows(asked: Request, info: dict[str, Any], store: Store) -> Rows:
    """Return the rows by role. Raises DataError."""
    options = asked.options
    source = options.data or demos.demo_data(options.task, store)
    demo = demos.demo_of(options.task) if options.data is None else None
    labels = options.labels
    if labels is None and demo is not None and not asked.compresses_only and asked.task.labelled:
        labels = demo.labels
    splits, columns = read_splits(
        asked.task,
        source,
        unlabelled=options.unlabelled,
        calibration=options.calibration,
        labels=labels,
        seed=options.seed,
        known=info["labels"],
        outputs=info["architecture"].get("classes", 0),
        compressed=asked.compresses_only,
        demo=demo is not None,
        answered=options.teacher == ANSWERS,
    )
    notes = splits.notes
    if isinstance(asked.task, GraphTask):
        made_up = (_MADE_UP,) if asked.task.invents(source) else ()
        notes = (*made_up, *asked.task.notes(), *notes)
    return Rows(replace(splits, golden=asked.golden, notes=notes), columns, source, labels, demo)


def check_first_rows(asked: Request, kind: str, info: Mapping[str, Any], splits: Splits) -> None:
    """Raise TeacherError where a graph gives no number for the first rows; UsageError where the user's metric fails."""
    source, task = make("teachers", kind), asked.task
    if not isinstance(source, AnsweringTeacher) or not isinstance(task, GraphTask):
        return
    from edgekd.onboard.runner import pack, unpack

    rows = (*splits.selection, *splits.known)[:_FIRST_ROWS]
    folder = Path(info["folder"])
    with tempfile.TemporaryDirectory(prefix="edgekd-first-rows-") as name:
        inputs, said = Path(name, "inputs.npz"), Path(name, "said.npz")
        pack(asked.task.encode(folder, [row.input for row in rows], 0), inputs)
        source.answers(folder, info["architecture"], task.program, inputs, list(asked.task.keep), said)
        task.try_metric(unpack(said), rows)


def survey(asked: Request, info: dict[str, Any], splits: Splits, store: Store) -> InputSpec:
    """Return the sizes of the inputs. Raises EdgeKDError where golden or calibration inputs do not fit them."""
    options, known = asked.options, splits.known
    used = (*known, *splits.selection) if asked.compresses_only else known
    made = asked.task.survey(info, [row.input for row in used], asked.sizes, store, whole=asked.compresses_only)
    others = (
        (options.golden, "golden inputs", asked.golden),
        (options.calibration, "rows to calibrate on", splits.calibration),
    )
    for source, words, given in others:
        if source:
            asked.task.check_inputs([row.input for row in given], made, source, words)
    found: InputSpec = made
    return found


def check_answers(asked: Request) -> None:
    """Raise UsageError for options that mean nothing where the teacher only answers, and for its own without it."""
    options = asked.options
    for flag in of_api(options)[:1]:
        raise UsageError(f"--{flag} means nothing here: no API is asked", fix="leave it out, or give --teacher api:URL")
    if options.teacher != ANSWERS:
        if options.base is not None:
            raise UsageError("--base means nothing here: a student starts as a cut of its teacher", fix="leave it out")
        return
    for flag, value, why in (
        ("min-speedup", options.min_speedup, "the teacher only answers: here it has no speed to compare with"),
        ("evidence", options.evidence or None, "without the teacher's answers there are no labels to train on"),
        ("labels", options.labels, "each row has the teacher's answer"),
        ("unlabelled", options.unlabelled, "the teacher has not answered for those rows; put them into --data first"),
        ("augment", [one for one in options.augmentations if one != "none"] or None, "it is not asked about copies"),
    ):
        if value is not None:
            raise UsageError(f"--{flag} means nothing with --teacher answers: {why}", fix="leave it out")


def teacher(asked: Request, kind: str, info: dict[str, Any], splits: Splits) -> TeacherPlan:
    """Return the teacher's part of the plan. Raises EdgeKDError where its classes are not the data's."""
    options = asked.options
    make("teachers", kind).check_classes(info, splits.classes)
    default = demos.demo_of(options.task) if options.teacher is None else None
    source = options.teacher or demos.demo_teacher(options.task)
    own = {
        "name": default.teacher_name if default else shown(source),
        "training": None if info["ready"] else Training(**starting_network(kind).training(len(splits.train))),
    }
    return TeacherPlan(
        source=source,
        kind=kind,
        **own | info | {"licence": default.teacher_licence if default else info["licence"]},
    )


def read_base(options: Options) -> tuple[str, dict[str, Any]]:
    """Return the plug-in that knows the network to start from, and what inspecting it says.

    Raises UsageError for what is no network, TeacherError for one that cannot be used.
    """
    source = options.base or demos.demo_teacher(options.task, instead="--base")
    if source in ("labels", ANSWERS) or source.startswith("api:") or source.endswith(".onnx"):
        raise UsageError(
            f"--base {source}: no student can start from that",
            fix="give a model's Hugging Face folder or hub id, or leave --base out for the task's own",
        )
    return read_teacher(source, options.task, compressed=False)


def base(asked: Request, kind: str, info: dict[str, Any]) -> TeacherPlan:
    """Return the part of the plan of the network that a student starts from beside a teacher that only answers."""
    options = asked.options
    default = demos.demo_of(options.task) if options.base is None else None
    source = options.base or demos.demo_teacher(options.task)
    return TeacherPlan(
        name=default.teacher_name if default else shown(source),
        source=source,
        kind=kind,
        training=None,
        **info | {"licence": default.teacher_licence if default else info["licence"]},
    )


def data(found: Rows) -> DataPlan:
    """Return the rows' part of the plan."""
    splits, demo = found.splits, found.demo
    return DataPlan(
        name=demo.data_name if demo else shown(found.source),
        source=found.source,
        input_column=found.columns.input,
        label_column=found.columns.label,
        columns=found.columns.read.as_dict(),
        labels=found.labels,
        classes=splits.classes,
        counts=splits.counts,
        notes=splits.notes,
        selection_labelled=splits.selection_labelled,
        test_labelled=splits.test_labelled,
        digest=splits.digest,
        licence=demo.data_licence if demo else licences.of_data(found.source),
    )


def student(
    asked: Request, sizes: InputSpec, taught_by: TeacherPlan, splits: Splits, base: TeacherPlan | None = None
) -> StudentPlan:
    """Return what the student may be. Raises UsageError for losses that the teacher or the family cannot serve."""
    options, losses, training = asked.options, asked.losses, None
    if not losses and not asked.compresses_only:
        few = splits.unlabelled or options.teacher == ANSWERS  # labels of people; a teacher's are its answers once more
        own = asked.task.losses if few else asked.task.losses_if_labelled
        losses = objective.losses(own, options.temperature)
    if not asked.compresses_only:
        objective.check(losses, taught_by, asked.family, asked.task.problem_type)
        taught = splits.known if needs(losses) - {"exits"} else splits.train
        copies = sum(one.copies for one in asked.augmentations)
        training = _student_training(asked.family, len(taught) * (1 + copies), options, base)
    if options.exit is not None and "exits" not in needs(losses):
        raise UsageError(
            f"--exit {options.exit}: no loss trains early exits", fix="add one: --loss self_distillation=0.5 and others"
        )
    return StudentPlan(
        family=asked.family,
        survey=sizes,
        min_speedup=0.0 if asked.compresses_only or options.teacher == ANSWERS else options.min_speedup or MIN_SPEEDUP,
        losses=losses,
        augmentations=asked.augmentations,
        training=training,
        tries=options.tries,
        exit=options.exit,
        seed=options.seed,
        start="scratch" if "student" in (base or taught_by).architecture else "teacher",
    )


def _task(options: Options) -> Any:
    """The task with the columns that the user named. Raises UsageError for a column that it has no use for."""
    kind = plugin("tasks", options.task)
    own = {name: getattr(options, name) for name in OF_TASKS}
    known = {field.name for field in fields(kind)}
    for name, value in own.items():
        if value not in (None, ()) and name not in known:
            raise _means_nothing(name, options)
    return kind(**{name: value for name, value in own.items() if name in known and value is not None})


def sizes_asked(options: Options, task: Any) -> dict[str, int]:
    """Return the sizes that the user asked for. Raises UsageError for one that the task has no use for."""
    given = {size: getattr(options, name) for size, name in SIZES.items()}
    asked = {size: value for size, value in given.items() if value is not None}
    for size in asked:
        if size not in task.sizes:
            raise _means_nothing(SIZES[size], options)
    return asked


def _means_nothing(name: str, options: Options) -> UsageError:
    flag = next((declared.flag for one, declared, _ in declarations() if one == name), name)
    return UsageError(f"--{flag} means nothing to {options.task}", fix="leave it out, or name another --task")


def student_family(options: Options, task: Any) -> str:
    """Return the student's family, or `none`. Raises UsageError for an unknown one, or one that the task cannot use."""
    name = options.student
    if name == NO_STUDENT:
        for flag in of_students(options)[:1]:
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
    family = name or str(task.families[0])
    if writes(plugin("students", family)):
        for flag, value in (
            ("evidence", options.evidence),
            ("exit", options.exit),
            ("try", options.tries > 1),
            ("augment", [one for one in options.augmentations if one != "none"]),
            ("labels", options.labels),
        ):
            if value:
                raise UsageError(f"--{flag} is not supported for students of the {family} family", fix="leave it out")
    return family


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
    found, _ = read_inputs(task, options.golden)
    return tuple(found[:GOLDEN_MOST])


def _student_training(family: str, count: int, options: Options, base: TeacherPlan | None) -> Training:
    """The family's own defaults, with what the user says.

    A cut of a network that never saw the task, with a fresh head, takes that network's rates for fine-tuning.
    """
    made = Training(**plugin("students", family).training(count))
    if base is not None:
        rates = Training(**starting_network(base.kind).training(count))
        made = replace(made, learning_rate=rates.learning_rate, head_factor=rates.head_factor)
    return replace(
        made,
        epochs=options.epochs or made.epochs,
        learning_rate=options.learning_rate or made.learning_rate,
        patience=options.patience,
    )


def bundle_name(options: Options, demo: Demo | None) -> str:
    """Return the bundle's name: small letters, digits and dashes. A given one that is too long is refused, not cut."""
    given = options.name or (demo.name if demo else Path(options.data or "model").stem)
    clean = "".join(letter if letter.isalnum() else "-" for letter in given.lower()).strip("-")
    short = clean.encode()[:NAME_BYTES].decode(errors="ignore").strip("-")
    if options.name and short != clean:
        raise UsageError(
            f"--name has {len(clean.encode())} bytes; at most {NAME_BYTES} leave room for the names made of it",
            fix=f"give a shorter one: --name {short}",
        )
    return short or "model"
