"""The runner: samples travel whole, a job's answer is true, and a foreign model harms no one but its own process."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import fast, matmul_model, relu_model, samples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekd import runner
from edgekd.core import child, errors
from edgekd.devices.local import Local

LENGTHS = (3, 5, 1, 7)


# samples on their way


shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)


@fast
@given(data=st.data(), count=st.integers(1, 5))
def test_samples_come_back_as_they_were_packed(data, count, tmp_path_factory):
    types = {"input_ids": np.int64, "attention.mask": np.bool_, "pixels": np.float32}
    packed = [
        {name: data.draw(arrays.arrays(kind, shapes, elements={"allow_nan": False} if kind is np.float32 else None))
         for name, kind in types.items()}
        for _ in range(count)
    ]  # fmt: skip
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
        "predict", model=f"{lab}/one.onnx", inputs=f"{lab}/inputs.npz", threads=1, outputs=f"{lab}/outputs.npy"
    )


def test_a_session_takes_the_threads_asked_for_and_the_inputs_it_knows(lab):
    session = runner.open_session(f"{lab}/one.onnx", threads=2)
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert [list(feed) for feed in runner.feeds(session, samples(1, 2))] == [["x"], ["x"]]


def test_a_prediction_is_what_the_model_says_of_each_sample_alone(tmp_path, predicted):
    # outputs are stacked along the first axis, so samples of one length here
    model, same = matmul_model(tmp_path / "m.onnx", seed=1), samples(4, 4, 4)
    runner.pack(same, tmp_path / "in.npz")
    answer = runner.predict(str(model), str(tmp_path / "in.npz"), 1, "CPUExecutionProvider", str(tmp_path / "out.npy"))
    session = runner.open_session(str(model), threads=1)
    alone = [session.run(None, {"x": sample["x"]})[0] for sample in same]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.concatenate(alone))
    assert answer["n"] == len(set(answer["row_sha256"])) == 3
