"""Several targets of one build: what they share, what became of each, and the page that compares them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import TINY, loose_target, run
from made_up import composed

from edgekd import build_targets
from edgekd.core.errors import (
    BelowAccuracy,
    DataError,
    EdgeKDError,
    OverMemory,
    StoreError,
    TeacherError,
    UsageError,
)
from edgekd.pipeline import Built
from edgekd.plan.options import Options
from edgekd.plan.plan import Plan, SharedPlan
from edgekd.plan.planning import Planned, make_plan, make_plans, target_names
from edgekd.report import page, targets_page
from edgekd.store.store import Store

commands = import_module("edgekd.cli.build")  # the package has the command of that name
SERIES = "time-series-classification"


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("waves") / "waves.npz"
    values = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    np.savez(path, x=values, y=np.array(["slow", "fast"] * 100))
    return path


def planned(waves: Path, store: Path, targets: list[str], **options: Any) -> Planned:
    asked = Options("", SERIES, "labels", str(waves), **options)
    return make_plans(asked, targets, Store(store))


# the plan's two parts


def test_two_targets_share_one_part_and_every_key_that_is_trained_by(waves: Path, tmp_path: Path):
    found = planned(waves, tmp_path, ["rpi4", "rpi5", "cpu-avx2"])
    plans = list(found.plans.values())
    assert list(found.plans) == ["rpi4", "rpi5", "cpu-avx2"]
    assert {plan.shared_digest for plan in plans} == {found.shared.shared_digest}
    assert len({plan.target_digest for plan in plans}) == len({plan.digest for plan in plans}) == 3
    shape = {"blocks": 3, "channels": 16}
    for key in ("teaching", "compressing"):
        assert all(getattr(plan, key) == getattr(plans[0], key) for plan in plans)
    assert all(plan.outputs("logits") == plans[0].outputs("logits") for plan in plans)
    assert all(plan.distilling(shape) == plans[0].distilling(shape) for plan in plans)


def test_a_plan_is_the_same_alone_and_among_others(waves: Path, tmp_path: Path):
    several = planned(waves, tmp_path, ["rpi4", "rpi5"])
    alone, _ = make_plan(Options("rpi5", SERIES, "labels", str(waves)), Store(tmp_path))
    assert several.plans["rpi5"] == alone
    assert several.plans["rpi5"].digest == alone.digest


def test_the_shared_part_knows_no_target(waves: Path, tmp_path: Path):
    plan = planned(waves, tmp_path, ["rpi4"]).plans["rpi4"]
    other = replace(plan, target=plan.target.model_copy(update={"memory_mib": 1.0, "title": "another"}))
    assert not hasattr(SharedPlan, "target")
    assert other.shared_digest == plan.shared_digest
    assert other.teaching == plan.teaching
    assert (other.target_digest != plan.target_digest, other.digest != plan.digest) == (True, True)


def test_a_quantizer_of_another_package_is_a_fact_of_its_targets(waves: Path, tmp_path: Path):
    plan = planned(waves, tmp_path, ["rpi4"]).plans["rpi4"]
    added = replace(plan, plugins={"quantizers/int4": "theirs 1.0"})
    assert (added.teaching, added.shared_digest) == (plan.teaching, plan.shared_digest)
    assert added.target_digest != plan.target_digest
    loss = replace(plan, plugins={"losses/theirs": "theirs 1.0"})
    assert (loss.teaching != plan.teaching, loss.shared_digest != plan.shared_digest) == (True, True)
    assert loss.target_digest == plan.target_digest


def test_an_option_moves_the_part_that_it_belongs_to(waves: Path, tmp_path: Path):
    plain = planned(waves, tmp_path, ["rpi4"]).plans["rpi4"]
    budget = planned(waves, tmp_path, ["rpi4"], memory_mib=20.0).plans["rpi4"]
    epochs = planned(waves, tmp_path, ["rpi4"], epochs=3).plans["rpi4"]
    assert (budget.shared_digest == plain.shared_digest, budget.target_digest == plain.target_digest) == (True, False)
    assert (epochs.shared_digest == plain.shared_digest, epochs.target_digest == plain.target_digest) == (False, True)


def test_a_runtime_that_loads_too_little_holds_up_no_other_target(waves: Path, tmp_path: Path):
    old = loose_target(tmp_path, name="old", ort_version="==1.10.0")
    found = planned(waves, tmp_path, ["rpi4", str(old)])
    assert list(found.plans) == ["rpi4"]
    assert found.refused["old"].exit_code == 7
    with pytest.raises(EdgeKDError) as error:
        planned(waves, tmp_path, [str(old)])
    assert error.value.exit_code == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rpi4,rpi4", "--targets names 'rpi4' twice"),
        ("rpi4, rpi5 ,rpi4", "--targets names 'rpi4' twice"),
        ("rpi4,", "--targets 'rpi4,' has an empty name"),
        ("", "--targets '' has an empty name"),
    ],
)
def test_lists_that_name_nothing_or_one_twice_are_refused(text: str, message: str):
    with pytest.raises(UsageError) as error:
        target_names(text)
    assert error.value.message == message


def test_unknown_names_and_two_files_of_one_name_are_refused(waves: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="unknown target 'rpi6'") as error:
        planned(waves, tmp_path, ["rpi4", "rpi6"])
    assert "did you mean 'rpi5'?" in error.value.fix
    copy = loose_target(tmp_path, name="rpi4")
    with pytest.raises(UsageError, match=r"^rpi4 and .*\.yaml describe one target, 'rpi4'"):
        planned(waves, tmp_path, ["rpi4", str(copy)])


# the build, with a pipeline that answers at once


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `build` does for each target: writes a report, or raises the error given here."""
    errors: dict[str, Any] = {"asked": []}

    def build(plan: Plan, splits: Any, store: Any, out: Path, *_: Any, shapes_beside: Any) -> Built:
        errors["asked"].append(plan.target.name)
        errors["beside"] = shapes_beside
        if error := errors.get(plan.target.name):
            raise error
        out.mkdir(parents=True, exist_ok=True)
        said = composed(target=plan.target)
        page.write(said, out)
        return Built(out, said["summary"], "", fresh=True)

    monkeypatch.setattr(build_targets, "build", build)
    monkeypatch.setattr(build_targets.write, "is_finished", lambda out, plan_sha256: (out / "report.json").exists())
    return errors


def test_a_target_that_cannot_be_met_holds_up_no_other(waves: Path, tmp_path: Path, pipeline: dict[str, Any]):
    pipeline["rpi4"] = OverMemory("too <small> & more", fix="raise `it`")
    pipeline["rpi5"] = BelowAccuracy("too dull", fix="train")
    made = planned(waves, tmp_path / "store", ["cpu-avx2", "rpi4", "rpi5", "cpu-vnni"])
    built = build_targets.build_targets(made, Store(tmp_path / "store"), tmp_path / "out")
    assert pipeline["asked"] == ["cpu-avx2", "rpi4", "rpi5", "cpu-vnni"]
    assert built.exit_code == 3
    said = built.as_dict()
    assert {name: one["exit"] for name, one in said.items()} == {"cpu-avx2": 0, "rpi4": 3, "rpi5": 5, "cpu-vnni": 0}
    assert said["rpi4"] == {"error": "too <small> & more", "fix": "raise `it`", "exit": 3}
    assert said["cpu-avx2"]["bundle"] == str(tmp_path / "out" / "waves-cpu-avx2")
    html, text = ((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("index.html", "index.md"))
    assert "2 of 4 targets shipped" in html
    assert "too &lt;small&gt; &amp; more" in html
    assert html.count('href="') == 2
    for name in ("cpu-avx2", "cpu-vnni"):
        assert f'href="waves-{name}/report.html"' in html
        assert f"[{name}](waves-{name}/report.html)" in text
        assert (tmp_path / "out" / f"waves-{name}" / "report.html").is_file()
    assert "too \\<small> & more" in text


@pytest.mark.parametrize("error", [DataError, StoreError, TeacherError])
def test_what_all_targets_would_meet_ends_the_command(
    waves: Path, tmp_path: Path, pipeline: dict[str, Any], error: type[EdgeKDError]
):
    pipeline["rpi4"] = error("no space left", fix="free some")
    made = planned(waves, tmp_path / "store", ["cpu-avx2", "rpi4", "rpi5"])
    with pytest.raises(error, match="no space left"):
        build_targets.build_targets(made, Store(tmp_path / "store"), tmp_path / "out")
    assert pipeline["asked"] == ["cpu-avx2", "rpi4"]


def test_the_same_command_goes_on_and_the_page_is_written_again(waves: Path, tmp_path: Path, pipeline: dict[str, Any]):
    made, out = planned(waves, tmp_path / "store", ["cpu-avx2", "rpi4"]), tmp_path / "out"
    pipeline["rpi4"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build_targets.build_targets(made, Store(tmp_path / "store"), out)
    (out / ".waves-rpi4.new-1-ab").mkdir()  # of a killed writer
    del pipeline["rpi4"]
    for _ in range(2):
        built = build_targets.build_targets(made, Store(tmp_path / "store"), out)
        assert built.exit_code == 0
        assert "2 of 2 targets shipped" in built.page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "waves-rpi5", "index.md"])
def test_a_folder_that_holds_anything_else_is_refused_before_anything_is_built(
    waves: Path, tmp_path: Path, pipeline: dict[str, Any], name: str
):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    made = planned(waves, tmp_path / "store", ["cpu-avx2", "rpi4"])
    with pytest.raises(UsageError, match=f"the output folder .* is not empty: {name}"):
        build_targets.build_targets(made, Store(tmp_path / "store"), out)
    assert pipeline["asked"] == []
    assert (out / name).read_text() == "mine"


def test_a_bundles_place_that_is_taken_is_refused_first(waves: Path, tmp_path: Path, pipeline: dict[str, Any]):
    (tmp_path / "out" / "waves-rpi4").mkdir(parents=True)
    (tmp_path / "out" / "waves-rpi4" / "mine").touch()
    made = planned(waves, tmp_path / "store", ["cpu-avx2", "rpi4"])
    with pytest.raises(UsageError, match="waves-rpi4 is not empty"):
        build_targets.build_targets(made, Store(tmp_path / "store"), tmp_path / "out")
    assert pipeline["asked"] == []


def test_where_losses_look_at_layers_all_targets_are_sized_before_the_teacher_is_asked(
    waves: Path, tmp_path: Path, pipeline: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def fit(plan: Plan, store: Any, progress: Any) -> Any:
        if plan.target.name == "rpi4":
            raise OverMemory("too large", fix="raise it")
        return SimpleNamespace(chosen=SimpleNamespace(shape={"of": plan.target.name}))

    monkeypatch.setattr(build_targets.fitting, "fit", fit)
    losses = ("response=0.9", "hidden_states=0.1")
    made = planned(waves, tmp_path / "store", ["cpu-avx2", "rpi4", "rpi5"], losses=losses)
    built = build_targets.build_targets(made, Store(tmp_path / "store"), tmp_path / "out")
    assert pipeline["asked"] == ["cpu-avx2", "rpi5"], "what was refused by measuring is not measured again"
    assert pipeline["beside"] == ({"of": "cpu-avx2"}, {"of": "rpi5"})
    assert built.exit_code == 3


# the page

ODD = 'a"><script>alert(1)</script> | x `y` [z](http://evil) & \u202e _b_'


def rendered(name: str, tmp_path: Path, waves: Path) -> str:
    shared = planned(waves, tmp_path, ["rpi4"]).shared
    odd = replace(shared, teacher=replace(shared.teacher, name=ODD), data=replace(shared.data, name=ODD))
    folder = tmp_path / "a b#(1)"
    folder.mkdir(exist_ok=True)
    page.write(composed(), folder)
    rows = [targets_page.shipped("rpi4", folder), targets_page.refused(ODD, ODD, ODD, 3)]
    return targets_page.render(name, odd, rows)


def test_strange_names_are_text_on_the_page(tmp_path: Path, waves: Path):
    html = rendered("index.html", tmp_path, waves)
    assert "<script" not in html
    assert ODD in unescape(html)
    assert 'href="a%20b%23%281%29/report.html"' in html
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
    assert not re.findall(r"(?:src=|url\(|@import|<link)", html)


def test_strange_names_form_no_markdown(tmp_path: Path, waves: Path):
    text = rendered("index.md", tmp_path, waves)
    assert "<script" not in text.replace("\\<script", "")
    assert "\\[z\\](http" in text or "\\[z](http" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 11 for row in rows)
    assert "\u202e" not in text


def test_every_figure_has_its_kind_and_the_page_is_known_again(tmp_path: Path, waves: Path):
    for name in ("index.html", "index.md"):
        text = rendered(name, tmp_path, waves)
        assert "measured" in text
        assert "5 blocks" in text
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert targets_page.is_ours(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "index.md")
    assert not targets_page.is_ours(tmp_path / "link")
    assert not targets_page.is_ours(tmp_path / "none")


# the command


@pytest.mark.parametrize("command", ["plan", "build"])
def test_one_of_target_and_targets_is_given(command: str):
    both = run(command, "--target", "rpi4", "--targets", "rpi5", "--json")
    assert (both.returncode, json.loads(both.stdout)["error"]) == (2, "--target and --targets are both given")
    none = run(command, "--json")
    assert (none.returncode, json.loads(none.stdout)["error"]) == (2, "Missing option '--target'.")


def test_plan_tells_the_shared_part_once_and_each_target_beside_its_refusal(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fit(found: Planned, name: str, store: Store, *, measure: bool) -> None:
        if name == "rpi5":
            raise OverMemory("budget 1 MiB of memory", fix="raise memory_mib")

    monkeypatch.setattr(commands, "_fit", fit)
    old = loose_target(tmp_path, name="old", ort_version="==1.10.0")
    found = planned(waves, tmp_path, ["rpi4", "rpi5", str(old), "cpu-vnni"])
    assert commands._plan_several(found, Store(tmp_path), measure=False, as_json=False) == 3
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("teacher ")]) == 1
    assert [line.split()[1] for line in lines if line.startswith("target ")] == ["rpi4:", "rpi5:", "cpu-vnni:"]
    assert "rpi5 cannot be met: budget 1 MiB of memory\n  fix: raise memory_mib" in text
    assert "old cannot be met: " in text
    assert commands._plan_several(found, Store(tmp_path), measure=False, as_json=True) == 3
    said = json.loads(capsys.readouterr().out)
    assert {name: one["exit"] for name, one in said["targets"].items()} == {
        "rpi4": 0,
        "rpi5": 3,
        "old": 7,
        "cpu-vnni": 0,
    }
    assert said["shared_sha256"] == said["targets"]["rpi4"]["shared_sha256"] == found.shared.shared_digest


@pytest.mark.slow
def test_two_targets_ship_from_one_teacher_and_a_third_is_refused(tiny_teacher: Path, tiny_data: Path, tmp_path: Path):
    """The student of one shape is trained once; the same command finds all of it there."""
    profiles = {}
    for name, changes in (("one", {}), ("two", {"artifact_mib": 100.0}), ("small", {"memory_mib": 0.5})):
        (tmp_path / name).mkdir()
        profiles[name] = loose_target(tmp_path / name, name=name, **changes)
    store = {"EDGEKD_STORE": str(tmp_path / "store")}
    options = ("--teacher", tiny_teacher, "--data", tiny_data, *TINY, "--json", "--out", tmp_path / "out")
    names = ",".join(map(str, profiles.values()))
    done = run("build", "--targets", names, *options, env=store)
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert {name: one["exit"] for name, one in said["targets"].items()} == {"one": 0, "two": 0, "small": 3}
    assert said["targets"]["small"]["error"].startswith("budget 0.5 MiB of memory")
    assert said["page"] == str(tmp_path / "out" / "index.html")
    for kind, count in (("teacher", 1), ("outputs", 1), ("student", 1), ("export-teacher", 1), ("compress", 2)):
        assert len(list((tmp_path / "store" / kind).glob("[0-9a-f]" * 32))) == count, kind
    for name in ("one", "two"):
        assert run("verify", tmp_path / "out" / f"things-{name}").returncode == 0
    again = run("build", "--targets", names, *options, env=store)
    assert json.loads(again.stdout)["targets"]["one"] == said["targets"]["one"]
