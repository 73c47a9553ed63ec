"""What a user may ask of a build or a plan: each option declared once, in groups.

The command line's options and help, the check of ranges, and what `--student none` refuses derive from the fields here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, get_args, get_type_hints

from edgekd.core.errors import UsageError
from edgekd.core.registry import default as default_plugin

_MOST_MIB, _MOST_MS = 1 << 22, 3_600_000  # as a target profile allows
_WHOLE, _DIGITS = 10**15, 20
_KEY = "edgekd"


@dataclass(frozen=True)
class Declared:
    """What an option's field says of itself beside its name, type and default."""

    help: str
    flag: str  # without dashes
    range: tuple[float, float] | None = None  # least and most
    metavar: str | None = None
    off: str = ""  # the flag that switches it off
    usual: str | None = None  # the default in words, where the data or the task decide it
    of_student: bool = False  # it says how a student is made: nothing is left to say with --student none
    budget: bool = False  # it stands for the target profile's value of the same key


def option(
    default: Any,
    words: str,
    *,
    flag: str = "",
    range: tuple[float, float] | None = None,  # noqa: A002 (reads as the option's range)
    metavar: str | None = None,
    off: str = "",
    usual: str | None = None,
    of_student: bool = False,
    budget: bool = False,
) -> Any:
    """Return the field of an option with its help; `flag` where it is not the field's name."""
    declared = Declared(words, flag, range, metavar, off, usual, of_student, budget)
    return field(default=default, metadata={_KEY: declared})


@dataclass(frozen=True)
class Main:
    """Main options"""

    task: str = option(default_plugin("tasks"), "Hugging Face's task name.")
    teacher: str | None = option(
        None,
        "A Hugging Face folder or hub id, fine-tuned or a base model; a .pth of EfficientNet-Lite; an .onnx file "
        "(with --student none); `labels`: trained from the labels; api:URL, which is asked (see below); or `answers`: "
        "those that --data holds.",
        usual="the task's demo",
    )
    data: str | None = option(
        None,
        "A file (CSV, TSV, JSONL, Parquet, NumPy), a folder by split or by class, or a dataset's id; of any graph "
        "also synthetic: drawn from its shapes.",
        usual="the task's demo",
    )
    unlabelled: str | None = option(None, "More inputs, without labels.", metavar="PATH")
    student: str | None = option(
        None,
        "The student's family; or none: the teacher itself is compressed.",
        metavar="FAMILY",
        usual="the task's",
    )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data"""

    text_column: str | None = option(None, "The column that holds the text.")
    text_pair_column: str | None = option(
        None, "The column that holds the second text of a pair: a hypothesis, a passage."
    )
    image_column: str | None = option(None, "The column that holds the image, or its path.")
    label_column: str | None = option(
        None, "The column that holds the label; of several labels a row also A,B: a column of 0 and 1 for each."
    )
    state: tuple[str, ...] = option(
        (),
        "Of any graph: the output that is an input's next value; more than once, or none.",
        metavar="OUTPUT=INPUT",
        usual="found by name and shape",
    )
    class_output: tuple[str, ...] = option(
        (),
        "Of any graph: an output of scores, of which the largest counts; more than once.",
        metavar="NAME",
        usual="those that a softmax gives",
    )
    metric_file: str | None = option(
        None,
        "Of any graph: your own metric, which decides in place of fidelity to the original.",
        flag="metric",
        metavar="FILE.py:FUNCTION",
    )
    labels: int | None = option(
        None,
        "Use only N labels; the other rows become unlabelled.",
        range=(2, 1e9),
        metavar="N",
        of_student=True,
    )
    calibration: str | None = option(
        None, "Inputs to calibrate quantization on.", metavar="PATH", usual="rows held back"
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Student and training"""

    min_speedup: float | None = option(
        None, "Least speed of the student over its teacher.", range=(0.01, 1e4), usual="5", of_student=True
    )
    losses: tuple[str, ...] = option(
        (),
        "A loss and its weight, with options NAME=WEIGHT,OPTION=VALUE; more than once.",
        flag="loss",
        metavar="NAME=WEIGHT",
        usual="the task's",
        of_student=True,
    )
    temperature: float | None = option(
        None, "Softmax temperature of every loss that uses one.", range=(0.05, 100), usual="2", of_student=True
    )
    augmentations: tuple[str, ...] = option(
        (),
        "Changed copies of each training input; more than once, or none.",
        flag="augment",
        metavar="NAME=COPIES",
        usual="the task's",
        of_student=True,
    )
    epochs: int | None = option(
        None, "Most epochs of the student.", range=(1, 10_000), usual="by the number of rows", of_student=True
    )
    patience: int | None = option(
        None,
        "Stop after so many epochs without a better one.",
        range=(1, 10_000),
        metavar="EPOCHS",
        usual="half of them",
        of_student=True,
    )
    learning_rate: float | None = option(
        None, "Peak learning rate of the student.", range=(1e-8, 1), usual="by the family", of_student=True
    )
    max_tokens: int | None = option(None, "Longest text, in tokens.", range=(4, 1e6), usual="by the data")
    vocabulary: int | None = option(
        None,
        "Keep about N tokens.",
        range=(16, 1e7),
        metavar="N",
        usual="all that the data use",
        of_student=True,
    )
    image_size: int | None = option(
        None,
        "Side of the student's images.",
        range=(8, 2048),
        metavar="PIXELS",
        usual="by the data",
        of_student=True,
    )
    tries: int = option(
        1,
        "Train the N most capable shapes that fit briefly; keep the best.",
        flag="try",
        range=(1, 8),
        metavar="N",
        of_student=True,
    )
    exit: int | None = option(
        None, "Ship the early exit after this layer.", range=(1, 1000), metavar="LAYER", of_student=True
    )
    cache_mib: float = option(
        2048.0, "Disk that the teacher's outputs may take, in MiB.", range=(1, 1e9), of_student=True
    )
    allow_loops: bool = option(
        False, "Take an .onnx teacher with loops; what a run costs is then known only by running it."
    )
    seed: int = option(0, "Seed of splits and training.", range=(0, 2**31 - 1))  # scikit-learn takes 32 bits
    threads: int | None = option(None, "Threads for training.", range=(1, 1024), usual="all cores")


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Compression"""

    time_limit_s: float = option(
        600.0, "Limit of the search over recipes, in seconds.", flag="time-limit", range=(1, 1e7)
    )
    force: str | None = option(
        None, "Ship this recipe, whatever the floors say; the report shows it.", metavar="RECIPE"
    )


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Budgets and floors"""

    memory_mib: float | None = option(
        None,
        "Peak memory of one inference process, in MiB.",
        range=(0.01, _MOST_MIB),
        usual="the profile's",
        budget=True,
    )
    artifact_mib: float | None = option(
        None, "Size of the ONNX file, in MiB.", range=(0.001, _MOST_MIB), usual="the profile's", budget=True
    )
    latency_ms: float | None = option(
        None, "Latency of one inference, in ms.", range=(0.001, _MOST_MS), usual="the profile's", budget=True
    )
    min_retained: float = option(0.9, "Least share of the teacher's metric that the student keeps.", range=(0, 1.5))
    min_agreement: float | None = option(
        None,
        "Least agreement with the teacher (of embeddings the cosine).",
        range=(0, 1),
        metavar="SHARE",
        usual="the profile's",
    )
    max_drop: float | None = option(
        None,
        "Most points that quantization may lose.",
        range=(0, 100),
        metavar="POINTS",
        usual="the profile's",
    )


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Measuring"""

    full: bool = option(False, "Measure in 10 fresh processes instead of 4.", off="quick")
    evidence: int = option(
        0,
        "Train the student with and without its teacher, with so many seeds each.",
        range=(0, 100),
        metavar="SEEDS",
        of_student=True,
    )
    emulate_minutes: float = option(
        0.5,
        "Time to run the variants on an ARM target's own kernels (edgekd doctor: emulator).",
        range=(0, 1e4),
        metavar="MINUTES",
    )
    price_per_hour: float = option(
        0.05, "Price of the device, for the cost of a million queries.", range=(0, 1e6), metavar="USD"
    )


@dataclass(frozen=True, kw_only=True)
class Shipping:
    """Shipping"""

    name: str | None = option(None, "The bundle's name.", usual="the data's")
    version: str = option(
        "1.0.0",
        "The bundle's version; devices take only a greater one (verify --after).",
        flag="bundle-version",
        metavar="X.Y.Z",
    )
    golden: str = option("synthetic", "Inputs of the golden vectors: synthetic, test or a data file.")


@dataclass(frozen=True, kw_only=True)
class Api:
    """Teacher behind an API"""

    model: str | None = option(None, "The model's name there.", metavar="NAME")
    answers: str | None = option(
        None,
        "The folder for its answers and the ledger; the same again goes on.",
        metavar="DIR",
        usual="build/NAME-answers",
    )
    base: str | None = option(
        None, "The network that the student starts from.", metavar="FOLDER", usual="the task's demo"
    )
    classes: str | None = option(
        None, "a,b,c; or a file with a line `name: meaning` for each.", usual="the rows' labels"
    )
    prompt: str | None = option(None, "A template of your own (docs/labelling.md).", metavar="FILE")
    shots: int = option(0, "Training rows as examples.", range=(0, 64), metavar="N")
    soft: bool = option(True, "Ask for probabilities of the labels, or not.", off="hard")
    compare: int = option(
        200,
        "Test rows that it is asked about, too, so that the student is held against it.",
        range=(0, 1e6),
        metavar="N",
    )
    max_cost: str | None = option(None, "Never pay more, all runs on one folder together.", metavar="USD")
    max_api_tokens: int | None = option(
        None, "Never use more tokens, of prompts and answers together.", range=(1, 1e12), metavar="N"
    )
    max_requests: int | None = option(None, "Never send more requests.", range=(1, 1e12), metavar="N")
    price_per_million: str | None = option(
        None, "Dollars for a million tokens.", metavar="IN,OUT", usual="a dated table"
    )
    concurrency: int = option(8, "Requests at once.", range=(1, 256), metavar="N")
    answer_tokens: int | None = option(None, "Room for an answer and reasoning.", range=(1, 1e6), metavar="N")
    context: int | None = option(None, "Leave out rows that may not fit N tokens.", range=(16, 1e8), metavar="N")
    timeout_s: float = option(60.0, "Seconds for one answer.", flag="timeout", range=(0.1, 86_400), metavar="S")
    min_accuracy: float | None = option(None, "Stop after a pilot below this.", range=(0, 1), metavar="SHARE")
    accept_terms: bool = option(False, "You may train on what this provider's model answers.")


GROUPS = (Main, Data, Training, Compression, Budgets, Measuring, Shipping, Api)


API_WORDS = tuple(one.name for one in fields(Api) if one.name != "base")  # what is said to an API, or of asking it


@dataclass(frozen=True)
class _Target:
    target: str


@dataclass(frozen=True)
class Options(Api, Shipping, Measuring, Budgets, Compression, Training, Data, Main, _Target):
    """What a user may say; None means the default that the plan then shows."""

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that stand for the profile's, by their keys."""
        given = {name: getattr(self, name) for name, declared, _ in declarations() if declared.budget}
        return {name: value for name, value in given.items() if value is not None}


def declarations() -> Iterator[tuple[str, Declared, Field[Any]]]:
    """Yield each option's field name, what it declares, and the field; group by group."""
    for group in GROUPS:
        for one in fields(group):
            declared: Declared = one.metadata[_KEY]
            flag = declared.flag or one.name.replace("_", "-")
            yield one.name, Declared(**{**vars(declared), "flag": flag}), one


def value_type(group: type, name: str) -> tuple[type, bool]:
    """Return the type of an option's value, and whether it may be given more than once."""
    hint = get_type_hints(group)[name]
    inner = [one for one in get_args(hint) if one not in (type(None), Ellipsis)]
    return (inner[0] if inner else hint), getattr(hint, "__origin__", None) is tuple


def of_students(options: Options) -> list[str]:
    """Return the flags of the options that say how a student is made and were given another value than their own."""
    return [
        declared.flag
        for name, declared, one in declarations()
        if declared.of_student and getattr(options, name) != one.default
    ]


def of_api(options: Options) -> list[str]:
    """Return the flags of the options that say how an API is asked and were given another value than their own."""
    return [
        declared.flag
        for name, declared, one in declarations()
        if name in API_WORDS and getattr(options, name) != one.default
    ]


def check_ranges(options: Options) -> None:
    """Raise UsageError for a number out of its range (NaN, too); None is left alone."""
    for name, declared, _ in declarations():
        value = getattr(options, name)
        if declared.range is None or value is None:
            continue
        low, high = declared.range
        if not low <= value <= high:
            raise UsageError(
                f"--{declared.flag} {_short(value)} makes no sense",
                fix=f"give a number from {_short(low)} to {_short(high)}",
            )


def _short(value: float) -> str:
    """Every digit of a whole number that a person would write, six of any other."""
    if not isinstance(value, int):
        return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else f"{value:g}"
    text = str(value)  # hundreds of digits make no float
    return text if len(text) <= _DIGITS else f"{text[:_DIGITS]}... ({len(text)} digits)"
