"""A budget enforced for real: what ships runs inside it, what does not fit dies, and is refused before it is built."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import invoke, loose_target
from helpers import save_graph
from onnx import helper

from edgekd.onboard import runner, verify
from edgekd.onboard.runner import pack

_CGROUPS = Path("/sys/fs/cgroup")
SLACK_MIB = 2  # the kernel charges whole batches of pages, and page tables


@pytest.fixture(params=["cgroup", "rlimit"])
def limited(request: pytest.FixtureRequest) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs a footprint job under a limit of `mib`: a memory cgroup where one can be made, and RLIMIT_DATA."""
    if request.param == "rlimit":
        yield lambda job, mib: footprint(job, lambda: resource.setrlimit(resource.RLIMIT_DATA, (mib << 20, mib << 20)))
        return
    version1 = (_CGROUPS / "memory").is_dir()
    group = (_CGROUPS / "memory" if version1 else _CGROUPS) / f"edgekd-{uuid.uuid4().hex[:8]}"
    limit = group / ("memory.limit_in_bytes" if version1 else "memory.max")
    try:
        group.mkdir()
        limit.write_text(str(1 << 40))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")

    def under(job: Path, mib: int) -> subprocess.CompletedProcess[str]:
        limit.write_text(str(mib << 20))
        return footprint(job, lambda: (group / "cgroup.procs").write_text(str(os.getpid())))

    yield under
    group.rmdir()


def footprint(job: Path, before: Callable[[], object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, runner.__file__, str(job)], capture_output=True, text=True, check=False, preexec_fn=before
    )


def job_of(model: Path, inputs: Path, to: Path) -> Path:
    said = {
        "mode": "footprint",
        "model": str(model),
        "inputs": [str(inputs)],
        "threads": 1,
        "started": 0.0,
        "provider": "CPUExecutionProvider",
    }
    to.write_text(json.dumps(said), encoding="utf-8")
    return to


def test_what_ships_runs_within_its_budget_and_the_import_baseline(tiny_bundle: Path, tmp_path: Path, limited) -> None:
    import numpy as np

    report = json.loads((tiny_bundle / "report.json").read_text(encoding="utf-8"))
    manifest = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    ids = np.full((1, 32), 7, dtype=np.int64)
    pack(
        [{"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}],
        tmp_path / "inputs.npz",
    )
    job = job_of(tiny_bundle / verify.model_files(manifest)[0], tmp_path / "inputs.npz", tmp_path / "job.json")
    free = footprint(job, lambda: None)
    baseline = json.loads(free.stdout)["baseline_mib"]
    budget = report["budgets"]["memory_mib"]
    assert report["summary"]["shipped"]["peak_rss_mib"] <= budget
    done = limited(job, int(budget + baseline) + SLACK_MIB)
    assert done.returncode == 0, done.stderr
    assert "refused" not in json.loads(done.stdout)


def test_what_is_over_the_budget_does_not_run_within_it(tiny_bundle: Path, tmp_path: Path, limited) -> None:
    """The same limit kills a model of 100 MiB of weights: the limit is real."""
    import numpy as np

    budget = json.loads((tiny_bundle / "report.json").read_text(encoding="utf-8"))["budgets"]["memory_mib"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"], "wide"),
        helper.make_node("MatMul", ["wide", "v"], ["y"], "narrow"),
    ]
    count = 100 << 20 >> 2
    weights = {"w": np.ones((32, count // 64), np.float32), "v": np.ones((count // 64, 32), np.float32)}
    model = save_graph(tmp_path / "large.onnx", nodes, [1, "tokens", 32], **weights)
    pack([{"x": np.zeros((1, 4, 32), np.float32)}], tmp_path / "inputs.npz")
    job = job_of(model, tmp_path / "inputs.npz", tmp_path / "job.json")
    free = json.loads(footprint(job, lambda: None).stdout)
    assert free["peak_rss_mib"][0] > budget
    done = limited(job, int(budget + free["baseline_mib"]) + SLACK_MIB)
    assert done.returncode != 0 or "refused" in json.loads(done.stdout)


def test_a_budget_below_the_runtimes_own_is_refused_before_anything_is_trained(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, no_children: None
) -> None:
    store = tmp_path / "store"
    done = invoke(
        "build",
        "--target",
        loose_target(tmp_path),
        "--teacher",
        tiny_teacher,
        "--data",
        tiny_data,
        "--memory-mib",
        "3",
        "--out",
        tmp_path / "out",
        env={"EDGEKD_STORE": str(store)},
    )
    assert done.returncode == 3, done.stderr
    assert "budget 3 MiB of memory; the smallest transformer with 3 classes and " in done.stderr
    assert "packed copies" in done.stderr
    assert " runtime\n  fix: trim the vocabulary (--vocabulary 256) or raise memory_mib to at least " in done.stderr
    assert not (store / "teacher").exists(), "nothing was trained"
    assert not (tmp_path / "out").exists()
