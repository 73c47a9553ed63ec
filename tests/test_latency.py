"""Percentiles only where the host resolves them; predictions that real boards calibrate."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import elsewhere, profile

from edgekd.core.errors import StoreError
from edgekd.core.latency import held_to, is_stable, percentile, quantiles
from edgekd.core.protocols import InputSpec, Work
from edgekd.hardware import latency_correction
from edgekd.hardware.latency_correction import Reading
from edgekd.hardware.profile import load_profile
from edgekd.hardware.roofline import predict_latency
from edgekd.inference.benchmark import latency_figures
from edgekd.sizing import predictor
from edgekd.sizing.costs import Candidates
from edgekd.students.transformer import Transformer

WORK = Work(0, 1000, 0, 10_000_000, 0, 1000, 1000, 10)
EVEN = np.linspace(1.0, 2.0, 500)


def with_tail(share, times):
    """The same run, but for its slowest share."""
    found = EVEN.copy()
    found[-round(share * len(EVEN)) :] *= times
    return found


@pytest.mark.parametrize(("percent", "needed"), [(90, 44), (99, 459)])
def test_a_percentile_takes_enough_samples(percent, needed):
    enough, few = EVEN[:needed], EVEN[: needed - 1]
    found = percentile(percent, enough, EVEN, EVEN)
    assert (found.value, found.n) == (pytest.approx(np.percentile(enough, percent)), needed)
    assert found.says == f"of {needed} single runs"
    found = percentile(percent, few, EVEN, EVEN)
    assert found.value is None
    assert found.says == f"not resolvable on this host: p{percent} takes {needed} samples, these are {needed - 1}"


@pytest.mark.parametrize(("control_slower", "apart"), [(True, 20), (False, 17)])
def test_a_percentile_that_the_control_does_not_share_is_the_hosts_noise(control_slower, apart):
    assert percentile(99, EVEN, EVEN, with_tail(0.05, 1.09)).value is not None
    pair = (EVEN, with_tail(0.3, 1.2)) if control_slower else (with_tail(0.3, 1.2), EVEN)
    for percent in (90, 99):
        found = percentile(percent, EVEN, *pair)
        assert found.value is None
        differs = f"the same model's p90 differs by {apart}% from itself, 10% allowed"
        assert found.says == f"not resolvable on this host: {differs}"


@pytest.mark.parametrize("percent", [90, 99])
@pytest.mark.parametrize("apart", [0.985, 1.015])
def test_no_percentile_is_resolvable_where_the_control_is_unstable(percent, apart):
    assert percentile(percent, EVEN, EVEN, 1.005 * EVEN).value is not None
    found = percentile(percent, EVEN, EVEN, apart * EVEN)
    assert (found.value, found.says) == (None, "not resolvable on this host: the A/A control is unstable")


def test_p99_does_not_pass_by_luck_where_p90_does_not():
    first, control = np.linspace(1.0, 1.1, 500), np.linspace(1.0, 1.1, 500)
    first[-10:] = control[-80:] = 3.0  # the same median, the same p99
    assert np.percentile(first, 99) == np.percentile(control, 99)
    for percent in (90, 99):
        found = percentile(percent, first, first, control)
        assert found.value is None
        assert "the same model's p90 differs by" in found.says


def test_stability_is_the_same_either_way_round():
    assert is_stable(1.0099)
    assert is_stable(1 / 1.0099)
    assert not is_stable(1.0101)
    assert not is_stable(1 / 1.0101)


def test_a_noisy_tail_leaves_the_median_and_p90_alone():
    control = EVEN.copy()
    control[-10:] *= 50  # now and then another program has the core
    assert percentile(90, EVEN, EVEN, control).value is not None
    assert percentile(99, EVEN, EVEN, control).value is None


def test_quantiles_are_the_percentiles_from_the_fastest_to_the_slowest():
    found = quantiles(EVEN.reshape(5, 100))
    assert len(found) == 101
    assert found == sorted(found)
    assert (found[0], found[50], found[100]) == (1.0, pytest.approx(1.5), 2.0)


def test_a_model_s_figures_hold_its_percentiles_beside_the_first_s():
    every = EVEN.reshape(5, 100)
    found = latency_figures([every / 2], [every], [every])
    assert found["ratio"] == pytest.approx(2.0)
    assert found["latency_p90_ms"] == pytest.approx(0.95, rel=0.01)
    assert found["latency_n"] == 500
    assert json.dumps(found)
    assert latency_figures([every / 2], [every], [2 * every])["latency_p99_ms"] is None


def test_the_speedup_s_interval_is_over_processes():
    """Each process alone is sure of its speed; they disagree: so does the interval."""
    every = EVEN.reshape(5, 100)
    found = latency_figures([every / 2, every / 1.2, every / 1.6], [every] * 3, [every] * 3)
    low, high = found["ratio_interval"]
    assert low < 1.2 < found["ratio"] < 2.0 < high


@pytest.mark.parametrize(
    ("percent", "value", "says"),
    [
        (50, 1.0, "median latency"),
        (90, 2.0, "p90 latency"),
        (99, 1.0, "median latency (p99: not resolvable on this host: few)"),
    ],
)
def test_a_budget_is_held_against_its_percentile_where_that_is_resolvable(percent, value, says):
    values = {
        "latency_p50_ms": 1.0,
        "latency_p90_ms": 2.0,
        "latency_p99_ms": None,
        "latency_notes": {"99": "not resolvable on this host: few"},
    }
    assert held_to(values, percent) == (value, says)


# calibration


def reading(ratio, recipe="float32", cpu="Raspberry Pi 4 Model B Rev 1.4", digest="a" * 64):
    return Reading("cortex-a72", 1500, recipe, predicted_ms=10.0, measured_ms=10.0 * ratio, digest=digest, cpu=cpu)


def test_a_prediction_without_readings_is_the_roofline_s():
    target = load_profile("rpi4")
    plain = predict_latency(WORK, target, "float32")
    assert plain == predict_latency(WORK, target, "float32", ())
    assert plain.how.endswith("; not checked on a board")


def test_one_receipt_scales_value_and_band_and_is_named():
    target = load_profile("rpi4")
    plain, found = predict_latency(WORK, target, "float32"), predict_latency(WORK, target, "float32", [reading(1.6)])
    assert found.kind == "predicted"
    assert found.value == pytest.approx(1.6 * plain.value)
    assert found.interval == (pytest.approx(0.75 * found.value), pytest.approx(1.25 * found.value))
    assert found.how.endswith("calibrated by 1 receipt from Raspberry Pi 4 Model B Rev 1.4")
    assert found.interval[1] / found.interval[0] < plain.interval[1] / plain.interval[0], "a narrower band"


def test_several_receipts_give_their_geometric_mean_and_their_spread():
    found = latency_correction.calibration([reading(0.5), reading(2.0)], "float32")
    assert (found.factor, found.low, found.high) == (pytest.approx(1.0), 0.5, 2.0)
    assert found.says == "calibrated by 2 receipts from Raspberry Pi 4 Model B Rev 1.4"


def test_readings_of_the_same_arithmetic_count_first():
    readings = [reading(2.0), reading(0.5, "static_int8-worst")]
    assert latency_correction.calibration(readings, "float32").factor == pytest.approx(2.0)
    assert latency_correction.calibration(readings, "dynamic_int8").factor == pytest.approx(0.5)
    assert latency_correction.calibration(readings[:1], "dynamic_int8").factor == pytest.approx(2.0), "better than none"


def test_a_gpu_stays_unknown_whatever_was_read():
    target = profile(execution_provider="CUDAExecutionProvider", recipes=["float16"])
    assert predict_latency(WORK, target, "float16", [reading(2.0)]).kind == "unknown"


def test_readings_are_kept_once_a_board_and_model(tmp_path):
    assert latency_correction.load(tmp_path, "cortex-a72") == ()
    latency_correction.keep(tmp_path, reading(2.0))
    latency_correction.keep(tmp_path, reading(1.5, cpu="another board"))
    kept = latency_correction.keep(tmp_path, reading(1.6, digest="b" * 64))
    assert sorted(one.ratio for one in kept) == [1.5, 1.6], "the newer receipt takes the older one's place"
    assert latency_correction.load(tmp_path, "cortex-a72") == kept
    assert latency_correction.load(tmp_path, "cortex-a53") == ()
    assert [path.name for path in (tmp_path / "calibration").glob("*.json")] == ["cortex-a72.json"]


def test_of_two_who_keep_a_reading_at_the_same_time_neither_is_lost(tmp_path, monkeypatch):
    load = latency_correction.load

    def slow(*given):
        found = load(*given)
        time.sleep(0.2)  # long enough for the other to read the same file
        return found

    monkeypatch.setattr(latency_correction, "load", slow)
    with ThreadPoolExecutor(2) as both:
        list(both.map(latency_correction.keep, [tmp_path] * 2, [reading(2.0), reading(1.5, cpu="another board")]))
    assert sorted(one.ratio for one in load(tmp_path, "cortex-a72")) == [1.5, 2.0]


def test_a_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "calibration").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=f"cannot use {tmp_path}/calibration: "):
        latency_correction.keep(tmp_path, reading(2.0))


@pytest.mark.parametrize("text", ["", "{", "[{}]", '{"a": 1}', "[3]", "null"])
def test_damaged_readings_calibrate_nothing(tmp_path, text):
    latency_correction.keep(tmp_path, reading(2.0))
    (tmp_path / "calibration" / "cortex-a72.json").write_text(text)
    assert latency_correction.load(tmp_path, "cortex-a72") == ()


def test_shapes_are_sized_with_calibrated_latencies():
    survey = InputSpec(max_size=32, sizes=(8, 16, 32), vocabulary=500)
    shapes = Transformer.ladder(
        {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128, "vocabulary": 500, "max_tokens": 64},
        survey,
        classes=3,
    )
    target = elsewhere(microarch="cortex-a72")
    plain = Candidates(
        tuple(shapes), target, survey, 1.0, predictor.load("transformer"), reference_ms=0.2, teacher_ms=20.0
    )
    checked = replace(plain, readings=(reading(3.0),))
    before, after = (among.predict(shapes[-1], "float32") for among in (plain, checked))
    assert after.target_latency_ms == pytest.approx(3 * before.target_latency_ms)
    assert (after.target_latency_kind, after.latency_ms) == ("predicted", before.latency_ms)
