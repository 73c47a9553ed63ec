"""This machine: the runner in a fresh process for each job."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.results import this_host
from edgekd.devices import _bounded
from edgekd.devices._answer import answer_of, check_outputs, too_much

_RUNNER = Path(__file__).parents[1] / "onboard" / "runner.py"


@dataclass(frozen=True)
class Local:
    """Runs jobs here, under `provider`, each in a fresh process that `timeout_s` ends."""

    provider: str = "CPUExecutionProvider"
    timeout_s: float = 1800.0

    emulated: ClassVar[str] = ""

    @property
    def host(self) -> str:
        """Where its figures are from, in one line."""
        return this_host().name

    @contextlib.contextmanager
    def up(self) -> Iterator[Local]:
        """Itself: this machine is up already."""
        yield self

    def run(self, mode: str, **job: Any) -> dict[str, Any]:
        """The runner's answer to one job.

        Raises RuntimeCannotLoad where ONNX Runtime refuses the model, EdgeKDError where it gives no answer in time.
        """
        job |= {"mode": mode, "provider": self.provider}
        if mode == "footprint":
            job["started"] = time.time()
        with tempfile.TemporaryDirectory(prefix="edgekd-job-") as folder:
            path = Path(folder, "job.json")
            path.write_text(json.dumps(job), encoding="utf-8")
            try:
                done = _bounded.run([sys.executable, str(_RUNNER), str(path)], timeout_s=self.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise EdgeKDError(
                    f"a {mode} run took longer than {self.timeout_s:.0f} s",
                    fix="look for a loop in the model, or measure on a quieter machine",
                ) from error
        run = f"a {mode} run"
        if done.too_much:
            raise too_much(run, done.too_much)
        if done.returncode != 0:
            raise RuntimeCannotLoad(
                f"ONNX Runtime's process for {run} ended with code {done.returncode}: {_bounded.last(done.stderr)}",
                fix="run the same command again; if it repeats, the model or the onnxruntime package is damaged",
            )
        answer = answer_of(done.stdout, mode, job, run=run, runtime="ONNX Runtime")
        if "outputs" in job:
            check_outputs(Path(job["outputs"]), mode, job, answer, run)
        return answer
