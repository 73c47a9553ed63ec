"""From a user's words to losses and augmentations, refused where teacher or student cannot give what they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from edgekd.core.errors import UsageError, suggestion
from edgekd.core.protocols import MULTI_LABEL, REGRESSION, SINGLE_LABEL, writes
from edgekd.core.registry import make, names, plugin
from edgekd.plan.plan import Augmenting, LossTerm, TeacherPlan

_NEEDS = {
    "logits": "logits",
    "features": "features (the outputs of its layers)",
    "attention": "attention (queries, keys and values)",
    "embedding": "an embedding (its last layer's outputs)",
    "exits": "early exits",
    "text": "text",
}


def losses(said: Iterable[str], temperature: float | None) -> tuple[LossTerm, ...]:
    """Terms as `NAME=WEIGHT` or `NAME=WEIGHT,OPTION=VALUE` says; `temperature` is of those that have one.

    >>> [str(term) for term in losses(["response=0.9", "hard_labels=0.1"], 4.0)]
    ['0.9 response(temperature 4)', '0.1 hard_labels(label_smoothing 0)']
    """
    terms = []
    for text in said:
        head, *rest = text.split(",")
        name, _, weight = head.partition("=")
        kind = plugin("losses", name)
        known = {one.name: one for one in fields(kind)}
        options: dict[str, Any] = {key: one.default for key, one in known.items() if one.default is not None}
        if temperature is not None and "temperature" in known:
            options["temperature"] = temperature
        for part in rest:
            key, _, text_value = part.partition("=")
            if key not in known:
                raise UsageError(f"the loss {name} has no option {key!r}", fix=suggestion(key, tuple(known)))
            options[key] = _option(text, key, text_value, known[key].type, kind)
        share = _number(f"--loss {text}: the weight", weight or "1", f"write --loss {name}=0.9")
        if not share > 0:
            raise UsageError(f"--loss {text}: {weight!r} is no positive weight", fix=f"write --loss {name}=0.9")
        terms.append(LossTerm(name, share, options))
    if twice := next((term.name for term in terms if [one.name for one in terms].count(term.name) > 1), None):
        raise UsageError(f"--loss {twice} is given twice", fix="give it once, with one weight")
    if temperature is not None and terms and not any("temperature" in term.options for term in terms):
        raise UsageError(
            f"--temperature means nothing to the losses {', '.join(term.name for term in terms)}",
            fix="leave it out, or add a loss that has one: --loss response=0.5",
        )
    return tuple(terms)


def _option(text: str, key: str, value: str, kind: Any, loss: type[Any]) -> float | int:
    """An option's value, of its own type and within the loss's limits: so that the same words have the same digest."""
    number = _number(f"--loss {text}: {key}", value, f"write --loss {text.split(',')[0]},{key}=1")
    least, most = getattr(loss, "limits", {}).get(key, (0.0, math.inf))
    whole = str(kind).startswith("int")
    if not least <= number <= most or (whole and number != int(number)):
        what = "a whole number" if whole else "a number"
        raise UsageError(
            f"--loss {text}: {key} {number:g} makes no sense", fix=f"give {what} from {least:g} to {most:g}"
        )
    return int(number) if whole else number


def _number(what: str, text: str, fix: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{what} {text!r} is no number", fix=fix)
    return value


def augmentations(said: Iterable[str], task: str) -> tuple[Augmenting, ...]:
    """Augmentations as `NAME=COPIES` says; `none` is none. Raises UsageError for one that the task has no use for."""
    made = []
    for text in said:
        if text == "none":
            continue
        name, _, copies = text.partition("=")
        modality = plugin("tasks", task).modality
        if modality not in plugin("augmentations", name).modalities:
            able = [one for one in names("augmentations") if modality in plugin("augmentations", one).modalities]
            raise UsageError(
                f"the augmentation {name} cannot change the inputs of {task}",
                fix=f"choose among: {', '.join(able)} (--augment NAME=COPIES)",
            )
        count = _number(f"--augment {text}: the copies", copies or "1", f"write --augment {name}=1")
        if count != int(count) or not 1 <= count <= 64:
            raise UsageError(f"--augment {text}: {copies} copies make no sense", fix="give a whole number, 1 to 64")
        made.append(Augmenting(name, int(count)))
    return tuple(made)


def _check_embeds(terms: Sequence[LossTerm]) -> None:
    """Raises UsageError for a loss of logits, labels or early exits where a model gives embeddings."""
    for term in terms:
        needed = set(plugin("losses", term.name).needs)
        if not needed or needed & {"logits", "exits", "text"}:
            raise UsageError(
                f"the loss {term.name} is of classes; embeddings have none",
                fix="leave it out, or use: --loss cosine=1 --loss neighbours=1",
            )


def beyond_writing(terms: Iterable[LossTerm]) -> str | None:
    """Return the first loss that needs more of a model that writes than its tokens' logits; None where none does."""
    for term in terms:
        loss = plugin("losses", term.name)
        if loss.kind not in ("response", "labels") or set(loss.needs) - {"logits"}:
            return term.name
    return None


def check(terms: Sequence[LossTerm], teacher: TeacherPlan, family: str, problem_type: str = SINGLE_LABEL) -> None:
    """Raises UsageError for a loss that needs what the teacher, or the student's family, cannot give.

    So is one that is of one class of several where the task's `problem_type` has several labels a row.
    """
    kind = plugin("students", family)
    if not problem_type and not writes(kind):
        _check_embeds(terms)
    one = [term.name for term in terms if getattr(plugin("losses", term.name), "one_of_classes", False)]
    if one and problem_type == REGRESSION:
        raise UsageError(
            f"the loss {one[0]} weighs the right class against all others; numbers have no classes",
            fix="leave it out, or use: --loss response=0.9 --loss hard_labels=0.1",
        )
    if one and problem_type == MULTI_LABEL:
        raise UsageError(
            f"the loss {one[0]} weighs the right class against all others; of several labels a row none is the one",
            fix="leave it out, or use: --loss response=0.9 --loss hard_labels=0.1",
        )
    if all(set(plugin("losses", term.name).needs) == {"exits"} for term in terms):
        raise UsageError(
            "the losses teach early exits alone: the student's last layer would learn nothing",
            fix="add one for it: --loss response=0.9 --loss hard_labels=0.1",
        )
    if writes(kind) and (more := beyond_writing(terms)):
        raise UsageError(
            f"the loss {more} looks at more than what the teacher writes, and no more is kept of it",
            fix="leave it out, or use: --loss response=0.5,temperature=1 --loss hard_labels=0.5",
        )
    gives = {"logits", *kind.gives}
    of_teacher = {*make("teachers", teacher.kind).gives(teacher.architecture), "exits"}
    for term in terms:
        for need in plugin("losses", term.name).needs:
            who = f"the teacher {teacher.source}" if need not in of_teacher else f"a student of the {family} family"
            if need not in of_teacher & gives:
                raise UsageError(
                    f"the loss {term.name} needs {_NEEDS[need]}, which {who} does not give",
                    fix="leave it out, or use: --loss response=0.9 --loss hard_labels=0.1",
                )
