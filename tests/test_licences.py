"""Licences: what is read of them, from whom, and what is neither read nor copied."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekd.bundle import licences as papers
from edgekd.core import licences

APACHE = "                                 Apache License\n                           Version 2.0, January 2004\n"
UNREAD = "not stated in the teacher's folder (README.md cannot be read: "
MIT = "Copyright (c) 2026 Somebody\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\n"
BSD = "Redistribution and use in source and binary forms, with or\nwithout modification, are permitted"


def folder(place: Path, **files: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("_dot_", ".")).write_text(text, encoding="utf-8")
    return place


def card(front: str) -> str:
    return f"---\n{front}\n---\n# A model\n"


@pytest.mark.parametrize(
    ("files", "words", "spdx"),
    [
        ({}, "not stated in the teacher's folder", None),
        ({"README_dot_md": card("license: apache-2.0\na: [x]")}, "apache-2.0 (as its model card says)", "Apache-2.0"),
        ({"README_dot_md": "\ufeff" + card("license: mit")}, "mit (as its model card says)", "MIT"),
        ({"README_dot_md": card("license: other\nlicense_name: my-terms")}, "my-terms (as its model card says)", None),
        ({"README_dot_md": card("license: [mit, bsd-3-clause]")}, "mit, bsd-3-clause (as its model card says)", None),
        ({"README_dot_md": card("license: gemma"), "LICENSE": MIT}, "gemma (as its model card says)", None),
        ({"README_dot_md": card("license: 5"), "LICENSE": MIT}, "MIT (as its LICENSE says)", "MIT"),
        ({"README_dot_md": "# no front matter\nlicense: mit\n"}, "not stated in the teacher's folder", None),
        ({"README_dot_md": card("license: mit\n a: [")}, f"{UNREAD}line 3: mapping values are not allowed here)", None),
        (
            {"README_dot_md": card("a: &a [b]\nlicense: *a")},
            f"{UNREAD}line 2: a is an anchor's name or its alias)",
            None,
        ),
        ({"README_dot_md": card("[" * 5000)}, f"{UNREAD}line 2: nested deeper than 32 levels)", None),
        ({"README_dot_md": card('license: "a\\x1b[31m\\n| b <i>"')}, "a 31m b i (as its model card says)", None),
        ({"LICENSE": APACHE}, "Apache-2.0 (as its LICENSE says)", "Apache-2.0"),
        ({"LICENCE_dot_txt": BSD}, "BSD-2-Clause (as its LICENCE.txt says)", "BSD-2-Clause"),
        ({"COPYING": BSD + " Neither the name of"}, "BSD-3-Clause (as its COPYING says)", "BSD-3-Clause"),
        ({"LICENSE": "GNU GENERAL PUBLIC LICENSE\n Version 3"}, "GNU GPL 3 (as its LICENSE says)", None),
        ({"LICENSE": "Gemma is provided under and subject to"}, "Gemma Terms of Use (as its LICENSE says)", None),
        ({"LICENSE": "Ask me first."}, "its own terms (see its LICENSE)", None),
        ({"NOTICE": MIT}, "not stated in the teacher's folder", None),
    ],
)
def test_what_a_folder_says(tmp_path: Path, files: dict[str, str], words: str, spdx: str | None) -> None:
    said = licences.of_teacher(folder(tmp_path / "teacher", **files))
    assert said == words
    assert licences.spdx(said) == spdx


def test_what_lies_beside_data(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", LICENSE=MIT) / "rows.csv"
    data.write_text("text,label\n")
    assert licences.of_data(str(data)) == licences.of_data(str(data.parent)) == "MIT (as LICENSE beside the data says)"
    assert licences.of_data(str(folder(tmp_path / "bare"))) == "not stated: the data are yours"
    saved = folder(tmp_path / "saved", dataset_info_dot_json=json.dumps({"license": "cc-by-4.0"}))
    assert licences.of_data(str(saved)) == "cc-by-4.0 (as the card beside the data says)"
    assert licences.of_data("owner/set") == "not read here: see the dataset's card, owner/set"
    assert licences.of_data(str(folder(tmp_path / "odd", dataset_info_dot_json="[" * 90000))).startswith("not stated")


@pytest.mark.parametrize(
    ("words", "reminder"),
    [
        ("gemma (as its model card says)", "Gemma's terms"),
        ("Gemma Terms of Use (as its LICENSE says)", "Gemma's"),
        ("llama3.1 (as its model card says)", "Llama's"),
        ("cc-by-nc-4.0", "no commercial use"),
        ("CC-BY-NC-ND-4.0", "no derivatives"),
        ("creativeml-openrail-m", "OpenRAIL"),
        ("agpl-3.0", "copyleft"),
        ("TREC question classification, research use (the package x)", "research use"),
        ("not stated in the teacher's folder", "not stated"),
        ("none stated (UCR archive)", "not stated"),
        ("mit (as its model card says)", ""),
        ("apache-2.0", ""),
        ("not stated: the data are yours", ""),
        ("trained here from the labels", ""),
    ],
)
def test_what_to_keep_in_mind(words: str, reminder: str) -> None:
    said = licences.terms(words)
    assert reminder in said
    assert bool(said) == bool(reminder)


def test_only_small_plain_files_of_the_folder_are_taken(tmp_path: Path) -> None:
    outside = folder(tmp_path / "outside", secret="the builder's own") / "secret"
    place = folder(tmp_path / "teacher", LICENSE=MIT, **{f"NOTICE{n:02}": "x" for n in range(20)})
    (place / "LICENSE.link").symlink_to(outside)
    (place / "COPYING.fifo").touch()
    (place / "COPYING.fifo").unlink()
    os.mkfifo(place / "COPYING.fifo")
    (place / "LICENSES").mkdir()
    (place / "COPYING.big").write_bytes(b"x" * (licences.MOST_BYTES + 1))
    (place / "LICENSE.gone").symlink_to(place / "nothing")
    found = [path.name for path in licences.files(place)]
    assert found[0] == "LICENSE"
    assert len(found) == licences.MOST_FILES
    assert not {"LICENSE.link", "COPYING.fifo", "LICENSES", "COPYING.big", "LICENSE.gone"} & set(found)
    assert licences.files(tmp_path / "nowhere") == []


def test_a_cache_of_the_hub_links_into_its_own_blobs(tmp_path: Path) -> None:
    """As `snapshot_download` lays them out; a link to another repository's blobs is none of that."""
    for name in ("models--a--b", "models--c--d"):
        folder(tmp_path / name / "blobs", sha=MIT)
    snapshot = folder(tmp_path / "models--a--b" / "snapshots" / "0")
    (snapshot / "LICENSE").symlink_to("../../blobs/sha")
    (snapshot / "COPYING").symlink_to("../../../models--c--d/blobs/sha")
    assert [path.name for path in licences.files(snapshot)] == ["LICENSE"]
    assert licences.of_teacher(snapshot) == "MIT (as its LICENSE says)"


def plan_of(teacher: Path | str, data: Path | str) -> SimpleNamespace:
    return SimpleNamespace(
        base=None,
        teacher=SimpleNamespace(name="a teacher", folder=str(teacher), licence="gemma (as its model card says)"),
        data=SimpleNamespace(name="rows.csv", source=str(data), licence="MIT (as LICENSE beside the data says)"),
    )


def test_the_folder_of_licences(tmp_path: Path) -> None:
    teacher = folder(tmp_path / "teacher", LICENSE=APACHE, NOTICE="who made it")
    data = folder(tmp_path / "data", LICENSE=MIT) / "rows.csv"
    data.write_text("text,label\n")
    (teacher / "LICENSE für alle").write_text("odd letters")
    (tmp_path / "bundle").mkdir()
    papers.write(plan_of(teacher, data), tmp_path / "bundle")
    place = tmp_path / "bundle" / "LICENSES"
    assert {path.name for path in place.iterdir()} == {
        "TEACHER.txt",
        "DATA.txt",
        "TEACHER-LICENSE",
        "TEACHER-NOTICE",
        "TEACHER-LICENSE_f_r_alle",
        "DATA-LICENSE",
    }
    assert (place / "TEACHER-LICENSE").read_text() == APACHE
    told = (place / "TEACHER.txt").read_text()
    assert "Keep in mind: Gemma's terms" in told
    assert "In full: TEACHER-LICENSE, TEACHER-LICENSE_f_r_alle, TEACHER-NOTICE\n" in told
    assert (place / "DATA.txt").read_text() == (
        "rows.csv\nLicence: MIT (as LICENSE beside the data says)\nSPDX: MIT\nIn full: DATA-LICENSE\n"
    )
    assert str(tmp_path) not in told


def test_names_that_differ_in_case_are_copied_once(tmp_path: Path) -> None:
    teacher = folder(tmp_path / "teacher", LICENSE=APACHE, LICENSE_dot_txt=MIT, LICENSE_dot_TXT=MIT)
    (tmp_path / "bundle").mkdir()
    papers.write(plan_of(teacher, "owner/set"), tmp_path / "bundle")
    names = [path.name for path in (tmp_path / "bundle" / "LICENSES").iterdir()]
    assert len({name.casefold() for name in names}) == len(names) == 4
