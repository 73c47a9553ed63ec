"""Predictions: graphs in their order, outputs by name and in shapes of their own, and the one rule of what is kept."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from helpers import WIDTH, PlanStub, matmul_model, random_weights, relu_model, samples
from made_bundle import make_bundle
from onnx import TensorProto, helper, numpy_helper

from edgekd.bundle import golden
from edgekd.core import predictions
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.model import Model
from edgekd.devices.local import Local
from edgekd.onboard import RUNNER_FILES, programs, runner, verify

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
NODE = helper.make_node


def graph(path, nodes, inputs, outputs, **weights):
    """Write a graph; inputs and outputs by name, each a type and its axes."""
    values = [[helper.make_tensor_value_info(name, *one) for name, one in told.items()] for told in (inputs, outputs)]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "tiny", *values, constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def encoder(path):
    """x (1, tokens, 32) to states (1, tokens, 32)."""
    nodes = [NODE("MatMul", ["x", "w"], ["hidden"]), NODE("Relu", ["hidden"], ["states"])]
    inputs, outputs = {"x": (FLOAT, [1, "tokens", WIDTH])}, {"states": (FLOAT, [1, "tokens", WIDTH])}
    return graph(path, nodes, inputs, outputs, w=random_weights(WIDTH, WIDTH))


def decoder(path):
    """states and bias to scores (1, tokens, 4), and the numbers (n,) of tokens whose first score is above 0: ragged."""
    nodes = [
        NODE("MatMul", ["states", "v"], ["plain"]),
        NODE("Add", ["plain", "bias"], ["scores"]),
        NODE("Gather", ["scores", "zero"], ["first"], axis=2),
        NODE("Squeeze", ["first", "axes"], ["flat"]),
        NODE("Greater", ["flat", "nought"], ["above"]),
        NODE("NonZero", ["above"], ["places"]),
        NODE("Squeeze", ["places", "lead"], ["tokens_above"]),
    ]
    inputs = {"states": (FLOAT, [1, "tokens", WIDTH]), "bias": (FLOAT, [1, 1, 4])}
    outputs = {"scores": (FLOAT, [1, "tokens", 4]), "tokens_above": (INT, ["n"])}
    constants = {"zero": np.array([0]), "axes": np.array([0, 2]), "lead": np.array([0]), "nought": np.float32(0)}
    return graph(path, nodes, inputs, outputs, v=random_weights(WIDTH, 4, seed=7), **constants)


ROWS = [{**row, "bias": np.float32([[[at - 1, 0, 0, 1]]])} for at, row in enumerate(samples(3, 5, 1, 7))]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    encoder(folder / "encoder.onnx")
    decoder(folder / "decoder.onnx")
    runner.pack(ROWS, folder / "inputs.npz")
    return folder


@pytest.fixture(scope="module")
def chained(lab):
    return {"model": {name: f"{lab}/{name}.onnx" for name in ("encoder", "decoder")}, "inputs": f"{lab}/inputs.npz"}


def by_hand(lab, row):
    """What the two graphs say of a row, each run by itself."""
    first, second = (runner.open_session(f"{lab}/{name}.onnx", 1) for name in ("encoder", "decoder"))
    (states,) = first.run(None, {"x": row["x"]})
    scores, above = second.run(None, {"states": states, "bias": row["bias"]})
    return {"scores": scores[0], "tokens_above": above}


def test_graphs_run_in_their_order_and_ragged_outputs_come_back_as_they_are(lab, chained):
    told = Local().run("predict", **chained, threads=1, outputs=f"{lab}/said.npz")
    said = runner.unpack(lab / "said.npz")
    expected = [by_hand(lab, row) for row in ROWS]
    assert len({row["tokens_above"].shape for row in expected}) > 1, "an output whose length depends on the input"
    for own, right in zip(said, expected, strict=True):
        assert list(own) == ["scores", "tokens_above"]
        for name, values in right.items():
            assert own[name].dtype == values.dtype
            np.testing.assert_array_equal(own[name], values)
    assert told == {"n": 4, "row_sha256": [programs.digest(row) for row in expected]}


def test_what_is_kept_is_what_is_hashed_in_every_mode(lab, chained):
    keep = {"tokens_above": "as_is", "scores": "mean"}
    one = chained | {"keep": keep}
    hashes = Local().run("predict", **one, threads=1, outputs=f"{lab}/kept.npz")["row_sha256"]
    said = runner.unpack(lab / "kept.npz")
    for own, row in zip(said, ROWS, strict=True):
        right = by_hand(lab, row)
        np.testing.assert_array_equal(own["tokens_above"], right["tokens_above"])
        np.testing.assert_allclose(own["scores"], right["scores"].mean(axis=0), rtol=1e-6)
    timed = Local().run("time", models={"m": one}, threads=1, rounds=1, seed=0)
    assert timed["row_sha256"] == {"m": hashes, "aa": hashes}
    told = Local().run("answers", models={"m": one, "all": chained}, threads=1, limit_s=60, outputs=f"{lab}/both.npz")
    assert (told["n"], told["row_sha256"]["m"]) == (4, hashes)
    both = predictions.by_model(runner.unpack(lab / "both.npz"), ["m", "all"])
    for own, again in zip(said, both["m"], strict=True):
        assert {name: values.tolist() for name, values in own.items()} == {n: v.tolist() for n, v in again.items()}
    assert both["all"][1]["scores"].shape == (5, 4)


def test_a_model_of_graphs_has_a_footprint_and_a_count(lab, chained):
    told = Local().run("footprint", model=chained["model"], inputs=[chained["inputs"]], threads=1)
    assert told["peak_rss_mib"][0] > 0
    assert Local().run("count", models={"m": chained}, threads=1) == {"n": {"m": 4}}


WRONG = {
    "a graph without its input": ({"model": "decoder"}, "the graph model takes states; the inputs are bias, unused, x"),
    "graphs in another order": ({"order": ("decoder", "encoder")}, "the graph decoder takes states; the inputs are"),
    "an output that there is not": ({"keep": {"logits": "as_is"}}, "gives scores, tokens_above, and no 'logits'"),
    "a rule that there is not": ({"keep": {"scores": "max"}}, "there is no output rule 'max'"),
    "a program that there is not": (
        {"program": "../evil"},
        "the program '../evil' is unknown here; known are: forward",
    ),
}


@pytest.mark.parametrize(("change", "why"), WRONG.values(), ids=WRONG)
def test_a_job_that_cannot_be_done_says_why(lab, chained, change, why):
    job = dict(chained) | {key: value for key, value in change.items() if key in ("keep", "program")}
    if "model" in change:
        job["model"] = f"{lab}/{change['model']}.onnx"
    if "order" in change:
        job["model"] = {name: f"{lab}/{name}.onnx" for name in change["order"]}
    with pytest.raises(RuntimeCannotLoad) as refusal:
        Local().run("predict", **job, threads=1, outputs=f"{lab}/none.npz")
    assert why in refusal.value.message


@pytest.mark.parametrize("text", [True, False], ids=["text", "a list of maps"])
def test_an_output_that_is_no_numbers_is_refused_by_name(text):
    value = np.array(["a"], dtype=object) if text else [{"a": 1.0}]
    with pytest.raises(ValueError, match="the output labels is no array of numbers"):
        programs.kept({"labels": value}, {}, {"labels": "as_is"})


def old_mask_mean(output, mask):
    """The mean that the runner of before made: (1, tokens, width) to (1, width)."""
    weights = mask[:, :, None].astype(output.dtype)
    return (output * weights).sum(axis=1) / weights.sum(axis=1).clip(1)


@pytest.mark.parametrize("tokens", [1, 2, 9, 128])
@pytest.mark.parametrize("width", [1, 7, 384])
def test_the_mean_is_the_one_of_before_bit_for_bit(tokens, width):
    random = np.random.default_rng(tokens * width)
    output = random.normal(size=(1, tokens, width)).astype(np.float32)
    mask = (random.random((1, tokens)) > 0.3).astype(np.int64)
    kept = programs.kept({"y": output[0]}, {"attention_mask": mask}, {"y": "mean"})["y"]
    np.testing.assert_array_equal(kept, old_mask_mean(output, mask)[0])
    for sample in ({}, {"attention_mask": np.ones((1, tokens), np.int64)}):  # what `verify.py` made of golden inputs
        kept = programs.kept({"y": output[0]}, sample, {"y": "mean"})["y"]
        np.testing.assert_array_equal(kept, output.reshape(1, -1, width).mean(axis=1)[0])


def test_the_mean_of_no_position_is_zero_and_of_other_positions_than_the_masks_an_error():
    rows = np.ones((3, 2), np.float32)
    kept = programs.kept({"y": rows}, {"attention_mask": np.zeros((1, 3), np.int64)}, {"y": "mean"})
    assert kept["y"].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="the output y has 3 positions, the attention_mask 4"):
        programs.kept({"y": rows}, {"attention_mask": np.ones((1, 4), np.int64)}, {"y": "mean"})
    logits = np.float32([1, 2, 3])
    assert programs.kept({"y": logits}, {"attention_mask": np.ones((1, 9))}, {"y": "mean"})["y"] is logits


BATCH = {  # inputs' first axes, outputs' axes, the shape that a run gives, the shape that is told
    "a batch of one": ([1], [[1, 4]], (1, 4), (4,)),
    "a batch by name": (["batch"], [["batch", 4]], (1, 4), (4,)),
    "one score of a batch by name": (["batch"], [["batch"]], (1,), ()),
    "a name that an exporter made up": (["batch"], [["Gemm_dim_0", 4]], (1, 4), (4,)),
    "an axis without a name": ([None], [[None, 4]], (1, 4), (4,)),
    "another name": (["N"], [["batch", 4]], (1, 4), (4,)),
    "a number of boxes, of inputs without a batch": ([1], [["n", 6]], (1, 6), (1, 6)),
    "a number of boxes, beside an output of the batch": (["batch"], [["batch", 2], ["n", 6]], (1, 6), (1, 6)),
    "a number of tokens": (["batch"], [["n"]], (1,), (1,)),
    "a fixed number": ([1], [[5, 4]], (5, 4), (5, 4)),
    "a scalar": ([1], [[]], (), ()),
}


@pytest.mark.parametrize(("firsts", "outputs", "given", "told"), BATCH.values(), ids=BATCH)
def test_the_batch_axis_is_left_out_and_no_other(firsts, outputs, given, told):
    def nodes(shapes, name):
        return [SimpleNamespace(name=f"{name}{at}", shape=shape) for at, shape in enumerate(shapes)]

    session = SimpleNamespace(
        get_inputs=lambda: nodes([[first, 3] for first in firsts], "x"),
        get_outputs=lambda: nodes(outputs, "y"),
        run=print,
    )
    program = programs.open_program("forward", {"model": session})
    values = [np.zeros((1, *[2] * (len(shape) - 1))) for shape in outputs[:-1]] + [np.zeros(given)]
    assert program.named(values)[program.outputs[-1]].shape == told


OTHER_ROWS = {
    "another number of axes": ({"y": np.zeros(())}, {"y": np.zeros(3)}, "y has 0 axes of one row and 1 of another"),
    "another type": ({"y": np.zeros(3)}, {"y": np.zeros(3, np.int64)}, "y is float64 of one row and int64 of another"),
    "another name": ({"y": np.zeros(3)}, {"z": np.zeros(3)}, "a row has z where the first has y"),
    "a name more": ({"y": np.zeros(3)}, {"y": np.zeros(3), "z": np.zeros(3)}, "a row has y, z where the first has y"),
}


@pytest.mark.parametrize(("first", "second", "why"), OTHER_ROWS.values(), ids=OTHER_ROWS)
def test_rows_of_another_kind_are_not_packed(tmp_path, first, second, why):
    with pytest.raises(ValueError, match=why):
        runner.pack([first, second], tmp_path / "x.npz")


def test_scalars_and_empty_arrays_come_back_as_they_were(tmp_path):
    rows = [{"score": np.float32(at).reshape(()), "none": np.zeros((0, at), np.int64)} for at in (1, 2, 3)]
    runner.pack(rows, tmp_path / "rows.npz")
    told = [{name: (values.tolist(), values.shape) for name, values in row.items()} for row in rows]
    back = runner.unpack(tmp_path / "rows.npz")
    assert [{name: (values.tolist(), values.shape) for name, values in row.items()} for row in back] == told


def test_nan_comes_back_as_it_is_and_is_compared_as_infinitely_far(tmp_path):
    path = graph(tmp_path / "nan.onnx", [NODE("Log", ["x"], ["y"])], {"x": (FLOAT, [1, 2])}, {"y": (FLOAT, [1, 2])})
    runner.pack([{"x": np.float32([[-1, 1]])}, {"x": np.float32([[1, 1]])}], tmp_path / "inputs.npz")
    job = {"model": str(path), "inputs": f"{tmp_path}/inputs.npz"}
    told = Local().run("predict", **job, threads=1, outputs=f"{tmp_path}/said.npz")
    said = runner.unpack(tmp_path / "said.npz")
    assert np.isnan(said[0]["y"]).tolist() == [True, False]
    assert Local().run("time", models={"m": job}, threads=1, rounds=1, seed=0)["row_sha256"]["m"] == told["row_sha256"]
    assert predictions.largest_difference(said, said) == float("inf")
    assert predictions.largest_difference(said[1:], said[1:]) == 0.0


def test_outputs_of_one_shape_are_stacked_and_ragged_ones_refused():
    rows = [{"y": np.zeros(3), "z": np.zeros(n)} for n in (1, 2)]
    assert predictions.stacked(rows, "y").shape == (2, 3)
    with pytest.raises(EdgeKDError, match=r"the output z has other shapes from input to input, such as \(1,\) and "):
        predictions.stacked(rows, "z")
    assert predictions.largest_difference(rows, rows[::-1]) == float("inf")


def test_a_ragged_task_is_given_predictions_as_they_are():
    heard = []
    task = SimpleNamespace(keep={"z": "as_is"}, ragged=True, agrees=lambda own, other: heard.append((own, other)))
    rows = [{"z": np.zeros(n)} for n in (1, 2)]
    predictions.agreement(task, rows, rows)
    assert heard[0][0] is rows


# golden vectors of two graphs and several ragged outputs


def plan(keep):
    return PlanStub(own_task=SimpleNamespace(keep=keep), golden="test", target=SimpleNamespace(arch="riscv64"))


KEEP = {"scores": "as_is", "tokens_above": "as_is"}


@pytest.fixture
def bundle(lab, tmp_path, monkeypatch):
    """What `verify.py` reads of a bundle of two graphs."""
    model = Model({name: lab / f"{name}.onnx" for name in ("encoder", "decoder")})
    golden.write(plan(KEEP), ROWS, model, model, None, tmp_path / "golden")
    graphs = {name: {"file": f"{name}.onnx", "recipe": "float32"} for name in model.graphs}
    for name in graphs:
        (tmp_path / f"{name}.onnx").write_bytes((lab / f"{name}.onnx").read_bytes())
    manifest = {"model": {"program": "forward", "graphs": graphs, "outputs": KEEP}, "min": {"ort_version": ">=1.17"}}
    return tmp_path, manifest


def test_golden_vectors_hold_each_output_in_its_own_shape_and_tolerance(bundle):
    folder, manifest = bundle
    expected = verify.read_expected(verify.read_arrays(folder / "golden" / "expected.npz"))
    assert set(expected) == {platform.machine(), "float32"}
    shapes = [{name: values.shape for name, values in expected["float32"][row].items()} for row in range(4)]
    assert [one["scores"] for one in shapes] == [(3, 4), (5, 4), (1, 4), (7, 4)]
    assert len({one["tokens_above"] for one in shapes}) > 1
    rules = json.loads((folder / "golden" / "golden.json").read_text())
    limits = rules["tolerance"][platform.machine()]
    assert limits["tokens_above"] == 0.0, "whole numbers are the same, or not"
    assert 0 < limits["scores"] < 0.01
    words = verify.check_answers(folder, manifest)
    assert words.startswith("largest difference of scores 0 to the outputs recorded on")


def spoiled(name, change):
    def of(rows):
        return [row | {name: change(row[name])} for row in rows]

    return of


SPOILED = {
    "other scores": (spoiled("scores", lambda v: v + np.float32(0.1)), "largest difference of scores 0.1 to the "),
    "another token": (spoiled("tokens_above", lambda v: v + 1), "largest difference of tokens_above 1 to the "),
    "a token fewer": (spoiled("tokens_above", lambda v: v[:0]), "tokens_above of shape (0,) or not finite; expected ("),
    "no number": (spoiled("scores", lambda v: v * np.nan), "input 0: scores of shape (3, 4) or not finite; expected"),
    "an output less": (lambda rows: [{"scores": row["scores"]} for row in rows], "no outputs scores, tokens_above of"),
    "an input less": (lambda rows: rows[:3], "no outputs scores, tokens_above of input 3"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_an_output_that_differs_is_told_by_name(bundle, spoil, words):
    folder, manifest = bundle
    well, told = verify.check_golden(folder, spoil(verify.run_golden(folder, manifest)))
    assert not well
    assert words in told


def expecting(**changes):
    """Golden answers with some of them changed; None leaves one out."""

    def change(folder):
        path = folder / "golden" / "expected.npz"
        with np.load(path) as file:
            values = {name: file[name] for name in file.files}
        values |= {key.replace("ISA", platform.machine()): value for key, value in changes.items()}
        np.savez(path, **{name: value for name, value in values.items() if value is not None})

    return change


def allowing(limits):
    def change(folder):
        (folder / "golden" / "golden.json").write_text(json.dumps({"tolerance": {platform.machine(): limits}}))

    return change


ONE = np.zeros(2, np.float32)
HOSTILE = {
    "an output of one input alone": (expecting(**{"ISA.0.more": ONE}), "answers of other outputs from input to input"),
    "an output that an input lacks": (expecting(**{"ISA.1.scores": None}), "answers of other outputs from input to"),
    "more inputs than there are": (
        expecting(**{"ISA.4.scores": ONE, "ISA.4.tokens_above": ONE}),
        "no answers to 4 inputs",
    ),
    "a row that is no number": (expecting(**{"ISA.x.scores": ONE}), "ISA.x.scores is no answer to an input"),
    "a row of other digits": (expecting(**{"ISA.01.scores": ONE}), "ISA.01.scores is no answer to an input"),
    "a negative row": (expecting(**{"ISA.-1.scores": ONE}), "ISA.-1.scores is no answer to an input"),
    "an endless row": (expecting(**{f"ISA.{'9' * 5000}.scores": ONE}), "the golden vectors cannot be used"),
    "an output without a name": (expecting(**{"ISA.0.": ONE}), "ISA.0. is no answer to an input"),
    "an output named for a terminal": (expecting(**{"ISA.0.\x1b[2J": ONE}), "is no answer to an input"),
    "stacked answers among named ones": (expecting(float32=np.zeros((4, 4))), "float32 is no answer to an input"),
    "no architecture": (expecting(**{".0.scores": ONE}), ".0.scores is no answer to an input"),
    "no number": (expecting(**{"ISA.0.scores": ONE * np.nan}), "answers that are no rows of finite numbers"),
    "complex numbers": (expecting(**{"ISA.0.scores": ONE * 1j}), "is no plain array of numbers"),
    "objects": (expecting(**{"ISA.0.scores": np.array([{}], dtype=object)}), "is no plain array of numbers"),
    "a tolerance for all": (allowing(1.0), "their tolerances are not of the outputs scores, tokens_above"),
    "a tolerance less": (allowing({"scores": 1.0}), "their tolerances are not of the outputs"),
    "a negative tolerance": (allowing({"scores": 1.0, "tokens_above": -1}), "no number, or negative"),
    "a tolerance of true": (allowing({"scores": 1.0, "tokens_above": True}), "no number, or negative"),
    "tolerances of a list": (allowing([1.0, 2.0]), "their tolerances are not of the outputs"),
}


@pytest.mark.parametrize(("change", "why"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_golden_answers_are_refused_before_the_runtime_sees_the_model(bundle, monkeypatch, change, why):
    folder, manifest = bundle
    change(folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(verify.Failed) as refusal:
        verify.check_answers(folder, manifest)
    assert refusal.value.code == 1
    assert str(refusal.value).startswith("the golden vectors cannot be used: ")
    assert why.replace("ISA", platform.machine()) in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_bundle_whose_outputs_are_other_than_its_golden_answers_fails(bundle):
    folder, manifest = bundle
    manifest["model"]["outputs"] = {"scores": "as_is"}
    with pytest.raises(verify.Failed, match="no outputs scores, tokens_above of input 0") as refusal:
        verify.check_answers(folder, manifest)
    assert refusal.value.code == 5


def test_no_golden_vectors_are_written_of_a_model_that_answers_nan(tmp_path, monkeypatch):
    path = graph(tmp_path / "nan.onnx", [NODE("Log", ["x"], ["y"])], {"x": (FLOAT, [1, 2])}, {"y": (FLOAT, [1, 2])})
    model, rows = Model.of(path), [{"x": np.float32([[-1, 1]])}]
    with pytest.raises(EdgeKDError, match="the output y holds NaN or infinity for a golden input"):
        golden.write(plan({"y": "as_is"}), rows, model, model, None, tmp_path / "golden")


def test_an_input_that_quantization_answers_in_another_length_is_not_held_to_fp32(tmp_path, monkeypatch):
    """fp32 keeps other numbers of values of the first input than the model that ships: the second alone is compared."""
    for name, limit in (("own", 0.5), ("plain", 1.5)):
        nodes = [NODE("Greater", ["x", "limit"], ["above"]), NODE("Compress", ["x", "above"], ["y"])]
        graph(tmp_path / f"{name}.onnx", nodes, {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["m"])}, limit=np.float32(limit))
    own, plain = (Model.of(tmp_path / f"{name}.onnx") for name in ("own", "plain"))
    rows = [{"x": np.float32([1, 2, 3])}, {"x": np.float32([0, 4])}]
    golden.write(plan({"y": "as_is"}), rows, own, plain, None, tmp_path / "golden")
    with np.load(tmp_path / "golden" / "expected.npz") as expected:
        assert [name for name in expected.files if "float32" in name] == ["float32.1.y"]
        assert expected[f"{platform.machine()}.0.y"].tolist() == [1, 2, 3]
    with pytest.raises(EdgeKDError, match="answers no golden input with outputs of the same shapes"):
        golden.write(plan({"y": "as_is"}), rows[:1], own, plain, None, tmp_path / "again")


# what travels


def test_the_runners_files_are_all_that_it_loads_and_known_to_the_verifier():
    assert {f"{name}.py" for name in programs.PROGRAMS} <= set(RUNNER_FILES)
    assert verify.PROGRAMS == programs.PROGRAMS
    assert verify.RULES == programs.RULES
    folder = Path(programs.__file__).parent
    assert all((folder / name).is_file() for name in RUNNER_FILES)


def test_a_program_runs_a_single_graph_by_the_runtimes_own_call(tmp_path):
    """Nothing of edgekd lies in what is timed."""
    matmul_model(tmp_path / "model.onnx")
    program = runner.open_model(str(tmp_path / "model.onnx"), 1)
    assert program.run == program._last.run


def test_a_files_outputs_are_named_by_itself_where_a_task_calls_them_otherwise(tmp_path):
    model = runner.open_model(str(relu_model(tmp_path / "model.onnx")), 1)
    assert programs.rules_of("mean", model.outputs) == {"y": "mean"}
    assert programs.rules_of(None, model.outputs) == {"y": "as_is"}


def test_edgekd_runs_its_own_program_and_nothing_of_a_bundles(bundle):
    folder, manifest = bundle
    (folder / "bench").mkdir()
    for name in ("programs.py", "forward.py", "recurrent.py"):
        (folder / "bench" / name).write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert "tolerance" in verify.check_answers(folder, manifest)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("has", [True, False], ids=["with its program", "without"])
def test_a_bundles_own_check_takes_the_program_that_lies_in_it(tmp_path, has):
    folder = make_bundle(tmp_path / "tiny", onboard=has)
    done = subprocess.run([sys.executable, "-I", folder / "verify.py"], capture_output=True, text=True, check=False)
    if has:
        assert (done.returncode, done.stderr) == (0, "")
        assert "ok      golden vectors: largest difference 0 to the outputs recorded on" in done.stdout
    else:
        assert done.returncode == 1
        assert "FAILED  the program cannot be read: " in done.stdout
    assert not list(folder.rglob("__pycache__"))
