"""What each kind of plug-in must do. A plug-in is a frozen dataclass: its fields are its options, its repr
is the report's line, one method does the work. There is nothing to inherit from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import Field, dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from edgekd.core.demo import Demo
    from edgekd.core.metrics import Metric
    from edgekd.core.model import Model
    from edgekd.core.tensors import Outputs, Targets
    from edgekd.hardware.profile import Profile
    from edgekd.store.store import Store

Sample = dict[str, "np.ndarray"]
AnyTask = TypeVar("AnyTask")
SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"  # transformers' problem types
REGRESSION = "regression"  # outputs are numbers, no logits; transformers calls it so, too
PER_WORD = "token_classification"  # one class for each word of a text; transformers has no problem type for it


@dataclass(frozen=True)
class InputSpec:
    """What the inputs ask of a student: sizes are tokens of a text, pixels of an image's side, steps of a series."""

    max_size: int  # the longest input that it takes; images and series have this size
    sizes: tuple[int, ...]  # quantiles of the training inputs' own sizes, ascending: what latency is taken on
    channels: int = 1  # of an image, or of a series
    vocabulary: int = 0  # tokens kept of the teacher's
    vocabulary_limit: int | None = None

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> InputSpec:
        """From plain values, as `asdict` gives them."""
        return cls(**{**said, "sizes": tuple(said["sizes"])})

    @property
    def typical(self) -> int:
        """The median size."""
        return self.sizes[len(self.sizes) // 2]


@dataclass(frozen=True)
class Work:
    """What one run of a shape takes, on paper: what its cost is predicted from."""

    lookup_weights: int  # in tables of which a run reads a few rows
    matrix_weights: int  # in matrices and dense convolutions, which kernels pack once more
    other_weights: int  # in depth-wise convolutions, norms and biases
    macs: int  # multiply-adds of matrices and dense convolutions
    other_macs: int  # multiply-adds of depth-wise convolutions and of products of two activations
    activations: int  # values of the largest operator's input and output together
    moved: int  # values that all operators write
    operators: int
    largest: int = 0  # weights of the largest matrix: kernels pack it while its first copy is still there
    narrow_moved: int = 0  # values that operators of few channels move or span: kernels work in blocks of 16

    @property
    def weights(self) -> int:
        """All weights."""
        return self.lookup_weights + self.matrix_weights + self.other_weights


@dataclass(frozen=True)
class Hub:
    """How the Hugging Face ecosystem knows a task; empty what it has not."""

    task: str = ""  # its name there: what optimum exports
    auto_model: str = ""  # transformers' class
    onnx_loader: str = ""  # optimum's class for a model that was exported
    processor: str = ""  # transformers' class that prepares inputs
    processor_options: Mapping[str, Any] = field(default_factory=dict)
    in_javascript: bool = False  # whether transformers.js opens it
    exporter: str = "optimum"  # the plug-in that writes its graphs, where the model names none of its own


class Progress(Protocol):
    """Where stages say how far they are; the CLI shows it on stderr."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins, with `total` steps where that is known."""
        ...

    def step(self, done: int, note: str = "") -> None:
        """`done` steps of the stage are behind us."""
        ...

    def say(self, line: str) -> None:
        """A fact worth keeping on the screen."""
        ...


class NullProgress:
    """A Progress that shows nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def step(self, done: int, note: str = "") -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Check:
    """One thing that edgekd needs: `what` was found, and the command that mends it; empty where all is well."""

    name: str
    state: Literal["ok", "missing", "stale"]
    what: str
    fix: str = ""


class Running(Protocol):
    """A device that takes jobs, each of them a fresh process of `edgekd/onboard/runner.py`."""

    @property
    def host(self) -> str:
        """Where its figures are from, in one line."""
        ...

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """The runner's answer; paths in the job are this machine's, and what the job writes is written here.

        Raises RuntimeCannotLoad where ONNX Runtime refuses the model, UsageError for a mode whose figures would mean
        nothing on this device, EdgeKDError where the device gives no answer.
        """
        ...


class Device(Protocol):
    """Where models run: this machine, a board, or an emulated core.

    One that needs a set-up first is an `Emulator`.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    emulated: ClassVar[str]  # empty, "user" (one process) or "system" (a kernel too): its time means nothing

    def up(self) -> AbstractContextManager[Running]:
        """The device for the length of the block; what it started ends with the block, or with this process."""
        ...


class ThisMachine(Device, Running, Protocol):
    """The device `local`: it is up already, so that it takes jobs as it is."""


class Emulator(Device, Protocol):
    """A device that has to be set up on this machine; `edgekd doctor` says how it stands and sets it up."""

    @classmethod
    def available(cls) -> bool:
        """Return whether it is set up here."""
        ...

    @classmethod
    def checks(cls) -> tuple[Check, ...]:
        """Return what it needs, each as found."""
        ...

    @classmethod
    def build(cls, progress: Progress | None = None) -> None:
        """Set it up. Raises EdgeKDError where that fails."""
        ...


class CoreEmulator(Emulator, Protocol):
    """The device `qemu`: one process on an emulated core, whose executed instructions can be counted."""

    @classmethod
    def cores(cls) -> tuple[str, ...]:
        """Return the names of the cores that it emulates."""
        ...

    @classmethod
    def counts(cls) -> str:
        """Return what counts instructions here; empty where nothing does."""
        ...


class Loss(Protocol):
    """One term of the objective.

    `limits` (a class attribute) may bound its options: from and to by name; an option that is not named is 0 or more.
    One that means something only where one class is right says `one_of_classes = True` (a class attribute).
    A loss with weights of its own (a projection between two widths) has a method `learned(student, targets)`: from a
    first batch it makes the torch module, called like the loss itself, whose parameters are trained beside the student.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    kind: ClassVar[str]  # response, feature, relation, self or labels
    needs: ClassVar[tuple[str, ...]]  # logits, features, attention, embedding (of teacher and student); exits; text

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """The term's value for a batch, a scalar that gradients flow through."""
        ...


class Augmentation(Protocol):
    """Makes more inputs out of those there are; the teacher says what they are.

    One that takes from other inputs says `borrows = True` (a class attribute); the others get no `others`.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    modalities: ClassVar[tuple[str, ...]]  # whose inputs it can change: text, image, series

    def __call__(self, value: Any, others: Sequence[Any], random: Random) -> Any:
        """A changed copy of an input; `others` are all inputs it may borrow from. The input itself stays as it is."""
        ...


class Student(Protocol):
    """A shape of a family: it knows its cost on paper, and how to come to be. `str` of it says it in words."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    modalities: ClassVar[tuple[str, ...]]  # whose inputs its networks read: text, image, series
    recipes: ClassVar[tuple[str, ...]]  # that shapes are measured under, where the profile has them
    exporter: ClassVar[str]
    gives: ClassVar[tuple[str, ...]]  # to losses, beside logits: features, embedding, attention, exits

    @classmethod
    def ladder(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Sequence[Student]:
        """Every shape that a student of this teacher may have, the most capable first."""
        ...

    @classmethod
    def of_teacher(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Student | None:
        """The teacher's own shape with a head for these classes; None for a teacher that the family can't express."""
        ...

    @property
    def max_size(self) -> int:
        """The largest input it takes: tokens, pixels of a side, steps."""
        ...

    @property
    def capability(self) -> tuple[float, ...]:
        """The order of the ladder: a proxy, no promise."""
        ...

    @property
    def layers(self) -> int:
        """How many layers it has whose features losses may ask for."""
        ...

    def work(self, size: int) -> Work:
        """What one sample of that size takes."""
        ...

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """A random input of that size, batch 1."""
        ...

    def how_to_shrink(self) -> str:
        """What a user may do where even the smallest shape is too large; empty where nothing helps."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `Family(**values)` is the shape again."""
        ...

    @classmethod
    def training(cls, rows: int) -> dict[str, Any]:
        """Defaults of a training run on that many rows, as `edgekd.plan.plan.Training` takes them."""
        ...

    def random(self, teacher_folder: Path | None = None) -> Any:
        """A torch model of this shape with random weights, in evaluation mode."""
        ...

    @property
    def exits(self) -> tuple[int, ...]:
        """The layers, but the last, that may carry an early exit, ascending."""
        ...


@runtime_checkable
class TaughtStudent(Protocol):
    """A shape whose networks the common loop teaches: each starts with what it can take from its teacher."""

    def init_from_teacher(
        self, teacher: Any, teacher_folder: Path, *, kept: Any, samples: Sequence[Sample], copy: bool = True
    ) -> Any:
        """A torch model of this shape that starts with what it can take from the teacher, its classes at least.

        `kept` is what the task's `student_files` gave; `samples` are teacher inputs on which to rank importance. With
        no `copy` its weights are random: what a student without a teacher starts with.
        """
        ...

    def exit_shape(self, layer: int) -> Student:
        """The shape that ends with that layer: what `truncate_at` gives a model of."""
        ...

    def exit_head(self, model: Any, layer: int) -> Any:
        """A fresh torch module from that layer's own output, with the model's shapes, to logits (batch, classes)."""
        ...

    def truncate_at(self, model: Any, layer: int, head: Any) -> Any:
        """The model up to that layer with a trained `exit_head` as its head: an ordinary model of the family."""
        ...


@runtime_checkable
class WritingStudent(Protocol):
    """A shape whose networks write token after token: they are cut from their teacher, and taught by what it writes.

    `trainer` is the package of `edgekd.training` that teaches them: `trainer.distil.teach`. One of their inferences
    takes so long that as few as `timed_samples` of them are timed.
    """

    trainer: ClassVar[str]
    timed_samples: ClassVar[int]

    @property
    def cut(self) -> dict[str, int]:
        """Return what is kept of the teacher, as the trainer takes it."""
        ...


@runtime_checkable
class FromLabels(Protocol):
    """A family whose networks labels alone can train: a student without a pre-trained model to be cut from."""

    @classmethod
    def of_labels(cls, survey: InputSpec, *, classes: int) -> Student:
        """Return the shape of a teacher for these data, large enough to teach."""
        ...


class Teacher(Protocol):
    """Who answers: what a student learns from. Inspected as files first, loaded when it is needed.

    Two more roles are a teacher's only where it has them: the network that a student starts from (`StartingNetwork`),
    and what speed and size are compared with (`Yardstick`). One that lacks them only answers.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """folder, ready, architecture, labels, sha256, licence. Raises TeacherError, and loads no model."""
        ...

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """What losses can have of such a teacher: logits, features, embedding, attention, text."""
        ...

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Raise TeacherError where the data have other classes than a head that cannot be replaced."""
        ...


@runtime_checkable
class StartingNetwork(Protocol):
    """A teacher whose network a student can start from, as a cut of it."""

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """A torch model with a fresh head for these labels, to be fine-tuned."""
        ...

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Write what the task needs beside the model: tokenizer, preprocessing."""
        ...

    def training(self, rows: int) -> dict[str, Any]:
        """Defaults of a training run on that many rows, as `edgekd.plan.plan.Training` takes them."""
        ...

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return what `inspect` said, of the teacher for these data, where its shape depends on them."""
        ...


@runtime_checkable
class Yardstick(Protocol):
    """A teacher that runs under ONNX Runtime: what a model's speed, size and answers are compared with."""

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Write what the task needs beside the model: tokenizer, preprocessing."""
        ...

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return what `inspect` said, of the teacher as it is to be compressed: with its own head, where it has one."""
        ...

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Raise RuntimeCannotLoad where the target can never run what this teacher is exported to."""
        ...


@runtime_checkable
class ClaimingTeacher(Protocol):
    """A teacher that tells which sources are its own: it is asked before a source is told by its name."""

    @classmethod
    def serves(cls, source: str, task: str) -> bool:
        """Return whether `inspect` takes that source for that task; reads no more than it needs to know that."""
        ...


@runtime_checkable
class PackedTeacher(Protocol):
    """A teacher whose weights lie in a file of their own: a ready one is unpacked into a folder first."""

    def unpack(self, file: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str], out: Path) -> None:
        """Write the model as a folder that edgekd loads. Raises TeacherError."""
        ...


@runtime_checkable
class FolderTeacher(Protocol):
    """A teacher whose weights and config may be of two models: held against each other before anything is planned."""

    def settled(self, info: dict[str, Any], task: str, *, compressed: bool) -> dict[str, Any]:
        """Return what `inspect` said, of weights that are the model's. Raises TeacherError where they are not."""
        ...


@runtime_checkable
class GraphTeacher(Protocol):
    """A teacher that is ONNX graphs: nothing of torch exports it, and no student learns from it."""

    def export(
        self,
        folder: Path,
        architecture: Mapping[str, Any],
        task: str,
        out: Path,
        finish: Callable[[Any, Path], object],
    ) -> None:
        """Write one of the task's graphs to `out`, which is `{graph}.onnx`; `finish(graph, out)` does the writing.

        Its inputs and outputs get the task's names. It is called for each graph, in their order.
        """
        ...


@runtime_checkable
class ComparingTeacher(Protocol):
    """A teacher of graphs that are held against the file that they came from on the user's own rows."""

    def compare(
        self, folder: Path, architecture: Mapping[str, Any], written: Model, inputs: Path, outputs: Sequence[str]
    ) -> None:
        """Raise TeacherError where what was written gives other `outputs` than the file, of packed rows."""
        ...


@runtime_checkable
class AnsweringTeacher(Protocol):
    """A teacher of graphs that is asked about the user's own rows while planning."""

    def answers(
        self,
        folder: Path,
        architecture: Mapping[str, Any],
        program: str,
        inputs: Path,
        outputs: Sequence[str],
        out: Path,
    ) -> None:
        """Write what the file gives as these `outputs` for packed rows to `out`, packed as well.

        Raise TeacherError where it does not run, or gives no number.
        """
        ...


@runtime_checkable
class CompletingTeacher(Protocol):
    """A teacher that computes more than its exported network: pooling, and layers behind it."""

    def complete(self, folder: Path, architecture: Mapping[str, Any], graph: Any) -> None:
        """Add that to the network's ONNX graph, a ModelProto, under the output names that a `CompletedTask` keeps."""
        ...


class Quantizer(Protocol):
    """One recipe: from an fp32 ONNX file to a candidate."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    suffix: ClassVar[str]  # of the file's name, as transformers.js expects it
    providers: ClassVar[tuple[str, ...]]  # execution providers that have kernels for what it writes
    least_ort: ClassVar[str]  # the first release of ONNX Runtime that loads what it writes

    @property
    def calibrates(self) -> bool:
        """Whether `quantize` takes rows, as it is set."""
        ...

    @property
    def least_opset(self) -> int:
        """The lowest opset that what it writes exists in."""
        ...

    @classmethod
    def for_target(cls, target: Profile) -> Quantizer:
        """The recipe with the options that the profile asks for."""
        ...

    def variants(self) -> tuple[dict[str, Any], ...]:
        """Options worth trying beside its own, the most promising first: what `dataclasses.replace` takes."""
        ...

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Sample],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the candidate to `out`, the nodes named in `keep` left in float.

        Ranges of activations are read from the folder `cache`, or written there, where one is given: candidates of
        one model share them. Raises EdgeKDError where the recipe changed nothing, or needs rows and has none.
        """
        ...


class Exporter(Protocol):
    """From a torch model to ONNX: the task's graphs, by their names."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    least_opset: ClassVar[int]  # the lowest that it can write

    def export(self, model: Any, out: Path, *, task: str, target: Profile) -> Model:
        """Write the task's graphs into `out`, within the target's opset and IR version; large weights beside them."""
        ...


@runtime_checkable
class ProgramExporter(Protocol):
    """An exporter of graphs that a program runs as often as it likes: torch is held against them by that program."""

    def sessions(self, model: Any) -> Mapping[str, Any]:
        """Return torch's parts of the model by graph, behind the interface of ONNX Runtime's sessions."""
        ...


class EcosystemLoader(Exporter, Protocol):
    """The exporter `optimum`, whose loaders open what it exported: the proof that a bundle works without edgekd."""

    def opens(self, task: str) -> bool:
        """Return whether it has a loader for the task."""
        ...

    def takes(self, config: Any, task: str) -> bool:
        """Return whether it exports a model of that transformers config for the task."""
        ...

    def proves(self, task: str) -> Mapping[str, str]:
        """Return the output rule of what `open` gives."""
        ...

    def open(self, folder: Path, file: str, inputs: Sequence[Any], *, task: str) -> tuple[str, Any]:
        """The ecosystem's loader that opens a bundle's folder, and its outputs for these inputs."""
        ...

    def generate(self, folder: Path, inputs: Sequence[Any], *, task: str) -> tuple[str, list[list[int]]]:
        """The same of a model of several graphs that generates: the tokens of each input."""
        ...


class Search(Protocol):
    """The loop over quantization candidates."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options

    def run(
        self, names: Sequence[str], trial: Callable[[str], float], *, time_limit_s: float, goal: float | None = None
    ) -> Mapping[str, float]:
        """Score each candidate by `trial`, in order, until the time is up or a score passes the goal; by name."""
        ...


class Task(Protocol):
    """How rows become model inputs, and outputs become a metric.

    A task that is `labelled` is a `LabelledTask`, too; one with families a `StudentTask`.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # a frozen dataclass: its fields are its options
    metric: ClassVar[Metric]  # of its labels
    fidelity: ClassVar[Metric]  # to a reference model, from 0 to 1: what judges rows without labels
    one_of_classes: ClassVar[bool]  # whether outputs are logits of classes of which one is right: they have confidences
    problem_type: ClassVar[str]  # of its logits, as transformers calls it; of MULTI_LABEL each label is there above 0;
    # empty where its outputs are no logits of classes: labels are then no names of classes, but texts of any kind
    families: ClassVar[tuple[str, ...]]  # of students, the default first
    modality: ClassVar[str]  # of its inputs: text, image, series
    hub: ClassVar[Hub]  # how the Hugging Face ecosystem knows it
    unit: ClassVar[str]  # of sizes: tokens, pixels, steps
    sizes: ClassVar[tuple[str, ...]]  # that a user may ask for: tokens, vocabulary, pixels
    headline_size: ClassVar[int]  # at which peak RSS is quoted, where inputs have sizes of their own
    baseline_recipe: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]  # the default objective, as `--loss` takes it
    losses_if_labelled: ClassVar[tuple[str, ...]]  # the same where every row has a label
    augmentations: ClassVar[tuple[str, ...]]  # the default ones, as `--augment` takes them
    labelled: ClassVar[bool]  # whether rows may carry labels; of embeddings there are none
    purpose: ClassVar[str]  # what it turns into what, for the card: `{classes}` stands for how many
    demo: ClassVar[Demo | None]  # its default teacher and data
    keep: ClassVar[Mapping[str, str]]  # the graph's outputs that a run keeps, the main one first, and how: `as_is`, or
    # `mean` over the positions of the mask. Named as transformers.js expects them: logits, last_hidden_state
    graphs: ClassVar[tuple[str, ...]]  # of a model: the names of its ONNX files, in the order that they run
    program: ClassVar[str]  # of edgekd/onboard: what runs them

    def read(self, source: str) -> Mapping[str, list[dict[str, Any]]]:
        """Tables by split, or one called `all`. Raises DataError."""
        ...

    def columns(self, table: list[dict[str, Any]], source: str, *, labelled: bool = ...) -> tuple[str, str]:
        """The input and the label column; that may lack (empty) where rows need not be `labelled`. Raises DataError."""
        ...

    def input_column(self, table: list[dict[str, Any]], source: str) -> str:
        """The input's column alone, for a file without labels. Raises DataError."""
        ...

    def examples(
        self, table: list[dict[str, Any]], columns: tuple[str, str], source: str, *, labelled: bool = ...
    ) -> list[Any]:
        """Rows as `edgekd.data.splits.Example`s; a missing label makes a row unlabelled. Raises DataError."""
        ...

    def survey(
        self,
        teacher: dict[str, Any],
        inputs: Sequence[Any],
        sizes: dict[str, int],
        store: Store,
        *,
        whole: bool = False,
    ) -> InputSpec:
        """What the training inputs ask of a student; `sizes` holds what the user asked for.

        `whole`: of the teacher itself, where nothing is trimmed and its size is its own.
        """
        ...

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Raise DataError where inputs can be neither cut nor resized to what the student takes."""
        ...

    def encode(self, model_folder: Path, inputs: Iterable[Any], max_size: int) -> Sequence[Sample]:
        """Model inputs of each row, unpadded, batch 1."""
        ...

    def ordinary(self, model_folder: Path, inputs: Iterable[Any]) -> list[Any]:
        """The inputs as the ecosystem's loaders take them (needed where optimum opens the task)."""
        ...

    def agrees(self, outputs: Any, reference: Any) -> Any:
        """Return what `fidelity` reduces: how far two models' outputs say the same, (rows,) or (rows, k)."""
        ...

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's data."""
        ...

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly that size."""
        ...


@runtime_checkable
class RaggedTask(Protocol):
    """A task whose metrics take predictions as they are: of several outputs, or of other shapes from row to row.

    Its `agrees` and `statistics` are given a sequence of named arrays; those of other tasks the main output, stacked.
    """

    ragged: ClassVar[bool]


@runtime_checkable
class GraphTask(Protocol):
    """A task whose inputs, outputs and metric are those of the graph that it is given.

    `bound` gives the task of one graph: of that one `keep`, `program`, `metric`, `fidelity` and `labelled` are the
    graph's. `make` gives it again by its `settings` and `places`.
    """

    program: ClassVar[str]

    def bound(self, teacher: Mapping[str, Any]) -> Task:
        """Return the task of the graph that was inspected. Raises UsageError for options that are not of it."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return its fields as plain values, without where files of it lie."""
        ...

    def places(self) -> dict[str, str]:
        """Return the fields that say where on this machine files of it lie."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Return what a plan is to say of it."""
        ...

    def try_metric(self, outputs: Sequence[Mapping[str, Any]], rows: Sequence[Any]) -> None:
        """Raise UsageError where a metric of the user's own fails on the original's outputs of these examples."""
        ...

    def invents(self, source: str) -> bool:
        """Return whether the source names no data: then no variant may ship that data would have to prove."""
        ...


@runtime_checkable
class ComparedTask(Protocol):
    """A task that says more of each output beside a reference's than its fidelity."""

    def compared(self, outputs: Any, reference: Any) -> Sequence[Any]:
        """Return a dataclass for each output."""
        ...


@runtime_checkable
class RankingTask(Protocol):
    """A task whose outputs are compared with each other: what is near to what."""

    def ranking(self, outputs: Any, reference: Any) -> Sequence[Any]:
        """Return a dataclass for each figure: `name`, `value`, `low`, `high`, `n`."""
        ...


@runtime_checkable
class CompletedTask(Protocol):
    """A task whose graphs compute more than the exported network does.

    `network` is what `keep` would be of the network alone, as torch and the loaders of the ecosystem give it.
    """

    network: ClassVar[Mapping[str, str]]


@runtime_checkable
class CostlyTask(Protocol):
    """A task of which one inference takes seconds: so few rows are timed, in few rounds."""

    timed_rows: ClassVar[int]


@runtime_checkable
class WritingTask(Protocol):
    """A task whose program reads a text and writes on: both are timed at these `contexts`, with `written` tokens."""

    contexts: ClassVar[tuple[int, ...]]
    written: ClassVar[int]


@runtime_checkable
class HearingTask(Protocol):
    """A task whose program hears recordings: told are its speed against theirs, and what it made of them."""

    def seconds(self, sample: Sample) -> float:
        """Return how long a recording is."""
        ...

    def heard(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Return how many texts loop, are empty, or were cut."""
        ...


@runtime_checkable
class FinishedTask(Protocol):
    """A task whose exporter writes the graphs as they ship: no other form of them is tried where `final_graphs`."""

    final_graphs: ClassVar[bool]


@runtime_checkable
class ParityTask(Protocol):
    """A task whose program gives what no network of torch gives by itself: tokens, likelihoods."""

    def parity(self, network: Any, exported: Model, samples: Sequence[Sample]) -> float:
        """Return the largest difference of the exported model from the network on these samples, in fp32's scale."""
        ...


@runtime_checkable
class RecipeTask(Protocol):
    """A task that other recipes serve than those that a profile lists for all tasks.

    `recipes` are used where the profile names none of them but fp32; `least_ort` is the first release of ONNX Runtime
    that loads what they and its exporter write: older ones that a profile allows are not allowed for this task.
    """

    recipes: ClassVar[tuple[str, ...]]
    least_ort: ClassVar[str]


@runtime_checkable
class PackagedTask(Protocol):
    """A task whose bundle holds a file that names its graphs, for a client of its own."""

    def package(self, folder: Path, model: Model) -> None:
        """Write such files into a bundle's folder, where its configs are; the graphs lie in its folder `onnx`."""
        ...


@runtime_checkable
class LabelledTask(Protocol):
    """A task whose rows may carry labels."""

    def truth(self, rows: Sequence[Any], classes: Sequence[str]) -> Any:
        """Return what outputs are held against and trained towards: (rows,) or (rows, k), NO_LABEL where unknown."""
        ...

    def statistics(self, outputs: Any, truth: Any) -> Any:
        """Return what the metric reduces, of outputs and `truth`: (rows,) or (rows, k)."""
        ...

    def baseline(self, train: Sequence[Any], test: Sequence[Any], seed: int) -> Any:
        """Return the same statistics of a linear model that learned from the labelled rows."""
        ...


@runtime_checkable
class NamedTask(Protocol):
    """A task whose metrics depend on what its classes are called: of tags, which words are a span together."""

    def named(self, classes: Sequence[str]) -> Any:
        """Return the task for a model with these classes."""
        ...

    def label_names(self) -> tuple[str, ...]:
        """Return the names that labels of such a model have: of tags the kinds of spans."""
        ...

    def finds(self, outputs: Any) -> int:
        """Return how many things these outputs say: of a teacher that says none, nothing can be kept."""
        ...

    def recalls(self, outputs: Any, truth: Any) -> list[float | None]:
        """Return the share of each of `label_names` that is found; None of one that `truth` does not have."""
        ...


@runtime_checkable
class NumericTask(Protocol):
    """A task whose rows have numbers."""

    def figures(self, outputs: Any, truth: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return of each target, by name, what a reader asks beside the metric: `mae`, `r2`, `spearman`."""
        ...


def named(task: AnyTask, classes: Sequence[str]) -> AnyTask:
    """Return the task, told the classes where its metrics depend on their names."""
    told: AnyTask = task.named(classes) if isinstance(task, NamedTask) else task
    return told


@runtime_checkable
class PositionTask(Protocol):
    """A task whose models say something at each position of a text: they are trained on all of them."""

    def targets(self, truth: Sequence[Any], samples: Sequence[Sample]) -> list[Any]:
        """Return what each position is trained towards: of each row (positions,), NO_LABEL where unknown."""
        ...


@runtime_checkable
class StudentTask(Protocol):
    """A task that students are distilled for."""

    def student_files(
        self, teacher_folder: Path, inputs: Iterable[Any], survey: InputSpec, shape: Any, out: Path
    ) -> Any:
        """Write the student's tokenizer or preprocessing to `out`; what `Student.init_from_teacher` is to keep."""
        ...


def writes(family: type[Any]) -> bool:
    """Return whether a family's students write token after token: see `WritingStudent`."""
    return not lacking(family, WritingStudent)


def names_no_classes(task: Task) -> bool:
    """Return whether a task's labels are no names of classes: they are what was said, or played, or numbers."""
    return task.labelled and task.problem_type in ("", REGRESSION)


def lacking(plugin: type[Any], protocol: type[Any]) -> list[str]:
    """Return the names of what a protocol asks for and a plug-in's class lacks, sorted.

    >>> lacking(object, Search)
    ['__dataclass_fields__', 'run']
    """
    fields = getattr(plugin, "__dataclass_fields__", {})  # one without a default is no attribute of the class
    return sorted(name for name in asked_by(protocol) if name not in fields and not hasattr(plugin, name))


def asked_by(protocol: type[Any]) -> set[str]:
    """Return the names of a protocol's members."""
    return {
        name
        for part in protocol.__mro__
        if getattr(part, "_is_protocol", False) and part is not Protocol
        for name in (*part.__annotations__, *vars(part))
        if not name.startswith("_") or name in ("__call__", "__dataclass_fields__")
    }
