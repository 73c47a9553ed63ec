"""Graphs: other forms of an exported model, held against it and timed; the simplest stays unless another is faster.

Folded: constants computed and dead branches cut offline, standard operators only. Fused: a transformer's layers as
operators of ONNX Runtime's own. Or the graph of another exporter. All say the same as the export, within fp32.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.compression import timing
from edgekd.core import external
from edgekd.core.benchmark import AGAIN, Benchmark
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model
from edgekd.core.predictions import largest_difference, largest_value
from edgekd.core.quiet import quiet
from edgekd.core.registry import make, plugin
from edgekd.core.results import this_host
from edgekd.exporters._onnx import finish
from edgekd.inference.export import PARITY_LIMIT, PARITY_ROWS, to_onnx
from edgekd.inference.predict import outputs
from edgekd.onboard.runner import pack
from edgekd.plan.plan import Plan

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import Sample
    from edgekd.hardware.profile import Profile

GRAPH = "graph.json"
LEAST_GAIN = 1.05  # less is not worth operators that other runtimes and static int8 do not know
EXPORTED, FOLDED, FUSED = "exported", "folded", "fused"
_ROUNDS, _TIMED = 4, 12  # in each of several processes
_LOADS = 3  # fresh processes that load time and memory are the medians of
_CALIBRATION = 4  # samples: ranges cost nothing at run time, whatever they are
_FUSED_PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")  # that have kernels for ONNX Runtime's operators
_FUSIBLE = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
# these change what recipes find: products become Gemm between reshapes, and equal weights of two layers become one
_NOT_OFFLINE = ["MatMulAddFusion", "ConstantSharing"]


@dataclass(frozen=True)
class Form:
    """One form of a model's graph. Latency ratio, load time and memory are of the recipe that it was timed under."""

    name: str
    operators: int = 0
    difference: float | None = None  # largest of an output, from the export's, on real inputs
    speed: tuple[float, float, float] | None = None  # over the simplest form, with its 95% interval; above 1 is faster
    load_ms: float | None = None
    peak_rss_mib: float | None = None
    took_s: float = 0.0  # to make it, and its recipe's variant
    failed: str | None = None  # why it is no alternative


@dataclass(frozen=True)
class Verdict:
    """The form that is kept, and why."""

    kept: str
    why: str


def choose(forms: Sequence[Form], control: tuple[float, float, float] | None) -> Verdict:
    """The simplest form, unless another is faster beyond noise: a pure decision.

    `forms` stand in the order of their simplicity. `control` is the simplest form's speed over itself, with its
    interval: another counts as faster where its interval's lower bound is above LEAST_GAIN, and above how far the
    control strays from 1. The fastest of these is kept.
    """
    standing = [form for form in forms if form.failed is None]
    simplest = standing[0]
    if control is None:
        return Verdict(simplest.name, "the simplest graph; no other was timed")
    noise = max(control[2], 1 / control[1])
    bar = max(LEAST_GAIN, noise)
    faster = [form for form in standing[1:] if form.speed is not None and form.speed[1] > bar]
    if not faster:
        return Verdict(
            simplest.name, f"the simplest graph; none is faster by more than {bar - 1:.1%} (noise {noise - 1:.1%})"
        )
    best = max(faster, key=lambda form: (form.speed or (0.0,))[0])
    assert best.speed is not None
    ratio, low, high = best.speed
    return Verdict(best.name, f"{ratio:.2f}x the speed of the {simplest.name} graph ({low:.2f} to {high:.2f})")


def improve(
    plan: Plan,
    model_folder: Path,
    inputs: list[Any],
    exported: Model,
    out: Path,
    *,
    recipe: str | None = None,
    exporters: Sequence[str] = (),
) -> None:
    """Write the best form of the graphs `exported` into `out`, and beside them `graph.json`.

    Folding is always tried. With a `recipe` the fused graph and those of other `exporters` are tried as well, each
    timed as that recipe's variant of it: only where the target's architecture is this host's, since what is faster
    here says nothing of another CPU. A form that says something else than the export, or fails, is passed over.
    """
    task, target = plan.made_task, plan.target
    samples = task.encode(model_folder, inputs[:PARITY_ROWS], plan.student.survey.max_size)
    order, control = [FOLDED, EXPORTED], None  # the folded graph is the export with fewer operators
    asked = recipe if target.runs_here else None
    with tempfile.TemporaryDirectory(prefix="edgekd-graphs-") as name:
        bench = _Bench(plan, task, samples, Path(name))
        bench.add(EXPORTED, lambda _: exported)
        bench.add(FOLDED, lambda place: exported.changed(place, lambda _, file, to: fold(file, to, target))[0])
        if asked is not None:
            order += [FUSED, *exporters]
            config = _config(model_folder)
            bench.add(
                FUSED, lambda place: exported.changed(place, lambda _, file, to: fuse(file, to, target, config))[0]
            )
            for exporter in exporters:
                bench.add(exporter, partial(_export, plan, model_folder, exporter))
            control = bench.measure(asked, order)
        forms = [bench.forms[one] for one in order]
        verdict = choose(forms, control)
        bench.models[verdict.kept].copied(out)
    said = {
        **asdict(verdict),
        "recipe": asked,
        "control": control,
        "tried": [asdict(form) for form in forms],
        "threads": target.threads,
        "host": asdict(this_host()),
    }
    (out / GRAPH).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """What `improve` said of the model in that folder; None where it never ran."""
    file = folder / GRAPH
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def fold(model: Path, out: Path, target: Profile) -> Path:
    """Write the model with constants computed and dead nodes cut; nodes that stay keep their names.

    ONNX Runtime's basic level, saved: it knows no CPU's layouts and leaves standard operators. Raises
    RuntimeCannotLoad where ONNX Runtime refuses the model, or made operators of its own.
    """
    import onnx
    import onnxruntime as ort
    from onnxruntime.transformers.onnx_model import OnnxModel

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if external.has_data(model):
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "raw.onnx_data")
    with tempfile.TemporaryDirectory(prefix="edgekd-fold-") as folder:
        raw = Path(folder, "raw.onnx")
        options.optimized_model_filepath = str(raw)
        try:
            ort.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=_NOT_OFFLINE
            )
        except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
            raise RuntimeCannotLoad(
                f"ONNX Runtime cannot fold the model: {str(error).splitlines()[0]}",
                fix="export it again with an opset and IR version that this runtime knows",
            ) from error
        graph = external.load(raw)
    source = onnx.load(model, load_external_data=False)
    del graph.metadata_props[:]
    graph.metadata_props.extend(source.metadata_props)
    before = {node.domain for node in source.graph.node}
    if own := {node.domain for node in graph.graph.node} - before:
        raise RuntimeCannotLoad(
            f"folding made operators of {', '.join(sorted(own))}", fix="keep the graph as it was exported"
        )
    with quiet():
        OnnxModel(graph).prune_graph(allow_remove_graph_inputs=False)  # what leads to no output ONNX Runtime leaves
    _only_used_domains(graph)
    return finish(graph, out, target)


def fuse(model: Path, out: Path, target: Profile, config: Mapping[str, Any]) -> Path:
    """Write a transformer with attention, GELU and norms as ONNX Runtime's own operators (domain com.microsoft).

    `config` is the model's, as Hugging Face writes it. Raises EdgeKDError where the target's provider has no kernels
    for them, for a model of another type, and where nothing was found to fuse.
    """
    if target.execution_provider not in _FUSED_PROVIDERS:
        raise EdgeKDError(
            f"{target.execution_provider} has no kernels for fused operators", fix="keep the standard operators"
        )
    if config.get("model_type") not in _FUSIBLE:
        raise EdgeKDError(
            f"no fusion is known for the model type {config.get('model_type')!r}", fix="keep the standard operators"
        )
    heads = config.get("num_attention_heads") or config.get("n_heads")
    width = config.get("hidden_size") or config.get("dim")
    if not (isinstance(heads, int) and isinstance(width, int)):  # a config.json that somebody wrote for its class names
        raise EdgeKDError(
            "config.json names neither heads nor width, which fusing attention takes", fix="keep the standard operators"
        )
    from onnxruntime.transformers.optimizer import optimize_model

    try:
        with quiet():
            fused = optimize_model(str(model), "bert", num_heads=heads, hidden_size=width, opt_level=0)
    except Exception as error:  # it matches patterns, and fails in as many ways as there are graphs
        raise EdgeKDError(
            f"fusing failed: {type(error).__name__}: {error}", fix="keep the standard operators"
        ) from error
    if not any(fused.get_fused_operator_statistics().values()):
        raise EdgeKDError("the graph has nothing that could be fused", fix="keep the standard operators")
    _only_used_domains(fused.model)
    return finish(fused.model, out, target)


def _only_used_domains(graph: Any) -> None:
    """Name the operator sets that are used, no others: ONNX Runtime writes every one that it knows, fusing none."""
    import onnx

    known = {entry.domain: entry.version for entry in graph.opset_import}
    used = {"", *(node.domain for node in graph.graph.node), *(node.domain for node in graph.functions)}
    del graph.opset_import[:]
    graph.opset_import.extend(onnx.helper.make_opsetid(domain, known.get(domain, 1)) for domain in sorted(used))


def _export(plan: Plan, model_folder: Path, exporter: str, out: Path) -> Model:
    from edgekd.training import models

    return to_onnx(plan, models.load(model_folder, plan.task), exporter, out)


def _config(model_folder: Path) -> dict[str, Any]:
    file = model_folder / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


class _Bench:
    """The forms of one model in one temporary folder; the first that is added is the export that others must equal."""

    def __init__(self, plan: Plan, task: Any, samples: Sequence[Sample], folder: Path) -> None:
        self.plan, self.task, self.samples, self.folder = plan, task, samples, folder
        self.device, self.threads = make("devices", "local"), plan.target.threads
        self.models: dict[str, Model] = {}
        self.forms: dict[str, Form] = {}
        self.said: list[Prediction] | None = None

    def add(self, name: str, make_it: Callable[[Path], Model]) -> None:
        """Make a form in its own folder and hold it against the export; one that fails is noted with the reason."""
        import onnx

        begun = time.monotonic()
        try:
            place = self.folder / name
            place.mkdir()
            model = make_it(place)
            says = outputs(model, self.samples, threads=1, keep=self.task.keep)
            self.said = says if self.said is None else self.said
            difference = largest_difference(says, self.said)
            difference /= max(1.0, largest_value(self.said))
            if not difference < PARITY_LIMIT:
                raise RuntimeCannotLoad(
                    f"it differs from the export by {difference:.2g} on {len(says)} real inputs", fix="keep the export"
                )
        except EdgeKDError as error:
            if self.said is None:
                raise
            self.forms[name] = Form(name, took_s=time.monotonic() - begun, failed=error.message)
            return
        loaded = (onnx.load(file, load_external_data=False) for file in model.graphs.values())
        operators = sum(node.op_type != "Constant" for one in loaded for node in one.graph.node)
        self.models[name] = model
        self.forms[name] = Form(name, operators, difference, took_s=time.monotonic() - begun)

    def measure(self, recipe: str, order: Sequence[str]) -> tuple[float, float, float] | None:
        """Time the recipe's variants of all forms against the first of `order`, which is timed twice.

        Gives the first one's speed over itself, with its interval; None where it alone is left.
        """
        variants = {name: made for name in order if name in self.models and (made := self._variant(name, recipe))}
        if len(variants) < 2:
            return None
        samples = [self.samples[row % len(self.samples)] for row in range(_TIMED)]
        found = timing.speeds(self.device, variants, samples, threads=self.threads, rounds=_ROUNDS, seed=0)
        timed = self.folder / "timed.npz"
        pack(samples, timed)
        for name, made in variants.items():
            runs = [Benchmark(self.device, self.threads).footprint(made, timed) for _ in range(_LOADS)]
            self.forms[name] = replace(
                self.forms[name],
                speed=found[name][:3],
                load_ms=statistics.median(run.load_ms for run in runs if run.load_ms is not None),
                peak_rss_mib=statistics.median(run.peak_rss_mib[0] for run in runs),
            )
        return found[AGAIN][:3]

    def _variant(self, name: str, recipe: str) -> Model | None:
        """The recipe's variant of a form; None, with the reason noted, where it has none."""
        begun, place = time.monotonic(), self.folder / f"{name}.{recipe}"
        place.mkdir()
        quantizer = plugin("quantizers", recipe).for_target(self.plan.target)
        rows = GraphInputs(self.models[name], self.samples[:_CALIBRATION])
        try:
            made, _ = self.models[name].changed(
                place, lambda graph, file, out: quantizer.quantize(file, out, rows.of(graph))
            )
        except (EdgeKDError, RuntimeError, ValueError) as error:  # ONNX Runtime's quantizers raise the last two
            self.forms[name] = replace(self.forms[name], failed=f"{recipe}: {str(error).splitlines()[0]}")
            return None
        form = self.forms[name]
        self.forms[name] = replace(form, took_s=form.took_s + time.monotonic() - begun)
        return made
