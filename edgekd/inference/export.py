"""Export: the trained model as ONNX, and the proof that it says what torch says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import RuntimeCannotLoad, UsageError
from edgekd.core.model import Model, graph_file
from edgekd.core.predictions import WORDS, largest_difference, network_outputs
from edgekd.core.protocols import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    ComparingTeacher,
    CompletedTask,
    CompletingTeacher,
    GraphTeacher,
    ParityTask,
    ProgramExporter,
    Yardstick,
)
from edgekd.core.registry import make
from edgekd.core.tensors import embeds
from edgekd.data import clean
from edgekd.exporters._onnx import finish
from edgekd.inference.predict import outputs
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample, Task

PARITY_ROWS = 16
COMPARED_ROWS = 4  # of a graph that a user gives, run as it came and as it is written
_PROGRAM_ROWS = 4  # of them that torch goes through with a program, which asks it once a token
_PLAIN_TYPES = {"text": "bert", "image": "mobilenet_v2"}  # by modality; optimum has no loader for others
PARITY_LIMIT = 1e-3  # largest difference of a logit: fp32 in another order, nothing more


def export(plan: Plan, model_folder: Path, inputs: list[Any], out: Path) -> None:
    """Write the task's graphs into `out` from a model's folder. Raises RuntimeCannotLoad where ONNX and torch disagree.

    Raises UsageError where an exporter of another package gives other graphs than the task's.
    """
    from edgekd.training import engine, models

    source = make("teachers", plan.teacher.kind)
    if isinstance(source, GraphTeacher):  # only ever compressed; it compares what is written itself, in a child
        write = partial(finish, target=plan.target)
        for graph in plan.made_task.graphs:
            file = graph_file(out, graph)
            source.export(Path(plan.teacher.folder), plan.teacher.architecture, plan.task, file, write)
        if isinstance(source, ComparingTeacher):
            _compare(plan, source, model_folder, inputs, out)
        return
    engine.prepare(plan.seed, plan.threads)
    model = models.load(model_folder, plan.task)
    exporter, task = models.exporter(model), plan.made_task
    exported = to_onnx(plan, model, exporter, out)
    runs = make("exporters", exporter)
    rows = _PROGRAM_ROWS if isinstance(runs, ProgramExporter) else PARITY_ROWS
    samples = task.encode(model_folder, inputs[:rows], plan.student.survey.max_size)
    if isinstance(task, ParityTask):
        difference = task.parity(model, exported, samples)
    else:
        says = partial(_program_says, runs) if isinstance(runs, ProgramExporter) else _torch_says
        by_torch = says(model, task, samples)
        difference = largest_difference(outputs(exported, samples, threads=1, keep=network_outputs(task)), by_torch)
    if not difference < PARITY_LIMIT:
        raise RuntimeCannotLoad(
            f"the exported model disagrees with torch by {difference:.2g} on {len(samples)} real inputs",
            fix="this is a fault of the exporter for this architecture: please report it with the teacher's name",
        )


def _compare(plan: Plan, source: ComparingTeacher, model_folder: Path, inputs: list[Any], out: Path) -> None:
    """Hold the graphs in `out` against the file that they came from, on the first rows."""
    from edgekd.onboard.runner import pack

    task = plan.made_task
    samples = task.encode(model_folder, inputs[:COMPARED_ROWS], plan.student.survey.max_size)
    with tempfile.TemporaryDirectory(prefix="edgekd-compare-") as folder:
        packed = Path(folder, "inputs.npz")
        pack(samples, packed)
        written = Model.in_folder(out, task.graphs, task.program)
        source.compare(Path(plan.teacher.folder), plan.teacher.architecture, written, packed, list(task.keep))


def to_onnx(plan: Plan, network: Any, exporter: str, out: Path) -> Model:
    """Write a torch network's graphs into `out`, with what its teacher computes behind it.

    Raises UsageError where an exporter of another package gives other graphs than the task's.
    """
    import onnx

    from edgekd.training import models

    task = plan.made_task
    exported = make("exporters", exporter).export(models.body(network), out, task=plan.task, target=plan.target)
    _check_graphs(exporter, exported, task)
    source = make("teachers", plan.teacher.kind)
    if isinstance(task, CompletedTask) and isinstance(source, CompletingTeacher):
        graph = onnx.load(exported.file)
        own = embeds(network)  # a student has layers of its own
        architecture = {"sentence": network.sentence} if own else plan.teacher.architecture
        source.complete(network.processor_folder if own else Path(plan.teacher.folder), architecture, graph)
        finish(graph, exported.file, plan.target)
    return exported


def _check_graphs(exporter: str, exported: Any, task: Task) -> None:
    """Raise UsageError where an exporter gives no Model, as those for an older edgekd do, or one of other graphs."""
    if isinstance(exported, Model) and tuple(exported.graphs) == task.graphs:
        return
    given = ", ".join(exported.graphs) if isinstance(exported, Model) else type(exported).__name__
    raise UsageError(
        f"the exporter {exporter!r} gave {given}, not a Model with the graphs {', '.join(task.graphs)}",
        fix="install a release of its package for this edgekd: `export` gives an edgekd.core.model.Model",
    )


def files(plan: Plan, teacher_folder: Path, out: Path) -> None:
    """Write what a teacher that ships undistilled needs beside its graph: config, tokenizer or preprocessing."""
    source = make("teachers", plan.teacher.kind)
    assert isinstance(source, Yardstick), "what is compressed runs here"
    source.files(teacher_folder, plan.teacher.architecture, plan.task, out)
    file = out / "config.json"
    if not file.exists():
        clean.write_config(teacher_folder, out)
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    task = plan.made_task
    if whole := completed(config, task.modality, plan.data.classes, task.problem_type):
        file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def completed(
    config: Mapping[str, Any], modality: str, classes: Sequence[str], problem_type: str = SINGLE_LABEL
) -> dict[str, Any]:
    """A config.json with what loaders of the ecosystem ask for; empty where nothing lacks.

    That is a model type that transformers knows, from which they take classes but no layers, and the class names; of
    several labels the problem type, by which their pipelines take a sigmoid and no softmax; of numbers neither.
    """
    from transformers import CONFIG_MAPPING

    more: dict[str, Any] = {}
    if config.get("model_type") not in CONFIG_MAPPING and modality in _PLAIN_TYPES:
        more["model_type"] = _PLAIN_TYPES[modality]
    if classes and not config.get("id2label"):
        more["id2label"] = {str(number): name for number, name in enumerate(classes)}
        more["label2id"] = {name: number for number, name in enumerate(classes)}
    if problem_type in (MULTI_LABEL, REGRESSION) and config.get("problem_type") != problem_type:
        more["problem_type"] = problem_type
    return {**config, **more} if more else {}


def _program_says(exporter: ProgramExporter, model: Any, task: Task, samples: Sequence[Sample]) -> list[Prediction]:
    """What the task's program makes of each sample with torch behind it."""
    from edgekd.onboard.programs import kept, open_program

    program = open_program(task.program, exporter.sessions(model))
    keep = network_outputs(task)
    return [kept(program.named(program.run(None, program.feed(sample))), sample, keep) for sample in samples]


def _torch_says(model: Any, task: Task, samples: Sequence[Sample]) -> list[Prediction]:
    """What the network says of each sample alone in torch, kept by its output rule."""
    import torch

    from edgekd.onboard.programs import kept

    model.eval()
    keep = network_outputs(task)
    found: list[Prediction] = []
    for sample in samples:
        fed = {name: values for name, values in sample.items() if name != WORDS}
        batch = {name: torch.from_numpy(values).to(model.device) for name, values in fed.items()}
        with torch.no_grad():
            said = model(**batch)
        raw = {name: getattr(said, name)[0].float().cpu().numpy() for name in keep}
        found.append(kept(raw, sample, keep))
    return found
