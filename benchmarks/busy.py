"""What does a busy machine cost? `python -m benchmarks.busy` (about 5 minutes, on a quiet machine).

The training of a small transformer with two threads and ways to wait: libgomp's own, passive, and bounded numbers of
looks (GOMP_SPINCOUNT); then `edgekd build` as it ships. Each alone and beside a load of 4 busy processes, in turn.
Asked: a build beside the load takes at most 3 times as long as alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results

LOAD = 4  # busy processes
MOST = 3.0  # times its quiet time
ROUNDS = 2
SECONDS = 5.0  # of training for each figure
BOUND_S = 600.0  # after which a busy process ends by itself, whatever became of this one
WAYS: dict[str, dict[str, str]] = {
    "libgomp's own": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"{count:,} looks": {"GOMP_SPINCOUNT": str(count)} for count in (300, 1000, 3000, 10000)},
}
_SPIN = f"import time\nend = time.monotonic() + {BOUND_S}\nwhile time.monotonic() < end: pass"
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute without end, for the length of the block."""
    running = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def environment(way: dict[str, str]) -> dict[str, str]:
    """This process's, with one way to wait and no other."""
    return {name: value for name, value in os.environ.items() if name not in _WAITING} | way


def train() -> None:
    """Print steps a second of a small transformer on two threads."""
    import torch

    torch.set_num_threads(2)
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    batch = torch.randn(16, 32, 128)
    steps, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        steps += 1
    print(steps / (time.monotonic() - started))


def steps_per_s(way: dict[str, str]) -> float:
    """Of `train` in a fresh process: the way to wait is read when torch is loaded."""
    command = [sys.executable, "-m", "benchmarks.busy", "train"]
    done = subprocess.run(command, env=environment(way), stdout=subprocess.PIPE, text=True, check=True, timeout=BOUND_S)
    return float(done.stdout)


def build_s(folder: Path) -> float:
    """Wall seconds of a build from an empty store: a series classifier taught by labels, one recipe."""
    import numpy as np

    folder.mkdir()
    draw = np.random.default_rng(0)
    names = np.array(["slow", "fast"] * 400)
    waves = [np.sin(np.arange(128) / 20 * (3 if name == "slow" else 9) + draw.uniform(0, 6)) for name in names]
    noisy = np.stack(waves) + draw.normal(0, 0.2, (len(names), 128))
    np.savez(folder / "waves.npz", x=noisy.astype(np.float32), y=names)
    arguments = [
        "build",
        "--target",
        "cpu-avx2",
        "--task",
        "time-series-classification",
        "--teacher",
        "labels",
        "--data",
        "waves.npz",
        "--out",
        "bundle",
        "--min-speedup",
        "0.01",
        "--min-retained",
        "0.1",
        "--epochs",
        "3",
        "--force",
        "float32",
        "--emulate-minutes",
        "0",
    ]
    ours = {"EDGEKD_STORE": str(folder / "store"), "PYTHONPATH": str(results.ROOT)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments],
        cwd=folder,
        env=environment({}) | ours,
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND_S,
    )
    if done.returncode:
        sys.exit(f"the build failed:\n{done.stderr[-2000:]}")
    return time.monotonic() - started


def measured() -> dict[str, Any]:
    """Steps a second of each way, and seconds of the build, alone and beside the load, by rounds in turn."""
    rates: dict[str, dict[str, list[float]]] = {name: {"quiet": [], "busy": []} for name in WAYS}
    builds: dict[str, list[float]] = {"quiet": [], "busy": []}
    with tempfile.TemporaryDirectory(prefix="edgekd-busy-") as folder:
        for number in range(ROUNDS):
            for state, processes in (("quiet", 0), ("busy", LOAD)):
                with busy(processes):
                    for name, way in WAYS.items():
                        rates[name][state].append(steps_per_s(way))
                        print(f"{state}: {name}: {rates[name][state][-1]:.1f} steps a second", flush=True)
                    builds[state].append(build_s(Path(folder, f"{state}-{number}")))
                    print(f"{state}: build: {builds[state][-1]:.1f} s", flush=True)
    slower = median(builds["busy"]) / median(builds["quiet"])
    return {"load": LOAD, "steps_per_s": rates, "build_s": builds, "build_slower": slower, "asked": MOST}


def main() -> int:
    """Write results/busy.json; 1 where the build beside the load takes longer than is asked."""
    if sys.argv[1:] == ["train"]:
        train()
        return 0
    results.made_by()  # refuses now, not after minutes
    load = os.getloadavg()[0]
    found = measured() | {"load_before": load}
    results.write("busy", found)
    print(f"beside a load of {LOAD} a build takes {found['build_slower']:.2f} times as long; asked: at most {MOST:g}")
    return int(found["build_slower"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
