"""From decoded images to a model's pixel values, as a folder's `preprocessor_config.json` says.

The ecosystem's own image processor does it, so that what a device's runtime will feed is what we train and measure on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgekd.core.errors import DataError, EdgeKDError, TeacherError
from edgekd.core.loading import by_transformers
from edgekd.data import clean, limits, settings

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

CONFIG = clean.PROCESSOR
BICUBIC = 3  # PIL's number, as the file spells it
_MOST_PIXELS = 16 << 20  # of an image between its file and the model's square: 4,096 x 4,096
_IN_MEMORY = 256 << 20  # bytes of resized images; more lie in a temporary file


def write_config(out: Path, side: int, *, mean: Sequence[float], std: Sequence[float], resample: int = BICUBIC) -> None:
    """Write the processor's file for square images of `side` pixels; as many channels as `mean` has values.

    Images are resized to the square as they are, without a crop. `mean` and `std` are of values from 0 to 1.
    """
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": len(mean) == 3,
        "do_convert_grayscale": len(mean) == 1,  # transformers.js knows it; transformers leaves images as they are
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The processor's settings, cleaned. Raises TeacherError where there are none, or one asks for what is no image."""
    config = clean.cleaned(settings.clean_processor, folder, CONFIG)
    if config is None:
        raise TeacherError(
            f"the folder {folder} has no usable {CONFIG}: how the model wants its images is unknown",
            fix="save it beside the model: AutoImageProcessor.from_pretrained(...).save_pretrained(folder)",
        )
    return config


def side_of(config: dict[str, Any], folder: Path) -> int:
    """Pixels of a side of the square that the processor ends with. Raises TeacherError where it is no square."""
    told = config.get("crop_size") if config.get("do_center_crop") else config.get("size")
    sides = list(told.values()) if isinstance(told, dict) else [told]
    side = sides[0] if sides and all(one == sides[0] for one in sides) else None
    if not isinstance(side, int):
        raise TeacherError(
            f"{folder}/{CONFIG} names no square: it says {limits.shown(told)}",
            fix='give it one side: "size": {"height": 224, "width": 224}',
        )
    return side


def check_resized(config: dict[str, Any], size: tuple[int, int], name: str) -> None:
    """Raises DataError where an image of `size` (width, height) would be resized to more pixels than are taken.

    With one edge named, the other follows from the image's own proportions: 1 x 10,000 becomes 224 x 2,240,000.
    """
    told = config.get("size")
    edge = told.get("shortest_edge") if isinstance(told, dict) else told
    if not isinstance(edge, int) or not config.get("do_resize", True):
        return
    shortest = edge / config.get("crop_pct", 1.0)
    pixels = shortest**2 * max(size) / max(1, min(size))
    if pixels > _MOST_PIXELS:
        raise DataError(
            f"the image {name} of {size[0]:,} x {size[1]:,} pixels is too narrow: the teacher's {CONFIG} resizes its "
            f"shortest edge to {round(shortest)}, which makes {round(pixels):,} pixels; at most {_MOST_PIXELS:,} are "
            "taken",
            fix="remove the image from the data, or cut it to the part that matters",
        )


def channels_of(config: dict[str, Any]) -> int:
    """How many channels the model reads: 1 or 3."""
    mean = config.get("image_mean")
    return 1 if isinstance(mean, list) and len(mean) == 1 else 3


class Pixels(Sequence["Sample"]):
    """Model inputs of images: resized once to uint8, normalized to float32 (1, channels, side, side) when asked for."""

    def __init__(self, images: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """`images` (rows, channels, side, side) of uint8; `values` (channels, 256): what each grey level becomes."""
        self.images, self.values = images, values

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> Pixels: ...
    def __getitem__(self, row: int | slice) -> Sample | Pixels:
        import numpy as np

        if isinstance(row, slice):
            return Pixels(self.images[row], self.values)
        planes = self.images[row]
        return {
            "pixel_values": np.stack([level[plane] for level, plane in zip(self.values, planes, strict=True)])[None]
        }

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))


def prepare(folder: Path, images: Sequence[Any], decode: Callable[[Any, int], np.ndarray[Any, Any]]) -> Pixels:
    """The images as the folder's processor prepares them. `decode(image, channels)` gives uint8 (h, w, channels).

    Raises EdgeKDError where the processor does not give images of one size.
    """
    import numpy as np
    from transformers import AutoImageProcessor

    config = read_config(folder)
    channels = channels_of(config)
    # include_top: EfficientNet's processor normalizes a second time
    with clean.processor_folder(folder) as place, by_transformers(folder):
        resize = AutoImageProcessor.from_pretrained(
            place, use_fast=False, do_rescale=False, do_normalize=False, include_top=False, trust_remote_code=False
        )
        normalize = AutoImageProcessor.from_pretrained(
            place, use_fast=False, do_resize=False, do_center_crop=False, trust_remote_code=False
        )

    rows: np.ndarray[Any, Any] = np.empty(0, dtype=np.uint8)
    for number, image in enumerate(images):
        decoded = decode(image, channels)
        check_resized(config, (decoded.shape[1], decoded.shape[0]), f"number {number + 1}")
        with by_transformers(folder):
            planes = _processed(resize, decoded)
        if number == 0:
            rows = _room((len(images), *planes.shape))
        if planes.shape != rows.shape[1:]:
            raise EdgeKDError(
                f"the processor of {folder} gives images of different sizes: {planes.shape[1:]}, {rows.shape[2:]}",
                fix=f'let {CONFIG} crop or resize to one size: "size": {{"height": 224, "width": 224}}',
            )
        rows[number] = planes
    # what becomes of each grey level is asked of the processor itself
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(channels, axis=2)
    with by_transformers(folder):
        values = _processed(normalize, ramp).reshape(channels, 256).astype(np.float32)
    if not np.isfinite(values).all():
        raise TeacherError(
            f"{folder}/{CONFIG} makes NaN or infinity of grey levels", fix="restore its image_mean and image_std"
        )
    return Pixels(rows, values)


def _processed(processor: Any, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(height, width, channels) to (channels, side, side)."""
    planes: np.ndarray[Any, Any] = processor(image, input_data_format="channels_last", return_tensors="np")[
        "pixel_values"
    ][0]
    return planes


def _room(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Space for uint8 values; in a file that nobody sees and that ends with the process, where they are many."""
    import numpy as np

    if np.prod(shape, dtype=np.int64) <= _IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="edgekd-images-") as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
