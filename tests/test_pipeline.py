"""The whole path with a tiny teacher: what a build writes, repeats, resumes and refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import TINY, invoke, loose_target, run, texts, write_csv

from edgekd import pipeline
from edgekd.plan.planning import Options, make_plan

LINE = {"metric_value", "latency_p50_ms", "peak_rss_mib", "artifact_mib", "cost_per_million_usd", "recipe"}


@pytest.fixture(scope="session")
def build_of(tiny_teacher: Path, tiny_data: Path, store: Path, tmp_path_factory: pytest.TempPathFactory):
    """The arguments that make `tiny_bundle`, for another output folder."""
    target = loose_target(tmp_path_factory.mktemp("again"))

    def of(out: Path, *more: str | Path) -> tuple[str | Path, ...]:
        return ("build", "--target", target, "--teacher", tiny_teacher, "--data", tiny_data, "--out", out, *TINY, *more)

    return of


def test_report_keeps_its_contract(tiny_bundle: Path) -> None:
    text = (tiny_bundle / "report.json").read_text(encoding="utf-8")
    said = json.loads(text)
    assert next(iter(said)) == "summary"
    summary = said["summary"]
    assert list(summary) == [
        "verdict",
        "task",
        "target",
        "metric",
        "metric_unit",
        "higher_is_better",
        "measured_on",
        "distilled",
        "forced",
        "teacher",
        "compared_with",
        "shipped",
        "baseline",
        "retained",
        "retained_interval",
        "speedup",
        "smaller",
        "import_baseline_mib",
        "evidence",
        "threshold",
        "columns",
        "counted",
        "never_right",
        "most_frequent",
        "ranking",
    ]
    for who in ("teacher", "shipped", "baseline"):
        assert set(summary[who]) == LINE
    assert summary["baseline"]["latency_p50_ms"] is None
    assert summary["retained"] == pytest.approx(summary["shipped"]["metric_value"] / summary["teacher"]["metric_value"])
    assert summary["smaller"] == pytest.approx(summary["teacher"]["artifact_mib"] / summary["shipped"]["artifact_mib"])
    assert summary["metric"] == "accuracy"
    assert {"teacher", "float32", "dynamic_int8"} <= set(said["figures"])
    for figures in said["figures"].values():
        for name, figure in figures.items():
            assert set(figure) == {"value", "unit", "kind", "how", "n", "interval", "host"}
            unresolved = name in ("latency_p90", "latency_p99") and figure["value"] is None  # a busy host's percentiles
            kind = "unknown" if unresolved else "predicted" if name == "cost_per_million" else "measured"
            assert figure["kind"] == kind
            assert figure["host"]


def test_the_report_shows_how_the_size_was_found(tiny_bundle: Path) -> None:
    said = json.loads((tiny_bundle / "report.json").read_text(encoding="utf-8"))
    fit = said["fit"]
    assert fit["chosen"]["kind"] == "measured"
    assert fit["chosen"] in fit["candidates"]
    assert fit["chosen"] == fit["finalists"][0]
    assert sum(fit["chosen"]["memory_parts"].values()) == pytest.approx(fit["chosen"]["memory_mib"])
    for figure in ("memory_mib", "latency_ms"):
        finalists = [point for point in said["prediction"][figure]["points"] if point[2]]
        assert [fit["chosen"][figure], fit["chosen"]["predicted"][figure], True] in finalists
        assert len(said["prediction"][figure]["points"]) == said["prediction"]["n"] + len(finalists)
    page = (tiny_bundle / "report.html").read_text(encoding="utf-8")
    assert page.count('class="own"') >= 2
    assert page.count('class="anchor"') == 2 * said["prediction"]["n"]


def test_plan_predicts_in_seconds_and_shows_what_was_measured(build_of, tiny_bundle: Path, tmp_path: Path) -> None:
    _, *options = build_of(tmp_path / "none")
    options = [*options[: options.index("--out")], *options[options.index("--out") + 2 :]]
    kinds = {}
    for name, more in {"as built": (), "another wish": ("--min-speedup", "1.01")}.items():
        done = invoke("plan", *options, *more, "--json")
        assert done.returncode == 0, done.stderr
        kinds[name] = json.loads(done.stdout)["fit"]["chosen"]["kind"]
    assert kinds == {"as built": "measured", "another wish": "predicted"}


@pytest.mark.slow
def test_tries_train_the_finalists_briefly_and_keep_the_best(build_of, tiny_bundle: Path, tmp_path: Path) -> None:
    done = run(*build_of(tmp_path / "tried"), "--try", "2", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "tried" / "report.json").read_text(encoding="utf-8"))
    assert [run["epochs"] for run in said["tried"]] == [4, 4]  # half of TINY's eight
    best = max(said["tried"], key=lambda run: run["score"])
    assert said["fit"]["chosen"]["words"] == best["words"]
    assert len(said["fit"]["finalists"]) == 2


def test_a_small_model_learns_its_data(tiny_bundle: Path) -> None:
    summary = json.loads((tiny_bundle / "report.json").read_text(encoding="utf-8"))["summary"]
    assert summary["teacher"]["metric_value"] > 0.9
    assert summary["retained"] > 0.9
    assert summary["smaller"] > 1.2


def test_same_command_again_finds_the_bundle(tiny_bundle: Path, build_of) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")}
    done = run(*build_of(tiny_bundle))
    assert done.returncode == 0, done.stderr
    assert "already built, every file whole" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")}


def test_another_folder_is_made_from_the_store_byte_for_byte(tiny_bundle: Path, build_of, tmp_path: Path) -> None:
    done = run(*build_of(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    for stage in ("teacher", "outputs", "student", "export-student", "compress", "measure"):
        assert f"{stage}: kept from an earlier run" in done.stderr
    first, second = (
        json.loads((folder / "manifest.json").read_text("utf-8")) for folder in (tiny_bundle, tmp_path / "copy")
    )
    assert first["artifact"] == second["artifact"]


def test_other_plan_into_the_same_folder_is_refused(tiny_bundle: Path, build_of) -> None:
    done = invoke(*build_of(tiny_bundle, "--seed", "7"))
    assert done.returncode == 2
    assert "is not empty" in done.stderr


@pytest.mark.slow
def test_killed_build_goes_on_where_it_was(tiny_teacher, tiny_data, tmp_path: Path) -> None:
    arguments = (
        "build",
        "--target",
        loose_target(tmp_path),
        "--teacher",
        tiny_teacher,
        "--data",
        tiny_data,
        "--out",
        tmp_path / "out",
        *TINY,
    )
    environment = os.environ | {"EDGEKD_STORE": str(tmp_path / "store")}
    building = subprocess.Popen(
        [sys.executable, "-m", "edgekd", *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert building.stderr is not None
    for line in building.stderr:
        if "[3/7] distill" in line:
            break
    time.sleep(0.3)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert not (tmp_path / "out").exists()
    done = run(*arguments, env={"EDGEKD_STORE": str(tmp_path / "store")})
    assert done.returncode == 0, done.stderr
    assert "teacher: kept from an earlier run" in done.stderr
    assert "outputs: kept from an earlier run" in done.stderr
    assert "student: kept" not in done.stderr
    assert not list((tmp_path / "store").rglob(".*.new-*"))
    assert run("verify", tmp_path / "out").returncode == 0


def test_what_waits_in_line_never_starts_where_a_build_is_stopped() -> None:
    end = threading.Event()
    with contextlib.suppress(KeyboardInterrupt), pipeline._one_thread() as beside:
        runs, waits = beside.submit(end.wait, 10), beside.submit(pytest.fail)
        threading.Timer(0.1, end.set).start()
        raise KeyboardInterrupt
    assert (runs.result(), waits.cancelled()) == (True, True)


def test_too_little_retained_ships_nothing(build_of, tiny_bundle: Path, tmp_path: Path) -> None:
    done = invoke(*build_of(tmp_path / "none", "--min-retained", "1.5"), "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit"]) == (5, 5)
    assert "less than the 150.0% asked for" in said["error"]
    assert not (tmp_path / "none").exists()


@pytest.fixture
def arm_build(tiny_bundle: Path, tiny_teacher: Path, tiny_data: Path, tmp_path: Path):
    """Builds for a Cortex-A72; the bundle's folder."""

    def build(env: dict[str, str] | None = None) -> Path:
        target = loose_target(
            tmp_path, arch="aarch64", microarch="cortex-a72", isa=["asimd"], emulator_cpu="cortex-a72"
        )
        done = run(
            "build",
            "--target",
            target,
            "--teacher",
            tiny_teacher,
            "--data",
            tiny_data,
            "--out",
            tmp_path / "arm",
            *TINY,
            "--golden",
            "test",
            env=env,
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / "arm"

    return build


@pytest.mark.emulator
def test_memory_of_an_arm_target_is_measured_in_a_guest(arm_build) -> None:
    doctor = run("doctor", "--fix", "guest", "--json")
    assert doctor.returncode == 0, doctor.stderr
    report = json.loads((arm_build() / "report.json").read_text(encoding="utf-8"))
    memory = report["target_figures"]["peak_rss"]
    assert (memory["kind"], memory["n"]) == ("measured", 3)
    assert "arm64 guest" in memory["how"]
    assert "cortex-a72" in memory["host"]
    assert memory["value"] == pytest.approx(report["summary"]["shipped"]["peak_rss_mib"], rel=0.3)
    assert report["target_figures"]["latency_p50"]["kind"] == "predicted"


@pytest.mark.slow
def test_without_a_guest_an_arm_target_is_never_measured_here(arm_build, tmp_path: Path) -> None:
    out = arm_build({"EDGEKD_GUEST": str(tmp_path / "none")})
    said = json.loads((out / "report.json").read_text(encoding="utf-8"))["target_figures"]
    assert {said[name]["kind"] for name in ("accuracy", "latency_p50", "peak_rss")} == {"predicted"}
    low, high = said["latency_p50"]["interval"]
    assert low < said["latency_p50"]["value"] < high
    assert "not checked on a board" in said["latency_p50"]["how"]
    assert json.loads((out / "golden" / "golden.json").read_text(encoding="utf-8"))["inputs"] == "held-out samples"


@pytest.fixture
def ready(tiny_bundle: Path, store: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """The fine-tuned teacher of the first build, rows labelled by class numbers, and golden inputs."""
    configs = {file: json.loads(file.read_text(encoding="utf-8")) for file in (store / "teacher").glob("*/config.json")}
    teacher, names = next(
        (file.parent, said["label2id"]) for file, said in configs.items() if "food" in said["label2id"]
    )
    numbered = write_csv(tmp_path / "numbered.csv", [(text, str(names[label])) for text, label in texts(600, seed=1)])
    golden = write_csv(tmp_path / "golden.csv", [(text,) for text, _ in texts(20, seed=8)], header=("text",))
    return teacher, numbered, golden


def test_ready_teacher_is_planned_as_it_is(ready: tuple[Path, Path, Path], tmp_path: Path) -> None:
    teacher, numbered, golden = ready
    options = Options(
        str(loose_target(tmp_path)), teacher=str(teacher), data=str(numbered), labels=60, golden=str(golden)
    )
    plan, splits = make_plan(options)
    assert plan.teacher.training is None
    assert plan.teacher.labels == plan.data.classes == ("animal", "colour", "food")
    assert (plan.data.counts["train"], plan.golden, len(splits.golden)) == (60, "file", 20)
    assert any("keep no labels either" in note for note in plan.data.notes)


@pytest.mark.slow
def test_ready_teacher_is_used_as_it_is(ready: tuple[Path, Path, Path], tmp_path: Path) -> None:
    teacher, numbered, golden = ready
    done = run(
        "build",
        "--target",
        loose_target(tmp_path),
        "--teacher",
        teacher,
        "--data",
        numbered,
        "--out",
        tmp_path / "out",
        *TINY,
        "--labels",
        "60",
        "--student",
        "transformer",
        "--loss",
        "response",
        "--golden",
        golden,
    )
    assert done.returncode == 0, done.stderr
    assert "teach: train" not in done.stderr
    said = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert said["golden"] == "file"
    assert json.loads((tmp_path / "out" / "golden" / "golden.json").read_text(encoding="utf-8"))["count"] == 20
    assert said["teacher"]["ready"] is True
    assert said["data"]["counts"]["train"] == 60
    assert any("keep no labels either" in note for note in said["data"]["notes"])


def test_every_form_of_data_gives_the_same_plan(tiny_teacher: Path, store: Path, tmp_path: Path) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = texts(300, seed=3)
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    write_csv(tmp_path / "a.csv", rows)
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{t}\t{c}\n" for t, c in rows), encoding="utf-8")
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    labels = datasets.ClassLabel(names=sorted(set(columns["label"])))
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    forms = ("a.csv", "a.tsv", "a.jsonl", "a.parquet", "saved")
    plans = [
        make_plan(Options(target="rpi4", teacher=str(tiny_teacher), data=str(tmp_path / form)))[0] for form in forms
    ]
    assert len({plan.data.digest for plan in plans}) == 1
    assert all(plan.student == plans[0].student for plan in plans)


def test_unlabelled_file_and_folder_of_splits(tiny_teacher: Path, store: Path, tmp_path: Path) -> None:
    rows = texts(700, seed=4)
    data = tmp_path / "data"
    data.mkdir()
    write_csv(data / "train.csv", rows[:200])
    write_csv(data / "validation.csv", rows[200:260])
    write_csv(data / "test.csv", rows[260:360])
    write_csv(tmp_path / "more.csv", [(text,) for text, _ in rows[360:]], header=("sentence",))
    options = Options(target="rpi4", teacher=str(tiny_teacher), data=str(data), unlabelled=str(tmp_path / "more.csv"))
    plan, splits = make_plan(options)
    assert plan.data.counts["test"] == 100
    assert len(splits.unlabelled) == 340
    assert len(splits.selection) + len(splits.calibration) == 60
    assert {row.label for row in splits.unlabelled} == {None}
