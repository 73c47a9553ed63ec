"""Calibration: one row at a time gives what all at once gives, memory does not grow, ranges are made once."""

import numpy as np
import pytest
from helpers import fast, matmul_model, python, relu_model, samples
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import create_calibrator, load_tensors_data

from edgekd.core.errors import EdgeKDError
from edgekd.core.quiet import quiet
from edgekd.core.registry import make
from edgekd.quantizers._calibration import _BINS, METHODS, _entropy, _percentile, calibrate

ROWS = samples(*[1, 2, 3, 5] * 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return matmul_model(tmp_path_factory.mktemp("plain") / "model.onnx")


def ranges(model, rows, folder, *, method="minmax", percentile=99.0, operators=("MatMul",), first=1000):
    file = calibrate(model, rows, rows=first, method=method, percentile=percentile, operators=operators, folder=folder)
    found = load_tensors_data(file)
    return {name: tuple(float(value) for value in found[name].range_value) for name in found}


class AllAtOnce:
    def __init__(self, rows):
        self.rows = iter(rows)

    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {"x": row["x"]}


def test_one_row_at_a_time_gives_the_ranges_of_all_at_once(model, tmp_path):
    with quiet():
        calibrator = create_calibrator(model, ["MatMul"], str(tmp_path / "augmented.onnx"))
        calibrator.collect_data(AllAtOnce(ROWS))
        expected = calibrator.compute_data()
    found = ranges(model, ROWS, tmp_path)
    assert found == {name: tuple(float(value[0]) for value in expected[name].range_value) for name in expected}
    assert {"x", "hidden", "pooled", "y"} == set(found)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_does_not_matter(method, model, tmp_path):
    assert ranges(model, ROWS, tmp_path, method=method) == ranges(model, ROWS[::-1], tmp_path, method=method)
    assert len(list(tmp_path.iterdir())) == 2, "other rows, another file, and nothing else left there"


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_a_percentile_is_that_of_all_values(percentile, tmp_path):
    relu_model(tmp_path / "model.onnx")
    rows = samples(*[7, 50] * 20)
    values = np.concatenate([row["x"].ravel() for row in rows])
    low, high = ranges(
        tmp_path / "model.onnx", rows, tmp_path, method="percentile", percentile=percentile, operators=["Relu"]
    )["x"]
    width = float(2 * np.abs(values).max() / _BINS)
    rest = (100 - percentile) / 2
    assert low == pytest.approx(np.percentile(values, rest), abs=2 * width)
    assert high == pytest.approx(np.percentile(values, 100 - rest), abs=2 * width)


def test_entropy_clips_a_lonely_outlier_and_keeps_an_even_spread(tmp_path):
    relu_model(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    plain = [{"x": random.uniform(-1, 1, (1, 50, 32)).astype(np.float32)} for _ in range(8)]
    bell = [{"x": random.normal(size=(1, 50, 32)).astype(np.float32)} for _ in range(8)]
    bell[3]["x"][0, 0, 0] = 60.0
    for name, rows, least, most in (("even", plain, 0.9, 1.0), ("outlier", bell, 2.0, 20.0)):
        found = ranges(tmp_path / "model.onnx", rows, tmp_path, method="entropy", operators=["Relu"])["x"]
        assert least <= found[1] <= most, name


def test_entropy_is_not_led_astray_by_the_zeros_of_a_relu():
    """Seven in ten values are 0: alone in its bin that peak would cost so much that all else is clipped."""
    values = np.maximum(np.random.default_rng(0).normal(-0.5, 1, 100_000), 0)
    counts = np.histogram(values, _BINS, (-values.max(), values.max()))[0]
    first, last = _entropy(counts)
    assert (last - _BINS // 2) / (_BINS // 2) > 0.5
    assert first + last == _BINS


@fast
@given(st.integers(0, 1 << 30), st.floats(0.05, 5), st.floats(50, 100))
def test_a_percentile_leaves_no_more_than_its_rest_on_either_side(seed, spread, percentile):
    counts = np.random.default_rng(seed).lognormal(0, spread, _BINS).astype(int) + 1
    first, last = _percentile(counts, percentile)
    assert 0 <= first < last <= _BINS
    most = counts.sum() * (1 - percentile / 100) / 2 * (1 + 1e-9) + 1e-6
    assert counts[:first].sum() <= most
    assert counts[last:].sum() <= most


def test_rows_without_a_finite_range_are_refused_and_constants_are_not(tmp_path):
    relu_model(tmp_path / "model.onnx")
    rows = samples(3, 3)
    rows[0]["x"][0, 0, 0] = np.nan
    zeros = [{"x": np.zeros((1, 2, 32), np.float32)}]
    for method in METHODS:
        with pytest.raises(EdgeKDError) as refusal:
            ranges(tmp_path / "model.onnx", rows, tmp_path / "cache", method=method, operators=["Relu"])
        assert refusal.value.message in [f"calibration finds no finite range of the tensor {name!r}" for name in "xy"]
        assert refusal.value.fix.startswith("look for NaN or infinite values in the calibration rows")
        assert not list((tmp_path / "cache").iterdir())
        assert ranges(tmp_path / "model.onnx", zeros, tmp_path, method=method, operators=["Relu"])["x"] == (0.0, 0.0)


def test_ranges_are_made_once_for_every_choice_of_float_nodes(model, tmp_path):
    cache = tmp_path / "cache"
    recipe = make("quantizers", "static_int8")
    recipe.quantize(model, tmp_path / "one.onnx", ROWS, cache=cache)
    (file,) = cache.iterdir()
    before = file.stat().st_mtime_ns
    recipe.quantize(model, tmp_path / "two.onnx", ROWS, keep=["head"], cache=cache)
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [before]
    make("quantizers", "static_int8", method="percentile").quantize(model, tmp_path / "three.onnx", ROWS, cache=cache)
    make("quantizers", "static_int8", calibration_rows=5).quantize(model, tmp_path / "four.onnx", ROWS, cache=cache)
    assert len(list(cache.iterdir())) == 3
    recipe.quantize(model, tmp_path / "again.onnx", ROWS)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()


PEAK = """
import sys
from pathlib import Path
import numpy as np
from edgekd.quantizers._calibration import calibrate
from edgekd.onboard.runner import peak_rss_mib

class Rows:
    def __len__(self):
        return int(sys.argv[3])
    def __getitem__(self, row):
        if row >= len(self):
            raise IndexError
        return {"x": np.random.default_rng(row).normal(size=(1, 100, 32)).astype(np.float32)}

calibrate(Path(sys.argv[1]), Rows(), rows=100_000, method=sys.argv[4], percentile=99.9, operators=["MatMul"],
          folder=Path(sys.argv[2]))
print(peak_rss_mib())
"""


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_rows(method, model, tmp_path):
    """All outputs of the longer run together are 25 MiB."""
    peaks = []
    for rows in (30, 1000):
        child = python(PEAK, str(model), str(tmp_path), str(rows), method)
        assert child.returncode == 0, child.stderr
        peaks.append(float(child.stdout))
    assert peaks[1] - peaks[0] < 8
