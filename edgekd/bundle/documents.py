"""The documents of a bundle, in the order in which they are written."""

from __future__ import annotations

from edgekd.bundle import model_card, provenance, sbom
from edgekd.bundle.contents import CARD, PROVENANCE, SBOM, BundleContents


def write(about: BundleContents) -> None:
    """Write sbom.cdx.json, README.md and, last, provenance.json, which has the hashes of the others."""
    about.write(SBOM, sbom.compose(about))
    (about.folder / CARD).write_text(model_card.compose(about), encoding="utf-8")
    about.write(PROVENANCE, provenance.compose(about))
