"""What does compression give a language model, beside llama.cpp? `python -m benchmarks.language STUDENT`.

Half an hour. SmolLM2-135M in fp32 and in each recipe, a student of it (the folder that `edgekd distill` wrote), and
llama.cpp on the teacher's own GGUF file. Tokens per second of CPU time with one thread, in reading and in writing, at
three contexts; each round is a set of fresh processes, and in a round all models take turns at each context. Bits per
byte are of held-out passages; peak memory is above what a process takes before it opens a model.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks._peers import ENVIRONMENT
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import plugin
from edgekd.core.statistics import process_ratio
from edgekd.data import demos
from edgekd.inference.predict import outputs
from edgekd.onboard.runner import open_model, peak_rss_mib
from edgekd.plan.options import Options
from edgekd.plan.planning import make_plan
from edgekd.sizing import language, on_paper
from edgekd.stages import Stages
from edgekd.store.store import Store

TASK, TARGET, CONTEXTS, WRITTEN, ROUNDS, SCORED = "text-generation", "cpu-avx2", (128, 512, 2048), 32, 3, 64
LLAMA, REFERENCE = "llama.cpp, GGUF", "float32"
BITS = {"block_int8": 8, "block_int4": 4}


class Subject:
    """A language model's variants as files, with what it is made of."""

    def __init__(self, teacher: str, store: Store, out: Path) -> None:
        options = Options(
            target=TARGET,
            task=TASK,
            teacher=teacher,
            data=demos.demo_data(TASK, store),
            student="none",
            memory_mib=4000.0,
            artifact_mib=2000.0,
            latency_ms=60_000.0,
        )
        plan, splits = make_plan(options, store)
        stages = Stages(plan, splits, store, NullProgress(), {})
        self.plan, self.splits = plan, splits
        self.task: Any = plan.made_task
        self.folder = stages.teacher()
        exported = stages.exported("teacher", self.folder)
        plain = stages.model(exported)
        self.config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        rows = GraphInputs(plain, self._encoded([row.input for row in splits.calibration]))
        self.models, self.made_s = {REFERENCE: plain}, {}
        for recipe in BITS:
            quantizer = plugin("quantizers", recipe).for_target(plan.target)
            place = out / recipe
            place.mkdir(parents=True)
            fed = rows.of("model") if quantizer.calibrates else ()
            began = time.monotonic()
            quantizer.quantize(plain.file, place / "model.onnx", fed)
            self.made_s[recipe] = time.monotonic() - began
            self.models[recipe] = Model({"model": place / "model.onnx"}, plain.program)

    def _encoded(self, texts: Sequence[str]) -> Any:
        return self.task.encode(self.folder, list(texts), self.plan.student.survey.max_size)

    def quality(self) -> dict[str, Any]:
        """Bits per byte of each variant on the same held-out passages, and by how many percent more than fp32's."""
        rows = self.splits.test[:: max(1, len(self.splits.test) // SCORED)][:SCORED]
        samples = [{"input_ids": one["input_ids"]} for one in self._encoded([row.input for row in rows])]
        truth, metric, found = self.task.truth(rows, ()), self.task.metric, {}
        plain = None
        for name, model in self.models.items():
            said = outputs(model, samples, threads=1, keep=self.task.keep)
            score = self.task.statistics({key: [one[key] for one in said] for key in said[0]}, truth)
            plain = score if plain is None else plain
            lost = metric.lost(score, plain)
            found[name] = {
                "bits_per_byte": metric.value(score),
                "interval": list(metric.interval(score)),
                "lost_percent": lost.points,
                "lost_interval": [lost.low, lost.high],
                "mib": model.size_mib,
            }
            print(name, found[name], flush=True)
        return found

    def predicted_mib(self, recipe: str, context: int) -> float | None:
        """Peak memory as `edgekd plan` predicts it from the config alone."""
        if recipe not in BITS:
            return None
        shape = language.of_config(self.config, "config.json")
        return on_paper.peak(shape, BITS[recipe], context, 2).total / 2**20


def serve(file: str) -> None:
    """A worker: contexts in, a line each, and of each what reading and writing took."""
    baseline = peak_rss_mib()
    measure = _llama(file) if file.endswith(".gguf") else _ours(file)
    for line in sys.stdin:
        told = measure(int(line))
        print(json.dumps({**told, "peak_rss_mib": peak_rss_mib() - baseline}), flush=True)


def _ids(count: int) -> list[int]:
    """A text of so many tokens that every vocabulary here has."""
    return [random.Random(place).randrange(300, 7000) for place in range(count)]


def _ours(file: str) -> Any:
    from edgekd.onboard import causal

    program = open_model({"model": file}, 1, "CPUExecutionProvider", program="causal")
    return lambda context: causal.speeds(program, _ids(context), [context], WRITTEN)[0]


def _llama(file: str) -> Any:
    import xllamacpp  # type: ignore[import-untyped]

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel = max(CONTEXTS) + 4 * WRITTEN, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)

    def ask(ids: list[int], count: int) -> tuple[float, float, list[int]]:
        """Wall and CPU seconds, and what was written."""
        wanted = {"prompt": ids, "n_predict": count, "temperature": 0, "cache_prompt": True, "ignore_eos": True}
        began, cpu = time.perf_counter(), time.process_time()
        told = server.handle_completions(json.dumps(wanted | {"return_tokens": True}))
        told = json.loads(told) if isinstance(told, str) else told
        return time.perf_counter() - began, time.process_time() - cpu, told.get("tokens", [])

    def measure(context: int) -> dict[str, float]:
        ids = [17 + context, *_ids(context)[1:]]  # another first token: nothing of an earlier text is kept
        wall, read_s, first = ask(ids, 1)
        _, written_s, _ = ask(ids + first, WRITTEN)
        return {
            "context": context,
            "first_token_ms": 1000 * wall,
            "read_tokens_per_cpu_s": context / read_s,
            "written_tokens_per_cpu_s": (WRITTEN + 1) / written_s,  # the first one is read, then these are written
        }

    ask(_ids(16), 2)
    return measure


@contextmanager
def worker(file: Path) -> Iterator[subprocess.Popen[str]]:
    """A fresh process that holds one model."""
    command = [sys.executable, "-m", "benchmarks.language", "--serve", str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def asked(process: subprocess.Popen[str], context: int) -> dict[str, float]:
    """What a worker says of a context."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{context}\n")
    process.stdin.flush()
    while not (line := process.stdout.readline()).startswith("{"):  # llama.cpp writes a line of its own now and then
        if not line:
            raise SystemExit(f"a worker ended with {process.wait()}")
    told: dict[str, float] = json.loads(line)
    return told


def speeds(files: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Of each model a row for each context: medians over rounds, and writing beside llama.cpp and fp32."""
    found: dict[str, dict[int, list[dict[str, float]]]] = {name: {one: [] for one in CONTEXTS} for name in files}
    for number in range(ROUNDS):
        order = list(files)
        for context in CONTEXTS:
            random.Random(f"{number} {context}").shuffle(order)
            for name in order:
                with worker(files[name]) as process:
                    found[name][context].append(asked(process, context))
        print("round", number + 1, {name: rows[CONTEXTS[0]][-1] for name, rows in found.items()}, flush=True)
    return {name: [_row(found, name, context) for context in CONTEXTS] for name in files}


def _row(found: dict[str, dict[int, list[dict[str, float]]]], name: str, context: int) -> dict[str, Any]:
    own = found[name][context]
    row: dict[str, Any] = {key: statistics.median(one[key] for one in own) for key in own[0]}
    for other in (LLAMA, REFERENCE):
        if other in found and other != name:
            theirs = found[other][context]
            for key in ("read_tokens_per_cpu_s", "written_tokens_per_cpu_s"):
                value, low, high = process_ratio([a[key] / b[key] for a, b in zip(own, theirs, strict=True)])
                row[f"{key.split('_')[0]}_over_{other}"] = {"value": value, "interval": [low, high]}
    return row


def main() -> None:
    """Write results/language.json."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    student, root = sys.argv[1], sys.argv[sys.argv.index("--store") + 1] if "--store" in sys.argv else None
    with tempfile.TemporaryDirectory(prefix="edgekd-language-", dir=root) as name:
        store = Store(Path(root or name))
        gguf = demos.demo_teacher(TASK)
        subjects = {
            "SmolLM2-135M": Subject(gguf, store, Path(name, "teacher")),
            "student": Subject(student, store, Path(name, "student")),
        }
        files = {
            f"{who}, {recipe}" if who == "student" else recipe: model.file
            for who, one in subjects.items()
            for recipe, model in one.models.items()
        }
        files |= {LLAMA: Path(gguf)}
        told = json.loads((Path(student) / "distillation.json").read_text(encoding="utf-8"))
        figures = {
            "contexts": list(CONTEXTS),
            "written": WRITTEN,
            "rounds": ROUNDS,
            "quality": {who: one.quality() for who, one in subjects.items()},
            "made_s": {who: one.made_s for who, one in subjects.items()},
            "predicted_mib": {
                who: {recipe: [one.predicted_mib(recipe, context) for context in CONTEXTS] for recipe in BITS}
                for who, one in subjects.items()
            },
            "gguf_mib": Path(gguf).stat().st_size / 2**20,
            "distillation": told,
            "speeds": speeds(files),
        }
        results.write("language", figures)


if __name__ == "__main__":
    main()
