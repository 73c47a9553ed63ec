"""What do cached outputs and length buckets save, and does memory stay flat? `python -m benchmarks.throughput`.

A quarter of an hour. The plain loop is what one writes first: the teacher's forward pass inside the loop, rows in
random order, each padded to the longest input that the student takes. Ours is what `build` runs, the building of the
cache included. Both train the same student on the same rows for five epochs, in turn. Memory: peak RSS of a fresh
process that keeps the teacher's outputs and trains, ten epochs on the demo's rows and one on ten times as many.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.distillation import made
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make
from edgekd.core.tensors import Outputs, Targets
from edgekd.data.augment import augment
from edgekd.data.splits import Splits
from edgekd.onboard.runner import peak_rss_mib
from edgekd.plan.plan import Plan
from edgekd.store.store import Store
from edgekd.training import batches, engine, models, teach, teacher_outputs
from edgekd.training.learner import Learner
from edgekd.training.teacher_outputs import TRAINED_ON, TeacherOutputs

TASK, EPOCHS, ROWS, PAIRS = "text-classification", 5, 256, 3
SHAPE = {"layers": 4, "hidden": 384, "heads": 12, "feed_forward": 384}  # the demo's student
TIMES = 10  # the rows of the memory test, against the demo's


class Work:
    """A teacher, a student of its cut, and rows: what both loops are given."""

    def __init__(self, plan: Plan, splits: Splits, teacher_folder: Path, folder: Path, shape: dict[str, Any]) -> None:
        self.plan, self.splits, self.teacher_folder, self.folder = plan, splits, teacher_folder, folder
        self.task, self.rows = make("tasks", plan.task), (*splits.train, *splits.unlabelled, *splits.augmented)
        self.shape = make("students", plan.student.family, **shape)
        self.truth = teach.label_tensor(splits, self.rows)
        self.longest = plan.student.survey.max_size
        inputs = [row.input for row in (*splits.train, *splits.unlabelled)]
        self.kept = self.task.student_files(teacher_folder, inputs, plan.student.survey, self.shape, folder)
        self.shape = replace(self.shape, vocabulary=len(self.kept))  # of these rows

    def encode(self, folder: Path) -> Any:
        return self.task.encode(folder, [row.input for row in self.rows], self.longest)

    def student(self) -> Any:
        engine.prepare(0, self.plan.threads)
        few = self.encode(self.teacher_folder)[:64]
        return self.shape.init_from_teacher(
            models.load(self.teacher_folder, TASK), self.teacher_folder, kept=self.kept, samples=few
        )


def ours(work: Work, student: Any, spent: dict[str, float]) -> None:
    """The teacher's outputs to disk, then the engine."""
    with tempfile.TemporaryDirectory(prefix="edgekd-cache-", dir=work.folder) as name:
        out = Path(name)
        with timed(spent, "cache"):
            wanted = work.plan.matched(work.shape.as_dict()).teacher
            names = teacher_outputs.pieces(wanted)
            teacher_outputs.compute(work.plan, work.splits, wanted, names, work.teacher_folder, out, NullProgress())
            kept = {name: out / name for name in names}
            said = TeacherOutputs(kept, TRAINED_ON, len(work.splits.classes))
        with timed(spent, "tokens"):
            samples = work.encode(work.folder)

        def targets(rows: list[int]) -> Targets:
            return Targets(said.outputs(rows), work.truth[rows])

        learner = Learner(student, work.plan.student.losses, targets)
        with timed(spent, "training"):
            engine.fit(learner, samples, work.plan.student.training, seed=0, progress=NullProgress())


def plain(work: Work, student: Any, *, bucketed: bool = False) -> None:
    """The loop that one writes first; with `bucketed` its batches are made as ours are."""
    import torch

    training, pad = work.plan.student.training, engine.pad_of(student)
    teacher = models.load(work.teacher_folder, TASK)
    theirs, samples = work.encode(work.teacher_folder), work.encode(work.folder)
    said: dict[str, Any] = {}
    learner = Learner(student, work.plan.student.losses, lambda rows: Targets(said["teacher"], work.truth[rows]))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=training.learning_rate, fused=True)
    cpu, lengths = torch.device("cpu"), batches.sizes(samples)
    student.train()
    for epoch in range(training.epochs):
        order = list(range(len(samples)))
        random.Random(epoch).shuffle(order)
        groups = [order[i : i + training.batch_size] for i in range(0, len(order), training.batch_size)]
        for rows in batches.ordered(lengths, training.batch_size, epoch) if bucketed else groups:
            both = [batches.padded(one, rows, pad, cpu) for one in (theirs, samples)]
            if not bucketed:
                both = [filled(one, work.longest, pad) for one in both]
            with torch.no_grad():
                said["teacher"] = Outputs(teacher(**both[0]).logits)
            loss = learner(both[1], rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learner.parameters(), training.max_grad_norm)
            optimizer.step()


def filled(batch: dict[str, Any], longest: int, pad: int) -> dict[str, Any]:
    """Every row to the longest input that the student takes."""
    from torch.nn.functional import pad as fill

    return {
        name: fill(value, (0, longest - value.shape[1]), value=pad if name == "input_ids" else 0)
        for name, value in batch.items()
    }


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    before = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - before


def speed(store: Store) -> dict[str, Any]:
    """Samples a second of each loop, in turn, and the ratio of each pair."""
    work = prepared(store, ROWS)
    seconds: dict[str, list[float]] = {"plain": [], "buckets": [], "ours": []}
    spent: dict[str, float] = {}
    loops: dict[str, Callable[[Any], None]] = {
        "plain": lambda student: plain(work, student),
        "buckets": lambda student: plain(work, student, bucketed=True),
        "ours": lambda student: ours(work, student, spent),
    }
    for _ in range(PAIRS):
        for name, loop in loops.items():
            student = work.student()
            before = time.perf_counter()
            loop(student)
            seconds[name].append(time.perf_counter() - before)
            print(name, f"{seconds[name][-1]:.1f} s", flush=True)
    seen = ROWS * EPOCHS
    return {
        "rows": ROWS,
        "epochs": EPOCHS,
        "longest": work.longest,
        "threads": work.plan.threads,
        "samples_per_s": {name: seen / statistics.median(values) for name, values in seconds.items()},
        "ratios": [slow / fast for slow, fast in zip(seconds["plain"], seconds["ours"], strict=True)],
        "bucket_ratios": [slow / fast for slow, fast in zip(seconds["plain"], seconds["buckets"], strict=True)],
        "shares": {name: value / sum(spent.values()) for name, value in spent.items()},
    }


def prepared(store: Store, rows: int | None = None, times: int = 1) -> Work:
    """The demo's teacher and its first `rows`, or `times` as many by augmentation."""
    from edgekd.stages import Stages

    plan, splits, shape = made(TASK, 1000, store)
    training = replace(plan.student.training, epochs=EPOCHS if rows else TIMES // times)  # memory: on as many steps
    plan = replace(plan, student=replace(plan.student, training=training))
    teacher = Stages(plan, splits, store, NullProgress(), {}).teacher()
    if rows is not None:
        splits = replace(splits, train=splits.train[:rows], unlabelled=(), selection=(), calibration=())
    if times > 1:
        whole = (*splits.train, *splits.unlabelled)
        splits = replace(splits, augmented=augment(whole, [(make("augmentations", "word_swap"), times - 1)], 0))
    folder = Path(tempfile.mkdtemp(prefix="edgekd-throughput-", dir=store.root))
    return Work(plan, splits, teacher, folder, {**shape, **(SHAPE if times == 1 and rows else {})})


def memory(root: str) -> dict[str, Any]:
    """Peak RSS of fresh processes that keep outputs and train for an epoch: the demo's rows, and ten times as many."""
    found = {}
    for times in (1, TIMES):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.throughput", "--times", str(times), "--store", root],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[str(times)] = json.loads(done.stdout.splitlines()[-1])
        print(times, found[str(times)], flush=True)
    return found


def one(store: Store, times: int) -> dict[str, Any]:
    """In a fresh process: the rows, and the most memory that it ever held."""
    work = prepared(store, None, times)
    ours(work, work.student(), {})
    return {"rows": len(work.rows), "peak_rss_mib": peak_rss_mib()}


def main() -> None:
    """Write results/throughput.json."""
    said = sys.argv[1:]
    if "--times" in said:
        print(json.dumps(one(Store(Path(said[said.index("--store") + 1])), int(said[said.index("--times") + 1]))))
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        store = Store(Path(said[said.index("--store") + 1]) if "--store" in said else Path(name))
        results.write("throughput", {"memory": memory(str(store.root)), "speed": speed(store)})


if __name__ == "__main__":
    main()
