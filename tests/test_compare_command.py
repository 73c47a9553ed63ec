"""`edgekd compare`: a paired verdict, and none where none can be had."""

import json

import numpy as np
import pytest
from conftest import invoke, run
from helpers import WIDTH, random_weights, save_graph
from made_bundle import Board, make_bundle
from onnx import helper

from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.core.protocols import NullProgress
from edgekd.receipts import compare
from edgekd.receipts.shipped import DataFile

LAYERS = 40
ROWS = 0.5 + np.random.default_rng(0).random(100)  # in ms: inputs of many sizes
STEADY = (1.0, 0.999, 1.001)


def heavy_model(path):
    """The shape of the tiny model, with many more layers."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(LAYERS)]
    nodes += [
        helper.make_node("ReduceMean", [f"h{LAYERS}"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["y"]),
    ]
    weights = random_weights(WIDTH, WIDTH) / np.float32(2)
    return save_graph(path, nodes, [1, 4], w=weights, v=random_weights(WIDTH, 4))


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "light-here")


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "heavy-here", model=heavy_model)


@pytest.fixture
def here(monkeypatch):
    """Bundles are timed in this process."""
    monkeypatch.setattr(compare, "device_at", lambda *words, **options: ("board", Board()))


def noise(size):
    return 1 + 0.01 * np.random.default_rng(1).standard_normal(size)


@pytest.mark.parametrize(
    ("factor", "control", "says"),
    [
        (1.8, STEADY, "B is faster than A by "),
        (0.4, STEADY, "B is slower than A by "),
        (1.0, STEADY, "B against A: no difference shown ("),
        (1.005, STEADY, "B against A: no difference shown"),
        (1.1, (1.15, 1.1, 1.2), "B against A: no difference shown ("),
    ],
    ids=["faster", "slower", "equal", "within 1%", "within the control's own"],
)
def test_a_verdict_is_paired_and_widened_by_what_a_model_differs_from_itself(factor, control, says):
    found = compare.verdict("B", ROWS, ROWS / factor * noise(len(ROWS)), control)
    assert found.says.startswith(says)
    assert found.ratio == pytest.approx(factor, rel=0.02)
    assert found.low < found.ratio < found.high
    assert (found.verdict == "no difference shown") == (found.low <= 1 <= found.high)


def test_the_interval_of_a_verdict_holds_its_ratio():
    found = compare.verdict("B", ROWS, 2 * ROWS * noise(len(ROWS)), STEADY)
    assert found.ratio == pytest.approx(0.5, rel=0.05)
    assert found.says == f"B is slower than A by {1 / found.ratio:.2f}x [{1 / found.high:.2f}, {1 / found.low:.2f}]"


def test_a_bundle_against_itself_shows_no_difference(heavy):
    found = compare.compare([heavy, heavy], NullProgress())
    (verdict,) = found.verdicts
    assert verdict.verdict == "no difference shown", verdict.says
    assert (found.rows, found.runs, len(found.sides)) == (16, 4 * 5 * 16, 2)


def test_a_heavier_bundle_is_slower_and_each_side_has_its_figures(light, heavy, here):
    found = compare.compare([light, heavy, light], NullProgress())
    slow, same = found.verdicts
    assert slow.says.startswith("B is slower than A by ")
    assert slow.ratio < 0.7
    assert same.verdict == "no difference shown", same.says
    first, second, third = found.sides
    assert second.p50_ms > first.p50_ms
    assert (first.artifact_mib, first.metric, first.metric_value) == (third.artifact_mib, "accuracy", 0.9)
    assert {one.peak_rss_mib for one in found.sides} == {8.0}
    assert json.dumps(found.as_dict())


def test_what_cannot_be_compared_is_refused(light, tmp_path):
    other = make_bundle(tmp_path / "other", task="image-classification")
    with pytest.raises(UsageError, match="A is for time-series-classification, B for image-classification"):
        compare.compare([light, other], NullProgress())
    with pytest.raises(UsageError, match="A and B are built for other sessions: threads 1"):
        compare.compare([light, make_bundle(tmp_path / "threads", threads=2)], NullProgress())
    with pytest.raises(UsageError, match="takes two bundles at least"):
        compare.compare([light], NullProgress())
    for device in ("qemu:cortex-a72", "guest"):
        with pytest.raises(UsageError, match=f"{device} is emulated: its time is the emulator's"):
            compare.compare([light, light], NullProgress(), device=device)
    with pytest.raises(UsageError, match="there is no device 'foo'") as refusal:
        compare.compare([light, light], NullProgress(), device="foo")
    assert refusal.value.fix == "give one of: local, ssh://USER@HOST:PORT"
    damaged = make_bundle(tmp_path / "damaged")
    (damaged / "onnx" / "model.onnx").write_bytes(b"")
    with pytest.raises(EdgeKDError, match=r"damaged is not the bundle that was shipped: onnx/model\.onnx: 0 bytes"):
        compare.compare([light, damaged], NullProgress())


def test_an_unstable_host_is_called_so(light, monkeypatch):
    class Swaying(Board):
        def run(self, mode, **job):
            answer = super().run(mode, **job)
            if mode == "time":
                answer["latency_ms"]["aa"] = [[1.1 * ms for ms in turn] for turn in answer["latency_ms"]["A"]]
            return answer

    monkeypatch.setattr(compare, "device_at", lambda *words, **options: ("local", Swaying(latency_ms=1.0)))
    found = compare.compare([light, light], NullProgress())
    assert (found.stable, found.aa) == (False, pytest.approx(1 / 1.1, rel=0.001))


@pytest.mark.parametrize(("host", "said"), [("a board", False), ("linux,dummy-virt, cortex-a72 (aarch64)", True)])
def test_a_virtual_machine_is_called_so(light, monkeypatch, host, said):
    from edgekd.cli.bench import _compared

    board = Board(latency_ms=1.0)
    board.host = host
    monkeypatch.setattr(compare, "device_at", lambda *words, **options: ("ssh://pi@board", board))
    found = compare.compare([light, light], NullProgress())
    assert found.remark == ("a virtual machine's time is no board's" if said else "")
    assert ("; a virtual machine's time is no board's; " in _compared(found)) == said


def test_texts_are_compared_by_size_or_on_a_user_s_rows(tiny_bundle, tiny_data, here):
    by_size = compare.compare([tiny_bundle, tiny_bundle], NullProgress())
    assert (by_size.rows, by_size.rows_of) == (16, "inputs of the sizes of A's golden ones")
    on_rows = compare.compare([tiny_bundle, tiny_bundle], NullProgress(), data=DataFile(str(tiny_data)))
    assert (on_rows.rows, on_rows.rows_of) == (100, "rows of things.csv")
    assert on_rows.verdicts[0].verdict == "no difference shown", on_rows.verdicts[0].says


def test_a_user_s_rows_are_taken_from_the_whole_file(light, here, monkeypatch):
    monkeypatch.setattr(DataFile, "_read", lambda self, bundle, labelled: list(range(2000)))
    bundle = compare.open_bundle(light)
    rows = DataFile("rows.csv").rows(bundle, labelled=False, most=100)
    assert (len(rows), rows[0], rows[-1]) == (100, 0, 1980)
    asked = []
    monkeypatch.setattr(type(bundle), "encoded", lambda self, rows: asked.append(rows) or self.golden())
    compare.compare([light, light], NullProgress(), data=DataFile("rows.csv"))
    assert asked == [rows, rows]


def test_the_command_prints_verdict_and_table(light, heavy, monkeypatch):
    done = run("compare", light, heavy)
    assert done.returncode == 0, done.stderr
    verdict, _, header, first, second, _, rows, where = done.stdout.splitlines()
    assert verdict.startswith("B is slower than A by ")
    assert header.split() == ["bundle", "recipe", "accuracy", "p50", "ms", "peak", "MiB", "file", "MiB"]
    assert (first.split()[:2], second.split()[:2]) == (["A", "light-here"], ["B", "heavy-here"])
    assert all(float(side.split()[-2]) > 0 for side in (first, second)), "memory of fresh processes"
    assert rows.startswith("16 inputs of the sizes of A's golden ones, 320 runs of each; A/A ")
    assert where.startswith("timed on ")
    monkeypatch.setattr(compare, "device_at", lambda *words, **options: ("board", Board()))
    assert invoke("compare", light, light, "--json").stdout.startswith('{\n "sides": [')
