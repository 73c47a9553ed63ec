"""What only the last stage of a build does, tried alone: the page with odd figures, and files with odd names."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from conftest import loose_target
from helpers import fast, matmul_model
from hypothesis import given
from hypothesis import strategies as st
from made_up import CARD, FORMS, composed

from edgekd.bundle import contents, documents, licences, write
from edgekd.cli import cli
from edgekd.cli.printing import print_json
from edgekd.core import licences as terms
from edgekd.core.errors import UsageError
from edgekd.plan.inputs import shown
from edgekd.plan.options import declarations
from edgekd.plan.plan import Plan
from edgekd.plan.planning import Options, make_plan
from edgekd.plan.resolve import NAME_BYTES
from edgekd.report import page
from edgekd.report.drawing import Axis

SERIES = "time-series-classification"
RANGES = {name: (declared.flag, *declared.range) for name, declared, _ in declarations() if declared.range}
BYTES = 255  # of a file's name, on the file systems that there are
ODD = ("x" * 250, "é" * 120, "a\nb\x1b[31m", "\udcff\udcfe", "-rf", "---", "a b | c <i>", "名前", "%s {0} $HOME")


def waves(folder: Path, stem: str = "waves") -> Path:
    path = folder / f"{stem}.npz"
    with path.open("wb") as stream:
        values = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
        np.savez(stream, x=values, y=np.array(["slow", "fast"] * 100))
    return path


def plan_of(folder: Path, stem: str = "waves", **options: Any) -> Plan:
    asked = {"task": SERIES, "teacher": "labels", "data": str(waves(folder, stem))} | options
    return make_plan(Options(str(loose_target(folder)), **asked))[0]


def numeric_options() -> dict[str, click.Option]:
    known = (one for one in cli.commands["build"].params if isinstance(one, click.Option))
    return {one.opts[0]: one for one in known if one.type in (click.INT, click.FLOAT) and not one.is_flag}


def test_every_numeric_option_has_a_range():
    assert {f"--{flag}" for flag, _, _ in RANGES.values()} == set(numeric_options())
    assert set(RANGES) <= {one.name for one in fields(Options)}


@pytest.mark.parametrize("name", RANGES)
def test_a_number_out_of_its_range_is_refused_first_of_all(name: str):
    flag, low, high = RANGES[name]
    for value in (low - 1, low / 1e9 - 1, high * 1.001 + 1, 10**400, -(10**400), float("nan"), float("inf")):
        asked: dict[str, Any] = {name: value}
        with pytest.raises(UsageError, match=f"^--{flag} .* makes no sense") as error:
            make_plan(Options("there is no such target", **asked))
        assert error.value.fix.startswith("give a number from ")
        assert len(error.value.message) < 100


def with_figures(said: dict[str, Any], value: float, latency_ms: float | None, *, intervals: bool) -> dict[str, Any]:
    """The report with all its figures alike."""
    said = json.loads(json.dumps(said))
    for figures in said["figures"].values():
        for key in {said["summary"]["metric"], "agreement"} & figures.keys():
            figures[key] |= {"value": value, "interval": [value, value] if intervals else None}
        span = [latency_ms, latency_ms] if intervals and latency_ms is not None else None
        figures["latency_p50"] |= {"value": latency_ms, "interval": span}
        figures["peak_rss"]["value"] = latency_ms and 0.0
    if said["baseline"]:
        said["baseline"]["metric_value"] = value
    for trial in said["trials"]:
        trial |= {} if trial["failed"] else {"agreement": value, "speed": 1.0}
    said["floors"]["min_retained"] = value
    said["latency_quantiles_ms"] = dict.fromkeys(said["latency_quantiles_ms"], [latency_ms or 0.0] * 101)
    return said


@pytest.mark.parametrize("form", ["distilled", "none, without labels", "none, embeddings"])
def test_the_page_is_drawn_where_all_figures_are_equal(form: str):
    said = composed(**FORMS[form])
    for value, latency_ms in ((1.0, 1.0), (0.0, None), (-1.0, 1e-9)):
        for intervals, name in ((True, "report.html"), (False, "report.html"), (False, "report.md")):
            text = page.render(name, with_figures(said, value, latency_ms, intervals=intervals) | CARD)
            assert "nan" not in text.replace("finance", "")
            assert "inf%" not in text


ANY = st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0, -1.0, 5e-324])


@fast
@given(st.lists(ANY, min_size=1, max_size=5), st.booleans(), st.booleans(), st.integers(2, 9))
def test_an_axis_of_any_values_has_a_place_for_each(values: list[float], same: bool, zero: bool, most: int):
    values = values[:1] * 3 if same else values
    for axis in (Axis.of(values, 10, 90, zero=zero), Axis(min(values), max(values), 10, 90)):
        assert all(10 <= axis.at(value) <= 90 for value in values)
        assert axis.ticks(most) or axis.low <= axis.high


@pytest.mark.parametrize("stem", ODD)
def test_whatever_the_data_are_called_their_bundle_is_written(stem: str, tmp_path: Path):
    try:
        plan = plan_of(tmp_path, stem[:240])
    except OSError:
        pytest.skip("this disk has no such names")
    name = f"{plan.name}-{plan.target.name}"
    assert 0 < len(f".{name}.new-{os.getpid()}-01234567.lock-old".encode()) < BYTES
    assert not set(name) & set("/\n\\ |<>\x1b")
    said = json.loads(json.dumps(composed(task=SERIES))) | {"name": plan.name}
    said["data"]["name"] = plan.data.name
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    matmul_model(folder / "onnx" / "model.onnx")
    (folder / "config.json").write_text("{}")
    licences.write(plan, folder)
    page.write(said, folder)
    documents.write(contents.read(plan, said, {"optimum": "opens it"}, folder, {"report.json"}))
    assert (folder / "README.md").read_text("utf-8")


def test_a_name_that_the_user_gives_is_refused_where_it_is_too_long(tmp_path: Path):
    with pytest.raises(UsageError, match="--name has 300 bytes") as error:
        plan_of(tmp_path, name="n" * 300)
    assert plan_of(tmp_path, name=error.value.fix.rpartition(" ")[2]).name == "n" * NAME_BYTES
    assert plan_of(tmp_path, name="../../etc/passwd").name == "etc-passwd"
    assert plan_of(tmp_path, name="//").name == "model"


def test_the_names_of_teacher_and_data_are_text_on_one_line(tmp_path: Path):
    for stem in ODD[2:]:
        path = tmp_path / stem
        path.mkdir()
        assert shown(f"{path}/").isprintable()
        shown(str(path)).encode()
    assert shown("owner/name") == "owner/name"


@pytest.mark.parametrize("out", ["x" * 240, "/".join(["y" * 190] * 25), "z" * 300, "é" * 120])
def test_an_output_without_room_for_what_lies_beside_it_is_refused(out: str, tmp_path: Path):
    with pytest.raises(UsageError, match="leave room") as error:
        write.check_free(tmp_path / out)
    assert error.value.fix == "give --out a folder with a shorter path"


def test_an_output_whose_name_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no UTF-8"):
        write.check_free(tmp_path / "\udcff")
    for name in ("-rf", "a b", "new\nline", "名前"):
        write.check_free(tmp_path / name)


def test_licence_files_with_long_names_and_odd_ones_are_copied(tmp_path: Path):
    names = ["LICENSE" + "x" * 248, "LICENSE-é\n", "LICENSE"]
    for name in names:
        (tmp_path / name).write_text("MIT")
    copied = [own for _, own in terms.copied_names(terms.files(tmp_path), "TEACHER-")]
    assert len(copied) == len(names)
    assert all(len(own) < BYTES and own.isprintable() for own in copied)


@fast
@given(st.text(max_size=120))
def test_any_words_of_a_licence_are_written_down(words: str):
    from edgekd.bundle import sbom

    said = terms._plain(words)
    terms.spdx(said)
    terms.terms(said)
    json.dumps(sbom.choice(said or "none")).encode()
    licences.said("a teacher", said, []).encode()


def test_a_name_that_is_no_text_is_printed_as_json(capsys: pytest.CaptureFixture[str]):
    print_json({"data": "/a/\udcff", "name": "é"})
    assert json.loads(capsys.readouterr().out) == {"data": "/a/\udcff", "name": "é"}


def test_a_plan_keeps_its_digest_whatever_its_data_are_called(tmp_path: Path):
    plan = plan_of(tmp_path)
    odd = replace(plan, data=replace(plan.data, name=shown("\udcff"), source="/a/\udcff"))
    assert odd.digest == plan.digest
