"""Any ONNX graph, the whole way: several outputs, states that feed back, a user's metric, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import onnx
import pytest
import toy_graphs
from conftest import call_here, invoke, loose_target
from made_bundle import Board
from toy_graphs import FLOAT, node

from edgekd.core import fidelity, registry
from edgekd.core.errors import TeacherError
from edgekd.core.ports import CLASSES, WHOLE, Port
from edgekd.data import orders
from edgekd.devices.local import Local
from edgekd.security import child

APART = child.call
CACHES = (registry.names, registry._outside, registry._all_outside)


@pytest.fixture(scope="module")
def here():
    """A recipe of a package outside; jobs of the runner and of children are done in this process."""
    board = Board()
    with pytest.MonkeyPatch.context() as patch:
        found = EntryPoints([EntryPoint("blind", "toy_graphs:Blind", "edgekd.quantizers")])
        patch.setattr(registry, "entry_points", lambda: found)
        for cached in CACHES:
            cached.cache_clear()
        patch.setattr(Local, "run", lambda self, mode, **job: board.run(mode, **job))
        patch.setattr(child, "call", call_here)
        yield
    for cached in CACHES:
        cached.cache_clear()


class Lab:
    """`edgekd` for any graph, in a store of its own."""

    def __init__(self, folder):
        self.folder, self.env = folder, {"EDGEKD_STORE": str(folder / "store")}

    def edgekd(self, *words):
        return invoke(*words, env=self.env)

    def words(self, name, model, data, *, recipes=("float32",), **floors):
        place = self.folder / name
        place.mkdir(exist_ok=True)
        target = loose_target(place, recipes=list(recipes), **{"max_drop_points": 5.0} | floors)
        given = ("--teacher", model, "--data", data, "--target", target, "--task", "tensors", "--student", "none")
        return (*given, "--threads", "1", "--name", name)

    def plan(self, name, model, data, *more, **floors):
        return self.edgekd("plan", *self.words(name, model, data, **floors), *more)

    def build(self, name, model, data, *more, **floors):
        out = self.folder / name / "bundle"
        return self.edgekd("build", *self.words(name, model, data, **floors), "--out", out, "--json", *more)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("tensors"))


@pytest.fixture(scope="module")
def detector(lab):
    return toy_graphs.detector(lab.folder / "detector.onnx"), toy_graphs.pictures(lab.folder / "pictures.npz")


@pytest.fixture(scope="module")
def listener(lab):
    return toy_graphs.remembering(lab.folder / "listener.onnx"), toy_graphs.sounds(lab.folder / "sounds")


def shipped(done):
    """The folder of a build that went well, and its report."""
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(json.loads(done.stdout)["bundle"])
    return folder, json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(lab, here, detector):
    """The detector's bundle; among its recipes is one that leaves no score."""
    return shipped(lab.build("found", *detector, recipes=["float32", "dynamic_int8", "static_int8", "blind"]))


@pytest.fixture(scope="module")
def heard(lab, here, listener):
    """The bundle of the one that remembers."""
    return shipped(lab.build("heard", *listener, recipes=["float32", "dynamic_int8", "static_int8"]))


def test_a_mask_without_what_it_should_find_is_far_from_it_though_most_places_agree():
    rare = np.zeros((6, 50, 4), dtype=bool)
    rare[:3, :2] = True  # 2% of all places; none in the last rows
    half = rare.copy()
    half[:3, 0] = False
    port = Port("mask", "bool", (50, 4), WHOLE)
    reference = [{"mask": row} for row in rare]
    for found, wanted in ((np.zeros_like(rare), 0.0), (half, 0.5), (rare, 1.0)):
        columns = fidelity.by_row([{"mask": row} for row in found], reference, [port])
        assert columns[:, 0].mean() >= 0.98
        assert fidelity.worst_column(columns) == pytest.approx(wanted)
    noise = rare.copy()
    noise[3:, :25] = True
    assert fidelity.worst_column(fidelity.by_row([{"mask": row} for row in noise], reference, [port])) == 0.75


def test_classes_behind_a_background_are_looked_at_apart():
    scores = np.zeros((8, 3, 100), dtype=np.float32)
    scores[:, 0] = 1
    scores[:, 1, :5] = 2  # 5% are of the second class
    port = Port("classes", "float32", (3, 100), CLASSES, -2)
    background = np.zeros_like(scores)
    background[:, 0] = 1

    def worst(own, other):
        rows = [[{"classes": one} for one in several] for several in (own, other)]
        return fidelity.worst_column(fidelity.by_row(*rows, [port]))

    assert (worst(scores, scores), worst(background, scores), worst(np.full_like(scores, np.nan), scores)) == (1, 0, 0)
    even = scores.copy()
    even[:, 1, :40] = 2
    assert worst(background, even) == pytest.approx(0.6), "without a background the share of equal classes is all"


def test_the_plan_says_what_goes_in_and_out(lab, detector):
    done = lab.plan("said", *detector)
    assert done.returncode == 0, done.stderr
    assert "takes pixels:0: float32 (batch, 3, 6, 6)" in done.stdout
    assert "gives detections: float32 (batch, 5, 10); found: int64 (batch, 1)" in done.stdout
    assert "judged by fidelity to the original graph in fp32, output by output: the worst decides" in done.stdout


def test_a_detector_that_finds_nothing_is_refused(found):
    _, report = found
    trials = {one["name"]: one for one in report["trials"]}
    assert not [one["failed"] for one in trials.values() if one["failed"]]
    assert trials["blind"]["agreement"] < 0.6
    assert report["choice"]["recipe"] != "blind"
    assert "points" in report["choice"]["passed_over"]["blind"]


def test_the_report_tells_each_output(found):
    folder, report = found
    outputs = {one["name"]: one for one in report["outputs"][report["choice"]["recipe"]]}
    assert set(outputs) == {"detections", "found"}
    assert outputs["detections"]["parts"] == 2, "boxes in pixels, and scores"
    assert outputs["found"]["agreement"] <= 1
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "## Each output beside the original graph in fp32" in text
    assert re.search(r"\| detections \| [\d.]+ \| [\d.]+ \|", text)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Each output beside the original graph in fp32" in page
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "held against the original graph in fp32" in card


def test_names_and_types_of_the_bundle_are_the_graphs(found):
    folder, _ = found
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["outputs"] == {"detections": "as_is", "found": "as_is"}
    assert manifest["model"]["program"] == "forward"
    graph = onnx.load(folder / manifest["model"]["graphs"]["model"]["file"]).graph
    assert [one.name for one in graph.input] == ["pixels:0"]
    assert "dead_end" not in {name for one in graph.node for name in one.output}


def test_the_cards_words_run(found, monkeypatch, capsys):
    folder, _ = found
    code = (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder.parent)
    exec(compile(code.replace(f'"{folder.parent.name}-loose/', '"bundle/'), "card", "exec"), {})
    assert capsys.readouterr().out.count("[[") >= 2


@pytest.mark.parametrize("which", ["found", "heard"])
def test_it_verifies_alone(which, request):
    folder, _ = request.getfixturevalue(which)
    done = subprocess.run([sys.executable, "-B", folder / "verify.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("which", ["found", "heard"])
def test_a_device_gives_a_receipt(which, lab, request):
    folder, _ = request.getfixturevalue(which)
    done = lab.edgekd("bench", folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["golden"]["within_tolerance"]
    told = lab.edgekd("report", folder)
    assert told.returncode == 0, told.stderr


def test_a_receipt_takes_rows_of_the_user(lab, found, detector):
    folder, _ = found
    done = lab.edgekd("bench", folder, "--data", detector[1], "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_bundles_are_compared_and_other_rows_are_read_as_the_graph_takes_them(lab, here, detector, found):
    more = lab.folder / "more.npz"
    np.savez(more, **{"pixels:0": np.load(detector[1])["pixels:0"][:20] + 1})
    plain, _ = shipped(lab.build("plain", *detector, "--golden", more, "--calibration", more))
    assert "rows of a file that the builder gave" in (plain / "golden" / "golden.json").read_text(encoding="utf-8")
    done = lab.edgekd("compare", plain, found[0], "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["metric"] for one in json.loads(done.stdout)["sides"]] == ["fidelity"] * 2


def test_states_feed_back(lab, heard, listener):
    folder, report = heard
    assert any("state: the output stateN is the next state" in note for note in report["data"]["notes"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["program"] == "recurrent:stateN=state"
    assert manifest["model"]["outputs"] == {"speech": "as_is"}
    trials = {one["name"]: one for one in report["trials"]}
    assert trials["dynamic_int8"]["failed"] is None
    assert trials["static_int8"]["failed"] is None, "calibrated on what each step is fed"
    expected = np.load(folder / "golden" / "expected.npz")
    assert {expected[key].shape for key in expected} == {(steps, 1) for steps in range(3, 8)}


def test_the_program_is_the_loop_that_a_user_writes(heard, listener):
    from edgekd.onboard.programs import open_program
    from edgekd.onboard.runner import open_session

    session = open_session(str(listener[0]), threads=1)
    sound = np.load(next(listener[1].iterdir()))["sound"][:, None]
    program = open_program("recurrent:stateN=state", {"model": session})
    own = program.named(program.run(None, program.feed({"sound": sound})))["speech"]
    state, wanted = np.zeros((1, 1, 8), np.float32), []
    for step in sound:
        speech, state = session.run(None, {"sound": step, "state": state})
        wanted.append(speech[0])
    assert own.shape == (len(sound), 1)
    assert np.array_equal(own, np.stack(wanted))
    alone = [session.run(["speech"], {"sound": step, "state": np.zeros((1, 1, 8), np.float32)})[0] for step in sound]
    assert not np.allclose(own, np.concatenate(alone)), "it remembers"


def test_states_may_be_named_or_refused(lab, listener):
    done = lab.plan("named", *listener, "--state", "stateN=state")
    assert "the output stateN is the next state" in done.stdout
    done = lab.plan("unnamed", *listener, "--state", "speech=sound", "--state", "stateN=state")
    assert done.returncode == 2
    assert "nothing is left to judge" in done.stderr
    done = lab.plan("strange", *listener, "--state", "hn=state")
    assert "the graph has no output 'hn'" in done.stderr
    assert "OUTPUT=INPUT" in done.stderr


METRIC = """
import numpy as np

def misses(predictions, references):
    pairs = zip(predictions, references)
    return [(abs(int(own["found"][0]) - int(other["found"].ravel()[0])), 10) for own, other in pairs]

misses.higher_is_better = False

def wrong(predictions, references):
    return [int(own["count"]) for own in predictions]

def nothing(predictions, references):
    return [float("nan") for own in predictions]

def few(predictions, references):
    return [1.0]

def slow(predictions, references):
    while True:
        pass
"""


def test_a_graph_is_diagnosed_by_its_worst_output(lab, here, detector, listener):
    model, data = detector
    done = lab.edgekd("diagnose", model, "--task", "tensors", "--data", data, "--json", "--samples", "6")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["diagnosis"]
    assert {layer["nodes"][0] for layer in found["layers"]} == {"first", "box", "score"}
    assert {"fidelity", "output_sqnr_db"} <= set(found["candidate"])
    alone = {group["label"]: group["output_sqnr_db"] for group in found["groups"]}
    assert alone["score"] < alone["box"] + 25, "scores are not drowned by boxes in pixels"
    done = lab.edgekd("diagnose", listener[0], "--task", "tensors", "--data", listener[1], "--recipe", "dynamic_int8")
    assert done.returncode == 0, done.stderr
    assert "quantized layers" in done.stdout
    assert "fidelity of the worst output" in done.stdout


def test_scores_are_mended_from_the_end_on(tmp_path):
    from edgekd.compression.diagnose import Diagnosis, Layer

    layers = tuple(Layer(name, "MatMul", 30.0, 30.0, 0.1, 1.0, (name,)) for name in ("first", "middle", "last"))
    found = Diagnosis(layers, (), 30.0, 0.3, 1)
    assert [name for name, _ in found.from_output(most=2)] == ["last", "middle"]


@pytest.fixture(scope="module")
def metric(lab):
    file = lab.folder / "own.py"
    file.write_text(METRIC, encoding="utf-8")
    return file


def test_a_metric_of_the_users_decides(lab, here, detector, metric):
    words = ("--metric", f"{metric}:misses", "--min-retained", "0.5")
    recipes = ["float32", "dynamic_int8", "blind"]
    folder, report = shipped(lab.build("judged", *detector, *words, recipes=recipes))
    assert report["summary"]["metric"] == "misses_fidelity", "rows have no references: it is held against the original"
    trials = {one["name"]: one for one in report["trials"]}
    assert trials["blind"]["agreement"] < trials["dynamic_int8"]["agreement"]
    assert report["choice"]["recipe"] != "blind"
    for name in ("provenance.json", "report.json", "manifest.json"):
        assert str(lab.folder) not in (folder / name).read_text(encoding="utf-8"), "no path of this machine"


def test_references_come_with_the_rows(lab, here, detector, metric, tmp_path):
    model, data = detector
    pixels = np.load(data)["pixels:0"]
    session = __import__("onnxruntime").InferenceSession(str(model))
    count = np.stack([session.run(["found"], {"pixels:0": one[None]})[0][0] for one in pixels])
    np.savez(tmp_path / "rows.npz", **{"pixels:0": pixels, "found": count})
    words = ("--metric", f"{metric}:misses")
    recipes = ["float32", "blind"]
    folder, report = shipped(lab.build("labelled", model, tmp_path / "rows.npz", *words, recipes=recipes))
    assert report["summary"]["metric"] == "misses"
    assert report["summary"]["higher_is_better"] is False
    assert report["summary"]["shipped"]["metric_value"] == 0
    done = lab.edgekd("bench", folder, "--data", tmp_path / "rows.npz", "--json")
    assert done.returncode != 0
    assert "whose file is not in the bundle" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wrong", r"--metric wrong fails with KeyError: 'count' \(own\.py, line \d+\)"),
        ("nothing", "--metric nothing gives NaN or infinity for row 0"),
        ("few", r"--metric few gives figures of the shape \(1,\) for 2 rows"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_a_metric_that_fails_is_told(here, metric, function, words):
    from edgekd.core.errors import UsageError
    from edgekd.tasks import _user_metric

    rows = [{"found": np.array([1])}, {"found": np.array([2])}]

    def judge():
        own, place = _user_metric.look(f"{metric}:{function}")
        return _user_metric.score(place, rows, rows, sha256_of_file=own.sha256)

    with pytest.raises(UsageError, match=words) as told:
        judge()
    assert told.value.fix


@pytest.mark.parametrize(("function", "words"), [("wrong", "--metric wrong fails with KeyError"), ("nothing", "NaN")])
def test_a_metric_that_fails_is_refused_while_planning(lab, here, detector, metric, function, words):
    done = lab.plan(f"early-{function}", *detector, "--metric", f"{metric}:{function}")
    assert done.returncode == 2, done.stdout
    assert words in done.stderr


def test_a_graph_that_gives_nan_is_refused_while_planning(lab, here, tmp_path):
    nodes = [node("Log", "x", "y")]
    model = toy_graphs.save(tmp_path / "log.onnx", nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])})
    rows = -np.ones((40, 4), np.float32) - np.arange(40, dtype=np.float32)[:, None]
    np.savez(tmp_path / "rows.npz", x=rows)
    done = lab.plan("logarithm", model, tmp_path / "rows.npz")
    assert done.returncode == 1
    assert "gives NaN as y on the row 0" in done.stderr
    np.savez(tmp_path / "rows.npz", x=-rows)
    assert lab.plan("logarithm", model, tmp_path / "rows.npz").returncode == 0, "its fix"


def test_nan_on_a_row_further_on_is_told_as_that():
    rows = [{"y": np.array([1.0])}, {"y": np.array([np.nan])}, {"y": np.array([1])}]
    with pytest.raises(TeacherError, match="gives NaN for 1 of 3 selection rows"):
        orders.check_numbers("graph.onnx", rows)
    orders.check_numbers("graph.onnx", rows[::2])


def test_a_metric_that_hangs_is_ended(metric, monkeypatch):
    from edgekd.core.errors import UsageError
    from edgekd.tasks import _user_metric

    monkeypatch.setattr(child, "call", APART)
    own, place = _user_metric.look(f"{metric}:slow")
    monkeypatch.setattr(_user_metric, "TIMEOUT_S", 1.5)
    monkeypatch.setattr(_user_metric, "ROW_S", 0.0)
    with pytest.raises(UsageError, match=r"--metric slow: its child process took (longer|more) than"):
        _user_metric.score(place, [{"found": np.array([1])}], [{}], sha256_of_file=own.sha256)


def test_synthetic_rows_hold_no_floor(lab, here, detector):
    done = lab.plan("drawn", detector[0], "synthetic", recipes=["float32", "dynamic_int8"])
    assert done.returncode == 0, done.stderr
    assert "the rows are synthetic, drawn from the graph's shapes: they prove nothing of real data" in done.stdout
    assert "compress  float32; picked by fidelity" in done.stdout
    words = ("--force", "dynamic_int8")
    _, report = shipped(lab.build("forced", detector[0], "synthetic", *words, recipes=["float32", "dynamic_int8"]))
    assert report["choice"]["recipe"] == "dynamic_int8"
    assert report["choice"]["forced"]


def test_shapes_of_synthetic_rows_may_be_said(lab, detector):
    done = lab.plan("shaped", detector[0], "synthetic:pixels:0=1x3x6x6")
    assert done.returncode == 0, done.stderr
    done = lab.plan("misshaped", detector[0], "synthetic:pixels:0=1x3x7x6")
    assert "'1x3x7x6' is no shape of pixels:0: float32 (batch, 3, 6, 6)" in done.stderr
    assert "give one: pixels:0=1x3x6x6" in done.stderr


def bad_rows(folder, **arrays):
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


PIXELS = np.zeros((40, 3, 6, 6), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": PIXELS, "mask": PIXELS}, "holds image, mask, and not 'pixels:0', which the graph takes"),
        ({"pixels:0": PIXELS.astype("U3")}, "pixels:0 is <U3, the graph takes float32"),
        ({"pixels:0": PIXELS[:, :2]}, r"has the shape \(2, 6, 6\), the graph takes pixels:0: float32 \(batch, 3, "),
        ({"pixels:0": PIXELS * np.nan}, r"row 0: pixels:0 holds NaN or infinity \(108 of 108 values\)"),
        ({"pixels:0": PIXELS[:0]}, "holds no row: its arrays are empty"),
        ({"pixels:0": np.full_like(PIXELS, 1e300, dtype=float)}, r"holds 1e\+300, beyond what float32 can hold"),
        ({"pixels:0": PIXELS[:5] + np.arange(5, dtype=np.float32)[:, None, None, None]}, "only 5 rows"),
        ({"pixels:0": PIXELS, "other": PIXELS[:3]}, "have not as many rows each"),
        ({"pixels:0": PIXELS.astype(np.complex64)}, "pixels:0 is complex64, the graph takes float32"),
    ],
)  # fmt: skip
def test_rows_that_are_no_inputs_are_refused(lab, detector, tmp_path, arrays, words):
    done = lab.plan("bad", detector[0], bad_rows(tmp_path, **arrays))
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(words, done.stderr), done.stderr
    assert "fix: " in done.stderr


def test_objects_are_never_unpickled(lab, detector, tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    values = np.array([Harm()] * 40, dtype=object)
    for name, save in (("rows.npz", lambda path: np.savez(path, **{"pixels:0": values})),
                       ("rows.npy", lambda path: np.save(path, values))):  # fmt: skip
        save(tmp_path / name)
        done = lab.plan("objects", detector[0], tmp_path / name)
        assert "holds Python objects, which run code when they are read" in done.stderr
    assert not (tmp_path / "harmed").exists()


def test_rows_of_other_types_are_taken_where_no_value_changes(lab, detector, tmp_path):
    for number, kind in enumerate((np.float64, np.int16, np.float16)):
        values = np.random.default_rng(number).integers(-3, 4, PIXELS.shape).astype(kind)
        done = lab.plan("typed", detector[0], bad_rows(tmp_path, **{"pixels:0": values}))
        assert done.returncode == 0, done.stderr


def identity(path, kind, *, operator="Identity", given=FLOAT, **more):
    nodes = [node(operator, "x" if operator == "Identity" else "", "y", **more)]
    return toy_graphs.save(path, nodes, {"x": (given, ["batch", 4])}, {"y": (kind, ["batch", 4])})


def test_graphs_of_texts_and_of_chance_are_refused(lab, tmp_path):
    words = onnx.TensorProto.STRING
    texts = identity(tmp_path / "texts.onnx", words, given=words)
    done = lab.plan("texts", texts, "synthetic")
    assert done.returncode != 0
    assert "takes x: texts, which no recipe quantizes" in done.stderr
    drawing = toy_graphs.save(
        tmp_path / "drawing.onnx",
        [node("RandomNormalLike", "x", "noise"), node("Add", "x noise", "y")],
        {"x": (FLOAT, ["batch", 4])},
        {"y": (FLOAT, ["batch", 4])},
    )
    done = lab.plan("drawing", drawing, "synthetic")
    assert "draws random numbers (1 x RandomNormalLike)" in done.stderr
    assert "fix: " in done.stderr


def test_graphs_with_operators_of_others_and_data_elsewhere_are_refused(lab, tmp_path):
    own = toy_graphs.save(
        tmp_path / "own.onnx", [node("Identity", "x", "y")], {"x": (FLOAT, ["b", 4])}, {"y": (FLOAT, ["b", 4])}
    )
    model = onnx.load(own)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Mine", "com.mine"
    model.opset_import.append(onnx.helper.make_opsetid("com.mine", 1))
    onnx.save(model, own)
    done = lab.plan("custom", own, "synthetic")
    assert done.returncode != 0
    assert "needs operators that ONNX Runtime does not have on every CPU: com.mine.Mine" in done.stderr
    whole = onnx.load(toy_graphs.detector(tmp_path / "whole.onnx"))
    onnx.save(whole, tmp_path / "apart.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    done = lab.plan("apart", tmp_path / "apart.onnx", "synthetic")
    assert done.returncode == 0, done.stderr
    (tmp_path / "weights.bin").unlink()
    done = lab.plan("gone", tmp_path / "apart.onnx", "synthetic")
    assert "keeps its weights in 'weights.bin', which is not beside it" in done.stderr


def test_outputs_that_are_no_arrays_are_left_out_and_named(lab, tmp_path):
    graph = toy_graphs.save(
        tmp_path / "several.onnx",
        [node("Softmax", "x", "p"), node("SequenceConstruct", "p", "s")],
        {"x": (FLOAT, ["batch", 4])},
        {"p": (FLOAT, ["batch", 4])},
    )
    model = onnx.load(graph)
    kind = onnx.helper.make_tensor_type_proto(FLOAT, None)
    model.graph.output.append(onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(kind)))
    onnx.save(model, graph)
    done = lab.plan("several", graph, "synthetic")
    assert done.returncode == 0, done.stderr
    assert "agreement of p, whose largest score counts" in done.stdout


def test_classes_lie_along_the_axis_of_their_softmax():
    from edgekd.core.fidelity import by_row
    from edgekd.core.ports import CLASSES, Port

    maps = np.zeros((2, 3, 3), np.float32)  # two classes at nine places
    maps[1] = 0.1
    other = maps.copy()
    other[0, 0, 0] = 0.2
    port = Port("classes", "float32", (1, 2, 3, 3), CLASSES, -3)
    assert by_row([{"classes": other}], [{"classes": maps}], [port]).tolist() == [[8 / 9]]


@pytest.mark.parametrize(("opset", "axis", "found"), [(17, 1, -3), (17, -1, -1), (11, 1, None), (11, 3, -1)])
def test_the_axis_is_read_off_the_graph(tmp_path, opset, axis, found):
    from edgekd.teachers._array_graph import _class_axis

    shape = (FLOAT, ["batch", 2, 3, 3])
    graph = toy_graphs.save(
        tmp_path / "m.onnx", [node("Softmax", "x", "y", axis=axis)], {"x": shape}, {"y": shape}, opset=opset
    )
    model = onnx.load(graph)
    assert _class_axis(model, model.graph.output[0]) == found


def test_options_of_any_graph_mean_nothing_elsewhere(lab, tmp_path):
    done = lab.edgekd("plan", "--target", "rpi4", "--state", "a=b")
    assert done.returncode == 2
    assert "--state means nothing to text-classification" in done.stderr
    done = lab.edgekd("plan", "--target", "rpi4", "--metric", "a.py:b")
    assert "--metric means nothing to text-classification" in done.stderr


def test_a_student_is_refused(lab, detector):
    words = [one for one in lab.words("student", *detector) if one not in ("--student", "none")]
    done = lab.edgekd("plan", *words)
    assert done.returncode == 2
    assert "--student none" in done.stderr
