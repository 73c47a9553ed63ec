"""What others make of the same model: `quantization.py` runs this in the environment that holds the peer.

    python -m benchmarks._peers make PEER JOB.json     writes the peer's model to the job's `out`
    python -m benchmarks._peers serve MODEL            a worker: JSON lines in, a JSON line each out

A worker holds one model, under ONNX Runtime or (an .xml file) OpenVINO, one thread. What it is asked:
`{"predict": INPUTS.npz, "out": FILE.npy}` or `{"time": INPUTS.npz, "runs": n}`,
which gives ms a run, over the first n samples.
Peers run with their documented defaults, on the calibration rows that ours gets, and report nothing home.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.onboard.runner import Sample, open_session, unpack

ROOT = Path(__file__).parents[1]
ELSEWHERE = ROOT / "build" / "peers" / "bin" / "python"  # what `make peers` makes
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "TOKENIZERS_PARALLELISM": "false",
    "NNCF_CI": "1",
    "OLIVE_DISABLE_TELEMETRY": "1",  # nobody counts this run
}


class Rows:
    """Calibration rows as ONNX Runtime reads them."""

    def __init__(self, model: str, samples: Sequence[Sample]) -> None:
        names = [node.name for node in open_session(model, 1).get_inputs()]
        self.rows: Iterator[Sample] = ({name: sample[name] for name in names} for sample in samples)

    def get_next(self) -> Sample | None:
        """The next row, or None at the end."""
        return next(self.rows, None)


def plain_dynamic(model: str, out: Path, *_: Any) -> None:
    """ONNX Runtime's `quantize_dynamic`, nothing but its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, out / "model.onnx")


def plain_static(model: str, out: Path, samples: Sequence[Sample], *_: Any) -> None:
    """ONNX Runtime's `quantize_static` with its defaults, after the preprocessing that its documentation asks for."""
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = str(out / "prepared.onnx")
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, out / "model.onnx", Rows(prepared, samples))


def optimum_avx2(model: str, out: Path, samples: Sequence[Sample], transformer: bool) -> None:
    """optimum's preset: dynamic for transformers, static (minmax) for the others, as its documentation shows them."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig
    from transformers import PretrainedConfig

    quantizer = ORTQuantizer(Path(model), config=PretrainedConfig())
    preset = AutoQuantizationConfig.avx2(is_static=not transformer)
    ranges = None
    if not transformer:
        from datasets import Dataset

        rows = Dataset.from_list([{name: value[0] for name, value in sample.items()} for sample in samples])
        rows.set_format("numpy")
        minmax = AutoCalibrationConfig.minmax(rows)
        ranges = quantizer.fit(rows, minmax, operators_to_quantize=preset.operators_to_quantize)
    quantizer.quantize(preset, out, calibration_tensors_range=ranges)
    next(out.glob("*_quantized.onnx")).rename(out / "model.onnx")


def olive(model: str, out: Path, *_: Any) -> None:
    """`olive quantize --implementation ort`: dynamic int8. Without that option it refuses an ONNX model."""
    from olive.cli.launcher import main as run

    said = ["quantize", "-m", model, "-o", str(out), "--implementation", "ort", "--disable_telemetry"]
    run(said)


def olive_static(model: str, out: Path, samples: Sequence[Sample], *_: Any) -> None:
    """Olive's pass OnnxStaticQuantization in a workflow: its command takes calibration rows from a hub only."""
    from olive import run
    from olive.data.registry import Registry

    @Registry.register_dataset("benchmark_rows")  # type: ignore[untyped-decorator]
    def rows(**_: Any) -> list[tuple[Sample, int]]:
        return [(sample, 0) for sample in samples]

    data = {
        "name": "rows",
        "load_dataset_config": {"type": "benchmark_rows"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "no_auto_batch_dataloader"},
    }
    run(
        {
            "input_model": {"type": "OnnxModel", "model_path": model},
            "data_configs": [data],
            "passes": {"static": {"type": "OnnxStaticQuantization", "data_config": "rows"}},
            "output_dir": str(out),
            "no_artifacts": True,
        }
    )


def nncf(model: str, out: Path, samples: Sequence[Sample], transformer: bool) -> None:
    """NNCF's `quantize` for OpenVINO, told of a transformer as its documentation asks."""
    import nncf as tool
    import openvino

    read = openvino.Core().read_model(model)
    names = [node.any_name for node in read.inputs]
    rows = tool.Dataset([{name: sample[name] for name in names} for sample in samples])
    kind = tool.ModelType.TRANSFORMER if transformer else None
    made = tool.quantize(read, rows, model_type=kind, subset_size=len(samples))
    openvino.save_model(made, out / "model.xml", compress_to_fp16=False)


OTHERS = ("Olive quantize", "Olive static", "OpenVINO NNCF")  # that live elsewhere
PEERS: dict[str, Callable[..., None]] = {
    "quantize_dynamic": plain_dynamic,
    "quantize_static": plain_static,
    "optimum avx2": optimum_avx2,
    "Olive quantize": olive,
    "Olive static": olive_static,
    "OpenVINO NNCF": nncf,
}


def opened(model: str) -> Callable[[Sample], np.ndarray[Any, Any]]:
    """The model's first output for a sample; default options, one thread."""
    if not model.endswith(".xml"):
        session = open_session(model, 1)
        names = [node.name for node in session.get_inputs()]
        return lambda sample: session.run(None, {name: sample[name] for name in names})[0]
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    request, wanted = compiled.create_infer_request(), [node.any_name for node in compiled.inputs]

    def run(sample: Sample) -> np.ndarray[Any, Any]:
        request.infer({name: sample[name] for name in wanted}, share_inputs=True)
        return request.get_output_tensor(0).data

    return run


def pooled(output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(tokens, width) to its mean over tokens, none of which is padding; (classes,) as it is."""
    return output.mean(axis=0) if output.ndim > 1 else output.copy()


def serve(model: str) -> None:
    """Answer until stdin ends."""
    run, kept = opened(model), {}
    for line in sys.stdin:
        job = json.loads(line)
        source = job.get("predict") or job["time"]
        samples = kept[source] if source in kept else unpack(Path(source))
        answer: dict[str, Any] = {}
        if "predict" in job:
            np.save(job["out"], np.stack([pooled(run(sample)[0]) for sample in samples]))
        else:
            kept[source] = samples = samples[: job["runs"]]
            run(samples[0])  # untimed: the other models' weights have left the caches cold
            taken = []
            for sample in islice(cycle(samples), job["runs"]):
                before = time.perf_counter()
                run(sample)
                taken.append((time.perf_counter() - before) * 1000)
            answer["ms"] = taken
        print(json.dumps(answer), flush=True)


class Worker:
    """A process that serves one model."""

    def __init__(self, model: Path) -> None:
        self.process = subprocess.Popen(
            [str(python(model.name)), "-m", "benchmarks._peers", "serve", str(model)],
            env=ENVIRONMENT,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **job: Any) -> dict[str, Any]:
        """Its answer to one job."""
        into, out = self.process.stdin, self.process.stdout
        assert into is not None and out is not None  # noqa: PT018
        into.write(json.dumps(job) + "\n")
        into.flush()
        answer: dict[str, Any] = json.loads(out.readline())
        return answer

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def python(peer_or_model: str) -> Path:
    """Of the environment that holds the peer, or opens the model."""
    return ELSEWHERE if peer_or_model in OTHERS or peer_or_model.endswith(".xml") else Path(sys.executable)


def size_mib(model: Path) -> float:
    """With its weights, where they lie in a file of their own."""
    files = [model, *([model.with_suffix(".bin")] if model.suffix == ".xml" else [])]
    return sum(file.stat().st_size for file in files) / 2**20


def main() -> None:
    """Make a peer's model, or serve one."""
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
        return
    job = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    PEERS[sys.argv[2]](job["model"], out, unpack(Path(job["calibration"])), job["transformer"])


if __name__ == "__main__":
    main()
