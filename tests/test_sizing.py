"""Shapes, their cost on paper, and the search for the most capable one that the device has room for."""

import statistics
from dataclasses import replace
from itertools import pairwise

import pytest
from helpers import elsewhere, fast, profile
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import ArtifactTooLarge, OverLatency, OverMemory
from edgekd.core.layers import layer_map
from edgekd.core.protocols import InputSpec, Work
from edgekd.hardware.profile import load_profile
from edgekd.hardware.roofline import ATTAINED, predict_latency
from edgekd.sizing import predictor
from edgekd.sizing.costs import FINALISTS, Candidates, Cost, settle, shown, violations
from edgekd.students.transformer import Transformer

MINILM = {"layers": 6, "hidden": 384, "heads": 12, "feed_forward": 1536, "vocabulary": 30522}
SURVEY = InputSpec(64, (8, 12, 16), vocabulary=5000)
WHOLE = Transformer(6, 384, 12, 1536, 30522, 512, classes=0)


# the shape


@fast
@given(teacher=st.integers(1, 48), data=st.data())
def test_layers_are_spread_evenly_from_first_to_last(teacher, data):
    student = data.draw(st.integers(1, teacher))
    chosen = layer_map(teacher, student)
    assert len(chosen) == student
    assert chosen[0] == 0
    assert student == 1 or chosen[-1] == teacher - 1
    gaps = {after - before for before, after in pairwise(chosen)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 2)


@pytest.mark.parametrize(
    ("shape", "published"),
    [(WHOLE, 22_713_216), (Transformer(12, 768, 12, 3072, 30522, 512, classes=0), 109_482_240)],
    ids=["MiniLM-L6", "BERT-base"],
)
def test_the_number_of_weights_is_the_published_one_within_a_percent(shape, published):
    assert shape.work(32).weights == pytest.approx(published, rel=0.01)


def test_multiply_adds_of_a_tiny_shape_by_hand():
    shape = Transformer(layers=2, hidden=4, heads=2, feed_forward=8, vocabulary=100, max_tokens=16, classes=3)
    # a layer: 3 tokens through four 4x4 and two 4x8 matrices, scores and their sums 3x3x4; then pooler and head
    work = shape.work(3)
    assert work.macs == 2 * 3 * (4 * 16 + 2 * 32) + 16 + 12
    assert work.other_macs == 2 * 2 * 3 * 3 * 4
    larger = replace(shape, vocabulary=5000).work(3)
    assert larger.macs == work.macs, "looking up a token is no multiplication"
    assert larger.lookup_weights - work.lookup_weights == 4900 * 4


def test_the_ladder_goes_from_most_to_least_capable():
    ladder = Transformer.ladder(MINILM, SURVEY, classes=50)
    assert len(ladder) == len(set(ladder)) == 6 * 4 * 2
    assert ladder[0] == replace(WHOLE, vocabulary=5000, max_tokens=64, classes=50)
    assert (ladder[-1].layers, ladder[-1].hidden, ladder[-1].heads, ladder[-1].feed_forward) == (1, 192, 6, 192)
    assert {shape.head_size for shape in ladder} == {32}
    assert [shape.capability for shape in ladder] == sorted((s.capability for s in ladder), reverse=True)
    assert {shape.feed_forward % 64 for shape in ladder} == {0}
    assert Transformer(**ladder[3].as_dict()) == ladder[3]
    assert str(ladder[0]) == "6 layers x 384, ff 1536"


def test_a_narrow_teacher_has_fewer_widths():
    ladder = Transformer.ladder(MINILM | {"feed_forward": 100, "layers": 2, "heads": 3}, SURVEY, classes=2)
    assert [(shape.layers, shape.feed_forward) for shape in ladder] == [(2, 64), (1, 64)]


# the cost


def cost(**values):
    usual = {"kind": "measured", "memory_mib": 20.0, "artifact_mib": 8.0, "latency_ms": 2.0, "speedup": 6.0}
    usual |= {
        "target_latency_ms": 2.0,
        "target_latency_kind": "measured",
        "cold_start_ms": 100.0,
        "memory_parts": {},
        "target_memory_mib": None,
    }
    return Cost(shape=WHOLE.as_dict(), words=str(WHOLE), recipe="dynamic_int8", **usual | values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ()),
        ({"memory_mib": 32.0, "artifact_mib": 16.0, "target_latency_ms": 15.0, "speedup": 5.25}, ()),
        ({"memory_mib": 32.1}, ("memory 32.1 MiB > 32 (+0%)",)),
        ({"artifact_mib": 16.1}, ("artifact 16.1 MiB > 16 (+1%)",)),
        ({"target_latency_ms": 15.5, "target_latency_kind": "predicted"}, ("latency 15.5 ms predicted > 15 (+3%)",)),
        ({"cold_start_ms": 4500.0}, ("cold start 4500.0 ms > 3000 (+50%)",)),
        ({"target_latency_ms": None, "latency_ms": 1e6}, ()),
        ({"speedup": 5.2}, ("speedup 5.20x < 5x with 5% margin",)),
        ({"speedup": 5.6, "speedup_low": 5.25}, ()),
        ({"speedup": 5.6, "speedup_low": 5.1}, ("speedup 5.60x, surely only 5.10x, < 5x with 5% margin",)),
        ({"memory_mib": 99, "speedup": 1}, ("memory 99.0 MiB > 32 (+209%)", "speedup 1.00x < 5x with 5% margin")),
    ],
)
def test_violations_name_every_budget_that_is_exceeded(values, expected):
    assert tuple(one.text for one in violations(cost(**values), profile(), min_speedup=5.0)) == expected


# the prediction for a processor that is not here


def work(macs):
    return Work(0, 0, 0, macs, 0, 0, 0, 0)


def test_a_roofline_by_hand():
    found = predict_latency(work(6_000_000), load_profile("rpi4"), "float32")
    # four multiply-adds a cycle at 1500 MHz: 1 ms at the peak
    assert found.interval == pytest.approx((1 / 0.8, 1 / 0.2))
    assert found.value == pytest.approx(2.5)
    assert (found.unit, found.kind) == ("ms", "predicted")
    assert found.how == (
        "roofline: 6.0 million multiply-adds at 4 a cycle, 1500 MHz, 20% to 80% attained; not checked on a board"
    )


@fast
@given(
    macs=st.integers(1, 10**12),
    target=st.sampled_from(["rpi4", "rpi5", "rpi-zero2w", "cpu-avx2", "cpu-vnni"]).map(load_profile),
)
def test_a_prediction_lies_in_its_band_and_int8_is_no_slower(macs, target):
    plain, int8 = (predict_latency(work(macs), target, recipe) for recipe in ("float32", "static_int8"))
    for found in (plain, int8):
        low, high = found.interval
        assert low < found.value < high
        assert high / low == pytest.approx(ATTAINED[1] / ATTAINED[0])
    assert int8.value < plain.value
    assert predict_latency(work(2 * macs), target, "float32").value == pytest.approx(2 * plain.value)
    slower = target.model_copy(update={"clock_mhz": target.clock_mhz // 2})
    assert predict_latency(work(macs), slower, "float32").value == pytest.approx(2 * plain.value, rel=0.01)


def test_an_unknown_core_goes_by_its_instruction_sets():
    dotprod = profile(microarch="cortex-x9", isa=["asimd", "asimddp"])
    assert predict_latency(work(10**6), dotprod, "float32").how.startswith(
        "roofline: 1.0 million multiply-adds at 8 a cycle"
    )
    nothing = profile(microarch="z80", isa=[])
    assert "at 1 a cycle" in predict_latency(work(10**6), nothing, "dynamic_int8").how


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_gpu_is_not_predicted(provider):
    found = predict_latency(work(10**9), profile(execution_provider=provider, recipes=["float16"]), "float16")
    assert (found.value, found.unit, found.kind, found.n) == (None, "ms", "unknown", 0)
    assert found.how == "no GPU here: unknown until it runs on the device"


# the search, with a bench that measures what was predicted, times a factor that the predictor does not know

LADDER = tuple(Transformer.ladder(MINILM, SURVEY, classes=50))
FIGURES = ("memory_mib", "artifact_mib", "latency_ms", "cold_start_ms")
ROOMY = {"memory_mib": 500.0, "artifact_mib": 500.0, "latency_ms": 500.0, "cold_start_ms": 1e5}


def candidates(target, min_speedup=1.01):
    return Candidates(
        LADDER, target, SURVEY, min_speedup, predictor.load("transformer"), reference_ms=0.2, teacher_ms=20.0
    )


def bench(among, factor=1.0):
    def measure(cost):
        shape = Transformer(**cost.shape)
        figures = {name: getattr(among.predict(shape, cost.recipe), name) for name in FIGURES}
        return [among.measured(shape, cost.recipe, figures | {"memory_mib": figures["memory_mib"] * factor})]

    return measure


def run(among, factor=1.0, tries=1):
    return settle(among, bench(among, factor), tries=tries, most=FINALISTS, classes=50, unit="tokens")


def fitting(among, factor=1.0):
    """The shapes that truly fit, the most capable first."""
    costs = [bench(among, factor)(among.predict(shape, "dynamic_int8"))[0] for shape in LADDER]
    return [cost.shape for cost in costs if not cost.violations]


def test_with_room_for_all_the_most_capable_is_taken(capsys):
    ranked, finalists, warnings = run(candidates(profile(**ROOMY)))
    assert finalists[0].shape == LADDER[0].as_dict()
    assert (len(finalists), len(ranked), warnings) == (1, 48, [])
    assert capsys.readouterr().out == f"measured 1 {LADDER[0]}: {finalists[0].memory_mib:.0f} MiB\n"


@pytest.mark.parametrize("figure", [*FIGURES, "speedup"])
def test_the_choice_is_the_most_capable_that_fits(figure):
    """The budget is what the median shape costs."""
    middle = statistics.median(getattr(cost, figure) for cost in candidates(profile(**ROOMY)).ranked())
    budgets = {} if figure == "speedup" else {figure: middle}
    among = candidates(profile(**ROOMY | budgets), min_speedup=middle if figure == "speedup" else 1.01)
    _, finalists, warnings = run(among)
    room = fitting(among)
    assert 0 < len(room) < len(LADDER)
    assert finalists[0].shape == room[0]
    assert warnings == []


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.1, 1.4])
def test_a_wrong_prediction_is_corrected_by_measuring(factor):
    among = candidates(profile(**ROOMY | {"memory_mib": 30.0}))
    _, finalists, _ = run(among, factor)
    assert finalists[0].violations == ()
    assert finalists[0].shape == fitting(among, factor)[0]


def test_on_a_host_that_slows_down_the_next_shape_has_room_rather_than_being_the_smallest():
    """Each shape is slower than the last one let expect: three finalists miss the speedup."""
    middle = statistics.median(cost.speedup for cost in candidates(profile(**ROOMY)).ranked())
    among, slower = candidates(profile(**ROOMY), min_speedup=middle), iter([1.2, 1.4, 1.6, 1.7, 1.7])

    def measure(cost):
        shape = Transformer(**cost.shape)
        figures = {name: getattr(among.predict(shape, cost.recipe), name) for name in FIGURES}
        return [among.measured(shape, cost.recipe, figures | {"latency_ms": figures["latency_ms"] * next(slower)})]

    ranked, finalists, warnings = settle(among, measure, tries=1, most=FINALISTS, classes=50, unit="tokens")
    assert (finalists[0].violations, warnings) == ((), [])
    assert len([cost for cost in ranked if cost.kind == "measured"]) == FINALISTS + 1
    assert ranked.index(finalists[0]) < len(ranked) - 1, "not the smallest"


def test_tries_measures_the_next_ones_that_fit_too():
    among = candidates(profile(**ROOMY | {"memory_mib": 30.0}))
    _, finalists, _ = run(among, tries=3)
    assert [cost.shape for cost in finalists] == fitting(among)[:3]


def test_a_guests_larger_figure_counts_and_is_refused_as_memory():
    here = profile(**ROOMY | {"memory_mib": 18.0})
    among = candidates(here)

    def measure(cost):
        shape = Transformer(**cost.shape)
        figures = {name: getattr(among.predict(shape, cost.recipe), name) for name in FIGURES}
        return [among.measured(shape, cost.recipe, figures | {"memory_mib": 17.5, "target_memory_mib": 18.5})]

    with pytest.raises(OverMemory, match=r"budget 18 MiB of memory; .* needs 1[89] MiB"):
        settle(among, measure, tries=1, most=FINALISTS, classes=50, unit="tokens")


@pytest.mark.parametrize("recipes", [["static_int8"], ["weight_int8"], ["float32"], ["float32", "static_int8"]])
def test_any_recipe_of_a_profile_can_be_planned(recipes):
    among = candidates(profile(**ROOMY | {"recipes": recipes}))
    assert among.recipes == (recipes[-1],)
    assert all(cost.memory_mib > 0 for cost in among.ranked())


def test_the_parts_of_memory_add_up():
    for cost in candidates(profile(**ROOMY)).ranked():
        assert list(cost.memory_parts) == ["weights", "packed copies", "activations", "runtime"]
        assert min(cost.memory_parts.values()) >= 0
        assert sum(cost.memory_parts.values()) == pytest.approx(cost.memory_mib)


@pytest.mark.parametrize(
    ("budgets", "error", "message", "fix"),
    [
        (
            {"memory_mib": 10.0},
            OverMemory,
            "budget 10 MiB of memory; {what} needs {memory:.0f} MiB: ",
            "trim the vocabulary (--vocabulary 1250) or raise memory_mib to at least {more_memory:.0f}",
        ),
        (
            {"artifact_mib": 0.5},
            ArtifactTooLarge,
            "budget 0.5 MiB of file; {what} takes {artifact:.1f} MiB",
            "trim the vocabulary (--vocabulary 1250) or raise artifact_mib to at least {more_artifact:.1f}",
        ),
        (
            {"latency_ms": 0.01},
            OverLatency,
            "budget 0.01 ms; {what} takes {latency:.2f} ms at 12 tokens on this host",
            "raise latency_ms to at least {more_latency:.2f}, give smaller inputs, "
            "or allow more threads in the profile",
        ),
        (
            {"cold_start_ms": 1.0},
            OverLatency,
            "budget 1 ms of cold start; {what} takes {cold:.0f} ms on this host",
            "raise cold_start_ms to at least {more_cold:.0f}",
        ),
    ],
)
def test_no_room_even_for_the_smallest_is_refused_with_arithmetic(budgets, error, message, fix):
    among = candidates(profile(**ROOMY | budgets))
    with pytest.raises(error) as refusal:
        run(among)
    smallest = among.predict(LADDER[-1], "dynamic_int8")
    numbers = {
        "what": "the smallest transformer with 50 classes and 5,000 tokens",
        "memory": smallest.memory_mib,
        "more_memory": smallest.memory_mib + 1,
        "artifact": smallest.artifact_mib,
        "more_artifact": smallest.artifact_mib + 0.1,
        "latency": smallest.latency_ms,
        "more_latency": smallest.latency_ms * 1.1,
        "cold": smallest.cold_start_ms,
        "more_cold": smallest.cold_start_ms * 1.1,
    }
    assert refusal.value.message.startswith(message.format(**numbers))
    assert refusal.value.fix == fix.format(**numbers)


def test_the_sums_of_an_over_memory_refusal_add_up():
    with pytest.raises(OverMemory, match=r"needs (\d+) MiB: (\d+) weights, (\d+) packed copies, (\d+) act") as said:
        run(candidates(profile(**ROOMY | {"memory_mib": 0.001})))
    total, *parts = (int(word) for word in said.value.message.partition("tokens needs")[2].split() if word.isdigit())
    assert abs(total - sum(parts)) <= 2  # each is rounded


def test_a_wish_that_cannot_be_met_only_warns():
    _, finalists, warnings = run(candidates(profile(**ROOMY), min_speedup=1e5))
    assert finalists[0].shape == LADDER[-1].as_dict()
    assert len(warnings) == 1
    assert warnings[0].startswith("no shape meets: speedup ")
    assert warnings[0].endswith("< 100000x with 5% margin; the smallest was taken")


def test_a_predicted_latency_only_warns():
    _, finalists, warnings = run(candidates(elsewhere(**ROOMY | {"latency_ms": 0.001})))
    assert finalists[0].shape == LADDER[-1].as_dict()
    assert [warning.partition(" ms ")[2].partition(" (+")[0] for warning in warnings] == ["predicted > 0.001"]


def test_the_table_shows_the_choice_among_its_neighbours():
    among = candidates(profile(**ROOMY | {"memory_mib": 28.0}))
    ranked, finalists, _ = run(among)
    listed = shown(ranked, finalists[0])
    assert [cost.shape for cost in ranked if cost in listed] == [cost.shape for cost in listed]
    assert finalists[0] in listed
    assert listed[0].violations
    assert listed[-1].shape == LADDER[-1].as_dict()
    assert len(listed) < len(ranked)
