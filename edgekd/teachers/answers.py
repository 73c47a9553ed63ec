"""A teacher that only answers: what `edgekd label` was told by an API, kept in a folder of rows.

Nothing can be copied from it and nothing of it runs here. A student starts from a network beside it, and its speed and
size are compared with its own fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.core.files import user_path
from edgekd.data import answers

NAME = "answers"  # as `--teacher` takes it


@dataclass(frozen=True)
class Answers:
    """The folder with the rows, the answers to them and who gave these."""

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """Return who answered, for which classes, under which terms. Raises TeacherError."""
        folder = user_path(source)
        if not folder.is_dir():
            raise TeacherError(
                f"--teacher {NAME}: {source} is no folder of answers",
                fix="give --data the folder that edgekd label wrote; or --teacher api:URL, which asks first",
            )
        told = answers.provenance(folder)
        asked_for = told.get("task", task)  # folders of before say nothing
        if asked_for != task:
            raise TeacherError(
                f"the answers in {source} are for {asked_for}, not for {task}",
                fix=f"give --task {asked_for}, or the folder of answers for {task}",
            )
        teacher = told["teacher"]
        who = {name: teacher.get(name) for name in ("provider", "model", "terms")}
        prompt = told.get("prompt", {}).get("constant_part_sha256")
        return {
            "name": str(teacher["model"]),
            "folder": str(folder.absolute()),
            "ready": True,
            "architecture": {NAME: who | {"prompt_sha256": prompt}},
            "labels": tuple(map(str, told["classes"])),
            "sha256": answers.digest(folder),
            "licence": _terms(teacher),
            "answered": {name: told.get(name) for name in ("figures", "soft_labels", "a_query", "pilot", "prices")},
        }

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what losses can have of it: probabilities of the classes, as logits."""
        return ("logits",)

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Nothing: its classes are known when rows are read."""


def _terms(teacher: Mapping[str, Any]) -> str:
    """What is known of the terms under which its answers may train a model."""
    terms = teacher.get("terms")
    who = f"{teacher['model']}, {teacher['provider']}"
    return f"terms of {who}: accepted on {terms['date']}" if terms else f"terms of {who}: not recorded as accepted"
