"""Figures: what was measured, predicted or declared of each model, and of what ships for its target."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING, Any

from edgekd.core.confidence import BINS, WANTED, scaling_says, threshold_says
from edgekd.core.protocols import MULTI_LABEL
from edgekd.core.results import IMPORT_BASELINE_MIB, Figure, Kind, this_host
from edgekd.core.thresholds import thresholds_say
from edgekd.hardware.latency_correction import Reading
from edgekd.hardware.roofline import predict_latency, work_of
from edgekd.plan.plan import Plan
from edgekd.sizing.predictor import Predictor

if TYPE_CHECKING:
    from edgekd.sizing.costs import Fit


def cost_per_million(latency_ms: float, price_per_hour: float) -> float:
    """US dollars for a million queries, one after the other, on a device at that price."""
    return 1e6 * latency_ms / 3.6e6 * price_per_hour


def line(values: dict[str, Any] | None, recipe: str, plan: Plan) -> dict[str, Any] | None:
    """A model in the summary; None where there is no such model."""
    if values is None:
        return None
    keys = ("metric_value", "latency_p50_ms", "peak_rss_mib", "artifact_mib")
    latency = values.get("latency_p50_ms")
    cost = None if latency is None else cost_per_million(latency, plan.price_per_hour)
    return {key: values.get(key) for key in keys} | {"cost_per_million_usd": cost, "recipe": recipe}


def figures(values: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """One model's figures as measured on this host."""
    host, metric = this_host().name, plan.metric
    threads = f"{plan.target.threads} thread" + ("s" if plan.target.threads > 1 else "")
    timing = f"ONNX Runtime, batch 1, {threads}, unpadded held-out samples, interleaved, each run warm"
    task, longest = plan.made_task, values["longest"]
    at = f"at {min(task.headline_size, longest)} {task.unit}"
    peak = f"VmHWM of a fresh process {_above_baseline(values)}, {at}"

    def measured(value: float | None, unit: str, how: str, n: int, span: Any = None) -> dict[str, Any]:
        return Figure(value, unit, "measured", how, n, tuple(span) if span else None, host).as_dict()

    def upper(percent: int) -> dict[str, Any]:
        value, note = values[f"latency_p{percent}_ms"], values["latency_notes"][str(percent)]
        kind: Kind = "unknown" if value is None else "measured"
        how = note if value is None else f"{timing}, {note}"
        return Figure(value, "ms", kind, how, values["latency_n"], None, host).as_dict()

    price = plan.price_per_hour
    cost, low, high = (cost_per_million(ms, price) for ms in (values["latency_p50_ms"], *values["latency_interval"]))
    dear = Figure(
        cost,
        "USD",
        "predicted",
        f"a million queries one by one, each of this host's median latency, at ${price:g} an hour (declared)",
        values["latency_n"],
        (low, high),
        host,
    )
    direction = "" if metric.higher_is_better else ", above 0 where it is better: less"
    whom = plan.compared_with
    against = f"{metric.name} in points against {whom}, paired{direction}"
    points = (against, values["n"], values["difference_interval"])
    agreed = (
        f"same class as {whom}, held-out samples"
        if task.one_of_classes
        else (
            f"{task.fidelity.of_teacher} {whom}'s, mean over the held-out samples"
            if task.fidelity.reduce is None
            else f"{task.fidelity.of_teacher} {whom}, held-out samples"
        )
    )
    return {
        metric.name: measured(
            values["metric_value"], metric.unit, "held-out samples, one by one", values["n"], values["metric_interval"]
        ),
        "agreement": measured(
            values["agreement"], task.fidelity.unit, agreed, values["n"], values["agreement_interval"]
        ),
        "difference": measured(values["difference_points"], "points", *points),
        "ece": measured(
            values["ece"],
            "fraction",
            f"expected calibration error, {BINS} bins of the top class's probability, held-out samples",
            values["n"],
            values["ece_interval"],
        ),
        "latency_p50": measured(
            values["latency_p50_ms"], "ms", timing, values["latency_n"], values["latency_interval"]
        ),
        "latency_p90": upper(90),
        "latency_p99": upper(99),
        "speedup": measured(
            values["speedup"],
            "x",
            f"{whom.removeprefix('the ')}'s median over this one's, same run",
            values["latency_n"],
            values["ratio_interval"],
        ),
        "peak_rss": measured(values["peak_rss_mib"], "MiB", peak, 3, values["peak_rss_interval"]),
        "peak_rss_longest": measured(values["peak_rss_longest_mib"], "MiB", f"the same at {longest} {task.unit}", 3),
        "cold_start": measured(values["cold_start_ms"], "ms", "process start to first output, median", 3),
        "artifact": measured(values["artifact_mib"], "MiB", _size_says(plan), 1),
        "cost_per_million": dear.as_dict(),
    }


def target_figures(
    plan: Plan,
    fit: Fit | None,
    name: str,
    shipped: dict[str, Any],
    n: int,
    guest: dict[str, Any] | None,
    held_out: dict[str, Any] | None = None,
    readings: Sequence[Reading] = (),
) -> dict[str, Any]:
    """What holds for the target itself: measured only where this host has its architecture, or an emulator has.

    `name` is the variant's, `accuracy` the plan's metric on `n` held-out samples, `guest` what an arm64 guest showed,
    `held_out` what the target's own kernels answered to some of them, `readings` what real boards took.
    """
    target, host, unit = plan.target, this_host(), plan.metric.unit
    artifact = Figure(shipped["artifact_mib"], "MiB", "measured", _size_says(plan), 1, None, host.name)
    if target.runs_here:
        how = f"on this host, of the target's architecture ({host.arch})"
        latency = Figure(
            shipped["latency_p50_ms"],
            "ms",
            "measured",
            how,
            shipped["latency_n"],
            tuple(shipped["latency_interval"]),
            host.name,
        )
        above = f"{how}, {_above_baseline(shipped)}"
        memory = Figure(shipped["peak_rss_mib"], "MiB", "measured", above, 3, None, host.name)
        accuracy = Figure(
            shipped["metric_value"], unit, "measured", how, n, tuple(shipped["metric_interval"]), host.name
        )
    else:
        latency = _latency_elsewhere(plan, fit, name, readings)
        how = f"peak RSS on {host.arch}, {_above_baseline(shipped)}; packing and allocator differ on {target.arch}"
        memory = Figure(shipped["peak_rss_mib"], "MiB", "predicted", how, 3, None, host.name)
        if guest is not None:
            peaks = guest["peak_rss_mib"]
            how = "highest of fresh processes in an arm64 guest (full-system emulation), above the import baseline"
            memory = Figure(max(peaks), "MiB", "measured", how, len(peaks), (min(peaks), max(peaks)), guest["host"])
        accuracy = Figure(
            shipped["metric_value"],
            unit,
            "predicted",
            f"measured on {host.arch} kernels; int8 outputs differ on {target.arch}",
            n,
            tuple(shipped["metric_interval"]),
            host.name,
        )
        if held_out is not None:
            how = (
                f"{target.arch} kernels, user-mode emulation: {held_out['n']} of {held_out['of']} held-out samples, "
                f"stratified; the same ones on {host.arch}: {plan.metric.spell(held_out['here'])}"
            )
            accuracy = Figure(
                held_out["value"], unit, "measured", how, held_out["n"], tuple(held_out["interval"]), held_out["host"]
            )
    named = {"accuracy": accuracy, "latency_p50": latency, "peak_rss": memory, "artifact": artifact}
    return {name: figure.as_dict() for name, figure in named.items()}


def _size_says(plan: Plan) -> str:
    return "size of the ONNX file" + ("s" if len(plan.made_task.graphs) > 1 else "")


def _above_baseline(values: dict[str, Any]) -> str:
    """What peak memory leaves out, in words: what the process takes once numpy and ONNX Runtime are imported."""
    base = values.get("import_baseline_mib")
    return f"above the import baseline ({f'{base:.0f}' if base else f'about {IMPORT_BASELINE_MIB}'} MiB)"


def _latency_elsewhere(plan: Plan, fit: Fit | None, name: str, readings: Sequence[Reading]) -> Figure:
    """Of a student's shape by its arithmetic; what a teacher that ships itself takes is not known on paper."""
    if fit is None:
        return Figure(None, "ms", "unknown", "no student, no shape to reckon with: unknown until it runs there", n=0)
    work = work_of(plan.student.family, fit.chosen.shape, plan.student.exit, plan.student.survey.typical)
    return predict_latency(work, plan.target, name, readings)


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


def sureness(plan: Plan, shipped: dict[str, Any], scaling: dict[str, Any] | None) -> dict[str, Any] | None:
    """The temperature that was folded in, and the suggested threshold with what it gives on the held-out samples.

    None where the outputs are no classes: an embedding has no certainty.
    """
    if not plan.made_task.one_of_classes:
        return None
    said: dict[str, Any] = {
        "scaling": scaling,
        "judged_by": "labels" if plan.data.selection_labelled else "teacher",
        "tested_by": "labels" if plan.data.test_labelled else "teacher",
        "wanted": WANTED,
        "suggestion": None,
        "coverage": None,
        "accuracy": None,
        "missed": None,
    }
    above, n, host = shipped["above"], shipped["n"], this_host().name
    if above is not None:
        right = "the right ones" if plan.data.test_labelled else "those that are the teacher's too"
        coverage = Figure(
            above["coverage"],
            "fraction",
            "measured",
            "held-out samples answered at that confidence",
            n,
            tuple(above["coverage_interval"]),
            host,
        )
        accuracy = Figure(
            above["accuracy"],
            "fraction",
            "measured",
            f"of those, {right}",
            above["n"],
            tuple(above["accuracy_interval"]) if above["n"] else None,
            host,
        )
        if delivers(above, plan):
            said |= {"suggestion": above["suggestion"], "coverage": coverage.as_dict(), "accuracy": accuracy.as_dict()}
        else:
            said["missed"] = accuracy.as_dict()
    said["says"] = threshold_says(said, shipped["metric_value"], plan.data.counts["selection"])
    said["scaling_says"] = scaling_says(scaling)
    return said


def decided(plan: Plan, chosen: dict[str, Any] | None) -> dict[str, Any] | None:
    """Where each of several labels is decided, by name, and how that was chosen; None where one class is right.

    `chosen` is the student's confidence.json; None where nothing was trained, and the model decides as it came.
    """
    if plan.made_task.problem_type != MULTI_LABEL:
        return None
    found: dict[str, Any] = {"says": thresholds_say(chosen), "labels": [], "fitted_on": None}
    if chosen is None:
        return found
    few = set(chosen["kept_half"])
    rows = zip(plan.data.classes, chosen["logits"], chosen["positives"], strict=True)
    labels = [
        {"name": name, "probability": 1 / (1 + exp(-logit)), "positives": positives, "few": number in few}
        for number, (name, logit, positives) in enumerate(rows)
    ]
    return found | {"labels": labels, "fitted_on": chosen["fitted_on"]}


def delivers(above: dict[str, Any], plan: Plan) -> bool:
    """Whether the held-out samples leave a suggested threshold's promise standing: its interval reaches what is wanted.

    Where labels judge one and the teacher the other, they cannot tell.
    """
    if plan.data.selection_labelled != plan.data.test_labelled or not above["n"]:
        return True
    return bool(above["accuracy_interval"][1] >= WANTED)


def suggested(above: dict[str, Any] | None, plan: Plan) -> dict[str, Any] | None:
    """The threshold in short, coverage and accuracy as measured; None where it does not deliver what it promised."""
    if above is None or not delivers(above, plan):
        return None
    return {"threshold": above["suggestion"]["threshold"], "coverage": above["coverage"], "accuracy": above["accuracy"]}
