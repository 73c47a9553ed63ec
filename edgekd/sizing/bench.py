"""The bench: shapes built with random weights, exported, quantized and run here, in fresh processes.

What a model costs does not depend on what it has learned.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from edgekd.core import statistics as intervals
from edgekd.core.benchmark import Benchmark, Timed
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model
from edgekd.core.protocols import writes
from edgekd.core.registry import make, plugin
from edgekd.hardware.profile import Profile
from edgekd.onboard.runner import pack

CALIBRATION = 4  # random samples: ranges cost nothing at run time, whatever they are
_PROCESSES = 5  # fresh ones a timing: where a session lies in memory moves it by percents
_ROUNDS, _TIMED = 3, 12  # in each process: rounds over at least so many samples
_SLOW_PROCESSES, _SLOW_ROUNDS = 3, 2  # of models one of whose inferences takes a second
_BATCH = 8


class Bench:
    """Builds and measures in a folder of its own, with the number of threads that the profile says."""

    def __init__(self, folder: Path, threads: int, family: str | None = None) -> None:
        kind: Any = plugin("students", family) if family else None
        slow = kind is not None and writes(kind)
        self.processes, self.rounds = (_SLOW_PROCESSES, _SLOW_ROUNDS) if slow else (_PROCESSES, _ROUNDS)
        self.timed: int = kind.timed_samples if slow else _TIMED
        self.folder, self.threads = folder, threads
        self.device = make("devices", "local")
        self.count = 0

    def export(self, model: Any, exporter: str, target: Profile, task: str) -> Model:
        """The fp32 ONNX of a torch model, in a fresh folder."""
        self.count += 1
        out = self.folder / f"model-{self.count}"
        return make("exporters", exporter).export(model, out, task=task, target=target)

    def quantize(self, plain: Model, recipe: str, target: Profile, calibration: list[Any]) -> Model:
        """The variant of that recipe, in a fresh folder."""
        if recipe == "float32":
            return plain
        self.count += 1
        folder = self.folder / f"{recipe}-{self.count}"
        folder.mkdir()
        quantizer, inputs = plugin("quantizers", recipe).for_target(target), GraphInputs(plain, calibration)
        return plain.changed(folder, lambda graph, file, out: quantizer.quantize(file, out, inputs.of(graph)))[0]

    def footprint(self, model: Model, samples: list[Any]) -> dict[str, float]:
        """Peak RSS and cold start of one fresh process."""
        inputs = self.folder / "headline.npz"
        pack(samples, inputs)
        found = Benchmark(self.device, self.threads).footprint(model, inputs)
        assert found.cold_start_ms is not None, "shapes are measured on this machine"
        return {
            "memory_mib": found.peak_rss_mib[0],
            "artifact_mib": model.size_mib,
            "cold_start_ms": found.cold_start_ms,
        }

    def time(self, models: dict[str, tuple[Model, list[Any]]], *, seed: int = 0) -> dict[str, list[list[float]]]:
        """Return each model's latencies in ms, (processes, samples); all models are interleaved in each process.

        A figure is the median over the sample's repetitions in that process.
        """
        jobs, repeats = {}, 1
        for name, (model, samples) in models.items():
            inputs = self.folder / f"timed-{name}.npz"
            repeats = max(1, self.timed // len(samples))
            pack(samples * repeats, inputs)
            jobs[name] = Timed(model, inputs)
        latency_ms: dict[str, list[list[float]]] = {name: [] for name in models}
        for number in range(self.processes):
            found = Benchmark(self.device, self.threads).time(jobs, rounds=self.rounds, seed=seed + number)
            for name, processes in latency_ms.items():
                turns = found.latency_ms[name]
                count = len(turns[0]) // repeats
                again = [
                    [turn[row + count * time] for turn in turns for time in range(repeats)] for row in range(count)
                ]
                processes.append([statistics.median(row) for row in again])
        return latency_ms


def typical_ms(processes: list[list[float]]) -> float:
    """Return the median over processes of the median over samples: a process is one sample of a latency."""
    return statistics.median(statistics.median(samples) for samples in processes)


def speedup_low(first: list[list[float]], own: list[list[float]]) -> float:
    """Return the low end of the 95% interval, over processes, of the first model's latency to one's own."""
    medians = ([statistics.median(samples) for samples in processes] for processes in (first, own))
    return intervals.process_ratio([theirs / ours for theirs, ours in zip(*medians, strict=True)])[1]


def random_model(shape: Any, teacher_folder: Path | None = None) -> Any:
    """The shape with random weights whose activations have a trained model's size.

    Batch norms take the statistics of a random batch: without that, values shrink from block to block until they
    are denormal, and arithmetic on those is up to fifty times slower.
    """
    import numpy as np
    import torch

    model = shape.random(teacher_folder)
    norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the average of what is seen
        model.train()
        random = np.random.default_rng(0)
        batch = [shape.sample(shape.max_size, random) for _ in range(_BATCH)]
        with torch.no_grad():
            model(**{name: torch.from_numpy(np.concatenate([one[name] for one in batch])) for name in batch[0]})
    return model.eval()


def random_samples(shape: Any, sizes: list[int]) -> list[Any]:
    """Random inputs of these sizes."""
    import numpy as np

    random = np.random.default_rng(0)
    return [shape.sample(size, random) for size in sizes]


def reference(path: Path) -> Model:
    """Write the reference model that latencies are ratios to: six products of 32 x 384 by 384 x 384, in fp32."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, constants, last = [], [], "values"
    for number in range(6):
        weights = random.standard_normal((384, 384)).astype(np.float32) / 20
        constants.append(numpy_helper.from_array(weights, f"weights{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"weights{number}"], [f"product{number}"]))
        nodes.append(helper.make_node("Relu", [f"product{number}"], [f"out{number}"]))
        last = f"out{number}"
    put = [helper.make_tensor_value_info("values", TensorProto.FLOAT, [32, 384])]
    got = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [32, 384])]
    graph = helper.make_graph(nodes, "reference", put, got, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return Model.of(path)


def reference_samples(count: int) -> list[Any]:
    """Inputs of the reference model."""
    import numpy as np

    return [{"values": np.random.default_rng(0).standard_normal((32, 384)).astype(np.float32)} for _ in range(count)]
