"""Report: what was chosen and why, each figure with its kind, samples, interval and host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgekd.compression.choose import FP32
from edgekd.core.confidence import class_gains, evidence_says
from edgekd.core.errors import counted
from edgekd.core.floors import Floor
from edgekd.core.latency import is_stable
from edgekd.core.metrics import AGREEMENT, COSINE, Metric
from edgekd.core.protocols import MULTI_LABEL, PER_WORD
from edgekd.core.recall import best_constant, most_frequent, never_right, recall_says
from edgekd.core.results import this_host
from edgekd.core.statistics import Retained
from edgekd.data import transcripts
from edgekd.plan.plan import Plan
from edgekd.report.api import of_api
from edgekd.report.figures import decided, figures, line, prediction, suggested, sureness, target_figures
from edgekd.sizing import predictor

if TYPE_CHECKING:
    from edgekd.compression.choose import Choice
    from edgekd.hardware.latency_correction import Reading
    from edgekd.sizing.costs import Fit
    from edgekd.sizing.successive_halving import Tried

SCHEMA = 1
ONLY_LABELS = "all labels are the teacher's: without it there are none to train on"  # where it only answers


def compose(
    plan: Plan,
    fit: Fit | None,
    choice: Choice,
    found: dict[str, Any],
    measured: dict[str, Any],
    tried: Sequence[Tried] = (),
    guest: dict[str, Any] | None = None,
    confidence: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
    readings: Sequence[Reading] = (),
) -> dict[str, Any]:
    """The whole report as plain values; `summary` comes first. Pure: only its arguments decide, and the clock.

    `found` is what the search left: trials, Pareto front, whether it was stopped, a diagnosis. `confidence` and
    `training` are the student's files of these names; they and `fit` are None where the teacher itself is compressed.
    `evidence` has the `arms`, the whole objective first, the `control` without a teacher, and `n_test`.
    `readings` of real boards calibrate what is predicted for the target.
    """
    models, baseline, metric = measured["models"], measured["baseline"], plan.metric
    yardstick, shipped = models[measured["yardstick"]], models[choice.name]
    api, roles = of_api(plan, measured, choice.name), _roles(plan, measured)
    compared = shipped if api is None or api["compared"] is None else api["compared"]["student"]
    kept_of_teacher = Retained(compared["retained"], *compared["retained_interval"])
    retained = kept_of_teacher.value
    held = _held(plan, kept_of_teacher, roles["metric_value"], found)
    smaller = yardstick["artifact_mib"] / shipped["artifact_mib"]
    host = this_host()
    effect = {key: evidence["arms"][0][key] for key in ("difference", "low", "high", "seeds")} if evidence else None
    kept = kept_says(metric, shipped, roles["metric_value"], kept_of_teacher, roles["quality"])
    against = list(choice.against)
    if choice.forced and not held[0].held:
        against.append(f"{kept} on the held-out samples, {plan.min_retained:.1%} asked for")
    if choice.forced and shipped["latency_p50_ms"] > (plain_ms := models[FP32]["latency_p50_ms"]):
        against.append(
            f"slower than float32: {shipped['latency_p50_ms']:.2f} ms > {plain_ms:.2f} on the held-out samples"
        )
    where = "" if plan.has_yardstick else f" as {plan.compared_with}"
    where += "" if plan.target.runs_here else f" on this {host.arch} host"  # its speed is not the target's
    summary = {
        "verdict": f"{ships_says(choice)} {kept}, {shipped['speedup']:.2f}x as fast{where}, {smaller:.1f}x smaller",
        "task": plan.task,
        "target": plan.target.name,
        "metric": metric.name,
        "metric_unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "measured_on": f"{host.arch}, {host.cpu}",
        "distilled": fit is not None,
        "forced": choice.forced,
        "teacher": line(yardstick, "float32", plan) if api is None else _api_line(api),
        "compared_with": None if api is None else line(yardstick, plan.compared_with, plan),
        "shipped": line(shipped, choice.name, plan),
        "baseline": line(baseline, baseline["recipe"], plan) if baseline else None,
        "retained": retained,
        "retained_interval": [kept_of_teacher.low, kept_of_teacher.high],
        "speedup": shipped["speedup"],
        "smaller": smaller,
        "import_baseline_mib": shipped.get("import_baseline_mib"),
        "evidence": effect,
        "threshold": suggested(shipped["above"], plan),
        "columns": plan.data.columns,
        "counted": "span" if plan.made_task.problem_type == PER_WORD else "row",
        "never_right": never_right(measured["classes"], _of_teacher(plan, yardstick), shipped.get("recall", ())),
        "most_frequent": _constant(plan, measured, shipped["metric_interval"]),
        "ranking": shipped.get("ranking", []),
    }
    aa = measured["aa"]["ratio"]
    return {
        "summary": summary,
        "schema": SCHEMA,
        "quality": {"metric": metric.as_dict(), "fidelity": plan.made_task.fidelity.as_dict()},
        "roles": roles,
        "api": api,
        "name": plan.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "plan_sha256": plan.digest,
        "target_figures": target_figures(
            plan, fit, choice.name, shipped, measured["n_test"], guest, found["held_out"], readings
        ),
        "on_target": _on_target(found),
        "on_target_says": found["on_target_says"],
        "figures": {name: figures(values, plan) for name, values in models.items()},
        "latency_quantiles_ms": {name: values["latency_quantiles_ms"] for name, values in models.items()},
        "outputs": {name: values["outputs"] for name, values in models.items() if values.get("outputs")},
        "ranking": {name: values["ranking"] for name, values in models.items() if values.get("ranking")},
        "generation": {name: values["generation"] for name, values in models.items() if values.get("generation")},
        "hearing": hearing_says(plan, models),
        "baseline": baseline,
        "targets": {name: values["targets"] for name, values in models.items() if values.get("targets")},
        "confidence": sureness(plan, shipped, confidence),
        "thresholds": decided(plan, confidence),
        "classes": class_gains(measured["classes"], yardstick.get("recall", ()), shipped.get("recall", ()))
        | {"says": recall_says(summary)},
        "training": (training or {}) | {"says": training_says(plan, training)},
        "evidence": {
            "says": evidence_says(effect, distilled=fit is not None) if api is None else ONLY_LABELS,
            "arms": [],
            "control": None,
            "n_test": None,
        }
        | (evidence or {}),
        "price_per_hour": plan.price_per_hour,
        "aa": {"ratio": aa, "interval": measured["aa"]["ratio_interval"], "stable": is_stable(aa)},
        "choice": {
            "recipe": choice.name,
            "why": choice.why,
            "passed_over": choice.passed_over,
            "forced": choice.forced,
            "against": against,
        },
        "trials": found["trials"],
        "pareto": list(found["pareto"]),
        "search_stopped": found["stopped"],
        "search_says": search_says(found["stopped"], plan.search_limit_s),
        "diagnosis": found["diagnosis"],
        "graph": found.get("graph"),
        "fit": asdict(fit) if fit else None,
        "prediction": prediction(plan.student.family, fit, predictor.load(plan.student.family)) if fit else None,
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
            "held": [one.as_dict() for one in held],
        },
        "data": {
            "name": plan.data.name,
            "counts": plan.data.counts,
            "notes": list(plan.data.notes),
            "classes": len(plan.data.classes),
            "licence": plan.data.licence,
        },
        "teacher": {
            "name": plan.teacher.name,
            "ready": plan.teacher.ready,
            "licence": plan.teacher.licence,
            "sha256": plan.teacher.sha256,
            "words": plan.teacher.words,
            "checks": list(plan.teacher.checks),
            "used": teacher_used(plan),
        },
        "base": plan.base and {key: getattr(plan.base, key) for key in ("name", "words", "licence", "sha256")},
        "inputs": _inputs(plan),
        "golden": plan.golden,
        "host": asdict(host),
        "seed": plan.seed,
        "versions": plan.versions,
        "plugins": plan.plugins,
    }


def hearing_says(plan: Plan, models: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """How recordings were heard, by model, and how far that can be believed; None of models that hear nothing."""
    found = {name: values["hearing"] for name, values in models.items() if values.get("hearing")}
    if not found:
        return None
    count = plan.data.counts["test"]
    few = count < transcripts.FEW
    warning = f"{count} held-out recordings are too few for a claim: this is a smoke test. " if few else ""
    told = "The figures are of these recordings: on other speech (speakers, rooms, words) a model may hear much less."
    return {"models": found, "smoke_test": few, "says": warning + told}


def _roles(plan: Plan, measured: dict[str, Any]) -> dict[str, Any]:
    """What a teacher's three roles are filled by: who answers, where a student starts, what it is compared with.

    `quality` says whose metric is retained, with its `metric_value`; `yardstick` is a model of the report's figures.
    """
    asked, name = measured.get("answers"), measured["yardstick"]
    return {
        "answers": plan.teacher.name,
        "start": plan.start.name,
        "yardstick": name,
        "speed": plan.compared_with,
        "quality": "the teacher" if asked else plan.compared_with,
        "metric_value": asked["metric_value"] if asked else measured["models"][name]["metric_value"],
    }


def _of_teacher(plan: Plan, yardstick: dict[str, Any]) -> list[float | None]:
    """The teacher's recall of each class; unknown of one that only answers."""
    recall: list[float | None] = list(yardstick.get("recall", ()))
    return recall if plan.has_yardstick else [None] * len(recall)


def _api_line(api: dict[str, Any]) -> dict[str, Any]:
    """A teacher behind an API in the summary: its size and memory are nobody's to know."""
    return {
        "metric_value": api["compared"] and api["compared"]["metric_value"],
        "latency_p50_ms": api["latency_p50_ms"],
        "peak_rss_mib": None,
        "artifact_mib": None,
        "cost_per_million_usd": api["million_usd"],
        "recipe": f"{api['model']}, an API",
    }


def teacher_used(plan: Plan) -> str:
    """How the teacher came to teach."""
    if not plan.has_yardstick:
        return "it only answers: its answers were kept"
    return "used as it was" if plan.teacher.ready else "trained on the labelled rows"


def _constant(plan: Plan, measured: dict[str, Any], interval: Sequence[float]) -> dict[str, Any] | None:
    """The one answer for all rows that is right most often; of spans there is none."""
    if plan.made_task.problem_type == PER_WORD:
        return None
    if plan.made_task.problem_type == MULTI_LABEL:
        return best_constant(measured["classes"], measured["n_test"], interval)
    return most_frequent(measured["classes"], interval)


def _on_target(found: dict[str, Any]) -> dict[str, Any] | None:
    """What the target's own kernels and core showed; None where they were not asked."""
    there = found["on_target"]
    if not there:
        return None
    costs = {key: there[key] for key in ("cost", "cost_note", "cost_n")}
    selection = {key: there[key] for key in ("n", "of", "seconds", "trials", "agreement_here", "agreement_there")}
    return {
        "cpu": there["cpu"],
        "emulated": "user",
        "host": there["host"],
        "selection": selection,
        "held_out": found["held_out"],
        **costs,
    }


def ships_says(choice: Choice) -> str:
    """How the verdict begins: the variant; why none but fp32, or what was overruled to ship it."""
    if choice.forced:
        against = (
            f"against the guard ({'; '.join(choice.against)})"
            if choice.against
            else "though no floor or budget bars it"
        )
        return f"FORCED: ships as {choice.name} {against}:"
    return f"ships as {choice.name}:" + (f" {choice.why};" if choice.name == FP32 else "")


def kept_says(
    metric: Metric, shipped: dict[str, Any], teacher: float, kept: Retained, whom: str = "the teacher"
) -> str:
    """What is left of the teacher, with its interval; where the metric is against the teacher itself, that figure."""
    value, span = metric.spell(shipped["metric_value"]), metric.span(shipped["metric_interval"]).replace(" to ", ", ")
    if metric == AGREEMENT:
        return f"agrees with {whom} on {value} [{span}] of the samples"
    if metric.of_teacher and metric != COSINE:
        return f"has {value} [{span}] {metric.of_teacher} {whom}"
    if metric.of_teacher:
        return f"mean {metric.name} {value} [{span}] to {whom}"
    return metric.kept_says(shipped["metric_value"], teacher, kept, whom)


def _held(plan: Plan, kept: Retained, teacher: float, found: dict[str, Any]) -> list[Floor]:
    """The floor of what is retained: on this host's kernels, and on the target's where those were asked."""
    made = [Floor("min_retained", plan.min_retained, kept.value, (kept.low, kept.high))]
    if there := found["held_out"]:
        own = plan.metric.retained_elsewhere(kept, teacher, there["moved"], tuple(there["moved_interval"]))
        made.append(Floor("min_retained_on_target", plan.min_retained, own.value, (own.low, own.high)))
    return made


def search_says(stopped: str | None, limit_s: float) -> str:
    """That the search was stopped, and what goes on with it; empty where it ended by itself."""
    if stopped is None:
        return ""
    if stopped == "interrupted":
        return (
            "The search was interrupted: this is the best that it had by then. The same command with another --out "
            "goes on where it was."
        )
    return (
        f"The search ended at its time limit, {limit_s:g} s: this is the best that it had by then. A larger "
        "--time-limit tries more."
    )


def training_says(plan: Plan, told: dict[str, Any] | None) -> str:
    """How the model came to be, in a sentence or two, from the student's training.json."""
    if plan.compresses_only:
        return f"{evidence_says(None, distilled=False).capitalize()}."
    if told is None:
        return "Nothing was trained here."
    losses = " + ".join(map(str, plan.student.losses))
    if plan.writes:
        return _written_says(losses, told)
    copies = f", with {', '.join(map(str, plan.student.augmentations))} of each" if plan.student.augmentations else ""
    share = told.get("selection_accuracy", told.get("selection_agreement"))
    kept = f"epoch {told['kept_epoch']} of {told['epochs']} was kept"
    judged = "right on" if "selection_accuracy" in told else "agreeing with the teacher on"
    reached = f"{judged} {share:.1%} of the selection rows"
    if plan.selected_by.reduce is not None:
        own = plan.selected_by.name if "selection_accuracy" in told else f"{plan.selected_by.of_teacher} the teacher"
        reached = f"{own} {share:.1%} on the selection rows"
    says = f"Taught by {losses} on {counted(told['rows'], 'row')}{copies}; {kept}, {reached}."
    exits = ", ".join(f"after layer {layer} {share:.1%}" for layer, share in told["of_exits"].items())
    return says + (f" Its early exits: {exits}; `--exit LAYER` ships one." if exits else "")


def _written_says(losses: str, told: dict[str, Any]) -> str:
    """How a model that writes came to be, from its training.json."""
    lessons = told["lessons"]["train"]
    others = [f"{count} {name}" for name, count in lessons.items() if name not in ("kept", "followed") and count]
    left_out = f"; left out: {', '.join(others)}" if others else ""
    return (
        f"Cut from its teacher and taught by {losses} on {told['rows']:,} inputs: {lessons.get('followed', 0):,} by "
        f"their own texts, the others by what the teacher wrote about them{left_out}. Epoch {told['kept_epoch']} of "
        f"{told['epochs']} was kept, by its loss on the selection rows."
    )


def _inputs(plan: Plan) -> str:
    """What the model takes, for a reader."""
    survey, unit = plan.student.survey, plan.made_task.unit
    if unit == "tokens":
        if plan.made_task.program == "causal":
            return f"texts up to a context of {survey.max_size} {unit}, which are scored and gone on from"
        known = f"{survey.vocabulary:,} tokens known; " if survey.vocabulary else ""
        return f"{known}texts are cut at {survey.max_size} {unit}"
    channels = f", {survey.channels} channel" + ("s" if survey.channels > 1 else "")
    return f"inputs of {survey.max_size} {unit}{channels}"
