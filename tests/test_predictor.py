"""The predictor: what it is fitted to it gives back, its error is cross-validated, and it says whose anchors it has."""

import dataclasses
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import Work
from edgekd.core.registry import names, plugin
from edgekd.core.results import this_host
from edgekd.sizing import anchors, predictor
from edgekd.sizing.predictor import FIGURES, Predictor, features, fit
from edgekd.sizing.successive_halving import halve


def work(random: np.random.Generator) -> Work:
    return Work(*(int(10 ** random.uniform(4, 7.6)) for _ in dataclasses.fields(Work)))


def readings(noise: float, count: int = 40) -> list[dict]:
    """Anchors whose figures are known sums of what they do, times noise."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        own = work(random)
        figures = {}
        for figure in FIGURES:
            terms = features(figure, "static_int8", own)
            figures[figure] = sum(weight * term for weight, term in enumerate(terms, start=1))
            figures[figure] *= 1 + noise * random.standard_normal()
        ratio = figures.pop("latency_ratio")
        run = {"size": 1, "work": asdict(own)}
        made.append(
            {
                "family": "f",
                "recipe": "static_int8",
                "name": str(number),
                **figures,
                "headline": run,
                "runs": [run | {"latency_ratio": ratio}],
            }
        )
    return made


def anchor_file(path, host, fits, schema=predictor.SCHEMA):
    path.write_text(json.dumps({"schema": schema, "host": host, "fits": fits, "readings": []}))


def known(fits: dict) -> Predictor:
    here = this_host()
    host = {"cpu": here.cpu, "arch": here.arch, "ort_version": here.ort_version}
    return Predictor(host, fits, None)


def test_a_sum_is_found_again():
    said = fit(readings(noise=0.0))["f/static_int8"]
    assert said["n"] == 40
    for figure in FIGURES:
        coefficients = said[figure]["coefficients"]
        assert coefficients == pytest.approx(range(1, len(coefficients) + 1), rel=1e-3)
        assert said[figure]["p90"] < 1e-6


def test_the_error_is_of_shapes_that_the_fit_never_saw():
    """A wild anchor is predicted from the others: its own value does not reach its prediction."""
    calm = readings(noise=0.02)
    said = fit(calm)["f/static_int8"]
    assert 0.01 < said["memory_mib"]["p90"] < 0.1
    wild = [calm[0] | {"memory_mib": 50 * calm[0]["memory_mib"]}, *calm[1:]]
    checked = fit(wild)["f/static_int8"]["checked"][0]["memory_mib"]
    assert checked[0] == pytest.approx(50 * calm[0]["memory_mib"])
    assert checked[1] == pytest.approx(said["checked"][0]["memory_mib"][1])


@fast
@given(seed=st.integers(0, 1000))
def test_the_parts_of_predicted_memory_add_up(seed):
    prediction = known(fit(readings(noise=0.0, count=20))).predict(
        "f", "static_int8", work(np.random.default_rng(seed))
    )
    assert sum(prediction.memory_parts.values()) == pytest.approx(prediction.memory_mib)
    assert min(prediction.memory_parts.values()) >= 0


def test_what_was_never_measured_is_refused_with_the_command():
    with pytest.raises(EdgeKDError, match="no shape of the g family was ever measured under static_int8") as refusal:
        known({}).predict("g", "static_int8", work(np.random.default_rng(0)))
    assert refusal.value.fix == "run `edgekd doctor --fix predictor`, once"


def test_the_likest_host_is_taken(tmp_path, monkeypatch):
    here = this_host()
    own = {"cpu": here.cpu, "arch": here.arch, "ort_version": here.ort_version}
    files = {"a": own | {"arch": "z80"}, "b": own | {"ort_version": "0"}, "c": own | {"cpu": "other"}, "d": own}
    monkeypatch.setattr(predictor, "folders", lambda: (tmp_path / "none", tmp_path))
    for last in "abcd":
        anchor_file(tmp_path / f"{last}.json", files[last], {"f/float32": {}})
        predictor.load.cache_clear()
        assert predictor.load("f").path.stem == last, "each is more like this host than those before"
        assert predictor.load("f").is_own is (last == "d")
    predictor.load.cache_clear()


def test_a_file_that_cannot_serve_does_not_count(tmp_path, monkeypatch):
    """Still being measured, of another schema, damaged: another host's anchors are better than those."""
    here = this_host()
    own = {"cpu": here.cpu, "arch": here.arch, "ort_version": here.ort_version}
    monkeypatch.setattr(predictor, "folders", lambda: (tmp_path,))
    anchor_file(tmp_path / "other.json", own | {"cpu": "other"}, {"f/float32": {}})
    anchor_file(tmp_path / "stopped.json", own, {})
    anchor_file(tmp_path / "old.json", own, {"f/float32": {}}, schema=predictor.SCHEMA - 1)
    (tmp_path / "damaged.json").write_text("{")
    anchor_file(tmp_path / "another.json", own, {"g/float32": {}})
    predictor.load.cache_clear()
    assert predictor.load("f").path.stem == "other"
    predictor.load.cache_clear()


@pytest.mark.parametrize(
    ("recipe", "stands_in"),
    [("static_int8", "dynamic_int8"), ("dynamic_int8", "dynamic_int8"), ("float16", "float32"), ("float32", "float32")],
)
def test_a_recipe_that_was_not_measured_has_a_stand_in(recipe, stands_in):
    fits = {"f/float32": {"checked": "float32"}, "f/dynamic_int8": {"checked": "dynamic_int8"}}
    assert known(fits).knows("f", recipe)
    assert known(fits).checked("f", recipe) == stands_in


def test_the_shipped_anchors_know_every_family():
    predictor.load.cache_clear()
    for family in names("students"):
        shipped = predictor.load(family)
        for recipe in anchors.recipes(family):
            assert shipped.knows(family, recipe)
            assert len(shipped.checked(family, recipe)) >= min(30, anchors.FEW.get(family, 30))


@pytest.mark.parametrize("family", names("students"))
def test_anchors_span_their_family(family):
    shapes = anchors.chosen(family, 12)
    assert len(set(shapes)) == min(12, anchors.FEW.get(family, 12))
    kind = plugin("students", family)
    assert all(isinstance(shape, kind) for shape in shapes)
    weights = [shape.work(shape.max_size).weights for shape in shapes]
    assert max(weights) > (2 if family in anchors.FEW else 50) * min(weights)


def test_measuring_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """Killed after two shapes, the second run measures the rest only, and then fits."""
    out, seen = tmp_path / "host.json", []

    def read(family, shape):
        if len(seen) == 2 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        seen.append(str(shape))
        own = asdict(shape.work(shape.max_size))
        run = {"size": 1, "work": own}
        return [
            {
                "family": family,
                "name": anchors._name(shape),
                "recipe": recipe,
                "memory_mib": 1.0,
                "headline": run,
                "artifact_mib": 1.0,
                "cold_start_ms": 1.0,
                "runs": [run | {"latency_ratio": 1.0}],
            }
            for recipe in anchors.recipes(family)
        ]

    monkeypatch.setattr(anchors, "read", read)
    with pytest.raises(KeyboardInterrupt):
        anchors.measure(str(out), ["mlp"], count=5)
    (tmp_path / "again").touch()
    anchors.measure(str(out), ["mlp"], count=5)
    assert len(seen) == len(set(seen)) == 5
    assert set(json.loads(out.read_text())["fits"]) == {"mlp/float32", "mlp/dynamic_int8"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("measured 5 of 5: mlp, ")


@pytest.mark.parametrize(
    ("scores", "best", "runs"),
    [
        ([0.5], 0, []),
        ([0.5, 0.6], 1, [(0, 8), (1, 8)]),
        ([0.5, 0.5], 0, [(0, 8), (1, 8)]),
        ([0.1, 0.4, 0.3, 0.2], 1, [(0, 4), (1, 4), (2, 4), (3, 4), (1, 8), (2, 8)]),
        ([0.1, 0.2, 0.3], 2, [(0, 4), (1, 4), (2, 4), (2, 8), (1, 8)]),
    ],
)
def test_the_better_half_goes_on_with_twice_the_epochs(scores, best, runs):
    shapes = [SimpleNamespace(words=str(number), score=score) for number, score in enumerate(scores)]
    left, tried = halve(shapes, 16, lambda shape, epochs: shape.score)
    assert left is shapes[best]
    assert [(int(run.words), run.epochs) for run in tried] == runs
