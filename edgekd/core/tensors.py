"""What losses see. The only file of the core that knows torch, and only by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NO_LABEL = -100  # PyTorch's ignore_index


@dataclass(frozen=True)
class RequestedOutputs:
    """What losses ask of a model beside its logits. Layers are counted from 0, the one next to the input."""

    layers: tuple[int, ...] = ()  # whose features are wanted
    attention: int | None = None  # the layer whose queries, keys and values are
    embedding: bool = False
    positions: int | None = None  # that features of images and series are averaged to; None: one a token


@dataclass(frozen=True)
class TopLogits:
    """The largest of many logits, and the mass of the others: never spread over all classes again.

    The leading axes are those that dense logits would have, without their classes.
    """

    values: Tensor  # (..., k), descending
    classes: Tensor  # (..., k), which classes they are of
    rest: Tensor  # (...): the logit that each other class has instead of its own, so that their mass is kept
    count: int  # of all classes

    def argmax(self) -> Tensor:
        """Return the class of the largest logit: (...)."""
        return self.classes[..., 0]


@dataclass(frozen=True)
class Outputs:
    """What a model gave for a batch; what no loss asked for is left empty.

    Losses see logits of what is scored, one row each: a classifier's rows, or the positions of a batch of texts that
    hold data, end to end. Before that (`Learner` does it) a model's logits may be (batch, positions, classes).
    """

    logits: Tensor  # (scored, classes)
    features: tuple[Tensor, ...] = ()  # of each wanted layer: (batch, positions, width)
    attention: tuple[Tensor, ...] = ()  # queries, keys, values of one layer: (batch, positions, width) each
    embedding: Tensor | None = None  # the last layer's features, averaged over positions: (batch, width)
    mask: Tensor | None = None  # (batch, positions): True where features and attention hold data; None: everywhere
    exits: tuple[Tensor, ...] = ()  # of a student: logits (scored, classes) of its early exits, the shallowest first
    top: TopLogits | None = None  # of a teacher of many classes: stands for its logits, which are then empty


@dataclass(frozen=True)
class Targets:
    """What a batch is trained towards: the teacher's cached outputs, and labels (scored,), NO_LABEL where unknown.

    Of several labels a row `labels` are 0 or 1 for each of them: (scored, classes). Of numbers they are those, floats
    (scored, targets), NaN where unknown; outputs and labels are scaled alike, to a variance of about 1.
    The teacher's features are of the layers that the student's are mapped to, in the same order, with the same
    positions; widths may differ.
    """

    teacher: Outputs | None
    labels: Tensor

    @property
    def independent(self) -> bool:
        """Return whether each class is there or not by itself, rather than one of them."""
        return self.labels.dim() == 2 and not self.numeric

    @property
    def numeric(self) -> bool:
        """Return whether labels are numbers: outputs are then no logits."""
        return self.labels.is_floating_point()


def embeds(model: Any) -> bool:
    """Return whether a network's main output is an embedding: an encoder with pooling and layers behind it."""
    return hasattr(model, "sentence")
