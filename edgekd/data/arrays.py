"""Labelled images out of IDX files (MNIST, Fashion-MNIST) and NumPy archives; sizes are checked before values."""

from __future__ import annotations

import gzip
import lzma
import math
import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError
from edgekd.data.columns import row_label
from edgekd.data.limits import MOST_BYTES, check_plain
from edgekd.data.read import Table

if TYPE_CHECKING:
    import numpy as np

# what a damaged archive of arrays raises; RuntimeError where it is encrypted, or packed in a way that Python has not
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    TypeError,
    KeyError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)
_IDX = {"train": "train", "t10k": "test", "test": "test", "validation": "validation"}
_IDX_NAME = re.compile(r"(train|t10k|test|validation)-images[-.]idx3-ubyte(\.gz)?")
_NPZ = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
_NPZ_ALONE = (("x", "y"), ("X", "y"), ("images", "labels"))


def is_idx_folder(folder: Path) -> bool:
    """Whether it holds IDX files of images under their usual names."""
    return any(_IDX_NAME.fullmatch(file.name) for file in folder.iterdir())


def read_idx(folder: Path) -> dict[str, Table]:
    """Tables by split: images (height, width) of uint8, labels as class numbers. Raises DataError."""
    tables = {}
    for file in sorted(folder.iterdir()):
        match = _IDX_NAME.fullmatch(file.name)
        if match:
            labels = folder / file.name.replace("images", "labels").replace("idx3", "idx1")
            tables[_IDX[match[1]]] = _rows(_idx(file, 3), _idx(labels, 1), file)
    if "train" not in tables:
        raise DataError(f"{folder} has no training images", fix="add train-images-idx3-ubyte and its labels")
    return tables


def read_npz(path: Path) -> dict[str, Table]:
    """Tables by split from `x_train`, `y_train`, `x_test`, `y_test` (Keras's names), or one from `x` and `y`.

    Raises DataError for other names, object arrays, sizes beyond 8 GiB and values that are no pixels.
    """
    import numpy as np

    check_plain(path)
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {name.removesuffix(".npy"): declared_shape(archive, name, path) for name in archive.namelist()}
        found = {split: names for split, names in _NPZ.items() if names[0] in headers}
        alone = next((names for names in _NPZ_ALONE if names[0] in headers), None)
        if "train" not in found:
            found = {"all": alone} if alone else {}
        if not found:
            raise DataError(
                f"{path} holds the arrays {', '.join(sorted(headers))}, none of which we know",
                fix="name them x_train, y_train, x_test, y_test; or x and y",
            )
        tables = {}
        with np.load(path, allow_pickle=False) as arrays:
            for split, (values, labels) in found.items():
                tables[split] = _rows(arrays[values], arrays[labels] if labels in headers else None, path)
    except BROKEN as error:
        raise unreadable(path, error) from error
    return tables


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of an archive that is damaged, or none."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"cannot read {path}: {reason}", fix="write it again with numpy.savez_compressed")


def declared_shape(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[int, ...]:
    """The shape that an array's header declares. Raises DataError for Python objects and for too many values."""
    from numpy.lib import format as npy

    with archive.open(name) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"{path}: the array {name} holds Python objects, which run code when they are read",
            fix="save plain numbers or text: numpy.savez(..., y=labels.astype(str))",
        )
    if math.prod(shape) * dtype.itemsize > MOST_BYTES:
        raise DataError(
            f"{path}: the array {name} declares {math.prod(shape) * dtype.itemsize:,} bytes",
            fix=f"give at most {MOST_BYTES:,} bytes an array, or image files in folders",
        )
    return tuple(shape)


def _idx(path: Path, dimensions: int) -> np.ndarray[Any, Any]:
    """An IDX file of bytes (yann.lecun.com/exdb/mnist). Raises DataError where it is not what its header says."""
    import numpy as np

    check_plain(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic, *shape = struct.unpack(f">{1 + dimensions}I", stream.read(4 + 4 * dimensions))
            count = math.prod(shape)
            if magic != 0x800 + dimensions or count > MOST_BYTES:
                raise ValueError(f"its header is {magic:#x} with {shape}")
            raw = stream.read(count + 1)
        if len(raw) != count:
            raise ValueError(
                f"its header declares {count:,} bytes, it holds {'more' if len(raw) > count else len(raw)}"
            )
    except (OSError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is no IDX file: {error}", fix="fetch the file again") from error
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _rows(values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None, path: Path) -> Table:
    """One row an image. Raises DataError where labels and images are not as many, or values are no pixels."""
    images = _as_pixels(values, path)
    if labels is None:
        return [{"image": image, "label": None} for image in images]
    labels = labels.reshape(len(labels), -1)
    if labels.shape != (len(images), 1):
        raise DataError(
            f"{path}: {len(images)} images and labels of the shape {labels.shape}",
            fix="give one label an image, a class number or a name",
        )
    return [
        {"image": image, "label": row_label(label, str(path))}
        for image, label in zip(images, labels[:, 0], strict=True)
    ]


def _as_pixels(values: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    """uint8 (images, height, width) or (images, height, width, channels)."""
    import numpy as np

    if values.ndim == 4 and values.shape[1] in (1, 3) and values.shape[3] not in (1, 3, 4):
        values = values.transpose(0, 2, 3, 1)  # channels first, as torch has them
    if values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[3] not in (1, 3, 4)) or not values.size:
        raise DataError(
            f"{path}: images of the shape {values.shape}",
            fix="give (images, height, width) or (images, height, width, channels)",
        )
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "buif":
        raise DataError(f"{path}: pixels of the type {values.dtype}", fix="give numbers from 0 to 255")
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 255:
        raise DataError(
            f"{path}: pixels from {low:g} to {high:g}", fix="give numbers from 0 to 255, or fractions from 0 to 1"
        )
    if values.dtype.kind == "f" and high <= 1:
        values = values * 255
    return values.round().astype(np.uint8)
