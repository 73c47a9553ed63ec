"""The model card, README.md of a bundle: front matter as the Hugging Face hub reads it, and what people ask first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd.bundle.contents import PROVENANCE, SBOM, BundleContents
from edgekd.core import external, licences
from edgekd.core.errors import counted, listed
from edgekd.core.model import Model
from edgekd.core.protocols import PER_WORD
from edgekd.core.recall import recall_says
from edgekd.data.pairs import BETWEEN
from edgekd.data.tags import kinds_of
from edgekd.plan.plan import Plan
from edgekd.report import page

_FILES = {  # what lies in a bundle, in the order of the card
    "manifest.json": "every file with size and SHA-256",
    "config.json": "class names and sizes",
    "golden/": "inputs, the answers to them, and how far an answer may be from these",
    "verify.py": "checks the bundle where it lies",
    "bench/": "measures it on the device and writes a receipt",
    "report.html": "every figure and how it was got; also as report.md and report.json",
    SBOM: "what it is made of, a CycloneDX bill of materials",
    PROVENANCE: "how it was made: every choice, versions, hashes, an in-toto statement",
    "LICENSES/": "what is known of the teacher's and the data's licences",
}


def compose(about: BundleContents) -> str:
    """The whole card."""
    return page.render("card.md", about.said | variables(about.plan, about.said, about.model, about.folder))


def variables(plan: Plan, said: dict[str, Any], model: Model, folder: Path) -> dict[str, Any]:
    """What the card's template takes beside the report's values: of the model its first graph's file among it."""
    beside = {name: words for name, words in _FILES.items() if name != "config.json" or (folder / name).exists()}
    files = {f"onnx/{name}": words for name, words in _described(model)} | beside
    outputs = list(plan.made_task.keep)
    return {
        "pair": BETWEEN in plan.data.input_column,
        "graphs": [file.name for file in model.graphs.values()],
        "outputs": outputs,
        "model": next(iter(model.graphs.values())).name,
        "bundle": f"{plan.name}-{plan.target.name}",
        "survey": asdict(plan.student.survey),
        "front": front_matter(plan, said),
        "purpose": purpose(plan),
        "limits": limits(plan, said),
        "files": files,
    }


def _described(model: Model) -> Iterator[tuple[str, str]]:
    """Yield each of the model's files with what it is."""
    one = len(model.graphs) == 1
    for name, file in model.graphs.items():
        yield file.name, "the model" if one else f"the model's graph {name}"
        if external.has_data(file):
            yield external.data_file(file).name, "its weights"


def front_matter(plan: Plan, said: dict[str, Any]) -> str:
    """YAML for the hub, without its dashes. A distilled model's licence is its builder's to state: `other`."""
    import yaml

    kind = plan.made_task
    stated = licences.spdx(plan.teacher.licence) if plan.compresses_only else None
    known = (
        {"license": stated.lower()}
        if stated and " " not in stated
        else {
            "license": "other",
            "license_name": "of-its-teacher-and-data",
            "license_link": "LICENSES",
        }
    )
    tags = ["onnx", "onnxruntime", "edge", "quantization" if plan.compresses_only else "distillation", plan.target.name]
    summary = said["summary"]
    values = {
        **known,
        "pipeline_tag": kind.hub.task or plan.task,
        "library_name": "onnxruntime",
        "tags": [*tags, *(["transformers.js"] if kind.hub.in_javascript else [])],
        **({"base_model": plan.start.name} if is_hub_id(plan) else {}),
        "metrics": [summary["metric"]],
        "model-index": [
            {
                "name": f"{plan.name}-{plan.target.name}",
                "results": [
                    {
                        "task": {"type": kind.hub.task or plan.task},
                        "dataset": {"type": "custom", "name": plan.data.name, "split": "test"},
                        "metrics": [
                            {
                                "type": summary["metric"],
                                "value": round(summary["shipped"]["metric_value"], 6),
                                "verified": False,
                            }
                        ],
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000).strip()


def is_hub_id(plan: Plan) -> bool:
    """Whether the network that it starts from was fetched from the Hugging Face hub by `owner/name`."""
    source = plan.start.source
    known = plan.start.kind == "huggingface" and plan.start.name == source
    return known and source.count("/") == 1 and not source.startswith((".", "/", "~"))


def purpose(plan: Plan) -> str:
    """What it is for, as far as its plan says: the builder knows more."""
    what = plan.made_task.purpose.format(classes=len(plan.data.classes))
    return f"turns {what}, offline, with ONNX Runtime on {plan.target.name} ({plan.target.arch})"


def _of_labels(said: dict[str, Any]) -> list[str]:
    """What is to be kept in mind of who labelled the rows, where nothing was trained without the teacher."""
    if said["api"] is None:
        return ["Whether the teacher helped was not measured."]
    found = [f"{said['evidence']['says'][:1].upper()}{said['evidence']['says'][1:]}."]
    compared = said["api"]["compared"]
    if compared and not compared["own_labels"]:
        found.append("Labels of held-out rows are its teacher's answers: nobody has checked them.")
    return found


def _held_against(plan: Plan, said: Mapping[str, Any]) -> list[str]:
    """What it was held against where that is no label."""
    if said.get("outputs"):
        return [
            "It was held against the original graph in fp32, output by output: how right that one is was not asked."
        ]
    if plan.made_task.labelled and plan.metric.of_teacher:
        return ["The held-out rows have no labels: it was held against its teacher alone."]
    return []


def limits(plan: Plan, said: dict[str, Any]) -> list[str]:
    """What to keep in mind of it, each in a sentence: nothing that was not looked at is claimed."""
    found = [
        f"Its figures are of {said['data']['counts']['test']} held-out rows of the same data; other data may fare "
        "worse."
    ]
    if said["summary"]["evidence"]:
        found.append(f"Against the same student without its teacher: {said['evidence']['says']}.")
    elif said["summary"]["distilled"]:
        found += _of_labels(said)
    if plan.made_task.one_of_classes:
        found.append(f"It knows {len(plan.data.classes)} classes and always answers with one of them.")
    if plan.made_task.problem_type == PER_WORD:
        kinds = listed([*kinds_of(plan.data.classes)]) or "that its outputs are called after"
        found.append(f"It finds spans of the kinds {kinds}, and nothing else.")
    if said.get("thresholds"):
        found.append(
            f"It knows {counted(len(plan.data.classes), 'label')} and answers with those whose probability is "
            "above one half: "
            f"none, one or several. {said['thresholds']['says']}"
        )
    found += [f"{says[:1].upper()}{says[1:]}." for says in recall_says(said["summary"])]
    if plan.made_task.program == "causal":
        context = plan.student.survey.max_size
        found.append(f"Its memory was measured up to a context of {context} tokens; a longer one takes more.")
    elif said.get("hearing"):
        found.append(said["hearing"]["says"])
        found.append("Music and voices in another room may become words; silence, hum and noise are told apart.")
    elif plan.made_task.unit == "tokens":
        found.append(f"Texts are cut at {plan.student.survey.max_size} tokens.")
    if not plan.target.runs_here:
        found.append(f"Its time was measured on {said['summary']['measured_on']}, not on {plan.target.name}.")
    elsewhere = said["target_figures"]["accuracy"]["kind"]
    if elsewhere != "measured":
        found.append(f"Its {said['summary']['metric']} on {plan.target.arch} kernels was not measured.")
    found += _held_against(plan, said)
    if said["choice"]["forced"]:
        found.append(f"It was forced against: {'; '.join(said['choice']['against']) or 'nothing'}.")
    found.append("Whether it treats groups of people alike was not examined.")
    return found
