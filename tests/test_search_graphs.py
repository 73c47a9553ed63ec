"""A model of two graphs through the search: made, run, judged, and shipped with a recipe for each of its graphs."""

import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import WIDTH, PlanStub, profile, random_weights, samples, save_graph
from made_bundle import Board
from onnx import helper

from edgekd.bundle import write
from edgekd.compression import compress, graphs, judge
from edgekd.compression.choose import choose
from edgekd.compression.judge import Judge
from edgekd.core import external
from edgekd.core.metrics import AGREEMENT
from edgekd.core.model import Model
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make, plugin
from edgekd.devices import guest
from edgekd.inference import predict
from edgekd.onboard import verify
from edgekd.sizing.bench import Bench

TASK, NAMES = "text-classification", ("encoder_model", "decoder_model_merged")
ROWS = samples(*[3, 5, 1, 7] * 5)


def encoder(path, *, quantizable):
    """x (1, tokens, 32) to states of the same shape; without a matrix no recipe has anything to do in it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"], "layer"),
        helper.make_node("Relu", ["hidden"], ["states"]),
    ]
    if not quantizable:
        nodes = [helper.make_node("Relu", ["x"], ["states"], "relu")]
    weights = {"w": random_weights(WIDTH, WIDTH)} if quantizable else {}
    return save_graph(path, nodes, [1, "tokens", WIDTH], output_name="states", **weights)


def decoder(path):
    """states (1, tokens, 32) to logits (1, 4)."""
    nodes = [
        helper.make_node("ReduceMean", ["states"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["wide"], "up"),
        helper.make_node("MatMul", ["wide", "u"], ["logits"], "head"),
    ]
    return save_graph(
        path,
        nodes,
        [1, 4],
        input_name="states",
        output_name="logits",
        v=random_weights(WIDTH, WIDTH, seed=1),
        u=random_weights(WIDTH, 4, seed=2),
    )


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A search over such a model in this process; `quantizable` says whether its encoder has a matrix."""
    monkeypatch.setattr(plugin("tasks", TASK), "graphs", NAMES)
    for module in (predict, judge):
        real = module.make
        monkeypatch.setattr(
            module, "make", lambda kind, name, real=real: Board() if kind == "devices" else real(kind, name)
        )

    def search(*, quantizable=True, recipes=("float32", "dynamic_int8")):
        (tmp_path / "plain").mkdir()
        plain = Model(
            {
                "encoder_model": encoder(tmp_path / "plain" / "encoder_model.onnx", quantizable=quantizable),
                "decoder_model_merged": decoder(tmp_path / "plain" / "decoder_model_merged.onnx"),
            }
        )
        for file in plain.graphs.values():
            external.save(external.load(file), file)
        text = make("tasks", TASK)
        task = SimpleNamespace(
            keep=text.keep,
            agrees=text.agrees,
            fidelity=AGREEMENT,
            metric=text.metric,
            one_of_classes=False,
            headline_size=5,
            sized=lambda rows, size: rows[1],
        )
        target = profile(
            recipes=list(recipes),
            memory_mib=4000.0,
            artifact_mib=100.0,
            latency_ms=1000.0,
            max_drop_points=100.0,
            min_teacher_agreement=0.0,
        )
        plan = PlanStub(
            target=target,
            search_limit_s=60.0,
            force=None,
            thorough=False,
            compared_with="the teacher",
            base=None,
            task=TASK,
            seed=0,
            golden="test",
            student=SimpleNamespace(survey=SimpleNamespace(max_size=9)),
            name="two",
            version="1.0.0",
            digest="1" * 64,
            teacher=SimpleNamespace(name="t", licence="none", folder=""),
            data=SimpleNamespace(name="d", licence="none", source=""),
        )
        splits = SimpleNamespace(selection=ROWS, selection_labelled=False, classes=())
        reference = predict.outputs(plain, ROWS, threads=1, keep=task.keep)
        judged = Judge(plan, splits, task, ROWS, reference, plain)
        monkeypatch.setattr(
            judged, "confirm", lambda variants: dict.fromkeys(["float32", *variants], (1.0, 1.0, 1.0, 1.0))
        )
        work = tmp_path / "work"
        work.mkdir()
        one = compress._Search(plan, judged, plain, ROWS[:6], work, NullProgress())
        one.run()
        return one, plan, work

    return search


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_recipe_is_tried_on_all_graphs_and_with_one_of_them_in_fp32(lab):
    one, _, work = lab()
    assert list(one.trials) == [
        "float32",
        "dynamic_int8",
        "dynamic_int8-float32_encoder_model",
        "dynamic_int8-float32_decoder_model_merged",
    ]
    assert not [trial.failed for trial in one.trials.values() if trial.failed]
    assert names_in(work / "dynamic_int8") == ["decoder_model_merged_quantized.onnx", "encoder_model_quantized.onnx"]
    half = work / "dynamic_int8-float32_encoder_model"
    assert names_in(half) == ["decoder_model_merged_quantized.onnx", "encoder_model.onnx"]
    assert one.trials[half.name].said == "float32: encoder_model"
    sizes = {name: trial.artifact_mib for name, trial in one.trials.items()}
    assert sizes["dynamic_int8"] < min(sizes[half.name], sizes["dynamic_int8-float32_decoder_model_merged"])
    assert max(sizes.values()) == sizes["float32"]
    assert one.trials["float32"].agreement == 1.0


def test_a_graph_without_a_matrix_stays_fp32_and_no_trial_repeats_it(lab):
    one, _, work = lab(quantizable=False, recipes=("float32", "dynamic_int8", "static_int8"))
    assert list(one.trials) == ["float32", "dynamic_int8", "static_int8"]
    assert not [trial.failed for trial in one.trials.values() if trial.failed], "the decoder was calibrated"
    assert names_in(work / "static_int8") == ["decoder_model_merged_quantized.onnx", "encoder_model.onnx"]
    assert one.trials["static_int8"].said == "stays float32: encoder_model"


def test_layers_of_a_graph_are_diagnosed_and_left_in_float_by_its_name(lab):
    one, plan, work = lab()
    one.diagnose_best()
    said = json.loads((work / compress.DIAGNOSIS).read_text())
    layers = [layer["name"] for layer in said["layers"]]
    assert {name.partition(":")[0] for name in layers} <= set(NAMES)
    assert layers
    base = one.made["dynamic_int8"]
    kept = compress.replace(base, keep=("decoder_model_merged:up",))
    out = work / "kept"
    out.mkdir()
    made = one._quantize(kept, out)
    nodes = {node.name for node in external.load(made.graphs["decoder_model_merged"]).graph.node}
    assert "up" in nodes
    assert "up" not in {
        n.name for n in external.load(one._variant("dynamic_int8").graphs["decoder_model_merged"]).graph.node
    }
    assert choose(list(one.trials.values()), plan.target).name in one.trials


def test_what_ships_of_two_graphs_verifies_with_its_weights_beside_it(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(external, "LARGEST_FILE", 2048)
    _, plan, work = lab()
    name = "dynamic_int8-float32_encoder_model"
    plan.own_task = SimpleNamespace(
        keep={"logits": "as_is"},
        graphs=NAMES,
        program="forward",
        fidelity=AGREEMENT,
        encode=lambda folder, rows, size: rows,
    )
    splits = SimpleNamespace(test=[SimpleNamespace(input=row) for row in ROWS], golden=(), known=())
    (tmp_path / "files").mkdir()
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    write._artifact(plan, splits, tmp_path / "files", work, name, None, fresh)
    write._manifest(plan, {"choice": {"recipe": name}}, fresh)
    write._plain_modes(fresh)
    manifest = verify.read_manifest(fresh)
    assert manifest["model"]["graphs"] == {
        "encoder_model": {"file": "onnx/encoder_model.onnx", "recipe": "float32"},
        "decoder_model_merged": {"file": "onnx/decoder_model_merged_quantized.onnx", "recipe": name},
    }
    assert verify.model_files(manifest)[:2] == ["onnx/encoder_model.onnx", "onnx/encoder_model.onnx_data"]
    assert verify.main(fresh) == 0, capsys.readouterr().out
    data = fresh / "onnx" / "encoder_model.onnx_data"
    data.write_bytes(np.frombuffer(data.read_bytes(), np.uint8)[::-1].tobytes())
    assert verify.main(fresh) == 1
    assert "onnx/encoder_model.onnx_data: its content was changed" in capsys.readouterr().out


def two_graphs(folder):
    return Model(
        {
            "encoder_model": encoder(folder / "encoder_model.onnx", quantizable=True),
            "decoder_model_merged": decoder(folder / "decoder_model_merged.onnx"),
        }
    )


def test_every_graph_is_folded_and_the_forms_are_held_against_the_export(tmp_path, monkeypatch):
    for module in (predict, graphs):
        real = module.make
        found = {"devices": Board()}
        monkeypatch.setattr(
            module, "make", lambda kind, name, real=real, found=found: found.get(kind) or real(kind, name)
        )
    task = SimpleNamespace(encode=lambda folder, rows, size: rows, keep={"logits": "as_is"})
    plan = PlanStub(own_task=task, target=profile(), student=SimpleNamespace(survey=SimpleNamespace(max_size=9)))
    (tmp_path / "out").mkdir()
    graphs.improve(plan, tmp_path, ROWS[:3], two_graphs(tmp_path), tmp_path / "out")
    assert names_in(tmp_path / "out") == ["decoder_model_merged.onnx", "encoder_model.onnx", "graph.json"]
    said = graphs.read(tmp_path / "out")
    assert said["kept"] == "folded"
    assert [(one["name"], one["operators"], one["failed"]) for one in said["tried"]] == [
        ("folded", 5, None),
        ("exported", 5, None),
    ]


def test_sizing_quantizes_every_graph_on_what_it_is_fed(tmp_path):
    bench, plain = Bench(tmp_path, threads=1), two_graphs(tmp_path)
    made = bench.quantize(plain, "static_int8", profile(), ROWS[:4])
    assert list(made.graphs) == list(NAMES)
    assert made.size < plain.size
    assert bench.quantize(plain, "float32", profile(), []) is plain


def test_a_guest_gets_each_graph_with_its_data_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "LARGEST_FILE", 2048)
    plain = two_graphs(tmp_path)
    external.save(external.load(plain.graphs["encoder_model"]), plain.graphs["encoder_model"])
    (tmp_path / "in.npz").write_bytes(b"")
    job = {**plain.job, "inputs": [str(tmp_path / "in.npz")], "threads": 1}
    sent = guest.Running(guest.Guest(), None, 0, "")._pack(tmp_path / "sent.tar", "/job/1", "footprint", job)
    with tarfile.open(sent) as archive:
        names = archive.getnames()
    told = json.loads((tmp_path / "job.json").read_text())
    places = {path.removeprefix("/job/1/") for path in (*told["model"].values(), *told["inputs"])}
    assert places | {f"{told['model']['encoder_model'].removeprefix('/job/1/')}_data"} <= set(names)
    assert len({place.partition("/")[0] for place in places}) == 3
