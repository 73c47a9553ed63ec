"""The papers of a bundle: valid by the standards they name, true to the build, silent about the builder's machine."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from conftest import loose_target, texts, write_csv
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from helpers import matmul_model
from huggingface_hub import ModelCard
from made_up import FORMS, composed
from onnx_files import EMBED, IMAGE, SERIES, TEXT, save, text_model

from edgekd.bundle import contents, documents, model_card, provenance, sbom, write
from edgekd.bundle.contents import BundleContents
from edgekd.core import external
from edgekd.core.model import Model
from edgekd.core.registry import plugin
from edgekd.exporters._onnx import finish
from edgekd.onboard import verify
from edgekd.onboard.bench import made_by
from edgekd.plan.plan import Plan
from edgekd.plan.planning import Options, make_plan
from edgekd.receipts.validate import made


def waves(path: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    np.savez(path, x=values, y=np.array(["slow", "fast"] * 100))
    return path


def pictures(path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (150, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x=values, y=np.array(["cat", "dog", "eel"] * 50))
    return path


def image_teacher(folder: Path) -> Path:
    import transformers

    names = dict(enumerate(("cat", "dog", "eel")))
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        patch_size=8,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def bare(path: Path) -> Path:
    return write_csv(path, [(text,) for text, _ in texts(150, seed=3)], ("text",))


def options_of(name: str, teacher: Path, data: Path, place: Path) -> tuple[Options, dict[str, Any]]:
    """What a user asks for, and which made-up report goes with it."""
    target = str(loose_target(place))
    if name == "text":
        return Options(target, teacher=str(teacher), data=str(data)), {"task": TEXT}
    if name == "series":
        return Options(target, task=SERIES, teacher="labels", data=str(waves(place / "waves.npz"))), {"task": SERIES}
    if name == "image":
        return Options(
            target,
            task=IMAGE,
            teacher=str(image_teacher(place / "vit")),
            min_speedup=0.01,
            data=str(pictures(place / "pictures.npz")),
        ), {"task": IMAGE}
    raw = str(bare(place / "raw.csv"))
    if name == "embeddings":
        return Options(target, task=EMBED, student="none", teacher=str(teacher), data=raw), FORMS["none, embeddings"]
    file = str(save(place, text_model()))
    return Options(target, student="none", teacher=file, data=raw), FORMS["none, without labels"] | {"task": TEXT}


@pytest.fixture(scope="module", params=["text", "series", "image", "embeddings", "an ONNX file"])
def form(request, tiny_teacher: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A plan of each task, distilled or compressed alone, with a report's values of the same form."""
    options, made_up = options_of(request.param, tiny_teacher, tiny_data, tmp_path_factory.mktemp("form"))
    return make_plan(options)[0], json.loads(json.dumps(composed(**made_up)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """One form that is quick to make."""
    place = tmp_path_factory.mktemp("plain")
    options, made_up = options_of("series", place, place, place)
    return make_plan(options)[0], json.loads(json.dumps(composed(**made_up)))


def dossier_of(plan: Plan, said: dict[str, Any], folder: Path) -> BundleContents:
    (folder / "onnx").mkdir(parents=True)
    matmul_model(folder / "onnx" / "model.onnx")
    (folder / "config.json").write_text("{}")
    (folder / "report.json").write_text(json.dumps(said))
    return contents.read(plan, said, {"optimum": "opens it"}, folder, {"report.json", *PAPERS})


PAPERS = ("sbom.cdx.json", "provenance.json", "README.md")


@pytest.fixture
def written(form, tmp_path: Path) -> tuple[BundleContents, dict[str, str]]:
    about = dossier_of(*form, tmp_path / "bundle")
    documents.write(about)
    return about, {name: (about.folder / name).read_text("utf-8") for name in PAPERS}


def check_bill(text: str) -> dict[str, Any]:
    """CycloneDX's own schema, every key known; and what it cannot say: references that lead somewhere."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill: dict[str, Any] = json.loads(text)
    parts = [bill["metadata"]["component"], *bill["components"]]
    refs = [part["bom-ref"] for part in parts]
    assert len(set(refs)) == len(refs)
    assert [one["ref"] for one in bill["dependencies"]] == refs
    assert {ref for one in bill["dependencies"] for ref in one["dependsOn"]} <= set(refs)
    assert all(("modelCard" in part) == (part["type"] == "machine-learning-model") for part in parts)
    return bill


def test_the_bill_is_valid_and_names_what_it_is_made_of(form, written) -> None:
    (plan, said), (about, papers) = form, written
    bill = check_bill(papers["sbom.cdx.json"])
    model, (teacher, data, *packages) = bill["metadata"]["component"], bill["components"]
    assert model["hashes"][0]["content"] == about.artifact["onnx/model.onnx"]
    assert model["modelCard"]["modelParameters"]["task"] == plan.task
    assert model["modelCard"]["modelParameters"]["inputs"] == [{"format": "x: float (1, tokens, 32)"}]
    assert ("approach" in model["modelCard"]["modelParameters"]) == (not plan.compresses_only)
    if plan.teacher.kind == "labels":
        assert "hashes" not in teacher
    else:
        assert teacher["hashes"][0]["content"] == plan.teacher.sha256
    assert data["name"] == plan.data.name
    scopes = {part["name"]: part["scope"] for part in packages}
    assert {name for name, scope in scopes.items() if scope == "required"} == {"onnxruntime", "numpy"}
    assert scopes["torch"] == "excluded"
    assert all(
        part["purl"].startswith("pkg:pypi/") and part["version"] in (part["purl"], part["version"]) for part in packages
    )
    assert next(part for part in packages if part["name"] == "onnx")["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    own = next(one for one in metrics if one["type"] == said["summary"]["metric"])
    assert float(own["value"]) == pytest.approx(said["summary"]["shipped"]["metric_value"], rel=1e-5)
    assert own["confidenceInterval"]
    peak = next(one for one in metrics if one["type"].startswith("peak memory"))
    assert "confidenceInterval" not in peak, "from the lowest to the highest of three runs: no such interval"


def test_the_same_artifact_has_the_same_bill(plain, tmp_path: Path) -> None:
    first, second = (sbom.compose(dossier_of(*plain, tmp_path / name)) for name in ("one", "two"))
    assert first == second
    other = dossier_of(*plain, tmp_path / "three")
    changed = replace(other, artifact=other.artifact | {"config.json": "0" * 64})
    assert sbom.compose(changed)["serialNumber"] != first["serialNumber"]


def test_the_provenance_is_a_statement_about_the_artifact(form, written) -> None:
    (plan, _), (about, papers) = form, written
    said = json.loads(papers["provenance.json"])
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert {one["name"]: one["digest"]["sha256"] for one in said["subject"]} == about.artifact
    assert set(about.artifact) == {"onnx/model.onnx", "config.json"}
    definition, run = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert all(
        re.fullmatch("urn:edgekd:[a-z]+:[a-z0-9]+", uri) for uri in (definition["buildType"], run["builder"]["id"])
    )
    wanted = {plan.teacher.sha256, plan.data.digest}
    needed = definition["resolvedDependencies"]
    assert {one["digest"]["sha256"] for one in needed if "digest" in one} == wanted
    assert {one["uri"] for one in needed if "uri" in one} >= {f"pkg:pypi/numpy@{plan.versions['numpy']}"}
    assert {one["name"] for one in run["byproducts"]} == {"report.json", "README.md", "sbom.cdx.json", "checks"}
    assert set(run) == {"builder", "metadata", "byproducts"}, "the fields that SLSA names, no other"
    assert definition["internalParameters"]["decided"]["recipe"] == "static_int8"
    assert made_by(about.folder) == {
        "plan": json.loads(json.dumps(provenance.shown(plan))),
        "checks": {"optimum": "opens it"},
    }


def test_the_card_is_one_that_the_hub_can_read(form, written) -> None:
    (plan, said), (_, papers) = form, written
    text = papers["README.md"]
    front = yaml.safe_load(text.split("---\n")[1])
    data = ModelCard(text).data
    assert front["pipeline_tag"] == data.pipeline_tag == plan.task
    assert ("transformers.js" in front["tags"]) == (plan.task != SERIES)
    assert "base_model" not in front, "a folder is no id of the hub"
    (result,) = data.eval_results
    assert result.metric_type == said["summary"]["metric"]
    assert result.metric_value == pytest.approx(said["summary"]["shipped"]["metric_value"])
    for part in ("## Evaluation", "## Limits", "## Use", "## Made from", "## Verify", "## Files"):
        assert f"\n{part}\n\n" in text
    assert "None" not in text


def test_nothing_of_the_machine_is_in_the_papers(form, written) -> None:
    _, (about, papers) = form, written
    secrets = [str(Path.home()), os.getcwd(), str(about.folder.parent), getpass.getuser(), socket.gethostname()]
    for name, text in papers.items():
        words = set(re.findall(r"[\w.@-]+", text))
        assert not [one for one in secrets if ("/" in one and one in text) or one in words], name
        assert not re.search(r'"/|file:|/tmp/', text), name
        assert not [key for key in os.environ if len(key) > 4 and key in words], name


@pytest.mark.parametrize(
    ("source", "name", "is_id"),
    [("owner/model", "owner/model", True), ("/srv/model", "model", False), ("./own/model", "model", False)],
)
def test_a_base_model_is_named_only_by_a_hub_id(plain, source: str, name: str, is_id: bool) -> None:
    plan, said = plain
    plan = replace(plan, teacher=replace(plan.teacher, kind="huggingface", source=source, name=name))
    front = yaml.safe_load(model_card.front_matter(plan, said))
    assert front.get("base_model") == (name if is_id else None)


@pytest.mark.parametrize(
    ("words", "only_compressed", "front"),
    [
        ("apache-2.0 (as its model card says)", True, {"license": "apache-2.0"}),
        ("apache-2.0 (as its model card says)", False, {"license": "other"}),
        ("gemma (as its model card says)", True, {"license": "other"}),
        ("MIT AND Apache-2.0", True, {"license": "other"}),
    ],
)
def test_only_a_model_that_was_its_teacher_has_its_licence(plain, words, only_compressed, front) -> None:
    plan, said = plain
    family = "none" if only_compressed else "transformer"
    plan = replace(plan, teacher=replace(plan.teacher, licence=words), student=replace(plan.student, family=family))
    assert front.items() <= yaml.safe_load(model_card.front_matter(plan, said)).items()


def test_licences_in_a_bill() -> None:
    assert sbom.choice("mit (as its model card says)") == [{"license": {"id": "MIT"}}]
    assert sbom.choice("MIT or Apache-2.0") == [{"expression": "MIT OR Apache-2.0"}]
    assert sbom.choice("LicenseRef-mine") == [{"expression": "LicenseRef-mine"}]
    assert sbom.choice("gemma (as its model card says)") == [{"license": {"name": "gemma (as its model card says)"}}]


def test_every_spdx_id_that_we_recognise_is_one_of_the_schemas() -> None:
    from cyclonedx.schema._res import SPDX_JSON
    from packaging.licenses._spdx import LICENSES

    known = set(json.loads(Path(SPDX_JSON).read_text("utf-8"))["enum"])
    assert {one["id"] for one in LICENSES.values()} <= known


def test_names_that_break_formats_break_no_paper(plain, tmp_path: Path) -> None:
    plan, said = plain
    evil = "a: [\n---\n<b>'\"|\x07é: &x *y"
    plan = replace(plan, teacher=replace(plan.teacher, name=evil, licence=evil), data=replace(plan.data, name=evil))
    about = dossier_of(plan, said, tmp_path / "bundle")
    documents.write(about)
    check_bill((about.folder / "sbom.cdx.json").read_text("utf-8"))
    front = yaml.safe_load((about.folder / "README.md").read_text("utf-8").split("\n---\n")[0].removeprefix("---\n"))
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == evil


def test_a_bundle_of_before_is_still_read(tmp_path: Path) -> None:
    """The layout that the first edgekd wrote: the plan at the top of provenance.json."""
    from made_bundle import make_bundle

    bundle = make_bundle(tmp_path / "old")
    old = json.loads((bundle / "provenance.json").read_text("utf-8"))
    assert "predicate" not in old
    read = made(bundle)
    assert read.plan == old["plan"]
    assert (read.classes, read.survey.max_size, read.checks) == (("a", "b", "c", "d"), 5, {})
    assert read.target["name"] == "here"


def test_the_papers_of_a_real_bundle(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text("utf-8"))
    bill = check_bill((tiny_bundle / "sbom.cdx.json").read_text("utf-8"))
    statement = json.loads((tiny_bundle / "provenance.json").read_text("utf-8"))
    listed = {name: entry["sha256"] for name, entry in manifest["artifact"]["files"].items()}
    assert {one["name"]: one["digest"]["sha256"] for one in statement["subject"]} == listed
    assert set(PAPERS) <= set(manifest["evidence"]["files"])
    assert bill["metadata"]["component"]["version"] == manifest["version"]
    inputs = bill["metadata"]["component"]["modelCard"]["modelParameters"]["inputs"]
    assert {"format": "input_ids: int64 (batch_size, sequence_length)"} in inputs
    assert made(tiny_bundle).checks["optimum"].startswith("ORTModelForSequenceClassification opens it")
    assert ModelCard.load(tiny_bundle / "README.md").data.pipeline_tag == "text-classification"


def test_a_model_of_several_graphs_has_each_in_manifest_bill_and_card(plain, tmp_path, monkeypatch) -> None:
    """One graph stays fp32, one is quantized with its weights beside it: both are named with what was made of them."""
    plan, said = plain
    names = ("encoder_model", "decoder_model_merged")
    monkeypatch.setattr(plugin("tasks", plan.task), "graphs", names)
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    matmul_model(folder / "onnx" / "encoder_model.onnx")
    monkeypatch.setattr(external, "LARGEST_FILE", 2048)
    quantized = folder / "onnx" / "decoder_model_merged_quantized.onnx"
    finish(onnx.load(matmul_model(tmp_path / "m.onnx", seed=1)), quantized, plan.target)
    (folder / "report.json").write_text(json.dumps(said))
    about = contents.read(plan, said, {}, folder, {"report.json", *PAPERS})
    assert about.model == Model(dict(zip(names, (folder / "onnx" / "encoder_model.onnx", quantized), strict=True)))
    documents.write(about)
    bill = json.loads((folder / "sbom.cdx.json").read_text("utf-8"))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    parts = {one["name"]: one["hashes"][0]["content"] for one in bill["metadata"]["component"]["components"]}
    assert parts == {about.listed(file): about.artifact[about.listed(file)] for file in about.model.files}
    assert len(parts) == 3
    sockets = bill["metadata"]["component"]["modelCard"]["modelParameters"]
    assert [one["format"] for one in sockets["inputs"]] == ["x: float (1, tokens, 32)"]
    text = (folder / "README.md").read_text("utf-8")
    for file, words in (
        ("encoder_model.onnx", "the model's graph encoder_model"),
        (f"{quantized.name}_data", "its weights"),
    ):
        assert f"| `onnx/{file}` | {words} |" in text
    write._manifest(plan, said, folder)
    manifest = verify.read_manifest(folder)
    assert manifest["model"] == {
        "program": "forward",
        "graphs": {
            "encoder_model": {"file": "onnx/encoder_model.onnx", "recipe": "float32"},
            "decoder_model_merged": {"file": f"onnx/{quantized.name}", "recipe": "static_int8"},
        },
        "outputs": {"logits": "as_is"},
    }
    assert verify.model_files(manifest) == [about.listed(file) for file in about.model.files]
    assert verify.changed_files(folder, manifest) == []
