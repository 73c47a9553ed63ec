"""Examine: the diagnosis of a model that no build made. Inputs read, the candidate made, what-ifs measured."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression.diagnose import diagnose_model, what_if
from edgekd.compression.side_by_side import read
from edgekd.compression.sqnr import Ratios
from edgekd.core import external, plain_yaml
from edgekd.core.benchmark import Benchmark, Timed
from edgekd.core.errors import DataError, TeacherError, UsageError, no_bundle, suggestion
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import ONE, Model
from edgekd.core.predictions import WORDS, agreement, main_output, network_outputs, unstacked
from edgekd.core.protocols import MULTI_LABEL, REGRESSION, GraphTask, named
from edgekd.core.registry import make, plugin
from edgekd.data.limits import check_plain
from edgekd.hardware.profile import load_profile
from edgekd.inference.predict import outputs
from edgekd.onboard.runner import pack, unpack
from edgekd.teachers import _checks, _onnx_apart, _onnx_graph, _onnx_inspect, _onnx_smoke

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Progress, Quantizer, Sample

CALIBRATION_ROWS = 128
_ROUNDS = 10
_ANY_GRAPH = "array_graph"  # the teacher that says what a graph takes and gives
_BESIDE = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Given:
    """What is to be examined: an fp32 model, how it is quantized (a recipe, or the file), and its inputs."""

    model: Path
    data: str  # rows as the task reads them; of others than any graph's also an .npz of packed samples
    task: str
    recipe: str | None = None  # NAME, or NAME,OPTION=VALUE; the default is static_int8
    quantized: Path | None = None
    samples: int = 16
    max_tokens: int = 128
    threads: int = 1
    columns: Mapping[str, Any] = field(default_factory=dict)  # the task's options: text_column, image_column, state


def examine(given: Given, progress: Progress) -> dict[str, Any]:
    """The diagnosis as `report.json` carries it. Raises EdgeKDError for what cannot be read, made or compared.

    The first `samples` rows are looked at, the rest calibrates: no row does both.
    """
    models = [given.model, *([given.quantized] if given.quantized else ())]
    for model in models:  # refused before any row is read
        _checked(model)
    task = _task(given)
    config = _config(given.model)
    _check_classes(given, task, config)
    task = named(task, tuple(map(str, (config.get("id2label") or {}).values())))
    rows = _samples(given, task)
    if len(rows) < 2:
        raise DataError(f"{given.data} holds {len(rows)} row", fix="give two at least: to calibrate on, and to look at")
    looked_at = rows[: min(given.samples, len(rows) // 2)]
    calibration = rows[len(looked_at) :][:CALIBRATION_ROWS]
    quantizer = None if given.quantized and not given.recipe else recipe(given.recipe or "static_int8")
    progress.stage("diagnose: first run")
    for model in models:
        _first_run(model, looked_at, task)
    with tempfile.TemporaryDirectory(prefix="edgekd-examine-") as folder:
        plain = _model(_with_node_names(_settled(given.model, Path(folder)), Path(folder)), task)
        fed = GraphInputs(plain, calibration)

        def quantize(place: Path, keep: tuple[str, ...]) -> Model:
            assert quantizer is not None
            change = partial(_quantize, quantizer, fed, keep, Path(folder))
            return plain.changed(place, change, suffix="_quantized")[0]

        if given.quantized is None:
            progress.stage("diagnose: quantize")
            candidate = quantize(Path(folder), ())
        else:
            candidate = _model(_settled(given.quantized, Path(folder)), task)
        progress.stage("diagnose: run both side by side")
        found = diagnose_model(plain, candidate, GraphInputs(plain, looked_at), threads=given.threads)
        said = {"of": given.recipe or (given.quantized.name if given.quantized else "static_int8")}
        if quantizer is None:
            return said | found.as_dict()
        progress.stage("diagnose: leave the worst in float")
        judge = Judge(plain, looked_at, task, given.threads)
        own = judge(candidate)
        return said | {"candidate": own} | found.as_dict(what_if(found, own, quantize, judge))


def _settled(model: Path, folder: Path) -> Path:
    """Return a stranger's model, or a copy in `folder` where its external data have another name than ours."""
    return external.settled(model, folder / f"whole-{model.name}")


def _quantize(
    quantizer: Quantizer, rows: GraphInputs, keep: tuple[str, ...], cache: Path, graph: str, file: Path, out: Path
) -> None:
    """Write what the quantizer makes of a graph's file."""
    quantizer.quantize(file, out, rows.of(graph), keep=keep, cache=cache)


def _model(file: Path, task: Any) -> Model:
    """Return the model of one file, run as the task runs its own."""
    return Model({ONE: file}, task.program) if isinstance(task, GraphTask) else Model.of(file)


def _with_node_names(model: Path, folder: Path) -> Path:
    """Return the model itself, or a copy in `folder` where nodes have no name of their own: recipes keep by name."""
    graph = read(model)
    names = _onnx_graph.node_names(graph.graph.node)
    if names == [node.name for node in graph.graph.node]:
        return model
    for node, name in zip(graph.graph.node, names, strict=True):
        node.name = name
    return external.save(graph, folder / f"named-{model.name}")


def _task(given: Given) -> Any:
    """The task with the column that the user named. Raises UsageError for one that it has no use for."""
    known = {one.name for one in fields(plugin("tasks", given.task))}
    if foreign := sorted(given.columns.keys() - known):
        flag = foreign[0].replace("_", "-")
        raise UsageError(f"--{flag} means nothing to {given.task}", fix="leave it out, or name another --task")
    task: Any = make("tasks", given.task, **given.columns)
    if isinstance(task, GraphTask):
        return task.bound(make("teachers", _ANY_GRAPH).inspect(str(given.model), given.task))
    return task


def _checked(model: Path) -> None:
    """Refuse a stranger's file as a teacher is refused: what a run of it costs must be bounded."""
    if not model.is_file():
        read(model)  # says so
    _onnx_apart.call("_onnx_checks:check_form", {"source": str(model)}, model, "be read")


def _config(model: Path) -> dict[str, Any]:
    """Return the config.json beside a model, or beside its folder `onnx`; empty where there is none."""
    places = (model.parent, model.parent.parent) if model.parent.name == "onnx" else (model.parent,)
    return next(filter(None, (_onnx_inspect.read_json(place / "config.json") for place in places)), {})


def _check_classes(given: Given, task: Any, config: Mapping[str, Any]) -> None:
    """Raises TeacherError for a model whose outputs are of another kind than the task's: agreement says nothing."""
    model = given.model
    if not task.problem_type:  # outputs are no logits
        return
    graph = read(model)
    output = graph.graph.output[0]
    dims = output.type.tensor_type.shape.dim
    _checks.check_problem(config, dims[-1].dim_value or None if len(dims) else 1, model, given.task, said=False)
    if not _onnx_graph.ends_in_sigmoid(graph, output.name):
        return
    if task.problem_type == REGRESSION:
        return
    if task.problem_type != MULTI_LABEL:
        raise _checks.not_classes(model, "it ends in a sigmoid over each label", given.task)
    raise TeacherError(
        f"{model} ends in a sigmoid: its decisions are held against each other as logits, above 0",
        fix="give the graph without its last operator",
    )


def _first_run(model: Path, samples: Sequence[Sample], task: Any) -> None:
    """Run it once in a limited process, on the largest sample: all that follows takes some times as much."""
    largest = max(samples, key=lambda sample: sum(value.nbytes for value in sample.values()))
    with tempfile.TemporaryDirectory(prefix="edgekd-first-run-") as folder:
        inputs = Path(folder, "inputs.npz")
        pack([largest], inputs)
        _onnx_apart.call(
            "_onnx_smoke:run",
            {"source": str(model), "inputs": str(inputs), "program": _model(model, task).program},
            model,
            "run under ONNX Runtime",
            mib_per_s=_onnx_smoke.MIB_PER_S,
            fix=_onnx_smoke.FIX,
        )


def stored(bundle: Path) -> dict[str, Any] | None:
    """What build found of a bundle's layers; None where every variant is float32. Raises UsageError for no bundle."""
    file = bundle / "report.json"
    if not file.is_file():
        raise no_bundle(bundle, "it has no report.json")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        found: dict[str, Any] | None = report.get("diagnosis")
        if found is not None or report["choice"]["recipe"] == "float32":
            return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"the report.json of {bundle} is not as edgekd writes it ({type(error).__name__}: {error})",
            fix="give the folder that build wrote",
        ) from error
    raise UsageError(
        f"{bundle} was built by an edgekd that made no diagnosis", fix="build it again, or give the fp32 .onnx file"
    )


def recipe(words: str) -> Any:
    """A quantizer for this machine: NAME, or NAME,OPTION=VALUE,... Raises UsageError."""
    name, *rest = words.split(",")
    made = plugin("quantizers", name).for_target(load_profile("local"))
    known = [one.name for one in fields(made)]
    options = {}
    for part in rest:
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(f"the recipe {name} has no option {key!r}", fix=suggestion(key, known))
        options[key] = plain_yaml.scalar(value)
        if type(options[key]) is not type(getattr(made, key)):
            raise UsageError(
                f"--recipe {words}: {key} cannot be {value!r}", fix=f"its value here is {getattr(made, key)!r}"
            )
    return replace(made, **options)


class Judge:
    """Figures of one model on the samples: agreement with fp32 and the output's SQNR, MiB, speed beside fp32."""

    def __init__(self, plain: Model, samples: Sequence[Sample], task: Any, threads: int) -> None:
        self.plain, self.samples, self.task, self.threads = plain, samples, task, threads
        self.right = self._predictions(plain)

    def __call__(self, model: Model) -> dict[str, float]:
        """`agreement` (or `cosine`), `output_sqnr_db`, `artifact_mib`, and `speed`: fp32's median over this one's."""
        said = self._predictions(model)
        ratios = Ratios()
        for right, own in zip(self.right, said, strict=True):
            for name in right:
                ratios.add("output", right[name], own[name])
        sqnr_db = ratios.sqnr_db("output")
        assert sqnr_db is not None
        agreed = agreement(self.task, said, self.right)
        return {
            self.task.fidelity.name: self.task.fidelity.value(agreed),
            "output_sqnr_db": sqnr_db,
            "artifact_mib": model.size_mib,
            "speed": self._speed(model),
        }

    def _keep(self, model: Model) -> dict[str, str]:
        """The task's output rule; where a stranger's graph calls its output otherwise, of the first that it has."""
        last = [*model.graphs.values()][-1]
        names = [output.name for output in read(last).graph.output]
        lacking = WORDS not in self.samples[0]  # packed samples need not say which words they have
        by_words = WORDS in self.task.keep.values() and lacking
        if (len(self.task.keep) > 1 or main_output(self.task.keep) in names) and not by_words:
            return dict(self.task.keep)
        network = network_outputs(self.task)
        own = main_output(network)
        return {own if own in names else names[0]: network[own]}

    def _predictions(self, model: Model) -> list[Prediction]:
        """What the model says of the samples, under the task's names."""
        keep = self._keep(model)
        rows = outputs(model, self.samples, threads=self.threads, keep=keep)
        if len(keep) > 1:
            return rows
        return unstacked(main_output(self.task.keep), [row[main_output(keep)] for row in rows])

    def _speed(self, model: Model) -> float:
        with tempfile.TemporaryDirectory(prefix="edgekd-judge-") as folder:
            inputs = Path(folder, "inputs.npz")
            pack(list(self.samples), inputs)
            sides = {"float32": self.plain, "variant": model}
            models = {name: Timed(side, inputs, self._keep(side)) for name, side in sides.items()}
            found = Benchmark(make("devices", "local"), self.threads).time(models, rounds=_ROUNDS, seed=0)
        medians = {n: statistics.median(ms for turn in found.latency_ms[n] for ms in turn) for n in models}
        return float(medians["float32"] / medians["variant"])


def _samples(given: Given, task: Any) -> Sequence[Sample]:
    path = Path(given.data)
    if path.suffix.lower() == ".npz" and not isinstance(task, GraphTask):
        check_plain(path)
        if not path.exists():
            raise DataError(f"there is no file {path}", fix="give an .npz of packed samples, or a file of rows")
        try:
            return unpack(path)
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(
                f"{path} holds no packed samples",
                fix="write it with `edgekd.onboard.runner.pack`, or give a file of rows",
            ) from error
    tables = task.read(given.data)
    table = next(tables[split] for split in ("test", "validation", "all", "train") if split in tables)
    few = table[: given.samples + CALIBRATION_ROWS]
    rows = task.examples(few, (task.input_column(few, given.data), ""), given.data, labelled=False)
    folders = (given.model.parent, given.model.parent.parent)  # of Hugging Face's layout, where onnx/ lies in it
    folder = next((folder for folder in folders if any((folder / name).exists() for name in _BESIDE)), folders[0])
    found: Sequence[Sample] = task.encode(folder, [row.input for row in rows], _longest(given))
    return found


def _longest(given: Given) -> int:
    """The size that the model's first input is fixed to, behind the batch; else as many tokens as the user says."""
    dims = read(given.model).graph.input[0].type.tensor_type.shape.dim
    fixed = [dim.dim_value for dim in dims][1:2]
    return int(fixed[0]) if fixed and fixed[0] > 0 else given.max_tokens
