"""A teacher that is trained here, from the labels alone: for data that no pre-trained model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.digests import digest
from edgekd.core.errors import UsageError
from edgekd.core.protocols import FromLabels, InputSpec, StudentTask
from edgekd.core.registry import make, plugin
from edgekd.teachers import _own

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile


@dataclass(frozen=True)
class Labels:
    """A network of the task's own family, with the shape that the family's `of_labels` gives for these data."""

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What is known before the data are read: the family. Raises UsageError where none can start from nothing."""
        kind = plugin("tasks", task)
        family = next(iter(kind.families), "")
        if not family or not issubclass(plugin("students", family), FromLabels):
            default = "leave --teacher out for the default, or " if kind.demo else ""
            raise UsageError(
                f"--teacher labels: {task} has no teacher that labels alone can train; its students are cut from a "
                "pre-trained model",
                fix=f"{default}give a pre-trained model's folder or hub id",
            )
        return {
            "folder": "",
            "ready": False,
            "architecture": {"family": family},
            "labels": None,
            "sha256": digest({"family": family}),
            "licence": "trained here from the labels",
        }

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return `info`: what is yet to be trained cannot be compressed, which the plan refuses."""
        return info

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return the same with its shape, which the data decide."""
        family = info["architecture"]["family"]
        trained = plugin("students", family)
        assert issubclass(trained, FromLabels), "inspect has refused the others"
        architecture = {"family": family, "shape": trained.of_labels(survey, classes=classes).as_dict()}
        return info | {"architecture": architecture, "sha256": digest(architecture)}

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Nothing: it is exported within the target's limits."""

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Nothing: its head is made for the data's classes."""

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """The network with random weights and named classes."""
        model = make("students", architecture["family"], **architecture["shape"]).random()
        model.name_classes(labels)
        return model

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """What the task writes beside a student of that shape: preprocessing of images, nothing for series."""
        shape = make("students", architecture["family"], **architecture["shape"])
        survey = InputSpec(shape.max_size, (shape.max_size,), channels=architecture["shape"]["channels"])
        served = make("tasks", task)
        assert isinstance(served, StudentTask), "a task with families writes what its students need"
        served.student_files(out, (), survey, shape, out)  # no folder of a teacher to take from

    def training(self, rows: int) -> dict[str, Any]:
        """About 750 steps of 16, and at least 8 epochs for many labels."""
        epochs = max(8, min(60, round(12_000 / rows)))
        return {"epochs": epochs, "batch_size": 16, "learning_rate": 3e-3, "weight_decay": 0.05}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """What losses can have of it."""
        return _own.gives(architecture["family"])
