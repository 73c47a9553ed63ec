"""What each kind of plug-in must do. A plug-in is a frozen dataclass: its fields are its options, its repr
is the report's line, one method does the work. There is nothing to inherit from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgekd.core.profile import Profile
    from edgekd.core.tensors import Outputs, Targets

Sample = dict[str, "np.ndarray"]


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


class Quiet:
    """A Progress that shows nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def step(self, done: int, note: str = "") -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


class Loss(Protocol):
    """One term of the objective."""

    needs: ClassVar[tuple[str, ...]]  # of the teacher: "logits", "features", "relations", "text"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """The term's value for a batch, a scalar that gradients flow through."""
        ...


class Student(Protocol):
    """A shape of a family: it knows its cost on paper, and how to come to be."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        ...

    def macs(self, size: int) -> int:
        """Multiply-adds of one sample of that size (tokens for text)."""
        ...


class Quantizer(Protocol):
    """One recipe: from an fp32 ONNX file to a candidate."""

    suffix: ClassVar[str]  # of the file's name, as transformers.js expects it
    calibrates: ClassVar[bool]

    @classmethod
    def for_target(cls, target: Profile) -> Quantizer:
        """The recipe with the options that the profile asks for."""
        ...

    def quantize(self, model: Path, out: Path, calibration: Sequence[Sample]) -> None:
        """Write the candidate to `out`. Raises EdgeKDError where the recipe changed nothing."""
        ...


class Exporter(Protocol):
    """From a student's folder to ONNX, and the proof that the ecosystem opens the result."""

    def export(self, model: PreTrainedModel, out: Path, *, task: str, target: Profile) -> Path:
        """Write one ONNX file into `out`, within the target's opset and IR version; its path."""
        ...

    def open(self, folder: Path, file: str, texts: Sequence[str]) -> Any:
        """Outputs of the texts as the ecosystem's own loader gives them for a bundle's folder."""
        ...


class Search(Protocol):
    """The loop over quantization candidates."""

    def run(self, recipes: Sequence[str], trial: Callable[[str], float], *, time_limit_s: float) -> Mapping[str, float]:
        """Score each recipe by `trial`, in order, until the time is up; the scores by recipe."""
        ...


class Task(Protocol):
    """How rows become model inputs, and outputs become a metric."""

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def encode(self, model_folder: Path, texts: Iterable[str], max_tokens: int) -> list[Sample]:
        """Model inputs of each row, unpadded, batch 1."""
        ...

    def correct(self, outputs: Any, labels: Sequence[int]) -> Any:
        """Per row 1.0 or 0.0 for a metric that is a mean over rows."""
        ...
