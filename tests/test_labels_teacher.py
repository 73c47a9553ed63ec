"""The teacher that is trained from the labels: its shape comes from the data, its weights from the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.core.protocols import InputSpec, NullProgress
from edgekd.core.registry import make, plugin
from edgekd.core.tensors import Targets
from edgekd.data.splits import Example
from edgekd.plan.plan import LossTerm, Training
from edgekd.teachers.labels import Labels
from edgekd.training.learner import Learner

SERIES = "time-series-classification"
SURVEY = InputSpec(96, (96,), channels=2)


def test_inspected_before_the_data_are_read() -> None:
    assert Labels().inspect("labels", SERIES) | {"sha256": ""} == {
        "folder": "",
        "ready": False,
        "architecture": {"family": "conv1d"},
        "labels": None,
        "sha256": "",
        "licence": "trained here from the labels",
    }


def test_text_has_no_such_teacher() -> None:
    with pytest.raises(UsageError) as caught:
        Labels().inspect("labels", "text-classification")
    assert "text-classification has no teacher that labels alone can train" in str(caught.value)
    assert "fix: leave --teacher out for the default, or give a pre-trained model's folder" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        Labels().inspect("labels", "multi-label-text-classification")  # which has no default
    assert "fix: give a pre-trained model's folder or hub id" in str(caught.value)
    with pytest.raises(UsageError, match="no teacher that labels alone"):
        Labels().inspect("labels", "feature-extraction")


@pytest.mark.parametrize("task", [SERIES, "image-classification"])
def test_shape_follows_the_data(task: str, tmp_path: Path) -> None:
    survey = SURVEY if task == SERIES else InputSpec(32, (32,), channels=3)
    family = plugin("tasks", task).families[0]
    found = Labels().shaped({"architecture": {"family": family}}, task, survey, classes=3)
    shape = make("students", family, **found["architecture"]["shape"])
    assert (shape.max_size, shape.channels, shape.classes) == (survey.max_size, survey.channels, 3)
    assert found["sha256"] != Labels().shaped({"architecture": {"family": family}}, task, survey, classes=4)["sha256"]
    model = Labels().base(tmp_path, found["architecture"], task, ("a", "b", "c"))
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    Labels().files(tmp_path, found["architecture"], task, tmp_path)
    written = [file.name for file in tmp_path.iterdir()]
    assert written == ([] if task == SERIES else ["preprocessor_config.json"])


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    architecture = Labels().shaped({"architecture": {"family": "conv1d"}}, SERIES, SURVEY, classes=2)["architecture"]
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(Labels().base(tmp_path, architecture, SERIES, "ab").head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("rows", "epochs"), [(50, 60), (360, 33), (100_000, 8)])
def test_few_labels_get_many_epochs(rows: int, epochs: int) -> None:
    assert Training(**Labels().training(rows)).epochs == epochs


def test_it_learns_and_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Two kinds of waves around 1,000, which the standardisation inside the graph takes care of."""
    from edgekd.training import engine, models

    random = np.random.default_rng(0)
    time = np.linspace(0, 1, 48)
    speeds = np.arange(96) % 2 * 4 + 2
    waves = np.sin(2 * np.pi * (speeds[:, None] * time + random.random((96, 1))))
    rows = [Example((1000 + 50 * wave)[:, None].astype(np.float32)) for wave in waves]
    samples = make("tasks", SERIES).encode(tmp_path, [row.input for row in rows], 48)
    truth = torch.from_numpy(speeds // 6)
    architecture = Labels().shaped({"architecture": {"family": "conv1d"}}, SERIES, InputSpec(48, (48,)), classes=2)[
        "architecture"
    ]
    architecture["shape"] |= {"width": 16, "depth": 2}
    engine.prepare(0, 1)
    model = Labels().base(tmp_path, architecture, SERIES, ("slow", "fast"))
    for module in model.modules():
        if hasattr(module, "fit_inputs"):
            module.fit_inputs(samples)
    training = Training(**Labels().training(96) | {"epochs": 6})
    engine.fit(
        Learner(model, (LossTerm("hard_labels", 1.0),), lambda rows: Targets(None, truth[rows])),
        samples,
        training,
        seed=0,
        progress=NullProgress(),
    )
    said = engine.logits(model, samples)
    assert (said.argmax(dim=1) == truth).float().mean() > 0.95
    model.save_pretrained(tmp_path)
    again = models.load(tmp_path, SERIES)
    assert again.config.id2label == {0: "slow", 1: "fast"}
    assert torch.equal(engine.logits(again, samples), said)
