"""Neighbours: of each row of a batch the student finds those rows near that its teacher finds near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgekd.core.tensors import Outputs, Targets
from edgekd.losses._parts import embeddings, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """KL divergence of each row's distribution over the others, a softmax of cosines over a temperature, times that.

    SEED, Fang et al. 2021, arXiv 2101.04731, with the batch's own rows in place of a queue.
    """

    temperature: float = 0.05

    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"temperature": (0.005, 10.0)}
    kind: ClassVar[str] = "relation"

    def __call__(self, student: Outputs, targets: Targets) -> Tensor:
        """Embeddings (batch, width) of both, of any widths, to a scalar; zero for a batch of one or two rows."""
        from torch.nn.functional import kl_div, log_softmax

        own, said = (self._apart(unit_vectors(each)) for each in embeddings(student, targets))
        if len(own) < 3:  # one other row has the whole probability
            return own.sum() * 0
        wanted = log_softmax(said, dim=-1)
        divergence = kl_div(log_softmax(own, dim=-1), wanted, log_target=True, reduction="batchmean")
        return self.temperature * divergence  # a cosine's gradient is about 1 at any temperature

    def _apart(self, units: Tensor) -> Tensor:
        """Each row's cosines to the others over the temperature: (batch, batch - 1)."""
        count = len(units)
        cosines = units @ units.T / self.temperature
        if count < 2:
            return cosines * 0
        # the diagonal left out: of a flat matrix every (count + 1)th value from the first on
        flat: Tensor = cosines.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
        return flat
