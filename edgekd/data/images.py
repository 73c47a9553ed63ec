"""Images and their labels, from folders, tables, IDX files and NumPy archives; decoded once to see what is broken.

A table's rows hold an `ImageFile`, decoded only when asked, or a uint8 array (height, width) or (height, width,
channels). A `ChangedImage` is an augmented copy of one, made only when asked.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from edgekd.core import pointers
from edgekd.core.cpus import usable_cpus
from edgekd.core.errors import DataError, counted
from edgekd.core.files import is_plain, user_path
from edgekd.core.protocols import Augmentation
from edgekd.core.results import versions
from edgekd.data.arrays import is_idx_folder, read_idx, read_npz
from edgekd.data.columns import IMAGE_NAMES, find_column
from edgekd.data.limits import MOST_IMAGE_BYTES, shown
from edgekd.data.media import holds_tables, read_folders
from edgekd.data.read import NotedTable, Table, read_tables
from edgekd.store.store import Store, open_store

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others call programs, or are rarely wanted
MOST_PIXELS = 50_000_000
MAX_BROKEN = 0.05  # of the files, before we refuse


@dataclass(frozen=True)
class ImageFile:
    """An encoded image: a file, or bytes out of a table. Its sides are those after turning it as its EXIF says."""

    source: Path | bytes = field(repr=False)
    sha256: str  # of its bytes
    height: int
    width: int
    grey: bool
    pixels: str = ""  # SHA-256 of the decoded pixels, as of an array's values: the same picture saved twice is one

    @property
    def content(self) -> str:
        """What it says: see `Example.content`."""
        return self.pixels


@dataclass(frozen=True)
class ChangedImage:
    """An augmented copy, changed anew each time it is decoded, each time alike. Its sides are its source's."""

    source: AnyImage = field(repr=False, compare=False)
    partner: AnyImage | None = field(repr=False, compare=False)  # what an augmentation that borrows takes from
    augmentation: Augmentation
    sha256: str  # of all that it is made of; its randomness flows from it


if TYPE_CHECKING:
    AnyImage = ImageFile | ChangedImage | np.ndarray[Any, Any]


def read_images(
    source: str, *, column: str | None = None, label: str | None = None, store: Store | None = None
) -> dict[str, NotedTable]:
    """Tables by split, or one called `all`. `column` and `label` name columns of a table or a folder's metadata file.

    Raises DataError for a source that holds no images, or more than 5% that cannot be decoded; up to that they are
    left out, and the table's `notes` count them.
    """
    path = user_path(source)
    if path.suffix.lower() == ".npz":
        return {split: NotedTable(rows) for split, rows in read_npz(path).items()}
    if path.is_dir() and is_idx_folder(path):
        return {split: NotedTable(rows) for split, rows in read_idx(path).items()}
    store = store or open_store()
    if path.is_dir() and not holds_tables(path):
        found = read_folders(path, column, label)
    else:
        root = path if path.is_dir() else path.parent
        found = {split: _with_paths(table, column, source, root) for split, table in read_tables(source).items()}
    return _checked(found, source, store)


def decode(image: AnyImage, channels: int) -> np.ndarray[Any, Any]:
    """The image as uint8 (height, width, channels), of 1 (grey) or 3 channels (red, green, blue).

    Transparency is dropped, as the ecosystem's loaders do; 16 bits become 8. Raises ValueError or OSError where it
    cannot be decoded.
    """
    import numpy as np

    if isinstance(image, ImageFile):
        values = np.asarray(_opened(image.source).convert("L" if channels == 1 else "RGB"))
        return values.reshape(*values.shape[:2], channels)
    if isinstance(image, ChangedImage):
        others = [] if image.partner is None else [decode(image.partner, channels)]
        changed = image.augmentation(decode(image.source, channels), others, Random(image.sha256))  # noqa: S311
        return np.asarray(changed, dtype=np.uint8)
    values = image[..., None] if image.ndim == 2 else image[..., :3]  # a fourth channel is transparency
    if values.shape[2] == channels:
        return values
    if channels == 3:
        return values.repeat(3, axis=2)
    luma = values @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as PIL's
    grey: np.ndarray[Any, Any] = luma.round().astype(np.uint8)[..., None]
    return grey


def sides(image: AnyImage) -> tuple[int, int]:
    """Height and width."""
    if isinstance(image, ChangedImage):
        return sides(image.source)
    return (image.height, image.width) if isinstance(image, ImageFile) else (image.shape[0], image.shape[1])


def is_grey(image: AnyImage) -> bool:
    """Whether it has one channel, transparency aside."""
    if isinstance(image, ChangedImage):
        return is_grey(image.source) and (image.partner is None or is_grey(image.partner))
    return image.grey if isinstance(image, ImageFile) else image.ndim == 2 or image.shape[2] == 1


def _opened(source: Path | bytes) -> Image:
    """The decoded image, turned as its EXIF says. Raises ValueError or OSError."""
    import numpy as np
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL talks about EXIF blocks and palettes that it can live with
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
                turned: Image.Image = ImageOps.exif_transpose(image)
                turned.load()
        except (OSError, ValueError, MemoryError):
            raise
        except Exception as error:  # a damaged image fails in every way that PIL's parsers know
            raise ValueError(str(error) or type(error).__name__) from error
    if turned.mode.startswith("I"):  # 16 bits, which PIL would cut at 255
        return Image.fromarray((np.asarray(turned).clip(0, 65535) // 257).astype(np.uint8))
    if turned.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    return turned


def _with_paths(table: Table, column: str | None, source: str, root: Path) -> tuple[str, NotedTable]:
    """The images' column, and the table with its cells as paths or bytes. Raises DataError."""
    found = find_column(column, IMAGE_NAMES, list(table[0]), source, "image")
    rows = []
    for number, row in enumerate(table, start=1):
        cell = row.get(found)
        if isinstance(cell, dict):  # Hugging Face's struct of an image
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str) and cell.strip():
            cell = root / cell
        if not isinstance(cell, Path | bytes):
            raise DataError(
                f"{source}, row {number}: the image column {found!r} holds {shown(cell)}",
                fix="remove rows without an image, or name another column with --image-column",
            )
        rows.append(row | {found: cell})
    return found, NotedTable(rows, getattr(table, "notes", ()))


def _checked(tables: Mapping[str, tuple[str, NotedTable]], source: str, store: Store) -> dict[str, NotedTable]:
    """The tables with an ImageFile in place of each path or bytes; what cannot be decoded is left out and counted."""
    cells = [row[column] for column, table in tables.values() for row in table]
    facts = iter(_facts(cells, store))
    checked = {}
    for split, (column, table) in tables.items():
        kept, broken = [], []
        for row in table:
            fact = next(facts)
            if "error" in fact:
                broken.append((row[column], fact["error"]))
            else:
                kept.append(row | {column: ImageFile(row[column], **fact)})
        noted = tuple(getattr(table, "notes", ()))
        checked[split] = NotedTable(kept, (*noted, *_notes(broken, len(table), source)))
    return checked


def _notes(broken: Sequence[tuple[Path | bytes, str]], total: int, source: str) -> tuple[str, ...]:
    if not broken:
        return ()
    cell, reason = broken[0]
    first = f"{cell if isinstance(cell, Path) else 'bytes in the table'}: {reason}"
    if len(broken) > MAX_BROKEN * total:
        raise DataError(
            f"{len(broken)} of {counted(total, 'image')} in {source} cannot be decoded (the first: {first})",
            fix=pointers.FIX
            if reason == pointers.REASON
            else "fetch or save them again; up to 5% are left out and counted",
        )
    name = cell.name if isinstance(cell, Path) else "bytes in the table"
    return (
        f"{len(broken)} of {counted(total, 'image')} left out that cannot be decoded (the first: {name}: {reason})",
    )


def _facts(cells: Sequence[Path | bytes], store: Store) -> list[dict[str, Any]]:
    """What decoding says of each image; kept in the store under the files' names, sizes and times."""
    key = {
        "images": [_stamp(cell) for cell in cells],
        "pixels": MOST_PIXELS,
        "facts": 2,
        "versions": versions("pillow"),
    }

    def produce(out: Path) -> None:
        with ThreadPoolExecutor(usable_cpus()) as pool:  # PIL decodes outside Python's lock
            facts = list(pool.map(_fact, cells))
        (out / "images.json").write_text(json.dumps(facts), encoding="utf-8")

    found: list[dict[str, Any]] = json.loads(
        (store.stage("images", key, produce) / "images.json").read_text(encoding="utf-8")
    )
    return found


def _stamp(cell: Path | bytes) -> tuple[str, ...]:
    """What tells an image from another without reading it; ctime and inode cannot be set back by whoever copies it."""
    if isinstance(cell, bytes):
        return (sha256(cell).hexdigest(),)
    try:
        state = cell.stat()
    except (OSError, ValueError):
        return (str(cell),)
    return str(cell.absolute()), *map(str, (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))


def _raw(file: Path) -> bytes:
    """The file's bytes. Raises ValueError for a pipe or a device, which would never end, and for too many; OSError."""
    size = file.stat().st_size
    if not is_plain(file) or size > MOST_IMAGE_BYTES:
        raise ValueError(f"it is no plain file of at most {MOST_IMAGE_BYTES >> 20} MiB")
    raw = file.read_bytes()
    if pointers.is_pointer(raw):
        raise ValueError(pointers.REASON)
    return raw


def _fact(cell: Path | bytes) -> dict[str, Any]:
    try:
        raw = cell if isinstance(cell, bytes) else _raw(cell)
        image = _opened(raw)
    except (OSError, ValueError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return {"error": reason.split(" <")[0] or type(error).__name__}
    grey = image.mode in ("1", "L", "LA", "La")
    return {
        "sha256": sha256(raw).hexdigest(),
        "height": image.height,
        "width": image.width,
        "grey": grey,
        "pixels": _pixels(image.convert("L" if grey else "RGB")),
    }


def _pixels(image: Image) -> str:
    """SHA-256 of decoded pixels, the same as that of an array with these values (see `Example.identity`)."""
    import numpy as np

    values = np.asarray(image)
    return sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()
