"""The bill of materials: CycloneDX 1.6 as JSON, with the model card of an ML-BOM.

https://cyclonedx.org/docs/1.6/json/ . No Python library writes `modelCard` yet; tests hold this against the schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any
from uuid import UUID, uuid5

from edgekd.bundle.contents import BundleContents
from edgekd.bundle.model_card import limits, purpose
from edgekd.bundle.provenance import packages, purl, teacher_covers
from edgekd.core import licences
from edgekd.plan.plan import Plan, TeacherPlan

NAMESPACE = UUID("5f1c1d1e-8f0a-5c61-9d0b-3c1f6f6a2b7e")  # of our serial numbers: drawn once
RUN_TIME = ("onnxruntime", "numpy")  # what runs the model; all else only made it
_MEASURES = {  # of the report's figures: their names in the bill, those that have a 95% interval
    "latency_p50": "median latency, ms",
    "peak_rss": "peak memory above import, MiB",
    "artifact": "ONNX file, MiB",
    "ece": "expected calibration error",
}
_HAVE_INTERVALS = ("latency_p50", "ece")  # others' are from the lowest to the highest of a few runs


def compose(about: BundleContents) -> dict[str, Any]:
    """The bill of one bundle; its serial number follows from the artifact, so that a rebuilt one has the same."""
    plan = about.plan
    made_with = [_package(name, version, plan) for name, version in packages(plan).items()]
    run_time = [one["bom-ref"] for one in made_with if one["name"] in RUN_TIME]
    model = _model(about)
    started = [_base(plan.base, plan.task)] if plan.base else []
    base = ["base"] if plan.base else []
    known = [model["bom-ref"], "teacher", *base, "data", *(one["bom-ref"] for one in made_with)]
    depends = {
        model["bom-ref"]: ["teacher", *base, "data", *run_time],
        "teacher": [] if plan.teacher.ready else ["data"],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE, about.artifact_sha256)}",
        "version": 1,
        "metadata": {
            "timestamp": about.said["created"],
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "edgekd",
                        "version": plan.versions["edgekd"],
                        "licenses": choice("Apache-2.0"),
                    },
                ]
            },
            "component": model,
        },
        "components": [_teacher(plan, about.said), *started, _data(plan), *made_with],
        "dependencies": [{"ref": ref, "dependsOn": depends.get(ref, [])} for ref in known],
    }


def choice(words: str) -> list[dict[str, Any]]:
    """A licence as CycloneDX has it: an SPDX id, an SPDX expression, or else its name as it was stated."""
    expression = licences.spdx(words)
    if expression is None:
        return [{"license": {"name": words}}]
    if re.search(r"[ ()]|LicenseRef", expression):
        return [{"expression": expression}]
    return [{"license": {"id": expression}}]


def _model(about: BundleContents) -> dict[str, Any]:
    plan, said = about.plan, about.said
    shape = said["fit"]["chosen"]["words"] if said["fit"] else plan.teacher.words
    rows = plan.data.counts
    parameters: dict[str, Any] = {
        "task": plan.task,
        "architectureFamily": plan.student.family if said["fit"] else _family(plan),
        "modelArchitecture": shape,
        "datasets": [{"ref": "data"}],
        **_sockets(about),
    }
    if said["fit"] and plan.data.label_column:
        unlabelled = rows.get("unlabelled", 0)
        parameters = {"approach": {"type": "semi-supervised" if unlabelled else "supervised"}, **parameters}
    stated = plan.teacher.licence if plan.compresses_only else "not stated by its builder; see LICENSES/"
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": about.name,
        "version": plan.version,
        "description": said["summary"]["verdict"],
        **_hashes(about),
        "licenses": choice(stated),
        "modelCard": {
            "modelParameters": parameters,
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    *_metrics(said, said["choice"]["recipe"], "this model"),
                    *_metrics(said, said["roles"]["yardstick"], said["roles"]["speed"]),
                ]
            },
            "considerations": {
                "useCases": [purpose(plan)],
                "technicalLimitations": limits(plan, said),
                "performanceTradeoffs": [said["summary"]["verdict"]],
            },
        },
        "properties": _properties(
            {
                "file": ", ".join(about.listed(file) for file in about.model.graphs.values()),
                "recipe": said["choice"]["recipe"],
                "target": plan.target.name,
                "ort_version": plan.target.ort_version,
                "plan_sha256": plan.digest,
                "artifact_sha256": about.artifact_sha256,
            }
        ),
    }


def _hashes(about: BundleContents) -> dict[str, Any]:
    """Return the hash of a model of one file; of one of several its files, each with its hash."""
    listed = [about.listed(file) for file in about.model.files]
    if len(listed) == 1:
        return {"hashes": [_hash(about.artifact[listed[0]])]}
    parts = [
        {"type": "file", "bom-ref": name, "name": name, "hashes": [_hash(about.artifact[name])]} for name in listed
    ]
    return {"components": parts}


def _base(base: TeacherPlan, task: str) -> dict[str, Any]:
    """The network that a student starts from, beside a teacher that only answers."""
    family = str(base.architecture.get("family") or base.architecture.get("model_type", ""))
    return {
        "type": "machine-learning-model",
        "bom-ref": "base",
        "name": base.name,
        "hashes": [_hash(base.sha256)],
        "licenses": choice(base.licence),
        "modelCard": {"modelParameters": {"task": task, "architectureFamily": family, "modelArchitecture": base.words}},
        "properties": _properties(
            {"kind": base.kind, "sha256_covers": "a list of its files with their SHA-256", "used": "to start from"}
        ),
    }


def _teacher(plan: Plan, said: dict[str, Any]) -> dict[str, Any]:
    covers = teacher_covers(plan)
    parameters = {"task": plan.task, "architectureFamily": _family(plan), "modelArchitecture": plan.teacher.words}
    made = {
        "type": "machine-learning-model",
        "bom-ref": "teacher",
        "name": plan.teacher.name,
        "hashes": [_hash(plan.teacher.sha256)],
        "licenses": choice(plan.teacher.licence),
        "modelCard": {"modelParameters": parameters},
        "properties": _properties(
            {
                "kind": plan.teacher.kind,
                "sha256_covers": covers or "a list of its files with their SHA-256",
                "used": said["teacher"]["used"],
            }
        ),
    }
    if plan.teacher.kind == "labels":
        del made["hashes"]  # there was no file
    return made


def _data(plan: Plan) -> dict[str, Any]:
    counts = {f"rows_{role}": count for role, count in plan.data.counts.items()}
    about = {"rows_sha256": plan.data.digest, "classes": len(plan.data.classes), **counts}
    inside = {"type": "dataset", "name": plan.data.name, "contents": {"properties": _properties(about)}}
    return {
        "type": "data",
        "bom-ref": "data",
        "name": plan.data.name,
        "licenses": choice(plan.data.licence),
        "data": [inside],
    }


def _package(name: str, version: str, plan: Plan) -> dict[str, Any]:
    at = purl(name, version)
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": at,
        "name": name,
        "version": version,
        "purl": at,
        "scope": "required" if name in RUN_TIME else "excluded",
    }
    if words := _licence_of(name):
        made["licenses"] = choice(words)
    if name == "onnxruntime":
        made["properties"] = _properties({"on_the_device": plan.target.ort_version})
    return made


def _licence_of(package: str) -> str:
    """What an installed package's metadata say: SPDX where they have it, else their short words; else nothing."""
    try:
        told = metadata(package)
    except PackageNotFoundError:
        return ""
    if "License-Expression" in told:
        return told["License-Expression"]
    words = " ".join(told["License"].split()) if "License" in told else ""
    if 0 < len(words) <= 60:  # some put the whole text there
        return words
    classes = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier") or [] if one.startswith("License ::")]
    return ", ".join(classes)


def _metrics(said: dict[str, Any], who: str, name: str) -> list[dict[str, Any]]:
    """What was measured of a model on this host, each with its interval where that is one of 95%."""
    metric = said["summary"]["metric"]
    roles = said["roles"]
    wanted = {"agreement": f"{said['quality']['fidelity']['of_teacher']} {roles['speed']}", metric: metric} | _MEASURES
    found = []
    for key, words in wanted.items():
        figure = said["figures"][who].get(key)
        if figure is None or figure["value"] is None or (who == roles["yardstick"] and key == "agreement"):
            continue
        one: dict[str, Any] = {
            "type": words,
            "value": f"{figure['value']:.6g}",
            "slice": f"{name}; {figure['how']}; n = {figure['n']}; {figure['host']}",
        }
        if figure["interval"] and (key in _HAVE_INTERVALS or key in (metric, "agreement")):
            low, high = figure["interval"]
            one["confidenceInterval"] = {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}
        found.append(one)
    return found


def _sockets(about: BundleContents) -> dict[str, Any]:
    """The inputs of all graphs that none before gives, and the last one's outputs: `input_ids: int64 (batch, n)`."""
    import onnx

    graphs = [onnx.load(file, load_external_data=False).graph for file in about.model.graphs.values()]

    def told(values: Sequence[Any]) -> list[dict[str, str]]:
        said = []
        for value in values:
            tensor = value.type.tensor_type
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            sides = (side.dim_param or str(side.dim_value) for side in tensor.shape.dim)
            said.append({"format": f"{value.name}: {kind} ({', '.join(sides)})"})
        return said

    inputs: dict[str, Any] = {}
    given: set[str] = set()
    for graph in graphs:
        known = given | {one.name for one in graph.initializer}
        inputs |= {one.name: one for one in graph.input if one.name not in known and one.name not in inputs}
        given |= {one.name for one in graph.output}
    return {"inputs": told(list(inputs.values())), "outputs": told(graphs[-1].output)}


def _family(plan: Plan) -> str:
    architecture = plan.teacher.architecture
    if "answers" in architecture:
        return "an API"
    return str(architecture.get("family") or architecture.get("model_type", "onnx"))


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _properties(values: dict[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"edgekd:{name}", "value": str(value)} for name, value in values.items()]
