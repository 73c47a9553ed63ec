"""LICENSES/ of a bundle: what is said of the licences of teacher and data, and the texts that lie beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekd.core import licences
from edgekd.core.files import user_path
from edgekd.plan.plan import Plan


def write(plan: Plan, folder: Path) -> None:
    """Make LICENSES/ in that folder: TEACHER.txt, DATA.txt and copies of the licence files beside either."""
    place = folder / "LICENSES"
    place.mkdir()
    base = [("BASE", plan.base.name, plan.base.licence, _folder(plan.base.folder))] if plan.base else []
    for what, name, words, source in (
        ("TEACHER", plan.teacher.name, plan.teacher.licence, _folder(plan.teacher.folder)),
        *base,
        ("DATA", plan.data.name, plan.data.licence, _folder(plan.data.source)),
    ):
        beside = licences.files(source) if source else []
        copied = list(licences.copied_names(beside, f"{what}-"))
        for path, own in copied:
            shutil.copyfile(path, place / own)
        text = said(name, words, [own for _, own in copied])
        (place / f"{what}.txt").write_text(text, encoding="utf-8")


def said(name: str, words: str, copied: list[str]) -> str:
    """The text about one of them."""
    lines = [name, f"Licence: {words}"]
    if expression := licences.spdx(words):
        lines.append(f"SPDX: {expression}")
    if remark := licences.terms(words):
        lines.append(f"Keep in mind: {remark}.")
    lines.append(f"In full: {', '.join(copied)}" if copied else "No licence text lay beside it.")
    return "\n".join(lines) + "\n"


def _folder(source: str) -> Path | None:
    """Where a teacher or data lie; of a file its folder."""
    path = user_path(source) if source else None
    if path is None or not path.exists():
        return None
    return path if path.is_dir() else path.parent
