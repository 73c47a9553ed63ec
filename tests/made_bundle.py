"""A bundle made by hand around a tiny model: what receipts are made of and held against, in milliseconds."""

import contextlib
import hashlib
import json
import platform
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from helpers import WIDTH, matmul_model, samples

from edgekd.core.results import this_host
from edgekd.hardware.profile import load_profile
from edgekd.onboard import RUNNER_FILES, bench, verify
from edgekd.onboard.runner import MODES, open_session, pack, unpack

ONBOARD = Path(bench.__file__).parent
CREATED = datetime.now(UTC) - timedelta(hours=1)
TRAVELS = {"bench.py": "__main__.py", **{name: name for name in RUNNER_FILES}}


def make_bundle(folder, *, model=None, task="time-series-classification", onboard=False, fit=None, schema=3, **target):
    """Write a bundle for a profile of this host's architecture with other values; its folder.

    Of schema 1 and 2 it is what an edgekd wrote before a model had named graphs, and golden answers named outputs.
    """
    profile = {
        **load_profile("rpi4").as_dict(),
        "name": "here",
        "arch": this_host().arch,
        "microarch": "none",
        "latency_ms": 1000.0,
        "cold_start_ms": 60_000.0,
        "isa": [],
        **target,
    }
    for name in ("onnx", "golden"):
        (folder / name).mkdir(parents=True)
    path = folder / "onnx" / "model.onnx"
    (model or matmul_model)(path)
    session, inputs = open_session(str(path), threads=1), [sample["x"] for sample in samples(*[5] * 16)]
    said = np.concatenate([session.run(None, {"x": x})[0] for x in inputs])
    said = said if said.ndim == 2 else said.mean(axis=1)
    np.savez(folder / "golden" / "inputs.npz", **{f"{row}.x": x for row, x in enumerate(inputs)})
    expected = {platform.machine(): said, "float32": said + np.float32(0.001)}
    limits = {platform.machine(): 0.01, "float32": 0.02}
    if schema > 2:
        name = session.get_outputs()[0].name
        expected = {f"{isa}.{row}.{name}": own for isa, rows in expected.items() for row, own in enumerate(rows)}
        limits = {isa: {name: limit} for isa, limit in limits.items()}
    np.savez(folder / "golden" / "expected.npz", **expected)
    _write(folder / "golden" / "golden.json", {"tolerance": limits})
    survey = {"max_size": 5, "sizes": [5], "channels": WIDTH, "vocabulary": 0, "vocabulary_limit": None}
    student = {"family": "conv1d", "survey": survey, "exit": None}
    shipped = {"metric_value": 0.9, "recipe": "float32"}
    _write(
        folder / "report.json",
        {
            "created": CREATED.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "summary": {"metric": "accuracy", "shipped": shipped},
            "fit": fit,
        },
    )
    shutil.copyfile(verify.__file__, folder / "verify.py")
    if onboard:
        (folder / "bench").mkdir()
        for name, there in TRAVELS.items():
            shutil.copyfile(ONBOARD / name, folder / "bench" / there)
    files = {name: entry["sha256"] for name, entry in listed(folder).items()}
    _write(
        folder / "provenance.json",
        {
            "plan": {"target": profile, "student": student, "data": {"classes": ["a", "b", "c", "d"]}},
            "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in files.items()],
        },
    )
    seal(folder, profile, task, schema)
    return folder


def model_of(schema):
    """How a manifest of that schema names the model."""
    if schema < 3:
        return "onnx/model.onnx"
    graph = {"file": "onnx/model.onnx", "recipe": "float32"}
    return {"program": "forward", "graphs": {"model": graph}, "outputs": {"y": "as_is"}}


def seal(folder, profile, task, schema=3):
    """List every file as the bundle's manifest does."""
    own = {"self_sha256": ""} if schema > 1 else {}
    needs = {key: profile[key] for key in ("ort_version", "arch", "isa") if key in profile}
    write_manifest(
        folder,
        {
            "schema": schema,
            **own,
            "name": "tiny",
            "version": "1.0.0",
            "task": task,
            "model": model_of(schema),
            "recipe": "float32",
            "compatible": [profile["name"]],
            "min": {"opset": 17, "ir_version": 9, **needs},
            "plan_sha256": "1" * 64,
            "artifact": {"files": listed(folder)},
            "evidence": {"files": {}},
        },
    )


def listed(folder):
    """Every file's size and hash."""
    return {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def write_manifest(folder, values):
    """Write a manifest with its own hash: as an edgekd does, or as somebody who wants to seem one."""
    zeros = "0" * 64
    own = {"self_sha256": zeros} if "self_sha256" in values else {}
    raw = json.dumps(values | own).encode()
    if own:
        raw = raw.replace(zeros.encode(), hashlib.sha256(raw).hexdigest().encode(), 1)
    (folder / "manifest.json").write_bytes(raw)


def _write(path, values):
    path.write_text(json.dumps(values), encoding="utf-8")


class Board:
    """A device that is this process, through the runner's own functions, but for what a test says of it.

    Its memory is always told: what the runner measures means something only in a fresh process.
    """

    emulated = ""
    host = "a board"

    def __init__(self, *, facts=None, latency_ms=None, peak_rss_mib=8.0, shift=0.0, emulated="", sways=False):
        self.facts, self.latency_ms, self.peak_rss_mib = facts or {}, latency_ms, peak_rss_mib
        self.shift, self.emulated, self.sways, self.jobs = shift, emulated, sways, []
        self.drawn = np.random.default_rng(0)

    @contextlib.contextmanager
    def up(self):
        yield self

    def run(self, mode, **job):
        self.jobs.append(mode)
        time.sleep(0.03)  # a receipt tells how long it took, to a tenth of a second
        job = json.loads(json.dumps({"provider": "CPUExecutionProvider", **job}))
        answer = MODES[mode](**job | ({"started": time.time()} if mode == "footprint" else {}))
        if mode == "facts":
            answer |= self.facts
        elif mode == "predict" and self.shift:
            path = Path(job["outputs"])
            pack([{name: own + np.float32(self.shift) for name, own in row.items()} for row in unpack(path)], path)
        elif mode == "footprint":
            answer |= {"baseline_mib": 40.0, "peak_rss_mib": [self.peak_rss_mib] * len(job["inputs"])}
        elif mode == "time":
            if self.sways:
                answer["row_sha256"]["model"][0] = "0" * 64
            if self.latency_ms:
                answer["latency_ms"] = {name: self._steady(turns) for name, turns in answer["latency_ms"].items()}
        return answer

    def _steady(self, turns):
        """Nearly the same median for all, no two samples the same."""
        return (self.latency_ms * (1 + 1e-4 * self.drawn.random((len(turns), len(turns[0]))))).tolist()
