"""Image teachers from Hugging Face folders: every model type that we say we take is inspected, loaded and exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig

from edgekd.core.errors import TeacherError, UsageError
from edgekd.core.registry import make
from edgekd.exporters.optimum import Optimum
from edgekd.hardware.profile import load_profile
from edgekd.students.convnet import Convnet
from edgekd.students.mlp import IMAGE, Mlp
from edgekd.teachers._types import IMAGE_TYPES
from edgekd.teachers.huggingface import Huggingface
from edgekd.training import models

TASK = "image-classification"
ATTENTION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2]}
SMALL = {  # what makes a model of the type small, and the layers and width that we then read
    "beit": (ATTENTION, 2, 32),
    "convnext": (STAGES | {"num_stages": 2}, 3, 16),
    "convnextv2": (STAGES | {"num_stages": 2}, 3, 16),
    "deit": (ATTENTION, 2, 32),
    "efficientnet": (
        {
            "width_coefficient": 0.25,
            "depth_coefficient": 1.0,
            "hidden_dim": 320,
            "kernel_sizes": [3, 3],
            "in_channels": [32, 16],
            "out_channels": [16, 320],
            "strides": [1, 2],
            "num_block_repeats": [1, 2],
            "expand_ratios": [1, 2],
            "depthwise_padding": [],
        },
        3,
        320,
    ),
    "mobilenet_v1": ({"depth_multiplier": 0.25, "image_size": 32}, 13, 1024),
    "mobilenet_v2": ({"depth_multiplier": 0.25, "image_size": 32}, 17, 1280),
    "poolformer": (
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 16], "mlp_ratio": 2},
        4,
        16,
    ),
    "regnet": (STAGES | {"embedding_size": 8, "groups_width": 8}, 3, 16),
    "resnet": (STAGES | {"embedding_size": 8}, 3, 16),
    "swin": (
        {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "patch_size": 2, "image_size": 32},
        3,
        16,
    ),
    "vit": (ATTENTION, 2, 32),
}
TAPS = {
    "beit": 2,
    "convnext": 2,
    "convnextv2": 2,
    "deit": 2,
    "efficientnet": 3,
    "mobilenet_v1": 25,
    "mobilenet_v2": 15,
    "poolformer": 3,
    "regnet": 2,
    "resnet": 2,
    "swin": 2,
    "vit": 2,
}
PROCESSOR = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
LABELS = ("cat", "dog", "eel")


def teacher_of(model_type: str, folder: Path, **values: object):
    """A small random classifier of this type, saved as a user's folder would be."""
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    config = AutoConfig.for_model(
        model_type,
        num_labels=3,
        id2label=names,
        label2id={name: n for n, name in names.items()},
        **SMALL[model_type][0] | values,
    )
    kind = transformers.AutoModelForImageClassification._model_mapping[type(config)]
    model = (kind[0] if isinstance(kind, tuple) else kind)(config).eval()
    model.save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", IMAGE_TYPES)
def test_every_type(model_type: str, tmp_path: Path) -> None:
    original = teacher_of(model_type, tmp_path)
    found = Huggingface().inspect(str(tmp_path), TASK)
    assert found["ready"]
    assert found["labels"] == LABELS
    _, layers, hidden = SMALL[model_type]
    assert found["architecture"] == {
        "model_type": model_type,
        "layers": layers,
        "hidden": hidden,
        "max_size": 32,
        "channels": 3,
        "taps": TAPS[model_type],
    }
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(2)]
    (first, second) = make("tasks", TASK).encode(tmp_path, images, 32)
    batch = {"pixel_values": torch.from_numpy(np.concatenate([first["pixel_values"], second["pixel_values"]]))}
    loaded = models.load(tmp_path, TASK)
    with torch.no_grad():
        expected = original(**batch).logits
        torch.testing.assert_close(loaded(**batch).logits, expected)
    file = Optimum().export(loaded, tmp_path / "onnx", task=TASK, target=load_profile("rpi4")).file
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    (given,) = session.get_inputs()
    assert given.name == "pixel_values"
    (logits,) = session.run(["logits"], {"pixel_values": batch["pixel_values"].numpy()})
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("model_type", ["vit", "resnet", "mobilenet_v2"])
def test_base_gets_a_fresh_head(model_type: str, tmp_path: Path) -> None:
    original = teacher_of(model_type, tmp_path / "teacher")
    found = Huggingface().inspect(str(tmp_path / "teacher"), TASK)
    model = Huggingface().base(tmp_path / "teacher", found["architecture"], TASK, ["a", "b", "c", "d"])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    fresh, old = model.state_dict(), original.state_dict()
    changed = {name for name in fresh if not torch.equal(fresh[name], old[name])}
    assert {name.split(".")[0] for name in changed} == {"classifier"}
    out = tmp_path / "out"
    out.mkdir()
    Huggingface().files(tmp_path / "teacher", found["architecture"], TASK, out)
    shipped, own = (json.loads((one / "preprocessor_config.json").read_text()) for one in (out, tmp_path / "teacher"))
    assert shipped == {key: own[key] for key in shipped}
    assert {key for key in own.keys() - shipped.keys() if own[key] is not None} <= {"data_format"}


def test_a_student_of_ours_can_teach(tmp_path: Path) -> None:
    shape = Convnet(32, 3, 3, width=0.25, depth=0.25, stages=3)
    network = shape.random()
    network.name_classes(LABELS)
    network.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    found = Huggingface().inspect(str(tmp_path), TASK)
    assert found["ready"]
    assert found["labels"] == LABELS
    assert found["architecture"] == {"family": "convnet", "shape": shape.as_dict()}
    assert Huggingface().base(tmp_path, found["architecture"], TASK, LABELS).shape == shape  # what its cost is taken of


def test_a_student_of_ours_teaches_its_own_task_alone(tmp_path: Path) -> None:
    network = Mlp(8, 1, 32, 3, 3, IMAGE).random()
    network.name_classes(LABELS)
    network.save_pretrained(tmp_path)
    for task in ("time-series-classification", "text-classification"):  # an mlp serves series, this one images
        with pytest.raises(
            TeacherError, match=f"is one of our own mlp models, which was not trained for {task}"
        ) as caught:
            Huggingface().inspect(str(tmp_path), task)
        assert caught.value.fix == "name the --task that it was trained for, or give another --teacher"
    PROCESSOR.save_pretrained(tmp_path)
    found = Huggingface().inspect(str(tmp_path), TASK)
    images = [np.zeros((48, 48, 3), np.uint8)]
    assert make("tasks", TASK).survey(found, images, {}, None).max_size == 32
    with pytest.raises(UsageError, match="--image-size 40 is more than the teacher's own 32 pixels"):
        make("tasks", TASK).survey(found, images, {"pixels": 40}, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 10**8}, "did not write: a depth of 100000000"),
        ({"width": 10**9}, "is not that of the weights beside it: its width would be 1000000000"),
        ({"width": 900}, "its weights would be 2"),
        ({"depth": 500}, "its weights would be"),
    ],
)
def test_a_student_of_ours_is_as_large_as_its_weights(tmp_path: Path, changes: dict[str, int], words: str) -> None:
    """It is made at random before they are loaded: a config that asks for more would take all memory."""
    network = Mlp(8, 1, 32, 3, 3, IMAGE).random()
    network.name_classes(LABELS)
    network.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["edgekd"]["shape"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(TeacherError, match=words):
        Huggingface().inspect(str(tmp_path), TASK)


def test_transformers_has_no_teacher_of_series(tmp_path: Path) -> None:
    teacher_of("vit", tmp_path)
    with pytest.raises(
        TeacherError, match="is a 'vit' model; transformers has none for time-series-classification"
    ) as caught:
        Huggingface().inspect(str(tmp_path), "time-series-classification")
    assert caught.value.fix == "give --teacher labels, or a folder that edgekd wrote"


def test_folders_that_cannot_teach(tmp_path: Path) -> None:
    teacher_of("vit", tmp_path)
    with pytest.raises(TeacherError, match="is a 'vit' model; no student can be copied from that"):
        Huggingface().inspect(str(tmp_path), "text-classification")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(TeacherError, match=r"has no preprocessing \(preprocessor_config.json\)") as caught:
        Huggingface().inspect(str(tmp_path), TASK)
    assert "AutoImageProcessor.from_pretrained(...).save_pretrained(folder)" in caught.value.fix
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match=r"takes images of 32 pixels; its preprocessor_config.json makes 48"):
        Huggingface().inspect(str(tmp_path), TASK)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(TeacherError, match="is a 'bert' model; it does not classify images") as caught:
        Huggingface().inspect(str(tmp_path), TASK)
    assert caught.value.fix.startswith("give a teacher of one of these types: beit, convnext")
