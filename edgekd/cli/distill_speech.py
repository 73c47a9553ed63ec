"""What `edgekd distill` does for a Whisper: the request read, and its figures in lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UsageError

if TYPE_CHECKING:
    from edgekd.core.protocols import Progress
    from edgekd.store.store import Store

_CACHE_MIB = 8192


def distilled(task: str, values: dict[str, Any], out: Path, store: Store, progress: Progress) -> dict[str, Any]:
    """Write the student into `out`; return what is told of it. Raises EdgeKDError."""
    from edgekd.core.cpus import usable_cpus
    from edgekd.core.registry import plugin
    from edgekd.data import demos
    from edgekd.plan.inputs import read_teacher, settle
    from edgekd.students.whisper import Whisper
    from edgekd.training import objective
    from edgekd.training.speech.distil import Request, distil

    terms = objective.losses(values["losses"] or plugin("tasks", task).losses, None)
    if more := objective.beyond_writing(terms):
        raise UsageError(
            f"--loss {more} looks at more than the teacher's tokens, which is not kept of recordings",
            fix="use: --loss response=0.5,temperature=1 --loss hard_labels=0.5",
        )
    kind, info = read_teacher(values["teacher"] or demos.demo_teacher(task), task, compressed=True)
    asked = Request(
        task=task,
        kind=kind,
        info=settle(kind, info, task, compressed=True),
        data=values["data"] or demos.demo_data(task, store),
        label_column=values["label_column"],
        unlabelled=values["unlabelled"],
        encoder_layers=values["encoder_layers"],
        layers=values["layers"],
        window=values["window"],
        language=values["language"],
        losses=terms,
        epochs=values["epochs"],
        learning_rate=values["learning_rate"] or Whisper.training(1)["learning_rate"],
        cache_mib=values["cache_mib"] or _CACHE_MIB,
        seed=values["seed"],
        threads=values["threads"] or usable_cpus(),
    )
    return distil(asked, out, store, progress)


def summary(told: dict[str, Any]) -> str:
    """Return the figures in lines."""
    kept, whole = told["kept"], told["kept"]["of"]
    sizes = {name: sum(parts.values()) for name, parts in told["parameters"].items()}
    work = {name: sum(parts.values()) for name, parts in told["multiply_adds"].items()}
    parts = ", ".join(f"{value / 1e9:.2f} {name}" for name, value in told["multiply_adds"]["student"].items())
    trusted = told["lessons"]["train"]
    others = ", ".join(f"{count} {reason}" for reason, count in trusted.items() if reason not in ("kept", "followed"))
    followed = told["lessons"]["train"].get("followed", 0)
    lines = [
        *told["notes"],
        f"{kept['encoder_layers']} of {whole['encoder_layers']} encoder layers, {kept['decoder_layers']} of "
        f"{whole['decoder_layers']} decoder layers, {kept['window_s']} of {whole['window_s']} s heard at once: "
        f"{sizes['student']:,} of {sizes['teacher']:,} parameters",
        f"20 tokens take {work['student'] / 1e9:.2f} of {work['teacher'] / 1e9:.2f} billion multiply-adds ({parts}); "
        f"cache {told['cache_mib']['student']:.1f} of {told['cache_mib']['teacher']:.1f} MiB",
        f"learned from {told['training']['lessons']} recordings, {followed} by their transcripts, the others by what "
        "the teacher wrote" + (f"; left out: {others}" if others else ""),
    ]
    lines += [f"{name:<14} {_arm(arm)}" for name, arm in told["arms"].items()]
    few = ": too few for a claim, a smoke test" if told["smoke_test"] else ""
    lines.append(
        f"of {told['recordings']} held-out recordings{few}; the teacher hears through the same window. A student "
        "learns the speech it is taught: measure on your own before you use it elsewhere"
    )
    return "\n".join(lines)


def _arm(arm: dict[str, Any]) -> str:
    """Return one model's figures."""
    words = []
    if rate := arm.get("word_error_rate"):
        words.append(f"{_percent(rate)}% word errors, {_percent(arm['character_error_rate'])}% character errors")
    if agreement := arm.get("word_agreement"):
        words.append(f"word agreement with the teacher {_percent(agreement)}%")
    if lost := arm.get("points_lost"):
        low, high = lost["interval"]
        words.append(f"{lost['value']:+.1f} [{low:+.1f}, {high:+.1f}] points of word errors to the teacher")
    return "; ".join([*words, f"{arm['loops']} loops, {arm['empty']} empty"])


def _percent(told: dict[str, Any]) -> str:
    low, high = told["interval"]
    return f"{100 * told['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
