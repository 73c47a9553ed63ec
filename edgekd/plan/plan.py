"""The plan: every choice, frozen before anything is trained. It explains itself and its digest keys the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgekd.core.digests import digest
from edgekd.core.errors import UsageError
from edgekd.core.layers import matched_layers
from edgekd.core.metrics import Metric
from edgekd.core.protocols import InputSpec, Task, Yardstick, writes
from edgekd.core.registry import make, plugin
from edgekd.core.tensors import RequestedOutputs
from edgekd.hardware.profile import Profile

POSITIONS = 16  # to which features of images (4 x 4) and series are averaged: what is kept of them stays small


@dataclass(frozen=True)
class Training:
    """One training run. `learning_rate` is the peak, after linear warm-up; it falls to zero along a cosine."""

    epochs: int  # at most: a run that stops early keeps its best
    batch_size: int  # rows; of texts, so many of the median length: batches hold about as many tokens each
    learning_rate: float
    head_factor: float = 1.0  # the new head's rate over the body's: a fresh head has further to go
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    patience: int | None = None  # epochs without a better one after which it stops; None: half of them, at least 5


@dataclass(frozen=True)
class LossTerm:
    """A loss plug-in's name, its weight in the sum, and its options."""

    name: str
    weight: float
    options: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ", ".join(f"{key} {value:g}" for key, value in self.options.items())
        return f"{self.weight:g} {self.name}" + (f"({options})" if options else "")


def needs(terms: Iterable[LossTerm]) -> set[str]:
    """What losses need, of the teacher or of the student: logits, features, attention, embedding, exits."""
    return {need for term in terms for need in plugin("losses", term.name).needs}


@dataclass(frozen=True)
class Augmenting:
    """An augmentation plug-in's name, and the copies that it makes of each training input."""

    name: str
    copies: int

    def __str__(self) -> str:
        return f"{self.copies} x {self.name}"


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher as its files describe it; nothing of it was loaded to learn this."""

    name: str
    source: str
    kind: str  # the plug-in that knows it
    folder: str
    ready: bool  # fine-tuned on the task already; else a base model that is trained on the labels first
    architecture: dict[str, Any]  # of a transformer its sizes; of one of our families its name and shape
    labels: tuple[str, ...] | None
    sha256: str
    licence: str
    training: Training | None
    checks: tuple[str, ...] = ()  # what was looked into before anything of it was loaded, in words
    answered: dict[str, Any] | None = None  # of one that only answers: what its answers took, and its pilot

    @property
    def words(self) -> str:
        """The architecture for a reader."""
        sizes = self.architecture
        if "answers" in sizes:
            return f"answers of {sizes['answers']['provider']}"
        if "family" in sizes:
            return str(make("students", sizes["family"], **sizes["shape"])) if "shape" in sizes else sizes["family"]
        if "operators" in sizes:
            return f"an ONNX graph of {sizes['operators']} operators"
        known = str(sizes["model_type"])
        if sizes.get("layers") and sizes.get("hidden"):  # types that are only compressed may not say
            known += f", {sizes['layers']} layers x {sizes['hidden']}"
        return known + (f", {sizes['vocabulary']} tokens" if "vocabulary" in sizes else "")


def teacher_depth(architecture: Mapping[str, Any]) -> int:
    """The layers whose features a teacher of this architecture gives; 0 where it gives none. Loads no model."""
    if "answers" in architecture:
        return 0
    if "family" in architecture:
        depth: int = make("students", architecture["family"], **architecture["shape"]).layers
        return depth
    layers: int = architecture["taps"] if "taps" in architecture else architecture.get("layers", 0)
    return layers


@dataclass(frozen=True)
class DataPlan:
    """Which rows play which part; `digest` covers their content."""

    name: str
    source: str
    input_column: str
    label_column: str  # empty where the rows have no labels
    labels: int | None
    classes: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]
    selection_labelled: bool
    test_labelled: bool
    digest: str
    licence: str
    columns: dict[str, Any] = field(default_factory=dict)  # as the source calls them: `ColumnsRead.as_dict`


_NO_CHOICES = (
    "name",
    "source",
    "folder",
    "columns",
    "answered",
)  # of teacher, base, data: no result needs them
PROCESSOR = 2  # raised where what is written of a tokenizer or preprocessing changes
NO_STUDENT = "none"  # the family's name where the teacher itself is compressed


@dataclass(frozen=True)
class StudentPlan:
    """What the student may be; which shape it becomes is measured (see `sizing`).

    Of the family `none` there is no student: no losses, no training, no speedup asked for.
    """

    family: str
    survey: InputSpec
    min_speedup: float
    losses: tuple[LossTerm, ...]
    augmentations: tuple[Augmenting, ...]
    training: Training | None  # None where nothing is trained
    tries: int  # shapes that are trained briefly before one is chosen; 1: the most capable that fits
    exit: int | None  # the layer whose early exit ships, counted from 1; None: the whole student
    seed: int  # of its training: evidence trains the same student with several
    start: str = "teacher"  # as a cut of it; or scratch: random weights

    @property
    def schedule(self) -> Training:
        """The training of a student: of the family `none` nobody asks for it."""
        assert self.training is not None
        return self.training


@dataclass(frozen=True)
class Matched:
    """What losses want of the student and of the teacher: as many layers of each, in the order they are compared."""

    student: RequestedOutputs
    teacher: RequestedOutputs


@dataclass(frozen=True)
class Measuring:
    """How latency is taken: `rounds` of the timed samples in each of `processes` fresh processes."""

    rounds: int
    processes: int
    timed_samples: int


@dataclass(frozen=True, kw_only=True)
class SharedPlan:
    """Everything that holds for every target: teacher, rows, losses, training. One pass of the teacher serves all.

    The keys of stages that stand here cannot hold a fact about a target: such a stage is run once for all targets.
    """

    name: str
    version: str  # of the bundle, MAJOR.MINOR.PATCH; in no stage's key, for no stage depends on it
    task: str
    teacher: TeacherPlan  # who answers
    data: DataPlan
    student: StudentPlan
    measuring: Measuring
    min_retained: float
    search_limit_s: float
    emulate_minutes: float  # for judging variants on the target's own kernels, where this host has others
    force: str | None  # the recipe that ships whatever the guard says of it
    thorough: bool  # whether other graphs are timed, and the worst layers tried in float one by one
    evidence: int  # seeds over which the student is trained with and without its teacher; 0: not asked for
    price_per_hour: float  # US dollars for an hour of the device, as the user states it
    cache_mib: float  # on disk, that the teacher's outputs may take
    golden: str  # synthetic, test or file
    golden_digest: str | None  # of the file's rows, where the user gave one
    seed: int
    threads: int
    versions: dict[str, str]
    plugins: dict[str, str] = field(default_factory=dict)  # of other packages: `losses/correlation` to package, release
    base: TeacherPlan | None = None  # the network to start from, where the teacher has none
    task_settings: dict[str, Any] = field(default_factory=dict)  # of a task that a graph decides: see `GraphTask`
    task_places: dict[str, str] = field(default_factory=dict)  # where files of it lie: no result depends on that

    @property
    def start(self) -> TeacherPlan:
        """The network that a student starts from: the teacher's own, or the one beside a teacher that only answers."""
        return self.base or self.teacher

    @property
    def has_yardstick(self) -> bool:
        """Whether the teacher runs here, so that speed and size are compared with its; else with the own fp32."""
        return issubclass(plugin("teachers", self.teacher.kind), Yardstick)

    @property
    def compared_with(self) -> str:
        """Return in words what speed, size and the answers of variants are compared with."""
        return "the teacher" if self.has_yardstick else "its own fp32"

    @property
    def shared_digest(self) -> str:
        """Return the SHA-256 over every choice that holds for all targets."""
        shared = {one.name: getattr(self, one.name) for one in fields(SharedPlan)} | {"plugins": self.shared_plugins}
        return digest(_content(asdict(SharedPlan(**shared))))

    @property
    def shared_plugins(self) -> dict[str, str]:
        """Return the plug-ins of other packages but quantizers, which a target's recipes name."""
        return {name: package for name, package in self.plugins.items() if not name.startswith("quantizers/")}

    @property
    def training_key(self) -> dict[str, Any]:
        """What any trained result depends on beside its own part: seed, threads, versions."""
        trainers = ("torch", "transformers", "accelerate", "edgekd")
        return {
            "seed": self.seed,
            "threads": self.threads,
            "versions": {name: self.versions[name] for name in trainers},
            **({"plugins": self.shared_plugins} if self.shared_plugins else {}),
        }

    @property
    def teaching(self) -> dict[str, Any]:
        """The key of the teacher that is trained or used, or whose answers are."""
        own = {"training": asdict(self.teacher.training) if self.teacher.training else None}
        inputs = {"architecture": self.teacher.architecture, "max_size": self.student.survey.max_size}
        of = {"teacher": self.teacher.sha256, "kind": self.teacher.kind, "task": self.task, "data": self.data.digest}
        graph = {"graph": self.task_settings} if self.task_settings else {}
        return {**of, **inputs, **own, **graph, **self.training_key}

    @property
    def starting(self) -> dict[str, Any]:
        """The key of the network that a student starts from."""
        if self.base is None:
            return self.teaching
        of = {"base": self.base.sha256, "kind": self.base.kind, "task": self.task, "classes": self.data.classes}
        return {**of, "architecture": self.base.architecture, **self.training_key}

    @property
    def compresses_only(self) -> bool:
        """Whether the teacher itself is compressed, undistilled: `--student none`."""
        return self.student.family == NO_STUDENT

    @property
    def writes(self) -> bool:
        """Whether the student's family writes token after token, and is cut from its teacher and taught by itself."""
        return not self.compresses_only and writes(plugin("students", self.student.family))

    @property
    def compressing(self) -> dict[str, Any]:
        """The key of the teacher as that which is compressed."""
        return {"teaching": self.teaching, "survey": asdict(self.student.survey)}

    @property
    def made_task(self) -> Task:
        """The task, ready for work; of one that a graph decides that graph's."""
        return make("tasks", self.task, **self.task_settings, **self.task_places)

    @property
    def metric(self) -> Metric:
        """The task's metric; its fidelity to the teacher where the test rows lack the labels that the metric takes."""
        task = self.made_task
        return task.metric if self.data.test_labelled or not task.labelled else task.fidelity

    @property
    def selected_by(self) -> Metric:
        """The metric that picks among models on the selection rows."""
        task = self.made_task
        return task.metric if self.data.selection_labelled and task.labelled else task.fidelity

    @property
    def needs(self) -> set[str]:
        """What the losses need, of the teacher or of the student: logits, features, attention, embedding, exits."""
        return needs(self.student.losses)

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss needs more than labels and the student itself."""
        return bool(self.needs - {"exits"})

    @property
    def is_cut(self) -> bool:
        """Whether the student's family can start with weights of its teacher."""
        told = self.start.architecture
        if "student" in told:
            return False
        return self.student.family == told.get("family", "transformer" if "vocabulary" in told else None)

    def check_exits(self, shape: dict[str, Any]) -> None:
        """Raises UsageError where a student of this shape has no early exits to train, or not that which shall ship."""
        made = make("students", self.student.family, **shape)
        exits = [layer + 1 for layer in made.exits]
        if "exits" in self.needs and not exits:
            raise UsageError(
                f"the losses need early exits; a student of this shape has none ({made})",
                fix="leave self_distillation out, or allow a larger student "
                + ("(--min-speedup, --memory-mib)" if self.has_yardstick else "(--memory-mib)"),
            )
        if self.student.exit is not None and self.student.exit not in exits:
            raise UsageError(
                f"--exit {self.student.exit}: a student of this shape has early exits after the layers "
                f"{', '.join(map(str, exits))} ({made})",
                fix="name one of them",
            )

    def matched(self, shape: dict[str, Any]) -> Matched:
        """Which layers of a student of this shape are compared to which of the teacher's, and what is read of them."""
        wanted = self.needs
        theirs = teacher_depth(self.teacher.architecture)
        own = make("students", self.student.family, **shape).layers
        flat = "mlp" in (self.student.family, self.start.architecture.get("family"))  # its layers have no positions
        positions = None if self.student.survey.vocabulary else 1 if flat else POSITIONS
        mine = range(own if "features" in wanted else 0)
        others = matched_layers(theirs, own)[: len(mine)] if theirs else []
        attention = (own - 1, theirs - 1) if "attention" in wanted else (None, None)
        embedding = "embedding" in wanted
        return Matched(
            RequestedOutputs(tuple(mine), attention[0], embedding, positions),
            RequestedOutputs(tuple(others), attention[1], embedding, positions),
        )

    def outputs(self, piece: str = "", positions: int | None = None) -> dict[str, Any]:
        """Return the key of a piece of what the teacher says about the rows, or what the keys of all pieces share."""
        shared = {"teaching": self.teaching, "augmentations": [asdict(one) for one in self.student.augmentations]}
        if piece.startswith("features."):  # alone they are averaged to so many positions
            return shared | {"piece": piece, "positions": positions}
        return shared | {"piece": piece}

    def distilling(self, shape: dict[str, Any]) -> dict[str, Any]:
        """The key of the student of this shape."""
        student = asdict(self.student)
        learning = {
            name: student[name] for name in ("family", "survey", "losses", "augmentations", "training", "seed", "start")
        }
        start = {"starting": self.starting} if self.base else {}
        return {"teaching": self.teaching, **start, "student": learning, "shape": shape, "processor": PROCESSOR}


def _content(values: dict[str, Any]) -> dict[str, Any]:
    """Return a plan's plain values without the places where its inputs lie."""
    parts = {
        part: {key: value for key, value in values[part].items() if key not in _NO_CHOICES}
        for part in ("teacher", "base", "data")
        if values[part] is not None
    }
    return {key: value for key, value in (values | parts).items() if key != "task_places"}


@dataclass(frozen=True, kw_only=True)
class Plan(SharedPlan):
    """Everything that decides the bundle: the shared part, and the part of its target.

    Options become fields; `dataclasses.replace` makes variants.
    """

    target: Profile

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the bundle's provenance carries them."""
        return asdict(self) | {"target": self.target.as_dict()}

    @property
    def digest(self) -> str:
        """SHA-256 over every choice; where the inputs lie does not count, what they hold does."""
        return digest(_content(self.as_dict()))

    @property
    def target_digest(self) -> str:
        """Return the SHA-256 over what holds for this target alone: its profile, and its recipes' plug-ins."""
        own = {name: package for name, package in self.plugins.items() if name not in self.shared_plugins}
        return digest({"target": self.target.as_dict(), "plugins": own})
