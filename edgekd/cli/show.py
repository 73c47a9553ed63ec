"""Text for the terminal: the plan, the fit table, profiles, the summary of a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from edgekd.cli.printing import one_line
from edgekd.core.confidence import evidence_says
from edgekd.core.errors import counted, listed
from edgekd.core.protocols import MULTI_LABEL, REGRESSION
from edgekd.core.recall import baseline_says, recall_says
from edgekd.core.results import IMPORT_BASELINE_MIB

if TYPE_CHECKING:
    from edgekd.build_targets import BuiltTargets
    from edgekd.core.protocols import Check
    from edgekd.hardware.profile import Profile
    from edgekd.plan.plan import Plan, SharedPlan
    from edgekd.sizing.costs import Fit

_MOST_COLUMNS = 8  # that are named


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns padded to their widest cell; a cell is one line, whatever a name in it holds."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    header = [one_line(cell) for cell in header]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def plan(made: Plan) -> str:
    """Every choice, in the order of the stages."""
    own = _target(made)
    last = (
        "run",
        f"seed {made.seed}, {counted(made.threads, 'thread')} for training, {made.target.threads} for measuring; plan "
        f"{made.digest[:12]}",
    )
    return _lines([own[0], *_shared(made), *own[1:], _ships(made), last])


def shared_plan(made: SharedPlan) -> str:
    """What holds for every target."""
    run = (
        "run",
        f"seed {made.seed}, {counted(made.threads, 'thread')} for training; shared part {made.shared_digest[:12]}",
    )
    return _lines([*_shared(made), _ships(made), run])


def target_plan(made: Plan) -> str:
    """What holds for one target alone."""
    plan = ("plan", f"{made.digest[:12]}, of the shared part and this target's, {made.target_digest[:12]}")
    return _lines([*_target(made), plan])


def _lines(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<9} {one_line(text)}" for name, text in rows)


def _shared(made: SharedPlan) -> list[tuple[str, str]]:
    """The teacher, the rows, and how the student comes to be."""
    teacher, data, survey = made.teacher, made.data, made.student.survey
    counts = ", ".join(f"{count} {role}" for role, count in data.counts.items())
    inputs = f"{survey.max_size} {made.made_task.unit}"
    inputs += f", {survey.channels} channels" if survey.channels > 1 else ""
    inputs += f", vocabulary trimmed to {survey.vocabulary}" if survey.vocabulary else ""
    how = (
        "its answers are kept"
        if not made.has_yardstick
        else (
            f"trained on the labels: {teacher.training.epochs} epochs of {teacher.training.batch_size} at "
            f"{teacher.training.learning_rate:g}"
            if teacher.training
            else "used as it is"
        )
    )
    kinds = {MULTI_LABEL: "labels", REGRESSION: "targets"}
    classes = kinds.get(made.made_task.problem_type, "classes")
    return [
        ("teacher", f"{teacher.name}: {teacher.words}; {how}"),
        *([("base", f"{made.base.name}: {made.base.words}; the student starts from it")] if made.base else []),
        *_embedding(teacher.architecture.get("sentence")),
        ("data", f"{data.name}: {counts}" + (f"; {len(data.classes)} {classes}" if data.classes else "")),
        ("", columns(data.columns)),
        *(("", note) for note in data.notes),
        *_student(made, inputs),
    ]


def _embedding(sentence: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """How one embedding is made of the tokens' outputs, and what else is to be known of it."""
    if sentence is None:
        return []
    words = {"normalize": "scaled to length 1", "layer_norm": "LayerNorm"}
    steps = [f"{' and '.join(sentence['pooling'])} of the tokens' outputs"]
    for layer in sentence["layers"]:
        dense = layer["kind"] == "dense"
        steps.append(
            f"Dense {layer['inputs']} to {layer['outputs']} ({layer['activation']})" if dense else words[layer["kind"]]
        )
    return [("embedding", ", ".join(steps)), *(("", note) for note in sentence.get("notes", ()))]


def _target(made: Plan) -> list[tuple[str, str]]:
    """The target's budgets, and what is done for it alone."""
    from edgekd.emulation import evaluate

    target, task = made.target, made.made_task
    own = f"{task.metric.name} on validation rows"
    if not made.data.selection_labelled:
        own = f"{task.fidelity.of_teacher} {made.compared_with}"
    judged = own if task.labelled else f"{task.fidelity.name} to {made.compared_with}'s"
    budgets = f"{target.memory_mib:g} MiB memory, {target.artifact_mib:g} MiB file, {target.latency_ms:g} ms"
    rows = [
        ("target", f"{target.name}: {target.title}, {budgets} at p{target.latency_percentile}"),
        ("compress", f"{', '.join(target.recipes)}; picked by {judged}; {target.max_drop_points:g} points may be lost"),
    ]
    if not target.runs_here:
        rows.append(("on target", evaluate.plans(made)))
    if unused := evaluate.unused(made):
        rows.append(("on target", unused))
    if made.force:
        rows.append(("force", f"{made.force} ships, whatever is measured of it"))
    if made.plugins:
        rows.append(("plug-ins", ", ".join(f"{name} of {package}" for name, package in made.plugins.items())))
    return rows


def _ships(made: SharedPlan) -> tuple[str, str]:
    keeps = f"as version {made.version}, if it keeps {made.min_retained:.0%} of the teacher"
    return "ship", f"{keeps}; golden inputs: {made.golden}"


def columns(read: Mapping[str, Any]) -> str:
    """Which columns are read, and which are left out."""
    label = f"{read['label']!r} as label" if read["label"] else "no labels"
    names = listed([*map(repr, read["left_out"][:_MOST_COLUMNS])])
    more = read["n_left_out"] - _MOST_COLUMNS
    left_out = f"; left out: {names}" + (f" and {more} more" if more > 0 else "") if names else ""
    return f"columns: {read['input']!r} as input, {label}{left_out}"


def _student(made: SharedPlan, inputs: str) -> list[tuple[str, str]]:
    """How the student comes to be; of the teacher itself, that it is one."""
    student, training = made.student, made.student.training
    if training is None:
        return [
            ("student", f"none: the teacher itself, compressed as it is, up to {inputs}; reported: {made.metric.name}")
        ]
    objective = " + ".join(map(str, student.losses))
    copies = f" on {', '.join(map(str, student.augmentations))} more inputs" if student.augmentations else ""
    tried = f"the {student.tries} most capable shapes that fit, briefly; the best goes on"
    return [
        ("student", f"{student.family}, {_speed(made)}, up to {inputs}"),
        *([("", new)] if (new := _new_student(made)) else []),
        *([("try", tried)] if student.tries > 1 else []),
        ("distill", f"{objective}{copies}; up to {training.epochs} epochs of {training.batch_size} at "
                    f"{training.learning_rate:g}"),
        *([("evidence", f"with and without the teacher, {counted(made.evidence, 'seed')} each")]
          if made.evidence else []),
    ]  # fmt: skip


def _speed(made: SharedPlan) -> str:
    """What is asked of a student's speed."""
    if not made.has_yardstick:
        return "as fast as the budgets ask for (the teacher only answers; speed is told against its own fp32)"
    return f"at least {made.student.min_speedup:g}x the teacher's speed"


def _new_student(made: SharedPlan) -> str:
    """Return that the student begins at random, where none is cut from such a teacher; else nothing."""
    told = made.start.architecture
    if "student" not in told:
        return ""
    return (
        f"no student is cut from a {told['model_type']}: a new {told['student']} starts with random weights, on the "
        "teacher's tokenizer, and learns from what the teacher says; more unlabelled rows help it most"
    )


def fit_table(shape: Fit, made: Plan) -> str:
    """Budget, teacher, candidates in order of capability, the budgets that each is over, the choice, its memory."""
    target, teacher, first = made.target, shape.teacher, "starts from" if made.base else "teacher"
    latency = "ms here" if target.runs_here else f"ms on {target.name} (predicted)"
    header = ["", "memory MiB", "file MiB", latency, "speedup", "", "over"]
    rows = [
        ["budget", f"{target.memory_mib:g}", f"{target.artifact_mib:g}", f"{target.latency_ms:g}",
         f"{made.student.min_speedup:g}x", "", ""],
        [f"{first}, float32", f"{teacher['memory_mib']:.1f}", f"{teacher['artifact_mib']:.1f}",
         f"{teacher['latency_ms']:.2f}" if target.runs_here else "", "1x", teacher["kind"], ""],
    ]  # fmt: skip
    for cost in shape.candidates:
        on_target = "unknown" if cost.target_latency_ms is None else f"{cost.target_latency_ms:.2f}"
        over = "; ".join(violation.text for violation in cost.violations)
        mark = "<- chosen" if cost.shape == shape.chosen.shape else over or "fits, less capable"
        rows.append([f"{cost.words}, {cost.recipe}", f"{cost.memory_mib:.1f}", f"{cost.artifact_mib:.1f}", on_target,
                     f"{cost.speedup:.2f}x", cost.kind, mark])  # fmt: skip
    parts = " + ".join(f"{mib:.1f} {part}" for part, mib in shape.chosen.memory_parts.items())
    errors = ", ".join(
        f"{name} {shape.errors[shape.chosen.recipe][key]:.0%}"
        for name, key in (("memory", "memory_mib"), ("file", "artifact_mib"), ("latency", "latency_ratio"))
    )
    how = "measured here" if shape.chosen.kind == "measured" else "predicted; `build`, or `plan --measure`, measures it"
    tail = [
        *layers(made, shape.chosen.shape),
        f"memory of the choice: {shape.chosen.memory_mib:.1f} MiB = {parts}",
        f"all memory is above the import baseline: about {IMPORT_BASELINE_MIB} MiB more of the process",
        f"{shape.fitting} of {shape.considered} shapes fit; the choice is {how} on {shape.host}",
        f"predictions: 9 of 10 shapes within {errors} (cross-validated on {shape.anchors})",
        *([f"latency on {target.name}: {shape.calibrated}"] if shape.calibrated else []),
        *(f"warning: {warning}" for warning in shape.warnings),
    ]
    return "\n".join(["", table(header, rows), "", *map(one_line, tail)])


def layers(made: Plan, shape: dict[str, Any]) -> list[str]:
    """Which student layers are compared to which of the teacher, where a loss looks at them: a line or none."""
    matched = made.matched(shape)
    pairs = [
        f"{own + 1} to {other + 1}" for own, other in zip(matched.student.layers, matched.teacher.layers, strict=True)
    ]
    if matched.student.attention is not None and matched.teacher.attention is not None:
        pairs.append(f"attention of {matched.student.attention + 1} to {matched.teacher.attention + 1}")
    return [f"layers compared, student to teacher: {', '.join(pairs)}"] if pairs else []


def targets(profiles: list[Profile]) -> str:
    """One line a profile."""
    rows = [
        [p.name, p.title, p.arch, f"{p.memory_mib:g}", f"{p.artifact_mib:g}", f"{p.latency_ms:g}", ", ".join(p.recipes)]
        for p in profiles
    ]
    return table(["name", "device", "arch", "memory MiB", "file MiB", "ms", "recipes"], rows)


def profile(shown: Profile) -> str:
    """Key and value, a line each."""
    return "\n".join(
        f"{key:<22} {one_line(', '.join(map(str, value)) if isinstance(value, list) else str(value))}"
        for key, value in shown.as_dict().items()
        if value is not None
    )


def doctor(found: list[Check]) -> str:
    """One line a check, and under it the command that mends it."""
    rows = [[check.name, check.state, check.what] for check in found]
    lines = table(["", "", "what was found"], rows).splitlines()
    told = [line + (f"\n{' ' * 4}mend it: {check.fix}" if check.fix else "") for line, check in
            zip(lines[1:], found, strict=True)]  # fmt: skip
    return "\n".join(told)


def targets_built(built: BuiltTargets) -> str:
    """A line for each target: what ships, or why nothing does; then the page that compares them."""
    from edgekd.core.metrics import spell, unit_of

    rows = []
    for outcome in built.outcomes:
        if outcome.built is None:
            rows.append([outcome.target, "not shipped", "", "", "", "", f"exit {outcome.exit_code}"])
            continue
        summary = outcome.built.summary
        shipped = summary["shipped"]
        figures = [f"{shipped[key]:.2f}" for key in ("peak_rss_mib", "artifact_mib")]
        rows.append([outcome.target, shipped["recipe"], spell(shipped["metric_value"], unit_of(summary)),
                     f"{summary['speedup']:.2f}x", *figures, str(outcome.built.folder)])  # fmt: skip
    header = ["target", "recipe", "metric", "speedup", "peak MiB", "file MiB", "bundle"]
    tail = ["", "metric, speedup and peak memory are this host's; the page has the target's", f"page    {built.page}"]
    return "\n".join([table(header, rows), *tail])


def summary(said: dict[str, Any], folder: Path, *, fresh: bool, on_target: str = "") -> str:
    """What a build ends with; `on_target` says what was asked on the target's own kernels."""
    from edgekd.core.metrics import spell, unit_of

    lines = [said["verdict"] if fresh else f"already built, every file whole: {said['verdict']}", ""]
    rows = []
    for who in ("teacher", "compared_with", "shipped", "baseline"):
        if values := said.get(who):
            numbers = [values[key] for key in ("latency_p50_ms", "peak_rss_mib", "artifact_mib")]
            words = who.replace("compared_with", "fp32"), values["recipe"].split(" on ")[0]
            rows.append([*words, spell(values["metric_value"], unit_of(said)),
                         *("-" if number is None else f"{number:.2f}" for number in numbers)])  # fmt: skip
    lines.append(table(["", "recipe", said["metric"], "p50 ms", "peak MiB", "file MiB"], rows))
    base = said.get("import_baseline_mib")
    beside = f"{base:.0f}" if base else f"about {IMPORT_BASELINE_MIB}"
    lines += ["", f"peak MiB is above what imports take, {beside} MiB"]
    sure = said["threshold"]
    if sure and sure["accuracy"] is not None:
        rightly = "as the teacher does" if said["metric"] == "agreement" else "rightly"
        lines += ["", f"sure    at {sure['threshold']:.3f} or more it answers {sure['coverage']:.1%} of the samples, "
                      f"{sure['accuracy']:.1%} of them {rightly}"]  # fmt: skip
    if ranks := said.get("ranking"):
        told = ", ".join(f"{one['name']} {one['value']:.3f}" for one in ranks)
        lines += ["", f"ranking {told}: of {ranks[0]['n']} held-out texts, each among the others, as the teacher ranks"]
    distilled = said.get("distilled", True)  # bundles of before know nothing else
    if not said.get("compared_with"):  # else all labels are the teacher's: there is nothing to compare it with
        lines.append(f"proof   {evidence_says(said['evidence'], distilled=distilled)}")
    lines += [f"classes {one_line(says)}" for says in recall_says(said)]
    if beaten := baseline_says(said, lambda value: str(spell(value, unit_of(said)))):
        lines.append(f"mind    {beaten}")
    lines += [f"target  {on_target}"] if on_target else []
    lines += ["", f"measured on {said['measured_on']}"]
    lines += [one_line(columns(said["columns"]))] if said.get("columns") else []
    lines += [
        f"bundle  {folder}",
        f"report  {folder / 'report.html'}",
        f"check   python {quote(str(folder / 'verify.py'))}",
    ]
    return "\n".join(lines)
