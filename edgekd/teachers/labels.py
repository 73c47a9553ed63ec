"""A teacher that is trained here, from the labels alone: for data that no pre-trained model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import UsageError
from edgekd.core.protocols import Survey
from edgekd.core.registry import make, plugin
from edgekd.core.results import digest
from edgekd.teachers import _own


@dataclass(frozen=True)
class Labels:
    """A network of the task's own family, with the shape that the family's `of_labels` gives for these data."""

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What is known before the data are read: the family. Raises UsageError where none can start from nothing."""
        family = plugin("tasks", task).families[0]
        if not hasattr(plugin("students", family), "of_labels"):
            raise UsageError(
                f"--teacher labels: {task} has no teacher that labels alone can train; its students are cut from a "
                "pre-trained model",
                fix="leave --teacher out for the default, or give a pre-trained model's folder or hub id",
            )
        return {
            "folder": "",
            "ready": False,
            "architecture": {"family": family},
            "labels": None,
            "sha256": digest({"family": family}),
            "licence": "trained here from the labels",
        }

    def shaped(self, task: str, family: str, survey: Survey, classes: int) -> dict[str, Any]:
        """The same with the shape, once the data are known."""
        shape = plugin("students", family).of_labels(survey, classes=classes).as_dict()
        architecture = {"family": family, "shape": shape}
        return self.inspect("labels", task) | {"architecture": architecture, "sha256": digest(architecture)}

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """The network with random weights and named classes."""
        model = make("students", architecture["family"], **architecture["shape"]).random()
        model.name_classes(labels)
        return model

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """What the task writes beside a student of that shape: preprocessing of images, nothing for series."""
        shape = make("students", architecture["family"], **architecture["shape"])
        survey = Survey(shape.max_size, (shape.max_size,), channels=shape.channels)
        make("tasks", task).student_files(out, (), survey, shape, out)  # no folder of a teacher to take from

    def training(self, rows: int) -> dict[str, Any]:
        """About 750 steps of 16, and at least 8 epochs for many labels."""
        epochs = max(8, min(60, round(12_000 / rows)))
        return {"epochs": epochs, "batch_size": 16, "learning_rate": 3e-3, "weight_decay": 0.05}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """What losses can have of it."""
        return _own.gives(architecture["family"])
