"""Images in every form that we read, and in every form in which they break."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data import images
from edgekd.data.images import ImageFile, decode, is_grey, read_images, sides
from edgekd.data.splits import Example
from edgekd.store.store import Store
from tests.conftest import write_csv


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def picture(seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def saved(path: Path, seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **options).save(path)  # type: ignore[arg-type]
    return path


def labels(table: list[dict]) -> list[str | None]:
    return [row["label"] for row in table]


def test_folder_per_class(tmp_path: Path, store: Store) -> None:
    for number, name in enumerate(("cat", "cat", "dog")):
        saved(tmp_path / "data" / name / f"{number}.png", number)
    (tmp_path / "data" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "data" / ".hidden").mkdir()
    tables = read_images(str(tmp_path / "data"), store=store)
    assert list(tables) == ["all"]
    assert labels(tables["all"]) == ["cat", "cat", "dog"]
    first = tables["all"][0]["image"]
    assert isinstance(first, ImageFile)
    assert (sides(first), is_grey(first), len(first.sha256)) == ((10, 12), False, 64)
    np.testing.assert_array_equal(decode(first, 3), np.asarray(picture(0)))
    assert tables["all"].notes == ()


def test_splits_with_a_folder_per_class_and_a_flat_one(tmp_path: Path, store: Store) -> None:
    for number, name in enumerate(("train/cat", "train/dog", "val/cat", "test/dog", "unlabelled")):
        saved(tmp_path / "data" / name / "1.jpeg", number)
    tables = read_images(str(tmp_path / "data"), store=store)
    assert {split: labels(table) for split, table in tables.items()} == {
        "train": ["cat", "dog"],
        "validation": ["cat"],
        "test": ["dog"],
        "unlabelled": [None],
    }


def test_flat_folder_has_no_labels(tmp_path: Path, store: Store) -> None:
    saved(tmp_path / "data" / "1.png")
    assert labels(read_images(str(tmp_path / "data"), store=store)["all"]) == [None]


def test_table_with_paths(tmp_path: Path, store: Store) -> None:
    for number in range(3):
        saved(tmp_path / "pictures" / f"{number}.png", number)
    table = write_csv(tmp_path / "rows.csv", [(f"pictures/{n}.png", "ab"[n % 2]) for n in range(3)], ("path", "label"))
    rows = read_images(str(table), store=store)["all"]
    assert labels(rows) == ["a", "b", "a"]
    assert sides(rows[2]["path"]) == (10, 12)
    other = write_csv(tmp_path / "other.csv", [("pictures/0.png", "a")], ("shot", "label"))
    assert len(read_images(str(other), column="shot", store=store)["all"]) == 1
    with pytest.raises(DataError, match="has no image column by a usual name; its columns are 'shot', 'label'"):
        read_images(str(other), store=store)
    gaps = write_csv(tmp_path / "gaps.csv", [("pictures/0.png", "a"), ("", "b")], ("path", "label"))
    with pytest.raises(DataError, match="row 2: the image column 'path' holds ''") as caught:
        read_images(str(gaps), store=store)
    assert caught.value.fix == "remove rows without an image, or name another column with --image-column"


def test_parquet_and_saved_datasets_hold_images(tmp_path: Path, store: Store) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [{"image": {"bytes": encoded(picture(n)), "path": None}, "label": "ab"[n % 2]} for n in range(4)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = read_images(str(tmp_path / "rows.parquet"), store=store)["all"]
    assert labels(read) == ["a", "b", "a", "b"]
    np.testing.assert_array_equal(decode(read[1]["image"], 3), np.asarray(picture(1)))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    made = datasets.Dataset.from_list([row | {"label": n % 2} for n, row in enumerate(rows)], features=features)
    made.save_to_disk(tmp_path / "saved")
    read = read_images(str(tmp_path / "saved"), store=store)["all"]
    assert labels(read) == ["x", "y", "x", "y"]
    np.testing.assert_array_equal(decode(read[3]["image"], 3), np.asarray(picture(3)))


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path: Path, suffix: str) -> None:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    for part, count in (("train", 3), ("t10k", 2)):
        for name, values in (("images-idx3", pixels[:count]), ("labels-idx1", np.array([7, 0, 1], np.uint8)[:count])):
            raw = idx(values)
            (tmp_path / f"{part}-{name}-ubyte{suffix}").write_bytes(gzip.compress(raw) if suffix else raw)
    tables = read_images(str(tmp_path))
    assert {split: labels(table) for split, table in tables.items()} == {"train": ["7", "0", "1"], "test": ["7", "0"]}
    np.testing.assert_array_equal(tables["train"][1]["image"], pixels[1])
    file = tmp_path / f"train-images-idx3-ubyte{suffix}"
    short = idx(pixels)[:-1]
    file.write_bytes(gzip.compress(short) if suffix else short)
    with pytest.raises(DataError, match="is no IDX file: its header declares 60 bytes, it holds 59"):
        read_images(str(tmp_path))
    bomb = struct.pack(">4I", 0x803, 2**20, 2**10, 2**10)
    file.write_bytes(gzip.compress(bomb) if suffix else bomb)
    with pytest.raises(DataError, match="is no IDX file: its header is 0x803"):
        read_images(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((4, 6, 5), 200, np.uint8), (6, 5)),
        (np.full((4, 6, 5, 3), 200, np.uint8), (6, 5, 3)),
        (np.full((4, 3, 6, 5), 200, np.int64), (6, 5, 3)),
        (np.full((4, 6, 5, 1), 200 / 255), (6, 5, 1)),
        (np.full((4, 6, 5), 200.0, np.float32), (6, 5)),
    ],
)
def test_numpy_archive(tmp_path: Path, values: np.ndarray, expected: tuple[int, ...]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x_train=values, y_train=np.array([[3], [1], [1], [2]]), x_test=values[:1], y_test=[2])
    tables = read_images(str(path))
    assert labels(tables["train"]) == ["3", "1", "1", "2"]
    assert labels(tables["test"]) == ["2"]
    image = tables["train"][0]["image"]
    assert (image.dtype, image.shape, int(image.max())) == (np.uint8, expected, 200)
    np.savez(path, X=values, y=np.array(["cat", "dog", "dog", "eel"]))
    assert labels(read_images(str(path))["all"]) == ["cat", "dog", "dog", "eel"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "holds the arrays a, none of which we know"),
        ({"x": np.zeros((3, 4)), "y": np.zeros(3)}, r"images of the shape \(3, 4\)"),
        ({"x": np.zeros((3, 4, 4)), "y": np.zeros(2)}, r"3 images and labels of the shape \(2, 1\)"),
        ({"x": np.zeros((3, 4, 4)), "y": np.eye(3)}, r"3 images and labels of the shape \(3, 3\)"),
        ({"x": np.full((3, 4, 4), -1.0), "y": np.zeros(3)}, "pixels from -1 to -1"),
        ({"x": np.full((3, 4, 4), np.nan), "y": np.zeros(3)}, "pixels from nan to nan"),
        ({"x": np.full((3, 4, 4), "a"), "y": np.zeros(3)}, "pixels of the type <U1"),
        ({"x": np.zeros((3, 4, 4)), "y": np.array(["a", None, "b"], object)}, "holds Python objects"),
    ],
)
def test_numpy_archive_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_images(str(tmp_path / "data.npz"))


def test_numpy_archive_that_declares_too_much_is_never_read(tmp_path: Path) -> None:
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DataError, match=r"the array x\.npy declares 1,000,000,000,000 bytes"):
        read_images(str(tmp_path / "data.npz"))
    (tmp_path / "broken.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match=r"cannot read .*broken.npz: File is not a zip file"):
        read_images(str(tmp_path / "broken.npz"))


def test_broken_files_are_left_out_and_counted(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        saved(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
    broken = tmp_path / "data" / "a" / "cut.png"
    broken.write_bytes(encoded(picture())[:-40])
    table = read_images(str(tmp_path / "data"), store=store)["all"]
    assert len(table) == 60
    (note,) = table.notes
    assert note.startswith("1 of 61 images left out that cannot be decoded (the first: cut.png: ")
    monkeypatch.setattr(images, "_opened", None)  # a second reading decodes nothing
    assert read_images(str(tmp_path / "data"), store=store)["all"] == table
    for number in range(3):
        (tmp_path / "data" / "b" / f"bad{number}.jpg").write_bytes(b"GIF89a, or so it says")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"4 of 64 images in .* cannot be decoded") as caught:
        read_images(str(tmp_path / "data"), store=store)
    assert caught.value.fix == "fetch or save them again; up to 5% are left out and counted"


def test_paths_that_lead_nowhere_are_broken_images(tmp_path: Path, store: Store) -> None:
    saved(tmp_path / "0.png")
    rows = [("0.png", "a")] * 30 + [("gone.png", "b")]
    table = read_images(str(write_csv(tmp_path / "rows.csv", rows, ("path", "label"))), store=store)["all"]
    assert len(table) == 30
    assert table.notes[0].endswith("(the first: gone.png: No such file or directory)")


def test_folder_without_images(tmp_path: Path, store: Store) -> None:
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_images(str(tmp_path), store=store)


def test_a_bomb_is_a_broken_image(tmp_path: Path, store: Store) -> None:
    """Few bytes that declare 60,000 x 60,000 pixels, and some that declare just over the limit."""
    for number in range(60):
        saved(tmp_path / "data" / f"{number}.png", number)
    for name, side in (("huge.png", 60_000), ("large.png", 7_100)):
        raw = bytearray(encoded(picture()))
        raw[16:24] = struct.pack(">2I", side, side)
        import zlib

        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
        (tmp_path / "data" / name).write_bytes(raw)
    table = read_images(str(tmp_path / "data"), store=store)["all"]
    assert len(table) == 60
    assert "2 of 62 images left out" in table.notes[0]
    assert "exceeds limit" in table.notes[0]
    (tmp_path / "data" / "huge.png").unlink()
    noted = read_images(str(tmp_path / "data"), store=store)["all"].notes[0]
    assert "large.png: 7100 x 7100 pixels are more than 50,000,000" in noted


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, store: Store, channels: int) -> None:
    colour = picture(1)
    sixteen = Image.fromarray(np.asarray(picture(1, mode="L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    files = {
        "rgb": encoded(colour),
        "rgba": encoded(picture(1, mode="RGBA")),
        "grey": encoded(picture(1, mode="L")),
        "grey_alpha": encoded(picture(1, mode="LA")),
        "palette": encoded(colour.quantize(16)),
        "sixteen": encoded(sixteen),
        "bit": encoded(picture(1, mode="L").convert("1")),
        "cmyk": encoded(colour.convert("CMYK"), "JPEG"),
        "turned": encoded(colour, "JPEG", exif=turned, quality=95),
    }
    for name, raw in files.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.png").write_bytes(raw)  # what it is, its bytes say
    rows = read_images(str(tmp_path / "data"), store=store)["all"]
    found = {row["image"].source.stem: row["image"] for row in rows}
    shapes = {name: decode(image, channels).shape for name, image in found.items()}
    assert shapes.pop("turned") == (12, 10, channels) == (*sides(found["turned"]), channels)
    assert set(shapes.values()) == {(10, 12, channels)}
    assert {name for name, image in found.items() if is_grey(image)} == {"grey", "grey_alpha", "sixteen", "bit"}
    grey = np.asarray(picture(1, mode="L"))
    for name in ("grey", "sixteen"):
        np.testing.assert_array_equal(decode(found[name], channels)[..., 0], grey)
    if channels == 3:  # transparency is dropped, as the ecosystem's loaders drop it
        np.testing.assert_array_equal(decode(found["rgba"], 3), np.asarray(picture(1, mode="RGBA"))[..., :3])


def test_arrays_become_grey_or_colour() -> None:
    colour = np.asarray(picture(2))
    np.testing.assert_array_equal(decode(colour, 3), colour)
    grey = decode(colour, 1)
    assert grey.shape == (10, 12, 1)
    assert np.abs(grey[..., 0].astype(int) - np.asarray(picture(2).convert("L"))).max() <= 1
    np.testing.assert_array_equal(decode(colour[..., 0], 3)[..., 2], colour[..., 0])
    np.testing.assert_array_equal(
        decode(np.asarray(picture(2, mode="RGBA")), 3), np.asarray(picture(2, mode="RGBA"))[..., :3]
    )


def test_demo_is_a_fixed_part_of_fashion_mnist(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.core.errors import UsageError
    from edgekd.data import demos

    monkeypatch.setattr(demos.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(demos, "FASHION_ROWS", {"train": 12, "test": 5})
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        with pytest.raises(UsageError, match="package dataset-fashion-mnist") as caught:
            demos.demo_data("image-classification", store)
        assert caught.value.fix.startswith("run `make demo-image`")
    folder = tmp_path / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        classes = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(classes)))
    tables = read_images(demos.demo_data("image-classification", store), store=store)
    assert {split: len(table) for split, table in tables.items()} == {"train": 12, "test": 5}
    assert set(labels(tables["train"])) < {
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    }
    hashes = [row["image"].tobytes() for row in tables["train"]]
    assert len(set(hashes)) == 12


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_same_picture_saved_twice_is_one_row(mode, tmp_path, store):
    values = np.random.default_rng(0).integers(0, 256, (9, 12, 3)[: 2 if mode == "L" else 3], dtype=np.uint8)
    for name in ("a.png", "b.bmp", "c.tiff"):  # none of them loses anything
        Image.fromarray(values).save(tmp_path / name)
    table = read_images(str(tmp_path), store=store)["all"]
    assert len({row["image"].sha256 for row in table}) == 3
    assert {Example(row["image"]).content for row in table} == {Example(values).content}
