"""What does the demo cost, and what does it give? `python -m benchmarks.demo` (about 6 minutes).

Builds the default demo with an empty store, again into another folder, and times the cheap commands.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results

RUNS = 5  # of the cheap commands; the median counts


def run(*arguments: str, store: Path) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds of the command and its children, and its stdout."""
    environment = os.environ | {"EDGEKD_STORE": str(store)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    """Write results/demo.json."""
    target = ("--target", "rpi4")
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        folder = Path(name)
        first_s, _, said = run("build", *target, "--out", str(folder / "a"), "--json", store=folder / "store")
        again_s, _, _ = run("build", *target, "--out", str(folder / "b"), "--json", store=folder / "store")
        same_s, _, _ = run("build", *target, "--out", str(folder / "b"), "--json", store=folder / "store")
        help_s = sorted(run("--help", store=folder)[1] for _ in range(RUNS))[RUNS // 2]
        # sizing is in the store by now: what is left is what a plan costs before it measures
        plan_s = sorted(run("plan", *target, store=folder / "store")[1] for _ in range(RUNS))[RUNS // 2]
        report: dict[str, Any] = json.loads((folder / "a" / "report.json").read_text(encoding="utf-8"))
    summary = json.loads(said)["summary"]
    shipped = report["figures"][report["choice"]["recipe"]]
    results.write(
        "demo",
        {
            "build_s": first_s,
            "repeat_other_folder_s": again_s,
            "repeat_same_folder_s": same_s,
            "help_cpu_s": help_s,
            "plan_cpu_s": plan_s,
            "retained": summary["retained"],
            "speedup": summary["speedup"],
            "speedup_interval": shipped["speedup"]["interval"],
            "smaller": summary["smaller"],
            "teacher": summary["teacher"],
            "shipped": summary["shipped"],
            "baseline": summary["baseline"],
            "accuracy_interval": shipped["accuracy"]["interval"],
            "n_test": shipped["accuracy"]["n"],
            "aa_ratio": report["aa"]["ratio"],
            "import_baseline_mib": summary["import_baseline_mib"],
            "retained_interval": summary["retained_interval"],
            "shape": report["fit"]["chosen"]["shape"],
            "seed": report["seed"],
        },
    )


if __name__ == "__main__":
    main()
