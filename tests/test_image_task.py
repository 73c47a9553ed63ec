"""The image task: what a student is asked, and that its inputs are those that the ecosystem's processors give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from edgekd.core.errors import EdgeKDError, TeacherError, UsageError
from edgekd.core.predictions import stacked
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import make
from edgekd.data import pixels
from edgekd.data.splits import Example
from edgekd.store.store import Store
from edgekd.students.convnet import Convnet

TASK = make("tasks", "image-classification")
LITE = {"architecture": {"family": "convnet", "shape": Convnet(224, 3, 1000).as_dict()}}
FRESH = {"architecture": {"family": "convnet"}}  # a teacher to be trained from the labels
VIT = {"architecture": {"model_type": "vit", "layers": 2, "hidden": 32, "max_size": 96, "channels": 3}}
GREY_VIT = {"architecture": VIT["architecture"] | {"channels": 1}}


def pictures(count: int, height: int = 40, width: int = 52, channels: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(
    ("teacher", "side", "channels", "asked", "expected"),
    [
        (LITE, 28, 1, {}, (64, 3)),  # enlarged for a teacher that knows large images
        (LITE, 100, 3, {}, (128, 3)),
        (LITE, 500, 3, {}, (224, 3)),
        (LITE, 28, 1, {"pixels": 48}, (48, 3)),
        (VIT, 500, 3, {}, (96, 3)),
        (GREY_VIT, 500, 1, {}, (96, 1)),
        (GREY_VIT, 50, 3, {}, (64, 1)),
        (FRESH, 28, 1, {}, (28, 1)),  # nothing knows another size
        (FRESH, 28, 3, {}, (28, 3)),
        (FRESH, 500, 3, {}, (224, 3)),
        (FRESH, 500, 3, {"pixels": 256}, (256, 3)),
    ],
)
def test_survey(tmp_path: Path, teacher: dict, side: int, channels: int, asked: dict, expected: tuple) -> None:
    inputs = pictures(3, side, side - 5, channels)
    survey = TASK.survey(teacher, inputs, asked, Store(tmp_path))
    assert (survey.max_size, survey.channels) == expected
    assert survey.sizes == (survey.max_size,)


def test_survey_keeps_to_the_teachers_size(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--image-size 128 is more than the teacher's own 96 pixels") as caught:
        TASK.survey(VIT, pictures(1), {"pixels": 128}, Store(tmp_path))
    assert caught.value.fix == "give a number from 8 to 96"


PROCESSORS = {
    "vit": transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], resample=3
    ),
    "deit": transformers.DeiTImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}, resample=2
    ),
    "convnext": transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
    "mobilenet_v2": transformers.MobileNetV2ImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    ),
    "efficientnet": transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, rescale_offset=True),
    "poolformer": transformers.PoolFormerImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_teachers_inputs_are_its_processors(tmp_path: Path, name: str) -> None:
    PROCESSORS[name].save_pretrained(tmp_path)
    assert pixels.side_of(pixels.read_config(tmp_path), tmp_path) == 32
    inputs = [*pictures(2), *pictures(1, 60, 33, 1)]
    encoded = TASK.encode(tmp_path, inputs, 999)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    for sample, image in zip(encoded, inputs, strict=True):
        expected = processor(Image.fromarray(image).convert("RGB"), return_tensors="np")["pixel_values"]
        assert sample["pixel_values"].shape == (1, 3, 32, 32)
        assert sample["pixel_values"].dtype == np.float32
        np.testing.assert_allclose(sample["pixel_values"], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_students_inputs_are_the_ecosystems(tmp_path: Path, channels: int) -> None:
    shape = Convnet(48, channels, 5)
    assert TASK.student_files(Path(), [], InputSpec(48, (48,), channels), shape, tmp_path) is None
    config = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert config["image_processor_type"] == "ViTImageProcessor"
    assert config["size"] == {"height": 48, "width": 48}
    assert config["image_mean"] == config["image_std"] == [0.5] * channels
    assert config["do_convert_rgb"] == (channels == 3)
    images = pictures(2)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    for sample, image in zip(TASK.encode(tmp_path, images, 48), images, strict=True):
        picture = Image.fromarray(image)
        given = np.asarray(picture.convert("L"))[..., None] if channels == 1 else picture
        expected = processor(given, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        np.testing.assert_allclose(sample["pixel_values"], expected, atol=0.02 if channels == 1 else 1e-6)


def test_student_is_normalized_as_its_teacher(tmp_path: Path) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    student.mkdir()
    PROCESSORS["vit"].save_pretrained(teacher)
    TASK.student_files(teacher, [], InputSpec(24, (24,), 3), Convnet(24, 3, 5), student)
    config = pixels.read_config(student)
    assert (config["image_mean"], config["image_std"], config["resample"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], 3)
    assert config["size"] == {"height": 24, "width": 24}


def test_encoded_images_are_a_lazy_sequence(tmp_path: Path) -> None:
    pixels.write_config(tmp_path, 16, mean=[0.5] * 3, std=[0.5] * 3)
    encoded = TASK.encode(tmp_path, iter(pictures(5)), 16)
    assert (len(encoded), encoded.images.shape, encoded.images.dtype) == (5, (5, 3, 16, 16), np.uint8)
    np.testing.assert_array_equal(encoded[-1]["pixel_values"], encoded[4]["pixel_values"])
    part = encoded[1::2]
    assert len(part) == 2
    np.testing.assert_array_equal(part[1]["pixel_values"], encoded[3]["pixel_values"])
    assert np.shares_memory(part.images, encoded.images)
    assert len(list(encoded)) == 5
    with pytest.raises(IndexError):
        encoded[5]
    assert len(TASK.encode(tmp_path, [], 16)) == 0


def test_many_images_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels.write_config(tmp_path, 16, mean=[0.5] * 3, std=[0.5] * 3)
    plain = TASK.encode(tmp_path, pictures(3), 16)
    monkeypatch.setattr(pixels, "_IN_MEMORY", 100)
    mapped = TASK.encode(tmp_path, pictures(3), 16)
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped[2]["pixel_values"], plain[2]["pixel_values"])


def test_processor_that_gives_no_square_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"has no usable preprocessor_config.json: how the model wants its images"):
        TASK.encode(tmp_path, pictures(1), 16)
    transformers.ViTImageProcessor(size={"height": 16, "width": 24}).save_pretrained(tmp_path)
    with pytest.raises(
        TeacherError, match=r"preprocessor_config.json names no square: it says .*'height': 16"
    ) as caught:
        pixels.side_of(pixels.read_config(tmp_path), tmp_path)
    assert caught.value.fix == 'give it one side: "size": {"height": 224, "width": 224}'
    transformers.ViTImageProcessor(do_resize=False).save_pretrained(tmp_path)
    with pytest.raises(EdgeKDError, match=r"gives images of different sizes: \(60, 33\), \(40, 52\)"):
        TASK.encode(tmp_path, [*pictures(1), *pictures(1, 60, 33)], 16)


def test_baseline_learns_what_is_linear() -> None:
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        image = random.integers(0, 100, (20, 20), dtype=np.uint8)
        image[:, : 10 if number % 2 else 20] += 80
        rows.append(Example(image, "half" if number % 2 else "whole"))
    said = TASK.baseline(rows[:40], rows[40:], seed=0)
    assert said.tolist() == [1.0] * 20


def test_golden_images_are_made_up_and_within_range(tmp_path: Path) -> None:
    pixels.write_config(tmp_path, 18, mean=[0.5] * 3, std=[0.5] * 3)
    samples = TASK.encode(tmp_path, pictures(2), 18)
    made = TASK.synthetic(samples, 4, seed=1)
    again = TASK.synthetic(samples, 4, seed=1)
    assert len(made) == 4
    for one, same in zip(made, again, strict=True):
        values = one["pixel_values"]
        assert (values.shape, values.dtype) == ((1, 3, 18, 18), np.float32)
        assert -1 <= values.min() < values.max() <= 1
        np.testing.assert_array_equal(values, same["pixel_values"])
    np.testing.assert_array_equal(TASK.sized(samples, 7)["pixel_values"], samples[0]["pixel_values"])


def test_rows_become_examples() -> None:
    table = [{"image": image, "label": label} for image, label in zip(pictures(3), ("cat", None, " "), strict=True)]
    columns = TASK.columns(table, "here")
    assert columns == ("image", "label")
    assert [row.label for row in TASK.examples(table, columns, "here")] == ["cat", None, None]
    assert [row.label for row in TASK.examples(table, columns, "here", labelled=False)] == [None] * 3
    assert list(TASK.statistics(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))) == [1.0, 0.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_optimum_opens_a_students_folder(tmp_path: Path, channels: int) -> None:
    """The folder as a bundle has it, fed with ordinary images, gives the logits of our own inputs."""
    from edgekd.exporters.optimum import Optimum
    from edgekd.exporters.torchscript import Torchscript
    from edgekd.hardware.profile import load_profile

    network = Convnet(24, channels, 3, width=0.25, depth=0.25, stages=2).random()
    network.name_classes(["a", "b", "c"])
    network.save_pretrained(tmp_path)
    TASK.student_files(Path(), [], InputSpec(24, (24,), channels), network.shape, tmp_path)
    Torchscript().export(network, tmp_path / "onnx", task="image-classification", target=load_profile("rpi4"))
    images = pictures(3, 30, 33, channels)
    loader, said = Optimum().open(tmp_path, "model.onnx", TASK.ordinary(tmp_path, images), task="image-classification")
    assert loader == "ORTModelForImageClassification"
    with torch.no_grad():
        expected = network(**batch_of(TASK.encode(tmp_path, images, 24))).logits
    np.testing.assert_allclose(stacked(said, "logits"), expected.numpy(), atol=1e-4)


def batch_of(samples: pixels.Pixels) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.from_numpy(np.concatenate([sample["pixel_values"] for sample in samples]))}
