"""Plug-ins as another package would bring them: one that keeps to its protocol, and two that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from edgekd.core.tensors import Outputs, Targets


@dataclass(frozen=True)
class MeanSquares:
    """The mean square of what two models say apart."""

    kind: ClassVar[str] = "response"
    needs: ClassVar[tuple[str, ...]] = ("logits",)

    def __call__(self, student: Outputs, targets: Targets) -> Any:
        """Logits of both to a scalar."""
        return ((student.logits - targets.teacher.logits) ** 2).mean()


@dataclass(frozen=True)
class OlderLoss:
    """A loss of a time when losses did not say their kind."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    def __call__(self, student: Any, targets: Any) -> Any:
        """A scalar."""
        return student.logits.mean()


@dataclass(frozen=True)
class MisspelledSearch:
    """A search whose one method has a slip of the pen in its name."""

    def rum(
        self, names: Sequence[str], trial: Callable[[str], float], *, time_limit_s: float, goal: float | None = None
    ) -> Mapping[str, float]:
        """Scores by name."""
        return {name: trial(name) for name in names}
