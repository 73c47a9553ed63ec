"""The torch side of the convnet family: the network of a shape, and how a smaller one is cut out of it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekd.core.layers import layer_map
from edgekd.students._network import Network
from edgekd.students._watch import watched

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample
    from edgekd.students.convnet import Block, Convnet, Convolution

_EPSILON, _MOMENTUM = 1e-3, 0.1  # EfficientNet's; its momentum of .01 is for runs of many thousand steps


def network(shape: Convnet) -> Network:
    """A network of this shape, weights drawn as He et al. 2015 do."""
    body = torch.nn.Sequential(
        OrderedDict(
            stem=_convolution(shape.stem),
            blocks=torch.nn.Sequential(*(_Block(block) for block in shape.blocks)),
            top=_convolution(shape.top),
            pool=torch.nn.AdaptiveAvgPool2d(1),
            flatten=torch.nn.Flatten(),
        )
    )
    for module in body.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, torch.nn.BatchNorm2d):
            # the exporter would share equal biases among layers, and quantizers then leave those layers in floats
            torch.nn.init.normal_(module.bias, std=0.01)
    last = {block.stage: number for number, block in enumerate(shape.blocks)}
    made = Network(shape, body, shape.top.outputs, input_name="pixel_values", layers=("blocks", tuple(last.values())))
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # trains twice as fast on CPUs
    return made


def _convolution(one: Convolution, *, active: bool = True) -> torch.nn.Sequential:
    """Convolution, batch norm, ReLU6: (batch, channels, side, side) in and out."""
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict(
        conv=_Convolution(one), norm=torch.nn.BatchNorm2d(one.outputs, eps=_EPSILON, momentum=_MOMENTUM)
    )
    if active:
        layers["act"] = torch.nn.ReLU6()
    return torch.nn.Sequential(layers)


class _Convolution(torch.nn.Conv2d):
    """A convolution that may pad one side more than the other, as TensorFlow's do at stride 2."""

    def __init__(self, one: Convolution) -> None:
        before, after = one.padding
        super().__init__(
            one.inputs,
            one.outputs,
            one.kernel,
            one.stride,
            padding=before,
            groups=one.inputs if one.depthwise else 1,
            bias=False,
        )
        self.uneven = (before, after) if after != before else None

    def forward(self, values: Tensor) -> Tensor:
        """(batch, channels, side, side) in and out."""
        if self.uneven is None:
            return super().forward(values)
        if torch.onnx.is_in_onnx_export():
            exported: Tensor = _Exported.apply(  # type: ignore[no-untyped-call]
                values, self.weight, *self.uneven, self.stride[0], self.groups
            )
            return exported
        return _uneven(values, self.weight, *self.uneven, self.stride[0], self.groups)


def _uneven(values: Tensor, weight: Tensor, before: int, after: int, stride: int, groups: int) -> Tensor:
    padded = torch.nn.functional.pad(values, (before, after, before, after))
    return torch.nn.functional.conv2d(padded, weight, stride=stride, groups=groups)


class _Exported(torch.autograd.Function):
    """One Conv node, which pads each side by itself: a Pad node of its own would cut an int8 graph into pieces."""

    @staticmethod
    def forward(_context: object, *arguments: Any) -> Tensor:
        return _uneven(*arguments)

    @staticmethod
    def symbolic(graph: Any, values: Any, weight: Any, before: int, after: int, stride: int, groups: int) -> Any:
        return graph.op(
            "Conv",
            values,
            weight,
            pads_i=[before, before, after, after],
            strides_i=[stride, stride],
            group_i=groups,
            dilations_i=[1, 1],
            kernel_shape_i=weight.type().sizes()[2:],
        )


class _Block(torch.nn.Module):
    """An inverted residual block."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.first = block.first
        self.expand = _convolution(block.expand) if block.expand else torch.nn.Identity()
        self.depthwise = _convolution(block.depthwise)
        self.project = _convolution(block.project, active=False)

    def forward(self, values: Tensor) -> Tensor:
        """(batch, channels, side, side) in and out; only a stage's first block changes channels and side."""
        out: Tensor = self.project(self.depthwise(self.expand(values)))
        return out if self.first else values + out


def cut(teacher: Network, student: Network, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """The student's state, taken from the teacher where it has the same parts; the rest as it was.

    Blocks: of each stage the first, the others evenly spaced, the last among them. Channels: those of the largest
    mean activation times outgoing weight on `samples` (after Minitron, Muralidharan et al. 2024), the same
    throughout a stage, because shortcuts add them up. Statistics of batch norms go along.
    """
    chosen = _blocks(teacher.shape, student.shape)
    kept = _kept(teacher, student, chosen, samples)
    source, target = teacher.state_dict(), student.state_dict()
    for name, into, out in _wiring(student.shape):
        old = _renamed(name, chosen)
        if into not in kept or out not in kept:
            continue  # behind stages that the student has not
        rows, columns = kept[out], kept[into]
        for key in [key for key in target if key.startswith(f"{name}.")]:
            value = source[old + key.removeprefix(name)]
            if value.dim():
                value = value.index_select(0, rows)
            if value.dim() > 1 and value.shape[1] > 1:  # depth-wise kernels have one
                value = value.index_select(1, columns)
            target[key] = value.clone()
    return target


def _wiring(shape: Convnet) -> list[tuple[str, str, str]]:
    """Each layer's name, and the groups of channels that it reads and writes; all of a group are kept alike."""
    layers = [("body.stem", "image", "hidden 0")]
    group = "hidden 0"
    for number, block in enumerate(shape.blocks):
        name, hidden = f"body.blocks.{number}", f"hidden {number}"
        if block.expand:
            layers.append((f"{name}.expand", group, hidden))
        else:
            hidden = group
        group = f"stage {block.stage}"
        layers += [(f"{name}.depthwise", hidden, hidden), (f"{name}.project", hidden, group)]
    return [*layers, ("body.top", group, "top"), ("head", "top", "classes")]


def _blocks(teacher: Convnet, student: Convnet) -> list[int]:
    """For each block of the student, the teacher's block that it starts as."""
    chosen: list[int] = []
    for stage in range(student.stages):
        theirs = [number for number, block in enumerate(teacher.blocks) if block.stage == stage]
        count = sum(block.stage == stage for block in student.blocks)
        chosen += [theirs[place] for place in layer_map(len(theirs), count)]
    return chosen


def _renamed(name: str, chosen: list[int]) -> str:
    parts = name.split(".")
    if parts[:2] == ["body", "blocks"]:
        parts[2] = str(chosen[int(parts[2])])
    return ".".join(parts)


def _kept(teacher: Network, student: Network, chosen: list[int], samples: Sequence[Sample]) -> dict[str, Tensor]:
    """For each group of the student's channels, the teacher's channels that it keeps, ascending."""
    importance = _importance(teacher, samples)
    counts = {out: _outputs(student, name) for name, _, out in _wiring(student.shape)}
    kept = {"image": torch.arange(student.shape.channels), "classes": torch.arange(student.shape.classes)}
    for group, count in counts.items():
        kind, _, number = group.partition(" ")
        theirs = f"hidden {chosen[int(number)]}" if kind == "hidden" else group
        if theirs in importance and group not in kept:
            kept[group] = importance[theirs].topk(count).indices.sort().values
    if student.shape.stages != teacher.shape.stages:
        kept.pop("top")  # the teacher's reads another stage
    return kept


def _importance(teacher: Network, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """For each group of channels, what its readers make of it: mean activation times outgoing weight (channels,)."""
    readers = [(name, into) for name, into, out in _wiring(teacher.shape) if into not in (out, "image")]
    sums: dict[str, Tensor] = {}
    hooks = []
    for name, _ in readers:

        def add(_module: object, inputs: tuple[Tensor, ...], name: str = name) -> None:
            values = inputs[0].detach().abs()
            sums[name] = sums.get(name, torch.zeros(())) + values.mean(dim=(0, *range(2, values.dim())))

        hooks.append(_layer(teacher, name).register_forward_pre_hook(add))
    watched(teacher, hooks, samples)
    groups: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for name, group in readers:
        outgoing = _layer(teacher, name).weight.detach().transpose(0, 1).flatten(1).norm(dim=1)
        groups[group] = groups[group] + sums[name] * outgoing
    return dict(groups)


def _layer(network: Network, name: str) -> torch.nn.Conv2d | torch.nn.Linear:
    """The layer itself, without padding, norm and activation around it."""
    module = network.get_submodule(name)
    found = getattr(module, "conv", module)
    assert isinstance(found, torch.nn.Conv2d | torch.nn.Linear)
    return found


def _outputs(network: Network, name: str) -> int:
    return _layer(network, name).weight.shape[0]
