"""From a user's words to a frozen plan. Everything that can be refused is refused here, before any training."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError, UsageError, suggestion
from edgekd.core.profile import load_profile
from edgekd.core.registry import make, plugin
from edgekd.core.results import versions
from edgekd.core.store import Store, open_store
from edgekd.data import demos
from edgekd.data.read import READERS, read_file, read_tables
from edgekd.data.splits import Example, Splits, split
from edgekd.data.vocabulary import survey
from edgekd.plan import DataPlan, LossTerm, Measuring, Plan, StudentPlan, TeacherPlan, Training

PACKAGES = (
    "edgekd", "torch", "transformers", "tokenizers", "accelerate", "onnx", "onnxruntime", "optimum", "optimum-onnx",
    "neural_compressor", "scikit-learn", "numpy",
)  # fmt: skip
DEFAULT_LOSSES = ("response=0.9", "hard_labels=0.1")
GOLDEN = ("synthetic", "test")
GOLDEN_MOST = 64  # rows of a file of golden inputs
_LENGTH_QUANTILES = 12
_TOKENS_LIMIT = 512


@dataclass(frozen=True)
class Options:
    """What a user may say; None means the default that the plan then shows."""

    target: str
    task: str = "text-classification"
    teacher: str | None = None
    data: str | None = None
    student: str | None = None
    name: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    unlabelled: str | None = None
    labels: int | None = None
    losses: tuple[str, ...] = ()
    temperature: float = 2.0
    epochs: int | None = None
    learning_rate: float | None = None
    max_tokens: int | None = None
    vocabulary: int | None = None
    min_speedup: float = 5.0
    min_retained: float = 0.9
    budgets: dict[str, float] = field(default_factory=dict)
    time_limit_s: float = 600.0
    golden: str = "synthetic"
    full: bool = False
    seed: int = 0
    threads: int | None = None


def make_plan(options: Options, store: Store | None = None) -> tuple[Plan, Splits]:
    """The plan and the rows it speaks of. Reads files, loads no model, never imports torch.

    Raises EdgeKDError for whatever cannot work, with its fix.
    """
    store = store or open_store()
    target = load_profile(options.target, budgets=options.budgets)
    task = make("tasks", options.task, text_column=options.text_column, label_column=options.label_column)
    losses = _losses(options)
    _check_numbers(options)
    golden_texts = _golden_texts(options, task)
    teacher_source = options.teacher or demos.demo_teacher(options.task)
    data_source = options.data or demos.demo_data(options.task, store)
    demo = demos.DEMOS[options.task] if options.data is None else None
    labels = options.labels if options.labels is not None or demo is None else demo.labels
    found = make("teachers", "huggingface").inspect(teacher_source)
    splits, columns = _read_splits(options, task, data_source, found["labels"], labels)
    texts = [row.input for row in (*splits.train, *splits.unlabelled)]
    tokens, kept = survey(tokenizer_file(Path(found["folder"]), store), texts, limit=options.vocabulary)
    lengths, max_tokens = _lengths(sorted(tokens), found["architecture"]["max_tokens"], options)
    default_teacher = demo is not None and options.teacher is None
    teacher = TeacherPlan(
        name=demo.teacher_name if demo and default_teacher else _shown(teacher_source),
        source=teacher_source,
        training=None if found["ready"] else _teacher_training(len(splits.train)),
        **found | {"licence": demo.teacher_licence if demo and default_teacher else found["licence"]},
    )
    _check_losses(losses, teacher)
    plan = Plan(
        name=_name(options, demo is not None),
        task=options.task,
        target=target,
        teacher=teacher,
        data=DataPlan(
            name=demo.data_name if demo else _shown(data_source), source=data_source,
            text_column=columns[0], label_column=columns[1], labels=labels, classes=splits.classes,
            counts=splits.counts, notes=splits.notes, selection_labelled=splits.selection_labelled,
            digest=splits.digest, licence=demo.data_licence if demo else "not stated: the data are yours",
        ),
        student=StudentPlan(
            family=options.student or task.family, max_tokens=max_tokens, lengths=lengths,
            vocabulary=len(kept), vocabulary_limit=options.vocabulary, min_speedup=options.min_speedup, losses=losses,
            training=_student_training(len(texts), options),
        ),
        measuring=Measuring(rounds=2, processes=10 if options.full else 4, timed_samples=100),
        min_retained=options.min_retained,
        search_limit_s=options.time_limit_s,
        golden="file" if golden_texts else options.golden,
        golden_texts=golden_texts,
        seed=options.seed,
        threads=options.threads or os.cpu_count() or 1,
        versions=versions(*PACKAGES),
    )  # fmt: skip
    return plan, splits


def _read_splits(
    options: Options, task: Any, source: str, known: tuple[str, ...] | None, labels: int | None
) -> tuple[Splits, tuple[str, str]]:
    tables = read_tables(source)
    first = tables.get("train") or tables["all"]
    columns = task.columns(first, source)
    given: dict[str, list[Example]] = {}
    for part, table in tables.items():
        where = f"{source} ({part})" if part != "all" else source
        absent = [column for column in columns if column not in table[0]]
        if part != "unlabelled" and absent:
            raise DataError(f"{where} has no column {absent[0]!r}", fix=suggestion(absent[0], table[0]))
        given[part] = task.examples(table, columns, where, labelled=part != "unlabelled")
    if options.unlabelled:
        table = read_file(Path(options.unlabelled).expanduser())
        column = columns[0] if columns[0] in table[0] else task.input_column(table, options.unlabelled)
        extra = task.examples(table, (column, column), options.unlabelled, labelled=False)
        given["unlabelled"] = given.get("unlabelled", []) + extra
    if "all" in given and "unlabelled" in given:
        given["all"] = given["all"] + given.pop("unlabelled")
    if known is not None:
        given = {part: _by_number(rows, known) for part, rows in given.items()}
    return split(given, labels=labels, seed=options.seed, classes=known), columns


def _by_number(rows: list[Example], known: tuple[str, ...]) -> list[Example]:
    """Labels given as class numbers become the teacher's names for them."""
    seen = {row.label for row in rows if row.label is not None}
    if seen <= set(known) or not seen <= {str(number) for number in range(len(known))}:
        return rows
    return [Example(row.input, known[int(row.label)] if row.label is not None else None) for row in rows]


def _lengths(tokens: list[int], most: int, options: Options) -> tuple[tuple[int, ...], int]:
    """Quantiles of the training texts' lengths in tokens (ascending), and the longest input that the student takes."""
    if options.max_tokens is not None:
        if not 4 <= options.max_tokens <= most:
            raise UsageError(
                f"--max-tokens {options.max_tokens} is outside 4 to {most}, what the teacher takes",
                fix=f"give a number from 4 to {most}",
            )
        longest = options.max_tokens
    else:
        needed = tokens[min(len(tokens) - 1, int(len(tokens) * 0.999))]
        longest = 32
        while longest < min(needed, most, _TOKENS_LIMIT):
            longest *= 2
        longest = min(longest, most, _TOKENS_LIMIT)
    steps = [round((i + 0.5) / _LENGTH_QUANTILES * (len(tokens) - 1)) for i in range(_LENGTH_QUANTILES)]
    return tuple(min(tokens[step], longest) for step in steps), longest


def tokenizer_file(folder: Path, store: Store) -> Path:
    """The teacher's `tokenizer.json`; made by transformers, in a child process, where only older files are there."""
    if (folder / "tokenizer.json").exists():
        return folder / "tokenizer.json"
    from edgekd.core import child

    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    place = store.stage(
        "tokenizer",
        {"folder": str(folder), "files": files},
        lambda out: child.call(
            "edgekd.planning:write_tokenizer", {"folder": str(folder), "out": str(out)}, timeout_s=300
        ),
    )
    return place / "tokenizer.json"


def write_tokenizer(folder: str, out: str) -> None:
    """Convert a tokenizer's older files into `tokenizer.json` (runs in a child process)."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(out)


def _golden_texts(options: Options, task: Any) -> tuple[str, ...]:
    """The first rows of the file that `--golden` names; none for the words it knows."""
    if options.golden in GOLDEN:
        return ()
    path = Path(options.golden).expanduser()
    if path.suffix not in READERS:
        raise UsageError(
            f"--golden {options.golden!r} is unknown", fix=f"{suggestion(options.golden, GOLDEN)}; or give a data file"
        )
    table = read_file(path)
    column = task.input_column(table, options.golden)
    rows = task.examples(table, (column, column), options.golden, labelled=False)
    return tuple(row.input for row in rows[:GOLDEN_MOST])


def _losses(options: Options) -> tuple[LossTerm, ...]:
    terms = []
    for text in options.losses or DEFAULT_LOSSES:
        name, _, weight = text.partition("=")
        plugin("losses", name)
        try:
            value = float(weight or 1.0)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise UsageError(f"--loss {text}: {weight!r} is no positive weight", fix=f"write --loss {name}=0.9")
        terms.append(LossTerm(name, value, {"temperature": options.temperature} if name == "response" else {}))
    return tuple(terms)


def _check_losses(losses: tuple[LossTerm, ...], teacher: TeacherPlan) -> None:
    gives = {"logits", "text"}
    for term in losses:
        missing = sorted(set(plugin("losses", term.name).needs) - gives)
        if missing:
            raise UsageError(
                f"the loss {term.name} needs {missing[0]}, which the teacher {teacher.source} does not give",
                fix="leave it out, or use: --loss response=0.9 --loss hard_labels=0.1",
            )


def _check_numbers(options: Options) -> None:
    bounds: dict[str, tuple[float | None, float, float]] = {
        "--labels": (options.labels, 2, 1e9), "--temperature": (options.temperature, 0.05, 100),
        "--epochs": (options.epochs, 1, 10_000), "--learning-rate": (options.learning_rate, 1e-8, 1),
        "--vocabulary": (options.vocabulary, 16, 1e7), "--min-speedup": (options.min_speedup, 0.01, 1e4),
        "--min-retained": (options.min_retained, 0, 1.5), "--threads": (options.threads, 1, 1024),
        "--time-limit": (options.time_limit_s, 1, 1e7),
    }  # fmt: skip
    for flag, (value, low, high) in bounds.items():
        if value is not None and not low <= value <= high:
            raise UsageError(f"{flag} {value:g} makes no sense", fix=f"give a number from {low:g} to {high:g}")
    if options.student is not None:
        plugin("students", options.student)


def _teacher_training(rows: int) -> Training:
    """About 750 steps of 16 for a small set, at least three epochs for a large one."""
    return Training(epochs=max(3, min(12, round(12_000 / rows))), batch_size=16, learning_rate=2e-4, head_factor=5.0)


def _student_training(rows: int, options: Options) -> Training:
    return Training(
        epochs=options.epochs or max(3, min(20, round(31_000 / rows))),
        batch_size=16,
        learning_rate=options.learning_rate or 3e-4,
    )


def _shown(source: str) -> str:
    """A folder's or file's own name; a hub id whole: no path of this machine reaches a bundle."""
    return Path(source).name if Path(source).expanduser().exists() else source


def _name(options: Options, is_demo: bool) -> str:
    if options.name:
        name = options.name
    elif is_demo:
        name = "questions"
    else:
        name = Path(options.data or "model").stem
    clean = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
    return clean or "model"
