"""The training loop's batches: every row once an epoch, none of them alone, as many as the schedule counts on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgekd.core.protocols import Quiet
from edgekd.engine import _batches, fit, steps_of
from edgekd.plan import Training
from edgekd.students.convnet import Convnet


@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65, 66, 128, 129, 1024, 1025, 1026, 2049])
def test_no_row_is_left_alone(rows: int, size: int) -> None:
    samples = [{"past_values": np.zeros((1, 8, 1), np.float32)}] * rows
    batches = _batches(samples, size, random.Random(0))
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    assert min(map(len, batches)) >= min(2, size, rows)
    assert max(map(len, batches)) <= size + 1
    assert steps_of(rows, Training(epochs=3, batch_size=size, learning_rate=0.1)) == 3 * len(batches)


def test_a_network_that_ends_at_one_pixel_trains_on_65_rows() -> None:
    import torch

    shape = Convnet(8, 1, 2, width=0.25, depth=0.25, stages=5)
    assert shape.top.out_side == 1
    draw = np.random.default_rng(0)
    seen: list[int] = []

    class Watched(Quiet):
        def step(self, done: int, note: str = "") -> None:
            seen.append(done)

    training = Training(epochs=2, batch_size=64, learning_rate=1e-3)
    fit(
        shape.random(), [shape.sample(8, draw) for _ in range(65)],
        lambda outputs, rows: torch.nn.functional.cross_entropy(outputs.logits, torch.tensor(rows) % 2),
        training, seed=0, progress=Watched(),
    )  # fmt: skip
    assert seen == [1, 2]
    assert steps_of(65, training) == 2
