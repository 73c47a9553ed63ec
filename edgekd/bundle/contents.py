"""What the documents of one bundle are written from: its plan, its report's values, its files with their hashes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekd.compression.candidates import graphs_in
from edgekd.core.digests import digest
from edgekd.core.model import Model
from edgekd.core.seals import contents
from edgekd.plan.plan import Plan

SBOM, PROVENANCE, CARD = "sbom.cdx.json", "provenance.json", "README.md"


@dataclass(frozen=True)
class BundleContents:
    """One bundle before it is moved into place: its plan, its report's values and the folder that has its files."""

    plan: Plan
    said: dict[str, Any]  # the report's values
    checks: dict[str, Any]  # what was tried on the finished folder
    folder: Path
    artifact: dict[str, str]  # the artifact's files with their SHA-256; all others are evidence

    @cached_property
    def model(self) -> Model:
        """The graphs in the folder."""
        return graphs_in(self.folder / "onnx", self.said["choice"]["recipe"], self.plan.made_task)

    def listed(self, file: Path) -> str:
        """Return a file's name in the artifact."""
        return file.relative_to(self.folder).as_posix()

    @property
    def artifact_sha256(self) -> str:
        """SHA-256 over the artifact's names and hashes: the same for every rebuild of it."""
        return digest(self.artifact)

    @property
    def name(self) -> str:
        """NAME-TARGET."""
        return f"{self.plan.name}-{self.plan.target.name}"

    def evidence(self) -> dict[str, str]:
        """The files there are beside the artifact so far, with their SHA-256."""
        return {name: sha256 for name, sha256 in contents(self.folder).items() if name not in self.artifact}

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write a document as JSON."""
        (self.folder / name).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(plan: Plan, said: dict[str, Any], checks: dict[str, Any], folder: Path, evidence: set[str]) -> BundleContents:
    """Return the contents of a folder whose artifact is whole; `evidence` names what does not count as artifact."""
    artifact = {name: sha256 for name, sha256 in contents(folder).items() if name not in evidence}
    return BundleContents(plan, said, checks, folder, artifact)
