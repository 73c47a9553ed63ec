"""Provenance: an in-toto Statement v1 with an SLSA Provenance v1 predicate, unsigned unless the manifest is.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.1/provenance
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from edgekd.bundle.contents import BundleContents
from edgekd.core.digests import digest
from edgekd.core.registry import UNKNOWN
from edgekd.core.results import this_host
from edgekd.onboard.bench import CHECKS
from edgekd.plan.plan import Plan

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:edgekd:build:1"  # `edgekd build` by the plan under externalParameters
BUILDER = "urn:edgekd:builder:local"  # whoever ran it, on a machine of theirs: nothing vouches for it but a signature


def compose(about: BundleContents) -> dict[str, Any]:
    """The statement about the artifact's files. No path of this machine, no name of its user or of itself is in it."""
    plan = about.plan
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(about.artifact.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"plan": shown(plan)},
                "internalParameters": {
                    "plan_sha256": plan.digest,
                    "decided": decided(about.said),
                    "host": asdict(this_host()),
                },
                "resolvedDependencies": [*_inputs(plan), *_packages(plan)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"edgekd": plan.versions["edgekd"]}},
                "metadata": {"finishedOn": about.said["created"]},
                "byproducts": [
                    {"name": CHECKS, "digest": {"sha256": digest(about.checks)}, "annotations": about.checks},
                    *({"name": name, "digest": {"sha256": sha256}} for name, sha256 in about.evidence().items()),
                ],
            },
        },
    }


def decided(said: dict[str, Any]) -> dict[str, Any]:
    """What measuring settled where the plan leaves it open: two builds of one plan differ only where these do."""
    fit, graph = said["fit"], said["graph"]
    return {
        "shape": fit["chosen"]["shape"] if fit else None,
        "graph": graph["kept"] if graph else None,
        "recipe": said["choice"]["recipe"],
        "search_stopped": said["search_stopped"],
    }


def shown(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, without where its inputs lay."""
    values = plan.as_dict()
    for part in ("teacher", "base", "data"):
        if values[part] is None:
            del values[part]
            continue
        del values[part]["source"]
        values[part].pop("folder", None)
    del values["task_places"]
    if values["teacher"]["answered"] is None:
        del values["teacher"]["answered"]
    return values


def purl(package: str, version: str) -> str:
    """A Python package as a package URL: `pkg:pypi/scikit-learn@1.7.0`."""
    return f"pkg:pypi/{package.lower().replace('_', '-')}@{quote(version, safe='')}"


def packages(plan: Plan) -> dict[str, str]:
    """The packages that made it, plug-ins' too, by name, with their versions; edgekd itself is the builder."""
    others = dict(package.rsplit(" ", 1) for package in plan.plugins.values() if package != UNKNOWN)
    return others | {
        name: version for name, version in plan.versions.items() if version != "absent" and name != "edgekd"
    }


def _inputs(plan: Plan) -> list[dict[str, Any]]:
    covers = "names and SHA-256 of the weights, config.json and the tokenizer or preprocessing"
    teacher = {
        "name": f"teacher: {plan.teacher.name}",
        "digest": {"sha256": plan.teacher.sha256},
        "annotations": {"kind": plan.teacher.kind, "digest_covers": teacher_covers(plan) or covers},
    }
    data = {
        "name": f"data: {plan.data.name}",
        "digest": {"sha256": plan.data.digest},
        "annotations": {"digest_covers": "the rows by role, as read"},
    }
    given = [teacher, data]
    if plan.base:
        digest_covers = {"kind": plan.base.kind, "digest_covers": covers}
        beside = {"name": f"base: {plan.base.name}", "digest": {"sha256": plan.base.sha256}}
        given.append(beside | {"annotations": digest_covers})
    if plan.golden_digest:
        given.append({"name": "golden inputs", "digest": {"sha256": plan.golden_digest}})
    return given


def teacher_covers(plan: Plan) -> str:
    """What the teacher's SHA-256 is of, where it is of one thing; empty where it is of a list of files."""
    known = {
        "efficientnet_lite": "the file",
        "labels": "its architecture: it is trained from the data",
        "answers": "the rows with its answers",
    }
    return known.get(plan.teacher.kind, "")


def _packages(plan: Plan) -> list[dict[str, Any]]:
    return [{"uri": purl(name, version), "name": name} for name, version in packages(plan).items()]
