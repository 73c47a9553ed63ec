"""Does each kind of distillation help, and where? `python -m benchmarks.distillation` (three quarters of an hour).

For texts, images and series, with few labels and with all of them: one small student for all arms.
The arms of a loss start from random weights, so that the loss alone makes the difference; "copied weights" starts as a
cut of the teacher and has the labels alone; the last is what `build` does by itself. All take as many steps, and the
best epoch of each is picked by the same rule on the same rows. Differences to labels alone are paired by seed and
sample. Needs the packages of all demos.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import results
from edgekd import stages
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import plugin
from edgekd.data import demos
from edgekd.data.splits import Splits
from edgekd.plan.plan import Plan, StudentPlan
from edgekd.plan.planning import Options, make_plan
from edgekd.store.store import Store
from edgekd.training import evidence, objective

SEEDS = {"few": 5, "all": 3}
KINDS = {
    "response": ("response=0.9", "hard_labels=0.1"),
    "feature": ("hidden_states=1", "hard_labels=1"),
    "relation": ("relational=1", "hard_labels=1"),
    "self": ("self_distillation=1", "hard_labels=1"),
}
COPIED, BUILD, CONTROL = "copied weights", "as built", "labels alone"
# Small on purpose: where a student could learn all from labels, a teacher has nothing to add. Epochs: of all rows.
STUDENTS: dict[str, dict[str, Any]] = {
    "text-classification": {"layers": 2, "hidden": 192, "heads": 6, "feed_forward": 384},
    "image-classification": {
        "image_size": 32,
        "channels": 1,
        "classes": 10,
        "width": 0.25,
        "depth": 0.25,
        "stages": 3,
        "expand": 3,
        "stem_stride": 1,
    },
    "time-series-classification": {
        "width": 8,
        "depth": 2,
        "kernel": 7,
        "stride": 4,
        "separable": True,
        "dilated": True,
        "steps": 500,
        "channels": 1,
        "classes": 2,
    },
}
EPOCHS = {"text-classification": 10, "image-classification": 5, "time-series-classification": 30}
SCARCE = {"text-classification": 1000, "image-classification": 600, "time-series-classification": 90}


def made(task: str, labels: int | None, store: Store) -> tuple[Plan, Splits, dict[str, Any]]:
    """Plan, rows and shape of one setting; one thread, so that two settings run beside each other."""
    options = Options(
        target="rpi4", task=task, data=demos.demo_data(task, store), labels=labels, threads=1, epochs=EPOCHS[task]
    )
    plan, splits = make_plan(options, store)
    shape = dict(STUDENTS[task])
    if task == "text-classification":
        survey = plan.student.survey
        shape |= {"vocabulary": survey.vocabulary, "max_tokens": survey.max_size, "classes": len(splits.classes)}
    return replace(plan, evidence=SEEDS["few" if labels else "all"]), splits, shape


def compared(plan: Plan, splits: Splits) -> dict[str, StudentPlan]:
    """The arms, the control last."""
    own = evidence.arms(plan, splits)
    control = own[evidence.CONTROL]
    found = {}
    for kind, said in KINDS.items():
        terms = objective.losses(said, None)
        student = replace(plan.student, losses=terms, start="scratch")
        needs_teacher = replace(plan, student=student).needs_teacher
        found[kind] = student if needs_teacher else replace(student, training=control.training)
    copied = {COPIED: own[evidence.WEIGHTS]} if evidence.WEIGHTS in own else {}
    return found | copied | {BUILD: plan.student, CONTROL: control}


def setting(task: str, labels: int | None, root: str) -> dict[str, Any]:
    """One modality with so many labels: the evidence of all arms, and the teacher's own accuracy."""
    os.environ["EDGEKD_STORE"] = root
    store = Store(Path(root))
    plan, splits, shape = made(task, labels, store)
    build = stages.Stages(plan, stages.augmented(plan, splits), store, NullProgress(), shape)
    teacher = build.teacher()
    arms = compared(plan, splits)
    with tempfile.TemporaryDirectory(prefix="edgekd-evidence-") as name:
        evidence.gather(
            plan, splits, arms, lambda one: replace(build, plan=one).student(teacher), Path(name), NullProgress()
        )
        said = evidence.read_evidence(Path(name))
    right = plugin("tasks", plan.task).metric.value(evidence.statistics(plan, splits, teacher))
    return said | {
        "teacher": right,
        "labels": plan.data.counts["train"],
        "shape": shape,
        "rows": sum(plan.data.counts[role] for role in ("train", "unlabelled")),
    }


def main() -> None:
    """Write results/distillation.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", help="kept between runs, so that one that was stopped goes on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", metavar="TASK/few|all", help="one setting, printed and not kept")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        root = said.store or name
        jobs = [(task, labels) for task in STUDENTS for labels in (SCARCE[task], None)]
        if said.only:
            task, _, labels = said.only.partition("/")
            print(json.dumps(setting(task, SCARCE[task] if labels == "few" else None, root), indent=1))
            return
        with ProcessPoolExecutor(said.workers, mp_context=get_context("spawn")) as pool:
            waiting = {job: pool.submit(setting, *job, root) for job in jobs}
            found = {f"{task}/{'few' if labels else 'all'}": job.result() for (task, labels), job in waiting.items()}
    results.write("distillation", {"settings": found})


if __name__ == "__main__":
    main()
