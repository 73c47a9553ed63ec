"""What goes in: the teacher, as its files describe it, and the rows by role. No model is loaded."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from edgekd.core.errors import TeacherError, UsageError, counted
from edgekd.core.files import user_path
from edgekd.core.protocols import (
    PER_WORD,
    REGRESSION,
    ClaimingTeacher,
    FolderTeacher,
    GraphTeacher,
    StartingNetwork,
    Yardstick,
    names_no_classes,
)
from edgekd.core.registry import make, names, plugin
from edgekd.data.given import Columns, class_names, read_given, read_inputs, without_labels
from edgekd.data.leaks import distinct
from edgekd.data.numbers import check_outputs
from edgekd.data.splits import Example, Splits, split
from edgekd.data.taught import split_taught
from edgekd.data.untrained import split_untrained

ANSWERS = "answers"  # the teacher whose answers are kept in the data's folder
_KINDS = {".pth": "efficientnet_lite", ".pt": "efficientnet_lite", ".onnx": "onnx_model", ".gguf": "gguf"}


def read_teacher(
    source: str, task: str, *, compressed: bool, allow_loops: bool = False, data: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The plug-in that knows the teacher, and what inspecting it says; `data` hold the kept answers of one.

    Raises TeacherError or UsageError: among others where it is to be `compressed` itself and is not ready for that.
    """
    if source.startswith("api:"):
        raise UsageError(
            f"the teacher {source} only answers: nothing can be copied from it, and it is asked before a build",
            fix=f"label the rows first: edgekd label --teacher {quote(source)} --model NAME --data ROWS --out labels/; "
            "then edgekd build --data labels/",
        )
    kind = _kind_of(source, task)
    if kind == ANSWERS and data is None:
        raise UsageError(
            "--teacher answers: whose answers? They lie in the folder that edgekd label wrote",
            fix="give that folder as --data; or --teacher api:URL, which asks first",
        )
    roles = plugin("teachers", kind)
    if not compressed and issubclass(roles, Yardstick) and not issubclass(roles, StartingNetwork):
        raise UsageError(
            f"the teacher {source} is an ONNX file; a student is cut from, or taught by, a torch model",
            fix="give --student none, which compresses it as it is, or the model that it was exported from",
        )
    if kind == "labels" and compressed:
        raise UsageError(
            "--student none compresses a model that is there; the teacher `labels` is yet to be trained",
            fix="give a finished model as --teacher, an .onnx file or a folder; or leave --student none out",
        )
    if compressed and not issubclass(roles, Yardstick):
        raise UsageError(
            f"--student none compresses a model that is there; the teacher {source} only answers",
            fix="leave --student none out: a student learns from the answers",
        )
    if allow_loops and not issubclass(plugin("teachers", kind), GraphTeacher):
        raise UsageError(f"--allow-loops: the teacher {source} is no ONNX file", fix="leave it out")
    given = {"allow_loops": True} if allow_loops else {}
    found = make("teachers", kind, **given).inspect(data if kind == ANSWERS and data else source, task)
    if compressed:
        found = yardstick(kind).whole(found)
    if compressed and not found["ready"]:
        raise TeacherError(
            f"the teacher {source} is a base model: without a head for {task} there is nothing to compress",
            fix=f"give a model that was fine-tuned on the task{_headless(task)}; or leave --student none out: "
            "the base model is then fine-tuned on your labels and distilled",
        )
    return kind, found


def yardstick(kind: str) -> Yardstick:
    """Return the plug-in of a teacher that runs here: `read_teacher` has refused others where one is needed."""
    made = make("teachers", kind)
    assert isinstance(made, Yardstick), f"{kind} only answers"
    return made


def starting_network(kind: str) -> StartingNetwork:
    """Return the plug-in of a teacher that a student can start from: `read_teacher` has refused the others."""
    made = make("teachers", kind)
    assert isinstance(made, StartingNetwork), f"nothing starts from {kind}"
    return made


def _kind_of(source: str, task: str) -> str:
    """Return the plug-in whose teacher that is: one that claims it, else by the suffix of its name."""
    for name in names("teachers"):
        kind = plugin("teachers", name)
        if issubclass(kind, ClaimingTeacher) and kind.serves(source, task):
            return name
    return source if source in ("labels", ANSWERS) else _KINDS.get(Path(source).suffix.lower(), "huggingface")


def settle(kind: str, info: dict[str, Any], task: str, *, compressed: bool) -> dict[str, Any]:
    """Return what `read_teacher` said, its weights held against its config: a child does it, and the store keeps it.

    Raises TeacherError where they are two models'.
    """
    teacher = make("teachers", kind)
    return teacher.settled(info, task, compressed=compressed) if isinstance(teacher, FolderTeacher) else info


def read_splits(
    task: Any,
    source: str,
    *,
    unlabelled: str | None,
    calibration: str | None,
    labels: int | None,
    seed: int,
    known: tuple[str, ...] | None,
    outputs: int,
    compressed: bool,
    demo: bool,
    answered: bool = False,
) -> tuple[Splits, Columns]:
    """The rows by role, and the columns that they come from. Raises DataError.

    `known` are a ready teacher's classes; of one of so many `outputs` that names none, they are numbers, or the data's.
    A `demo`'s labels are not read where they are not the teacher's. Of rows that a teacher has `answered` those
    without an answer are left out: nobody can be asked about them any more.
    """
    labelled = task.labelled and not compressed and not names_no_classes(task)
    given, columns, notes = read_given(task, source, unlabelled, classes=known, labelled=labelled)
    rows: list[Example] = []
    if calibration:
        rows, more = read_inputs(task, calibration, column=columns[0])
        notes += more
        rows = distinct(rows, set(), notes, "repeated row", "to calibrate on dropped")
        notes.append(f"calibrated on {counted(len(rows), 'row')} of {shown(calibration)}")
    if answered:
        notes += _without_unanswered(given)
    if compressed:
        said, numbers = class_names(given), tuple(map(str, range(outputs)))
        classes: tuple[str, ...] | None = None
        if task.problem_type == PER_WORD and known is None:
            given, classes = without_labels(given), ()
            notes.append("labels not read: the model does not say which tag each of its outputs is")
        elif task.problem_type == REGRESSION:
            classes = known
            check_outputs([row for part in given.values() for row in part], known)
        elif not names_no_classes(task):
            classes = known if known is not None else numbers if set(said) <= set(numbers) else said
        if demo and classes is not None and not set(said) <= set(classes):
            given = without_labels(given)  # its inputs still serve
            notes.append("labels not read: they are not the teacher's classes")
        splits = split_untrained(given, seed=seed, classes=classes, calibration=rows)
    elif not task.labelled or (names_no_classes(task) and task.problem_type != REGRESSION):
        splits = split_taught(given, labels=labels, seed=seed, calibration=rows)
    else:
        splits = split(given, labels=labels, seed=seed, classes=known, calibration=rows)
    return replace(splits, notes=(*notes, *splits.notes)), columns


def _without_unanswered(given: dict[str, list[Example]]) -> list[str]:
    """Leave out, in place, rows to train or to select on that have no label, and say so."""
    notes = []
    for role in ("train", "validation"):
        rows = given.get(role, [])
        kept = [row for row in rows if row.label is not None]
        if len(kept) < len(rows):
            given[role] = kept
            notes.append(
                f"{counted(len(rows) - len(kept), f'{role} row')} without an answer that names a class left out"
            )
    return notes


def shown(source: str) -> str:
    """A folder's or file's own name; a hub id whole: no path of this machine reaches a bundle.

    On one line and as text, whatever bytes the name is made of: reports and cards are UTF-8.
    """
    name = Path(os.path.abspath(user_path(source))).name if user_path(source).exists() else source
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


def _headless(task: str) -> str:
    """Return the words that name a task on the same inputs that needs no head; empty where there is none."""
    kinds = {name: plugin("tasks", name) for name in names("tasks")}
    modality = plugin("tasks", task).modality
    found = next((name for name, kind in kinds.items() if kind.modality == modality and not kind.labelled), None)
    return f", or --task {found.replace('_', '-')} for its embeddings" if found else ""
