"""Fully connected layers over the whole input: for short series, tiny images and devices without convolutions."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.layers import exit_layers
from edgekd.core.protocols import InputSpec, Work
from edgekd.students._cut import exit_head, truncate_at
from edgekd.students._images import smaller_images
from edgekd.students._work import spans

if TYPE_CHECKING:
    import numpy as np
    import torch

    from edgekd.core.protocols import Sample

SERIES, IMAGE = "past_values", "pixel_values"
_WIDTHS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.09375, 0.0625, 0.03125, 0.015625)  # of the widest
_WIDEST, _DEEPEST = 256, 3  # after Wang, Yan and Oates (2017), who took 500
_LEAST_WIDTH = 2


@dataclass(frozen=True)
class Mlp:
    """One shape: `depth` hidden layers of `width`, over series of `side` steps or images of `side` x `side` pixels."""

    width: int
    depth: int
    side: int
    channels: int
    classes: int
    input_name: str  # past_values or pixel_values

    modalities: ClassVar[tuple[str, ...]] = ("series", "image")
    recipes: ClassVar[tuple[str, ...]] = ("dynamic_int8", "float32")
    exporter: ClassVar[str] = "torchscript"
    gives: ClassVar[tuple[str, ...]] = ("features", "embedding", "exits")

    @classmethod
    def of_teacher(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Mlp | None:
        """The teacher's own shape; None for a teacher of another family."""
        if architecture.get("family") != "mlp":
            return None
        return replace(cls(**architecture["shape"]), classes=classes)

    @classmethod
    def ladder(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> list[Mlp]:
        """Every shape from the teacher's own (or 3 x 256) down to two neurons, the most capable first."""
        whole = cls.of_teacher(architecture, survey, classes=classes)
        if whole is None:
            # what teachers of series are described by counts their steps
            name = SERIES if "steps" in architecture.get("shape", architecture) else IMAGE
            whole = cls(_WIDEST, _DEEPEST, survey.max_size, survey.channels, classes, name)
        whole = replace(whole, side=min(whole.side, survey.max_size))  # images may be smaller than the teacher's
        widths = {whole.width} | {max(_LEAST_WIDTH, int(whole.width * share)) for share in _WIDTHS}
        shapes = [replace(whole, width=w, depth=d) for w in widths for d in range(1, whole.depth + 1)]
        return sorted(shapes, key=lambda shape: shape.capability, reverse=True)

    @property
    def capability(self) -> tuple[int, int]:
        """A proxy, no promise: weights, then depth. Which shape learns best only training can tell."""
        return (self.work(self.side).weights, self.depth)

    @classmethod
    def training(cls, rows: int) -> dict[str, Any]:
        """About 4,000 steps of 32, in 10 to 200 epochs."""
        epochs = max(10, min(200, round(128_000 / rows)))
        return {"epochs": epochs, "batch_size": 32, "learning_rate": 1e-3, "weight_decay": 0.05}

    @property
    def max_size(self) -> int:
        """Steps of every series, or pixels of every image's side."""
        return self.side

    @property
    def layers(self) -> int:
        """Its hidden layers."""
        return self.depth

    @property
    def exits(self) -> tuple[int, ...]:
        """The hidden layers that may carry an early exit."""
        return exit_layers(self.depth)

    @property
    def inputs(self) -> int:
        """Values of one input."""
        return self.channels * (self.side if self.input_name == SERIES else self.side**2)

    def work(self, size: int) -> Work:
        """One input, which always has the shape's own size."""
        sizes = [self.inputs, *[self.width] * self.depth, self.classes]
        macs = sum(before * after for before, after in itertools.pairwise(sizes))
        series = self.input_name == SERIES
        return Work(
            lookup_weights=0,
            matrix_weights=macs,
            other_weights=self.depth * self.width + self.classes + 2 * self.channels * series,
            macs=macs,
            other_macs=0,
            activations=max(2 * self.inputs, self.inputs + self.width),
            moved=self.inputs * (1 + 2 * series) + 2 * self.depth * self.width + self.classes,
            operators=2 * series + 2 + 2 * self.depth,  # standardise; flatten, head; two a layer
            largest=max(before * after for before, after in itertools.pairwise(sizes)),
            narrow_moved=spans(self.side, self.channels) if series else 0,
        )

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """Noise."""
        sides = (size, self.channels) if self.input_name == SERIES else (self.channels, size, size)
        return {self.input_name: random.standard_normal((1, *sides)).astype("float32")}

    def how_to_shrink(self) -> str:
        """What a user may do where even the smallest shape is too large."""
        return smaller_images(self.side) if self.input_name == IMAGE else ""

    def __str__(self) -> str:
        layers = "1 hidden layer" if self.depth == 1 else f"{self.depth} hidden layers"
        return f"{layers} x {self.width} on {self.inputs} values"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `Mlp(**values)` is the shape again."""
        return asdict(self)

    def random(self, teacher_folder: Path | None = None) -> Any:
        """A torch model of this shape with random weights, in evaluation mode."""
        from torch import nn

        from edgekd.students._network import Network
        from edgekd.students._series import Standardise

        sizes = [self.inputs, *[self.width] * self.depth]
        layers = [nn.Sequential(nn.Linear(before, after), nn.ReLU()) for before, after in itertools.pairwise(sizes)]
        first = [Standardise(self.channels)] if self.input_name == SERIES else []
        parts = {"inputs": nn.Sequential(*first, nn.Flatten()), "layers": nn.Sequential(*layers)}
        places = ("layers", range(self.depth))
        body = nn.Sequential(OrderedDict(parts))
        return Network(self, body, self.width, input_name=self.input_name, layers=places).eval()

    def init_from_teacher(
        self, teacher: Any, teacher_folder: Path, *, kept: Any, samples: Sequence[Sample], copy: bool = True
    ) -> Any:
        """A student that starts as a cut of its teacher, where that is an Mlp on the same inputs; else random.

        Without `copy` it is random in any case.

        Layers: the first ones. Neurons: those that matter most on `samples` (mean size times the weights that read
        them, after Minitron, Muralidharan et al. 2024).
        """
        from edgekd.students._series import start_inputs

        student = self.random()
        start_inputs(student, teacher, samples)
        student.config.id2label = dict(teacher.config.id2label)
        whole = getattr(teacher, "shape", None)
        if copy and isinstance(whole, Mlp) and replace(self, width=whole.width, depth=whole.depth) == whole:
            _copy(student, teacher, samples)
        return student

    def exit_shape(self, layer: int) -> Mlp:
        """The shape that ends with that layer."""
        return replace(self, depth=layer + 1)

    exit_head, truncate_at = exit_head, truncate_at


def _copy(student: Any, teacher: Any, samples: Sequence[Sample]) -> None:
    """Every weight of the student from the teacher's, neurons chosen layer by layer."""
    import torch

    linears = [[layer[0] for layer in model.body.layers] + [model.head] for model in (student, teacher)]
    mine, theirs = linears[0], [*linears[1][: len(linears[0]) - 1], linears[1][-1]]
    means = _means(teacher, samples)
    columns = torch.arange(student.shape.inputs)
    with torch.no_grad():
        for number, (new, old) in enumerate(zip(mine, theirs, strict=True)):
            rows = torch.arange(len(old.weight))
            if new is not mine[-1]:
                matters = means[number] * theirs[number + 1].weight.norm(dim=0)
                rows = matters.topk(len(new.weight)).indices.sort().values
            new.weight.copy_(old.weight[rows][:, columns])
            new.bias.copy_(old.bias[rows])
            columns = rows


def _means(model: Any, samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Per hidden layer the mean size of each neuron: (width,)."""
    import torch

    sums = [torch.zeros(model.shape.width) for _ in model.body.layers]
    model.eval()
    with torch.no_grad():
        for sample in samples:
            values = model.body.inputs(torch.from_numpy(sample[model.input_name]))
            for number, layer in enumerate(model.body.layers):
                values = layer(values)
                sums[number] += values.abs().mean(dim=0)
    return sums
