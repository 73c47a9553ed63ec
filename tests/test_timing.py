"""Speeds of what may ship and of a graph's forms: processes are the samples, by one shared function."""

import numpy as np
import pytest

from edgekd.compression import timing
from edgekd.compression.choose import PROCESSES
from edgekd.core.benchmark import AGAIN
from edgekd.core.model import Model
from edgekd.inference.benchmark import hearing

SAMPLES = [{"x": np.zeros((1, 2), np.float32)} for _ in range(4)]


class Device:
    """Each process has a layout of its own, which moves the second model; its rows all agree."""

    def __init__(self, layouts):
        self.layouts, self.jobs = layouts, []

    def run(self, mode, **job):
        factor = self.layouts[len(self.jobs)]
        self.jobs.append(job)
        rows = np.array([1.0, 2.0, 4.0, 8.0])
        ms = {"first": rows, "second": rows / factor, "aa": rows}
        return {
            "latency_ms": {name: [row.tolist()] * job["rounds"] for name, row in ms.items()},
            "row_sha256": {},
            "rows": [0, 1, 2, 3],
        }


def speeds(layouts):
    device = Device(layouts)
    models = {"first": Model.of("a.onnx"), "second": Model.of("b.onnx")}
    return device, timing.speeds(device, models, SAMPLES, threads=1, rounds=3, seed=7)


def test_every_process_is_fresh_and_has_a_seed_of_its_own():
    device, found = speeds([2.0] * PROCESSES)
    assert [job["seed"] for job in device.jobs] == list(range(7, 7 + PROCESSES))
    assert found["second"][:3] == pytest.approx((2, 2, 2))
    assert found["first"].ms == 3.0
    assert found[AGAIN][:3] == (1.0, 1.0, 1.0)


def test_rows_of_one_process_that_agree_show_nothing_if_processes_do_not():
    """Of one process the rows would say: 1.5 or 0.8, without a doubt."""
    _, found = speeds(([1.5, 0.8] * PROCESSES)[:PROCESSES])
    assert found["second"].low < 1 < found["second"].high


def test_a_real_time_factor_is_computing_over_audio():
    runs = [np.array([[500.0, 1000.0], [700.0, 1000.0]]), np.array([[600.0, 1000.0]])]
    stages = [{"encoder": 300.0, "first_token": 350.0, "token": 7.0}, {"encoder": 320.0, "token": 9.0}]
    told = hearing(runs, [2.0, 6.0], stages)
    assert told["real_time_factor"] == pytest.approx(1.6 / 8)
    assert (told["encoder_ms"], told["first_token_ms"], told["token_ms"]) == (310.0, 350.0, 8.0)
    assert hearing(runs, [2.0, 6.0], [])["token_ms"] is None
