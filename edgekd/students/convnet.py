"""Image students of depth-wise separable convolutions; EfficientNet-Lite0 to 4 are shapes of the family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.protocols import InputSpec, Work
from edgekd.students._cut import exit_head, truncate_at
from edgekd.students._images import smaller_images

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

# EfficientNet-Lite's stages (Tan and Le 2019; the Lite models drop squeeze-excite and swish for integer kernels):
# repeats, kernel, stride, channels. The first stage expands nothing; it and the last repeat once at any depth.
STAGES = ((1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320))
_STEM, _TOP = 32, 1280
_WIDTHS, _DEPTHS, _RESOLUTIONS = (1.0, 0.75, 0.5, 0.35, 0.25), (1.0, 0.5, 0.25), (1.0, 0.75, 0.5)  # of the teacher's
_EXPANDS, _STAGES = (6, 3), (7, 5)
_TINY_WIDTHS, _TINY_STAGES = (0.5, 0.25), (3, 2)  # for budgets of some thousand weights
_SMALL = 64  # images of a smaller side keep their resolution in the first convolution
_LEAST = 8  # pixels of a side


@dataclass(frozen=True)
class Convolution:
    """One convolution of a shape: square kernel, square maps, TensorFlow's "same" padding."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    side: int  # of its input, in pixels
    depthwise: bool = False

    @property
    def out_side(self) -> int:
        """Of its output, in pixels."""
        return math.ceil(self.side / self.stride)

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after, on each axis: after at least as many as before."""
        total = max((self.out_side - 1) * self.stride + self.kernel - self.side, 0)
        return total // 2, total - total // 2

    @property
    def weights(self) -> int:
        """Without its bias."""
        return self.outputs * self.kernel**2 * (1 if self.depthwise else self.inputs)


@dataclass(frozen=True)
class Block:
    """An inverted residual block: 1x1 to more channels (absent at `expand` 1), depth-wise, 1x1 to few channels."""

    stage: int
    first: bool  # of its stage: it alone changes channels or stride, and has no shortcut
    expand: Convolution | None
    depthwise: Convolution
    project: Convolution

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """In the order they run."""
        return (*filter(None, (self.expand,)), self.depthwise, self.project)


@dataclass(frozen=True)
class Convnet:
    """One shape. EfficientNet-Lite0 is `Convnet(224, 3, 1000)`; Lite1 has depth 1.1, Lite2 width 1.1 and depth 1.2."""

    image_size: int
    channels: int
    classes: int
    width: float = 1.0  # times the stages' channels, rounded to multiples of 8 as kernels like them
    depth: float = 1.0  # times the stages' repeats, rounded up
    stages: int = 7  # how many of them, from the first
    expand: int = 6
    stem_stride: int = 2  # 1 for small images

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    recipes: ClassVar[tuple[str, ...]] = ("static_int8", "float32")
    exporter: ClassVar[str] = "torchscript"
    gives: ClassVar[tuple[str, ...]] = ("features", "embedding", "exits")

    @classmethod
    def ladder(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> list[Convnet]:
        """Shapes up to the teacher's own (or Lite0's, where the teacher is another), the most capable first.

        Their images are no larger than the survey's.
        """
        top = cls.of_teacher(architecture, survey, classes=classes) or cls(
            survey.max_size, survey.channels, classes, stem_stride=_stem_stride(survey)
        )
        top = replace(top, image_size=min(top.image_size, survey.max_size))
        steps = [
            (width, depth, stages, expand)
            for width in _WIDTHS
            for depth in _DEPTHS
            for stages in _STAGES
            for expand in _EXPANDS
        ]
        steps += [(width, _DEPTHS[-1], stages, _EXPANDS[-1]) for width in _TINY_WIDTHS for stages in _TINY_STAGES]
        sides = sorted({max(_LEAST, round(top.image_size * part / 8) * 8) for part in _RESOLUTIONS[1:]})
        shapes = {
            replace(
                top,
                image_size=side,
                width=top.width * width,
                depth=top.depth * depth,
                stages=min(top.stages, stages),
                expand=min(top.expand, expand),
            )
            for width, depth, stages, expand in steps
            for side in {top.image_size, *(side for side in sides if side < top.image_size)}
        }
        distinct = {(shape.image_size, *shape.convolutions): shape for shape in sorted(shapes, key=repr)}
        return sorted(distinct.values(), key=lambda shape: shape.capability, reverse=True)

    @classmethod
    def of_teacher(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Convnet | None:
        """The teacher's own shape, with a head for these classes; None where it is of another family."""
        if architecture.get("family") != "convnet":
            return None
        return replace(cls(**architecture["shape"]), classes=classes)

    @classmethod
    def of_labels(cls, survey: InputSpec, *, classes: int) -> Convnet:
        """A teacher to be trained from the labels alone: half of Lite0's width, so that few labels can train it."""
        return cls(
            survey.max_size,
            survey.channels,
            classes,
            width=0.5,
            depth=0.5,
            stages=5,
            stem_stride=_stem_stride(survey),
        )

    @classmethod
    def training(cls, rows: int) -> dict[str, Any]:
        """About 100,000 images seen, in 5 to 100 epochs. The rate suits small shapes; larger ones hardly mind."""
        epochs = max(5, min(100, round(100_000 / rows)))
        return {"epochs": epochs, "batch_size": 64, "learning_rate": 1e-2}

    @property
    def capability(self) -> tuple[float, ...]:
        """A proxy, no promise: multiply-adds times weights (what EfficientNet scales together), then weights."""
        work = self.work(self.image_size)
        return (float((work.macs + work.other_macs) * work.weights), float(work.weights))

    @property
    def max_size(self) -> int:
        """The side of its images: the graph has no other."""
        return self.image_size

    @property
    def layers(self) -> int:
        """Its stages: what a stage's last block gives is a layer."""
        return self.stages

    @property
    def exits(self) -> tuple[int, ...]:
        """The stages after which other shapes of the family end."""
        return tuple(stages - 1 for stages in sorted({*_STAGES, *_TINY_STAGES}) if stages < self.stages)

    @cached_property
    def stem(self) -> Convolution:
        """The first convolution, a dense one."""
        return Convolution(self.channels, _rounded(_STEM * min(1.0, self.width)), 3, self.stem_stride, self.image_size)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All stages' blocks, in the order they run."""
        made: list[Block] = []
        channels, side = self.stem.outputs, self.stem.out_side
        for stage, (repeats, kernel, stride, full) in enumerate(STAGES[: self.stages]):
            outputs, scaled = _rounded(full * self.width), stage not in (0, len(STAGES) - 1)
            for number in range(math.ceil(repeats * self.depth) if scaled else repeats):
                hidden = channels * (self.expand if stage else 1)
                expand = Convolution(channels, hidden, 1, 1, side) if hidden != channels else None
                step = stride if number == 0 else 1
                depthwise = Convolution(hidden, hidden, kernel, step, side, depthwise=True)
                project = Convolution(hidden, outputs, 1, 1, depthwise.out_side)
                made.append(Block(stage, number == 0, expand, depthwise, project))
                channels, side = outputs, depthwise.out_side
        return tuple(made)

    @cached_property
    def top(self) -> Convolution:
        """The last convolution, whose outputs are averaged over the map."""
        last = self.blocks[-1].project
        return Convolution(last.outputs, min(_TOP, 4 * last.outputs), 1, 1, last.out_side)

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """All of them, in the order they run."""
        return (self.stem, *(one for block in self.blocks for one in block.convolutions), self.top)

    def work(self, size: int) -> Work:
        """One image, as exported: batch norms are folded into one bias a channel, ReLU6 into its convolution.

        The image has the shape's own size, whatever `size` says.
        """
        features = self.top.outputs
        dense = [one for one in self.convolutions if not one.depthwise]
        sums = [block.project.outputs * block.project.out_side**2 for block in self.blocks if not block.first]
        written = [one.outputs * one.out_side**2 for one in self.convolutions]
        read = [one.inputs * one.side**2 for one in self.convolutions]
        return Work(
            lookup_weights=0,
            matrix_weights=sum(one.weights for one in dense) + features * self.classes,
            other_weights=sum(one.weights for one in self.convolutions if one.depthwise)
            + sum(one.outputs for one in self.convolutions)
            + self.classes,
            macs=sum(one.weights * one.out_side**2 for one in dense) + features * self.classes,
            other_macs=sum(one.weights * one.out_side**2 for one in self.convolutions if one.depthwise),
            activations=max(into + out for into, out in zip(read, written, strict=True)),
            moved=sum(written) + sum(sums) + 2 * features + self.classes,
            operators=len(written) + len(sums) + 3,  # and the mean, its flattening, the head
            largest=max(*(one.weights for one in dense), features * self.classes),
            narrow_moved=sum(
                one.outputs * one.out_side**2
                for one in self.convolutions
                if one is not self.stem and (one.inputs % 16 or one.outputs % 16)
            ),
        )

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """A random image (1, channels, side, side), normalized as pixels are: its values do not matter to cost."""
        import numpy as np

        side = self.image_size
        return {"pixel_values": random.uniform(-1, 1, (1, self.channels, side, side)).astype(np.float32)}

    def how_to_shrink(self) -> str:
        """What a user may do where even the smallest shape is too large."""
        return smaller_images(self.image_size)

    def __str__(self) -> str:
        small = "" if self.stages == len(STAGES) else f", {self.stages} stages"
        return (
            f"{len(self.blocks)} blocks to {self.blocks[-1].project.outputs} channels{small}, "
            f"expand {self.expand}, {self.image_size} px"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `Convnet(**values)` is the shape again."""
        return asdict(self)

    def random(self, teacher_folder: Path | None = None) -> Any:
        """A network of this shape with random weights, in evaluation mode."""
        from edgekd.students import _convnet

        return _convnet.network(self).eval()

    def init_from_teacher(
        self, teacher: Any, teacher_folder: Path, *, kept: Any, samples: Sequence[Sample], copy: bool = True
    ) -> Any:
        """A cut of a teacher of this family: blocks evenly spaced, the channels that matter most on `samples`.

        A teacher of another family gives nothing but its outputs: the student starts at random.
        """
        from edgekd.students import _convnet

        student = self.random()
        if copy and isinstance(getattr(teacher, "shape", None), Convnet):
            student.load_state_dict(_convnet.cut(teacher, student, samples))
        labels = teacher.config.id2label
        student.name_classes([labels[number] for number in sorted(labels)])
        return student

    def exit_shape(self, layer: int) -> Convnet:
        """The shape that ends with that stage."""
        return replace(self, stages=layer + 1)

    exit_head, truncate_at = exit_head, truncate_at


def _rounded(channels: float) -> int:
    """To a multiple of 8, at least 8, never more than a tenth below: TensorFlow's `round_filters`."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _stem_stride(survey: InputSpec) -> int:
    return 1 if survey.max_size < _SMALL else 2
