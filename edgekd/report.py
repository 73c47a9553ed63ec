"""Report: what was chosen and why, each figure with its kind, samples, interval and host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import predictor
from edgekd.core.confidence import BINS, WANTED, class_gains, evidence_says, scaling_says, threshold_says
from edgekd.core.registry import plugin
from edgekd.core.results import Figure, this_host
from edgekd.core.roofline import predict_latency
from edgekd.plan import Plan
from edgekd.predictor import Predictor

if TYPE_CHECKING:
    from edgekd.choose import Choice, Trial
    from edgekd.costs import Fit
    from edgekd.tryout import Tried

SCHEMA = 1
AA_LIMIT = 0.01  # a median A/A ratio further from 1 is called unstable


def compose(
    plan: Plan,
    fit: Fit,
    choice: Choice,
    trials: list[Trial],
    measured: dict[str, Any],
    tried: Sequence[Tried] = (),
    guest: dict[str, Any] | None = None,
    confidence: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole report as plain values; `summary` comes first. Pure: only its arguments decide, and the clock.

    `confidence` and `training` are the student's files of these names. `evidence` has the
    `arms`, the whole objective first, the `control` without a teacher, and `n_test`.
    """
    models = measured["models"]
    teacher, shipped = models["teacher"], models[choice.recipe]
    task = plugin("tasks", plan.task)
    metric = task.metric
    retained = shipped["metric_value"] / teacher["metric_value"] if teacher["metric_value"] else 0.0
    smaller = teacher["artifact_mib"] / shipped["artifact_mib"]
    host = this_host()
    effect = {key: evidence["arms"][0][key] for key in ("difference", "low", "high", "seeds")} if evidence else None
    summary = {
        "verdict": f"ships as {choice.recipe}: keeps {retained:.1%} of the teacher's {metric}, "
        f"{shipped['speedup']:.2f}x as fast, {smaller:.1f}x smaller",
        "task": plan.task,
        "target": plan.target.name,
        "metric": metric,
        "measured_on": f"{host.arch}, {host.cpu}",
        "teacher": _line(teacher, "float32", plan),
        "shipped": _line(shipped, choice.recipe, plan),
        "baseline": _line(measured["baseline"], measured["baseline"]["recipe"], plan),
        "retained": retained,
        "speedup": shipped["speedup"],
        "smaller": smaller,
        "evidence": effect,
        "threshold": _suggested(shipped["above"]),
    }
    aa = measured["aa"]["ratio"]
    return {
        "summary": summary,
        "schema": SCHEMA,
        "name": plan.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "plan_sha256": plan.digest,
        "target_figures": target_figures(plan, fit, choice, shipped, measured["n_test"], guest),
        "figures": {name: figures(values, plan, metric) for name, values in models.items()},
        "baseline": measured["baseline"],
        "confidence": sureness(plan, shipped, confidence),
        "classes": class_gains(measured["classes"], teacher["recall"], shipped["recall"]),
        "training": (training or {}) | {"says": training_says(plan, training)},
        "evidence": {"says": evidence_says(effect), "arms": [], "control": None, "n_test": None} | (evidence or {}),
        "price_per_hour": plan.price_per_hour,
        "aa": {"ratio": aa, "interval": measured["aa"]["ratio_interval"], "stable": abs(aa - 1) <= AA_LIMIT},
        "choice": {"recipe": choice.recipe, "why": choice.why, "passed_over": choice.passed_over},
        "trials": [asdict(trial) for trial in trials],
        "fit": asdict(fit),
        "prediction": prediction(plan.student.family, fit, predictor.load()),
        "tried": [asdict(run) for run in tried],
        "budgets": {
            key: getattr(plan.target, key)
            for key in ("memory_mib", "artifact_mib", "latency_ms", "latency_percentile", "cold_start_ms")
        },
        "min_speedup": plan.student.min_speedup,
        "floors": {
            "min_retained": plan.min_retained,
            "max_drop_points": plan.target.max_drop_points,
            "min_teacher_agreement": plan.target.min_teacher_agreement,
        },
        "data": {
            "name": plan.data.name, "counts": plan.data.counts, "notes": list(plan.data.notes),
            "classes": len(plan.data.classes), "licence": plan.data.licence,
        },
        "teacher": {
            "name": plan.teacher.name, "ready": plan.teacher.ready, "licence": plan.teacher.licence,
            "sha256": plan.teacher.sha256, "words": plan.teacher.words,
        },
        "inputs": _inputs(plan),
        "golden": plan.golden,
        "host": asdict(host),
        "seed": plan.seed,
        "versions": plan.versions,
    }  # fmt: skip


def training_says(plan: Plan, told: dict[str, Any] | None) -> str:
    """How the student came to be, in a sentence or two, from its training.json."""
    if told is None:
        return "Nothing was trained here."
    losses = " + ".join(map(str, plan.student.losses))
    copies = f", with {', '.join(map(str, plan.student.augmentations))} of each" if plan.student.augmentations else ""
    judged = "right" if "selection_accuracy" in told else "agreeing with the teacher"
    share = told.get("selection_accuracy", told.get("selection_agreement"))
    kept = f"epoch {told['kept_epoch']} of {told['epochs']} was kept"
    says = (
        f"Taught by {losses} on {told['rows']:,} rows{copies}; {kept}, {judged} on {share:.1%} of the selection rows."
    )
    exits = ", ".join(f"after layer {layer} {share:.1%}" for layer, share in told["of_exits"].items())
    return says + (f" Its early exits: {exits}; `--exit LAYER` ships one." if exits else "")


def prediction(family: str, fit: Fit, known: Predictor) -> dict[str, Any]:
    """Predicted against measured: every anchor of the family, and the finalists of this build.

    For memory (MiB) and latency (ms here): points as [measured, predicted, whether it is a finalist], and the 90th
    percentile of the anchors' relative error, each predicted by a fit that never saw it.
    """
    recipe = fit.chosen.recipe
    finalists = [cost for cost in fit.candidates if cost.kind == "measured" and cost.recipe == recipe]
    said: dict[str, Any] = {"recipe": recipe, "anchors": fit.anchors, "n": len(known.checked(family, recipe))}
    for figure, anchor, unit in (("memory_mib", "memory_mib", 1.0), ("latency_ms", "latency_ratio", fit.reference_ms)):
        points = [[unit * one[anchor][0], unit * one[anchor][1], False] for one in known.checked(family, recipe)]
        points += [[getattr(cost, figure), cost.predicted[figure], True] for cost in finalists]
        said[figure] = {"p90": fit.errors[recipe][anchor], "points": points}
    return said


def _inputs(plan: Plan) -> str:
    """What the student takes, for a reader."""
    survey, unit = plan.student.survey, plugin("tasks", plan.task).unit
    if survey.vocabulary:
        return f"{survey.vocabulary:,} tokens known; texts are cut at {survey.max_size} {unit}"
    channels = f", {survey.channels} channel" + ("s" if survey.channels > 1 else "")
    return f"inputs of {survey.max_size} {unit}{channels}"


def _line(values: dict[str, Any], recipe: str, plan: Plan) -> dict[str, Any]:
    keys = ("metric_value", "latency_p50_ms", "peak_rss_mib", "artifact_mib")
    latency = values.get("latency_p50_ms")
    cost = None if latency is None else cost_per_million(latency, plan.price_per_hour)
    return {key: values.get(key) for key in keys} | {"cost_per_million_usd": cost, "recipe": recipe}


def cost_per_million(latency_ms: float, price_per_hour: float) -> float:
    """US dollars for a million queries, one after the other, on a device at that price."""
    return 1e6 * latency_ms / 3.6e6 * price_per_hour


def sureness(plan: Plan, shipped: dict[str, Any], scaling: dict[str, Any] | None) -> dict[str, Any]:
    """The temperature that was folded in, and the suggested threshold with what it gives on the held-out samples."""
    said: dict[str, Any] = {
        "scaling": scaling, "judged_by": "labels" if plan.data.selection_labelled else "teacher", "wanted": WANTED,
        "suggestion": None, "coverage": None, "accuracy": None,
    }  # fmt: skip
    above, n, host = shipped["above"], shipped["n"], this_host().name
    if above is not None:
        coverage = Figure(above["coverage"], "fraction", "measured", "held-out samples answered at that confidence", n,
                          tuple(above["coverage_interval"]), host)  # fmt: skip
        accuracy = Figure(above["accuracy"], "fraction", "measured", "of those, the right ones", above["n"],
                          tuple(above["accuracy_interval"]) if above["n"] else None, host)  # fmt: skip
        said |= {"suggestion": above["suggestion"], "coverage": coverage.as_dict(), "accuracy": accuracy.as_dict()}
    said["says"] = threshold_says(said, shipped["metric_value"], plan.data.counts["selection"])
    said["scaling_says"] = scaling_says(scaling)
    return said


def _suggested(above: dict[str, Any] | None) -> dict[str, Any] | None:
    """The threshold in short, coverage and accuracy as measured."""
    if above is None:
        return None
    return {"threshold": above["suggestion"]["threshold"], "coverage": above["coverage"], "accuracy": above["accuracy"]}


def figures(values: dict[str, Any], plan: Plan, metric: str) -> dict[str, Any]:
    """One model's figures as measured on this host."""
    host = this_host().name
    threads = f"{plan.target.threads} thread" + ("s" if plan.target.threads > 1 else "")
    timing = f"ONNX Runtime, batch 1, {threads}, unpadded held-out samples, interleaved, each run warm"
    task, longest = plugin("tasks", plan.task), values["longest"]
    at = f"at {min(task.headline_size, longest)} {task.unit}"
    peak = f"VmHWM of a fresh process less its import baseline, {at}"

    def measured(value: float | None, unit: str, how: str, n: int, span: Any = None) -> dict[str, Any]:
        return Figure(value, unit, "measured", how, n, tuple(span) if span else None, host).as_dict()

    price = plan.price_per_hour
    cost, low, high = (cost_per_million(ms, price) for ms in (values["latency_p50_ms"], *values["latency_interval"]))
    dear = Figure(cost, "USD", "predicted", f"a million queries one by one, each of this host's median latency, at "
                  f"${price:g} an hour (declared)", values["latency_n"], (low, high), host)  # fmt: skip
    points = (f"{metric} in points against the teacher, paired", values["n"], values["difference_interval"])
    return {
        metric: measured(values["metric_value"], "fraction", "held-out samples, one by one", values["n"],
                         values["metric_interval"]),
        "agreement": measured(values["agreement"], "fraction", "same class as the teacher, held-out samples",
                              values["n"], values["agreement_interval"]),
        "difference": measured(values["difference_points"], "points", *points),
        "ece": measured(values["ece"], "fraction", f"expected calibration error, {BINS} bins of the top class's "
                        "probability, held-out samples", values["n"], values["ece_interval"]),
        "latency_p50": measured(values["latency_p50_ms"], "ms", timing, values["latency_n"],
                                values["latency_interval"]),
        "latency_p90": measured(values["latency_p90_ms"], "ms", timing, values["latency_n"]),
        "speedup": measured(values["speedup"], "x", "teacher's median over this one's, same run",
                            values["latency_n"], values["ratio_interval"]),
        "peak_rss": measured(values["peak_rss_mib"], "MiB", peak, 3, values["peak_rss_interval"]),
        "peak_rss_longest": measured(values["peak_rss_longest_mib"], "MiB",
                                     f"the same at {longest} {task.unit}", 3),
        "cold_start": measured(values["cold_start_ms"], "ms", "process start to first output, median", 3),
        "artifact": measured(values["artifact_mib"], "MiB", "size of the ONNX file", 1),
        "cost_per_million": dear.as_dict(),
    }  # fmt: skip


def target_figures(
    plan: Plan, fit: Fit, choice: Choice, shipped: dict[str, Any], n: int, guest: dict[str, Any] | None
) -> dict[str, Any]:
    """What holds for the target itself: measured only where this host has its architecture, or a guest has."""
    target, host = plan.target, this_host()
    artifact = Figure(shipped["artifact_mib"], "MiB", "measured", "size of the ONNX file", 1, None, host.name)
    if target.runs_here:
        how = f"on this host, of the target's architecture ({host.arch})"
        latency = Figure(shipped["latency_p50_ms"], "ms", "measured", how, shipped["latency_n"],
                         tuple(shipped["latency_interval"]), host.name)  # fmt: skip
        memory = Figure(shipped["peak_rss_mib"], "MiB", "measured", how, 3, None, host.name)
        accuracy = Figure(shipped["metric_value"], "fraction", "measured", how, n, tuple(shipped["metric_interval"]),
                          host.name)  # fmt: skip
    else:
        shape = plugin("students", plan.student.family)(**fit.chosen.shape)
        if plan.student.exit is not None:
            shape = shape.exit_shape(plan.student.exit - 1)
        latency = predict_latency(shape.work(plan.student.survey.typical), target, choice.recipe)
        how = f"peak RSS on {host.arch}; packing and allocator differ on {target.arch}"
        memory = Figure(shipped["peak_rss_mib"], "MiB", "predicted", how, 3, None, host.name)
        if guest is not None:
            peaks = guest["peak_rss_mib"]
            how = "highest of fresh processes in an arm64 guest (full-system emulation), above the import baseline"
            memory = Figure(max(peaks), "MiB", "measured", how, len(peaks), (min(peaks), max(peaks)), guest["host"])
        accuracy = Figure(shipped["metric_value"], "fraction", "predicted",
                          f"measured on {host.arch} kernels; int8 outputs differ on {target.arch}", n,
                          tuple(shipped["metric_interval"]), host.name)  # fmt: skip
    named = {"accuracy": accuracy, "latency_p50": latency, "peak_rss": memory, "artifact": artifact}
    return {name: figure.as_dict() for name, figure in named.items()}


def read(folder: Path) -> dict[str, Any]:
    """The report of a finished bundle."""
    said: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return said


def write(said: dict[str, Any], folder: Path) -> None:
    """Write report.json, report.md and the self-contained report.html."""
    text = json.dumps(said, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(name, said), encoding="utf-8")


def render(name: str, said: dict[str, Any]) -> str:
    """A template of `templates/` filled with the report's values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["sig"] = _significant
    environment.filters["log10"] = log10
    text: str = environment.get_template(f"{name}.j2").render(report=said, **said)
    return text


def _significant(value: float | None, digits: int = 3) -> str:
    """A number for reading: three significant digits, never in exponents; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in text or abs(value) >= 10**digits else text
