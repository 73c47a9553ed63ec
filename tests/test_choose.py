"""Which variant ships: a table of cases, and for each refusal its exit code."""

import re

import pytest
from helpers import elsewhere, fast, profile
from hypothesis import given
from hypothesis import strategies as st

from edgekd.compression.choose import OnTarget, Trial, choose, violations
from edgekd.core import errors
from edgekd.core.violations import ERRORS, Violation

BUDGETS = {
    "memory_mib": 32.0,
    "artifact_mib": 16.0,
    "latency_ms": 10.0,
    "max_drop_points": 1.0,
    "min_teacher_agreement": 0.8,
}
HERE, ELSEWHERE = profile(**BUDGETS), elsewhere(**BUDGETS)


def trial(recipe="float32", **values):
    usual = {"agreement": 0.95, "drop_points": 0.0, "speed": 1.0, "latency_ms": 5.0, "peak_rss_mib": 20.0}
    return Trial(recipe, **usual | {"artifact_mib": 10.0} | values)


def int8(**values):
    return trial("dynamic_int8", **{"speed": 2.0} | values)


def static(**values):
    return trial("static_int8", **{"speed": 1.5} | values)


def raised(budget):
    return f"raise {budget} in the profile"


@pytest.mark.parametrize(
    ("trials", "recipe", "why", "passed_over"),
    [
        ([trial()], "float32", "no quantized variant is both allowed and faster", {}),
        (
            [trial(), int8(drop_points=0.4)],
            "dynamic_int8",
            "2.00x the speed of fp32 at +0.4 points lost",
            {"float32": "2.00x slower than dynamic_int8"},
        ),
        (
            [trial(), int8(drop_points=-0.3), static()],
            "dynamic_int8",
            "2.00x the speed of fp32 at -0.3 points lost",
            {"float32": "2.00x slower than dynamic_int8", "static_int8": "1.33x slower than dynamic_int8"},
        ),
        # slower int8 never ships while fp32 may, nor an equally fast one
        (
            [trial(), int8(speed=0.8)],
            "float32",
            "no quantized variant is both allowed and faster",
            {"dynamic_int8": "1.25x slower than float32"},
        ),
        (
            [int8(speed=1.0), trial()],
            "float32",
            "no quantized variant is both allowed and faster",
            {"dynamic_int8": "1.00x slower than float32"},
        ),
        # below a floor never ships, however fast
        (
            [trial(), int8(drop_points=1.1)],
            "float32",
            "no quantized variant is both allowed and faster",
            {"dynamic_int8": "loses 1.1 points > 1 allowed"},
        ),
        (
            [trial(), int8(agreement=0.799), static()],
            "static_int8",
            "1.50x the speed of fp32 at +0.0 points lost",
            {"dynamic_int8": "agreement with the teacher 79.9% < 80.0%", "float32": "1.50x slower than static_int8"},
        ),
        (
            [trial(), int8(drop_points=1.0, agreement=0.8)],
            "dynamic_int8",
            "2.00x the speed of fp32 at +1.0 points lost",
            {"float32": "2.00x slower than dynamic_int8"},
        ),
        # fp32 over a budget while int8 fits
        (
            [trial(peak_rss_mib=33.0), int8()],
            "dynamic_int8",
            "fits the budgets, which fp32 does not, at 2.00x the speed of fp32",
            {"float32": "peak memory 33.0 MiB > 32"},
        ),
        (
            [trial(artifact_mib=17.0, latency_ms=11.0), int8(speed=0.9)],
            "dynamic_int8",
            "fits the budgets, which fp32 does not, at 0.90x the speed of fp32",
            {"float32": "file 17.0 MiB > 16; latency 11.00 ms > 10"},
        ),
        # a recipe that failed is told, and does not count
        (
            [trial(), int8(failed="quantized nothing", speed=99.0)],
            "float32",
            "no quantized variant is both allowed and faster",
            {"dynamic_int8": "failed: quantized nothing"},
        ),
    ],
)
def test_what_ships(trials, recipe, why, passed_over):
    choice = choose(trials, HERE)
    assert (choice.name, choice.why, choice.passed_over) == (recipe, why, passed_over)


@pytest.mark.parametrize(
    ("trials", "error", "exit_code", "message", "fix"),
    [
        ([trial(peak_rss_mib=40.0)], errors.OverMemory, 3, "float32 peak memory 40.0 MiB > 32", raised("memory_mib")),
        ([trial(latency_ms=10.5)], errors.OverLatency, 4, "float32 latency 10.50 ms > 10", raised("latency_ms")),
        (
            [trial(agreement=0.5)],
            errors.BelowAccuracy,
            5,
            "float32 agreement with the teacher 50.0% < 80.0%",
            "lower min_teacher_agreement in the profile",
        ),
        ([trial(artifact_mib=16.1)], errors.ArtifactTooLarge, 6, "float32 file 16.1 MiB > 16", raised("artifact_mib")),
        # the variant with the fewest violations decides
        (
            [trial(peak_rss_mib=40.0, artifact_mib=20.0), int8(drop_points=3.0)],
            errors.BelowAccuracy,
            5,
            "dynamic_int8 loses 3.0 points > 1 allowed; float32 peak memory 40.0 MiB > 32; file 20.0 MiB > 16",
            "lower max_drop_points in the profile",
        ),
        (
            [trial(peak_rss_mib=40.0), static(failed="no rows")],
            errors.OverMemory,
            3,
            "float32 peak memory 40.0 MiB > 32; static_int8 failed: no rows",
            raised("memory_mib"),
        ),
    ],
)
def test_what_is_refused(trials, error, exit_code, message, fix):
    with pytest.raises(error) as refusal:
        choose(trials, HERE)
    assert refusal.value.as_dict() == {"error": f"no variant may ship: {message}", "fix": fix, "exit": exit_code}


def test_of_any_graph_the_low_end_of_its_fidelity_holds_the_floor():
    lucky = int8(agreement=0.83, agreement_interval=(0.79, 0.87), by_low_end=True)
    choice = choose([trial(agreement=1.0, agreement_interval=(0.7, 1.0), by_low_end=True), lucky], HERE)
    assert choice.name == "float32", "rows without any spread are as they are"
    assert choice.passed_over["dynamic_int8"] == (
        "agreement with the teacher, by the low end of its interval, 79.0% < 80.0%"
    )
    assert choose([trial(), int8(agreement=0.83, agreement_interval=(0.79, 0.87))], HERE).name == "dynamic_int8"


def test_a_latency_from_another_architecture_refuses_nothing():
    slow = trial(latency_ms=1000.0)
    assert violations(slow, HERE) == [Violation("latency_ms", 1000.0, 10.0, "measured", "latency 1000.00 ms > 10")]
    assert violations(slow, ELSEWHERE) == []
    assert choose([slow], ELSEWHERE).name == "float32"


def test_each_budget_has_an_error_with_an_exit_code_of_its_own_kind():
    assert {budget: error.exit_code for budget, error in ERRORS.items()} == {
        "memory_mib": 3,
        "artifact_mib": 6,
        "latency_ms": 4,
        "cold_start_ms": 4,
        "max_drop_points": 5,
        "min_teacher_agreement": 5,
    }
    assert set(ERRORS) <= set(HERE.as_dict())


@pytest.mark.parametrize(
    ("budget", "kind", "refuses"),
    [
        ("memory_mib", "predicted", True),
        ("latency_ms", "predicted", False),
        ("latency_ms", "measured", True),
        ("min_speedup", "measured", False),
    ],
)
def test_no_words_decide_whether_a_violation_refuses(budget, kind, refuses):
    assert Violation(budget, 2.0, 1.0, kind, " predicted memory artifact").refuses is refuses


near = st.sampled_from([0.5, 0.9, 1.0, 1.1, 2.0])  # of a budget
trials = st.builds(
    Trial,
    name=st.just("float32"),
    agreement=st.sampled_from([0.7, 0.8, 0.9]),
    drop_points=st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
    speed=near,
    latency_ms=near.map(lambda n: 10 * n),
    peak_rss_mib=near.map(lambda n: 32 * n),
    artifact_mib=near.map(lambda n: 16 * n),
)


@fast
@given(plain=trials, others=st.lists(trials, max_size=3))
def test_what_ships_is_allowed_and_nothing_allowed_is_faster(plain, others):
    table = [plain, *(Trial(**vars(other) | {"name": f"recipe{n}"}) for n, other in enumerate(others))]
    allowed = {each.name: each for each in table if not violations(each, HERE)}
    if not allowed:
        with pytest.raises((errors.OverMemory, errors.OverLatency, errors.BelowAccuracy, errors.ArtifactTooLarge)):
            choose(table, HERE)
        return
    choice = choose(table, HERE)
    assert allowed[choice.name].speed == max(each.speed for each in allowed.values())
    assert set(choice.passed_over) == {each.name for each in table} - {choice.name}


def test_the_tree_of_errors_in_the_docstring_is_true():
    said = dict(re.findall(r"(\w+) +exit (\d)", errors.__doc__))
    classes = {cls.__name__: cls for cls in (errors.EdgeKDError, *errors.EdgeKDError.__subclasses__())}
    assert said == {name: str(cls.exit_code) for name, cls in classes.items() if cls.__module__ == errors.__name__}


def test_an_error_carries_its_way_out():
    error = errors.UsageError("it is wrong", fix="do this")
    assert str(error) == "it is wrong\n  fix: do this"
    assert error.as_dict() == {"error": "it is wrong", "fix": "do this", "exit": 2}
    with pytest.raises(TypeError, match="fix"):
        errors.EdgeKDError("no way out")


def there(cost=None, **values):
    """What the target's own kernels and core showed of a variant."""
    usual = {"n": 100, "agreement": 1.0, "agreement_interval": (0.99, 1.0), "drop_points": 0.0, "flips": 0}
    return OnTarget(**usual | {"drop_interval": (-1.0, 1.0), "largest_difference": 0.1, "cost": cost} | values)


def test_the_targets_kernels_overrule_this_hosts_accuracy():
    spoiled = int8(on_target=there(drop_points=1.4))
    choice = choose([trial(on_target=there()), spoiled, static(on_target=there())], HERE)
    assert choice.name == "static_int8"
    assert choice.passed_over["dynamic_int8"] == f"loses 1.4 points on {HERE.arch} > 1 allowed"
    mended = int8(drop_points=3.0, agreement=0.7, on_target=there(drop_points=0.2, agreement=0.9))
    assert choose([trial(on_target=there()), mended], HERE).why == "2.00x the speed of fp32 at +0.2 points lost"


def test_instructions_on_the_target_rank_before_this_hosts_clock():
    slower_there = int8(on_target=there(cost=5.2))
    leaner = static(on_target=there(cost=0.61))
    choice = choose([trial(on_target=there(cost=1.0)), slower_there, leaner], HERE)
    assert (choice.name, choice.why) == ("static_int8", "0.61x the instructions of fp32 at +0.0 points lost")
    assert choice.passed_over["dynamic_int8"] == "8.52x the instructions of static_int8"
    alone = choose([trial(on_target=there(cost=1.0)), slower_there], HERE)
    assert alone.name == "float32"
    assert alone.passed_over["dynamic_int8"] == "5.20x the instructions of float32"


def test_a_near_tie_is_not_decided_by_the_clock():
    """Two runs of one build on a busy machine: what ships is the same."""
    first = [trial(speed=1.01, speed_interval=(0.99, 1.04)), int8(speed=1.0, speed_interval=(0.99, 1.02))]
    second = [trial(speed=0.97, speed_interval=(0.93, 1.02)), int8(speed=1.0, speed_interval=(0.98, 1.03))]
    assert choose(first, HERE).name == choose(second, HERE).name == "float32"
    assert choose(second, HERE).passed_over["dynamic_int8"] == (
        "not surely faster than float32: 1.00x, at least 0.98x; float32 strays by 8% from itself"
    )
    surely = [trial(speed=0.97, speed_interval=(0.93, 1.02)), int8(speed=1.2, speed_interval=(1.1, 1.3))]
    assert choose(surely, HERE).name == "dynamic_int8", "faster by more than fp32 strays from itself"
    strays = choose([trial(speed_interval=(0.7, 1.0)), surely[1]], HERE)
    assert strays.name == "float32"
    assert strays.passed_over["dynamic_int8"].endswith("1.20x, at least 1.10x; float32 strays by 43% from itself")


def test_of_variants_that_timing_cannot_tell_apart_the_most_accurate_ships():
    quick = int8(speed=2.0, speed_interval=(1.9, 2.1), drop_points=0.8)
    careful = static(speed=1.95, speed_interval=(1.85, 2.05), drop_points=0.1)
    plain = trial(speed_interval=(0.99, 1.01))
    for one, other in ((2.0, 1.95), (1.95, 2.0)):  # whichever the clock favours
        pair = [
            int8(speed=one, speed_interval=(one - 0.1, one + 0.1), drop_points=0.8),
            static(speed=other, speed_interval=(other - 0.1, other + 0.1), drop_points=0.1),
        ]
        assert choose([plain, *pair], HERE).name == "static_int8"
    choice = choose([plain, quick, careful], HERE)
    assert choice.passed_over["dynamic_int8"] == "not surely faster than static_int8, nor more accurate"
    slow = static(speed=1.7, speed_interval=(1.6, 1.8), drop_points=0.1)
    assert choose([plain, quick, slow], HERE).name == "dynamic_int8"
