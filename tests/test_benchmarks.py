"""The benchmarks' own rules: which rows are whose, what A/A does to a speed, and what the tables say of it."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import matmul_model

from benchmarks import _rounds, _variants, quantization, results, table
from benchmarks._rounds import AA, OURS, REFERENCE, ahead_of_us, is_unstable, speeds, until_stable
from benchmarks._subjects import QUICK, Subject, apart
from edgekd.core.statistics import cosines
from edgekd.onboard.runner import pack


def test_sets_share_no_content_though_rows_repeat():
    rows = ["a", "b", "A", "c", "b", "d", "e", "f"]
    assert apart(rows, (2, 1, 2), str.casefold) == [["a", "b"], ["c"], ["d", "e"]]
    with pytest.raises(ValueError, match="7 distinct rows are needed, 6 are there"):
        apart(rows, (4, 3), str.casefold)


def run_of(control, peer=0.5):
    base = np.array([10.0, 11.0, 10.5])
    return speeds({REFERENCE: base, AA: base / control, OURS: base * 0.8, "peer": base * peer})


def test_a_speed_is_of_processes():
    one = run_of(1.0)["peer"]
    assert one["speedup"]["value"] == pytest.approx(2)
    assert one["over_ours"]["value"] == pytest.approx(1.6)
    wild = speeds({REFERENCE: [10, 10, 10], AA: [10, 10, 10], "peer": [5, 10, 20]})["peer"]["speedup"]["interval"]
    assert wild[0] < 0.5 < 2 < wild[1], "three processes that differ show nothing"


@pytest.mark.parametrize(
    ("controls", "taken", "unstable"),
    [
        ([1.0], 1, False),
        ([1.05, 1.005], 2, False),
        ([0.9, 1.05, 1.02], 3, True),
        ([1.05, 1.05, 1.05, 1.0], 3, True),
    ],
)
def test_an_unstable_run_is_measured_again_but_not_for_ever(controls, taken, unstable):
    left = iter(controls)
    figures, tries = until_stable(lambda: run_of(next(left)), 3)
    assert (tries, is_unstable(figures)) == (taken, unstable)
    assert figures == run_of(controls[taken - 1])


@pytest.mark.parametrize(("control", "names"), [(1.0, ["peer at 128"]), (1.03, [])])
def test_what_is_unstable_shows_nobody_ahead(control, names):
    figures = {name: one | {"fidelity": {"value": 0.9}} for name, one in run_of(control).items()}
    assert ahead_of_us({"128": figures}) == names
    assert ahead_of_us({"128": {"peer": figures["peer"]}}) is None


def kept(control):
    """Results as a whole run writes them."""
    figures = {
        name: one | {"fidelity": {"value": 0.9, "interval": [0.8, 1.0]}, "size_mib": 5.0}
        for name, one in run_of(control).items()
    }
    model = {
        "lengths": {"128": figures},
        "not_run": {"another": "not run: no"},
        "build_s": 60.0,
        "recipe": "int8",
        "trials": 3,
        "rows": {"selection": 77, "test": 24},
    }
    memory = [{"rows": count, "peak_rss_mib": 500.0} for count in (20, 100)]
    setting = dataclasses.asdict(QUICK)
    said = {"models": {"MiniLM-L6": model}, "calibration": memory, "setting": setting, "target": "cpu-avx2"}
    return {"figures": said, "host": {"cpu": "a CPU", "cores": 2, "ort_version": "1"}, "date": "2000-01-01"}


@pytest.mark.parametrize("control", [1.0, 1.03])
def test_each_speed_of_an_unstable_run_says_so(control, monkeypatch):
    monkeypatch.setattr(results, "read", lambda _: kept(control))
    rows = [line for line in table.quantization().splitlines() if "x [" in line]
    assert len(rows) == 4
    assert all(("(unstable, A/A 3.0% off)" in row) == (control > 1.01) for row in rows)


def test_the_table_says_what_was_searched_on_and_that_peers_ran_at_defaults(monkeypatch):
    monkeypatch.setattr(results, "read", lambda _: kept(1.0))
    text = table.quantization()
    assert "MiniLM-L6 on 77 rows (3 trials)" in text
    assert "24 rows more gate what it ships; peers ran at their defaults" in text
    assert "30 rows each, which no tool has seen" in text
    assert "| another | not run |" in text


def test_older_results_say_that_rows_of_the_gate_are_among_theirs(monkeypatch):
    old = kept(1.0)
    del old["figures"]["setting"]
    old["figures"] |= {"held_out": 300, "rounds": 10}
    monkeypatch.setattr(results, "read", lambda _: old)
    assert "those that gate what edgekd ships (a third of the texts, all images) are a part" in table.quantization()


@pytest.mark.parametrize(("low", "high", "bold"), [(0.1, 2, True), (-2, -0.1, True), (-1, 1, False), (0, 1, False)])
def test_bold_marks_gains_and_losses_clear_of_zero(low, high, bold, monkeypatch):
    arm = {"name": "response", "difference": (low + high) / 2, "low": low, "high": high, "seeds": 3}
    one = {"arms": [arm], "control": {"accuracy": [0.5]}, "labels": 10, "rows": 20, "teacher": 0.9}
    said = {"figures": {"settings": {"text-classification/all": one}}, "host": {"cpu": "a CPU"}, "date": "x"}
    monkeypatch.setattr(results, "read", lambda _: said)
    assert table.clear(arm) == bold
    assert (f"**{arm['difference']:+.1f} [" in table.distillation()) == bold


def test_memory_names_its_baseline():
    figures = {"teacher": {"peak_rss_mib": 142.3}, "shipped": {"peak_rss_mib": 24.2}}
    assert table._memory(figures) == "142 to 24 MiB"
    figures["import_baseline_mib"] = 50.2
    assert table._memory(figures) == "142 to 24 MiB (baseline 50 MiB)"


@pytest.mark.parametrize(("ratio", "says"), [(1.004, ""), (0.984, " (unstable, A/A 1.6% off)")])
def test_the_demos_speeds_say_when_they_are_rough(ratio, says, monkeypatch):
    read = results.read
    one = read("demo")
    one["figures"] |= {"aa_ratio": ratio, "speedup": 7.4, "speedup_interval": [6.8, 8.1]}
    monkeypatch.setattr(results, "read", lambda name: one if name == "demo" else read(name))
    assert f"7.40x [6.80, 8.10]{says} |" in table.demo()
    assert f"7.4x as fast [6.8, 8.1]{says}, " in table.summary()


@pytest.mark.slow
def test_models_are_served_and_timed_side_by_side(tmp_path, monkeypatch):
    """Two processes a model and set, of a tiny model."""
    model = matmul_model(tmp_path / "model.onnx")
    rows = tmp_path / "rows.npz"
    draw = np.random.default_rng(0)
    import onnxruntime

    [given] = onnxruntime.InferenceSession(str(model)).get_inputs()
    shape = [size if isinstance(size, int) else 3 for size in given.shape]
    pack([{given.name: draw.normal(size=shape).astype(np.float32)} for _ in range(6)], rows)
    subject = Subject("feature-extraction", True, model, "", (), rows, {"own": rows, "32": rows}, 0.9, cosines)
    found = {REFERENCE: model, AA: model, OURS: model}
    lengths, tries = quantization.side_by_side(found, subject, dataclasses.replace(QUICK, tries=1))
    assert set(lengths) == {"own", "32"}
    assert tries == {"32": 1}, "of its own length nothing is timed"
    assert all(one["fidelity"]["value"] == pytest.approx(1) for rows in lengths.values() for one in rows.values())
    assert set(lengths["32"][OURS]) == {"fidelity", "ms", "speedup", "over_ours", "size_mib"}
    assert json.loads(json.dumps(lengths)) == lengths
    assert "speedup" not in lengths["own"][OURS]
    assert _rounds.off_by(lengths["own"]) is None
    assert _variants.unsteady(lengths["own"]) == ""
