"""The runner: samples travel whole, a job's answer is true, and a foreign model harms no one but its own process."""

import re
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import fast, matmul_model, packed, samples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekd.core import errors
from edgekd.core.benchmark import Benchmark, Timed
from edgekd.core.model import Model
from edgekd.devices.local import Local
from edgekd.onboard import programs, runner
from edgekd.security import child

LENGTHS = (3, 5, 1, 7)


# samples on their way


shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)


@fast
@given(data=st.data(), count=st.integers(1, 5))
def test_samples_come_back_as_they_were_packed(data, count, tmp_path_factory):
    types = {"input_ids": np.int64, "attention.mask": np.bool_, "pixels": np.float32}
    packed = [
        {
            name: data.draw(arrays.arrays(kind, shapes, elements={"allow_nan": False} if kind is np.float32 else None))
            for name, kind in types.items()
        }
        for _ in range(count)
    ]
    path = tmp_path_factory.getbasetemp() / "samples.npz"
    runner.pack(packed, path)
    unpacked = runner.unpack(path)
    assert len(unpacked) == count
    for before, after in zip(packed, unpacked, strict=True):
        assert set(before) == set(after)
        for name, values in before.items():
            assert after[name].dtype == values.dtype
            np.testing.assert_array_equal(after[name], values)


def test_object_arrays_are_refused(tmp_path):
    runs_code = {"x.values": np.array([{}], dtype=object), "x.shapes": np.array([[1]])}
    np.savez(tmp_path / "evil.npz", **runs_code)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        runner.unpack(tmp_path / "evil.npz")


# jobs, each in a fresh process


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two models and one file of packed inputs."""
    folder = tmp_path_factory.mktemp("lab")
    matmul_model(folder / "one.onnx", seed=1)
    matmul_model(folder / "two.onnx", seed=2)
    runner.pack(samples(*LENGTHS), folder / "inputs.npz")
    return folder


@pytest.fixture(scope="module")
def predicted(lab):
    return Local().run(
        "predict", model=f"{lab}/one.onnx", inputs=f"{lab}/inputs.npz", threads=1, outputs=f"{lab}/outputs.npz"
    )


def test_a_session_takes_the_threads_asked_for_and_the_inputs_it_knows(lab):
    session = runner.open_session(f"{lab}/one.onnx", threads=2)
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    program = programs.open_program("forward", {"model": session})
    assert [list(program.feed(sample)) for sample in samples(1, 2)] == [["x"], ["x"]]


def test_no_other_provider_stands_in_for_the_one_asked_for(lab):
    job = {"model": f"{lab}/one.onnx", "inputs": f"{lab}/inputs.npz", "threads": 1, "outputs": f"{lab}/gpu.npz"}
    with pytest.raises(errors.RuntimeCannotLoad, match="CUDAExecutionProvider does not run here"):
        Local(provider="CUDAExecutionProvider").run("predict", **job)


def test_a_prediction_is_what_the_model_says_of_each_sample_alone(lab, predicted):
    session = runner.open_session(f"{lab}/one.onnx", threads=1)
    alone = [session.run(None, {"x": sample["x"]})[0] for sample in samples(*LENGTHS)]
    np.testing.assert_array_equal(packed(lab / "outputs.npz"), np.concatenate(alone))
    assert predicted == {"n": 4, "row_sha256": [programs.digest({"y": row[0]}) for row in alone]}


@pytest.mark.parametrize(
    ("limit_s", "least", "most_s", "rows"),
    [(0, 1, 0, 1), (0, 3, 60, 3), (0, 3, 0, 1), (60, 1, 0, 4), (0, 99, 60, 4)],
    ids=["at least one", "until there are enough", "out of patience", "all in time", "no more than there are"],
)
def test_answers_go_on_until_there_are_enough(lab, tmp_path, limit_s, least, most_s, rows):
    out = tmp_path / "answers.npz"
    told = runner.answers(
        {"own": {"model": f"{lab}/one.onnx", "inputs": f"{lab}/inputs.npz"}},
        1,
        "CPUExecutionProvider",
        str(out),
        limit_s=limit_s,
        least=least,
        most_s=most_s,
    )
    assert told["n"] == len(runner.unpack(out)) == rows


def test_a_timed_run_interleaves_and_says_what_the_prediction_said(lab, predicted):
    models = {name: {"model": f"{lab}/{name}.onnx", "inputs": f"{lab}/inputs.npz"} for name in ("one", "two")}
    answer = Local().run("time", models=models, threads=1, rounds=3, seed=0)
    assert set(answer["latency_ms"]) == set(answer["row_sha256"]) == {"one", "two", "aa"}
    for turns in answer["latency_ms"].values():
        assert [len(turn) for turn in turns] == [len(LENGTHS)] * 3
        assert all(0 < ms < 1000 for turn in turns for ms in turn)
    assert answer["row_sha256"]["one"] == answer["row_sha256"]["aa"] == predicted["row_sha256"]
    assert not set(answer["row_sha256"]["two"]) & set(predicted["row_sha256"])


def test_a_footprint_is_above_the_import_baseline_and_never_falls(lab):
    runner.pack(samples(100_000), lab / "long.npz")
    files = [f"{lab}/inputs.npz", f"{lab}/long.npz"]
    before = time.time()
    answer = Local().run("footprint", model=f"{lab}/one.onnx", inputs=files, threads=1)
    short, long = answer["peak_rss_mib"]
    assert 0 < short < answer["baseline_mib"], "numpy and onnxruntime weigh more than this model"
    assert long - short > 0.9 * 100_000 * 32 * 4 / 2**20, "at least the long sample's hidden activation"
    assert 0 < answer["load_ms"] < answer["cold_start_ms"] < (time.time() - before) * 1000


DAMAGE = {"cut short": lambda raw: raw[: len(raw) // 2], "no model": lambda raw: b"<html>not found</html>"}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_is_refused(lab, tmp_path, damage):
    model = tmp_path / "damaged.onnx"
    model.write_bytes(damage((lab / "one.onnx").read_bytes()))
    with pytest.raises(errors.RuntimeCannotLoad) as refusal:
        Local().run("footprint", model=str(model), inputs=[f"{lab}/inputs.npz"], threads=1)
    assert refusal.value.message.startswith("ONNX Runtime refuses the model: InvalidProtobuf: ")
    assert refusal.value.fix == "export it again with an opset and IR version that this runtime knows"
    assert refusal.value.exit_code == 7


def test_a_model_from_the_future_is_refused(tmp_path, lab):
    model = onnx.load(lab / "one.onnx")
    model.ir_version = 99
    onnx.save(model, tmp_path / "future.onnx")
    with pytest.raises(errors.RuntimeCannotLoad, match="Unsupported model IR version: 99"):
        Local().run("predict", model=f"{tmp_path}/future.onnx", inputs="", threads=1, outputs="")


def test_a_run_without_end_is_ended(lab):
    with pytest.raises(errors.EdgeKDError) as refusal:
        Local(timeout_s=0.05).run("predict", model=f"{lab}/one.onnx", inputs="", threads=1, outputs="")
    assert refusal.value.message == "a predict run took longer than 0 s"
    assert refusal.value.fix == "look for a loop in the model, or measure on a quieter machine"


def test_the_runner_needs_numpy_and_onnxruntime_alone():
    imports = set(re.findall(r"^(?:import|from) ([\w]+)", Path(runner.__file__).read_text(encoding="utf-8"), re.M))
    assert imports - sys.stdlib_module_names == {"numpy", "onnxruntime"}


# functions called in a fresh process


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return lambda name, timeout_s=60, **more: child.call(
        f"helpers:{name}", more.pop("arguments", {}), timeout_s=timeout_s, **more
    )


def test_a_call_brings_back_the_result_and_what_was_said(call):
    said = []
    assert call("greet", arguments={"name": "é"}, said=said.append) == {"hello": "é"}
    assert said == ["about to greet é"]


def test_an_error_comes_back_as_itself(call):
    with pytest.raises(errors.UsageError) as refusal:
        call("refuse")
    assert refusal.value.as_dict() == {"error": "this cannot work", "fix": "do something else", "exit": 2}


@pytest.mark.parametrize(
    ("name", "timeout_s", "why"),
    [("crash", 60, "ended with code 1: .*RuntimeError: an unforeseen end"), ("sleep", 0.3, "took longer than 0 s: ")],
)
def test_a_child_that_dies_is_told(call, name, timeout_s, why):
    with pytest.raises(errors.EdgeKDError, match=f"^the child process for helpers:{name} {why}") as refusal:
        call(name, timeout_s)
    assert refusal.value.fix.startswith("run the same command again: finished stages are kept")
    assert refusal.value.exit_code == 1


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """A job that times one model on six rows in four rounds."""
    folder = tmp_path_factory.mktemp("six")
    runner.pack(samples(3, 5, 1, 7, 2, 4), folder / "rows.npz")
    spec = {"model": str(matmul_model(folder / "model.onnx")), "inputs": str(folder / "rows.npz")}
    return {"models": {"one": spec}, "threads": 1, "rounds": 4, "seed": 0}


@pytest.mark.parametrize(
    ("bounds", "rounds", "rows"),
    [
        ({}, 4, [0, 1, 2, 3, 4, 5]),
        ({"most_s": 60}, 4, [0, 1, 2, 3, 4, 5]),
        ({"most_s": 60, "least_rows": 3}, 4, [0, 1, 2, 3, 4, 5]),
        ({"most_s": 1e-9}, 1, [0, 1, 2, 3, 4, 5]),
        ({"most_s": 1e-9, "least_rows": 3}, 1, [0, 2, 5]),
        ({"most_s": 1e-9, "least_rows": 99}, 1, [0, 1, 2, 3, 4, 5]),
        ({"most_s": 60, "least_rows": 3, "rows": [1, 4]}, 4, [1, 4]),
    ],
    ids=["all", "in time", "in time, fewer allowed", "one round", "fewer rows", "no more than there are", "as told"],
)
def test_less_is_timed_only_where_that_was_asked_for(six, bounds, rounds, rows):
    """A slow model's trial ends in time; without a limit all is timed whatever it takes."""
    predicted = runner.timed(**six | {"rounds": 1}, provider="CPUExecutionProvider")["row_sha256"]["one"]
    answer = Local().run("time", **six, **bounds)
    assert answer["rows"] == rows
    assert np.shape(answer["latency_ms"]["one"]) == np.shape(answer["latency_ms"]["aa"]) == (rounds, len(rows))
    assert answer["row_sha256"]["one"] == answer["row_sha256"]["aa"] == [predicted[row] for row in rows]


class Clock:
    """A clock that a made-up inference sets forward."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_timing_a_slow_model_takes_about_the_time_it_was_given(monkeypatch, six):
    """An inference of two seconds, on six rows: no warm-up of five of them, none before each that is timed."""
    clock, ran = Clock(), []

    class Slow:
        def __init__(self, *_, **__):
            self.program = self

        def feed(self, sample):
            return sample

        def run(self, _, feed):
            ran.append(clock.now)
            clock.now += 2.0

        def told(self, result, sample):
            return sample, "0" * 64

    monkeypatch.setattr(runner, "Predictor", Slow)
    monkeypatch.setattr(runner.time, "perf_counter", clock.perf_counter)
    answer = runner.timed(**six, provider="", most_s=20.0, least_rows=3)
    assert answer["rows"] == [0, 1, 2, 4, 5]
    assert np.shape(answer["latency_ms"]["one"]) == (1, 5)
    assert clock.now <= 20.0 + 2 * 4.0, (
        "each model's warm-up ends behind an eighth of the time, and the run in progress"
    )


def test_processes_time_the_rows_that_the_first_one_had_time_for(six):
    """Else their medians were of other inputs."""
    spec = six["models"]["one"]
    timed = {"one": Timed(Model.of(Path(spec["model"])), Path(spec["inputs"]))}
    found = [*Benchmark(Local(), 1).processes(timed, 2, rounds=4, seed=0, most_s=1e-9)]
    assert [one.rows for one in found] == [(0, 2, 5)] * 2
    assert {np.shape(one.latency_ms["aa"]) for one in found} == {(1, 3)}
