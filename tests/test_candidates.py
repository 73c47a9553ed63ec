"""What a search tries next: a table of cases over measurements, no model anywhere."""

import pytest
from helpers import profile

from edgekd.compression.candidates import (
    Candidate,
    between,
    foundations,
    ladder,
    recipes,
    recoverable,
    settings,
    variant,
)
from edgekd.compression.choose import Trial, best_so_far, choose, pareto, recipe_of
from edgekd.core.errors import UsageError
from edgekd.core.registry import make

TARGET = profile(
    memory_mib=32.0,
    artifact_mib=16.0,
    latency_ms=10.0,
    max_drop_points=1.0,
    min_teacher_agreement=0.9,
    recipes=["float32", "dynamic_int8", "static_int8"],
)
PLACES = [(f"place {number}", (f"node{number}",)) for number in range(1, 7)]


def trial(name="float32", **values):
    usual = {"agreement": 0.95, "drop_points": 0.0, "speed": 1.0, "latency_ms": 5.0, "peak_rss_mib": 20.0}
    return Trial(name, **usual | {"artifact_mib": 10.0} | values)


def poor(name, speed, **values):
    return trial(name, speed=speed, agreement=0.5, **values)


def test_names_say_what_a_candidate_is():
    base = Candidate("static_int8", (("method", "percentile"), ("per_channel", False)))
    assert base.name == "static_int8-percentile-no_per_channel"
    kept = ladder(base, PLACES)[1]
    assert kept.name == "static_int8-percentile-no_per_channel-float2"
    assert kept.words == "percentile, no_per_channel, in float: place 1, place 2"
    assert recipe_of(kept.name) == "static_int8"


def test_a_variants_file_has_the_name_that_transformers_js_expects(tmp_path):
    made = variant(tmp_path, "dynamic_int8-float3", make("tasks", "text-classification"))
    assert made.file == tmp_path / "dynamic_int8-float3" / "model_quantized.onnx"
    assert variant(tmp_path, "float32", make("tasks", "text-classification")).file.name == "model.onnx"


def test_fp32_comes_first_and_a_forced_recipe_is_tried():
    assert [one.name for one in recipes(TARGET)] == ["float32", "dynamic_int8", "static_int8"]
    assert [one.name for one in recipes(TARGET, "weight_int8")][-1] == "weight_int8"
    assert len(recipes(TARGET, "static_int8")) == 3


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        ([trial(), poor("dynamic_int8", 2.0), poor("static_int8", 3.0)], ["static_int8", "dynamic_int8"]),
        # a slower one is never worth it, unless fp32 does not fit
        ([trial(), poor("dynamic_int8", 0.9)], []),
        ([trial(peak_rss_mib=40.0), poor("dynamic_int8", 0.9)], ["dynamic_int8"]),
        # nor one that is slower than what ships already
        ([trial(), trial("dynamic_int8", speed=2.0), poor("static_int8", 1.5)], []),
        ([trial(), trial("dynamic_int8", speed=2.0), poor("static_int8", 2.5)], ["static_int8"]),
        # accuracy is all that leaving layers in float mends
        ([trial(), poor("dynamic_int8", 2.0, peak_rss_mib=40.0)], []),
        ([trial(), Trial.failure("static_int8", "no rows")], []),
        # surely faster: the lower end of its interval decides
        ([trial(), poor("dynamic_int8", 1.05, speed_interval=(0.98, 1.1))], []),
    ],
)
def test_what_is_worth_mending(trials, names):
    assert [one.name for one in recoverable(trials, TARGET)] == names


def test_one_setting_of_a_recipe_is_mended():
    own, other = poor("static_int8", 2.0), poor("static_int8-percentile", 2.1)
    kept = trial("static_int8-float2", speed=1.9, kept=("a", "b"))
    assert foundations([other, own, kept]) == [own], "the profile's own, whatever the order"
    better = trial("static_int8-percentile", speed=2.0, agreement=0.7)
    assert foundations([own, better]) == foundations([better, own]) == [better]
    assert foundations([own, poor("dynamic_int8", 1.5)]) == [own, poor("dynamic_int8", 1.5)]


def test_a_ladder_keeps_ever_more_and_ends_with_all():
    rungs = ladder(Candidate("dynamic_int8"), PLACES)
    assert [len(rung.keep) for rung in rungs] == [1, 2, 4, 6]
    assert rungs[-1].places == tuple(words for words, _ in PLACES)
    assert ladder(Candidate("dynamic_int8"), []) == []


def test_between_two_rungs_lies_the_middle():
    base = Candidate("dynamic_int8")
    assert between(base, PLACES, 2, 4).keep == ("node1", "node2", "node3")
    assert between(base, PLACES, 2, 3) is None
    assert between(base, PLACES, 0, 1) is None


def test_nodes_of_two_places_are_kept_once():
    [rung] = ladder(Candidate("dynamic_int8"), [("both", ("a", "b", "a"))])
    assert rung.keep == ("a", "b")


def test_settings_are_the_recipes_own_variants():
    base = Candidate("static_int8")
    made = settings(base, TARGET)
    assert made, "static int8 has settings worth a trial"
    for one in made:
        assert one.quantizer(TARGET) != base.quantizer(TARGET)
        assert one.name.startswith("static_int8-")
    assert len({one.name for one in made}) == len(made)


def test_the_pareto_front_holds_what_nothing_beats():
    front = [trial(), trial("a", speed=2.0, agreement=0.9), trial("b", speed=1.5, agreement=0.92)]
    beaten = [trial("c", speed=1.5, agreement=0.91), Trial.failure("d", "broken")]
    assert pareto([*front, *beaten]) == ("float32", "a", "b")
    twins = [trial("a"), trial("b")]
    assert pareto(twins) == ("a", "b"), "equals do not beat each other"


def test_a_forced_recipe_ships_with_what_stands_against_it():
    trials = [trial(), poor("static_int8", 2.0), trial("static_int8-float2", speed=1.5), poor("dynamic_int8", 2.5)]
    choice = choose(trials, TARGET, force="static_int8")
    assert (choice.name, choice.forced, choice.against) == ("static_int8-float2", True, ())
    choice = choose(trials, TARGET, force="dynamic_int8")
    assert choice.against == ("agreement with the teacher 50.0% < 90.0%",)
    assert choice.why == ("forced against: agreement with the teacher 50.0% < 90.0%; 2.50x the speed of fp32")
    assert choice.passed_over["float32"] == "dynamic_int8 was forced"
    assert best_so_far(trials, TARGET, "dynamic_int8") == "dynamic_int8"


def test_forcing_what_could_not_be_made_is_refused():
    with pytest.raises(UsageError, match="--force static_int8: there is no such variant: no rows") as refusal:
        choose([trial(), Trial.failure("static_int8", "no rows")], TARGET, force="static_int8")
    assert refusal.value.fix == "force another recipe, or none"


def test_faster_within_noise_is_not_faster():
    close = trial("dynamic_int8", speed=1.05, speed_interval=(0.97, 1.12))
    choice = choose([trial(), close], TARGET)
    assert choice.name == "float32"
    assert choice.passed_over["dynamic_int8"] == "not surely faster than float32: 1.05x, at least 0.97x"
