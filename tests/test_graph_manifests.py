"""Manifests that name a model's graphs: what they may say, what is refused, and that those of before are read."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from helpers import WIDTH, matmul_model, profile, random_weights, save_graph
from made_bundle import Board, listed, make_bundle, model_of, write_manifest
from onnx import helper

from edgekd.core import external
from edgekd.core.digests import file_sha256
from edgekd.core.errors import UsageError
from edgekd.core.model import Model
from edgekd.core.protocols import NullProgress
from edgekd.core.receipt import ReceiptRefused
from edgekd.exporters._onnx import finish
from edgekd.onboard import bench, programs, verify
from edgekd.receipts import compare, files, trust
from edgekd.receipts.shipped import open_bundle

SCHEMAS = [1, 2, 3]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    place = tmp_path_factory.mktemp("bundles")
    return {schema: make_bundle(place / f"tiny-{schema}", schema=schema) for schema in SCHEMAS}


@pytest.fixture
def bundle(originals, tmp_path):
    return shutil.copytree(originals[3], tmp_path / "bundle")


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text("utf-8"))


def relisted(folder, **values):
    """The manifest with every file listed anew, and other values: all hashes are right."""
    write_manifest(folder, manifest_of(folder) | {"artifact": {"files": listed(folder)}} | values)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_bundles_of_every_schema_verify_and_their_receipts_hold(originals, schema, capsys):
    folder = originals[schema]
    assert verify.main(folder) == 0
    assert "ok      onnx/model.onnx loads and runs" in capsys.readouterr().out
    receipt = files.check(bench.receipt(folder, Board(latency_ms=1.0).run, device="local"), folder)
    assert (receipt.model, receipt.model_sha256) == ("onnx/model.onnx", file_sha256(folder / "onnx" / "model.onnx"))
    assert open_bundle(folder).model == Model.of(folder / "onnx" / "model.onnx")
    checked = trust.check(folder)
    assert checked.model == "onnx/model.onnx"


def test_bundles_of_different_schemas_are_compared(originals, monkeypatch):
    monkeypatch.setattr(compare, "device_at", lambda *words, **options: ("board", Board()))
    found = compare.compare([originals[2], originals[3]], NullProgress())
    assert found.sides[0].artifact_mib == found.sides[1].artifact_mib > 0


@pytest.mark.parametrize("schema", SCHEMAS)
def test_one_function_reads_the_model_of_every_schema(originals, schema):
    manifest = verify.read_manifest(originals[schema])
    found = verify.model_of(manifest)
    assert found["graphs"] == {"model": {"file": "onnx/model.onnx", "recipe": "float32"}}
    assert found["program"] == "forward"
    assert found["outputs"] == ("mean" if schema < 3 else {"y": "as_is"})
    assert verify.model_job(originals[schema], manifest) == {"model": str(originals[schema] / "onnx" / "model.onnx")}


def test_several_graphs_are_named_in_order(bundle):
    matmul_model(bundle / "onnx" / "encoder_model.onnx", seed=1)
    graphs = {name: {"file": f"onnx/{name}.onnx", "recipe": "float32"} for name in ("encoder_model", "model")}
    relisted(bundle, model=model_of(3) | {"graphs": graphs})
    manifest = verify.read_manifest(bundle)
    paths = {name: str(bundle / told["file"]) for name, told in graphs.items()}
    assert verify.model_job(bundle, manifest) == {"model": paths}
    assert list(verify.model_job(bundle, manifest)["model"]) == ["encoder_model", "model"]
    assert verify.model_name(manifest) == "onnx/encoder_model.onnx, onnx/model.onnx"
    whole = verify.model_sha256(manifest)
    turned = manifest | {"model": manifest["model"] | {"graphs": dict(reversed(graphs.items()))}}
    assert len({whole, verify.model_sha256(turned), *(one["sha256"] for one in listed(bundle).values())}) > len(
        listed(bundle)
    )
    assert open_bundle(bundle).model.job == {"model": paths}


def graph(**values):
    return {"graphs": {"model": {"file": "onnx/model.onnx", "recipe": "float32"} | values}}


TWICE = {name: {"file": "onnx/model.onnx", "recipe": "float32"} for name in ("a", "b")}
HOSTILE = {
    "a list": ([], "its model is missing, or no plain dict"),
    "a name, as before": ("onnx/model.onnx", "its model is missing, or no plain dict"),
    "nothing in it": ({}, "no program with graphs and outputs"),
    "no program": (model_of(3) | {"program": None}, "no program with graphs and outputs"),
    "graphs in a list": (model_of(3) | {"graphs": ["onnx/model.onnx"]}, "no program with graphs and outputs"),
    "outputs in a word": (model_of(3) | {"outputs": "mean"}, "no program with graphs and outputs"),
    "no graphs": (model_of(3) | {"graphs": {}}, "its model has 0 graphs and 1 outputs"),
    "no outputs": (model_of(3) | {"outputs": {}}, "its model has 1 graphs and 0 outputs"),
    "too many graphs": (model_of(3) | {"graphs": {f"g{i}": {} for i in range(17)}}, "its model has 17 graphs"),
    "too many outputs": (model_of(3) | {"outputs": {f"o{i}": "as_is" for i in range(65)}}, "and 65 outputs"),
    "an unknown program": (model_of(3) | {"program": "swarm"}, "made by a newer edgekd: its program swarm"),
    "a program elsewhere": (model_of(3) | {"program": "../forward"}, "its program ../forward is not known"),
    "an unknown rule": (model_of(3) | {"outputs": {"y": "max"}}, "made by a newer edgekd: what it keeps of y"),
    "a rule of another kind": (model_of(3) | {"outputs": {"y": 1}}, "its output y is no name with a rule"),
    "a graph without a file": (model_of(3) | {"graphs": {"model": {"recipe": "x"}}}, "its graph model is no name"),
    "a graph without a recipe": (model_of(3) | graph(recipe=7), "its graph model is no name"),
    "a graph in a word": (model_of(3) | {"graphs": {"model": "onnx/model.onnx"}}, "its graph model is no name"),
    "a graph with a terminal's commands": (
        model_of(3) | {"graphs": {"\x1b[2J": graph()["graphs"]["model"]}},
        "its graph '\\x1b[2J' is no name",
    ),
    "a graph with a path for a name": (model_of(3) | {"graphs": {"../m": graph()["graphs"]["model"]}}, "graph ../m"),
    "a file outside": (model_of(3) | graph(file="../model.onnx"), "names no model of this bundle: ../model.onnx"),
    "an absolute file": (model_of(3) | graph(file="/etc/passwd"), "names no model of this bundle: /etc/passwd"),
    "a file that is not listed": (model_of(3) | graph(file="onnx/x.onnx"), "names no model of this bundle"),
    "one file for two graphs": (model_of(3) | {"graphs": TWICE}, "it names one file for two graphs"),
}


@pytest.mark.parametrize(("model", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_model_is_refused_in_words(bundle, capsys, model, words):
    relisted(bundle, model=model)
    assert verify.main(bundle) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("FAILED  manifest.json cannot be used: ")
    assert words in line
    with pytest.raises(UsageError, match=r"cannot be used|is no bundle"):
        open_bundle(bundle)


def test_a_graph_whose_name_stands_twice_is_refused(bundle, capsys):
    raw = json.dumps(manifest_of(bundle) | {"self_sha256": "0" * 64})
    entry = '"model": {"file": "onnx/model.onnx", "recipe": "float32"}'
    assert entry in raw
    (bundle / "manifest.json").write_text(raw.replace(entry, f"{entry}, {entry}"))
    assert verify.main(bundle) == 1
    assert "a key stands in it twice" in capsys.readouterr().out


def test_a_manifest_of_before_with_graphs_is_refused(bundle, capsys):
    relisted(bundle, schema=2)
    assert verify.main(bundle) == 1
    assert "its model is missing, or no plain str" in capsys.readouterr().out


def test_the_verifier_knows_the_runners_programs_and_rules_and_where_weights_lie():
    assert (verify.PROGRAMS, verify.RULES) == (programs.PROGRAMS, programs.RULES)
    assert external.data_file(Path("a.onnx")).name == f"a.onnx{verify.DATA}"


@pytest.fixture
def two(bundle):
    """The same model as two graphs that say together what it says."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["states"])]
    save_graph(
        bundle / "onnx" / "encoder_model.onnx",
        nodes,
        [1, "tokens", WIDTH],
        output_name="states",
        w=random_weights(WIDTH, WIDTH),
    )
    nodes = [
        helper.make_node("ReduceMean", ["states"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["y"]),
    ]
    weights = random_weights(WIDTH, 4, seed=100)
    save_graph(bundle / "onnx" / "decoder_model.onnx", nodes, [1, 4], input_name="states", v=weights)
    (bundle / "onnx" / "model.onnx").unlink()
    graphs = {name: {"file": f"onnx/{name}.onnx", "recipe": "float32"} for name in ("encoder_model", "decoder_model")}
    relisted(bundle, model=model_of(3) | {"graphs": graphs})
    return bundle


def test_a_bundle_of_two_graphs_verifies_and_its_receipts_hold(two, originals, monkeypatch, capsys):
    assert verify.main(two) == 0
    assert "ok      onnx/encoder_model.onnx, onnx/decoder_model.onnx loads and runs" in capsys.readouterr().out
    made = bench.receipt(two, Board(latency_ms=1.0).run, device="local")
    receipt = files.check(made, two)
    assert receipt.model == "onnx/encoder_model.onnx, onnx/decoder_model.onnx"
    assert receipt.model_sha256 == verify.model_sha256(verify.read_manifest(two))
    monkeypatch.setattr(compare, "device_at", lambda *words, **options: ("board", Board()))
    found = compare.compare([originals[2], two], NullProgress())
    assert found.sides[1].artifact_mib == open_bundle(two).model.size_mib
    (two / "onnx" / "decoder_model.onnx").write_bytes((two / "onnx" / "encoder_model.onnx").read_bytes())
    relisted(two)
    with pytest.raises(ReceiptRefused, match="of another"):
        files.check(made, two)


# ---- external data


@pytest.fixture
def apart(bundle, monkeypatch):
    """The same bundle with the weights beside the graph."""
    monkeypatch.setattr(external, "LARGEST_FILE", 2048)
    file = bundle / "onnx" / "model.onnx"
    finish(onnx.load(file), file, profile())
    relisted(bundle)
    return bundle


def test_weights_beside_a_graph_are_the_models(apart, capsys):
    assert verify.main(apart) == 0, capsys.readouterr().out
    manifest = verify.read_manifest(apart)
    assert verify.model_files(manifest) == ["onnx/model.onnx", "onnx/model.onnx_data"]
    assert verify.model_sha256(manifest) not in {one["sha256"] for one in listed(apart).values()}
    assert open_bundle(apart).model.size == sum((apart / name).stat().st_size for name in verify.model_files(manifest))
    files.check(bench.receipt(apart, Board(latency_ms=1.0).run, device="local"), apart)


def test_a_flipped_bit_of_the_weights_is_found_and_missing_ones_are_named(apart, capsys):
    data = apart / "onnx" / "model.onnx_data"
    raw = bytearray(data.read_bytes())
    raw[77] ^= 1
    data.write_bytes(raw)
    assert verify.main(apart) == 1
    assert "onnx/model.onnx_data: its content was changed" in capsys.readouterr().out
    data.unlink()
    assert verify.main(apart) == 1
    assert "onnx/model.onnx_data: missing" in capsys.readouterr().out


def test_weights_that_the_manifest_does_not_list_end_in_7(apart, capsys):
    (apart / "onnx" / "model.onnx_data").unlink()
    relisted(apart)
    assert verify.main(apart) == 7
    assert "External data path does not exist" in capsys.readouterr().out


def test_weights_among_the_evidence_are_refused(apart, capsys):
    files = listed(apart)
    evidence = {"onnx/model.onnx_data": files.pop("onnx/model.onnx_data")}
    relisted(apart, artifact={"files": files}, evidence={"files": evidence})
    assert verify.main(apart) == 1
    assert "it lists the weights onnx/model.onnx_data as evidence" in capsys.readouterr().out


@pytest.mark.parametrize("location", ["../model.onnx_data", "link", "/proc/self/environ"])
def test_weights_outside_the_folder_are_never_read(apart, capsys, location):
    """Every hash is right, and nobody signed it: ONNX Runtime itself refuses the place."""
    file = apart / "onnx" / "model.onnx"
    shutil.copyfile(external.data_file(file), apart / "model.onnx_data")
    model = onnx.load(file, load_external_data=False)
    external._point_to(model, location)
    onnx.save(model, file)
    relisted(apart)
    if location == "link":
        (apart / "onnx" / "link").symlink_to(apart / "model.onnx_data")
    assert verify.main(apart) == (1 if location == "link" else 7)
    assert capsys.readouterr().out.startswith(("FAILED", "ok "))
