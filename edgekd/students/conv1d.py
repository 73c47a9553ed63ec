"""Convolutions over time: a strided stem, residual blocks (dense or separable), the mean over time, a linear head.

After the fully convolutional and residual networks of Wang, Yan and Oates (2017), with the stride early, so that
a kernel of 7 spans what matters in a long series, and on request with dilations 1, 2, 4, 8 (TCN, Bai et al. 2018).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.layers import exit_layers, layer_map
from edgekd.core.protocols import InputSpec, Work
from edgekd.students._cut import exit_head, truncate_at
from edgekd.students._watch import watched
from edgekd.students._work import spans

if TYPE_CHECKING:
    import numpy as np
    import torch

    from edgekd.core.protocols import Sample

_WIDTHS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)  # of the widest
_MULTIPLE = 4  # widths stay multiples of it
_LEAST_WIDTH = 8
_LEAST_POSITIONS = 96  # that the stem's stride leaves of a series
_DILATIONS = 4  # 1, 2, 4, 8, then again


@dataclass(frozen=True)
class Conv1d:
    """One shape: `depth` residual blocks of `width` channels behind the stem."""

    width: int
    depth: int
    kernel: int  # odd
    stride: int  # of the stem
    separable: bool
    dilated: bool
    steps: int
    channels: int
    classes: int

    modalities: ClassVar[tuple[str, ...]] = ("series",)
    recipes: ClassVar[tuple[str, ...]] = ("static_int8", "float32")
    exporter: ClassVar[str] = "torchscript"
    gives: ClassVar[tuple[str, ...]] = ("features", "embedding", "exits")

    @classmethod
    def of_labels(cls, survey: InputSpec, *, classes: int) -> Conv1d:
        """A teacher to be trained from the labels alone: FordA's 3,601 take a minute on two cores, to 95%."""
        stride = 1
        while survey.max_size // (2 * stride) >= _LEAST_POSITIONS:
            stride *= 2
        return cls(
            64,
            6,
            7,
            stride,
            separable=False,
            dilated=True,
            steps=survey.max_size,
            channels=survey.channels,
            classes=classes,
        )

    @classmethod
    def of_teacher(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Conv1d | None:
        """The teacher's own shape; None for a teacher of another family."""
        if architecture.get("family") != "conv1d":
            return None
        return replace(cls(**architecture["shape"]), classes=classes)

    @classmethod
    def ladder(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> list[Conv1d]:
        """Every shape from the teacher's own size down to a few hundred weights, the most capable first.

        For a teacher of another family, from the size that `of_labels` trains.
        """
        whole = cls.of_teacher(architecture, survey, classes=classes) or cls.of_labels(survey, classes=classes)
        widths = {max(_LEAST_WIDTH, int(whole.width * share) // _MULTIPLE * _MULTIPLE) for share in _WIDTHS}
        shapes = {
            replace(whole, width=width, depth=depth, separable=separable)
            for width in widths | {whole.width}
            for depth in range(1, whole.depth + 1)
            for separable in ({True} if whole.separable else {False, True})
        }
        return sorted(shapes, key=lambda shape: (*shape.capability, str(shape)), reverse=True)

    @property
    def capability(self) -> tuple[int, int]:
        """A proxy, no promise: width times depth squared, half as much again for dense blocks; then weights.

        Against agreement with the teacher after a short run, its rank correlation was .97 on FordA (20 shapes) and .96
        on ElectricDevices (16); that of multiply-adds .63 and .86: what a block sees of the series counts most.
        """
        return (self.width * self.depth**2 * (2 if self.separable else 3), self.work(self.steps).weights)

    @classmethod
    def training(cls, rows: int) -> dict[str, Any]:
        """About 1,250 steps of 32, in 8 to 100 epochs."""
        return {"epochs": max(8, min(100, round(40_000 / rows))), "batch_size": 32, "learning_rate": 3e-3}

    @property
    def max_size(self) -> int:
        """The steps that every series has."""
        return self.steps

    @property
    def layers(self) -> int:
        """Its residual blocks."""
        return self.depth

    @property
    def exits(self) -> tuple[int, ...]:
        """The blocks that may carry an early exit."""
        return exit_layers(self.depth)

    @property
    def stem_kernel(self) -> int:
        """Wide enough that strides overlap."""
        return max(self.kernel, 2 * self.stride + 1)

    def work(self, size: int) -> Work:
        """One series of `size` steps through the exported graph: batch norms are part of its convolutions."""
        length = -(-size // self.stride)
        raw, inner, block = size * self.channels, length * self.width, self.width * self.width * self.kernel
        stem, head = self.width * self.channels * self.stem_kernel, self.width * self.classes
        filters = 0  # weights of the depth-wise convolutions
        convolutions = 1
        if self.separable:
            block, filters, convolutions = self.width * self.width, self.width * self.kernel, 2
        # standardise (2), transpose, stem, relu; per block its convolutions, relu and sum; pooling, flatten, head
        operators = 5 + self.depth * (convolutions + 2) + 3
        return Work(
            lookup_weights=0,
            matrix_weights=stem + self.depth * block + head,
            other_weights=self.depth * filters
            + self.width * (1 + self.depth)  # biases
            + self.classes
            + 2 * self.channels,
            macs=length * (stem + self.depth * block) + head,
            other_macs=length * self.depth * filters,
            activations=max(2 * raw, raw + inner, 3 * inner),
            moved=3 * raw + inner * (2 + self.depth * (convolutions + 2)) + 2 * self.width + self.classes,
            operators=operators,
            largest=max(stem, block, head),
            narrow_moved=spans(size, self.channels),
        )

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """Noise."""
        return {"past_values": random.standard_normal((1, size, self.channels)).astype("float32")}

    def how_to_shrink(self) -> str:
        """Nothing: the smallest shape is a few hundred weights, the rest is the runtime's."""
        return ""

    def __str__(self) -> str:
        kind = "separable" if self.separable else "dense"
        blocks = "1 block" if self.depth == 1 else f"{self.depth} blocks"
        return f"{blocks} x {self.width}, kernel {self.kernel}, {kind}{', dilated' if self.dilated else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `Conv1d(**values)` is the shape again."""
        return asdict(self)

    def random(self, teacher_folder: Path | None = None) -> Any:
        """A torch model of this shape with random weights, in evaluation mode."""
        from torch import nn

        from edgekd.students._network import Network, Residual
        from edgekd.students._series import Standardise, Transpose

        def convolution(inputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Module:
            padding = dilation * (kernel - 1) // 2
            return nn.Conv1d(inputs, self.width, kernel, stride, padding, dilation, groups, bias=False)

        def norm() -> nn.Module:
            made = nn.BatchNorm1d(self.width)
            # equal biases would be exported as one shared constant, and the quantizer passes such convolutions over
            nn.init.normal_(made.bias, std=0.01)
            return made

        def block(number: int) -> nn.Module:
            dilation = 2 ** (number % _DILATIONS) if self.dilated else 1
            if self.separable:
                body = [convolution(self.width, self.kernel, 1, dilation, self.width), convolution(self.width, 1)]
            else:
                body = [convolution(self.width, self.kernel, 1, dilation)]
            return Residual(*body, norm(), nn.ReLU())

        stem = convolution(self.channels, self.stem_kernel, self.stride)
        parts = {
            "inputs": nn.Sequential(Standardise(self.channels), Transpose()),
            "stem": nn.Sequential(stem, norm(), nn.ReLU()),
            "blocks": nn.Sequential(*map(block, range(self.depth))),
            "pool": nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        }
        body = nn.Sequential(OrderedDict(parts))
        layers = ("blocks", range(self.depth))
        return Network(self, body, self.width, input_name="past_values", layers=layers).eval()

    def init_from_teacher(
        self, teacher: Any, teacher_folder: Path, *, kept: Any, samples: Sequence[Sample], copy: bool = True
    ) -> Any:
        """A student that starts as a cut of its teacher, where that is a Conv1d of the same kernel; else random.

        Without `copy` it is random in any case.

        Blocks: evenly spaced, first and last among them. Channels: those of the residual stream that matter most
        on `samples` (mean size times the weights that read them, after Minitron, Muralidharan et al. 2024), batch
        norm's statistics with them. A separable student of a dense teacher: for each input channel, the closest
        product of a filter in time and a mixing column (its singular value decomposition).
        """
        from edgekd.students._series import start_inputs

        student = self.random()
        start_inputs(student, teacher, samples)
        student.config.id2label = dict(teacher.config.id2label)
        whole = getattr(teacher, "shape", None)
        if copy and isinstance(whole, Conv1d) and self._cut_of(whole):
            _copy(student, teacher, samples)
        return student

    def exit_shape(self, layer: int) -> Conv1d:
        """The shape that ends with that block."""
        return replace(self, depth=layer + 1)

    exit_head, truncate_at = exit_head, truncate_at

    def _cut_of(self, whole: Conv1d) -> bool:
        same = replace(self, width=whole.width, depth=whole.depth, separable=whole.separable) == whole
        return same and self.width <= whole.width and self.depth <= whole.depth and self.separable >= whole.separable


def _copy(student: Any, teacher: Any, samples: Sequence[Sample]) -> None:
    """Every weight of the student from the teacher's, channels and blocks chosen."""
    import torch

    shape, whole = student.shape, teacher.shape
    chosen = range(shape.depth) if shape.dilated else layer_map(whole.depth, shape.depth)
    if shape.separable and not whole.separable:
        wide = replace(shape, width=whole.width, depth=whole.depth)
        source = _factorised(teacher.state_dict(), wide.random().state_dict())
    else:
        source = teacher.state_dict()
    channels = torch.arange(whole.width)
    if shape.width < whole.width:
        channels = _importance(teacher, samples).topk(shape.width).indices.sort().values
    target = student.state_dict()
    for name, value in target.items():
        part = name.split(".")
        if part[1] == "blocks":
            part[2] = str(chosen[int(part[2])])
        old = source[".".join(part)]
        for dim in range(value.dim()):
            if old.shape[dim] != value.shape[dim]:
                old = old.index_select(dim, channels)
        target[name] = old.clone()
    student.load_state_dict(target)


def _factorised(dense: dict[str, torch.Tensor], like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a dense network under the names and shapes of the separable one."""
    import torch

    made = {}
    for name in like:
        part = name.split(".")
        if part[1] != "blocks":
            made[name] = dense[name]
            continue
        place = int(part[4])  # in body.blocks.N.body.PLACE: filter, mixing, norm
        if place >= 2:
            made[name] = dense[".".join([*part[:4], str(place - 1), *part[5:]])]
            continue
        weight = dense[".".join([*part[:4], "0", "weight"])]  # (out, in, kernel)
        left, size, right = torch.linalg.svd(weight.permute(1, 0, 2), full_matrices=False)
        root = size[:, 0].sqrt()
        made[name] = (
            (right[:, 0] * root[:, None])[:, None] if place == 0 else (left[:, :, 0] * root[:, None]).T[:, :, None]
        )
    return made


def _importance(model: Any, samples: Sequence[Sample]) -> torch.Tensor:
    """Of each channel of the residual stream: over its readers, mean size there times the reading weights. (width,)"""
    import torch

    total = torch.zeros(model.shape.width)

    def watch(weight: torch.Tensor) -> Any:
        def add(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            size = inputs[0].abs().flatten(2).mean(dim=2) if inputs[0].dim() > 2 else inputs[0].abs()
            total.add_(size.sum(dim=0) * weight)

        return add

    hooks = [model.head.register_forward_pre_hook(watch(model.head.weight.norm(dim=0)))]
    for block in model.body.blocks:
        first = block.body[0].weight
        if model.shape.separable:  # the filter's size times that of the column that mixes it
            weight = first.flatten(1).norm(dim=1) * block.body[1].weight.flatten(1).norm(dim=0)
        else:
            weight = first.norm(dim=(0, 2))
        hooks.append(block.body[0].register_forward_pre_hook(watch(weight)))
    watched(model, hooks, samples)
    return total
